//! Runs cells on this machine: starts engines as process groups, waits until they really serve, drives the load, writes
//! records, and walks the states of DESIGN. Prompts come from the caller through [`RequestSource`]; nothing is printed
//! here, everything worth showing is an event for the [`Observer`].

mod answers;
mod cell;
mod control;
mod crew;
mod diagnosis;
pub mod doctor;
pub mod effective;
pub mod enginecheck;
pub mod environment;
pub mod envlock;
mod error;
mod estimate;
mod exclusive;
#[cfg(test)]
mod fixtures;
pub mod glibc;
mod harness;
mod job;
pub mod jobs;
pub mod launch;
mod legwatch;
pub mod network;
pub mod nodes;
mod observe;
mod options;
pub mod port;
mod probe;
pub mod process;
pub mod profile;
mod proof;
pub mod pyliteral;
pub mod rank;
pub mod ray;
pub mod ready;
mod recorder;
mod records;
mod resume;
pub mod router;
mod run;
mod schedule;
pub mod scheduler;
pub mod script;
mod server;
pub mod serverlog;
mod source;
mod span;
mod telemetry;

pub use answers::AccuracyPlan;
pub use control::{RunControl, SignalGuard};
pub use error::RunError;
pub use harness::HarnessPlan;
pub use job::{new_job_id, own_scheduler_id, take_job};
pub use launch::{Engine, quote};
pub use observe::{FailedCell, Observer, RunEvent, RunSummary, ServerPhase, SkippedCell};
pub use options::{LaunchOptions, RunOptions};
pub use records::{FileSink, StoredRecords, SummaryOptions};
pub use resume::{RETRY_LIMIT, RetryPolicy};
pub use run::{RunInput, run};
pub use schedule::{Ordering, ServerStart, starts};
pub use source::{PrepareError, PreparedCell, RequestSource};
