//! What to do with a cell that may have been tried before: run it, leave it because it is finished, or leave it out and
//! say why. Who may work on it now is decided by its claim (`servelab-store`).

use servelab_core::failures::{RetryOutlook, failure};
use servelab_core::plan::{PlanStatus, PlannedCell};
use servelab_core::state::CellState;
use servelab_store::{AttemptDir, Root, StoreError};

use crate::observe::SkippedCell;

/// Failed attempts with one code after which a failure that may recover is no longer retried unasked.
pub const RETRY_LIMIT: u32 = 3;

/// Which unfinished business to take up again. Cells that are done never run again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RetryPolicy {
    /// Failures whose code may recover, up to [`RETRY_LIMIT`] attempts; everything that was interrupted.
    #[default]
    Default,
    /// Also every other failure.
    Failed,
    /// Also cells that are invalid.
    Invalid,
    /// Also cells whose latest code is this one.
    Code(String),
    /// Everything that is not done: failed, invalid, infeasible by the engine's word, skipped.
    All,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Try it; after this finished attempt, if there is one.
    Run { rerun_after: Option<u32> },
    /// Nothing to do.
    Finished,
    /// Left out.
    Skip(SkippedCell),
}

pub(crate) fn decide(root: &Root, cell: &PlannedCell, policy: &RetryPolicy) -> Result<Decision, StoreError> {
    match cell.status {
        PlanStatus::Planned => {}
        status => {
            let state = if status == PlanStatus::Blocked { CellState::Blocked } else { CellState::Infeasible };
            let reason = cell.reasons.first().cloned().unwrap_or_else(|| state.name().to_owned());
            return Ok(Decision::Skip(SkippedCell { cell: cell.id.clone(), state: Some(state), code: None, reason }));
        }
    }
    let attempts = root.attempts(&cell.id)?;
    let Some(latest) = attempts.last() else { return Ok(Decision::Run { rerun_after: None }) };
    let Some(state) = latest.state()?.filter(|state| state.state.is_terminal()) else {
        return Ok(Decision::Run { rerun_after: None });
    };
    let code = state.code.as_deref();
    let again = Decision::Run { rerun_after: Some(latest.attempt()) };
    let is_code = matches!(policy, RetryPolicy::Code(wanted) if code == Some(wanted));
    let is_all = *policy == RetryPolicy::All;
    Ok(match state.state {
        CellState::Done => Decision::Finished,
        CellState::Invalid if is_all || is_code || *policy == RetryPolicy::Invalid => again,
        CellState::Infeasible | CellState::Skipped if is_all || is_code => again,
        finished if finished.is_finished() => Decision::Finished,
        CellState::Failed if !state.is_interrupted() => {
            if is_all || is_code || *policy == RetryPolicy::Failed {
                return Ok(again);
            }
            match why_not_again(&attempts, code)? {
                None => again,
                Some(reason) => Decision::Skip(SkippedCell {
                    cell: cell.id.clone(),
                    state: Some(CellState::Failed),
                    code: state.code.clone(),
                    reason,
                }),
            }
        }
        // Interrupted, cancelled, preempted, out of time: nothing was wrong with the cell.
        _ => again,
    })
}

fn why_not_again(attempts: &[AttemptDir], code: Option<&str>) -> Result<Option<String>, StoreError> {
    let code = code.unwrap_or("unknown");
    if outlook(code) != RetryOutlook::MayRecover {
        return Ok(Some(format!("failed with `{code}`, which a retry does not cure; `--retry {code}` tries anyway")));
    }
    let mut tries = 0;
    for attempt in attempts {
        let state = attempt.state()?;
        tries += u32::from(state.is_some_and(|s| s.state == CellState::Failed && s.code.as_deref() == Some(code)));
    }
    Ok((tries >= RETRY_LIMIT).then(|| format!("failed {tries} times with `{code}`; `--retry {code}` tries again")))
}

/// May the same thing work next time?
fn outlook(code: &str) -> RetryOutlook {
    match code {
        "server_exited" | "server_start_timeout" | "server_unhealthy" | "endpoint_unreachable" | "load_failed" => {
            RetryOutlook::MayRecover
        }
        // Nothing was wrong with the cell; the limit keeps a node that kills every job from being fed for ever.
        "node_fail" | "job_lost" => RetryOutlook::MayRecover,
        // Preflight stops a run whose engine is still missing, so a run that gets this far has another answer.
        "engine_not_found" => RetryOutlook::MayRecover,
        code => failure(code).map_or(RetryOutlook::Unknown, |failure| failure.retry),
    }
}

#[cfg(test)]
mod tests {
    use servelab_store::{Claim, ClaimInfo, ClaimRequest, Liveness};

    use super::*;
    use crate::fixtures::{cell, point};

    /// Each history is a list of attempts' final states with their codes.
    #[test]
    fn decisions() {
        use CellState::{Cancelled, Done, Failed, Infeasible, Invalid, Measuring, Preempted, Timeout};
        type History = &'static [(CellState, Option<&'static str>)];
        let code = |code: &str| RetryPolicy::Code(code.to_owned());
        let may: History = &[(Failed, Some("port_in_use"))];
        let cannot: History = &[(Failed, Some("bad_flag"))];
        let often: History =
            &[(Failed, Some("port_in_use")), (Failed, Some("port_in_use")), (Failed, Some("port_in_use"))];
        let invalid: History = &[(Invalid, Some("success_low"))];
        for (history, policy, expected) in [
            (&[] as History, RetryPolicy::Default, "run"),
            (&[(Done, None)], RetryPolicy::Default, "finished"),
            (&[(Done, None)], RetryPolicy::All, "finished"),
            (&[(Measuring, None)], RetryPolicy::Default, "run"),
            (invalid, RetryPolicy::Default, "finished"),
            (invalid, RetryPolicy::Invalid, "run after 1"),
            (invalid, RetryPolicy::Failed, "finished"),
            (invalid, code("success_low"), "run after 1"),
            (&[(Infeasible, Some("kv_none"))], RetryPolicy::Failed, "finished"),
            (&[(Infeasible, Some("kv_none"))], RetryPolicy::All, "run after 1"),
            (may, RetryPolicy::Default, "run after 1"),
            (cannot, RetryPolicy::Default, "skip"),
            (cannot, RetryPolicy::Failed, "run after 1"),
            (cannot, code("bad_flag"), "run after 1"),
            (cannot, code("port_in_use"), "skip"),
            (often, RetryPolicy::Default, "skip"),
            (often, RetryPolicy::Failed, "run after 3"),
            (&[(Failed, Some("nobody_knows"))], RetryPolicy::Default, "skip"),
            (&[(Failed, Some("interrupted"))], RetryPolicy::Default, "run after 1"),
            (&[(Cancelled, Some("interrupted"))], RetryPolicy::Default, "run after 1"),
            (&[(Timeout, None)], RetryPolicy::Default, "run after 1"),
            (&[(Preempted, None)], RetryPolicy::Default, "run after 1"),
            (&[(Failed, Some("bad_flag")), (Done, None)], RetryPolicy::Default, "finished"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let root = Root::open_or_create(folder.path()).unwrap();
            let cell = cell(&point("p", &[]), 1, 0);
            let info = ClaimInfo::of_this_process(None, 1);
            for (number, (state, code)) in (1..).zip(history) {
                let request = ClaimRequest {
                    cell: &cell.id,
                    info: &info,
                    liveness: &Liveness::local(1),
                    rerun_after: Some(number - 1),
                };
                let Claim::Acquired(attempt) = root.claim_cell(&request).unwrap() else { panic!("not acquired") };
                attempt.enter(*state, 1, *code, None).unwrap();
            }
            let decision = match decide(&root, &cell, &policy).unwrap() {
                Decision::Run { rerun_after: None } => "run".to_owned(),
                Decision::Run { rerun_after: Some(n) } => format!("run after {n}"),
                Decision::Finished => "finished".to_owned(),
                Decision::Skip(skipped) => {
                    assert!(skipped.reason.contains("--retry"), "{}", skipped.reason);
                    "skip".to_owned()
                }
            };
            assert_eq!(decision, expected, "{history:?} {policy:?}");
        }
    }

    #[test]
    fn what_the_plan_excludes_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open_or_create(folder.path()).unwrap();
        let mut cell = cell(&point("p", &[]), 1, 0);
        cell.status = PlanStatus::Infeasible;
        cell.reasons = vec!["too long".to_owned()];
        let Decision::Skip(skipped) = decide(&root, &cell, &RetryPolicy::All).unwrap() else { panic!("not skipped") };
        assert_eq!((skipped.state, skipped.reason.as_str()), (Some(CellState::Infeasible), "too long"));
    }
}
