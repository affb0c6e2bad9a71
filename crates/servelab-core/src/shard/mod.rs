//! One load, spread over several processes: who a process is, which requests are its, and how its records are laid over
//! those of the others. Pure; meeting at the start is done in `servelab-load`, files are read in `servelab`.
//!
//! There is one schedule, whatever the number of shards: shard i of n sends the requests whose index is i modulo n, and
//! holds its part of the slots of a closed loop.

mod detect;
mod layout;
mod proof;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::record::ClockEpoch;

pub use detect::detect;
pub use layout::{Layout, MergeError, lay_out, place_event, place_request};
pub use proof::{fingerprint, proof, same_proof};

/// Version of `shard.json`.
pub const SHARD_SCHEMA_VERSION: u32 = 1;
/// Most shards of one load.
pub const MAX_SHARDS: u32 = 4_096;

/// One of several processes that drive one load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Shard {
    /// From 0.
    pub index: u32,
    /// Of so many.
    pub count: u32,
}

/// Why a shard is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// Not `i/n`.
    #[error("`{0}` is no shard; write i/n with 0 ≤ i < n, such as 0/4, or `auto`")]
    Form(String),
    /// Nobody says which.
    #[error(
        "`auto` found no launcher: neither OMPI_COMM_WORLD_RANK, PMI_RANK, PMIX_RANK nor SLURM_PROCID is set; start it with srun or mpiexec"
    )]
    NotLaunched,
    /// A rank without a size, or one that is no number.
    #[error("`auto` read {name}={value}, which {problem}")]
    Environment {
        /// The variable.
        name: String,
        /// Its value.
        value: String,
        /// What is wrong.
        problem: &'static str,
    },
}

impl Shard {
    /// The only process of a load.
    pub const ONLY: Self = Self { index: 0, count: 1 };

    /// Checks the two numbers.
    pub fn new(index: u32, count: u32) -> Option<Self> {
        (index < count && count <= MAX_SHARDS).then_some(Self { index, count })
    }

    /// True when this shard sends the request.
    pub fn owns(self, request_idx: u64) -> bool {
        request_idx % u64::from(self.count.max(1)) == u64::from(self.index)
    }

    /// How many of `total` requests are this shard's.
    pub fn part_of(self, total: u64) -> u64 {
        let (index, count) = (u64::from(self.index), u64::from(self.count.max(1)));
        total / count + u64::from(index < total % count)
    }

    /// The index in the whole load of this shard's request number `own`.
    pub fn global_index(self, own: u64) -> u64 {
        own * u64::from(self.count) + u64::from(self.index)
    }

    /// This shard's slots of a closed loop; the parts of all shards add up to the whole.
    pub fn slots_of(self, total: u32) -> u32 {
        u32::try_from(self.part_of(u64::from(total))).unwrap_or(u32::MAX)
    }
}

impl FromStr for Shard {
    type Err = ShardError;

    fn from_str(text: &str) -> Result<Self, ShardError> {
        let form = || ShardError::Form(text.to_owned());
        let (index, count) = text.split_once('/').ok_or_else(form)?;
        let number = |text: &str| text.trim().parse::<u32>().ok();
        number(index).zip(number(count)).and_then(|(index, count)| Self::new(index, count)).ok_or_else(form)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// How the clocks of two hosts were compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OffsetMethod {
    /// The same kernel: CLOCK_MONOTONIC is one clock.
    SameHost,
    /// Measured over the barrier's connection; known to half of the shortest round trip.
    PingPong,
    /// Both hosts' wall clocks were trusted: known as well as they are kept.
    WallClock,
}

/// A shard's clock beside that of shard 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClockOffset {
    /// Added to this shard's CLOCK_MONOTONIC it gives that of shard 0, nanoseconds.
    pub offset_ns: i64,
    /// The offset is known to this, nanoseconds; `None` when nobody knows.
    pub uncertainty_ns: Option<i64>,
    /// How it was found.
    pub method: OffsetMethod,
}

/// `shard.json`: what a shard says of itself, written last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ShardManifest {
    /// [`SHARD_SCHEMA_VERSION`].
    pub schema: u32,
    /// The load that the shards agreed on at the barrier.
    pub run_id: String,
    /// Which one.
    pub shard: Shard,
    /// Host name.
    pub host: String,
    /// The clock of its records.
    pub clock: ClockEpoch,
    /// Its clock beside that of shard 0.
    pub offset: ClockOffset,
    /// The agreed start on its own CLOCK_MONOTONIC, nanoseconds.
    pub start_monotonic_ns: i64,
    /// Start of its window, relative to its clock.
    pub window_start_ns: i64,
    /// End of its window, relative to its clock.
    pub window_end_ns: i64,
    /// Slots of the whole closed loop; `None` for an open one.
    pub closed_loop_slots: Option<u32>,
    /// CPU seconds of its load threads.
    pub cpu_s: f64,
    /// From its first send to its end, seconds.
    pub busy_s: f64,
    /// Its load threads.
    pub threads: u32,
    /// It was interrupted.
    pub interrupted: bool,
    /// Offered load of the whole, for the verdict.
    pub load: crate::plan::Load,
    /// Answers were asked for at exact length.
    pub ignore_eos: bool,
    /// Name of the served model.
    pub model: String,
    /// Limits, as typed.
    pub slo: Option<String>,
}

impl ShardManifest {
    /// What is added to its stamps to have them on the clock of `reference`, nanoseconds.
    pub fn shift_to(&self, reference: &Self) -> i64 {
        let on_first = |manifest: &Self| manifest.clock.epoch_monotonic_ns.saturating_add(manifest.offset.offset_ns);
        on_first(self).saturating_sub(on_first(reference))
    }
}

/// What a merged result says of its shards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ShardSummary {
    /// Shards that were started.
    pub count: u32,
    /// Those whose records are missing.
    pub missing: Vec<u32>,
    /// Those that were interrupted.
    pub interrupted: Vec<u32>,
    /// Latest minus earliest start of the shards' windows on the common clock, milliseconds.
    pub start_skew_ms: f64,
    /// One per shard present.
    pub members: Vec<ShardMember>,
}

/// One shard of a merged result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ShardMember {
    /// Which one.
    pub index: u32,
    /// Host name.
    pub host: String,
    /// Requests of every phase.
    pub requests: u64,
    /// Its clock minus that of shard 0, milliseconds.
    pub clock_offset_ms: f64,
    /// Known to this, milliseconds.
    pub clock_uncertainty_ms: Option<f64>,
    /// How it was found.
    pub clock_method: OffsetMethod,
    /// Start of its window after the earliest, milliseconds.
    pub start_after_ms: f64,
}
