//! Real processes: small shell programs stand for servers.

use std::os::unix::process::CommandExt as _;

use super::*;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn command(&self, script: &str) -> ServerCommand {
        let token = format!("test-{}-{:?}", std::process::id(), Instant::now());
        ServerCommand {
            argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec![("FROM_TEST".to_owned(), "yes".to_owned())],
            log: self.0.path().join("server/serve-0.log"),
            record: self.0.path().join("records/serve-0.json"),
            token: token.replace(' ', ""),
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.0.path().join("server/serve-0.log")).unwrap_or_default()
    }
}

#[track_caller]
fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_true() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::sleep(POLL);
    }
}

fn is_running(pid: i32) -> bool {
    procfs::process(pid).is_some_and(|process| !process.is_zombie)
}

fn logged_pids(folder: &Folder, n: usize) -> Vec<i32> {
    let mut pids = Vec::new();
    until("pids in the log", || {
        let log = folder.log();
        // Only whole lines: the last one may still be in the writing.
        pids = log.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')?.parse().ok()).collect();
        pids.len() >= n
    });
    pids
}

#[test]
fn exits_are_seen_and_output_is_kept() {
    for (script, expected) in [
        ("echo out; echo err >&2; exit 3", "exited with status 3"),
        ("kill -KILL $$", "was killed by signal 9"),
        ("cat; exit 0", "exited with status 0"),
    ] {
        let folder = Folder::new();
        let mut server = ServerProcess::spawn(&folder.command(script)).unwrap();
        until("exit", || server.exit().is_some());
        let exit = server.exit().unwrap().describe();
        assert!(exit.starts_with(expected), "{script}: {exit}");
        server.stop(Duration::from_secs(1)).unwrap();
        if script.starts_with("echo") {
            assert!(folder.log().contains("out\n") && folder.log().contains("err\n"));
        }
    }
}

#[test]
fn environment_and_group() {
    let folder = Folder::new();
    let mut server = ServerProcess::spawn(&folder.command("echo $FROM_TEST $SERVELAB_SERVER; exec sleep 600")).unwrap();
    until("output", || folder.log().contains('\n'));
    assert!(folder.log().starts_with("yes test-"));
    assert_eq!(procfs::process(server.pid() as i32).unwrap().pgrp, server.pgid());
    assert_ne!(server.pgid(), rustix::process::getpgrp().as_raw_nonzero().get());
    server.stop(Duration::from_secs(5)).unwrap();
    assert_eq!(server.exit().unwrap().signal, Some(15));
}

#[test]
fn stop_ends_grandchildren_and_those_who_ignore_sigterm() {
    let folder = Folder::new();
    let script = "sh -c 'echo $$; exec sleep 600' & sh -c \"trap '' TERM; echo \\$\\$; while :; do sleep 1; done\" & \
                  echo $$; wait";
    let mut server = ServerProcess::spawn(&folder.command(script)).unwrap();
    let pids = logged_pids(&folder, 3);
    assert!(pids.iter().all(|pid| is_running(*pid)));
    server.stop(Duration::from_millis(200)).unwrap();
    assert!(pids.iter().all(|pid| !is_running(*pid)), "{pids:?}");
    assert!(!folder.0.path().join("records/serve-0.json").exists());
    server.stop(Duration::ZERO).unwrap();
}

#[test]
fn a_second_request_to_stop_cuts_the_grace_short() {
    let folder = Folder::new();
    let script = "trap '' TERM; echo $$; while :; do sleep 1; done";
    let mut server = ServerProcess::spawn(&folder.command(script)).unwrap();
    let pids = logged_pids(&folder, 1);
    let started = Instant::now();
    let is_hurried = || started.elapsed() > Duration::from_millis(100);
    server.stop_unless_hurried(Duration::from_secs(600), &is_hurried).unwrap();
    assert!(!is_running(pids[0]) && started.elapsed() < Duration::from_secs(60));
}

#[test]
fn stop_ends_those_who_left_the_group() {
    let folder = Folder::new();
    let mut server =
        ServerProcess::spawn(&folder.command("setsid sh -c 'echo $$; exec sleep 600' & echo $$; wait")).unwrap();
    let pids = logged_pids(&folder, 2);
    server.stop(Duration::from_millis(200)).unwrap();
    assert!(pids.iter().all(|pid| !is_running(*pid)), "{pids:?}");
}

#[test]
fn a_crashed_server_leaves_nobody_behind() {
    let folder = Folder::new();
    let script = "sh -c 'echo $$; exec sleep 600' & sleep 0.1; exit 7";
    let mut server = ServerProcess::spawn(&folder.command(script)).unwrap();
    let pids = logged_pids(&folder, 1);
    until("exit", || server.exit().is_some());
    assert_eq!(server.exit().unwrap().status, Some(7));
    server.stop(Duration::from_secs(2)).unwrap();
    assert!(pids.iter().all(|pid| !is_running(*pid)));
}

#[test]
fn a_missing_program_is_named() {
    let folder = Folder::new();
    let mut command = folder.command("");
    command.argv = vec!["/no/such/engine".to_owned()];
    let error = ServerProcess::spawn(&command).unwrap_err().to_string();
    assert!(error.starts_with("start `/no/such/engine`: "), "{error}");
    command.argv.clear();
    assert!(ServerProcess::spawn(&command).is_err());
}

#[test]
fn dropping_ends_the_group() {
    let folder = Folder::new();
    let server = ServerProcess::spawn(&folder.command("echo $$; exec sleep 600")).unwrap();
    let pids = logged_pids(&folder, 1);
    drop(server);
    assert!(!is_running(pids[0]));
}

/// The end of the lifeline is exactly what the guardian sees when its owner is killed.
#[test]
fn the_guardian_ends_the_group_when_its_owner_dies() {
    let folder = Folder::new();
    let mut server = ServerProcess::spawn(&folder.command("echo $$; exec sleep 600")).unwrap();
    let pids = logged_pids(&folder, 1);
    drop(server.lifeline.take());
    until("the group is gone", || !is_running(pids[0]));
    assert_eq!(server.exit().unwrap().signal, Some(15));
}

/// A record as a dead owner would have left it.
fn disown(folder: &Folder, edit: impl Fn(&mut ServerRecord)) -> PathBuf {
    let path = folder.0.path().join("records/serve-0.json");
    let mut record: ServerRecord = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record.owner_start_ticks += 1;
    edit(&mut record);
    fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
    path
}

#[test]
fn orphans_are_ended_by_the_next_start() {
    let folder = Folder::new();
    let server = ServerProcess::spawn(&folder.command("sh -c 'echo $$; exec sleep 600' & echo $$; wait")).unwrap();
    let pids = logged_pids(&folder, 2);
    let records = folder.0.path().join("records");
    assert!(orphan::reap(&records, Duration::from_millis(100)).is_empty(), "the owner is alive");
    assert!(pids.iter().all(|pid| is_running(*pid)));
    let path = disown(&folder, |_| {});
    let reaped = orphan::reap(&records, Duration::from_millis(100));
    assert_eq!(reaped.len(), 1);
    assert!(pids.iter().all(|pid| reaped[0].ended.contains(pid) && !is_running(*pid)), "{reaped:?} {pids:?}");
    assert!(!path.exists());
    drop(server);
}

#[test]
fn the_reaper_leaves_strangers_alone() {
    let folder = Folder::new();
    let mut server = ServerProcess::spawn(&folder.command("echo $$; exec sleep 600")).unwrap();
    let pids = logged_pids(&folder, 1);
    let records = folder.0.path().join("records");
    // Same numbers, other start times and token: the numbers were reused by somebody else.
    let recycled = |record: &mut ServerRecord| {
        record.guardian_start_ticks += 1;
        record.server_start_ticks += 1;
        record.token = "other".to_owned();
    };
    disown(&folder, recycled);
    assert!(orphan::reap(&records, Duration::ZERO).is_empty());
    assert!(is_running(pids[0]));
    server.write_record().unwrap();
    let path = disown(&folder, |record| record.host = "elsewhere".to_owned());
    assert!(orphan::reap(&records, Duration::ZERO).is_empty());
    assert!(is_running(pids[0]) && path.exists(), "another host's record is not ours to judge");
    server.write_record().unwrap();
    disown(&folder, |record| record.boot_id = Some("another boot".to_owned()));
    assert!(orphan::reap(&records, Duration::ZERO).is_empty());
    assert!(is_running(pids[0]));
    server.stop(Duration::from_secs(1)).unwrap();
    assert!(!is_running(pids[0]));
}

#[test]
fn a_killed_guardian_is_made_up_for() {
    let folder = Folder::new();
    let mut server = ServerProcess::spawn(&folder.command("echo $$; exec sleep 600")).unwrap();
    let pids = logged_pids(&folder, 1);
    server.guardian.kill().unwrap();
    server.guardian.wait().unwrap();
    assert!(is_running(pids[0]));
    disown(&folder, |_| {});
    assert_eq!(orphan::reap(&folder.0.path().join("records"), Duration::from_millis(100)).len(), 1);
    assert!(!is_running(pids[0]));
    // An unrelated group is untouched by all of this.
    let mut other = Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
    assert!(orphan::reap(&folder.0.path().join("records"), Duration::ZERO).is_empty());
    assert!(other.try_wait().unwrap().is_none());
    other.kill().unwrap();
    other.wait().unwrap();
}
