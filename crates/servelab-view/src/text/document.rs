//! A document as a list of blocks, so that one piece of code decides what is said and two renderers decide how it looks:
//! plain text of a given width, and Markdown.

use std::fmt::Write as _;

use super::table::Table;
use super::wrap::{clean, escape_markdown, width, wrap};
use crate::plot::escape;

/// One block of a document.
#[derive(Debug, Clone)]
enum Block {
    Heading(u8, String),
    Paragraph(String),
    Bullets(Vec<String>),
    Facts(Vec<(String, String)>),
    Table(Table),
    Code(String, String),
}

/// Blocks in order.
#[derive(Debug, Clone, Default)]
pub struct Document {
    blocks: Vec<Block>,
}

impl Document {
    /// A heading; 1 is the title.
    pub fn heading(&mut self, level: u8, text: impl Into<String>) {
        self.blocks.push(Block::Heading(level, text.into()));
    }

    /// A paragraph; nothing when empty.
    pub fn paragraph(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !text.is_empty() {
            self.blocks.push(Block::Paragraph(text));
        }
    }

    /// A list; nothing when empty.
    pub fn bullets<T: Into<String>>(&mut self, items: impl IntoIterator<Item = T>) {
        let items: Vec<String> = items.into_iter().map(Into::into).collect();
        if !items.is_empty() {
            self.blocks.push(Block::Bullets(items));
        }
    }

    /// Names with values, one per line.
    pub fn facts<K: Into<String>, V: Into<String>>(&mut self, facts: impl IntoIterator<Item = (K, V)>) {
        let facts: Vec<_> = facts.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        if !facts.is_empty() {
            self.blocks.push(Block::Facts(facts));
        }
    }

    /// A table; nothing when it has no rows.
    pub fn table(&mut self, table: Table) {
        if !table.is_empty() {
            self.blocks.push(Block::Table(table));
        }
    }

    /// Commands or file contents, verbatim.
    pub fn code(&mut self, language: &str, text: impl Into<String>) {
        self.blocks.push(Block::Code(language.to_owned(), text.into()));
    }

    /// True without a block.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Plain text, wrapped at `limit` columns where one is given.
    pub fn to_text(&self, limit: Option<usize>) -> String {
        let mut out = String::new();
        for block in &self.blocks {
            if !out.is_empty() {
                out.push('\n');
            }
            block.text(&mut out, limit);
        }
        out
    }

    /// HTML for a page that has its own title: a heading of level n becomes `<hN>` with an id made from `prefix` and its
    /// words.
    pub fn to_html(&self, prefix: &str) -> String {
        let mut out = String::new();
        self.blocks.iter().for_each(|block| block.html(&mut out, prefix));
        out
    }

    /// Markdown.
    pub fn to_markdown(&self) -> String {
        let mut out = String::new();
        for block in &self.blocks {
            if !out.is_empty() {
                out.push('\n');
            }
            block.markdown(&mut out);
        }
        out
    }
}

/// Verbatim text in HTML: its lines stay lines.
fn escape_lines(text: &str) -> String {
    text.lines().map(escape).collect::<Vec<_>>().join("\n")
}

impl Block {
    fn text(&self, out: &mut String, limit: Option<usize>) {
        match self {
            Self::Heading(level, text) => {
                let text = clean(text);
                let rule = if *level == 1 { "═" } else { "─" };
                let _ = writeln!(out, "{text}");
                if *level <= 2 {
                    let _ = writeln!(out, "{}", rule.repeat(width(&text)));
                }
            }
            Self::Paragraph(text) => hanging(out, "", text, limit),
            Self::Bullets(items) => items.iter().for_each(|item| hanging(out, "- ", item, limit)),
            Self::Facts(facts) => {
                let names = facts.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
                for (name, value) in facts {
                    let first = format!("{name}{}  ", " ".repeat(names.saturating_sub(width(name))));
                    hanging(out, &first, value, limit);
                }
            }
            Self::Table(table) => out.push_str(&table.to_text(limit)),
            Self::Code(_, text) => {
                for line in text.lines() {
                    let _ = writeln!(out, "{}", format!("  {}", keep_indent(line)).trim_end());
                }
            }
        }
    }

    fn html(&self, out: &mut String, prefix: &str) {
        match self {
            Self::Heading(level, text) => {
                let slug = super::number::slug(text);
                let _ = writeln!(out, "<h{level} id=\"{prefix}{slug}\">{}</h{level}>", escape(text));
            }
            Self::Paragraph(text) => {
                let _ = writeln!(out, "<p>{}</p>", escape(text));
            }
            Self::Bullets(items) => {
                let items: String = items.iter().map(|item| format!("<li>{}</li>\n", escape(item))).collect();
                let _ = writeln!(out, "<ul>\n{items}</ul>");
            }
            Self::Facts(facts) => {
                out.push_str("<dl>\n");
                for (name, value) in facts {
                    let _ = writeln!(out, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
                }
                out.push_str("</dl>\n");
            }
            Self::Table(table) => out.push_str(&table.to_html()),
            Self::Code(_, text) => {
                let _ = writeln!(out, "<pre><code>{}</code></pre>", escape_lines(text));
            }
        }
    }

    fn markdown(&self, out: &mut String) {
        match self {
            Self::Heading(level, text) => {
                let _ = writeln!(out, "{} {}", "#".repeat(usize::from(*level)), escape_markdown(text));
            }
            Self::Paragraph(text) => {
                let _ = writeln!(out, "{}", escape_markdown(text));
            }
            Self::Bullets(items) => {
                for item in items {
                    let _ = writeln!(out, "- {}", escape_markdown(item));
                }
            }
            Self::Facts(facts) => {
                for (name, value) in facts {
                    let _ = writeln!(out, "- **{}**: {}", escape_markdown(name), escape_markdown(value));
                }
            }
            Self::Table(table) => out.push_str(&table.to_markdown()),
            Self::Code(language, text) => {
                let mut fence = "```".to_owned();
                while text.contains(&fence) {
                    fence.push('`');
                }
                let lines: Vec<String> = text.lines().map(keep_indent).collect();
                let _ = writeln!(out, "{fence}{language}\n{}\n{fence}", lines.join("\n"));
            }
        }
    }
}

fn keep_indent(line: &str) -> String {
    let indent = line.len() - line.trim_start_matches(' ').len();
    format!("{}{}", " ".repeat(indent), clean(line.trim_start_matches(' ')))
}

fn hanging(out: &mut String, first: &str, text: &str, limit: Option<usize>) {
    let text = clean(text);
    let indent = width(first);
    let lines = match limit {
        Some(limit) => wrap(&text, limit.saturating_sub(indent).max(20)),
        None => vec![text],
    };
    for (number, line) in lines.iter().enumerate() {
        let lead = if number == 0 { first.to_owned() } else { " ".repeat(indent) };
        let _ = writeln!(out, "{}", format!("{lead}{line}").trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::{left, right};
    use super::*;

    fn sample() -> Document {
        let mut document = Document::default();
        document.heading(1, "Title");
        document.paragraph("A sentence that is longer than the limit of the page.");
        document.bullets(["first", "second that is long enough to be wrapped once"]);
        document.facts([("engine", "vllm"), ("id", "x")]);
        let mut table = Table::new([left("A"), right("B")]);
        table.row(["x", "1"]);
        document.table(table);
        document.table(Table::new([left("nothing")]));
        document.code("bash", "servelab run a.yaml\n  x\u{1b}[0m");
        document
    }

    #[test]
    fn text() {
        let expected = "\
Title
═════

A sentence that is longer than
the limit of the page.

- first
- second that is long enough
  to be wrapped once

engine  vllm
id      x

A  B
─  ─
x  1

  servelab run a.yaml
    x
";
        assert_eq!(sample().to_text(Some(30)), expected);
    }

    #[test]
    fn markdown() {
        let expected = "\
# Title

A sentence that is longer than the limit of the page.

- first
- second that is long enough to be wrapped once

- **engine**: vllm
- **id**: x

| A | B |
| --- | ---: |
| x | 1 |

```bash
servelab run a.yaml
  x
```
";
        assert_eq!(sample().to_markdown(), expected);
    }
}
