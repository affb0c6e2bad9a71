//! The ready-made synthetic sets: the five-set suite of the sweep framework and the two fixed-length sets of the GLM
//! ablation. Data only; each is an ordinary [`SynthSpec`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Mix, SynthSpec};

/// A ready-made synthetic set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SuiteName {
    /// 100 prompts, 40 % short, 50 % medium, 10 % long, answers up to 256 tokens: for validation.
    QuickTest,
    /// 500 prompts, 30 % short, 50 % medium, 20 % long, answers up to 512 tokens: for standard benchmarks.
    MediumBalanced,
    /// 1,000 prompts, 30 % short, 50 % medium, 20 % long, answers up to 512 tokens: for throughput.
    LargeThroughput,
    /// 500 prompts, 90 % short, 10 % medium, answers up to 256 tokens: for latency.
    ShortLatency,
    /// 300 prompts, 30 % medium, 70 % long, answers up to 1,024 tokens: for context length.
    LongContext,
    /// 100 prompts of 6,000 tokens with answers of 8,000: 14,000 tokens per sequence.
    #[serde(rename = "8k")]
    Seq8k,
    /// 100 prompts of 48,000 tokens with answers of 64,000: 112,000 tokens per sequence.
    #[serde(rename = "64k")]
    Seq64k,
}

impl SuiteName {
    /// The five sets that `dataset create --suite` writes.
    pub const SUITE: [Self; 5] =
        [Self::QuickTest, Self::MediumBalanced, Self::LargeThroughput, Self::ShortLatency, Self::LongContext];

    /// Every ready-made set.
    pub const ALL: [Self; 7] = [
        Self::QuickTest,
        Self::MediumBalanced,
        Self::LargeThroughput,
        Self::ShortLatency,
        Self::LongContext,
        Self::Seq8k,
        Self::Seq64k,
    ];

    /// The name used in study files, on the command line and as file name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QuickTest => "quick_test",
            Self::MediumBalanced => "medium_balanced",
            Self::LargeThroughput => "large_throughput",
            Self::ShortLatency => "short_latency",
            Self::LongContext => "long_context",
            Self::Seq8k => "8k",
            Self::Seq64k => "64k",
        }
    }

    /// The set with that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.as_str() == name)
    }

    /// The generator's settings.
    pub fn spec(self) -> SynthSpec {
        let mixed =
            |n, short, medium, long, max_output| SynthSpec::mixed(n, Mix { short, medium, long }, Some(max_output));
        match self {
            Self::QuickTest => mixed(100, 0.4, 0.5, 0.1, 256),
            Self::MediumBalanced => mixed(500, 0.3, 0.5, 0.2, 512),
            Self::LargeThroughput => mixed(1_000, 0.3, 0.5, 0.2, 512),
            Self::ShortLatency => mixed(500, 0.9, 0.1, 0.0, 256),
            Self::LongContext => mixed(300, 0.0, 0.3, 0.7, 1_024),
            Self::Seq8k => SynthSpec::exact(100, 6_000, 8_000),
            Self::Seq64k => SynthSpec::exact(100, 48_000, 64_000),
        }
    }
}
