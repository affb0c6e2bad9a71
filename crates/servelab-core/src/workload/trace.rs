//! Recorded traffic: what part of a trace file is used. When each request is sent is a matter of the load (`replay`);
//! this is what is sent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{DEFAULT_SEED, FileFormat, FileSpec, GENERATOR_VERSION, MAX_TOKENS, WorkloadProblem, check_count};

/// Tokens that one entry of `hash_ids` stands for, where a trace does not say otherwise (Mooncake's).
pub const DEFAULT_TRACE_BLOCK_TOKENS: u32 = 512;

/// Requests of a recorded trace: their lengths, their instants and, with `hash_ids`, what they have in common. The text
/// is generated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceSpec {
    /// Path of the file; a relative one is taken from the study file's folder.
    pub path: String,
    /// How to read it.
    #[serde(default)]
    pub format: TraceFormat,
    /// Leave out what was sent earlier than so many seconds after the trace's first request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_s: Option<f64>,
    /// Leave out what was sent so many seconds after the trace's first request, or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_s: Option<f64>,
    /// Use at most so many requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_requests: Option<u32>,
    /// Leave out requests with longer prompts; how many is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_input_tokens: Option<u32>,
    /// Tokens per entry of `hash_ids` (512 when absent).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub block_tokens: Option<u32>,
    /// Seed of the text.
    #[serde(default = "super::default_seed")]
    pub seed: u64,
}

/// Format of a trace file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TraceFormat {
    /// Found out from the content.
    #[default]
    Auto,
    /// JSONL of `{"timestamp" (ms), "input_length", "output_length", "hash_ids"}`.
    Mooncake,
    /// CSV with `TIMESTAMP,ContextTokens,GeneratedTokens` (Azure LLM inference, 2023 and 2024).
    Azure,
    /// CSV with `Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type` (BurstGPT), with or without
    /// `Session ID` and `Elapsed time`.
    Burstgpt,
}

impl TraceFormat {
    /// The name used in study files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Mooncake => "mooncake",
            Self::Azure => "azure",
            Self::Burstgpt => "burstgpt",
        }
    }
}

impl TraceSpec {
    /// All of a file.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            format: TraceFormat::Auto,
            from_s: None,
            to_s: None,
            max_requests: None,
            max_input_tokens: None,
            block_tokens: None,
            seed: DEFAULT_SEED,
        }
    }

    /// Tokens per entry of `hash_ids`.
    pub fn block_tokens(&self) -> u32 {
        self.block_tokens.unwrap_or(DEFAULT_TRACE_BLOCK_TOKENS)
    }

    /// Checks everything that types alone cannot say; keys are relative to the spec.
    ///
    /// # Errors
    /// The first problem.
    pub fn validate(&self) -> Result<(), WorkloadProblem> {
        if self.path.trim().is_empty() {
            return Err(WorkloadProblem::new("path", "must name a file"));
        }
        let from = self.from_s.unwrap_or(0.0);
        if !(from.is_finite() && from >= 0.0) {
            return Err(WorkloadProblem::new("from_s", format!("is {from}, must be 0 or more seconds")));
        }
        if let Some(to) = self.to_s
            && !(to.is_finite() && to > from)
        {
            return Err(WorkloadProblem::new("to_s", format!("is {to}, must be more than `from_s` ({from})")));
        }
        for (key, value, most) in [
            ("max_requests", self.max_requests, u32::MAX),
            ("max_input_tokens", self.max_input_tokens, MAX_TOKENS),
            ("block_tokens", self.block_tokens, MAX_TOKENS),
        ] {
            if let Some(value) = value {
                check_count(key, value, most)?;
            }
        }
        Ok(())
    }

    /// The file as what hashes of files are made of.
    pub fn file(&self) -> FileSpec {
        FileSpec { path: self.path.clone(), format: FileFormat::Auto, output_tokens: None }
    }

    pub(super) fn content_key(&self, sha256: &str) -> Value {
        json!({
            "trace": {
                "generator": GENERATOR_VERSION,
                "format": self.format.as_str(),
                "sha256": sha256,
                "from_s": self.from_s.unwrap_or(0.0),
                "to_s": self.to_s,
                "max_requests": self.max_requests,
                "max_input_tokens": self.max_input_tokens,
                "block_tokens": self.block_tokens(),
                "seed": self.seed,
            }
        })
    }
}
