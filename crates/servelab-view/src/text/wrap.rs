//! Text on a grid of characters: width, wrapping, and the removal of what a terminal or a Markdown reader would take for
//! a command. Texts come from logs and studies of other people.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Columns that the text takes on a terminal.
pub fn width(text: &str) -> usize {
    text.width()
}

/// One line without control characters or escape sequences.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                // A control sequence ends with a letter or `~`; any other escape is one character long.
                if chars.next_if_eq(&'[').is_some() {
                    while chars.next().is_some_and(|c| !c.is_ascii_alphabetic() && c != '~') {}
                } else {
                    chars.next();
                }
            }
            c if c.is_control() => {
                if !out.ends_with(' ') && !out.is_empty() {
                    out.push(' ');
                }
            }
            c => out.push(c),
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// Lines of at most `limit` columns, broken at spaces, else behind `_ , / = . -`, else anywhere. Never empty.
pub fn wrap(text: &str, limit: usize) -> Vec<String> {
    let limit = limit.max(1);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let gap = usize::from(!line.is_empty());
        if width(&line) + gap + width(word) <= limit {
            line.extend(std::iter::repeat_n(' ', gap));
            line.push_str(word);
            continue;
        }
        if !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        let mut parts = break_word(word, limit);
        line = parts.pop().unwrap_or_default();
        lines.append(&mut parts);
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

fn break_word(word: &str, limit: usize) -> Vec<String> {
    let mut parts = Vec::new();
    let mut part = String::new();
    let mut columns = 0;
    // Length of `part` up to and including the last place where breaking reads well.
    let mut seam = 0;
    for c in word.chars() {
        let wide = c.width().unwrap_or(0);
        if columns + wide > limit && !part.is_empty() {
            let rest = if seam > 0 { part.split_off(seam) } else { String::new() };
            parts.push(std::mem::replace(&mut part, rest));
            columns = width(&part);
            seam = 0;
        }
        part.push(c);
        columns += wide;
        if matches!(c, '_' | ',' | '/' | '=' | '.' | '-' | ';') {
            seam = part.len();
        }
    }
    parts.push(part);
    parts
}

/// The longest piece of a header that stays in one line when it is broken where [`wrap`] breaks well.
pub fn longest_piece(header: &str) -> usize {
    header.split_inclusive([' ', '_', '/', '.', '-']).map(|piece| width(piece.trim_end())).max().unwrap_or(0)
}

/// Text for Markdown: what is not meant as markup loses its meaning; balanced code spans stay.
pub fn escape_markdown(text: &str) -> String {
    let text = clean(text);
    let keeps_code = text.matches('`').count().is_multiple_of(2);
    let mut out = String::with_capacity(text.len());
    let mut in_code = false;
    let mut previous = ' ';
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '`' if keeps_code => {
                in_code = !in_code;
                out.push(c);
            }
            // Even inside code spans a bar ends a table cell unless it is escaped.
            '|' => out.push_str("\\|"),
            _ if in_code => out.push(c),
            '`' | '*' | '\\' => out.extend(['\\', c]),
            '<' => out.push_str("&lt;"),
            '(' if previous == ']' => out.push_str("\\("),
            '_' if !(previous.is_alphanumeric() && chars.peek().is_some_and(|next| next.is_alphanumeric())) => {
                out.push_str("\\_");
            }
            c => out.push(c),
        }
        previous = c;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wrapping() {
        let check =
            |text: &str, limit, expected: &[&str]| assert_eq!(wrap(text, limit), expected, "{text:?} at {limit}");
        check("", 10, &[""]);
        check("one two three", 7, &["one two", "three"]);
        check("gpu_memory_utilization", 11, &["gpu_memory_", "utilization"]);
        check("abcdefgh", 3, &["abc", "def", "gh"]);
        check("a 日本語", 4, &["a", "日本", "語"]);
        check("x", 0, &["x"]);
    }

    #[test]
    fn cleaning() {
        assert_eq!(clean("\u{1b}[31mred\u{1b}[0m\tand\r\nnext\u{7}"), "red and next");
        assert_eq!(clean("\u{1b}"), "");
    }

    #[test]
    fn markdown() {
        let check = |text: &str, expected: &str| assert_eq!(escape_markdown(text), expected);
        check("batch_8192_seqs_128", "batch_8192_seqs_128");
        check("_em_ *b* <i> a|b", "\\_em\\_ \\*b\\* &lt;i> a\\|b");
        check("`a*b<c` x*", "`a*b<c` x\\*");
        check("[x](http://a)", "[x]\\(http://a)");
        check("odd ` tick", "odd \\` tick");
    }

    proptest! {
        #[test]
        fn wrapping_keeps_every_character(text in "\\PC{0,80}", limit in 2usize..40) {
            let lines = wrap(&text, limit);
            let squeeze = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(squeeze(&lines.concat()), squeeze(&text));
            // Zero-width joiners make sequences whose width is not the sum of its parts; allow for those.
            prop_assert!(lines.iter().all(|line| line.chars().filter_map(|c| c.width()).sum::<usize>() <= limit.max(2) + 2));
        }
    }
}
