//! The state of a job from all that is known about it. Pure: the same evidence gives the same answer.

use serde::{Deserialize, Serialize};

use super::{BEATING_S, JobEvent, KnownJob};
use crate::scheduler::JobPhase;

/// How a job is, all witnesses heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Its script is written; nobody has submitted it.
    Prepared,
    /// It was being handed over; whether the scheduler has it is not known yet.
    Submitting,
    /// The scheduler has it.
    Submitted,
    /// It waits in the queue.
    Pending,
    /// It runs.
    Running,
    /// It did what it was to do.
    Finished,
    /// It was asked to end before its work was done.
    Interrupted,
    /// It could not do its work.
    Failed,
    /// Its time limit ended it.
    Timeout,
    /// It was ended in favour of somebody else.
    Preempted,
    /// A person ended it.
    Cancelled,
    /// A node failed under it.
    NodeFailed,
    /// A memory limit ended it.
    OutOfMemory,
    /// The scheduler refused it.
    Refused,
    /// Nothing has been heard of it for too long.
    Lost,
    /// The scheduler uses a word that we do not know.
    Unknown,
}

impl JobState {
    /// The state's name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Submitting => "submitting",
            Self::Submitted => "submitted",
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Preempted => "preempted",
            Self::Cancelled => "cancelled",
            Self::NodeFailed => "node_failed",
            Self::OutOfMemory => "out_of_memory",
            Self::Refused => "refused",
            Self::Lost => "lost",
            Self::Unknown => "unknown",
        }
    }

    /// The job may still work on its cells: they must not be given to another one.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Submitting | Self::Submitted | Self::Pending | Self::Running | Self::Unknown)
    }
}

/// A job's state with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobView {
    /// The state.
    pub state: JobState,
    /// Why, for people.
    pub reason: Option<String>,
    /// It waits for something that cannot happen.
    pub never_runs: bool,
}

impl JobView {
    fn new(state: JobState, reason: Option<String>) -> Self {
        Self { state, reason, never_runs: false }
    }
}

/// Hears the witnesses.
pub fn judge(job: &KnownJob) -> JobView {
    if let Some(exit) = &job.exit {
        return ended(job, &exit.state, exit.cause.as_deref(), exit.error.clone());
    }
    // A heart that beats beats every other word: schedulers lag, and forget.
    if job.heartbeat_age_s.is_some_and(|age| age <= BEATING_S) {
        return JobView::new(JobState::Running, None);
    }
    let mut view = JobView::new(JobState::Prepared, None);
    let cancel = job.is_cancel_asked();
    for entry in &job.journal {
        view = match &entry.event {
            JobEvent::Submitting { .. } => JobView::new(JobState::Submitting, None),
            JobEvent::Unanswered { text } => JobView::new(JobState::Submitting, Some(text.clone())),
            JobEvent::NotFound => JobView::new(JobState::Prepared, None),
            JobEvent::Submitted { .. } => JobView::new(JobState::Submitted, None),
            JobEvent::Refused { text } => JobView::new(JobState::Refused, Some(text.clone())),
            JobEvent::Started { .. } => JobView::new(JobState::Running, None),
            JobEvent::Report { report } => {
                let state = of_phase(report.phase);
                let reason = match (report.phase, &report.reason) {
                    (JobPhase::Completed, _) => Some("its script ended without a record of the run".to_owned()),
                    (JobPhase::Unknown, _) => Some(format!("the scheduler says `{}`", report.word)),
                    (_, reason) => reason.clone(),
                };
                JobView { state, reason, never_runs: report.never_runs }
            }
            JobEvent::CancelAsked if view.state == JobState::Prepared => JobView::new(JobState::Cancelled, None),
            JobEvent::CancelAsked => view,
            JobEvent::Lost => {
                JobView::new(JobState::Lost, Some("neither the scheduler nor the job answers".to_owned()))
            }
        };
    }
    if view.state == JobState::Running
        && let Some(age) = job.heartbeat_age_s
    {
        view.reason = Some(format!("no heartbeat for {age} s"));
    }
    if cancel && matches!(view.state, JobState::Failed | JobState::Lost) {
        // Some schedulers call what `qdel` did a failure.
        view.state = JobState::Cancelled;
    }
    view
}

fn of_phase(phase: JobPhase) -> JobState {
    match phase {
        JobPhase::Pending => JobState::Pending,
        JobPhase::Running => JobState::Running,
        JobPhase::Completed | JobPhase::Failed => JobState::Failed,
        JobPhase::Cancelled => JobState::Cancelled,
        JobPhase::Timeout => JobState::Timeout,
        JobPhase::Preempted => JobState::Preempted,
        JobPhase::NodeFailed => JobState::NodeFailed,
        JobPhase::OutOfMemory => JobState::OutOfMemory,
        JobPhase::Unknown => JobState::Unknown,
    }
}

/// The job wrote down how it ended; for a run that was cut short the scheduler knows better why.
fn ended(job: &KnownJob, state: &str, cause: Option<&str>, error: Option<String>) -> JobView {
    match state {
        "finished" => JobView::new(JobState::Finished, None),
        "interrupted" => {
            // Put back into the queue: that record is of an earlier start, and another one comes or came.
            if let Some(report) = job.last_report().filter(|_| job.is_requeued())
                && !report.phase.is_over()
            {
                let reason =
                    report.reason.clone().map_or_else(|| "requeued".to_owned(), |why| format!("requeued: {why}"));
                let never_runs = report.never_runs;
                return JobView { state: of_phase(report.phase), reason: Some(reason), never_runs };
            }
            let by_scheduler = job.last_report().map(|report| of_phase(report.phase));
            let state = match (by_scheduler, cause) {
                (Some(state @ (JobState::Cancelled | JobState::Preempted | JobState::NodeFailed)), _) => state,
                (Some(JobState::Timeout), _) | (_, Some("walltime")) => JobState::Timeout,
                _ if job.is_cancel_asked() => JobState::Cancelled,
                _ => JobState::Interrupted,
            };
            JobView::new(state, None)
        }
        _ => JobView::new(JobState::Failed, error),
    }
}
