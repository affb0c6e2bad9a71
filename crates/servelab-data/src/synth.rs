//! Synthetic prompts: seeded, natural-looking text with exact token counts. A prompt depends on the spec, the run's seed,
//! its stream's name and its number there, on nothing else: not on threads, other streams or what was drawn before.

use std::collections::HashSet;

use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use servelab_core::workload::{Category, LengthProfile, SynthSpec, TokenRange};
use sha2::{Digest, Sha256};

use crate::error::DataError;
use crate::prompt::{Prompt, PromptBody};
use crate::tokenizer::Tokenizer;

mod fit;
mod grammar;
mod lazy;
mod lexicon;
#[cfg(test)]
mod tests;
mod topics;

pub(crate) use fit::{Composer, Prefix};
pub(crate) use lazy::SynthPrompts;
#[cfg(test)]
pub(crate) use tests::{byte_tokenizer, metaspace_tokenizer};

/// How often a prompt that equals an earlier one of its stream is made again. Very short prompts may stay equal.
const MAX_REDRAWS: u32 = 16;

/// Fewest prompts that are worth a thread of their own.
const MIN_PROMPTS_PER_THREAD: usize = 8;

/// What one prompt has to be, before there is text.
struct Plan {
    category: Option<Category>,
    input_tokens: u32,
    output_tokens: u32,
    group: Option<u32>,
}

/// Makes the first `n` prompts of the stream `stream`.
pub fn synthesize(
    spec: &SynthSpec,
    seed: u64,
    stream: &str,
    n: usize,
    tokenizer: &Tokenizer,
) -> Result<Vec<Prompt>, DataError> {
    spec.validate()?;
    let seeder = Seeder::new(spec.content_text(), seed, stream);
    let order = Order::new(spec, &seeder, n, 0);
    let plans: Vec<Plan> = (0..n).map(|idx| order.plan(&seeder, idx)).collect();
    let mut composer = Composer::new(tokenizer)?;
    let prefixes = prefixes(spec, &seeder, &plans, &mut composer)?;
    let mut texts = compose_all(&plans, &prefixes, &seeder, tokenizer)?;

    let mut seen = HashSet::with_capacity(texts.len());
    for (idx, (text, plan)) in texts.iter_mut().zip(&plans).enumerate() {
        let mut salt = 0;
        while !seen.insert(Sha256::digest(text.as_bytes())) && salt < MAX_REDRAWS {
            salt += 1;
            *text = compose(plan, &prefixes, &mut seeder.rng("text", idx, salt), &mut composer)?;
        }
    }
    let prompts = texts.into_iter().zip(plans).enumerate().map(|(idx, (text, plan))| Prompt {
        id: format!("{stream}-{idx:05}"),
        body: PromptBody::Text(text),
        input_tokens: plan.input_tokens,
        output_tokens: plan.output_tokens,
        temperature: None,
        category: plan.category,
        group: plan.group,
        stated_input_tokens: None,
    });
    Ok(prompts.collect())
}

/// Derives independent random streams. The whole spec goes in, so that two sets that differ only in their lengths do not
/// start with the same words.
#[derive(Debug, Clone)]
pub(crate) struct Seeder {
    content: String,
    seed: u64,
    stream: String,
}

impl Seeder {
    pub(crate) fn new(content: String, seed: u64, stream: &str) -> Self {
        Self { content, seed, stream: stream.to_owned() }
    }

    pub(crate) fn rng(&self, purpose: &str, idx: usize, salt: u32) -> ChaCha8Rng {
        let mut hash = Sha256::new();
        hash.update(self.seed.to_le_bytes());
        for text in [self.content.as_str(), purpose, self.stream.as_str()] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        hash.update((idx as u64).to_le_bytes());
        hash.update(salt.to_le_bytes());
        ChaCha8Rng::from_seed(hash.finalize().into())
    }
}

/// What kind of prompt stands where in `n` prompts of a stream: the mix and the prefixes, shuffled.
#[derive(Debug)]
struct Order {
    profiles: Vec<LengthProfile>,
    max_output: Option<u32>,
    /// Number in `profiles` per prompt; empty where there is one kind.
    kinds: Vec<u8>,
    /// Prefix per prompt; empty without one.
    groups: Vec<u32>,
}

impl Order {
    /// The order of one chunk of `n` prompts: a stream that goes on beyond its size is shuffled chunk by chunk.
    fn new(spec: &SynthSpec, seeder: &Seeder, n: usize, chunk: usize) -> Self {
        let mut rng = seeder.rng("order", chunk, 0);
        let profiles = spec.profiles();
        let mut kinds: Vec<u8> = Vec::new();
        if let Some(mix) = &spec.mix {
            kinds.reserve_exact(n);
            for (category, quota) in Category::ALL.into_iter().zip(mix.quotas(n as u64)) {
                let kind = (0u8..).zip(&profiles).find(|(_, profile)| profile.category == Some(category));
                kinds.extend(kind.into_iter().flat_map(|(kind, _)| std::iter::repeat_n(kind, quota as usize)));
            }
        }
        // One kind is shuffled too: the prefixes below are drawn from what follows in the same random stream.
        if kinds.is_empty() {
            skip_shuffle(&mut rng, n);
        } else {
            shuffle(&mut rng, &mut kinds);
        }
        let groups = spec.shared_prefix.map(|prefix| prefix.groups.max(1));
        let mut groups: Vec<u32> =
            groups.map_or_else(Vec::new, |groups| (0..n as u32).map(|idx| idx % groups).collect());
        shuffle(&mut rng, &mut groups);
        Self { profiles, max_output: spec.max_output, kinds, groups }
    }

    /// Prompt `idx` of the stream, which stands at `idx` modulo the chunk's size.
    fn plan(&self, seeder: &Seeder, idx: usize) -> Plan {
        let place = |len: usize| idx % len.max(1);
        let kind = self.kinds.get(place(self.kinds.len())).map_or(0, |kind| usize::from(*kind));
        let mut rng = seeder.rng("lengths", idx, 0);
        let mut draw = |range: TokenRange| rng.random_range(range.min..=range.max.max(range.min));
        let one = TokenRange { min: 1, max: 1 };
        let (input, output) = self.profiles.get(kind).map_or((one, one), |profile| (profile.input, profile.output));
        let (input_tokens, output_tokens) = (draw(input), draw(output));
        Plan {
            category: self.profiles.get(kind).and_then(|profile| profile.category),
            input_tokens,
            output_tokens: output_tokens.min(self.max_output.unwrap_or(u32::MAX)),
            group: self.groups.get(place(self.groups.len())).copied(),
        }
    }
}

/// Draws what shuffling `n` items would draw.
fn skip_shuffle(rng: &mut ChaCha8Rng, n: usize) {
    for idx in (1..n).rev() {
        let _: usize = rng.random_range(0..=idx);
    }
}

/// Fisher–Yates; our own so that a new version of a library never changes a dataset.
pub(crate) fn shuffle<T>(rng: &mut ChaCha8Rng, items: &mut [T]) {
    for idx in (1..items.len()).rev() {
        items.swap(idx, rng.random_range(0..=idx));
    }
}

fn prefixes(
    spec: &SynthSpec,
    seeder: &Seeder,
    plans: &[Plan],
    composer: &mut Composer<impl AsRef<Tokenizer>>,
) -> Result<Vec<Prefix>, DataError> {
    let tokens = spec.shared_prefix_tokens();
    let groups = plans.iter().filter_map(|plan| plan.group).max().map_or(0, |last| last as usize + 1);
    if tokens == 0 {
        return Ok(Vec::new());
    }
    (0..groups)
        .map(|group| {
            let text = composer.compose(&mut seeder.rng("prefix", group, 0), tokens, &Prefix::default())?;
            Ok(Prefix { text, tokens })
        })
        .collect()
}

fn compose(
    plan: &Plan,
    prefixes: &[Prefix],
    rng: &mut ChaCha8Rng,
    composer: &mut Composer<impl AsRef<Tokenizer>>,
) -> Result<String, DataError> {
    let none = Prefix::default();
    let prefix = plan.group.and_then(|group| prefixes.get(group as usize)).unwrap_or(&none);
    composer.compose(rng, plan.input_tokens, prefix)
}

fn compose_all(
    plans: &[Plan],
    prefixes: &[Prefix],
    seeder: &Seeder,
    tokenizer: &Tokenizer,
) -> Result<Vec<String>, DataError> {
    let threads =
        std::thread::available_parallelism().map_or(1, usize::from).min(plans.len() / MIN_PROMPTS_PER_THREAD).max(1);
    let chunk_len = plans.len().div_ceil(threads).max(1);
    let one_chunk = |start: usize, chunk: &[Plan]| -> Result<Vec<String>, DataError> {
        let mut composer = Composer::new(tokenizer)?;
        chunk
            .iter()
            .enumerate()
            .map(|(offset, plan)| compose(plan, prefixes, &mut seeder.rng("text", start + offset, 0), &mut composer))
            .collect()
    };
    if threads == 1 {
        return one_chunk(0, plans);
    }
    std::thread::scope(|scope| {
        let workers: Vec<_> = plans
            .chunks(chunk_len)
            .enumerate()
            .map(|(number, chunk)| scope.spawn(move || one_chunk(number * chunk_len, chunk)))
            .collect();
        let mut texts = Vec::with_capacity(plans.len());
        for worker in workers {
            match worker.join() {
                Ok(chunk) => texts.extend(chunk?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(texts)
    })
}
