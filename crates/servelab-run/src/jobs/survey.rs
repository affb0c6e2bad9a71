//! Everything that is on disk about the jobs of a study.

use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde_json::Value;
use servelab_core::ids::JobId;
use servelab_store::{JsonLines, Root, StoreError, read_json, read_json_lines};

use super::{Entry, Intent, JobEvent};
use crate::scheduler::{JobPhase, JobReport, SchedulerId};

/// How a job ended by its own record.
#[derive(Debug, Clone, PartialEq)]
pub struct ExitInfo {
    /// `finished`, `interrupted` or `failed`.
    pub state: String,
    /// `walltime`, when that made it stop.
    pub cause: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// Seconds that `stop_early` saved in it.
    pub saved_s: f64,
    /// When, nanoseconds since 1970.
    pub t_unix_ns: i64,
}

/// One job of a study.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownJob {
    /// What it was to do.
    pub intent: Intent,
    /// What was learned about it, oldest first.
    pub journal: Vec<Entry>,
    /// Seconds since its last heartbeat, if it ever beat.
    pub heartbeat_age_s: Option<u64>,
    /// Its own last record.
    pub exit: Option<ExitInfo>,
}

impl KnownJob {
    /// Its id.
    pub fn id(&self) -> &JobId {
        &self.intent.job
    }

    /// The scheduler's id: of the latest submission, or as the job itself knows it.
    pub fn scheduler_id(&self) -> Option<&SchedulerId> {
        self.journal.iter().rev().find_map(|entry| match &entry.event {
            JobEvent::Submitted { scheduler_id } | JobEvent::Started { scheduler_id: Some(scheduler_id), .. } => {
                Some(scheduler_id)
            }
            _ => None,
        })
    }

    /// The first node that it ran on, as the scheduler calls it.
    pub fn first_node(&self) -> Option<&str> {
        self.journal.iter().rev().find_map(|entry| match &entry.event {
            JobEvent::Started { host, .. } => Some(host.as_str()),
            _ => None,
        })
    }

    /// The scheduler's last word since the latest submission.
    pub fn last_report(&self) -> Option<&JobReport> {
        for entry in self.journal.iter().rev() {
            match &entry.event {
                JobEvent::Report { report } => return Some(report),
                JobEvent::Submitted { .. } | JobEvent::Submitting { .. } => return None,
                _ => {}
            }
        }
        None
    }

    /// The scheduler had it in the queue after it had started: an operator or a failed node put it back. Told by the order
    /// of the journal, because the clocks of two machines tell nothing.
    pub fn is_requeued(&self) -> bool {
        let started = self.journal.iter().rposition(|entry| matches!(entry.event, JobEvent::Started { .. }));
        let since = started.and_then(|at| self.journal.get(at..)).unwrap_or_default();
        since
            .iter()
            .any(|entry| matches!(&entry.event, JobEvent::Report { report } if report.phase == JobPhase::Pending))
    }

    /// Somebody asked for its cancellation through us.
    pub fn is_cancel_asked(&self) -> bool {
        self.journal.iter().any(|entry| entry.event == JobEvent::CancelAsked)
    }

    /// Node-hours that `stop_early` saved in it.
    pub fn saved_node_hours(&self) -> f64 {
        self.exit.as_ref().map_or(0.0, |exit| f64::from(self.intent.nodes) * exit.saved_s / 3600.0)
    }

    /// Node-hours used so far; for a job that is still to run, what it may use at most.
    pub fn node_hours(&self, now_unix_ns: i64, is_active: bool) -> f64 {
        let nodes = f64::from(self.intent.nodes);
        let started = self.journal.iter().find_map(|entry| match &entry.event {
            JobEvent::Started { .. } => Some(entry.t_unix_ns),
            _ => None,
        });
        let limit_s = self.intent.walltime_s as f64;
        if is_active {
            return nodes * limit_s / 3600.0;
        }
        let Some(started) = started else { return 0.0 };
        let beat = self.heartbeat_age_s.map(|age| now_unix_ns.saturating_sub(age as i64 * 1_000_000_000));
        let ended = self.exit.as_ref().map(|exit| exit.t_unix_ns).or(beat).unwrap_or(started);
        nodes * (ended.saturating_sub(started).max(0) as f64 / 1e9).min(limit_s) / 3600.0
    }
}

/// The jobs that were made for a scheduler, oldest first. Folders that hold something else are passed over.
pub fn survey(root: &Root, study: &str, now_unix_ns: i64) -> Result<Vec<KnownJob>, StoreError> {
    let mut jobs = Vec::new();
    let folder = root.path().join("jobs");
    for entry in fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        let Ok(intent) = read_json::<Intent>(&path.join("intent.json")) else { continue };
        if intent.study == study {
            jobs.push(known(&path, intent, now_unix_ns)?);
        }
    }
    jobs.sort_by(|a, b| (a.intent.t_unix_ns, a.id()).cmp(&(b.intent.t_unix_ns, b.id())));
    Ok(jobs)
}

fn known(folder: &Path, intent: Intent, now_unix_ns: i64) -> Result<KnownJob, StoreError> {
    let lines: JsonLines<Entry> = read_json_lines(&folder.join("scheduler.jsonl"))?;
    let exit: Option<Value> = read_json(&folder.join("exit.json")).ok();
    let text = |value: &Value, path: &str| value.pointer(path).and_then(Value::as_str).map(str::to_owned);
    Ok(KnownJob {
        intent,
        journal: lines.values,
        heartbeat_age_s: heartbeat_age_s(&folder.join("heartbeat"), now_unix_ns),
        exit: exit.map(|exit| ExitInfo {
            state: text(&exit, "/state").unwrap_or_else(|| "failed".to_owned()),
            cause: text(&exit, "/detail/cause"),
            error: text(&exit, "/detail/error"),
            saved_s: exit.pointer("/detail/saved_s").and_then(Value::as_f64).unwrap_or(0.0),
            t_unix_ns: exit.get("t_unix_ns").and_then(Value::as_i64).unwrap_or(now_unix_ns),
        }),
    })
}

/// The writer's clock and the file server's may both be wrong; the fresher one counts.
pub(crate) fn heartbeat_age_s(path: &Path, now_unix_ns: i64) -> Option<u64> {
    let written = fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<i64>().ok());
    let modified = fs::metadata(path).ok().and_then(|meta| meta.modified().ok());
    let modified = modified.and_then(|time| i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok());
    let newest = written.into_iter().chain(modified).max()?;
    Some(u64::try_from(now_unix_ns.saturating_sub(newest)).unwrap_or(0) / 1_000_000_000)
}
