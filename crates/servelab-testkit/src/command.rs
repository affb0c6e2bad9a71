//! The program under test as a command: always in a test's own folder, with an environment that nothing leaks into, and
//! never without an end.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{MARK, marked_processes, send};
use crate::snapshot::filtered;
use crate::wait::{Deadline, poll};
use crate::{Place, Signal};

/// Longest that any one command of the tests may take.
const LIMIT_S: u64 = 300;

/// A command line in the making.
#[derive(Debug)]
pub struct Servelab<'a> {
    place: &'a Place,
    command: Command,
}

/// What a command left behind.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Everything on stdout.
    pub stdout: String,
    /// Everything on stderr.
    pub stderr: String,
    /// How long it took.
    pub elapsed: Duration,
    folder: PathBuf,
}

/// A command that runs. It and everything it started are ended when this is dropped.
#[derive(Debug)]
pub struct Spawned {
    child: Child,
    started: Instant,
    mark: String,
    folder: PathBuf,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl<'a> Servelab<'a> {
    pub(crate) fn new(place: &'a Place, program: &Path) -> Self {
        let mut command = Command::new(program);
        command.current_dir(place.path()).env_clear();
        for name in ["PATH", "TMPDIR", "LD_LIBRARY_PATH", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env("HOME", place.path()).env("LANG", "C.UTF-8").env(MARK, place.mark());
        Self { place, command }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: Into<OsString>>(mut self, args: I) -> Self {
        self.command.args(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it to its end.
    pub fn run(self) -> Output {
        self.spawn().wait()
    }

    /// Starts it.
    pub fn spawn(mut self) -> Spawned {
        // Files, not pipes: a server that outlives its parent must not keep the test waiting for the end of a pipe.
        let (stdout, stderr) = self.place.output_files();
        let file = |path: &Path| File::create(path).expect("output file");
        self.command.stdin(Stdio::null()).stdout(file(&stdout)).stderr(file(&stderr));
        let child = self.command.spawn().expect("the program starts");
        Spawned {
            child,
            started: Instant::now(),
            mark: self.place.mark().to_owned(),
            folder: self.place.path().to_owned(),
            stdout,
            stderr,
        }
    }
}

impl Spawned {
    /// Process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process id")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// What it has said on stderr so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// True when it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("wait for the program").is_some()
    }

    /// Waits until stderr holds `text`.
    pub fn wait_for(&mut self, text: &str) {
        poll(&format!("`{text}` on stderr"), Deadline::in_s(LIMIT_S), || {
            let said = self.stderr();
            assert!(said.contains(text) || !self.has_ended(), "ended without saying `{text}`:\n{}", self.stderr());
            said.contains(text).then_some(())
        });
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Output {
        let status: ExitStatus =
            poll("the program's end", Deadline::in_s(LIMIT_S), || self.child.try_wait().expect("wait for the program"));
        Output {
            code: status.code(),
            stdout: read(&self.stdout),
            stderr: read(&self.stderr),
            elapsed: self.started.elapsed(),
            folder: self.folder.clone(),
        }
    }

    /// Ends it as a power cut would, and waits until it is gone. What it started is left alone.
    pub fn kill_9(mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // A test that failed half-way must not leave servers behind; what a killed run left is the next run's test.
            for pid in marked_processes(&self.mark) {
                send(pid, Signal::KILL);
            }
            let _ = self.child.wait();
        }
    }
}

impl Output {
    /// Asserts the exit code, showing everything when it is another.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "exit code\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }

    /// stdout as one JSON document.
    #[track_caller]
    pub fn json(&self) -> Value {
        crate::json::parse(&self.stdout)
    }

    /// Asserts that stderr holds a text.
    #[track_caller]
    pub fn says(&self, text: &str) -> &Self {
        assert!(self.stderr.contains(text), "stderr does not say `{text}`:\n{}", self.stderr);
        self
    }

    /// Exit code, stdout and stderr in one text, with the test's folder named `[DIR]` and ids, times and
    /// ports by what they are: for snapshots.
    pub fn transcript(&self) -> String {
        let code = self.code.map_or_else(|| "signal".to_owned(), |code| code.to_string());
        let text = format!("exit code: {code}\n--- stdout\n{}--- stderr\n{}", self.stdout, self.stderr);
        filtered(&text.replace(&*self.folder.to_string_lossy(), "[DIR]"))
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}
