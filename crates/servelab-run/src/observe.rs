//! The one stream of what happens in a run. Displays, logs and `events.jsonl` are made from it and know nothing else of
//! the run's insides.

use std::collections::BTreeMap;

use servelab_core::ids::{CellId, JobId, PointId};
use servelab_core::state::CellState;
use servelab_load::LiveCounts;

/// Something that happened.
#[derive(Debug, Clone)]
pub enum RunEvent {
    /// The run knows what it will do.
    Started {
        /// This run.
        job: JobId,
        /// Cells that it will try.
        to_run: u64,
        /// Cells that need nothing: finished earlier.
        finished_before: u64,
        /// Cells left out, each with its reason.
        skipped: Vec<SkippedCell>,
    },
    /// Something that a person should know.
    Notice {
        /// One sentence.
        text: String,
    },
    /// A server start begins, for these cells.
    Start {
        /// The point.
        point: PointId,
        /// Its labels.
        labels: Vec<String>,
        /// Cells that this start serves, in the order in which they will run.
        cells: Vec<CellId>,
    },
    /// The server's state changed, or is still being waited for.
    Server {
        /// The point.
        point: PointId,
        /// What it is doing.
        phase: ServerPhase,
        /// Seconds since the start began.
        elapsed_s: f64,
        /// What is waited for, the last log line, or the reason of a failure.
        detail: Option<String>,
    },
    /// A cell entered a state.
    Cell {
        /// The cell.
        cell: CellId,
        /// Which try.
        attempt: u32,
        /// The state.
        state: CellState,
        /// Failure or verdict code.
        code: Option<String>,
        /// Details for people.
        detail: Option<String>,
    },
    /// Load is running; a few times a second.
    Load {
        /// The cell.
        cell: CellId,
        /// Counters, warm-up included.
        counts: LiveCounts,
        /// Requests that will be sent at most, warm-up included.
        planned: u64,
        /// Seconds since the load began.
        elapsed_s: f64,
    },
    /// How far the run is; after every cell.
    Progress {
        /// Cells that ended in this run.
        done: u64,
        /// Cells that this run tries.
        total: u64,
        /// Estimated seconds to the end, from measured durations; `None` before anything is known.
        remaining_s: Option<f64>,
    },
    /// The run is over.
    Finished(RunSummary),
}

/// What a server is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerPhase {
    /// Its requests are being prepared; nothing is started yet.
    Preparing,
    /// Its process was started, or it is being reached.
    Starting,
    /// It serves.
    Ready,
    /// It could not be started, or died.
    Failed,
    /// It is being ended.
    Stopping,
    /// It is gone.
    Stopped,
}

impl ServerPhase {
    /// Name in `events.jsonl`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

/// A cell that this run leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedCell {
    /// The cell.
    pub cell: CellId,
    /// Its state, if it has one.
    pub state: Option<CellState>,
    /// Failure code of its latest attempt.
    pub code: Option<String>,
    /// Why it is left out, for people.
    pub reason: String,
}

/// A cell that failed in this run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedCell {
    /// The cell.
    pub cell: CellId,
    /// Failure code.
    pub code: String,
    /// One sentence.
    pub detail: String,
    /// The log line that gave it away.
    pub line: Option<String>,
    /// What to do.
    pub advice: Option<String>,
}

/// What a run achieved.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunSummary {
    /// It was asked to end before its work was done.
    pub interrupted: bool,
    /// Cells per final state, of those that this run tried.
    pub states: BTreeMap<CellState, u64>,
    /// Cells that needed nothing.
    pub finished_before: u64,
    /// Cells left out.
    pub skipped: Vec<SkippedCell>,
    /// Of the cells left out, those whose servers this machine or this version cannot start.
    pub not_startable: u64,
    /// Cells that failed.
    pub failures: Vec<FailedCell>,
    /// Seconds that the run took.
    pub elapsed_s: f64,
    /// Seconds that `stop_early` saved: cells that were left out or cut short, as long as they would have taken.
    pub saved_s: f64,
}

/// Whoever watches a run. Called from the run's own thread: return quickly.
pub trait Observer: Send + Sync {
    /// Takes note of an event.
    fn event(&self, event: &RunEvent);
}

/// Watches nothing.
impl Observer for () {
    fn event(&self, _: &RunEvent) {}
}
