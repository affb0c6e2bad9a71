//! What a dataset is really like: lengths, histograms, and lints for sets that do not deserve their name. Counts are made
//! anew from the text; what a file claims is only compared. Text for people is in `render`.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Serialize;
use servelab_core::workload::{Category, DEFAULT_BLOCK_SIZE};

use crate::error::DataError;
use crate::prompt::Prompt;
use crate::tokenizer::Tokenizer;

mod render;
#[cfg(test)]
mod tests;

pub use render::render_stats;

/// Share of a category's prompts that may lie outside its range before it is a lint.
const MAX_MISPLACED: f64 = 0.05;

/// Share of prompt tokens that may be found in a prefix cache by chance before it is a lint.
const MAX_SHARED: f64 = 0.01;

/// What is known about a dataset.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DatasetStats {
    /// Prompts.
    pub count: usize,
    /// Fingerprint of the tokenizer that counted.
    pub tokenizer: String,
    /// Prompt tokens, counted.
    pub input_tokens: LengthStats,
    /// Target output tokens.
    pub output_tokens: LengthStats,
    /// Per length class, in the order short, medium, long, none; classes without prompts are left out.
    pub categories: Vec<CategoryStats>,
    /// Share of prompt tokens (0–1) that an initially empty prefix cache with 16-token blocks finds when the prompts
    /// arrive one after the other.
    pub shared_prefix_fraction: f64,
    /// What a person should know before using the set.
    pub lints: Vec<Lint>,
}

/// Distribution of a length in tokens. Percentiles interpolate linearly.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LengthStats {
    /// Sum.
    pub total: u64,
    /// Mean; `None` without prompts.
    pub mean: Option<f64>,
    /// Smallest.
    pub min: Option<u32>,
    /// Median.
    pub p50: Option<f64>,
    /// 90th percentile.
    pub p90: Option<f64>,
    /// 95th percentile.
    pub p95: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
    /// Largest.
    pub max: Option<u32>,
    /// Counts per bin.
    pub histogram: Histogram,
}

/// Counts per bin of equal width.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Histogram {
    /// Adjacent bins, in order.
    pub bins: Vec<HistogramBin>,
}

/// One bin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct HistogramBin {
    /// Smallest value inside, in tokens.
    pub from_tokens: u32,
    /// Largest value inside, in tokens.
    pub to_tokens: u32,
    /// Prompts.
    pub count: usize,
}

/// One length class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CategoryStats {
    /// The class; `None` for prompts without one.
    pub category: Option<Category>,
    /// Prompts.
    pub count: usize,
    /// Prompt tokens.
    pub input_tokens: LengthStats,
    /// Target output tokens.
    pub output_tokens: LengthStats,
}

/// Something wrong or surprising about a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lint {
    /// `category_length_mismatch`, `shared_prefix`, `duplicate_prompts`, `stated_length_mismatch` or `empty_prompt`.
    pub code: &'static str,
    /// The evidence, with its numbers.
    pub detail: String,
}

/// Measures a dataset.
pub fn stats(prompts: &[Prompt], tokenizer: &Tokenizer) -> Result<DatasetStats, DataError> {
    let mut inputs = Vec::with_capacity(prompts.len());
    let mut cache = PrefixCache::default();
    for prompt in prompts {
        let ids = tokenizer.encode(&prompt.body.text())?;
        cache.insert(&ids);
        // Messages are counted one by one by whoever made the prompt; joined text would count its joints too.
        let tokens = match &prompt.body {
            crate::prompt::PromptBody::Text(_) => u32::try_from(ids.len()).unwrap_or(u32::MAX),
            crate::prompt::PromptBody::Messages(_) => prompt.input_tokens,
        };
        inputs.push(tokens);
    }
    let outputs: Vec<u32> = prompts.iter().map(|prompt| prompt.output_tokens).collect();
    let kinds = Category::ALL.into_iter().map(Some).chain([None]);
    let categories = kinds
        .filter_map(|category| {
            let chosen = |lengths: &[u32]| -> Vec<u32> {
                let pairs = prompts.iter().zip(lengths);
                pairs.filter(|(prompt, _)| prompt.category == category).map(|(_, tokens)| *tokens).collect()
            };
            let input = chosen(&inputs);
            (!input.is_empty()).then(|| CategoryStats {
                category,
                count: input.len(),
                input_tokens: length_stats(&input),
                output_tokens: length_stats(&chosen(&outputs)),
            })
        })
        .collect();
    let mut lints = Vec::new();
    lint_categories(prompts, &inputs, &mut lints);
    lint_prefix(prompts, &cache, &mut lints);
    lint_duplicates(prompts, &mut lints);
    lint_stated(prompts, &inputs, &mut lints);
    lint_empty(prompts, &inputs, &mut lints);
    Ok(DatasetStats {
        count: prompts.len(),
        tokenizer: tokenizer.fingerprint().to_owned(),
        input_tokens: length_stats(&inputs),
        output_tokens: length_stats(&outputs),
        categories,
        shared_prefix_fraction: cache.hit_rate(),
        lints,
    })
}

/// What a server's prefix cache of whole blocks would find, without evictions.
#[derive(Default)]
struct PrefixCache {
    blocks: HashSet<u64>,
    hit_tokens: u64,
    tokens: u64,
}

impl PrefixCache {
    fn insert(&mut self, ids: &[u32]) {
        let block = DEFAULT_BLOCK_SIZE as usize;
        let mut hasher = DefaultHasher::new();
        let mut hitting = true;
        // A server always computes the last token itself, so a block that holds it is never taken from the cache.
        let cacheable = ids.len().saturating_sub(1) / block;
        for (number, chunk) in ids.chunks_exact(block).enumerate() {
            // Each block's key covers everything before it.
            chunk.hash(&mut hasher);
            let known = !self.blocks.insert(hasher.finish());
            hitting &= known && number < cacheable;
            self.hit_tokens += if hitting { chunk.len() as u64 } else { 0 };
        }
        self.tokens += ids.len() as u64;
    }

    fn hit_rate(&self) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.hit_tokens as f64 / self.tokens as f64 }
    }
}

fn lint_categories(prompts: &[Prompt], inputs: &[u32], lints: &mut Vec<Lint>) {
    for category in Category::ALL {
        let members: Vec<(&Prompt, u32)> = prompts
            .iter()
            .zip(inputs.iter().copied())
            .filter(|(prompt, _)| prompt.category == Some(category))
            .collect();
        let (input, output) = (category.input_range(), category.output_range());
        // A long prompt cannot be too long for its name, and a capped output cannot be too short for it.
        let max = if category == Category::Long { u32::MAX } else { input.max };
        let misplaced = members.iter().filter(|(_, tokens)| !(input.min..=max).contains(tokens)).count();
        let name = category.as_str();
        if misplaced as f64 > MAX_MISPLACED * members.len() as f64 {
            let mean = members.iter().map(|(_, tokens)| f64::from(*tokens)).sum::<f64>() / members.len() as f64;
            lints.push(Lint {
                code: "category_length_mismatch",
                detail: format!(
                    "{misplaced} of {} prompts called {name} are not: they average {mean:.0} tokens, {name} means {} to {} tokens",
                    members.len(), input.min, input.max
                ),
            });
        }
        let chatty = members.iter().filter(|(prompt, _)| prompt.output_tokens > output.max).count();
        if chatty as f64 > MAX_MISPLACED * members.len() as f64 {
            lints.push(Lint {
                code: "category_length_mismatch",
                detail: format!(
                    "{chatty} of {} prompts called {name} ask for more than {} output tokens, the most that {name} means",
                    members.len(), output.max
                ),
            });
        }
    }
}

fn lint_prefix(prompts: &[Prompt], cache: &PrefixCache, lints: &mut Vec<Lint>) {
    let rate = cache.hit_rate();
    if rate <= MAX_SHARED {
        return;
    }
    let groups: HashSet<u32> = prompts.iter().filter_map(|prompt| prompt.group).collect();
    let intent = if groups.is_empty() {
        "prefix caching will look better than it is".to_owned()
    } else {
        format!("the set was made with {} shared prefixes", groups.len())
    };
    lints.push(Lint {
        code: "shared_prefix",
        detail: format!(
            "{:.1} % of the prompt tokens repeat the start of an earlier prompt (blocks of {DEFAULT_BLOCK_SIZE} tokens): {intent}",
            rate * 100.0
        ),
    });
}

fn lint_duplicates(prompts: &[Prompt], lints: &mut Vec<Lint>) {
    let mut first: HashMap<String, &str> = HashMap::with_capacity(prompts.len());
    let mut duplicates = 0usize;
    let mut example = None;
    for prompt in prompts {
        match first.get(prompt.body.text().as_ref()) {
            Some(earlier) => {
                duplicates += 1;
                example.get_or_insert((*earlier, prompt.id.as_str()));
            }
            None => {
                first.insert(prompt.body.text().into_owned(), &prompt.id);
            }
        }
    }
    if let Some((earlier, later)) = example {
        lints.push(Lint {
            code: "duplicate_prompts",
            detail: format!(
                "{duplicates} of {} prompts repeat an earlier one, first `{later}` = `{earlier}`",
                prompts.len()
            ),
        });
    }
}

fn lint_stated(prompts: &[Prompt], inputs: &[u32], lints: &mut Vec<Lint>) {
    let mut wrong = 0usize;
    let mut example = None;
    for (prompt, counted) in prompts.iter().zip(inputs) {
        if let Some(stated) = prompt.stated_input_tokens.filter(|stated| stated != counted) {
            wrong += 1;
            example.get_or_insert((prompt.id.as_str(), stated, *counted));
        }
    }
    if let Some((id, stated, counted)) = example {
        lints.push(Lint {
            code: "stated_length_mismatch",
            detail: format!(
                "{wrong} of {} prompts state another length than this tokenizer counts, first `{id}`: {stated} stated, {counted} counted",
                prompts.len()
            ),
        });
    }
}

fn lint_empty(prompts: &[Prompt], inputs: &[u32], lints: &mut Vec<Lint>) {
    let mut empty =
        prompts.iter().zip(inputs).filter(|(_, tokens)| **tokens == 0).map(|(prompt, _)| prompt.id.as_str());
    if let Some(first) = empty.next() {
        lints.push(Lint {
            code: "empty_prompt",
            detail: format!("{} prompts hold no token, first `{first}`", empty.count() + 1),
        });
    }
}

fn length_stats(lengths: &[u32]) -> LengthStats {
    let mut sorted = lengths.to_vec();
    sorted.sort_unstable();
    let total = sorted.iter().map(|tokens| u64::from(*tokens)).sum();
    LengthStats {
        total,
        mean: (!sorted.is_empty()).then(|| total as f64 / sorted.len() as f64),
        min: sorted.first().copied(),
        p50: percentile(&sorted, 0.50),
        p90: percentile(&sorted, 0.90),
        p95: percentile(&sorted, 0.95),
        p99: percentile(&sorted, 0.99),
        max: sorted.last().copied(),
        histogram: histogram(&sorted),
    }
}

/// Linear interpolation between order statistics (numpy's default).
fn percentile(sorted: &[u32], share: f64) -> Option<f64> {
    let position = share * sorted.len().checked_sub(1)? as f64;
    let below = f64::from(*sorted.get(position.floor() as usize)?);
    let above = f64::from(*sorted.get(position.ceil() as usize)?);
    Some(below + (above - below) * position.fract())
}

/// Up to a dozen bins whose width is 1, 2 or 5 times a power of ten.
fn histogram(sorted: &[u32]) -> Histogram {
    let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else { return Histogram { bins: Vec::new() } };
    let mut width = 1u64;
    let mut factors = [2u64, 5, 10].into_iter().cycle();
    let mut decade = 1u64;
    while u64::from(max) / width - u64::from(min) / width >= 12 {
        let factor = factors.next().unwrap_or(10);
        width = decade * factor;
        if factor == 10 {
            decade *= 10;
        }
    }
    let first = u64::from(min) / width;
    let last = u64::from(max) / width;
    let mut bins: Vec<HistogramBin> = (first..=last)
        .map(|number| HistogramBin {
            from_tokens: u32::try_from(number * width).unwrap_or(u32::MAX),
            to_tokens: u32::try_from((number + 1) * width - 1).unwrap_or(u32::MAX),
            count: 0,
        })
        .collect();
    for tokens in sorted {
        let idx = (u64::from(*tokens) / width - first) as usize;
        if let Some(bin) = bins.get_mut(idx) {
            bin.count += 1;
        }
    }
    Histogram { bins }
}
