//! What a load sends: opens what a study names and hands out disjoint streams (warm-up, each load level, each repeat),
//! item by item, so that a long run needs no more memory than a short one. Which streams there are and how many items
//! each needs is the caller's business.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use servelab_core::workload::{ConversationSpec, DatasetSpec, FileSpec, SynthSpec, TraceSpec};
use sha2::{Digest, Sha256};

use crate::conversation::{ConversationScript, SynthConversations, read_conversations};
use crate::error::DataError;
use crate::formats::read_dataset;
use crate::prompt::Prompt;
use crate::synth::{SynthPrompts, shuffle, synthesize};
use crate::tokenizer::{Tokenizer, hex};
use crate::trace::{TracePrompt, TracePrompts, TraceSummary, open_trace, summarise_trace};

#[cfg(test)]
mod tests;

/// One stream to draw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRequest {
    /// Name, such as `warmup` or `level-3/repeat-0`. Of a generated set the same name always gives the same items.
    pub name: String,
    /// How many. A file is cut into slices of this length; a mix of lengths is met over this many prompts.
    pub n: usize,
    /// Whether `n` counts requests, of which a conversation has as many as turns, or items.
    pub counts_requests: bool,
}

impl StreamRequest {
    /// So many prompts or conversations.
    pub fn items(name: impl Into<String>, n: usize) -> Self {
        Self { name: name.into(), n, counts_requests: false }
    }

    /// As many prompts or conversations as so many requests take.
    pub fn requests(name: impl Into<String>, n: usize) -> Self {
        Self { name: name.into(), n, counts_requests: true }
    }
}

/// One thing to send.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A request.
    Prompt(Prompt),
    /// A request of a trace, with the instant at which it was recorded.
    Traced(TracePrompt),
    /// A whole conversation.
    Conversation(ConversationScript),
}

/// An opened dataset.
#[derive(Debug)]
pub struct PromptSource {
    tokenizer: Arc<Tokenizer>,
    seed: u64,
    reuse: bool,
    max_output: Option<u32>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Synth(SynthSpec),
    File { path: PathBuf, prompts: Arc<[Prompt]>, drawn: usize },
    Trace { spec: TraceSpec, base_dir: PathBuf, summary: TraceSummary },
    SynthConversations(ConversationSpec),
    FileConversations { path: PathBuf, scripts: Arc<[ConversationScript]>, drawn: usize },
}

/// The items of one stream. Generated ones go on for ever; files and traces end.
pub struct ItemStream {
    kind: StreamKind,
    max_output: Option<u32>,
}

enum StreamKind {
    Synth(Box<SynthPrompts<Arc<Tokenizer>>>),
    Prompts(Slice<Prompt>),
    Trace(Box<TracePrompts<BufReader<File>, Arc<Tokenizer>>>),
    SynthConversations(Box<SynthConversations<Arc<Tokenizer>>>),
    Conversations(Slice<ConversationScript>),
}

impl fmt::Debug for ItemStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ItemStream").finish_non_exhaustive()
    }
}

/// Part of a file's entries; goes round when prompts may be used again.
struct Slice<T> {
    all: Arc<[T]>,
    at: usize,
    end: usize,
}

impl<T: Clone> Slice<T> {
    /// The next entry and how often the file was used up before.
    fn next(&mut self) -> Option<(T, usize)> {
        if self.at >= self.end || self.all.is_empty() {
            return None;
        }
        let (place, round) = (self.at % self.all.len(), self.at / self.all.len());
        self.at += 1;
        Some((self.all.get(place)?.clone(), round))
    }
}

impl PromptSource {
    /// Opens a dataset. A file is read, counted and put into its seeded order here; a trace is read once to its end, so
    /// that what is wrong in it is known before anything is sent. Relative paths start at `base_dir`.
    pub fn open(spec: &DatasetSpec, base_dir: &Path, tokenizer: Arc<Tokenizer>, seed: u64) -> Result<Self, DataError> {
        spec.validate()?;
        let kind = match spec {
            DatasetSpec::Synth(synth) => Kind::Synth(synth.clone()),
            DatasetSpec::Suite(suite) => Kind::Synth(suite.spec()),
            DatasetSpec::File(file) => open_file(file, base_dir, &tokenizer, seed)?,
            DatasetSpec::Trace(trace) => Kind::Trace {
                spec: trace.clone(),
                base_dir: base_dir.to_path_buf(),
                summary: summarise_trace(trace, base_dir)?,
            },
            DatasetSpec::Conversations(talks) => match &talks.file {
                None => Kind::SynthConversations(talks.clone()),
                Some(file) => {
                    let path = base_dir.join(&file.path);
                    let mut scripts = read_conversations(file, base_dir, talks.max_turns, &tokenizer)?.scripts;
                    shuffle(&mut file_order(seed), &mut scripts);
                    Kind::FileConversations { path, scripts: scripts.into(), drawn: 0 }
                }
            },
        };
        Ok(Self { tokenizer, seed, reuse: false, max_output: None, kind })
    }

    /// Whether a file's entries may be handed out again when all were drawn. Generated sets grow and never need it.
    #[must_use]
    pub fn with_reuse(mut self, reuse: bool) -> Self {
        self.reuse = reuse;
        self
    }

    /// Cuts every target output length to at most this many tokens.
    #[must_use]
    pub fn with_max_output(mut self, max_output: Option<u32>) -> Self {
        self.max_output = max_output;
        self
    }

    /// Items left for one more stream, or `None` where there is no end. A trace is the same for every stream, with other
    /// text.
    pub fn remaining(&self) -> Option<usize> {
        match &self.kind {
            Kind::File { prompts, drawn, .. } if !self.reuse => Some(prompts.len().saturating_sub(*drawn)),
            Kind::FileConversations { scripts, drawn, .. } if !self.reuse => Some(scripts.len().saturating_sub(*drawn)),
            Kind::Trace { summary, .. } => Some(usize::try_from(summary.counts.used).unwrap_or(usize::MAX)),
            _ => None,
        }
    }

    /// What a trace holds.
    pub fn trace(&self) -> Option<&TraceSummary> {
        match &self.kind {
            Kind::Trace { summary, .. } => Some(summary),
            _ => None,
        }
    }

    /// Recorded instant of request `n` of a trace, after the slice's start; `None` where there is none.
    pub fn trace_instant_ns(&self, n: usize) -> Result<Option<i64>, DataError> {
        match &self.kind {
            Kind::Trace { spec, base_dir, .. } => {
                Ok(open_trace(spec, base_dir)?.nth(n).transpose()?.map(|record| record.at_ns))
            }
            _ => Ok(None),
        }
    }

    /// Do its prompts have the form of messages? `None` for conversations and where there is no first prompt.
    pub fn has_messages(&self) -> Option<bool> {
        match &self.kind {
            Kind::File { prompts, .. } => prompts.first().map(|prompt| prompt.body.is_messages()),
            Kind::Synth(_) | Kind::Trace { .. } => Some(false),
            Kind::SynthConversations(_) | Kind::FileConversations { .. } => None,
        }
    }

    /// Opens one stream per request, all disjoint. A generated stream depends only on spec, seed and its name; a file is
    /// cut into slices in the order of the requests, this call's behind those of earlier calls.
    pub fn streams(&mut self, requests: &[StreamRequest]) -> Result<Vec<ItemStream>, DataError> {
        let mut names = HashSet::new();
        if let Some(twice) = requests.iter().find(|stream| !names.insert(stream.name.as_str())) {
            return Err(DataError::StreamTwice { stream: twice.name.clone() });
        }
        let kinds: Vec<StreamKind> = match &mut self.kind {
            Kind::Synth(spec) => requests
                .iter()
                .map(|stream| {
                    let tokenizer = Arc::clone(&self.tokenizer);
                    let prompts = SynthPrompts::new(spec, self.seed, &stream.name, stream.n, tokenizer)?;
                    Ok(StreamKind::Synth(Box::new(prompts)))
                })
                .collect::<Result<_, DataError>>()?,
            Kind::Trace { spec, base_dir, .. } => requests
                .iter()
                .map(|stream| {
                    let reader = open_trace(spec, base_dir)?;
                    let tokenizer = Arc::clone(&self.tokenizer);
                    Ok(StreamKind::Trace(Box::new(TracePrompts::new(reader, self.seed, &stream.name, tokenizer)?)))
                })
                .collect::<Result<_, DataError>>()?,
            Kind::SynthConversations(spec) => requests
                .iter()
                .map(|stream| {
                    let tokenizer = Arc::clone(&self.tokenizer);
                    let scripts = SynthConversations::new(spec, self.seed, &stream.name, tokenizer)?;
                    Ok(StreamKind::SynthConversations(Box::new(scripts)))
                })
                .collect::<Result<_, DataError>>()?,
            Kind::File { path, prompts, drawn } => slices(path, prompts, drawn, requests, self.reuse, |_| 1)?
                .into_iter()
                .map(StreamKind::Prompts)
                .collect(),
            Kind::FileConversations { path, scripts, drawn } => {
                slices(path, scripts, drawn, requests, self.reuse, |script| script.turns.len())?
                    .into_iter()
                    .map(StreamKind::Conversations)
                    .collect()
            }
        };
        Ok(kinds.into_iter().map(|kind| ItemStream { kind, max_output: self.max_output }).collect())
    }

    /// Like [`Self::streams`], but makes all prompts at once, on all cores, `n` per stream. Not for conversations.
    pub fn draw(&mut self, requests: &[StreamRequest]) -> Result<Vec<Vec<Prompt>>, DataError> {
        let streams = self.streams(requests)?;
        if let Kind::Synth(spec) = &self.kind {
            let cap = self.max_output.unwrap_or(u32::MAX);
            return requests
                .iter()
                .map(|stream| {
                    let mut prompts = synthesize(spec, self.seed, &stream.name, stream.n, self.tokenizer.as_ref())?;
                    for prompt in &mut prompts {
                        prompt.output_tokens = prompt.output_tokens.min(cap);
                    }
                    Ok(prompts)
                })
                .collect();
        }
        streams
            .into_iter()
            .zip(requests)
            .map(|(stream, request)| {
                stream
                    .take(request.n)
                    .map(|item| match item? {
                        Item::Prompt(prompt) | Item::Traced(TracePrompt { prompt, .. }) => Ok(prompt),
                        Item::Conversation(_) => Err(DataError::NotSingle),
                    })
                    .collect()
            })
            .collect()
    }
}

impl Iterator for ItemStream {
    type Item = Result<Item, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let numbered = |id: String, round: usize| if round == 0 { id } else { format!("{id}#{}", round + 1) };
        let item = match &mut self.kind {
            StreamKind::Synth(prompts) => prompts.next_prompt().map(Item::Prompt),
            StreamKind::Trace(prompts) => prompts.next()?.map(Item::Traced),
            StreamKind::SynthConversations(scripts) => scripts.next_script().map(Item::Conversation),
            StreamKind::Prompts(slice) => {
                let (mut prompt, round) = slice.next()?;
                prompt.id = numbered(prompt.id, round);
                Ok(Item::Prompt(prompt))
            }
            StreamKind::Conversations(slice) => {
                let (mut script, round) = slice.next()?;
                script.id = numbered(script.id, round);
                Ok(Item::Conversation(script))
            }
        };
        let cap = self.max_output.unwrap_or(u32::MAX);
        Some(item.map(|mut item| {
            match &mut item {
                Item::Prompt(prompt) | Item::Traced(TracePrompt { prompt, .. }) => {
                    prompt.output_tokens = prompt.output_tokens.min(cap);
                }
                Item::Conversation(script) => {
                    for turn in &mut script.turns {
                        turn.output_tokens = turn.output_tokens.min(cap);
                    }
                }
            }
            item
        }))
    }
}

fn file_order(seed: u64) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update(b"file order");
    hash.update(seed.to_le_bytes());
    ChaCha8Rng::from_seed(hash.finalize().into())
}

fn open_file(file: &FileSpec, base_dir: &Path, tokenizer: &Tokenizer, seed: u64) -> Result<Kind, DataError> {
    let path = base_dir.join(&file.path);
    let mut prompts = read_dataset(file, base_dir, tokenizer)?.prompts;
    if let Some(empty) = prompts.iter().find(|prompt| prompt.input_tokens == 0) {
        let reason = format!("prompt `{}` is empty and no server takes it; remove it", empty.id);
        return Err(DataError::NoPrompts { path, reason });
    }
    shuffle(&mut file_order(seed), &mut prompts);
    Ok(Kind::File { path, prompts: prompts.into(), drawn: 0 })
}

/// All or nothing: a refused draw must not use up prompts.
fn slices<T>(
    path: &Path,
    all: &Arc<[T]>,
    drawn: &mut usize,
    requests: &[StreamRequest],
    reuse: bool,
    size: impl Fn(&T) -> usize,
) -> Result<Vec<Slice<T>>, DataError> {
    let mut cursor = *drawn;
    let mut slices = Vec::with_capacity(requests.len());
    for stream in requests {
        let size = |entry: &T| if stream.counts_requests { size(entry).max(1) } else { 1 };
        let (mut end, mut n) = (cursor, 0);
        while n < stream.n {
            let entry = if reuse { all.get(end % all.len().max(1)) } else { all.get(end) };
            let Some(entry) = entry else {
                let sum = |entries: &[T]| entries.iter().map(size).sum();
                return Err(DataError::TooFewPrompts {
                    path: path.to_path_buf(),
                    stream: stream.name.clone(),
                    wanted: stream.n,
                    drawn: sum(all.get(..cursor).unwrap_or(all)),
                    available: sum(all),
                });
            };
            n += size(entry);
            end += 1;
        }
        slices.push(Slice { all: Arc::clone(all), at: cursor, end });
        cursor = end;
    }
    *drawn = cursor;
    Ok(slices)
}

/// SHA-256 (hex) of a dataset file's bytes: what cell ids hash of a file. Traces can be large, so it is not read whole.
pub fn file_sha256(file: &FileSpec, base_dir: &Path) -> Result<String, DataError> {
    let path = base_dir.join(&file.path);
    let failed = |source| DataError::Read { path: path.clone(), source };
    let mut input = File::open(&path).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0_u8; 1 << 16];
    loop {
        let n = input.read(&mut buffer).map_err(failed)?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(buffer.get(..n).unwrap_or_default());
    }
}
