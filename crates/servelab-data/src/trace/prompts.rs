//! Text for the requests of a trace. Blocks with the same id get the same text, so that the server's prefix cache finds
//! what it found in production; everything else is text of its own. Token counts are exact.

use std::collections::{HashMap, VecDeque};
use std::io::BufRead;
use std::sync::Arc;

use super::{TraceCounts, TraceReader, TraceRecord};
use crate::error::DataError;
use crate::prompt::{Prompt, PromptBody};
use crate::synth::{Composer, Prefix, Seeder};
use crate::tokenizer::Tokenizer;

/// Text of blocks that is kept; what was dropped is made again, the same.
const MAX_KEPT_BYTES: usize = 64 << 20;

/// A request of a trace with its text.
#[derive(Debug, Clone, PartialEq)]
pub struct TracePrompt {
    /// Nanoseconds after the slice's start, as recorded.
    pub at_ns: i64,
    /// What is sent.
    pub prompt: Prompt,
}

/// Requests of a trace with their texts, one at a time. Text depends on the trace's seed, the run's seed, the stream's
/// name and the block's id or the request's number.
pub struct TracePrompts<R, T> {
    reader: TraceReader<R>,
    composer: Composer<T>,
    seeder: Seeder,
    stream: String,
    blocks: Blocks,
    block_tokens: u32,
    idx: usize,
    is_over: bool,
}

impl<R: BufRead, T: AsRef<Tokenizer>> TracePrompts<R, T> {
    /// Gives a trace its text. Streams of different names share no text.
    ///
    /// # Errors
    /// A tokenizer that cannot count.
    pub fn new(reader: TraceReader<R>, seed: u64, stream: &str, tokenizer: T) -> Result<Self, DataError> {
        let block_tokens = reader.spec.block_tokens();
        let content = format!("trace, blocks of {block_tokens}, seed {}", reader.spec.seed);
        Ok(Self {
            reader,
            composer: Composer::new(tokenizer)?,
            seeder: Seeder::new(content, seed, stream),
            stream: stream.to_owned(),
            blocks: Blocks::default(),
            block_tokens,
            idx: 0,
            is_over: false,
        })
    }

    /// What was seen so far.
    pub fn counts(&self) -> TraceCounts {
        self.reader.counts()
    }

    fn prompt(&mut self, record: &TraceRecord) -> Result<Prompt, DataError> {
        let idx = self.idx;
        self.idx += 1;
        let text = self.text(record, idx)?;
        Ok(Prompt {
            id: format!("{}-{idx:05}", self.stream),
            body: PromptBody::Text(text),
            input_tokens: record.input_tokens,
            output_tokens: record.output_tokens,
            temperature: None,
            category: None,
            group: None,
            stated_input_tokens: Some(record.input_tokens),
        })
    }

    fn text(&mut self, record: &TraceRecord, idx: usize) -> Result<String, DataError> {
        let mut own = self.seeder.rng("text", idx, 0);
        if record.hash_ids.is_empty() {
            return self.composer.compose(&mut own, record.input_tokens, &Prefix::default());
        }
        let mut text = String::with_capacity(record.input_tokens as usize * 5);
        let mut left = record.input_tokens;
        let mut last_start = 0;
        for id in &record.hash_ids {
            let tokens = left.min(self.block_tokens);
            if tokens == 0 {
                break;
            }
            left -= tokens;
            last_start = text.len();
            text.push_str(&self.block(*id, tokens)?);
        }
        if left > 0 {
            last_start = text.len();
            text.push_str(&self.composer.block(&mut own, left)?);
        }
        // Blocks are counted alone; some tokenizers merge across their border. Repairs touch the last block only, and in
        // the same way for the same blocks, unless that cannot be enough.
        match self.composer.fit(text.clone(), record.input_tokens, last_start) {
            Err(DataError::Length { .. }) => self.composer.fit(text, record.input_tokens, 0),
            fitted => fitted,
        }
    }

    fn block(&mut self, id: u64, tokens: u32) -> Result<Arc<str>, DataError> {
        if let Some(text) = self.blocks.texts.get(&(id, tokens)) {
            return Ok(Arc::clone(text));
        }
        // The id is a name, so it must not be cut to the width of an index.
        let mut rng = self.seeder.rng(&format!("block {id}"), tokens as usize, 0);
        let text: Arc<str> = self.composer.block(&mut rng, tokens)?.into();
        self.blocks.keep((id, tokens), Arc::clone(&text));
        Ok(text)
    }
}

impl<R: BufRead, T: AsRef<Tokenizer>> Iterator for TracePrompts<R, T> {
    type Item = Result<TracePrompt, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let next = self.reader.next().map(|record| {
            let record = record?;
            Ok(TracePrompt { at_ns: record.at_ns, prompt: self.prompt(&record)? })
        });
        self.is_over = !matches!(next, Some(Ok(_)));
        next
    }
}

/// Texts of blocks, the oldest dropped first.
#[derive(Default)]
struct Blocks {
    texts: HashMap<(u64, u32), Arc<str>>,
    ages: VecDeque<(u64, u32)>,
    bytes: usize,
}

impl Blocks {
    fn keep(&mut self, key: (u64, u32), text: Arc<str>) {
        self.bytes += text.len();
        self.texts.insert(key, text);
        self.ages.push_back(key);
        while self.bytes > MAX_KEPT_BYTES {
            let Some(oldest) = self.ages.pop_front() else { break };
            if let Some(text) = self.texts.remove(&oldest) {
                self.bytes -= text.len();
            }
        }
    }
}
