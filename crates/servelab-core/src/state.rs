//! The states of a cell and which of them end it. Transitions are driven by `servelab-run`; everybody else only reads.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a cell is on its way from plan to evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CellState {
    /// In the plan, nothing done yet.
    Planned,
    /// A rule or the engine itself says that this configuration cannot be served. A result, not an error.
    Infeasible,
    /// Waits for the results of another design (`from:`).
    Blocked,
    /// Handed to a scheduler.
    Submitted,
    /// Queued by the scheduler.
    Pending,
    /// The allocation is there and is being prepared.
    Provisioning,
    /// Checks before anything expensive starts.
    Preflight,
    /// The engine's processes are starting.
    ServerStarting,
    /// The engine answered health, models and one generated token.
    Ready,
    /// A two-phase probe (`probe:`) is running.
    Probing,
    /// Warm-up load.
    Warming,
    /// The measured window.
    Measuring,
    /// Load is over; records and metrics are being written.
    Collecting,
    /// Finished, all checks passed.
    Done,
    /// Finished, but fails a check: the numbers must not be believed.
    Invalid,
    /// Ended by a failure with a code.
    Failed,
    /// Ended by a time limit.
    Timeout,
    /// Ended by the scheduler in favour of somebody else.
    Preempted,
    /// Ended by a person.
    Cancelled,
    /// Left out by a `stop_early` rule.
    Skipped,
}

impl CellState {
    /// Every state, in the order of a cell's life.
    pub const ALL: [Self; 20] = [
        Self::Planned,
        Self::Infeasible,
        Self::Blocked,
        Self::Submitted,
        Self::Pending,
        Self::Provisioning,
        Self::Preflight,
        Self::ServerStarting,
        Self::Ready,
        Self::Probing,
        Self::Warming,
        Self::Measuring,
        Self::Collecting,
        Self::Done,
        Self::Invalid,
        Self::Failed,
        Self::Timeout,
        Self::Preempted,
        Self::Cancelled,
        Self::Skipped,
    ];

    /// The state's name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Infeasible => "infeasible",
            Self::Blocked => "blocked",
            Self::Submitted => "submitted",
            Self::Pending => "pending",
            Self::Provisioning => "provisioning",
            Self::Preflight => "preflight",
            Self::ServerStarting => "server_starting",
            Self::Ready => "ready",
            Self::Probing => "probing",
            Self::Warming => "warming",
            Self::Measuring => "measuring",
            Self::Collecting => "collecting",
            Self::Done => "done",
            Self::Invalid => "invalid",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Preempted => "preempted",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
        }
    }

    /// True when an attempt in this state is over and will not change.
    pub fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Infeasible
                | Self::Done
                | Self::Invalid
                | Self::Failed
                | Self::Timeout
                | Self::Preempted
                | Self::Cancelled
                | Self::Skipped
        )
    }

    /// True when the cell has a result that a later run must not repeat unasked.
    pub fn is_finished(self) -> bool {
        matches!(self, Self::Done | Self::Invalid | Self::Infeasible | Self::Skipped)
    }
}
