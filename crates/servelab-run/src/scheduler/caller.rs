//! Runs a scheduler's client program with a deadline and an environment in which its output has the form that we read.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Variables that change what the clients print, or whom they ask about.
const CLEARED: [&str; 3] = ["SQUEUE_", "SACCT_", "PBS_DPREFIX"];
const POLL: Duration = Duration::from_millis(5);

/// What a client said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Exit status; 128 + n after signal n.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs client programs.
#[derive(Debug, Clone)]
pub struct Caller {
    /// After this a client is ended: the controller is down or overloaded.
    pub timeout: Duration,
}

impl Default for Caller {
    /// A Slurm client gives up by itself after 9 s with a dead controller; a busy one may need longer.
    fn default() -> Self {
        Self { timeout: Duration::from_secs(60) }
    }
}

impl Caller {
    /// Runs a program to its end. `ErrorKind::TimedOut` when it had to be ended.
    pub fn call<S: AsRef<std::ffi::OsStr>>(&self, program: &str, args: &[S]) -> io::Result<Reply> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env("LC_ALL", "C");
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if CLEARED.iter().any(|start| text.starts_with(start)) {
                command.env_remove(&name);
            }
        }
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().map(reader);
        let stderr = child.stderr.take().map(reader);
        let status = self.wait(&mut child)?;
        let text = |thread: Option<thread::JoinHandle<Vec<u8>>>| {
            let bytes = thread.and_then(|thread| thread.join().ok()).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Ok(Reply { status, stdout: text(stdout), stderr: text(stderr) })
    }

    fn wait(&self, child: &mut Child) -> io::Result<i32> {
        use std::os::unix::process::ExitStatusExt as _;
        let deadline = Instant::now() + self.timeout;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
            }
            if Instant::now() >= deadline {
                let _ = child.kill();
                let _ = child.wait();
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no answer within {} s", self.timeout.as_secs()),
                ));
            }
            thread::sleep(POLL);
        }
    }
}

fn reader(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is still worth reading.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_status_and_deadline() {
        let caller = Caller::default();
        let reply = caller.call("sh", &["-c", "echo out; echo err >&2; exit 35"]).unwrap();
        assert_eq!((reply.status, reply.stdout.as_str(), reply.stderr.as_str()), (35, "out\n", "err\n"));
        assert_eq!(caller.call("sh", &["-c", "kill -9 $$"]).unwrap().status, 137);
        let hurried = Caller { timeout: Duration::from_millis(100) };
        assert_eq!(hurried.call("sleep", &["60"]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(caller.call::<&str>("servelab-no-such", &[]).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
