//! Conversations of several turns: generated, or from ShareGPT files and OpenAI message lists. What is said by the user
//! and how long answers shall be; the answers themselves are the server's, so the requests behind the first are made
//! while it runs, by the load generator.

use std::path::Path;

use rand::RngExt;
use servelab_core::workload::{ConversationSpec, DEFAULT_FILE_OUTPUT_TOKENS, FileFormat, FileSpec};

use crate::error::DataError;
use crate::formats::entries;
use crate::formats::entry::{Talk, parse_talk};
use crate::synth::{Composer, Prefix, Seeder};
use crate::tokenizer::Tokenizer;

#[cfg(test)]
mod tests;

/// One conversation as it is to be held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationScript {
    /// Unique within its dataset or stream.
    pub id: String,
    /// System prompt.
    pub system: Option<String>,
    /// Tokens of the system prompt.
    pub system_tokens: u32,
    /// Questions in order; at least one.
    pub turns: Vec<ScriptTurn>,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptTurn {
    /// What the user says.
    pub user: String,
    /// Tokens of it alone.
    pub user_tokens: u32,
    /// Target length of the answer.
    pub output_tokens: u32,
}

impl ConversationScript {
    /// Prompt tokens of turn `turn` if every answer before it has its target length; chat template not counted.
    pub fn expected_input_tokens(&self, turn: usize) -> u32 {
        let before = self.turns.iter().take(turn).map(|turn| turn.user_tokens.saturating_add(turn.output_tokens));
        let own = self.turns.get(turn).map_or(0, |turn| turn.user_tokens);
        before.fold(self.system_tokens.saturating_add(own), u32::saturating_add)
    }
}

/// What a file held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationFile {
    /// Conversations in the order of the file.
    pub scripts: Vec<ConversationScript>,
    /// The format it was read as; never `Auto`.
    pub format: FileFormat,
    /// Conversations in which nobody asks anything.
    pub skipped: usize,
}

/// Reads a file of conversations; a relative path starts at `base_dir`.
pub fn read_conversations(
    file: &FileSpec,
    base_dir: &Path,
    max_turns: Option<u32>,
    tokenizer: &Tokenizer,
) -> Result<ConversationFile, DataError> {
    let path = base_dir.join(&file.path);
    let bytes = std::fs::read(&path).map_err(|source| DataError::Read { path: path.clone(), source })?;
    let default_output = file.output_tokens.unwrap_or(DEFAULT_FILE_OUTPUT_TOKENS);
    parse_conversations(&bytes, &path, file.format, default_output, max_turns, tokenizer)
}

/// Like [`read_conversations`], from the file's bytes; `path` is only named in errors. Answers whose length nobody states
/// get `default_output` tokens.
pub fn parse_conversations(
    bytes: &[u8],
    path: &Path,
    format: FileFormat,
    default_output: u32,
    max_turns: Option<u32>,
    tokenizer: &Tokenizer,
) -> Result<ConversationFile, DataError> {
    let fail = |line: usize, reason: String| DataError::Entry { path: path.to_path_buf(), line, reason };
    let (entries, format) = entries(bytes, path, format)?;
    let mut scripts = Vec::with_capacity(entries.len());
    let mut skipped = 0;
    for (idx, (line, value)) in entries.iter().enumerate() {
        match parse_talk(value, format).map_err(|reason| fail(*line, reason))? {
            Some(talk) => scripts.push(count(talk, idx, default_output, max_turns, tokenizer)?),
            None => skipped += 1,
        }
    }
    if scripts.is_empty() {
        let reason = format!("none of its {skipped} conversations has a user's turn");
        return Err(DataError::NoPrompts { path: path.to_path_buf(), reason });
    }
    Ok(ConversationFile { scripts, format, skipped })
}

fn count(
    talk: Talk,
    idx: usize,
    default_output: u32,
    max_turns: Option<u32>,
    tokenizer: &Tokenizer,
) -> Result<ConversationScript, DataError> {
    let most = max_turns.map_or(usize::MAX, |turns| turns as usize);
    let stated = talk.output_tokens;
    let turns = talk.turns.into_iter().take(most).map(|(user, answer)| {
        let output_tokens = match (stated, answer) {
            (Some(stated), _) => stated,
            (None, Some(answer)) => tokenizer.count(&answer)?.max(1),
            (None, None) => default_output,
        };
        Ok(ScriptTurn { user_tokens: tokenizer.count(&user)?, user, output_tokens })
    });
    let turns = turns.collect::<Result<Vec<_>, DataError>>()?;
    let system_tokens = talk.system.as_deref().map_or(Ok(0), |system| tokenizer.count(system))?;
    Ok(ConversationScript {
        id: talk.id.unwrap_or_else(|| format!("{idx:05}")),
        system: talk.system,
        system_tokens,
        turns,
    })
}

/// A stream of generated conversations without end. Each depends on the spec, the seeds, the stream's name and its
/// number there, on nothing else.
pub(crate) struct SynthConversations<T> {
    spec: ConversationSpec,
    stream: String,
    seeder: Seeder,
    /// System prompts are the stream's own too: levels of one server start must not find each other's in the cache.
    systems: Vec<Option<String>>,
    composer: Composer<T>,
    idx: usize,
}

impl<T: AsRef<Tokenizer>> SynthConversations<T> {
    pub(crate) fn new(spec: &ConversationSpec, seed: u64, stream: &str, tokenizer: T) -> Result<Self, DataError> {
        spec.validate()?;
        let content = spec.synth.as_ref().map(servelab_core::workload::ConversationSynth::content_text);
        let content = format!("conversations, seed {}, {}", spec.seed, content.unwrap_or_default());
        let kept = spec.synth.as_ref().map_or(0, |synth| (synth.system_prompts as usize).min(MAX_KEPT_SYSTEMS));
        Ok(Self {
            spec: spec.clone(),
            stream: stream.to_owned(),
            seeder: Seeder::new(content, seed, stream),
            systems: vec![None; kept],
            composer: Composer::new(tokenizer)?,
            idx: 0,
        })
    }

    pub(crate) fn next_script(&mut self) -> Result<ConversationScript, DataError> {
        let idx = self.idx;
        self.idx += 1;
        let Some(synth) = self.spec.synth.clone() else { return Err(DataError::NotSingle) };
        let mut shape = self.seeder.rng("shape", idx, 0);
        let mut uniform = || shape.random_range(0.0..1.0);
        let n_turns = synth.turns.at(uniform()).min(self.spec.max_turns.unwrap_or(u32::MAX));
        let mut text = self.seeder.rng("text", idx, 0);
        let mut turns = Vec::with_capacity(n_turns as usize);
        for _ in 0..n_turns {
            let (user_tokens, output_tokens) = (synth.user_tokens.at(uniform()), synth.output_tokens.at(uniform()));
            let user = self.composer.compose(&mut text, user_tokens, &Prefix::default())?;
            turns.push(ScriptTurn { user, user_tokens, output_tokens });
        }
        let system = match synth.system_tokens {
            Some(tokens) => Some(self.system(idx % synth.system_prompts as usize, tokens)?),
            None => None,
        };
        Ok(ConversationScript {
            id: format!("{}-{idx:05}", self.stream),
            system,
            system_tokens: synth.system_tokens.unwrap_or(0),
            turns,
        })
    }

    fn system(&mut self, group: usize, tokens: u32) -> Result<String, DataError> {
        if let Some(Some(text)) = self.systems.get(group) {
            return Ok(text.clone());
        }
        let text = self.composer.compose(&mut self.seeder.rng("system", group, 0), tokens, &Prefix::default())?;
        if let Some(slot) = self.systems.get_mut(group) {
            *slot = Some(text.clone());
        }
        Ok(text)
    }
}

/// System prompts that are kept; further ones are made again each time.
const MAX_KEPT_SYSTEMS: usize = 1024;
