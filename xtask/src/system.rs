//! What chores ask of the kernel: cores for processes, descriptors, clocks, another process's memory and CPU time.

use std::fs;
use std::io;
use std::process::{Child, Command};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Absolute CLOCK_MONOTONIC.
pub(crate) fn now_ns() -> i64 {
    clock_ns(ClockId::Monotonic)
}

/// User and system time of the calling thread.
pub(crate) fn thread_cpu_ns() -> i64 {
    clock_ns(ClockId::ThreadCPUTime)
}

fn clock_ns(clock: ClockId) -> i64 {
    let now = clock_gettime(clock);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// As many descriptors as the kernel allows this process.
pub(crate) fn raise_descriptor_limit() -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(())
}

/// Keeps the calling thread on one core.
pub(crate) fn stay_on(core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    if core < CpuSet::MAX_CPU {
        cores.set(core);
    }
    sched_setaffinity(None, &cores).map_err(|errno| {
        io::Error::new(io::Error::from(errno).kind(), format!("core {core} cannot be used: {}", io::Error::from(errno)))
    })
}

/// Starts a process on one core: a child inherits the cores of the thread that starts it.
pub(crate) fn spawn_on(core: usize, command: &mut Command) -> io::Result<Child> {
    let before = sched_getaffinity(None)?;
    stay_on(core)?;
    let child = command.spawn();
    sched_setaffinity(None, &before)?;
    child.map_err(|error| io::Error::new(error.kind(), format!("start {}: {error}", command.get_program().display())))
}

/// Peak resident memory of a running process in KiB, from the kernel's own high-water mark.
pub(crate) fn peak_rss_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

/// User and system time of a running process in seconds; the kernel counts in hundredths.
pub(crate) fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may contain anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / 100.0)
}

/// User and system time of all children that have ended, in seconds; the kernel counts in hundredths.
pub(crate) fn cpu_seconds_of_children() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(13);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / 100.0)
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_child_stays_where_it_was_put() {
        let before = sched_getaffinity(None).unwrap();
        let Some(core) = (0..CpuSet::MAX_CPU).rev().find(|core| before.is_set(*core)) else { return };
        let mut command = Command::new("sh");
        command.args(["-c", "grep Cpus_allowed_list /proc/self/status"]).stdout(Stdio::piped());
        let output = spawn_on(core, &mut command).unwrap().wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.split_ascii_whitespace().last(), Some(core.to_string().as_str()));
        assert_eq!(sched_getaffinity(None).unwrap(), before);
        assert!(stay_on(1023).unwrap_err().to_string().contains("core 1023"));
    }

    #[test]
    fn a_process_is_seen() {
        let own = std::process::id();
        assert!(peak_rss_kib(own).unwrap() > 100);
        let begin = thread_cpu_ns();
        while thread_cpu_ns() - begin < 30_000_000 {}
        assert!(cpu_seconds(own).unwrap() >= 0.02);
        assert_eq!(peak_rss_kib(u32::MAX), None);
    }
}
