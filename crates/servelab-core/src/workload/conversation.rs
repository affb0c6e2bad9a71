//! Conversations of several turns: each request carries everything that was said before, the server's own answers
//! included, so that its prefix cache sees what it sees in production.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    DEFAULT_FILE_OUTPUT_TOKENS, DEFAULT_PROMPTS, DEFAULT_SEED, FileFormat, FileSpec, GENERATOR_VERSION, LengthBounds,
    MAX_PROMPTS, MAX_TOKENS, Spread, TokenRange, WorkloadProblem, check_count,
};
use crate::pacing::Think;

/// Most turns that a conversation may have.
pub const MAX_TURNS: u32 = 1_000;

/// Conversations, generated or from a file: exactly one of `synth` and `file`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConversationSpec {
    /// Generated conversations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synth: Option<ConversationSynth>,
    /// ShareGPT files, or lists of OpenAI messages, with several user turns. The answers in the file only say how long
    /// answers are; what is sent back is what the server said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileSpec>,
    /// Pause between an answer and the next question: `{constant: 2}` or `{exponential: 5}`; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub think_s: Option<Think>,
    /// Use at most so many turns of each conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_turns: Option<u32>,
    /// Seed of all random choices.
    #[serde(default = "super::default_seed")]
    pub seed: u64,
}

/// Generated conversations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConversationSynth {
    /// Conversations per load level; more are made when a level needs more.
    #[serde(default = "super::default_prompts")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub n: u32,
    /// Questions per conversation.
    pub turns: Spread,
    /// Tokens of each question.
    pub user_tokens: Spread,
    /// Tokens of each answer.
    pub output_tokens: Spread,
    /// Tokens of the system prompt; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub system_tokens: Option<u32>,
    /// Number of different system prompts; conversations are spread over them evenly.
    #[serde(default = "super::default_groups")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub system_prompts: u32,
}

impl ConversationSpec {
    /// Conversations of one file.
    pub fn from_file(file: FileSpec) -> Self {
        Self { synth: None, file: Some(file), think_s: None, max_turns: None, seed: DEFAULT_SEED }
    }

    /// Generated ones.
    pub fn generated(synth: ConversationSynth) -> Self {
        Self { synth: Some(synth), file: None, think_s: None, max_turns: None, seed: DEFAULT_SEED }
    }

    /// Checks everything that types alone cannot say; keys are relative to the spec.
    ///
    /// # Errors
    /// The first problem.
    pub fn validate(&self) -> Result<(), WorkloadProblem> {
        match (&self.synth, &self.file) {
            (Some(synth), None) => synth.validate()?,
            (None, Some(file)) => {
                file.validate("file")?;
                if file.format == FileFormat::Legacy {
                    let message = "is `legacy`, which holds single prompts; use sharegpt, messages or openai";
                    return Err(WorkloadProblem::new("file.format", message));
                }
            }
            (Some(_), Some(_)) => {
                return Err(WorkloadProblem::new("file", "cannot stand beside `synth`: give one of them"));
            }
            (None, None) => {
                return Err(WorkloadProblem::new(
                    "synth",
                    "is missing: give `synth: {turns: 4, user_tokens: 100, output_tokens: 200}` or `file: {path: …}`",
                ));
            }
        }
        if let Some(think) = &self.think_s {
            think.validate().map_err(|problem| WorkloadProblem {
                key: format!("think_s.{}", problem.key),
                message: problem.message,
            })?;
        }
        match self.max_turns {
            Some(turns) => check_count("max_turns", turns, MAX_TURNS),
            None => Ok(()),
        }
    }

    /// Longest prompt and answer that can occur, where the spec says so.
    pub fn length_bounds(&self) -> Option<LengthBounds> {
        let synth = self.synth.as_ref()?;
        let turns = synth.turns.max().min(self.max_turns.unwrap_or(u32::MAX));
        let system = synth.system_tokens.unwrap_or(0);
        let per_turn = synth.user_tokens.max().saturating_add(synth.output_tokens.max());
        let longest = turns
            .saturating_sub(1)
            .saturating_mul(per_turn)
            .saturating_add(synth.user_tokens.max())
            .saturating_add(system);
        let input = TokenRange { min: system.saturating_add(synth.user_tokens.min()), max: longest };
        let output = TokenRange { min: synth.output_tokens.min(), max: synth.output_tokens.max() };
        Some(LengthBounds {
            input,
            output,
            input_mean: f64::midpoint(f64::from(input.min), f64::from(input.max)),
            output_mean: f64::midpoint(f64::from(output.min), f64::from(output.max)),
        })
    }

    /// Most turns that a conversation can have, where the spec says so.
    pub fn most_turns(&self) -> Option<u32> {
        let turns = self.synth.as_ref().map(|synth| synth.turns.max());
        match (turns, self.max_turns) {
            (Some(turns), Some(max)) => Some(turns.min(max)),
            (turns, max) => turns.or(max),
        }
    }

    pub(super) fn content_key<E>(&self, file_sha256: impl FnOnce(&FileSpec) -> Result<String, E>) -> Result<Value, E> {
        let source = match (&self.synth, &self.file) {
            (Some(synth), _) => synth.content_key(),
            (None, Some(file)) => json!({
                "format": file.format.as_str(),
                "output_tokens": file.output_tokens.unwrap_or(DEFAULT_FILE_OUTPUT_TOKENS),
                "sha256": file_sha256(file)?,
            }),
            (None, None) => Value::Null,
        };
        Ok(json!({
            "conversations": {
                "generator": GENERATOR_VERSION,
                "source": source,
                "think_s": self.think_s,
                "max_turns": self.max_turns,
                "seed": self.seed,
            }
        }))
    }
}

impl ConversationSynth {
    /// Conversations of equal shape.
    pub fn exact(turns: u32, user_tokens: u32, output_tokens: u32) -> Self {
        Self {
            n: DEFAULT_PROMPTS,
            turns: Spread::Fixed(turns),
            user_tokens: Spread::Fixed(user_tokens),
            output_tokens: Spread::Fixed(output_tokens),
            system_tokens: None,
            system_prompts: 1,
        }
    }

    fn validate(&self) -> Result<(), WorkloadProblem> {
        check_count("synth.n", self.n, MAX_PROMPTS)?;
        self.turns.validate("synth.turns", 1, MAX_TURNS)?;
        self.user_tokens.validate("synth.user_tokens", 1, MAX_TOKENS)?;
        self.output_tokens.validate("synth.output_tokens", 1, MAX_TOKENS)?;
        if let Some(tokens) = self.system_tokens {
            check_count("synth.system_tokens", tokens, MAX_TOKENS)?;
        }
        check_count("synth.system_prompts", self.system_prompts, MAX_PROMPTS)
    }

    fn content_key(&self) -> Value {
        // `n` is left out: a conversation depends on its number, not on how many there are.
        json!({
            "turns": self.turns,
            "user_tokens": self.user_tokens,
            "output_tokens": self.output_tokens,
            "system_tokens": self.system_tokens,
            "system_prompts": if self.system_tokens.is_some() { self.system_prompts } else { 1 },
        })
    }

    /// What the generator seeds itself with: equal for equal settings.
    pub fn content_text(&self) -> String {
        let key = self.content_key();
        serde_json_canonicalizer::to_string(&key).unwrap_or_else(|_| key.to_string())
    }
}
