//! One line of `events.jsonl`: a state change of a cell, point or job. The run emits them, every display consumes them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{CellId, JobId, PointId};
use crate::state::CellState;

/// What happened, to whom, and when by the wall clock (a label only).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Nanoseconds since 1970.
    pub t_unix_ns: i64,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// The kinds of events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventKind {
    /// A cell changed its state.
    Cell {
        /// The cell.
        cell: CellId,
        /// Which try.
        attempt: u32,
        /// The new state.
        state: CellState,
        /// Failure or verdict code, when there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
    },
    /// Something happened to a point's server.
    Point {
        /// The point.
        point: PointId,
        /// `starting`, `ready`, `stopped`, `failed`.
        state: String,
        /// Details for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    /// A run or a scheduler job began or ended.
    Job {
        /// The job.
        job: JobId,
        /// `started`, `interrupted`, `finished`, …
        state: String,
        /// Details for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<Value>,
    },
}
