//! A synthetic stream one prompt at a time, without end and in bounded memory: the same prompts that `synthesize` makes
//! at once.

use std::collections::{HashMap, HashSet};

use servelab_core::workload::SynthSpec;
use sha2::{Digest, Sha256};

use super::{Composer, MAX_REDRAWS, Order, Plan, Prefix, Seeder};
use crate::error::DataError;
use crate::prompt::{Prompt, PromptBody};
use crate::tokenizer::Tokenizer;

/// Prompts that are compared with later ones: about 20 MB. A stream that is longer may repeat very short prompts.
const MAX_COMPARED: usize = 1 << 20;

/// Longer prompts have so many sentences that two equal ones never occur; they are not compared.
const MAX_COMPARED_TOKENS: u32 = 128;

/// Prefixes kept at a time.
const MAX_PREFIXES: usize = 1024;

/// A stream of synthetic prompts.
pub(crate) struct SynthPrompts<T> {
    spec: SynthSpec,
    stream: String,
    seeder: Seeder,
    composer: Composer<T>,
    chunk_len: usize,
    order: Order,
    prefixes: HashMap<u32, Prefix>,
    seen: HashSet<u64>,
    idx: usize,
}

impl<T: AsRef<Tokenizer>> SynthPrompts<T> {
    /// The stream whose first `chunk_len` prompts are those of `synthesize` with that `n`; more follow in the same way.
    pub(crate) fn new(
        spec: &SynthSpec,
        seed: u64,
        stream: &str,
        chunk_len: usize,
        tokenizer: T,
    ) -> Result<Self, DataError> {
        spec.validate()?;
        let seeder = Seeder::new(spec.content_text(), seed, stream);
        let chunk_len = chunk_len.max(1);
        Ok(Self {
            order: Order::new(spec, &seeder, chunk_len, 0),
            spec: spec.clone(),
            stream: stream.to_owned(),
            seeder,
            composer: Composer::new(tokenizer)?,
            chunk_len,
            prefixes: HashMap::new(),
            seen: HashSet::new(),
            idx: 0,
        })
    }

    /// The next prompt.
    pub(crate) fn next_prompt(&mut self) -> Result<Prompt, DataError> {
        let idx = self.idx;
        if idx > 0 && idx.is_multiple_of(self.chunk_len) {
            self.order = Order::new(&self.spec, &self.seeder, self.chunk_len, idx / self.chunk_len);
        }
        self.idx += 1;
        let plan = self.order.plan(&self.seeder, idx);
        let mut text = self.compose(&plan, idx, 0)?;
        let mut salt = 0;
        while self.is_repeated(&text, &plan) && salt < MAX_REDRAWS {
            salt += 1;
            text = self.compose(&plan, idx, salt)?;
        }
        Ok(Prompt {
            id: format!("{}-{idx:05}", self.stream),
            body: PromptBody::Text(text),
            input_tokens: plan.input_tokens,
            output_tokens: plan.output_tokens,
            temperature: None,
            category: plan.category,
            group: plan.group,
            stated_input_tokens: None,
        })
    }

    /// Was there an equal prompt? Remembers this one.
    fn is_repeated(&mut self, text: &str, plan: &Plan) -> bool {
        if plan.input_tokens > MAX_COMPARED_TOKENS {
            return false;
        }
        let digest = Sha256::digest(text.as_bytes());
        let key = digest.iter().take(8).fold(0u64, |key, byte| key << 8 | u64::from(*byte));
        if self.seen.len() >= MAX_COMPARED {
            return self.seen.contains(&key);
        }
        !self.seen.insert(key)
    }

    fn compose(&mut self, plan: &Plan, idx: usize, salt: u32) -> Result<String, DataError> {
        let mut rng = self.seeder.rng("text", idx, salt);
        let tokens = self.spec.shared_prefix_tokens();
        let Some(group) = plan.group.filter(|_| tokens > 0) else {
            return self.composer.compose(&mut rng, plan.input_tokens, &Prefix::default());
        };
        if !self.prefixes.contains_key(&group) {
            if self.prefixes.len() >= MAX_PREFIXES {
                self.prefixes.clear();
            }
            let mut rng = self.seeder.rng("prefix", group as usize, 0);
            let text = self.composer.compose(&mut rng, tokens, &Prefix::default())?;
            self.prefixes.insert(group, Prefix { text, tokens });
        }
        let none = Prefix::default();
        self.composer.compose(&mut rng, plan.input_tokens, self.prefixes.get(&group).unwrap_or(&none))
    }
}
