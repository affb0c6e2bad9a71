//! Cells of jobs that ended without a word: their open attempts are closed with what the scheduler says, so that the next
//! job may take them up. What was finished stays finished.

use servelab_core::event::{Event, EventKind};
use servelab_core::state::CellState;
use servelab_store::{AttemptDir, Durability, Root, StoreError, append_line};

use super::{BEATING_S, JobState, KnownJob, judge};

/// Closes the open attempts of jobs that are over. Returns how many.
pub fn settle(root: &Root, jobs: &[KnownJob], now_unix_ns: i64) -> Result<u64, StoreError> {
    let mut closed = 0;
    for job in jobs {
        let view = judge(job);
        let Some((state, code)) = end_of_cells(view.state) else { continue };
        let reason = view.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        let id = job.scheduler_id().map(|id| format!(" ({id})")).unwrap_or_default();
        let detail = format!("job {}{id} ended as `{}`{reason}", job.id().short(), view.state.name());
        for cell in &job.intent.cells {
            let Some(attempt) = root.latest_attempt(cell)? else { continue };
            if is_open_of(&attempt, job, now_unix_ns)? {
                attempt.enter(state, now_unix_ns, Some(code), Some(&detail))?;
                let kind = EventKind::Cell {
                    cell: cell.clone(),
                    attempt: attempt.attempt(),
                    state,
                    code: Some(code.to_owned()),
                };
                let events = root.events_path(&job.intent.study)?;
                append_line(&events, &Event { t_unix_ns: now_unix_ns, kind }, Durability::Synced)?;
                closed += 1;
            }
        }
    }
    Ok(closed)
}

/// What becomes of a cell that was being worked on. None of these is the cell's fault: all are taken up again.
fn end_of_cells(state: JobState) -> Option<(CellState, &'static str)> {
    Some(match state {
        JobState::Timeout => (CellState::Timeout, "walltime"),
        JobState::Preempted => (CellState::Preempted, "preempted"),
        JobState::Cancelled | JobState::Interrupted => (CellState::Cancelled, AttemptDir::INTERRUPTED),
        JobState::NodeFailed => (CellState::Failed, "node_fail"),
        JobState::Lost => (CellState::Failed, "job_lost"),
        JobState::Failed | JobState::OutOfMemory => (CellState::Failed, AttemptDir::INTERRUPTED),
        _ => return None,
    })
}

/// An attempt that this job holds and that nobody works on any more.
fn is_open_of(attempt: &AttemptDir, job: &KnownJob, now_unix_ns: i64) -> Result<bool, StoreError> {
    if attempt.state()?.is_some_and(|state| state.state.is_terminal()) {
        return Ok(false);
    }
    let is_theirs = attempt.claim()?.is_some_and(|claim| claim.job.as_ref() == Some(job.id()));
    Ok(is_theirs && attempt.heartbeat_age_s(now_unix_ns) > BEATING_S)
}
