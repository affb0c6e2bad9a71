//! Source texts, positions in them, and diagnostics with a line and a caret. Everything that reads a file for a person
//! reports problems as a [`Diagnostic`]; how it is coloured and where it goes is left to the binary.

use std::fmt::Write as _;

/// Number of a text in a [`SourceMap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(u32);

/// A stretch of one line of one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// Which source.
    pub source: SourceId,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 0.
    pub column: u32,
    /// Length in characters, at least 1; clipped to the line when drawn.
    pub len: u32,
}

/// The texts that take part in one study: the file, what it extends, its site, the command line.
#[derive(Debug, Default, Clone)]
pub struct SourceMap {
    sources: Vec<(String, String)>,
}

impl SourceMap {
    /// Adds a text under the name that people know it by.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<String>) -> SourceId {
        self.sources.push((name.into(), text.into()));
        SourceId(u32::try_from(self.sources.len() - 1).unwrap_or(u32::MAX))
    }

    /// The name of a source.
    pub fn name(&self, id: SourceId) -> &str {
        self.sources.get(id.0 as usize).map_or("?", |(name, _)| name)
    }

    /// The text of a source.
    pub fn text(&self, id: SourceId) -> &str {
        self.sources.get(id.0 as usize).map_or("", |(_, text)| text)
    }
}

/// One problem, told so that a person can fix it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong.
    pub message: String,
    /// Where.
    pub span: Option<Span>,
    /// What to do next.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// A problem without a place.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), span: None, hint: None }
    }

    /// A problem at a place.
    pub fn at(span: Span, message: impl Into<String>) -> Self {
        Self { message: message.into(), span: Some(span), hint: None }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Draws the message, the line and a caret under the place:
    ///
    /// ```text
    /// error: unknown key `max_num_seq`
    ///   --> study.yaml:12:3
    ///    |
    /// 12 |   max_num_seq: 64
    ///    |   ^^^^^^^^^^^
    ///    = help: did you mean `max_num_seqs`?
    /// ```
    pub fn render(&self, sources: &SourceMap) -> String {
        let mut out = format!("error: {}\n", self.message);
        let mut margin = String::from(" ");
        if let Some(span) = self.span {
            let number = span.line.to_string();
            margin = " ".repeat(number.len());
            let _ = writeln!(out, "{margin}--> {}:{}:{}", sources.name(span.source), span.line, span.column + 1);
            if let Some(line) = sources.text(span.source).lines().nth(span.line.saturating_sub(1) as usize) {
                let shown: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
                let width = shown.chars().count();
                let column = (span.column as usize).min(width);
                let carets = (span.len as usize).clamp(1, (width - column).max(1));
                let _ = writeln!(out, "{margin} |");
                let _ = writeln!(out, "{number} | {shown}");
                let _ = writeln!(out, "{margin} | {}{}", " ".repeat(column), "^".repeat(carets));
            }
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(out, "{margin} = help: {hint}");
        }
        out
    }
}

/// The candidate nearest to a mistyped word, if one is near enough to be meant.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = word.to_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &candidate.to_lowercase().replace('-', "_")), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count().min(wanted.chars().count()) / 4)
        .min_by_key(|(distance, candidate)| (*distance, candidate.len()))
        .map(|(_, candidate)| candidate)
}
