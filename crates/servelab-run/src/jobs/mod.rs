//! Scheduler jobs of a study: what each was meant to do (`intent.json`), what became of it (`scheduler.jsonl`, one line per
//! thing that was learned), and what follows for its cells. The truth is put together from three witnesses: the scheduler's
//! word, the job's own heartbeat, and the record that it writes when it ends. Nothing is concluded from silence alone.

mod judge;
mod plan;
mod settle;
mod submit;
mod survey;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use servelab_core::ids::{CellId, JobId, PointId};
use servelab_store::{Durability, Root, StoreError, append_line};

pub use judge::{JobState, JobView, judge};
pub use plan::{
    Budget, JobPlanError, JobRequest, LeftOut, PlanJobs, Planned, Preparation, PreparedJob, needless, plan_jobs,
    prepare,
};
pub use settle::settle;
pub use submit::{Refreshed, SubmitOutcome, refresh, submit, submit_array};
pub(crate) use survey::heartbeat_age_s;
pub use survey::{ExitInfo, KnownJob, survey};

use crate::job::unix_ns;
use crate::scheduler::{JobReport, SchedulerId, task_id};

/// Version of a submitted job's `intent.json`.
pub const INTENT_SCHEMA: u32 = 1;

/// A heartbeat younger than this is a sign of life; hearts beat every 5 s, network file systems show it late.
pub(crate) const BEATING_S: u64 = 30;
/// After so long without any sign a job that the scheduler does not know is lost.
pub(crate) const LOST_AFTER_S: i64 = 300;

/// `intent.json` of a job for a scheduler, written before it is submitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// Version of this file.
    pub schema: u32,
    /// The job.
    pub job: JobId,
    /// The study.
    pub study: String,
    /// Always `submit`: a run on this machine writes another kind of intent.
    pub by: String,
    /// The site.
    pub site: String,
    /// `slurm` or `pbs`.
    pub scheduler: String,
    /// The configuration.
    pub point: PointId,
    /// Its labels.
    pub labels: Vec<String>,
    /// Repeat block, from 0.
    pub block: u32,
    /// Which job for this configuration and block it is, from 0.
    pub round: u32,
    /// Cells that it measures, in order.
    pub cells: Vec<CellId>,
    /// Nodes that it asks for.
    pub nodes: u32,
    /// GPUs that it uses on one node.
    pub gpus_per_node: u32,
    /// Time limit, seconds.
    pub walltime_s: u64,
    /// Its script, in the study's `scripts` folder.
    pub script: String,
    /// The array that it is a task of, when it is handed over in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<ArrayPlace>,
    /// When it was written, nanoseconds since 1970.
    pub t_unix_ns: i64,
}

impl Intent {
    /// The names under which a scheduler may have it: its own, when its script was handed over, and that of a task.
    pub fn names(&self) -> Vec<JobId> {
        let task = self.array.as_ref().map(|place| task_id(&place.array, place.index));
        [self.job.clone()].into_iter().chain(task).collect()
    }
}

/// A place in an array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrayPlace {
    /// The array's UUID.
    pub array: JobId,
    /// The task's number.
    pub index: u32,
    /// The array's script, in the study's `scripts` folder.
    pub script: String,
}

/// One line of `scheduler.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Nanoseconds since 1970.
    pub t_unix_ns: i64,
    /// What was learned.
    #[serde(flatten)]
    pub event: JobEvent,
}

/// What can be learned about a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum JobEvent {
    /// The next thing is handing it over; whoever reads this last does not know whether that happened.
    Submitting {
        /// Where.
        host: String,
        /// By which process.
        pid: u32,
    },
    /// The scheduler took it.
    Submitted {
        /// Under this id.
        scheduler_id: SchedulerId,
    },
    /// The scheduler said no.
    Refused {
        /// Its words.
        text: String,
    },
    /// The scheduler gave no answer: it may have taken the job all the same.
    Unanswered {
        /// What is known.
        text: String,
    },
    /// The scheduler was asked for the UUID of a submission without an answer, and does not know it.
    NotFound,
    /// The job itself says that it runs.
    Started {
        /// Its id, from the environment of its script.
        scheduler_id: Option<SchedulerId>,
        /// Its first node.
        host: String,
    },
    /// The scheduler's word changed.
    Report {
        /// Its word.
        report: JobReport,
    },
    /// Its cancellation was asked for.
    CancelAsked,
    /// Neither the scheduler nor the job has been heard of for too long.
    Lost,
}

/// Writes down what was learned about a job.
pub fn note(root: &Root, job: &JobId, event: JobEvent) -> Result<(), StoreError> {
    let path = root.job_dir(job)?.join("scheduler.jsonl");
    append_line(&path, &Entry { t_unix_ns: unix_ns(), event }, Durability::Synced)
}

/// The intent of a submitted job.
pub fn intent(root: &Root, job: &JobId) -> Result<Intent, StoreError> {
    servelab_store::read_json(&root.job_dir(job)?.join("intent.json"))
}

/// Writes down that a submitted job could not even begin.
pub fn note_failure(root: &Root, job: &JobId, text: &str) -> Result<(), StoreError> {
    let record = serde_json::json!({
        "schema": 1, "state": "failed", "t_unix_ns": unix_ns(), "detail": {"error": text},
    });
    servelab_store::write_json(&root.job_dir(job)?.join("exit.json"), &record)
}
