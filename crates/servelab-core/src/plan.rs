//! The plan: what a study expands to, as `plan --json` prints it and `plan.json` stores it. Pure data; `expand` makes it,
//! `servelab-run` walks it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{CellId, PointId};
use crate::pacing::{Ramp, StartMode, Think};

/// Version of `plan.json` and of `plan --json`.
pub const PLAN_SCHEMA_VERSION: u32 = 1;

/// Everything that a study asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    /// Always [`PLAN_SCHEMA_VERSION`] when written by this version.
    pub schema: u32,
    /// Version of the way ids are computed; an unknown one is refused.
    pub id_scheme: u32,
    /// The study's name.
    pub study: String,
    /// Distinct points, in the order of their first label.
    pub points: Vec<PlannedPoint>,
    /// Cells, in the order of points, workloads, load levels, repeats.
    pub cells: Vec<PlannedCell>,
    /// Scheduler allocations needed: point × repeat block.
    pub jobs: u64,
    /// Cost.
    pub node_hours: NodeHours,
    /// Duration.
    pub wall_hours: WallHours,
    /// Things a person should know before spending anything.
    pub warnings: Vec<String>,
    /// What each design contributed.
    pub designs: Vec<DesignSummary>,
    /// Counts of the whole expansion.
    pub counts: PlanCounts,
}

/// Counts of the expansion, before and after each reduction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanCounts {
    /// Product of all factor lists, ignoring `when`.
    pub raw_points: u64,
    /// Labelled points after `when`.
    pub labelled_points: u64,
    /// Distinct points.
    pub points: u64,
    /// Distinct points on which no rule failed.
    pub feasible_points: u64,
    /// Cells.
    pub cells: u64,
    /// Cells that can run.
    pub runnable_cells: u64,
    /// Distinct point × workload pairs.
    pub point_workloads: u64,
    /// Of these, infeasible.
    pub infeasible_point_workloads: u64,
}

/// What one design contributed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesignSummary {
    /// Name in the study.
    pub name: String,
    /// `grid`, `list`, `ablate`, `topology` or `from`.
    pub kind: String,
    /// What it is for, in the author's words.
    pub purpose: Option<String>,
    /// What the author expects.
    pub expect: Option<String>,
    /// Product of its factor lists, ignoring `when`.
    pub raw_points: u64,
    /// Labelled points after `when`.
    pub labelled_points: u64,
    /// Points that no earlier design had.
    pub new_points: u64,
    /// The settings it varies.
    pub factors: Vec<String>,
    /// Purpose of single labels, where it is not the design's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub label_purposes: BTreeMap<String, String>,
    /// Expectation of single labels, where it is not the design's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub label_expects: BTreeMap<String, String>,
    /// Why it is blocked, if it is.
    pub blocked: Option<String>,
}

/// Cost in node-hours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeHours {
    /// Every job once, model loads included.
    pub sequential: f64,
}

/// Duration in hours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WallHours {
    /// One job after the other.
    pub sequential: f64,
    /// `budget.max_jobs` jobs at a time.
    pub parallel: f64,
}

/// Whether something can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlanStatus {
    /// Nothing speaks against it.
    Planned,
    /// A rule says no; the reasons say which.
    Infeasible,
    /// Waits for another design's results.
    Blocked,
}

/// One distinct serving configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedPoint {
    /// Hash of the semantic content.
    pub id: PointId,
    /// Every alias, in the order of appearance.
    pub labels: Vec<String>,
    /// Older 8-digit hash per label, when `compat.legacy_hash` asks for it.
    pub legacy_hashes: BTreeMap<String, String>,
    /// Designs that name this point.
    pub designs: Vec<String>,
    /// The values of every varied parameter, by dotted name.
    pub factors: BTreeMap<String, Value>,
    /// `{engine, model, deploy, serve, env}`: the semantic content.
    pub config: Value,
    /// What has to be started.
    pub roles: Vec<RolePlan>,
    /// Nodes that one job of this point occupies.
    pub nodes: u32,
    /// GPUs that it uses, all roles together.
    pub gpus: u32,
    /// Can it run?
    pub status: PlanStatus,
    /// Why not; or what to know, on a planned point.
    pub reasons: Vec<String>,
    /// Flags that the engine version renamed, removed or does not know.
    pub flag_notes: Vec<String>,
}

/// One role of a point: `count` equal server instances.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RolePlan {
    /// `serve`, `prefill`, `decode` or `router`.
    pub role: String,
    /// Instances.
    pub count: u32,
    /// GPUs of all instances together.
    pub gpus: u32,
    /// The engine's command line, without host and port (the runner adds them).
    pub argv: Vec<String>,
    /// Environment on top of the site's.
    pub env: BTreeMap<String, String>,
    /// Where each instance goes.
    pub placement: Vec<Placement>,
}

/// Where one instance runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Placement {
    /// Instance number within its role.
    pub instance: u32,
    /// Node number within the allocation → GPU indices on that node.
    pub node_gpus: BTreeMap<u32, Vec<u32>>,
}

/// Offered load of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Load {
    /// A fixed number of requests in flight.
    Closed {
        /// Requests in flight.
        concurrency: u32,
        /// Pause of a slot between the end of one request and the next, if any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        think_s: Option<Think>,
        /// How the first requests are sent, if not spread over one mean request time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        start: Option<StartMode>,
    },
    /// Arrivals that do not wait for answers.
    Open {
        /// Mean arrival rate.
        rate_per_s: f64,
        /// `poisson`, `constant` or `gamma:SHAPE`.
        arrival: String,
        /// Cap on requests in flight, if any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_concurrency: Option<u32>,
    },
    /// Arrivals that do not wait for answers, at a rate that changes.
    Ramp {
        /// Mean arrival rate over time.
        ramp: Ramp,
        /// `poisson`, `constant` or `gamma:SHAPE`.
        arrival: String,
        /// Cap on requests in flight, if any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_concurrency: Option<u32>,
    },
    /// The instants of the workload's trace.
    Replay {
        /// So many times as fast as recorded.
        speed: f64,
        /// Cap on requests in flight, if any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_concurrency: Option<u32>,
    },
    /// Whole batches, one after the other.
    Offline {
        /// Requests per batch.
        batch_size: u32,
        /// Prompt tokens per request.
        seq_len: u32,
        /// Output tokens per request.
        max_tokens: u32,
    },
}

impl Load {
    /// A closed loop without pauses that starts in the usual way.
    pub fn closed(concurrency: u32) -> Self {
        Self::Closed { concurrency, think_s: None, start: None }
    }

    /// Slots of a closed loop that should all be busy: none where they pause, and none in an open loop.
    pub fn busy_slots(&self) -> Option<u32> {
        match self {
            Self::Closed { concurrency, think_s, .. } if think_s.is_none_or(|think| think.mean_s() <= 0.0) => {
                Some(*concurrency)
            }
            _ => None,
        }
    }

    /// Do requests arrive without waiting for answers?
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. } | Self::Ramp { .. } | Self::Replay { .. })
    }

    /// The level's value in tables: concurrency, rate (the highest of a ramp), speed of a replay, or batch size.
    pub fn value(&self) -> f64 {
        match self {
            Self::Closed { concurrency, .. } => f64::from(*concurrency),
            Self::Open { rate_per_s, .. } => *rate_per_s,
            Self::Ramp { ramp, .. } => ramp.peak_per_s(),
            Self::Replay { speed, .. } => *speed,
            Self::Offline { batch_size, .. } => f64::from(*batch_size),
        }
    }

    /// The level's kind in tables.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Closed { .. } => "closed",
            Self::Open { .. } => "open",
            Self::Ramp { .. } => "ramp",
            Self::Replay { .. } => "replay",
            Self::Offline { .. } => "offline",
        }
    }

    /// A few words for people: `closed 16`, `open 2/s poisson`.
    pub fn describe(&self) -> String {
        match self {
            Self::Closed { concurrency, think_s, start } => {
                let think = think_s.map(|think| format!(", think {think}")).unwrap_or_default();
                let start = start.map(|start| format!(", start {start}")).unwrap_or_default();
                format!("closed {concurrency}{think}{start}")
            }
            Self::Ramp { ramp, arrival, .. } => format!("ramp {ramp} {arrival}"),
            Self::Replay { speed, .. } => format!("replay ×{speed}"),
            Self::Open { rate_per_s, arrival, .. } => format!("open {rate_per_s}/s {arrival}"),
            Self::Offline { batch_size, seq_len, max_tokens } => {
                format!("offline {batch_size}×{seq_len}+{max_tokens}")
            }
        }
    }
}

/// One thing to measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedCell {
    /// Hash over everything that makes this measurement what it is.
    pub id: CellId,
    /// Its point.
    pub point: PointId,
    /// Name of its workload in the study.
    pub workload: String,
    /// Load level.
    pub load: Load,
    /// Repeat number, from 0.
    pub repeat: u32,
    /// How it is measured; part of its identity.
    pub settings: CellSettings,
    /// Can it run?
    pub status: PlanStatus,
    /// Why not.
    pub reasons: Vec<String>,
}

/// How a cell is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CellSettings {
    /// When the level ends.
    pub stop: StopAt,
    /// Requests sent before the window opens.
    pub warmup_requests: u32,
    /// Seed of prompts and arrivals.
    pub seed: u64,
    /// Seconds after which a request counts as failed.
    pub request_timeout_s: f64,
    /// Cap on output tokens, if any.
    pub output_max: Option<u32>,
    /// Generate exactly the asked number of tokens.
    pub ignore_eos: bool,
    /// `completions` or `chat`; `None` lets the prompt's form decide.
    pub endpoint: Option<String>,
    /// Sampling temperature.
    pub temperature: f64,
    /// Prompts may be used more than once within a server start.
    pub reuse_prompts: bool,
}

/// When a load level ends.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopAt {
    /// After this many requests.
    Requests(u32),
    /// After this many seconds.
    DurationS(f64),
    /// After the trace's last request.
    TraceEnd,
    /// When the server is steady.
    Steady {
        /// Not before, seconds.
        min_s: f64,
        /// Not after, seconds.
        max_s: f64,
    },
}
