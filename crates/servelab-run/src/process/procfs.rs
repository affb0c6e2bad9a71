//! What `/proc` says about processes: group, start time, state, environment marker. Reads only; a process that vanishes
//! while it is being looked at is simply not there. Signals are sent by the parent module.

use std::fs;

/// A process as `/proc/PID/stat` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessInfo {
    pub(crate) pid: i32,
    /// Process group.
    pub(crate) pgrp: i32,
    /// Start time in clock ticks since boot: with the pid and the boot id it names one process for ever.
    pub(crate) start_ticks: u64,
    /// Dead, only not collected by its parent yet.
    pub(crate) is_zombie: bool,
}

/// Reads one process; `None` when there is none.
pub(crate) fn process(pid: i32) -> Option<ProcessInfo> {
    parse_stat(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Every process that can be seen.
pub(crate) fn processes() -> Vec<ProcessInfo> {
    let Ok(folder) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = folder.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(process).collect()
}

/// True when the process was started with `NAME=VALUE` in its environment. Unreadable environments count as without.
pub(crate) fn has_env(pid: i32, name: &str, value: &str) -> bool {
    let wanted = format!("{name}={value}");
    let Ok(environ) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    environ.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes())
}

/// Inodes of the sockets on which somebody in this network namespace listens at `port`, at whatever address.
pub(crate) fn listening_inodes(port: u16) -> Vec<u64> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines().skip(1).filter_map(|line| listening_inode(line, port))).collect()
}

/// One line of `/proc/net/tcp`: the inode, when it is a listener at `port`.
fn listening_inode(line: &str, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
    let is_wanted = u16::from_str_radix(local_port, 16) == Ok(port) && fields.get(3) == Some(&LISTEN);
    if is_wanted { fields.get(9)?.parse().ok() } else { None }
}

/// Does the process hold one of these sockets? `None` when its files may not be looked at.
pub(crate) fn holds_socket(pid: i32, inodes: &[u64]) -> Option<bool> {
    let names: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let mut targets = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    Some(targets.any(|target| names.iter().any(|name| target.as_os_str() == name.as_str())))
}

/// Identity of this boot; start times of different boots must not be compared.
pub(crate) fn boot_id() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}

/// The command name may contain spaces and parentheses, so fields are counted from the last `)`.
fn parse_stat(pid: i32, stat: &str) -> Option<ProcessInfo> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(ProcessInfo {
        pid,
        is_zombie: matches!(fields.first(), Some(&"Z" | &"X")),
        pgrp: fields.get(2)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines() {
        let line = "77 (a) b (c)) S 1 70 70 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 0 0";
        let expected = ProcessInfo { pid: 77, pgrp: 70, start_ticks: 12345, is_zombie: false };
        assert_eq!(parse_stat(77, line), Some(expected));
        assert!(parse_stat(77, &line.replace(") S", ") Z")).unwrap().is_zombie);
        for broken in ["", "77", "77 (a)", "77 (a) S x y", "77 (a) S 1 70"] {
            assert_eq!(parse_stat(77, broken), None, "{broken}");
        }
    }

    #[test]
    fn socket_tables() {
        let line = |port: &str, state: &str| {
            format!(
                "   1: 0100007F:{port} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 4242 1"
            )
        };
        assert_eq!(listening_inode(&line("4E20", "0A"), 20_000), Some(4242));
        let wildcard = line("4E20", "0A").replace("0100007F", "00000000000000000000000000000000");
        assert_eq!(listening_inode(&wildcard, 20_000), Some(4242));
        for other in [line("4E21", "0A"), line("4E20", "01"), line("", "0A"), String::new(), "1: x".to_owned()] {
            assert_eq!(listening_inode(&other, 20_000), None, "{other}");
        }
    }

    #[test]
    fn listeners_are_told_apart() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let inodes = listening_inodes(port);
        assert_eq!(inodes.len(), 1);
        let me = i32::try_from(std::process::id()).unwrap();
        assert_eq!(holds_socket(me, &inodes), Some(true));
        assert_eq!(holds_socket(me, &[u64::MAX]), Some(false));
        assert_eq!(holds_socket(i32::MAX, &inodes), None);
        drop(listener);
        // A child that another test has just forked holds a copy until its exec closes it, so this may take a moment. The
        // port itself may be somebody else's by then.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while listening_inodes(port).iter().any(|inode| inodes.contains(inode)) {
            assert!(std::time::Instant::now() < deadline, "the socket is still listening");
            std::thread::yield_now();
        }
    }

    #[test]
    fn this_process_is_there() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let me = process(pid).unwrap();
        assert!(!me.is_zombie && me.start_ticks > 0);
        assert!(processes().contains(&me));
        assert!(boot_id().is_some());
        assert!(!has_env(pid, "SERVELAB_NO_SUCH", "1"));
    }
}
