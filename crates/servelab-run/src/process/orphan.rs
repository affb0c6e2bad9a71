//! Ends server groups whose owner died without ending them. Acts only on recorded starts of this host and this boot
//! whose owner is gone, and only on processes that are provably of that start; everything else is left alone.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::procfs::{self, ProcessInfo};
use super::{POLL, SERVER_TOKEN_ENV, ServerRecord, host, signal_exactly};

/// What was found and done about one recorded start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reaped {
    /// Token of the start.
    pub token: String,
    /// Processes that had to be ended.
    pub ended: Vec<i32>,
}

/// Looks at every record (`*.json`) in `folder` and ends what is left of starts whose owner is gone; `grace` lies
/// between SIGTERM and SIGKILL. Returns the starts of which something was still alive.
pub fn reap(folder: &Path, grace: Duration) -> Vec<Reaped> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut reaped = Vec::new();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let Some(record) = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<ServerRecord>(&text).ok())
        else {
            continue;
        };
        if record.host != host() || is_same_process(record.owner_pid, record.owner_start_ticks, &record) {
            continue;
        }
        let ended = end(&record, grace);
        if members(&record).is_empty() {
            // Nothing is left, so the record has done its work; one that cannot be removed is looked at again.
            let _ = fs::remove_file(&path);
        }
        if !ended.is_empty() {
            reaped.push(Reaped { token: record.token, ended });
        }
    }
    reaped
}

fn end(record: &ServerRecord, grace: Duration) -> Vec<i32> {
    let mut found = members(record);
    let ended: Vec<i32> = found.iter().map(|process| process.pid).collect();
    for process in &found {
        signal_exactly(process, Signal::TERM);
    }
    // The guardian ignores SIGTERM; it is not worth waiting for.
    found.retain(|process| process.pid != record.pgid);
    let deadline = Instant::now() + grace;
    while !found.is_empty() && Instant::now() < deadline {
        std::thread::sleep(POLL);
        found.retain(is_alive);
    }
    for process in members(record).iter().chain(&found) {
        signal_exactly(process, Signal::KILL);
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while !members(record).is_empty() && Instant::now() < deadline {
        std::thread::sleep(POLL);
    }
    ended
}

fn is_alive(process: &ProcessInfo) -> bool {
    procfs::process(process.pid).is_some_and(|now| now.start_ticks == process.start_ticks && !now.is_zombie)
}

fn is_same_process(pid: i32, start_ticks: u64, record: &ServerRecord) -> bool {
    record.boot_id == procfs::boot_id()
        && procfs::process(pid).is_some_and(|now| now.start_ticks == start_ticks && !now.is_zombie)
}

/// Live processes of the recorded start. The group's number counts only while its leader or the server itself is there
/// with its recorded start time; otherwise the number may be somebody else's by now and only the token counts.
fn members(record: &ServerRecord) -> Vec<ProcessInfo> {
    if record.boot_id != procfs::boot_id() {
        return Vec::new();
    }
    let is_group_ours = is_same_process(record.pgid, record.guardian_start_ticks, record)
        || is_same_process(record.server_pid, record.server_start_ticks, record);
    let belongs = |process: &ProcessInfo| {
        !process.is_zombie
            && ((is_group_ours && process.pgrp == record.pgid)
                || procfs::has_env(process.pid, SERVER_TOKEN_ENV, &record.token))
    };
    procfs::processes().into_iter().filter(belongs).collect()
}
