//! The record of one run as a job: what it meant to do, that it is alive, how it ended. A heart beats for the job and for
//! every attempt that it holds, so that others can tell a long cell from a dead run.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;
use servelab_core::ids::{CellId, JobId};
use servelab_store::{AttemptDir, ClaimInfo, JobLife, Liveness, Root, StoreError, hostname, write_json};

use crate::exclusive::Right;
use crate::jobs::{BEATING_S, JobEvent, heartbeat_age_s, note};
use crate::scheduler::{JobPhase, SchedulerId};

const BEAT: Duration = Duration::from_secs(5);

/// Nanoseconds since 1970. Wall-clock time labels records; it is never subtracted.
pub(crate) fn unix_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// A new random job id (UUID version 4).
pub fn new_job_id() -> std::io::Result<JobId> {
    use std::io::Read as _;
    let mut bytes = [0_u8; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let bits = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default();
    Ok(JobId::new(format!("{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32))))
}

/// A job that was ended in order has left `exit.json`; anything else is unknown.
pub(crate) fn job_life(root: &Root, job: &JobId) -> JobLife {
    match root.job_dir(job) {
        Ok(folder) if folder.join("exit.json").exists() => JobLife::Gone,
        Ok(folder) => by_scheduler(&folder),
        _ => JobLife::Unknown,
    }
}

/// What the scheduler last said, as far as somebody wrote it down.
fn by_scheduler(folder: &std::path::Path) -> JobLife {
    let lines = servelab_store::read_json_lines::<crate::jobs::Entry>(&folder.join("scheduler.jsonl"));
    let last = lines.ok().and_then(|mut lines| lines.values.pop());
    match last.map(|entry| entry.event) {
        Some(JobEvent::Report { report }) if report.phase == JobPhase::Running => JobLife::Running,
        Some(JobEvent::Report { report }) if report.phase.is_over() => JobLife::Gone,
        Some(JobEvent::Lost) => JobLife::Gone,
        _ => JobLife::Unknown,
    }
}

/// The record of a run inside a job that was submitted: `intent.json` is the submitter's.
const RUN_FILE: &str = "run.json";

/// Makes this process the one that runs a submitted job, or says who does: a script that is started a second time, or
/// twice at once, must leave it alone. The right ends with the job's own record, or with a process that is gone.
pub fn take_job(root: &Root, job: &JobId) -> Result<Result<(), String>, StoreError> {
    let folder = root.job_dir(job)?;
    let path = folder.join(RUN_FILE);
    let me = ClaimInfo::of_this_process(Some(job.clone()), unix_ns());
    let is_over = |owner: &ClaimInfo| {
        if folder.join("exit.json").exists() {
            return true;
        }
        let ages = [folder.join("heartbeat"), path.clone()].map(|file| heartbeat_age_s(&file, unix_ns()));
        let age_s = ages.into_iter().flatten().min().unwrap_or(0);
        servelab_store::is_gone(owner, age_s, &Liveness { grace_s: BEATING_S, ..Liveness::local(unix_ns()) })
    };
    let deadline = Instant::now() + Duration::from_secs(2 * BEATING_S);
    let taken = loop {
        let taken = Right::take(&path, &me, &is_over)?;
        // A scheduler starts a job again when the former start is over for it. On another node we see only its heart,
        // which takes its time to be known silent.
        if taken.is_ok() || !is_started_again() || Instant::now() >= deadline {
            break taken;
        }
        thread::sleep(Duration::from_secs(1));
    };
    match taken {
        Ok(_) => {
            keep_earlier_exit(&folder);
            // The scheduler's own name of the node is what it can be told to keep away from.
            let host = std::env::var("SLURMD_NODENAME").unwrap_or_else(|_| hostname());
            note(root, job, JobEvent::Started { scheduler_id: own_scheduler_id(), host })?;
            Ok(Ok(()))
        }
        Err(owner) => Ok(Err(owner.map_or_else(|| "somebody else".to_owned(), |owner| owner.describe()))),
    }
}

/// This is not the scheduler's first start of the job.
fn is_started_again() -> bool {
    std::env::var("SLURM_RESTART_COUNT").is_ok_and(|count| count.trim().parse::<u32>().is_ok_and(|count| count > 0))
}

/// The scheduler's id of the allocation that this process runs in.
pub fn own_scheduler_id() -> Option<SchedulerId> {
    let variable = |name: &str| std::env::var(name).ok();
    let id = match (variable("SLURM_ARRAY_JOB_ID"), variable("SLURM_ARRAY_TASK_ID")) {
        (Some(job), Some(task)) => Some(format!("{job}_{task}")),
        _ => variable("SLURM_JOB_ID").or_else(|| variable("PBS_JOBID")),
    };
    SchedulerId::parse(&id?)
}

#[derive(Debug, Serialize)]
struct ExitRecord<'a, T: Serialize> {
    schema: u32,
    /// `finished`, `interrupted` or `failed`.
    state: &'a str,
    t_unix_ns: i64,
    detail: T,
}

/// A running job.
#[derive(Debug)]
pub(crate) struct Job {
    folder: PathBuf,
    heart: Arc<Heart>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Heart {
    state: Mutex<Held>,
    changed: Condvar,
    job_heartbeat: PathBuf,
}

#[derive(Debug, Default)]
struct Held {
    attempts: Vec<AttemptDir>,
    is_over: bool,
}

impl Job {
    /// Writes `intent.json`, unless the job was submitted and has one, and starts the heart.
    pub(crate) fn start(root: &Root, job: &JobId, intent: &Value) -> Result<Self, StoreError> {
        let folder = root.job_dir(job)?;
        if !folder.join("intent.json").exists() {
            write_json(&folder.join("intent.json"), intent)?;
        }
        let heart = Arc::new(Heart {
            state: Mutex::new(Held::default()),
            changed: Condvar::new(),
            job_heartbeat: folder.join("heartbeat"),
        });
        let beating = Arc::clone(&heart);
        // Without a heart the run still works; others then judge it by its process alone.
        let thread = thread::Builder::new().name("heartbeat".to_owned()).spawn(move || beating.beat()).ok();
        Ok(Self { folder, heart, thread })
    }

    /// Beats for an attempt from now on.
    pub(crate) fn hold(&self, attempt: &AttemptDir) {
        self.heart.lock().attempts.push(attempt.clone());
    }

    /// Stops beating for a cell's attempt.
    pub(crate) fn release(&self, cell: &CellId) {
        self.heart.lock().attempts.retain(|attempt| attempt.cell() != cell);
    }

    /// Writes `exit.json` and stops the heart.
    pub(crate) fn finish<T: Serialize>(mut self, state: &str, detail: T) -> Result<(), StoreError> {
        self.stop();
        write_json(&self.folder.join("exit.json"), &ExitRecord { schema: 1, state, t_unix_ns: unix_ns(), detail })
    }

    fn stop(&mut self) {
        self.heart.lock().is_over = true;
        self.heart.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A requeued job, or a script that is submitted again: what the earlier run wrote is kept beside.
fn keep_earlier_exit(folder: &std::path::Path) {
    let exit = folder.join("exit.json");
    if !exit.exists() {
        return;
    }
    let free = (1..).map(|n| folder.join(format!("exit-{n}.json"))).find(|path| !path.exists());
    if let Some(path) = free {
        // Should it fail, the new run's record replaces it.
        let _ = std::fs::rename(&exit, path);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Heart {
    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn beat(&self) {
        let mut held = self.lock();
        while !held.is_over {
            let attempts = held.attempts.clone();
            drop(held);
            let now = unix_ns();
            // A heartbeat that cannot be written (full disk) is missed; the run itself meets the same error and says so.
            let _ = std::fs::write(&self.job_heartbeat, format!("{now}\n"));
            for attempt in &attempts {
                let _ = attempt.touch(now);
            }
            held = self.lock();
            if !held.is_over {
                held = self.changed.wait_timeout(held, BEAT).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_are_random_uuids() {
        let (a, b) = (new_job_id().unwrap(), new_job_id().unwrap());
        assert_ne!(a, b);
        let parts: Vec<&str> = a.as_str().split('-').collect();
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert!(parts[2].starts_with('4') && parts[3].starts_with(['8', '9', 'a', 'b']), "{a}");
    }

    #[test]
    fn a_job_leaves_its_traces() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open_or_create(folder.path()).unwrap();
        let id = new_job_id().unwrap();
        let job = Job::start(&root, &id, &json!({"study": "s"})).unwrap();
        let job_dir = root.job_dir(&id).unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while !job_dir.join("heartbeat").exists() {
            assert!(Instant::now() < deadline, "no heartbeat");
            thread::yield_now();
        }
        assert_eq!(job_life(&root, &id), JobLife::Unknown);
        job.finish("finished", json!({"done": 1})).unwrap();
        assert_eq!(job_life(&root, &id), JobLife::Gone);
        assert!(job_dir.join("intent.json").exists());
    }
}
