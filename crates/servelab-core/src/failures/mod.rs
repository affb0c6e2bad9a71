//! Why did a server fail? Signatures of known failures as data (`data/failures.json`) and a scan of log lines that names
//! the initiating one. The rule is NVIDIA's: a match is not yet a cause, the earliest initiating line wins, and what is
//! written while everything falls down (teardown, watchdogs of other ranks) never does. The sentences for people are
//! found through `codes::explain`.

mod catalogue;
mod propose;
mod scan;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use catalogue::{Failure, failure, failures};
pub use propose::{Proposal, propose};
pub use scan::{Diagnosis, scan_log_lines};

/// What part a failure plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It may be the cause.
    Initiating,
    /// It follows from a cause elsewhere; named only when no cause is found.
    Cascade,
}

/// Whose problem it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Domain {
    /// The configuration, the model or the environment that the study names.
    Workload,
    /// Nodes, network, storage, other users.
    Infrastructure,
    /// Not known.
    Unknown,
}

/// May the same thing work next time?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryOutlook {
    /// Not without a change.
    CannotRecover,
    /// Perhaps, on other nodes or later.
    MayRecover,
    /// Not known.
    Unknown,
}
