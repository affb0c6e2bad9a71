//! Who may work on a cell. A claim is a new `attempt-N` folder that appears, by one rename, with its claim file inside; two
//! starters can never get the same one. No lock is held: a claim ends when its attempt does, or when its owner is known
//! to be gone.
//!
//! When a claim is stale:
//! * same host, same boot, same PID namespace: /proc answers exactly (PID and start time), so a killed run can be resumed
//!   at once; nothing else is asked;
//! * its job is known to be running: never; the asker itself runs that job now (requeued, on another node): at once;
//! * otherwise (rebooted, other host, other container): when the heartbeat is older than the grace period. Another host
//!   whose job state is unknown cannot be shown to be gone; the grace period is all there is, so keep it generous.

use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use servelab_core::ids::{CellId, JobId};
use servelab_core::state::CellState;

use crate::attempt::{AttemptDir, AttemptState};
use crate::error::StoreError;
use crate::files::{create_dir_all, unique_beside, write_json};
use crate::root::Root;

const CLAIM_FILE: &str = "claim.json";
const HEARTBEAT_FILE: &str = "heartbeat";
/// More lost races than starters that anybody runs.
const MAX_RACES: u32 = 100;

/// Who holds a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimInfo {
    /// Host name.
    pub host: String,
    /// The kernel's boot id: PIDs mean nothing across boots.
    pub boot_id: String,
    /// PID namespace: PIDs mean nothing across containers.
    #[serde(default)]
    pub pid_namespace: String,
    /// Process.
    pub pid: u32,
    /// Its start time in clock ticks since boot, because PIDs are reused.
    pub process_start_ticks: u64,
    /// Job it belongs to.
    #[serde(default)]
    pub job: Option<JobId>,
    /// When the claim was made, nanoseconds since 1970.
    pub t_unix_ns: i64,
}

impl ClaimInfo {
    /// A claim by this process.
    pub fn of_this_process(job: Option<JobId>, t_unix_ns: i64) -> Self {
        let pid = std::process::id();
        Self {
            host: hostname(),
            boot_id: boot_id(),
            pid_namespace: pid_namespace(),
            pid,
            process_start_ticks: process_start_ticks(pid).unwrap_or(0),
            job,
            t_unix_ns,
        }
    }

    /// `host, process 123`: for "held by".
    pub fn describe(&self) -> String {
        let job = self.job.as_ref().map(|job| format!(", job {}", job.short())).unwrap_or_default();
        format!("{}, process {}{job}", self.host, self.pid)
    }
}

/// What is known about a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobLife {
    /// The scheduler or our records say that it runs.
    Running,
    /// It is over.
    Gone,
    /// Whoever asks runs this very job now: an earlier start of it can hold nothing any more.
    TakenOver,
    /// Nobody knows.
    Unknown,
}

/// How to find out whether an owner still lives.
pub struct Liveness<'a> {
    /// Now, nanoseconds since 1970.
    pub now_unix_ns: i64,
    /// Age in seconds from which a heartbeat is old.
    pub grace_s: u64,
    /// State of a job.
    pub job_life: &'a dyn Fn(&JobId) -> JobLife,
}

impl Liveness<'static> {
    /// Grace period that fits network file systems and clocks that disagree.
    pub const DEFAULT_GRACE_S: u64 = 300;

    /// Without a scheduler: nothing is known about jobs.
    pub fn local(now_unix_ns: i64) -> Self {
        Self { now_unix_ns, grace_s: Self::DEFAULT_GRACE_S, job_life: &|_| JobLife::Unknown }
    }
}

/// A wish to work on a cell.
pub struct ClaimRequest<'a> {
    /// The cell.
    pub cell: &'a CellId,
    /// Who asks.
    pub info: &'a ClaimInfo,
    /// How to judge other owners.
    pub liveness: &'a Liveness<'a>,
    /// The finished attempt that the caller has seen and wants to try again after. Without it, or when somebody finished
    /// a newer one meanwhile, a finished cell stays finished. Interrupted attempts need no such permission.
    pub rerun_after: Option<u32>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Claim {
    /// Yours. The folder exists and holds the claim.
    Acquired(AttemptDir),
    /// Somebody else works on it.
    HeldBy {
        /// Which attempt.
        attempt: u32,
        /// Who; `None` when the claim file cannot be read.
        info: Option<ClaimInfo>,
    },
    /// It is over already.
    Finished {
        /// Which attempt.
        attempt: u32,
        /// Its state.
        state: AttemptState,
    },
}

impl Root {
    /// Claims a cell by making its next attempt. An attempt whose owner is gone is ended as `failed(interrupted)` first.
    pub fn claim_cell(&self, request: &ClaimRequest<'_>) -> Result<Claim, StoreError> {
        let mut next = 1;
        for _ in 0..MAX_RACES {
            if let Some(latest) = self.latest_attempt(request.cell)? {
                if let Some(refusal) = refusal(&latest, request)? {
                    return Ok(refusal);
                }
                next = latest.attempt().saturating_add(1);
            }
            let attempt = self.attempt_dir(request.cell, next)?;
            if make_claimed(&attempt, request.info)? {
                return Ok(Claim::Acquired(attempt));
            }
        }
        Ok(Claim::HeldBy { attempt: next, info: None })
    }
}

impl AttemptDir {
    /// Renews the heartbeat; call it every few seconds while working.
    pub fn touch(&self, now_unix_ns: i64) -> Result<(), StoreError> {
        let path = self.path().join(HEARTBEAT_FILE);
        fs::write(&path, format!("{now_unix_ns}\n")).map_err(|source| StoreError::write(&path, source))
    }

    /// The claim, if it can be read.
    pub fn claim(&self) -> Result<Option<ClaimInfo>, StoreError> {
        match self.read_claim() {
            Ok(info) => Ok(Some(info)),
            Err(StoreError::Malformed { .. }) => Ok(None),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Seconds since the last sign of life.
    pub fn heartbeat_age_s(&self, now_unix_ns: i64) -> u64 {
        let heartbeat = self.path().join(HEARTBEAT_FILE);
        let written = fs::read_to_string(&heartbeat).ok().and_then(|text| text.trim().parse::<i64>().ok());
        // The writer's clock and the file server's clock may both be wrong; the fresher one counts.
        let newest = written.into_iter().chain(modified_unix_ns(&heartbeat)).max();
        let newest = newest.or_else(|| modified_unix_ns(self.path())).unwrap_or(0);
        u64::try_from(now_unix_ns.saturating_sub(newest)).unwrap_or(0) / 1_000_000_000
    }

    /// True when the attempt is not over and its owner is gone, by the rules of this module.
    pub fn is_abandoned(&self, liveness: &Liveness<'_>) -> Result<bool, StoreError> {
        if self.state()?.is_some_and(|state| state.state.is_terminal()) {
            return Ok(false);
        }
        Ok(is_stale(self.claim()?.as_ref(), self.heartbeat_age_s(liveness.now_unix_ns), liveness))
    }
}

/// Why `latest` keeps the caller from making another attempt, if it does.
fn refusal(latest: &AttemptDir, request: &ClaimRequest<'_>) -> Result<Option<Claim>, StoreError> {
    let attempt = latest.attempt();
    let state = latest.state()?;
    if let Some(state) = state.clone().filter(|state| state.state.is_terminal()) {
        let may_rerun = state.is_interrupted() || request.rerun_after == Some(attempt);
        return Ok((!may_rerun).then_some(Claim::Finished { attempt, state }));
    }
    if !latest.is_abandoned(request.liveness)? {
        return Ok(Some(Claim::HeldBy { attempt, info: latest.claim()? }));
    }
    let owner = latest.claim()?.map_or_else(|| "its owner".to_owned(), |info| info.describe());
    let last = state.map_or("before its first state", |state| state.state.name());
    let detail = format!("{owner} vanished (last state: {last})");
    latest.enter(CellState::Failed, request.liveness.now_unix_ns, Some(AttemptDir::INTERRUPTED), Some(&detail))?;
    Ok(None)
}

/// Makes the folder with its claim inside. False when somebody was faster.
fn make_claimed(attempt: &AttemptDir, info: &ClaimInfo) -> Result<bool, StoreError> {
    let path = attempt.path();
    // Only its unique name is used: the claim must be inside before the folder takes its real name, or a kill in between
    // would leave an attempt that nobody can judge.
    let cell_dir = path.parent().unwrap_or(Path::new("."));
    let staging = unique_beside(path);
    create_dir_all(cell_dir)?;
    fs::create_dir(&staging).map_err(|source| StoreError::write(&staging, source))?;
    let renamed = write_json(&staging.join(CLAIM_FILE), info).and_then(|()| {
        let heartbeat = staging.join(HEARTBEAT_FILE);
        fs::write(&heartbeat, format!("{}\n", info.t_unix_ns))
            .map_err(|source| StoreError::write(&heartbeat, source))?;
        // An attempt folder is never empty, so renaming onto an existing one fails.
        match fs::rename(&staging, path) {
            Ok(()) => Ok(true),
            Err(_) if path.is_dir() => Ok(false),
            Err(source) => Err(StoreError::write(path, source)),
        }
    });
    if !matches!(renamed, Ok(true)) {
        let _ = fs::remove_dir_all(&staging);
    }
    renamed
}

/// True when the owner of a claim outside of an attempt is gone, by the rules of this module.
pub fn is_gone(info: &ClaimInfo, heartbeat_age_s: u64, liveness: &Liveness<'_>) -> bool {
    is_stale(Some(info), heartbeat_age_s, liveness)
}

fn is_stale(info: Option<&ClaimInfo>, heartbeat_age_s: u64, liveness: &Liveness<'_>) -> bool {
    let is_old = heartbeat_age_s > liveness.grace_s;
    let Some(info) = info else { return is_old };
    let is_here = info.host == hostname() && info.boot_id == boot_id() && info.pid_namespace == pid_namespace();
    if is_here {
        return process_start_ticks(info.pid) != Some(info.process_start_ticks);
    }
    match info.job.as_ref().map(liveness.job_life) {
        Some(JobLife::Running) => false,
        Some(JobLife::TakenOver) => true,
        Some(JobLife::Gone | JobLife::Unknown) | None => is_old,
    }
}

fn modified_unix_ns(path: &Path) -> Option<i64> {
    let modified = fs::metadata(path).ok()?.modified().ok()?;
    i64::try_from(modified.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok()
}

/// This host's name.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn pid_namespace() -> String {
    fs::read_link("/proc/self/ns/pid").map(|link| link.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Start time of a living process; `None` for one that is gone or a zombie.
fn process_start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may hold spaces and parentheses; the fields proper begin after the last one.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::sync::Barrier;

    use super::*;

    const NOW: i64 = 2_000_000_000_000_000_000;

    fn claim(root: &Root, info: &ClaimInfo, liveness: &Liveness<'_>, rerun_after: Option<u32>) -> Claim {
        let cell = CellId::new("cell");
        root.claim_cell(&ClaimRequest { cell: &cell, info, liveness, rerun_after }).unwrap()
    }

    fn acquired(claim: Claim) -> AttemptDir {
        match claim {
            Claim::Acquired(attempt) => attempt,
            other => panic!("not acquired: {other:?}"),
        }
    }

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open_or_create(dir.path()).unwrap();
        (dir, root)
    }

    #[test]
    fn only_one_of_many_starters_gets_the_cell() {
        let (_dir, root) = root();
        let barrier = Barrier::new(8);
        let claims: Vec<Claim> = std::thread::scope(|scope| {
            let starters: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let me = ClaimInfo::of_this_process(None, NOW);
                        barrier.wait();
                        claim(&root, &me, &Liveness::local(NOW), None)
                    })
                })
                .collect();
            starters.into_iter().map(|starter| starter.join().unwrap()).collect()
        });
        assert_eq!(claims.iter().filter(|c| matches!(c, Claim::Acquired(_))).count(), 1);
        let held = claims
            .iter()
            .filter(|c| matches!(c, Claim::HeldBy { attempt: 1, info: Some(info) } if info.pid == std::process::id()));
        assert_eq!(held.count(), 7);
        let cell_dir = root.cell_dir(&CellId::new("cell")).unwrap();
        assert_eq!(fs::read_dir(cell_dir).unwrap().count(), 1, "the losers leave nothing behind");
    }

    #[test]
    fn a_killed_process_loses_its_claim_at_once_and_nothing_is_overwritten() {
        let (_dir, root) = root();
        let mut child = Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().unwrap();
        let mut theirs = ClaimInfo::of_this_process(None, NOW);
        theirs.pid = child.id();
        theirs.process_start_ticks = process_start_ticks(child.id()).unwrap();
        let me = ClaimInfo::of_this_process(None, NOW);
        let first = acquired(claim(&root, &theirs, &Liveness::local(NOW), None));
        first.enter(CellState::Measuring, NOW, None, None).unwrap();
        first.touch(NOW).unwrap();
        let held = claim(&root, &me, &Liveness::local(NOW), None);
        assert_eq!(held, Claim::HeldBy { attempt: 1, info: Some(theirs.clone()) });

        child.kill().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        // Not reaped yet: a zombie is as gone as it gets.
        while process_start_ticks(child.id()).is_some() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        let second = acquired(claim(&root, &me, &Liveness::local(NOW), None));
        child.wait().unwrap();
        assert_eq!(second.attempt(), 2);
        let state = first.state().unwrap().unwrap();
        assert!(state.is_interrupted());
        assert!(state.detail.unwrap().contains("last state: measuring"));
        assert_eq!(first.claim().unwrap(), Some(theirs));
    }

    #[test]
    fn a_reused_pid_is_another_process() {
        let (_dir, root) = root();
        let mut theirs = ClaimInfo::of_this_process(None, NOW);
        theirs.process_start_ticks += 1;
        acquired(claim(&root, &theirs, &Liveness::local(NOW), None));
        assert_eq!(acquired(claim(&root, &theirs, &Liveness::local(NOW), None)).attempt(), 2);
    }

    #[test]
    fn a_finished_cell_is_repeated_only_on_request() {
        let (_dir, root) = root();
        let me = ClaimInfo::of_this_process(None, NOW);
        let here = Liveness::local(NOW);
        let first = acquired(claim(&root, &me, &here, None));
        first.enter(CellState::Done, NOW, None, None).unwrap();
        assert!(matches!(claim(&root, &me, &here, None), Claim::Finished { attempt: 1, .. }));
        let second = acquired(claim(&root, &me, &here, Some(1)));
        second.enter(CellState::Failed, NOW, Some("server_exited"), None).unwrap();
        assert!(
            matches!(claim(&root, &me, &here, Some(1)), Claim::Finished { attempt: 2, .. }),
            "newer than what was seen"
        );
        assert_eq!(acquired(claim(&root, &me, &here, Some(2))).attempt(), 3);
    }

    #[test]
    fn elsewhere_the_heartbeat_and_the_job_decide() {
        let mut elsewhere = ClaimInfo::of_this_process(Some(JobId::new("job")), NOW);
        let check = |info: &ClaimInfo, age: u64, life: JobLife, expected: bool| {
            let liveness = Liveness { now_unix_ns: NOW, grace_s: 300, job_life: &|_| life };
            assert_eq!(is_stale(Some(info), age, &liveness), expected, "{} after {age} s, {life:?}", info.host);
        };
        check(&elsewhere, 9_999, JobLife::Gone, false);
        elsewhere.host = "another-node".into();
        check(&elsewhere, 10, JobLife::Gone, false);
        check(&elsewhere, 301, JobLife::Gone, true);
        check(&elsewhere, 0, JobLife::TakenOver, true);
        check(&elsewhere, 301, JobLife::Unknown, true);
        check(&elsewhere, 99_999, JobLife::Running, false);
        let mut rebooted = ClaimInfo::of_this_process(None, NOW);
        rebooted.boot_id = "earlier".into();
        check(&rebooted, 10, JobLife::Unknown, false);
        check(&rebooted, 301, JobLife::Unknown, true);
        let mut container = ClaimInfo::of_this_process(None, NOW);
        (container.pid_namespace, container.process_start_ticks) = ("pid:[1]".into(), 0);
        check(&container, 10, JobLife::Unknown, false);
        assert!(!is_stale(None, 10, &Liveness::local(NOW)) && is_stale(None, 301, &Liveness::local(NOW)));
    }

    #[test]
    fn a_heartbeat_keeps_the_claim_young() {
        let (_dir, root) = root();
        let attempt = acquired(claim(&root, &ClaimInfo::of_this_process(None, NOW), &Liveness::local(NOW), None));
        assert_eq!(attempt.heartbeat_age_s(NOW + 7_500_000_000), 7);
        attempt.touch(NOW + 7_000_000_000).unwrap();
        assert_eq!(attempt.heartbeat_age_s(NOW + 7_500_000_000), 0);
        attempt.touch(NOW - 1).unwrap();
        fs::write(attempt.path().join(HEARTBEAT_FILE), "torn").unwrap();
        let modified = modified_unix_ns(&attempt.path().join(HEARTBEAT_FILE)).unwrap();
        assert_eq!(attempt.heartbeat_age_s(modified + 3_000_000_000), 3, "an unreadable heartbeat still has its time");
    }
}
