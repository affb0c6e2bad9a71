//! Azure's and BurstGPT's traces: CSV with a header. Columns are found by their name, so further ones and any order will
//! do.

use servelab_core::source::did_you_mean;
use servelab_core::workload::TraceFormat;

use super::{LineError, Raw, time, tokens};

const AZURE: [&str; 3] = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"];
const BURSTGPT: [&str; 3] = ["Timestamp", "Request tokens", "Response tokens"];

/// Where the columns are.
#[derive(Debug)]
pub(super) struct Columns {
    format: TraceFormat,
    names: [&'static str; 3],
    at: [usize; 3],
    count: usize,
}

/// Recognises a format by its header.
pub(super) fn detect(header: &str) -> Result<TraceFormat, LineError> {
    let found = fields(header);
    let has = |name: &str| position(&found, name).is_some();
    if has(AZURE[1]) || has(AZURE[2]) {
        Ok(TraceFormat::Azure)
    } else if has(BURSTGPT[1]) || has(BURSTGPT[2]) {
        Ok(TraceFormat::Burstgpt)
    } else {
        Err(format!(
            "has the columns [{}]; expected {} (Azure), {} (BurstGPT), or JSON lines (Mooncake)",
            preview(&found),
            AZURE.join(","),
            BURSTGPT.join(",")
        ))
    }
}

impl Columns {
    pub(super) fn from_header(header: &str, format: TraceFormat) -> Result<Self, LineError> {
        let names = if format == TraceFormat::Azure { AZURE } else { BURSTGPT };
        let found = fields(header);
        let mut at = [0; 3];
        for (slot, name) in at.iter_mut().zip(names) {
            *slot = position(&found, name).ok_or_else(|| {
                let near = did_you_mean(name, found.iter().map(String::as_str))
                    .map(|near| format!("; is it `{near}`?"))
                    .unwrap_or_default();
                format!("has no column `{name}`, only [{}]{near}", preview(&found))
            })?;
        }
        Ok(Self { format, names, at, count: found.len() })
    }

    pub(super) fn format(&self) -> TraceFormat {
        self.format
    }

    pub(super) fn parse(&self, line: &str) -> Result<(i64, Raw), LineError> {
        let found = fields(line);
        if found.len() != self.count {
            return Err(format!("has {} columns, the header has {}", found.len(), self.count));
        }
        let [when, input, output] = self.at.map(|at| found.get(at).map_or("", String::as_str));
        let [when_name, input_name, output_name] = self.names;
        let at_ns = match self.format {
            TraceFormat::Azure => time::utc_ns(when).ok_or_else(|| {
                format!(
                    "column `{when_name}` holds `{}`; expected a time such as `2023-11-16 18:15:46.6805900`",
                    cut(when)
                )
            })?,
            _ => time::seconds_ns(when)
                .ok_or_else(|| format!("column `{when_name}` holds `{}`; expected seconds from 0", cut(when)))?,
        };
        let count = |name: &str, text: &str| {
            // Some tools write whole numbers as 374.0.
            let digits =
                text.split_once('.').filter(|(_, rest)| rest.bytes().all(|b| b == b'0')).map_or(text, |(n, _)| n);
            let value = digits.parse::<u64>().ok().and_then(tokens);
            value.ok_or_else(|| {
                format!("column `{name}` holds `{}`; expected a whole number of tokens, at most 10,000,000", cut(text))
            })
        };
        let raw = Raw {
            input_tokens: count(input_name, input)?,
            output_tokens: count(output_name, output)?,
            hash_ids: Vec::new(),
        };
        Ok((at_ns, raw))
    }
}

fn position(found: &[String], name: &str) -> Option<usize> {
    found.iter().position(|column| column.eq_ignore_ascii_case(name))
}

/// Fields of one line, trimmed; a field in double quotes may hold commas and doubled quotes.
fn fields(line: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut field = String::new();
    let mut in_quotes = false;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if in_quotes && letters.peek() == Some(&'"') => {
                letters.next();
                field.push('"');
            }
            '"' => in_quotes = !in_quotes,
            ',' if !in_quotes => out.push(std::mem::take(&mut field).trim().to_owned()),
            other => field.push(other),
        }
    }
    out.push(field.trim().to_owned());
    out
}

fn preview(found: &[String]) -> String {
    let names: Vec<&str> = found.iter().take(8).map(|name| cut(name)).collect();
    names.join(", ")
}

/// At most 40 characters, for messages.
fn cut(text: &str) -> &str {
    text.char_indices().nth(40).map_or(text, |(at, _)| text.get(..at).unwrap_or(text))
}
