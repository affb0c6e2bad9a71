//! Mooncake's traces: one JSON object per line, time in milliseconds, prompts described by the ids of their blocks.

use serde::Deserialize;
use serde_json::Number;

use super::{LineError, Raw, tokens};

#[derive(Deserialize)]
struct Line {
    timestamp: Option<Number>,
    input_length: Option<u64>,
    output_length: Option<u64>,
    #[serde(default)]
    hash_ids: Vec<u64>,
}

pub(super) fn parse(text: &str, block_tokens: u32) -> Result<(i64, Raw), LineError> {
    let line: Line = serde_json::from_str(text).map_err(|error| {
        format!(
            "is no request of a Mooncake trace: {}; expected {{\"timestamp\": 1000, \"input_length\": 6755, \"output_length\": 500, \"hash_ids\": [0, 1]}}",
            first_words(&error.to_string())
        )
    })?;
    let missing = |key: &str| format!("has no `{key}`; expected timestamp, input_length, output_length and hash_ids");
    let timestamp = line.timestamp.ok_or_else(|| missing("timestamp"))?;
    let at_ns = match timestamp.as_i64() {
        Some(ms) => ms.checked_mul(1_000_000),
        None => timestamp.as_f64().map(|ms| ms * 1e6).filter(|ns| ns.abs() < 9e18).map(|ns| ns as i64),
    };
    let at_ns = at_ns
        .filter(|ns| *ns >= 0)
        .ok_or_else(|| format!("`timestamp` is {timestamp}; expected milliseconds from 0"))?;
    let count = |key: &str, value: Option<u64>| {
        let value = value.ok_or_else(|| missing(key))?;
        tokens(value).ok_or_else(|| format!("`{key}` is {value}; expected at most 10,000,000 tokens"))
    };
    let input_tokens = count("input_length", line.input_length)?;
    let output_tokens = count("output_length", line.output_length)?;
    let blocks = input_tokens.div_ceil(block_tokens.max(1)) as usize;
    if line.hash_ids.len() > blocks {
        return Err(format!(
            "`hash_ids` names {} blocks of {block_tokens} tokens, but `input_length` {input_tokens} has {blocks}; set `block_tokens` if the trace has others",
            line.hash_ids.len()
        ));
    }
    Ok((at_ns, Raw { input_tokens, output_tokens, hash_ids: line.hash_ids }))
}

/// serde_json's message without its "at line 1", which is not the file's line.
fn first_words(message: &str) -> String {
    match message.rsplit_once(" at line ") {
        Some((words, place)) => match place.rsplit_once("column ") {
            Some((_, column)) => format!("{words} (column {column})"),
            None => words.to_owned(),
        },
        None => message.to_owned(),
    }
}
