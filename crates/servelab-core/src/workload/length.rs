//! Length classes: what short, medium and long mean in tokens, and how a set is shared out among them. Pure arithmetic.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Shares of the length classes, 0–1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// Share of short prompts (16–255 tokens, answers 50–150).
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub short: f64,
    /// Share of medium prompts (256–2,047 tokens, answers 150–500).
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub medium: f64,
    /// Share of long prompts (2,048–8,192 tokens, answers 500–2,000).
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub long: f64,
}

impl Mix {
    /// Share of one class.
    pub fn share(&self, category: Category) -> f64 {
        match category {
            Category::Short => self.short,
            Category::Medium => self.medium,
            Category::Long => self.long,
        }
    }

    /// How many of `n` prompts each class gets, in the order of [`Category::ALL`]. The counts add up to `n`; the largest
    /// remainders are rounded up, the shorter class first.
    pub fn quotas(&self, n: u64) -> [u64; 3] {
        let total: f64 = Category::ALL.iter().map(|category| self.share(*category).max(0.0)).sum();
        if total <= 0.0 {
            return [n, 0, 0];
        }
        // Shares like 0.3 are not exact in binary: without the nudge 0.3 × 100 would lose a prompt to its neighbour.
        let exact = Category::ALL.map(|category| self.share(category).max(0.0) / total * n as f64 + 1e-9);
        let mut quotas = exact.map(|share| share as u64);
        let mut order = [0, 1, 2];
        order.sort_by(|a: &usize, b: &usize| exact[*b].fract().total_cmp(&exact[*a].fract()).then(a.cmp(b)));
        let mut missing = n.saturating_sub(quotas.iter().sum());
        for idx in order.into_iter().cycle().take(6) {
            if missing == 0 {
                break;
            }
            if exact[idx] > 1e-6 {
                quotas[idx] += 1;
                missing -= 1;
            }
        }
        quotas
    }
}

/// A length class. Ranges are inclusive and do not overlap on the prompt side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// Prompts of 16–255 tokens, answers of 50–150.
    Short,
    /// Prompts of 256–2,047 tokens, answers of 150–500.
    Medium,
    /// Prompts of 2,048–8,192 tokens, answers of 500–2,000.
    Long,
}

impl Category {
    /// All classes, shortest first.
    pub const ALL: [Self; 3] = [Self::Short, Self::Medium, Self::Long];

    /// The name used in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Medium => "medium",
            Self::Long => "long",
        }
    }

    /// Prompt length in tokens.
    pub fn input_range(self) -> TokenRange {
        match self {
            Self::Short => TokenRange { min: 16, max: 255 },
            Self::Medium => TokenRange { min: 256, max: 2_047 },
            Self::Long => TokenRange { min: 2_048, max: 8_192 },
        }
    }

    /// Target output length in tokens, before `max_output` cuts it.
    pub fn output_range(self) -> TokenRange {
        match self {
            Self::Short => TokenRange { min: 50, max: 150 },
            Self::Medium => TokenRange { min: 150, max: 500 },
            Self::Long => TokenRange { min: 500, max: 2_000 },
        }
    }
}

/// An inclusive range of token counts, drawn from uniformly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenRange {
    /// Smallest count.
    pub min: u32,
    /// Largest count.
    pub max: u32,
}

impl TokenRange {
    /// Is the count inside?
    pub fn contains(self, tokens: u32) -> bool {
        (self.min..=self.max).contains(&tokens)
    }

    /// Both ends cut to at most `cap`.
    pub fn capped(self, cap: Option<u32>) -> Self {
        let cap = cap.unwrap_or(u32::MAX);
        Self { min: self.min.min(cap), max: self.max.min(cap) }
    }

    /// Mean of a uniform draw after each value was cut to at most `cap`.
    pub fn capped_mean(self, cap: Option<u32>) -> f64 {
        let (min, max) = (f64::from(self.min), f64::from(self.max));
        let cap = cap.map_or(f64::INFINITY, f64::from);
        if cap >= max {
            return f64::midpoint(min, max);
        }
        if cap <= min {
            return cap;
        }
        let below = cap - min + 1.0;
        (below * f64::midpoint(min, cap) + (max - cap) * cap) / (max - min + 1.0)
    }

    pub(super) fn around(center: u32, jitter: f64) -> Self {
        let center_f = f64::from(center);
        // Float to integer casts saturate, so absurd values stay in range.
        Self {
            min: ((center_f * (1.0 - jitter)).ceil() as u32).max(1),
            max: ((center_f * (1.0 + jitter)).floor() as u32).max(1),
        }
    }

    pub(super) fn hull(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}
