//! Resource limits checked before a run: file descriptors (the soft limit is raised to the hard one when needed) and
//! ephemeral ports. What runs out later all the same becomes a `client_resources` failure of the request.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::LoadError;

/// Descriptors left free for logs, scrapers and result files.
const RESERVE: u64 = 64;

/// Makes room for `connections` sockets, or says which number is too small.
pub(crate) fn reserve_descriptors(connections: u64) -> Result<(), LoadError> {
    let in_use = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    let wanted = connections + in_use + RESERVE;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|limit| limit >= wanted) {
        return Ok(());
    }
    if let Some(hard) = maximum
        && hard < wanted
    {
        return Err(LoadError::DescriptorLimit { needed: connections, limit: hard, in_use, suggested: wanted });
    }
    let raised = Rlimit { current: maximum.or(Some(wanted)), maximum };
    setrlimit(Resource::Nofile, raised).map_err(LoadError::system("raise the file descriptor limit"))
}

/// Refuses more connections than the source addresses have ephemeral ports towards one server.
pub(crate) fn check_ports(connections: u64, sources: u64) -> Result<(), LoadError> {
    let Ok(text) = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range") else { return Ok(()) };
    match port_count(&text).map(|ports| ports.saturating_mul(sources)) {
        Some(available) if available < connections => Err(LoadError::PortLimit { needed: connections, available }),
        _ => Ok(()),
    }
}

fn port_count(range: &str) -> Option<u64> {
    let mut numbers = range.split_ascii_whitespace().map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(low)), Some(Ok(high))) => high.checked_sub(low).map(|span| span + 1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_range() {
        assert_eq!(port_count("32768\t60999\n"), Some(28_232));
        assert_eq!(port_count("9 1"), None);
        assert_eq!(port_count(""), None);
    }

    #[test]
    fn a_limit_that_is_too_small_names_its_numbers() {
        let Some(hard) = getrlimit(Resource::Nofile).maximum else {
            eprintln!("skipped: this machine has no descriptor limit");
            return;
        };
        let message = reserve_descriptors(hard + 1).unwrap_err().to_string();
        assert!(message.contains(&(hard + 1).to_string()) && message.contains(&hard.to_string()), "{message}");
        assert!(message.contains("ulimit -n"), "{message}");
        reserve_descriptors(16).unwrap();
    }
}
