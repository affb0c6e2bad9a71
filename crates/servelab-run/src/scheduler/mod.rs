//! Batch systems. One trait says what Servelab asks of a scheduler: submit a script, find a submission again whose answer
//! was lost, tell how jobs are, cancel by id. Slurm and PBS speak through their command-line clients, whose output is the
//! only interface that is the same everywhere. What the answers mean for cells is decided in `jobs`.

mod caller;
pub mod pbs;
pub mod slurm;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use servelab_core::ids::JobId;

pub use caller::{Caller, Reply};

/// A job's id as its scheduler prints it: `123`, `123_4`, `7.pbshead`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SchedulerId(String);

impl SchedulerId {
    /// Takes an id that a scheduler printed; `None` for text that cannot be one, so that nothing else ever reaches a
    /// command line.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-[]".contains(c);
        let is_id = text.len() <= 100 && text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(is_plain);
        is_id.then(|| Self(text.to_owned()))
    }

    /// The id of one task of this array.
    pub fn task(&self, index: u32) -> Self {
        Self(format!("{}_{index}", self.0))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SchedulerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a scheduler's word for a job means to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobPhase {
    /// Waits in the queue.
    Pending,
    /// Has its nodes; also while it starts, is suspended or cleans up.
    Running,
    /// Its script ended with status 0. Whether its cells are done is told by our own records.
    Completed,
    /// Its script ended with another status, or could not be started.
    Failed,
    /// Ended by a person.
    Cancelled,
    /// Ended by its time limit.
    Timeout,
    /// Ended in favour of somebody else.
    Preempted,
    /// A node of it failed.
    NodeFailed,
    /// Ended by a memory limit.
    OutOfMemory,
    /// A word that we do not know. It stays unknown.
    Unknown,
}

impl JobPhase {
    /// The phase's name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Timeout => "timeout",
            Self::Preempted => "preempted",
            Self::NodeFailed => "node_failed",
            Self::OutOfMemory => "out_of_memory",
            Self::Unknown => "unknown",
        }
    }

    /// True when the scheduler will do nothing more for the job.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Pending | Self::Running | Self::Unknown)
    }
}

/// What a scheduler says about one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobReport {
    /// What it means.
    pub phase: JobPhase,
    /// The scheduler's own word.
    pub word: String,
    /// Why it is in that state, where the scheduler says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The reason says that the job can never start as it was submitted.
    #[serde(default)]
    pub never_runs: bool,
}

/// A job that is found by the id that Servelab gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundJob {
    /// The scheduler's id.
    pub id: SchedulerId,
    /// How it is.
    pub phase: JobPhase,
}

/// Why a submission brought no id.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The scheduler said no: nothing was submitted.
    #[error("{program} refused the job: {text}")]
    Refused {
        /// `sbatch` or `qsub`.
        program: &'static str,
        /// Its words.
        text: String,
    },
    /// No answer came. The job may have been submitted all the same.
    #[error("{program} gave no answer: {text}")]
    Unanswered {
        /// `sbatch` or `qsub`.
        program: &'static str,
        /// What is known.
        text: String,
    },
    /// The client is not installed here.
    #[error("{program} was not found on this machine; submit from a login node")]
    NotHere {
        /// `sbatch` or `qsub`.
        program: &'static str,
    },
}

/// Why a question to the scheduler was not answered. Nothing is concluded from that about any job.
#[derive(Debug, thiserror::Error)]
#[error("ask {program}: {text}")]
pub struct QueryError {
    /// The client program.
    pub program: &'static str,
    /// Its words, or what went wrong with it.
    pub text: String,
}

/// Under which name [`Scheduler::find`] looks for and finds a task of an array.
pub fn task_id(array: &JobId, index: u32) -> JobId {
    JobId::new(format!("{array}_{index}"))
}

/// What Servelab asks of a scheduler.
pub trait Scheduler: Send + Sync {
    /// `slurm` or `pbs`.
    fn name(&self) -> &'static str;

    /// Hands a script over. The script carries the job's UUID, so that [`Scheduler::find`] finds it.
    fn submit(&self, script: &Path) -> Result<SchedulerId, SubmitError>;

    /// Which of these jobs the scheduler has: for submissions whose answer was lost. One that is not in the answer is not
    /// known to the scheduler now; it may still be on its way.
    fn find(&self, jobs: &[JobId]) -> Result<BTreeMap<JobId, FoundJob>, QueryError>;

    /// How these jobs are, in one question. What the scheduler no longer knows is not in the answer: that says nothing
    /// about how it ended.
    fn poll(&self, ids: &[SchedulerId]) -> Result<BTreeMap<SchedulerId, JobReport>, QueryError>;

    /// Most tasks of one array; `None` where that is not known, or there are no arrays.
    fn largest_array(&self) -> Option<usize> {
        None
    }

    /// Cancels exactly these jobs. One that is over already is no error.
    fn cancel(&self, ids: &[SchedulerId]) -> Result<(), QueryError>;
}

/// Runs the client that hands a job over. Its words for having reached nobody (`no_answer`), or an exit status above
/// `last_refusal`, leave open whether there is a job now; every other failure is a refusal.
fn hand_over(
    caller: &Caller,
    program: &'static str,
    args: &[OsString],
    no_answer: &[&str],
    last_refusal: i32,
    id: impl Fn(&str) -> Option<SchedulerId>,
) -> Result<SchedulerId, SubmitError> {
    let reply = match caller.call(program, args) {
        Ok(reply) => reply,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(SubmitError::NotHere { program }),
        Err(error) => return Err(SubmitError::Unanswered { program, text: error.to_string() }),
    };
    let text = complaint(&reply);
    if reply.status == 0 {
        return id(&reply.stdout).ok_or(SubmitError::Unanswered { program, text });
    }
    Err(if no_answer.iter().any(|words| text.contains(words)) || reply.status > last_refusal {
        SubmitError::Unanswered { program, text }
    } else {
        SubmitError::Refused { program, text }
    })
}

/// The last non-empty line of a client's complaint, without its own name in front.
fn complaint(reply: &Reply) -> String {
    let text = if reply.stderr.trim().is_empty() { &reply.stdout } else { &reply.stderr };
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let text = lines.join("; ");
    let short: String = text.chars().take(500).collect();
    if short.is_empty() { format!("exit status {}", reply.status) } else { short }
}

/// Real output that lies beside the repository; left out, and said so, where it is not.
#[cfg(test)]
pub(crate) fn samples(below: &str) -> Option<std::path::PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/samples").join(below);
    if path.exists() {
        return Some(path);
    }
    let text = format!("left out: there are no sample files at {}\n", path.display());
    let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_are_ids() {
        for good in ["1", "123_4", "7.pbshead", "7[].pbshead", "7[3].pbs-head", " 12\n"] {
            assert!(SchedulerId::parse(good).is_some(), "{good}");
        }
        for bad in ["", "-u", "all", "1 2", "1;rm", "$(x)", "é1", "--me", &"1".repeat(200)] {
            assert!(SchedulerId::parse(bad).is_none(), "{bad}");
        }
    }
}
