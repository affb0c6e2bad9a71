//! Processes of a test: finding them by a mark in their environment (inherited by everything they start), and signals to
//! one process by its id. Nothing here ends a process by its name.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// Environment variable that carries a test's mark.
pub(crate) const MARK: &str = "SERVELAB_TEST_MARK";

/// Ids of living processes that carry this mark. Zombies are gone as far as anybody cares.
pub fn marked_processes(mark: &str) -> Vec<i32> {
    let wanted = format!("{MARK}={mark}");
    let entries = std::fs::read_dir("/proc").expect("/proc");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| carries(*pid, wanted.as_bytes())).collect()
}

fn carries(pid: i32, wanted: &[u8]) -> bool {
    let environment = std::fs::read(Path::new("/proc").join(pid.to_string()).join("environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|entry| entry == wanted)
}

/// Sends a signal to one process; false when it is gone.
pub fn send(pid: i32, signal: Signal) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| kill_process(pid, signal).is_ok())
}
