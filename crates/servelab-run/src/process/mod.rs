//! Server processes: each runs in a process group of its own that is ended as a whole and that cannot outlive this
//! program, not even after `kill -9`. Nothing is ever ended by name. What is started, and when it counts as ready, is
//! decided elsewhere (`launch`, `ready`).
//!
//! The group's leader is not the server but a small shell, the guardian. It holds the reading end of a pipe whose
//! writing end only this program has. When this program dies, however it dies, the guardian reads end-of-file and ends
//! the group that it leads. Because the leader lives as long as the group is used, the group's number cannot be taken
//! by anybody else. A guardian that was killed too is made up for by [`orphan::reap`] at the next start.

pub mod orphan;
mod procfs;
#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use procfs::ProcessInfo;

/// Set in the environment of every server process; its value names exactly one start.
pub const SERVER_TOKEN_ENV: &str = "SERVELAB_SERVER";

/// Ignores SIGTERM itself, so that a stop leaves the leader in place until the last member is gone; its pause does not,
/// so that a reaper need not wait for it.
const GUARDIAN: &str = r#"trap '' TERM INT HUP
read -r word
[ "$word" = release ] && exit 0
kill -s TERM -- "-$$"
(trap - TERM; exec sleep 3)
kill -s KILL -- "-$$""#;

const POLL: Duration = Duration::from_millis(10);

/// Why a server process could not be started or ended.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program is not there or cannot be executed.
    #[error("start `{program}`: {source}")]
    Spawn {
        /// As given.
        program: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file of the server's cannot be written.
    #[error("write `{}`: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Processes survived SIGKILL (stuck in the kernel).
    #[error("end the server's process group {pgid}: {} still running after SIGKILL (pids {})", pids.len(), join(pids))]
    Survivors {
        /// The group.
        pgid: i32,
        /// What is left of it.
        pids: Vec<i32>,
    },
}

fn join(pids: &[i32]) -> String {
    pids.iter().map(i32::to_string).collect::<Vec<_>>().join(", ")
}

/// What to start.
#[derive(Debug, Clone)]
pub struct ServerCommand {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Added to the inherited environment.
    pub env: Vec<(String, String)>,
    /// Standard output and error go here, appended.
    pub log: PathBuf,
    /// Where the start is recorded, for the reaper; removed when the group has ended.
    pub record: PathBuf,
    /// Unique per start; becomes [`SERVER_TOKEN_ENV`].
    pub token: String,
}

/// On disk while a group may exist: enough to recognise it after a crash, without trusting a bare number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServerRecord {
    schema: u32,
    token: String,
    host: String,
    boot_id: Option<String>,
    pgid: i32,
    guardian_start_ticks: u64,
    server_pid: i32,
    server_start_ticks: u64,
    owner_pid: i32,
    owner_start_ticks: u64,
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerExit {
    /// Exit status, when it exited by itself.
    pub status: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
}

impl ServerExit {
    fn of(status: ExitStatus) -> Self {
        Self { status: status.code(), signal: status.signal() }
    }

    /// For people: `exited with status 1`, `was killed by signal 9`.
    pub fn describe(self) -> String {
        match (self.status, self.signal) {
            (_, Some(signal)) => {
                let name = Signal::from_named_raw(signal).map(|signal| format!(" ({signal:?})")).unwrap_or_default();
                format!("was killed by signal {signal}{name}")
            }
            (Some(status), _) => format!("exited with status {status}"),
            _ => "ended in an unknown way".to_owned(),
        }
    }
}

/// A running server and its group. Dropping it ends the group at once.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    guardian: Child,
    /// Held open: its closing is the guardian's alarm.
    lifeline: Option<ChildStdin>,
    pgid: i32,
    token: String,
    record: PathBuf,
    exit: Option<ServerExit>,
    is_gone: bool,
    /// Local ends of ranks on other nodes: members of the group. Their standard inputs are the ranks' lifelines.
    ranks: Vec<Child>,
}

impl ServerProcess {
    /// Starts a server in a new process group.
    pub fn spawn(command: &ServerCommand) -> Result<Self, ProcessError> {
        let Some((program, args)) = command.argv.split_first() else {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "the command line is empty");
            return Err(ProcessError::Spawn { program: String::new(), source });
        };
        let log = open_log(&command.log)?;
        let log_too = log.try_clone().map_err(|source| ProcessError::File { path: command.log.clone(), source })?;
        let mut guardian = Command::new("/bin/sh")
            .args(["-c", GUARDIAN, "servelab-guardian"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env(SERVER_TOKEN_ENV, &command.token)
            .process_group(0)
            .spawn()
            .map_err(|source| ProcessError::Spawn { program: "/bin/sh".to_owned(), source })?;
        let lifeline = guardian.stdin.take();
        let pgid = guardian.id() as i32;
        let spawned = Command::new(program)
            .args(args)
            .envs(command.env.iter().map(|(name, value)| (name, value)))
            .env(SERVER_TOKEN_ENV, &command.token)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_too)
            .process_group(pgid)
            .spawn();
        let child = match spawned {
            Ok(child) => child,
            Err(source) => {
                drop(lifeline);
                let _ = guardian.kill();
                let _ = guardian.wait();
                return Err(ProcessError::Spawn { program: program.clone(), source });
            }
        };
        let server = Self {
            child,
            guardian,
            lifeline,
            pgid,
            token: command.token.clone(),
            record: command.record.clone(),
            exit: None,
            is_gone: false,
            ranks: Vec::new(),
        };
        server.write_record()?;
        Ok(server)
    }

    /// Starts another rank of the server on another node, through a local program that lives as long as the rank does.
    /// It joins the group; `first_line` is the beginning of its standard input.
    pub fn add_rank(&mut self, argv: &[String], log: &Path, first_line: &str) -> Result<(), ProcessError> {
        let Some((program, args)) = argv.split_first() else { return Ok(()) };
        let output = open_log(log)?;
        let errors = output.try_clone().map_err(|source| ProcessError::File { path: log.to_owned(), source })?;
        let mut child = Command::new(program)
            .args(args)
            .env(SERVER_TOKEN_ENV, &self.token)
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            .process_group(self.pgid)
            .spawn()
            .map_err(|source| ProcessError::Spawn { program: program.clone(), source })?;
        if let Some(stdin) = &mut child.stdin {
            // A program that ended at once is noticed by its exit.
            let _ = stdin.write_all(first_line.as_bytes()).and_then(|()| stdin.flush());
        }
        self.ranks.push(child);
        Ok(())
    }

    /// The server's own process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The group's number.
    pub fn pgid(&self) -> i32 {
        self.pgid
    }

    /// Somebody listens at this port, and it is none of this server's processes. False where that cannot be seen.
    pub fn is_port_foreign(&self, port: u16) -> bool {
        let inodes = procfs::listening_inodes(port);
        // A process whose files are hidden may be the one.
        let may_hold = |process: &ProcessInfo| procfs::holds_socket(process.pid, &inodes).unwrap_or(true);
        !inodes.is_empty() && !self.members().iter().any(may_hold)
    }

    /// How the server ended, if it has; a server that lost a rank has. Does not block.
    pub fn exit(&mut self) -> Option<ServerExit> {
        let own = self.child.try_wait().ok().flatten();
        let mut rank = None;
        // Every rank is looked at, so that none stays a zombie.
        for child in &mut self.ranks {
            rank = child.try_wait().ok().flatten().or(rank);
        }
        if self.exit.is_none() {
            self.exit = own.or(rank).map(ServerExit::of);
        }
        self.exit
    }

    /// Ends the whole group: SIGTERM, up to `grace` for an orderly end, SIGKILL; then makes sure that nobody is left.
    pub fn stop(&mut self, grace: Duration) -> Result<(), ProcessError> {
        self.stop_unless_hurried(grace, &|| false)
    }

    /// Like [`Self::stop`], with a grace period that ends as soon as `is_hurried` says so.
    pub fn stop_unless_hurried(&mut self, grace: Duration, is_hurried: &dyn Fn() -> bool) -> Result<(), ProcessError> {
        if self.is_gone {
            return Ok(());
        }
        for rank in &mut self.ranks {
            drop(rank.stdin.take());
        }
        if !grace.is_zero() && !is_hurried() {
            self.signal_group(Signal::TERM);
            self.wait_until_empty(grace, is_hurried);
        }
        if self.members().is_empty() && self.exit().is_some() {
            self.release_guardian();
        } else {
            self.signal_group(Signal::KILL);
            for process in self.members() {
                kill_exactly(&process);
            }
            self.wait_until_empty(Duration::from_secs(10), &|| false);
            drop(self.lifeline.take());
            let _ = self.guardian.kill();
            let _ = self.guardian.wait();
        }
        let survivors: Vec<i32> = self.members().iter().map(|process| process.pid).collect();
        if !survivors.is_empty() {
            return Err(ProcessError::Survivors { pgid: self.pgid, pids: survivors });
        }
        self.is_gone = true;
        match fs::remove_file(&self.record) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(ProcessError::File { path: self.record.clone(), source })
            }
            _ => Ok(()),
        }
    }

    /// Live members of the group, and processes that left it but carry its token; without the guardian.
    fn members(&self) -> Vec<ProcessInfo> {
        let guardian = self.guardian.id() as i32;
        let belongs = |process: &ProcessInfo| {
            process.pid != guardian
                && !process.is_zombie
                && (process.pgrp == self.pgid || procfs::has_env(process.pid, SERVER_TOKEN_ENV, &self.token))
        };
        procfs::processes().into_iter().filter(belongs).collect()
    }

    fn wait_until_empty(&mut self, limit: Duration, is_hurried: &dyn Fn() -> bool) {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline && !is_hurried() {
            // `exit` collects children: without it the group would never look empty.
            if self.exit().is_some() && self.members().is_empty() {
                return;
            }
            std::thread::sleep(POLL);
        }
    }

    fn signal_group(&self, signal: Signal) {
        // An error means that the group is gone, which the caller checks by looking for members.
        if let Some(group) = Pid::from_raw(self.pgid) {
            let _ = kill_process_group(group, signal);
        }
    }

    fn release_guardian(&mut self) {
        if let Some(mut lifeline) = self.lifeline.take() {
            let _ = lifeline.write_all(b"release\n");
        }
        let _ = self.guardian.wait();
    }

    fn write_record(&self) -> Result<(), ProcessError> {
        let start_ticks = |pid: u32| procfs::process(pid as i32).map_or(0, |process| process.start_ticks);
        let owner_pid = std::process::id();
        let record = ServerRecord {
            schema: 1,
            token: self.token.clone(),
            host: host(),
            boot_id: procfs::boot_id(),
            pgid: self.pgid,
            guardian_start_ticks: start_ticks(self.guardian.id()),
            server_pid: self.child.id() as i32,
            server_start_ticks: start_ticks(self.child.id()),
            owner_pid: owner_pid as i32,
            owner_start_ticks: start_ticks(owner_pid),
        };
        let failed = |source: io::Error| ProcessError::File { path: self.record.clone(), source };
        let text = serde_json::to_vec(&record).map_err(|error| failed(error.into()))?;
        if let Some(folder) = self.record.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let draft = self.record.with_extension("tmp");
        fs::write(&draft, text).and_then(|()| fs::rename(&draft, &self.record)).map_err(failed)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Best effort on the way out; whatever is left is found by the reaper through the record.
        let _ = self.stop(Duration::ZERO);
    }
}

/// Kills one process through a pidfd, after checking that the number still names the process that was looked at.
fn kill_exactly(process: &ProcessInfo) -> bool {
    signal_exactly(process, Signal::KILL)
}

fn signal_exactly(process: &ProcessInfo, signal: Signal) -> bool {
    let Some(pid) = Pid::from_raw(process.pid) else { return false };
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    let is_same = procfs::process(process.pid).is_some_and(|now| now.start_ticks == process.start_ticks);
    is_same && pidfd_send_signal(handle, signal).is_ok()
}

/// This machine's name.
pub(crate) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn open_log(path: &Path) -> Result<File, ProcessError> {
    let failed = |source| ProcessError::File { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    OpenOptions::new().create(true).append(true).open(path).map_err(failed)
}
