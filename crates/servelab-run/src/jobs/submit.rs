//! Handing jobs over, and learning how they are. A submission is written down before it is made; one whose answer was lost
//! is looked for by its UUID before anything else is done about it. Two submitters never hand over the same job: the right
//! to do so is a file that only one can make.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use servelab_core::ids::JobId;
use servelab_store::{ClaimInfo, Liveness, Root, StoreError, hostname, is_gone, read_json, read_json_lines};

use super::{Entry, JobEvent, JobState, KnownJob, LOST_AFTER_S, judge, note};
use crate::exclusive::Right;
use crate::job::unix_ns;
use crate::scheduler::{QueryError, Scheduler, SchedulerId, SubmitError};

const SUBMITTER: &str = "submitter.json";
/// A client that outlives its killed submitter needs so long to be done.
const STRAY_CLIENT: Duration = Duration::from_secs(20);

/// What came of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubmitOutcome {
    /// The scheduler has it.
    Submitted(SchedulerId),
    /// The scheduler said no.
    Refused(String),
    /// No answer; it is looked for again at the next call.
    Unanswered(String),
    /// Somebody else is just doing it.
    Busy(String),
    /// The client program is not on this machine.
    NotHere(String),
}

/// Submits one prepared job.
pub fn submit(root: &Root, job: &JobId, script: &Path, scheduler: &dyn Scheduler) -> Result<SubmitOutcome, StoreError> {
    hand_over(root, &[job], script, scheduler, &|id, _| id.clone())
}

/// Submits an array: its prepared jobs in the order of their numbers. All of them or none.
pub fn submit_array(
    root: &Root,
    jobs: &[&JobId],
    script: &Path,
    scheduler: &dyn Scheduler,
) -> Result<SubmitOutcome, StoreError> {
    hand_over(root, jobs, script, scheduler, &SchedulerId::task)
}

fn hand_over(
    root: &Root,
    jobs: &[&JobId],
    script: &Path,
    scheduler: &dyn Scheduler,
    id_of: &dyn Fn(&SchedulerId, u32) -> SchedulerId,
) -> Result<SubmitOutcome, StoreError> {
    let rights = match take_rights(root, jobs)? {
        Ok(rights) => rights,
        Err(holder) => return Ok(SubmitOutcome::Busy(holder)),
    };
    for job in jobs {
        note(root, job, JobEvent::Submitting { host: hostname(), pid: std::process::id() })?;
    }
    let note_all = |event: JobEvent| jobs.iter().try_for_each(|job| note(root, job, event.clone()));
    let outcome = match scheduler.submit(script) {
        Ok(id) => {
            for (index, job) in (0..).zip(jobs) {
                note(root, job, JobEvent::Submitted { scheduler_id: id_of(&id, index) })?;
            }
            SubmitOutcome::Submitted(id)
        }
        Err(SubmitError::NotHere { program }) => {
            note_all(JobEvent::NotFound)?;
            SubmitOutcome::NotHere(SubmitError::NotHere { program }.to_string())
        }
        Err(error @ SubmitError::Refused { .. }) => {
            let text = error.to_string();
            note_all(JobEvent::Refused { text: text.clone() })?;
            SubmitOutcome::Refused(text)
        }
        Err(error @ SubmitError::Unanswered { .. }) => {
            let text = error.to_string();
            note_all(JobEvent::Unanswered { text: text.clone() })?;
            SubmitOutcome::Unanswered(text)
        }
    };
    rights.into_iter().for_each(Right::give_back);
    Ok(outcome)
}

/// The rights to hand these jobs over, or who has one of them. A job that somebody submitted between the caller's look and
/// now is one of theirs.
fn take_rights(root: &Root, jobs: &[&JobId]) -> Result<Result<Vec<Right>, String>, StoreError> {
    let me = ClaimInfo::of_this_process(None, unix_ns());
    let mut rights = Vec::new();
    for job in jobs {
        let folder = root.job_dir(job)?;
        let path = folder.join(SUBMITTER);
        let is_over = |holder: &ClaimInfo| is_gone(holder, age_s(&path), &Liveness::local(unix_ns()));
        let busy = match Right::take(&path, &me, &is_over)? {
            Ok(right) => {
                rights.push(right);
                let journal = read_json_lines::<Entry>(&folder.join("scheduler.jsonl"))?.values;
                let last = journal.last().map(|entry| &entry.event);
                let is_free = matches!(last, None | Some(JobEvent::Refused { .. } | JobEvent::NotFound));
                (!is_free).then(|| "another submitter was faster".to_owned())
            }
            Err(holder) => Some(holder.map_or_else(|| "somebody".to_owned(), |holder| holder.describe())),
        };
        if let Some(holder) = busy {
            rights.into_iter().for_each(Right::give_back);
            return Ok(Err(holder));
        }
    }
    Ok(Ok(rights))
}

fn age_s(path: &Path) -> u64 {
    let modified = fs::metadata(path).and_then(|meta| meta.modified()).ok();
    modified.and_then(|time| time.elapsed().ok()).map_or(0, |age| age.as_secs())
}

/// Asks the scheduler about every job that may still be there, in one question, and writes down what is new. Then the
/// journal of each says how it is.
pub fn refresh(root: &Root, jobs: &[KnownJob], scheduler: &dyn Scheduler) -> Result<Refreshed, StoreError> {
    let mut refreshed = Refreshed::default();
    let open: Vec<&KnownJob> = jobs.iter().filter(|job| needs_word(job)).collect();
    let ids: Vec<SchedulerId> = open.iter().filter_map(|job| job.scheduler_id().cloned()).collect();
    if !ids.is_empty() {
        match scheduler.poll(&ids) {
            Ok(reports) => {
                for job in &open {
                    let Some(id) = job.scheduler_id() else { continue };
                    match reports.get(id) {
                        Some(report) if job.last_report() == Some(report) => {}
                        Some(report) => {
                            note(root, job.id(), JobEvent::Report { report: report.clone() })?;
                            refreshed.news += 1;
                        }
                        None if is_lost(job) => {
                            note(root, job.id(), JobEvent::Lost)?;
                            refreshed.news += 1;
                        }
                        None => {}
                    }
                }
            }
            Err(error) => refreshed.trouble = Some(error),
        }
    }
    let prepared: Vec<&KnownJob> = jobs.iter().filter(|job| judge(job).state == JobState::Prepared).collect();
    // Scripts are there to be submitted by hand as well.
    if !prepared.is_empty() {
        match find(&prepared, scheduler) {
            Ok(found) => {
                for (job, id) in found {
                    note(root, &job, JobEvent::Submitted { scheduler_id: id })?;
                    refreshed.news += 1;
                }
            }
            Err(error) => refreshed.trouble = Some(error),
        }
    }
    let unanswered: Vec<&KnownJob> = jobs.iter().filter(|job| judge(job).state == JobState::Submitting).collect();
    if !unanswered.is_empty() {
        look_for(root, &unanswered, scheduler, &mut refreshed)?;
    }
    Ok(refreshed)
}

/// Which of these jobs the scheduler has, by any of their names.
fn find(jobs: &[&KnownJob], scheduler: &dyn Scheduler) -> Result<BTreeMap<JobId, SchedulerId>, QueryError> {
    let names: Vec<JobId> = jobs.iter().flat_map(|job| job.intent.names()).collect();
    let found = scheduler.find(&names)?;
    let of_job = |job: &&KnownJob| {
        let found = job.intent.names().iter().find_map(|name| found.get(name))?;
        Some((job.id().clone(), found.id.clone()))
    };
    Ok(jobs.iter().filter_map(of_job).collect())
}

/// What a question to the scheduler brought.
#[derive(Debug, Default)]
pub struct Refreshed {
    /// Jobs about which something new was learned.
    pub news: u64,
    /// Why the scheduler could not be asked. Every job stays as it was last known.
    pub trouble: Option<QueryError>,
}

/// Also a job that ended with a record of its own, once: why it was cut short is the scheduler's to say.
fn needs_word(job: &KnownJob) -> bool {
    let was_cut = job.exit.as_ref().is_some_and(|exit| exit.state == "interrupted");
    let is_told = job.last_report().is_some_and(|report| report.phase.is_over());
    judge(job).state.is_active() || was_cut && !is_told
}

/// Known to nobody for longer than any lag of a scheduler.
fn is_lost(job: &KnownJob) -> bool {
    let last = job.journal.last().map_or(job.intent.t_unix_ns, |entry| entry.t_unix_ns);
    let is_silent = job.heartbeat_age_s.is_none_or(|age| i64::try_from(age).unwrap_or(i64::MAX) > LOST_AFTER_S);
    job.exit.is_none() && is_silent && unix_ns().saturating_sub(last) / 1_000_000_000 > LOST_AFTER_S
}

/// Submissions without an answer: found by UUID, or given up on when a client can no longer be on its way.
fn look_for(
    root: &Root,
    jobs: &[&KnownJob],
    scheduler: &dyn Scheduler,
    refreshed: &mut Refreshed,
) -> Result<(), StoreError> {
    let began = Instant::now();
    let mut open: Vec<&KnownJob> = jobs.to_vec();
    loop {
        // A live submitter will write the answer down itself.
        open.retain(|job| !is_being_submitted(root, job.id()));
        if open.is_empty() {
            return Ok(());
        }
        let found = match find(&open, scheduler) {
            Ok(found) => found,
            Err(error) => {
                refreshed.trouble = Some(error);
                return Ok(());
            }
        };
        let mut still_open = Vec::new();
        let mut is_young = false;
        for job in open {
            if let Some(id) = found.get(job.id()) {
                note(root, job.id(), JobEvent::Submitted { scheduler_id: id.clone() })?;
                refreshed.news += 1;
                continue;
            }
            let Some(entry) = job.journal.last() else { continue };
            let age = Duration::from_nanos(u64::try_from(unix_ns().saturating_sub(entry.t_unix_ns)).unwrap_or(0));
            let limit = match &entry.event {
                // The controller may still be working at it.
                JobEvent::Unanswered { .. } => Duration::from_secs(LOST_AFTER_S as u64),
                _ => STRAY_CLIENT,
            };
            if age > limit {
                note(root, job.id(), JobEvent::NotFound)?;
                refreshed.news += 1;
            } else {
                is_young |= limit == STRAY_CLIENT;
                still_open.push(job);
            }
        }
        if !is_young || began.elapsed() > 2 * STRAY_CLIENT {
            return Ok(());
        }
        open = still_open;
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn is_being_submitted(root: &Root, job: &JobId) -> bool {
    let Ok(folder) = root.job_dir(job) else { return false };
    let path = folder.join(SUBMITTER);
    let holder: Option<ClaimInfo> = read_json(&path).ok();
    holder.is_some_and(|holder| !is_gone(&holder, age_s(&path), &Liveness::local(unix_ns())))
}
