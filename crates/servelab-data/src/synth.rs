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
mod lexicon;
#[cfg(test)]
mod tests;
mod topics;

use fit::{Composer, Prefix};

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
    let seeder = Seeder { content: spec.content_text(), seed, stream };
    let plans = plan(spec, &seeder, n);
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
struct Seeder<'a> {
    content: String,
    seed: u64,
    stream: &'a str,
}

impl Seeder<'_> {
    fn rng(&self, purpose: &str, idx: usize, salt: u32) -> ChaCha8Rng {
        let mut hash = Sha256::new();
        hash.update(self.seed.to_le_bytes());
        for text in [self.content.as_str(), purpose, self.stream] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        hash.update((idx as u64).to_le_bytes());
        hash.update(salt.to_le_bytes());
        ChaCha8Rng::from_seed(hash.finalize().into())
    }
}

fn plan(spec: &SynthSpec, seeder: &Seeder<'_>, n: usize) -> Vec<Plan> {
    let mut order = seeder.rng("order", 0, 0);
    let profiles = spec.profiles();
    let mut kinds: Vec<LengthProfile> = Vec::with_capacity(n);
    match &spec.mix {
        Some(mix) => {
            for (category, quota) in Category::ALL.into_iter().zip(mix.quotas(n as u64)) {
                let profile = profiles.iter().find(|profile| profile.category == Some(category));
                kinds.extend(profile.into_iter().flat_map(|profile| std::iter::repeat_n(*profile, quota as usize)));
            }
        }
        None => kinds.extend(profiles.first().into_iter().flat_map(|profile| std::iter::repeat_n(*profile, n))),
    }
    shuffle(&mut order, &mut kinds);
    let groups = spec.shared_prefix.map(|prefix| prefix.groups.max(1));
    let mut group_order: Vec<u32> =
        groups.map_or_else(Vec::new, |groups| (0..n as u32).map(|idx| idx % groups).collect());
    shuffle(&mut order, &mut group_order);
    kinds
        .into_iter()
        .enumerate()
        .map(|(idx, kind)| {
            let mut rng = seeder.rng("lengths", idx, 0);
            let mut draw = |range: TokenRange| rng.random_range(range.min..=range.max.max(range.min));
            let (input_tokens, output_tokens) = (draw(kind.input), draw(kind.output));
            Plan {
                category: kind.category,
                input_tokens,
                output_tokens: output_tokens.min(spec.max_output.unwrap_or(u32::MAX)),
                group: group_order.get(idx).copied(),
            }
        })
        .collect()
}

/// Fisher–Yates; our own so that a new version of a library never changes a dataset.
pub(crate) fn shuffle<T>(rng: &mut ChaCha8Rng, items: &mut [T]) {
    for idx in (1..items.len()).rev() {
        items.swap(idx, rng.random_range(0..=idx));
    }
}

fn prefixes(
    spec: &SynthSpec,
    seeder: &Seeder<'_>,
    plans: &[Plan],
    composer: &mut Composer<'_>,
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
    composer: &mut Composer<'_>,
) -> Result<String, DataError> {
    let none = Prefix::default();
    let prefix = plan.group.and_then(|group| prefixes.get(group as usize)).unwrap_or(&none);
    composer.compose(rng, plan.input_tokens, prefix)
}

fn compose_all(
    plans: &[Plan],
    prefixes: &[Prefix],
    seeder: &Seeder<'_>,
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
