//! Own parser of the Prometheus text format: colons in names, escapes in label values, NaN and infinities, timestamps,
//! OpenMetrics exemplars. Tolerant: a line that does not parse is counted and skipped, because one odd line must not
//! cost the other metrics. `scrape` fetches; what the metrics mean is decided elsewhere.

use servelab_core::record::PromSample;

mod scrape;
#[cfg(test)]
mod scrape_tests;
#[cfg(test)]
mod tests;

pub use scrape::{ScrapeOptions, ScrapeOutcome, ScrapeTarget, Scraper, TargetStats};

/// One sample line.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Metric name, suffix (`_bucket`, `_sum`, …) included.
    pub name: String,
    /// Labels in the order of the line, unescaped.
    pub labels: Vec<(String, String)>,
    /// Value.
    pub value: f64,
    /// Timestamp as written, if any (milliseconds in the Prometheus format, seconds in OpenMetrics).
    pub timestamp: Option<f64>,
}

/// A parsed exposition.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exposition {
    /// Samples in the order of their lines.
    pub samples: Vec<Sample>,
    /// Lines that are neither sample, comment nor blank.
    pub bad_lines: u64,
}

/// Parses a whole exposition. Never fails; see [`Exposition::bad_lines`].
pub fn parse(text: &str) -> Exposition {
    let mut exposition = Exposition::default();
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match parse_line(line) {
            Some(sample) => exposition.samples.push(sample),
            None => exposition.bad_lines += 1,
        }
    }
    exposition
}

impl Sample {
    /// As a record: the `engine` label apart, the others sorted by name as `k="v",…`.
    pub fn into_record(self, t_ns: i64, node: &str) -> PromSample {
        let Self { name, mut labels, value, .. } = self;
        let engine = match labels.iter().position(|(key, _)| key == "engine") {
            Some(at) => labels.remove(at).1,
            None => String::new(),
        };
        labels.sort();
        let mut text = String::new();
        for (key, value) in &labels {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(key);
            text.push_str("=\"");
            escape(value, &mut text);
            text.push('"');
        }
        PromSample { t_ns, node: node.to_owned(), engine, metric: name, labels: text, value }
    }
}

fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            _ => out.push(c),
        }
    }
}

fn parse_line(line: &str) -> Option<Sample> {
    let (name, rest) = split_name(line);
    let rest = rest.trim_start();
    let mut name = name.to_owned();
    let mut labels = Vec::new();
    let rest = match rest.strip_prefix('{') {
        Some(inner) => parse_labels(inner, &mut name, &mut labels)?,
        None => rest,
    };
    if name.is_empty() {
        return None;
    }
    // What follows a `#` is an OpenMetrics exemplar.
    let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
    let mut words = rest.split_ascii_whitespace();
    let value = parse_value(words.next()?)?;
    let timestamp = match words.next() {
        Some(word) => Some(parse_value(word)?),
        None => None,
    };
    words.next().is_none().then_some(Sample { name, labels, value, timestamp })
}

/// Splits off the longest prefix that may be a metric or label name.
fn split_name(text: &str) -> (&str, &str) {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
    match text.chars().next() {
        Some(first) if !first.is_ascii_digit() => text.split_at(end),
        _ => ("", text),
    }
}

fn parse_value(word: &str) -> Option<f64> {
    word.parse().ok()
}

/// Parses up to the closing brace and returns what follows. A quoted string without `=` is a metric name, as Prometheus
/// 3 writes names outside the classic alphabet.
fn parse_labels<'a>(text: &'a str, name: &mut String, labels: &mut Vec<(String, String)>) -> Option<&'a str> {
    let mut rest = text.trim_start();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Some(after);
        }
        let (key, after_key) = match rest.strip_prefix('"') {
            Some(quoted) => parse_quoted(quoted)?,
            None => {
                let (key, after) = split_name(rest);
                (key.to_owned(), after)
            }
        };
        let after_key = after_key.trim_start();
        rest = match after_key.strip_prefix('=') {
            Some(after) => {
                let (value, after) = parse_quoted(after.trim_start().strip_prefix('"')?)?;
                if key.is_empty() {
                    return None;
                }
                labels.push((key, value));
                after.trim_start()
            }
            None if name.is_empty() && rest.starts_with('"') => {
                *name = key;
                after_key
            }
            None => return None,
        };
        rest = match rest.strip_prefix(',') {
            Some(after) => after.trim_start(),
            None if rest.starts_with('}') => rest,
            None => return None,
        };
    }
}

/// Unescapes up to the closing quote and returns what follows.
fn parse_quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                c @ ('\\' | '"') => value.push(c),
                // Unknown escapes stand for themselves, as in Prometheus' own parser.
                other => value.extend(['\\', other]),
            },
            c => value.push(c),
        }
    }
    None
}
