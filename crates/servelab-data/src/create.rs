//! Dataset files out: the legacy JSONL, the messages form, and the files behind `dataset create`. Files appear whole or
//! not at all, and the same settings and seed give the same bytes.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use servelab_core::workload::{SuiteName, SynthSpec, WorkloadProblem};

use crate::error::DataError;
use crate::prompt::{Message, Prompt, PromptBody};
use crate::synth::synthesize;
use crate::tokenizer::{Tokenizer, hex_sha256};

#[cfg(test)]
mod tests;

/// Stream that files are made from: a file and a study that names the same set never share prompts by accident.
const FILE_STREAM: &str = "dataset";

/// One file that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Name of the set.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Prompts in it.
    pub n: usize,
    /// Prompt tokens of all prompts together.
    pub input_tokens: u64,
    /// Target output tokens of all prompts together.
    pub output_tokens: u64,
    /// SHA-256 (hex) of its bytes.
    pub sha256: String,
}

/// Makes `spec.n` prompts from `spec.seed` and writes them to `DIR/NAME.jsonl` in the legacy form.
pub fn create(name: &str, spec: &SynthSpec, tokenizer: &Tokenizer, directory: &Path) -> Result<Written, DataError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        let message = format!("is `{name}`; use letters, digits, `_`, `-` and `.`, as it becomes a file name");
        return Err(WorkloadProblem { key: "name".to_owned(), message }.into());
    }
    let prompts = synthesize(spec, 0, FILE_STREAM, spec.n as usize, tokenizer)?;
    let path = directory.join(format!("{name}.jsonl"));
    let sha256 = write_legacy(&path, &prompts)?;
    Ok(Written {
        name: name.to_owned(),
        path,
        n: prompts.len(),
        input_tokens: prompts.iter().map(|prompt| u64::from(prompt.input_tokens)).sum(),
        output_tokens: prompts.iter().map(|prompt| u64::from(prompt.output_tokens)).sum(),
        sha256,
    })
}

/// Writes the five sets of the suite.
pub fn create_suite(seed: u64, tokenizer: &Tokenizer, directory: &Path) -> Result<Vec<Written>, DataError> {
    SuiteName::SUITE
        .into_iter()
        .map(|suite| create(suite.as_str(), &SynthSpec { seed, ..suite.spec() }, tokenizer, directory))
        .collect()
}

/// One line of the legacy form. What the older readers do not know is below `metadata`, which they pass through.
#[derive(Serialize)]
struct LegacyLine<'a> {
    prompt: &'a str,
    prompt_length: u32,
    expected_output_length: u32,
    metadata: LegacyMetadata<'a>,
}

#[derive(Serialize)]
struct LegacyMetadata<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    category: Option<&'a str>,
    template_type: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<u32>,
}

#[derive(Serialize)]
struct MessagesEntry<'a> {
    id: &'a str,
    messages: &'a [Message],
    max_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
}

/// Writes prompts as legacy JSONL with real token counts; returns the SHA-256 (hex) of the file. Conversations have no
/// place in this form.
pub fn write_legacy(path: &Path, prompts: &[Prompt]) -> Result<String, DataError> {
    let mut bytes = Vec::new();
    for prompt in prompts {
        let PromptBody::Text(text) = &prompt.body else {
            return Err(DataError::NotPlainText { id: prompt.id.clone() });
        };
        let line = LegacyLine {
            prompt: text,
            prompt_length: prompt.input_tokens,
            expected_output_length: prompt.output_tokens,
            metadata: LegacyMetadata {
                category: prompt.category.map(|category| category.as_str()),
                template_type: "synthetic",
                id: &prompt.id,
                group: prompt.group,
            },
        };
        push_json(&mut bytes, &line, path)?;
        bytes.push(b'\n');
    }
    write_atomically(path, &bytes)
}

/// Writes prompts as a JSON array of `{"id", "messages", "max_tokens", "temperature"}`, one entry per line; returns the
/// SHA-256 (hex) of the file.
pub fn write_messages(path: &Path, prompts: &[Prompt]) -> Result<String, DataError> {
    let mut bytes = b"[".to_vec();
    for (idx, prompt) in prompts.iter().enumerate() {
        bytes.extend_from_slice(if idx == 0 { b"\n" } else { b",\n" });
        let entry = MessagesEntry {
            id: &prompt.id,
            messages: &prompt.body.messages(),
            max_tokens: prompt.output_tokens,
            temperature: prompt.temperature,
        };
        push_json(&mut bytes, &entry, path)?;
    }
    bytes.extend_from_slice(b"\n]\n");
    write_atomically(path, &bytes)
}

fn push_json(bytes: &mut Vec<u8>, value: &impl Serialize, path: &Path) -> Result<(), DataError> {
    serde_json::to_writer(bytes, value).map_err(|error| unwritten(path, error.into()))
}

fn unwritten(path: &Path, source: io::Error) -> DataError {
    DataError::Write { path: path.to_path_buf(), source }
}

fn write_atomically(path: &Path, bytes: &[u8]) -> Result<String, DataError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // The process id keeps two writers of the same set apart; the last rename wins with a whole file.
    let temporary = directory.join(format!(".{name}.{}.tmp", std::process::id()));
    let attempt = || -> io::Result<()> {
        std::fs::create_dir_all(directory)?;
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    attempt().map_err(|error| {
        // The first error is the one to report; a left-over file is harmless.
        let _ = std::fs::remove_file(&temporary);
        unwritten(path, error)
    })?;
    Ok(hex_sha256(bytes))
}
