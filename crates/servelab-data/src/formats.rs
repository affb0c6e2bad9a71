//! Dataset files in: recognises the format, splits a file into entries with their line numbers, and turns entries into
//! prompts with counted tokens. Malformed input is an error that names the line; writing is in `create`.

use std::path::Path;

use serde_json::Value;
use servelab_core::workload::{DEFAULT_FILE_OUTPUT_TOKENS, FileFormat, FileSpec};

use crate::error::DataError;
use crate::prompt::{Prompt, PromptBody};
use crate::tokenizer::Tokenizer;

pub(crate) mod entry;
#[cfg(test)]
mod tests;

use entry::{Entry, parse_entry};

/// What a file held.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// Prompts in the order of the file.
    pub prompts: Vec<Prompt>,
    /// The format it was read as; never `Auto`.
    pub format: FileFormat,
    /// Entries that hold nothing to send, such as conversations without a user's turn.
    pub skipped: usize,
}

/// Reads a dataset file; a relative path starts at `base_dir`.
pub fn read_dataset(file: &FileSpec, base_dir: &Path, tokenizer: &Tokenizer) -> Result<Dataset, DataError> {
    let path = base_dir.join(&file.path);
    let bytes = std::fs::read(&path).map_err(|source| DataError::Read { path: path.clone(), source })?;
    let default_output = file.output_tokens.unwrap_or(DEFAULT_FILE_OUTPUT_TOKENS);
    parse_dataset(&bytes, &path, file.format, default_output, tokenizer)
}

/// Like [`read_dataset`], from the file's bytes; `path` is only named in errors. Prompts that state no output length get
/// `default_output` tokens.
pub fn parse_dataset(
    bytes: &[u8],
    path: &Path,
    format: FileFormat,
    default_output: u32,
    tokenizer: &Tokenizer,
) -> Result<Dataset, DataError> {
    let fail = |line: usize, reason: String| DataError::Entry { path: path.to_path_buf(), line, reason };
    let (entries, format) = entries(bytes, path, format)?;
    let mut prompts = Vec::with_capacity(entries.len());
    let mut skipped = 0;
    for (idx, (line, value)) in entries.iter().enumerate() {
        match parse_entry(value, format).map_err(|reason| fail(*line, reason))? {
            Some(entry) => prompts.push(count(entry, idx, default_output, tokenizer)?),
            None => skipped += 1,
        }
    }
    if prompts.is_empty() {
        let reason = format!("none of its {skipped} conversations has a user's turn");
        return Err(DataError::NoPrompts { path: path.to_path_buf(), reason });
    }
    Ok(Dataset { prompts, format, skipped })
}

/// The entries of a file with the line on which each starts, and the format; never `Auto`, never none.
pub(crate) fn entries(
    bytes: &[u8],
    path: &Path,
    format: FileFormat,
) -> Result<(Vec<(usize, Value)>, FileFormat), DataError> {
    let fail = |line: usize, reason: String| DataError::Entry { path: path.to_path_buf(), line, reason };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or(bytes);
        fail(line_of(before), "is not UTF-8 text".to_owned())
    })?;
    let entries = split(text).map_err(|(line, reason)| fail(line, reason))?;
    let Some((line, first)) = entries.first() else {
        return Err(DataError::NoPrompts { path: path.to_path_buf(), reason: "it is empty".to_owned() });
    };
    let format = match format {
        FileFormat::Auto => detect(first).map_err(|reason| fail(*line, reason))?,
        stated => stated,
    };
    Ok((entries, format))
}

fn count(entry: Entry, idx: usize, default_output: u32, tokenizer: &Tokenizer) -> Result<Prompt, DataError> {
    let input_tokens = match &entry.body {
        PromptBody::Text(text) => tokenizer.count(text)?,
        PromptBody::Messages(messages) => {
            let mut sum = 0u32;
            for message in messages {
                sum = sum.saturating_add(tokenizer.count(&message.content)?);
            }
            sum
        }
    };
    let output_tokens = match (entry.output_tokens, &entry.answer) {
        (Some(stated), _) => stated,
        (None, Some(answer)) => tokenizer.count(answer)?.max(1),
        (None, None) => default_output,
    };
    Ok(Prompt {
        id: entry.id.unwrap_or_else(|| format!("{idx:05}")),
        body: entry.body,
        input_tokens,
        output_tokens,
        temperature: entry.temperature,
        category: entry.category,
        group: entry.group,
        stated_input_tokens: entry.stated_input_tokens,
    })
}

/// Entries with the line on which each starts: the elements of a JSON array, or one object per line.
fn split(text: &str) -> Result<Vec<(usize, Value)>, (usize, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with('[') {
        let values: Vec<Value> = serde_json::from_str(text).map_err(|error| {
            (error.line().max(1), format!("is not valid JSON: {error}; expected an array of objects"))
        })?;
        let starts = element_lines(text);
        return Ok(values
            .into_iter()
            .enumerate()
            .map(|(idx, value)| (starts.get(idx).copied().unwrap_or(1), value))
            .collect());
    }
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(idx, line)| match serde_json::from_str(line) {
            Ok(value) => Ok((idx + 1, value)),
            Err(error) => {
                let column = error.column();
                Err((idx + 1, format!("is not valid JSON (column {column}); expected one JSON object per line")))
            }
        })
        .collect()
}

/// Line of each element of a JSON array that is known to be valid.
fn element_lines(text: &str) -> Vec<usize> {
    let mut lines = Vec::new();
    let (mut line, mut depth) = (1, 0u32);
    let (mut in_string, mut escaped, mut expecting) = (false, false, false);
    for byte in text.bytes() {
        if byte == b'\n' {
            line += 1;
        }
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        if expecting && !byte.is_ascii_whitespace() && byte != b']' {
            lines.push(line);
            expecting = false;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                expecting |= depth == 1;
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 1 => expecting = true,
            _ => {}
        }
    }
    lines
}

fn line_of(before: &[u8]) -> usize {
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

fn detect(first: &Value) -> Result<FileFormat, String> {
    let Some(object) = first.as_object() else {
        return Err(format!("holds {}; expected a JSON object", entry::kind_of(first)));
    };
    if object.contains_key("conversations") {
        Ok(FileFormat::Sharegpt)
    } else if object.contains_key("body") {
        Ok(FileFormat::Openai)
    } else if object.contains_key("messages") {
        let own = object.contains_key("id") && object.contains_key("max_tokens");
        Ok(if own { FileFormat::Messages } else { FileFormat::Openai })
    } else if object.contains_key("prompt") {
        Ok(FileFormat::Legacy)
    } else {
        let keys: Vec<&str> = object.keys().map(String::as_str).take(8).collect();
        Err(format!("has the keys [{}]; expected `prompt`, `messages`, `conversations` or `body`", keys.join(", ")))
    }
}
