//! What a workload's prompts are: the `dataset` key of a study's workloads, the length classes and the ready-made sets.
//! Pure data, checks and arithmetic (lengths, expected prefix-cache hit rate, identity). Making text, counting tokens
//! and reading files is `servelab-data`'s business; arrival processes and load levels are not here either.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

mod conversation;
mod length;
mod spread;
mod suite;
#[cfg(test)]
mod tests;
mod trace;

pub use conversation::{ConversationSpec, ConversationSynth, MAX_TURNS};
pub use length::{Category, Mix, TokenRange};
pub use spread::Spread;
pub use suite::SuiteName;
pub use trace::{DEFAULT_TRACE_BLOCK_TOKENS, TraceFormat, TraceSpec};

/// Version of the prompt generator. Part of every synthetic dataset's identity: the same spec under another version
/// gives other prompts, so it gives other cells.
pub const GENERATOR_VERSION: u32 = 1;

/// Seed of a synthetic set that names none.
pub const DEFAULT_SEED: u64 = 42;

/// Prompts per load level of a synthetic set that names no `n`.
pub const DEFAULT_PROMPTS: u32 = 100;

/// Target output length, in tokens, of file prompts that state none.
pub const DEFAULT_FILE_OUTPUT_TOKENS: u32 = 256;

/// Tokens per KV-cache block that hit rates are stated for (vLLM's default).
pub const DEFAULT_BLOCK_SIZE: u32 = 16;

/// Longest prompt or answer, in tokens, that a spec may ask for.
pub const MAX_TOKENS: u32 = 10_000_000;

/// Most prompts per load level that a spec may ask for.
pub const MAX_PROMPTS: u32 = 10_000_000;

/// Where a workload's prompts come from: exactly one of `synth`, `suite`, `file`, `trace` and `conversations`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DatasetSpec {
    /// Generated text with stated lengths.
    Synth(SynthSpec),
    /// One of the ready-made synthetic sets.
    Suite(SuiteName),
    /// Prompts from a file.
    File(FileSpec),
    /// Requests of a recorded trace.
    Trace(TraceSpec),
    /// Conversations of several turns.
    Conversations(ConversationSpec),
}

/// Prompts from a file on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSpec {
    /// Path of the file; a relative one is taken from the study file's folder.
    pub path: String,
    /// How to read it.
    #[serde(default)]
    pub format: FileFormat,
    /// Target output length in tokens for prompts that state none (256 when absent).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub output_tokens: Option<u32>,
}

/// Format of a dataset file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileFormat {
    /// Found out from the content.
    #[default]
    Auto,
    /// JSONL of `{"prompt", "prompt_length", "expected_output_length", "metadata"}`; `{"prompt"}` alone will do.
    Legacy,
    /// `[{"id", "messages", "max_tokens", "temperature"}]`, or the same objects one per line.
    Messages,
    /// ShareGPT: `[{"id", "conversations": [{"from", "value"}]}]`, or the same objects one per line.
    Sharegpt,
    /// OpenAI JSONL: `{"messages": [...]}`, or batch lines `{"custom_id", "body": {"messages": [...]}}`.
    Openai,
}

impl FileFormat {
    /// The name used in study files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Legacy => "legacy",
            Self::Messages => "messages",
            Self::Sharegpt => "sharegpt",
            Self::Openai => "openai",
        }
    }
}

/// Generated prompts. Lengths come either from `mix` or from `input_tokens` and `output_tokens`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SynthSpec {
    /// Prompts per load level; more are made when a level needs more.
    #[serde(default = "default_prompts")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub n: u32,
    /// Shares of short, medium and long prompts; they add up to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mix: Option<Mix>,
    /// Exact prompt length in tokens of the given tokenizer, special tokens and chat template not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub input_tokens: Option<u32>,
    /// Exact target output length in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub output_tokens: Option<u32>,
    /// Spread around the exact lengths: 0.1 draws both uniformly from ±10 %.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub length_jitter: Option<f64>,
    /// Upper limit of the target output length in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_output: Option<u32>,
    /// Text that prompts have in common at their start; without it no two prompts start alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_prefix: Option<SharedPrefix>,
    /// Seed of all random choices.
    #[serde(default = "default_seed")]
    pub seed: u64,
}

fn default_prompts() -> u32 {
    DEFAULT_PROMPTS
}

fn default_seed() -> u64 {
    DEFAULT_SEED
}

/// Text that groups of prompts share at their start, for prefix-cache studies. Exactly one of `tokens` and `hit_rate`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedPrefix {
    /// Length of the shared text in tokens; it counts towards the prompt length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub tokens: Option<u32>,
    /// Share of prompt tokens (0–1) that a cold prefix cache with 16-token blocks should find; the length follows from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub hit_rate: Option<f64>,
    /// Number of different prefixes; prompts are spread over them evenly.
    #[serde(default = "default_groups")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub groups: u32,
}

fn default_groups() -> u32 {
    1
}

/// What is wrong with a dataset spec, and under which key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`: {message}")]
pub struct WorkloadProblem {
    /// Dotted key below `dataset`, such as `synth.mix.short`.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl WorkloadProblem {
    fn new(key: &str, message: impl Into<String>) -> Self {
        Self { key: key.to_owned(), message: message.into() }
    }
}

/// One kind of prompt in a set: its share of the prompts and its lengths.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LengthProfile {
    /// The class, when the set has a mix.
    pub category: Option<Category>,
    /// Share of the prompts, 0–1.
    pub share: f64,
    /// Prompt tokens.
    pub input: TokenRange,
    /// Target output tokens, before the cap.
    pub output: TokenRange,
}

/// Smallest, largest and mean lengths of a set in tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LengthBounds {
    /// Prompt tokens.
    pub input: TokenRange,
    /// Target output tokens, after the cap.
    pub output: TokenRange,
    /// Expected prompt tokens.
    pub input_mean: f64,
    /// Expected target output tokens, after the cap.
    pub output_mean: f64,
}

impl DatasetSpec {
    /// Checks everything that types alone cannot say.
    pub fn validate(&self) -> Result<(), WorkloadProblem> {
        match self {
            Self::Synth(synth) => {
                synth.validate().map_err(|problem| WorkloadProblem { key: format!("synth.{}", problem.key), ..problem })
            }
            Self::Suite(_) => Ok(()),
            Self::File(file) => file.validate("file"),
            Self::Trace(trace) => {
                trace.validate().map_err(|problem| WorkloadProblem { key: format!("trace.{}", problem.key), ..problem })
            }
            Self::Conversations(spec) => spec
                .validate()
                .map_err(|problem| WorkloadProblem { key: format!("conversations.{}", problem.key), ..problem }),
        }
    }

    /// Lengths that its requests can have, where the spec says so.
    pub fn length_bounds(&self) -> Option<LengthBounds> {
        match self {
            Self::Conversations(spec) => spec.length_bounds(),
            _ => self.synth().map(|synth| synth.length_bounds()),
        }
    }

    /// Every file that it reads, with the key under which its path stands.
    pub fn file(&self) -> Option<(&'static str, FileSpec)> {
        match self {
            Self::File(file) => Some(("file.path", file.clone())),
            Self::Trace(trace) => Some(("trace.path", trace.file())),
            Self::Conversations(spec) => spec.file.clone().map(|file| ("conversations.file.path", file)),
            Self::Synth(_) | Self::Suite(_) => None,
        }
    }

    /// The generator's settings, for sets that are generated.
    pub fn synth(&self) -> Option<SynthSpec> {
        match self {
            Self::Synth(synth) => Some(synth.clone()),
            Self::Suite(suite) => Some(suite.spec()),
            Self::File(_) | Self::Trace(_) | Self::Conversations(_) => None,
        }
    }

    /// What cell ids hash: a suite and the synthetic set with the same settings are equal, and a file is its content,
    /// wherever it lies. `file_sha256` gives the hex digest of a file's bytes and is asked only where a file is read.
    pub fn content_key<E>(&self, file_sha256: impl FnOnce(&FileSpec) -> Result<String, E>) -> Result<Value, E> {
        match self {
            Self::Synth(synth) => Ok(synth.content_key()),
            Self::Suite(suite) => Ok(suite.spec().content_key()),
            Self::File(file) => Ok(json!({
                "file": {
                    "format": file.format.as_str(),
                    "output_tokens": file.output_tokens.unwrap_or(DEFAULT_FILE_OUTPUT_TOKENS),
                    "sha256": file_sha256(file)?,
                }
            })),
            Self::Trace(trace) => Ok(trace.content_key(&file_sha256(&trace.file())?)),
            Self::Conversations(spec) => spec.content_key(file_sha256),
        }
    }
}

impl FileSpec {
    fn validate(&self, key: &str) -> Result<(), WorkloadProblem> {
        if self.path.trim().is_empty() {
            return Err(WorkloadProblem::new(&format!("{key}.path"), "must name a file"));
        }
        match self.output_tokens {
            Some(tokens) => check_count(&format!("{key}.output_tokens"), tokens, MAX_TOKENS),
            None => Ok(()),
        }
    }
}

impl SynthSpec {
    /// A set with a mix of length classes.
    pub fn mixed(n: u32, mix: Mix, max_output: Option<u32>) -> Self {
        Self { n, mix: Some(mix), max_output, ..Self::empty() }
    }

    /// A set with exact lengths in tokens.
    pub fn exact(n: u32, input_tokens: u32, output_tokens: u32) -> Self {
        Self { n, input_tokens: Some(input_tokens), output_tokens: Some(output_tokens), ..Self::empty() }
    }

    fn empty() -> Self {
        Self {
            n: DEFAULT_PROMPTS,
            mix: None,
            input_tokens: None,
            output_tokens: None,
            length_jitter: None,
            max_output: None,
            shared_prefix: None,
            seed: DEFAULT_SEED,
        }
    }

    /// Checks everything that types alone cannot say; keys are relative to the spec.
    pub fn validate(&self) -> Result<(), WorkloadProblem> {
        check_count("n", self.n, MAX_PROMPTS)?;
        for (key, tokens) in [
            ("input_tokens", self.input_tokens),
            ("output_tokens", self.output_tokens),
            ("max_output", self.max_output),
        ] {
            if let Some(tokens) = tokens {
                check_count(key, tokens, MAX_TOKENS)?;
            }
        }
        match (&self.mix, self.input_tokens, self.output_tokens) {
            (Some(_), Some(_), _) => return Err(exclusive("input_tokens")),
            (Some(_), _, Some(_)) => return Err(exclusive("output_tokens")),
            (Some(mix), None, None) => check_mix(mix)?,
            (None, Some(_), Some(_)) => {}
            (None, Some(_), None) => {
                return Err(WorkloadProblem::new("output_tokens", "is missing: `input_tokens` needs it beside it"));
            }
            (None, None, Some(_)) => {
                return Err(WorkloadProblem::new("input_tokens", "is missing: `output_tokens` needs it beside it"));
            }
            (None, None, None) => {
                return Err(WorkloadProblem::new(
                    "mix",
                    "is missing: give either `mix: {short: 0.3, medium: 0.5, long: 0.2}` or `input_tokens` and `output_tokens`",
                ));
            }
        }
        if let Some(jitter) = self.length_jitter {
            check_fraction("length_jitter", jitter)?;
            if self.mix.is_some() {
                return Err(WorkloadProblem::new(
                    "length_jitter",
                    "spreads exact lengths and has no effect on a `mix`, whose classes have ranges",
                ));
            }
        }
        match &self.shared_prefix {
            Some(prefix) => self.check_prefix(prefix),
            None => Ok(()),
        }
    }

    fn check_prefix(&self, prefix: &SharedPrefix) -> Result<(), WorkloadProblem> {
        check_count("shared_prefix.groups", prefix.groups, MAX_PROMPTS)?;
        match (prefix.tokens, prefix.hit_rate) {
            (Some(tokens), None) => check_count("shared_prefix.tokens", tokens, MAX_TOKENS)?,
            (None, Some(rate)) => check_fraction("shared_prefix.hit_rate", rate)?,
            (Some(_), Some(_)) => {
                return Err(WorkloadProblem::new(
                    "shared_prefix.hit_rate",
                    "cannot stand beside `tokens`: give one of them",
                ));
            }
            (None, None) => {
                return Err(WorkloadProblem::new("shared_prefix", "needs one of `tokens` and `hit_rate`"));
            }
        }
        let shortest = self.length_bounds().input.min;
        let wanted = self.shared_prefix_tokens();
        // What follows the prefix must be long enough to differ from prompt to prompt.
        if f64::from(wanted) + f64::from(MIN_UNSHARED_TOKENS) > f64::from(shortest) {
            let (key, what) = match prefix.hit_rate {
                Some(rate) => (
                    "shared_prefix.hit_rate",
                    format!(
                        "{rate} with {} prompts in {} groups needs a shared prefix of {wanted} tokens",
                        self.n, prefix.groups
                    ),
                ),
                None => ("shared_prefix.tokens", format!("is {wanted}")),
            };
            return Err(WorkloadProblem::new(
                key,
                format!(
                    "{what}, but the shortest prompt has {shortest} tokens and {MIN_UNSHARED_TOKENS} of them must differ"
                ),
            ));
        }
        Ok(())
    }

    /// The kinds of prompts in this set, those with a share of 0 left out.
    pub fn profiles(&self) -> Vec<LengthProfile> {
        if let Some(mix) = &self.mix {
            return Category::ALL
                .into_iter()
                .filter(|category| mix.share(*category) > 0.0)
                .map(|category| LengthProfile {
                    category: Some(category),
                    share: mix.share(category),
                    input: category.input_range(),
                    output: category.output_range(),
                })
                .collect();
        }
        let jitter = self.length_jitter.unwrap_or(0.0);
        vec![LengthProfile {
            category: None,
            share: 1.0,
            input: TokenRange::around(self.input_tokens.unwrap_or(1), jitter),
            output: TokenRange::around(self.output_tokens.unwrap_or(1), jitter),
        }]
    }

    /// Lengths that prompts of this set can have, and their means.
    pub fn length_bounds(&self) -> LengthBounds {
        let profiles = self.profiles();
        let hull = |range: fn(&LengthProfile) -> TokenRange| {
            profiles.iter().map(range).reduce(TokenRange::hull).unwrap_or(TokenRange { min: 1, max: 1 })
        };
        LengthBounds {
            input: hull(|profile| profile.input),
            output: hull(|profile| profile.output).capped(self.max_output),
            input_mean: profiles.iter().map(|profile| profile.share * profile.input.capped_mean(None)).sum(),
            output_mean: profiles
                .iter()
                .map(|profile| profile.share * profile.output.capped_mean(self.max_output))
                .sum(),
        }
    }

    /// Length of the shared prefix in tokens; 0 without one. With `hit_rate` it is the whole number of 16-token blocks
    /// that comes closest for `n` prompts.
    pub fn shared_prefix_tokens(&self) -> u32 {
        let Some(prefix) = &self.shared_prefix else { return 0 };
        if let Some(tokens) = prefix.tokens {
            return tokens;
        }
        let n = f64::from(self.n.max(1));
        // Each group's first prompt fills the cache and finds nothing.
        let finders = n - f64::from(prefix.groups.min(self.n));
        let rate = prefix.hit_rate.unwrap_or(0.0);
        if rate <= 0.0 {
            return 0;
        }
        let block = f64::from(DEFAULT_BLOCK_SIZE);
        ((rate * n * self.length_bounds().input_mean / finders / block).round() * block) as u32
    }

    /// Share of prompt tokens (0–1) that an initially empty prefix cache with blocks of `block_size` tokens finds when
    /// `n` prompts of this set arrive one after the other and nothing is evicted:
    /// (n − groups) × ⌊prefix / block⌋ × block / (n × mean prompt length). Requests of one group that start before the
    /// first has filled its blocks, and evictions, lower what a server shows.
    pub fn expected_hit_rate(&self, n: u32, block_size: u32) -> f64 {
        let Some(prefix) = &self.shared_prefix else { return 0.0 };
        if n == 0 || block_size == 0 {
            return 0.0;
        }
        let cached = f64::from(self.shared_prefix_tokens() / block_size * block_size);
        let finders = f64::from(n - prefix.groups.min(n));
        finders * cached / (f64::from(n) * self.length_bounds().input_mean)
    }

    /// [`Self::content_key`] as canonical text: equal for equal sets, so also what the generator seeds itself with.
    pub fn content_text(&self) -> String {
        let key = self.content_key();
        // A `Value` holds no NaN and only string keys, which is all that could fail.
        serde_json_canonicalizer::to_string(&key).unwrap_or_else(|_| key.to_string())
    }

    /// What cell ids hash of a synthetic set: its settings with every default written out, and the generator's version.
    pub fn content_key(&self) -> Value {
        let lengths = match &self.mix {
            Some(mix) => json!({"mix": {"short": mix.short, "medium": mix.medium, "long": mix.long}}),
            None => json!({
                "input_tokens": self.input_tokens,
                "output_tokens": self.output_tokens,
                "length_jitter": self.length_jitter.unwrap_or(0.0),
            }),
        };
        let prefix = self
            .shared_prefix
            .as_ref()
            .map(|prefix| json!({"tokens": self.shared_prefix_tokens(), "groups": prefix.groups}));
        json!({
            "synth": {
                "generator": GENERATOR_VERSION,
                "n": self.n,
                "lengths": lengths,
                "max_output": self.max_output,
                "shared_prefix": prefix,
                "seed": self.seed,
            }
        })
    }
}

/// Tokens that every prompt keeps for itself behind a shared prefix.
pub const MIN_UNSHARED_TOKENS: u32 = 8;

fn check_count(key: &str, value: u32, max: u32) -> Result<(), WorkloadProblem> {
    if (1..=max).contains(&value) {
        return Ok(());
    }
    Err(WorkloadProblem::new(key, format!("is {value}, must be between 1 and {max}")))
}

fn check_fraction(key: &str, value: f64) -> Result<(), WorkloadProblem> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(WorkloadProblem::new(key, format!("is {value}, must be between 0 and 1")))
}

fn check_mix(mix: &Mix) -> Result<(), WorkloadProblem> {
    for category in Category::ALL {
        check_fraction(&format!("mix.{}", category.as_str()), mix.share(category))?;
    }
    let sum: f64 = Category::ALL.iter().map(|category| mix.share(*category)).sum();
    if (sum - 1.0).abs() > 1e-6 {
        let rounded = (sum * 1e6).round() / 1e6;
        return Err(WorkloadProblem::new("mix", format!("adds up to {rounded}, the shares must add up to 1")));
    }
    Ok(())
}

fn exclusive(key: &str) -> WorkloadProblem {
    WorkloadProblem::new(key, "cannot stand beside `mix`: give either the mix or exact lengths")
}
