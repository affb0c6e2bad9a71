//! The nodes of the allocation that a run is inside of, and how to start something on another one of them: `srun
//! --overlap` under Slurm, `ssh` under PBS. Without an allocation there is this machine.

use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs as _, UdpSocket};
use std::process::Command;

/// How other nodes are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// There are none.
    Here,
    /// A step of the Slurm job.
    Srun,
    /// Passwordless ssh between the nodes of a job, as PBS sites have it.
    Ssh,
}

/// Where a run is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// Names of the nodes, this one first.
    pub nodes: Vec<String>,
    /// How the others are reached.
    pub via: Via,
}

impl Allocation {
    /// This machine alone.
    pub fn here() -> Self {
        Self { nodes: vec![crate::process::host()], via: Via::Here }
    }

    /// What the scheduler's variables say.
    pub fn detect() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let nodes = match (variable("SLURM_JOB_NODELIST"), variable("PBS_NODEFILE")) {
            (Some(list), _) => (expand_hostlist(&list), Via::Srun),
            (None, Some(file)) => (node_file(&std::fs::read_to_string(file).unwrap_or_default()), Via::Ssh),
            (None, None) => return Self::here(),
        };
        match nodes {
            (nodes, via) if nodes.len() > 1 => Self { nodes, via },
            _ => Self::here(),
        }
    }

    /// The words in front of a command that runs on a node of this allocation.
    pub fn prefix(&self, rank: usize) -> Option<Vec<String>> {
        let node = self.nodes.get(rank)?;
        match self.via {
            Via::Here => None,
            Via::Srun => Some(
                ["srun", "--overlap", "--nodes=1", "--ntasks=1", "--kill-on-bad-exit=1", "-w", node]
                    .map(str::to_owned)
                    .into(),
            ),
            Via::Ssh => Some(["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20", node].map(str::to_owned).into()),
        }
    }
}

/// `PBS_NODEFILE`: a line per process slot.
fn node_file(text: &str) -> Vec<String> {
    let mut nodes: Vec<String> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if !nodes.iter().any(|known| known == line) {
            nodes.push(line.to_owned());
        }
    }
    nodes
}

/// More nodes than any allocation has: a malformed range must not fill the memory.
const MOST_NODES: usize = 100_000;

/// Slurm's list of hosts: `node[1-3,7],login0` names five.
pub fn expand_hostlist(list: &str) -> Vec<String> {
    let mut nodes = Vec::new();
    for part in split_outside(list) {
        expand_part(part, &mut nodes);
    }
    nodes.truncate(MOST_NODES);
    nodes
}

/// Parts between commas that stand outside of brackets.
fn split_outside(list: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_u32, 0);
    for (at, c) in list.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.extend(list.get(start..at));
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.extend(list.get(start..));
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

/// `rack[1-2]n[01-03]`: brackets multiply.
fn expand_part(part: &str, nodes: &mut Vec<String>) {
    let Some((head, rest)) = part.split_once('[') else {
        nodes.push(part.to_owned());
        return;
    };
    let Some((ranges, tail)) = rest.split_once(']') else {
        nodes.push(part.to_owned());
        return;
    };
    for range in ranges.split(',') {
        let (low, high) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last)) = (low.parse::<u64>(), high.parse::<u64>()) else { continue };
        for number in first..=last {
            if nodes.len() >= MOST_NODES {
                return;
            }
            expand_part(&format!("{head}{number:0width$}{tail}", width = low.len()), nodes);
        }
    }
}

/// The address at which other nodes reach this one: that of the fabric's interface, else of the way to `other`.
pub fn own_address(interface: Option<&str>, other: Option<&str>) -> IpAddr {
    interface
        .and_then(address_of_interface)
        .or_else(|| address_towards(other?))
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn address_of_interface(interface: &str) -> Option<IpAddr> {
    let out = Command::new("ip").args(["-o", "-4", "addr", "show", "dev", interface]).output().ok()?;
    parse_ip_addr(&String::from_utf8_lossy(&out.stdout))
}

/// `2: ib0    inet 10.1.2.3/16 brd …`
fn parse_ip_addr(text: &str) -> Option<IpAddr> {
    let mut words = text.split_whitespace().skip_while(|word| *word != "inet").skip(1);
    words.next()?.split('/').next()?.parse().ok()
}

/// Connecting a datagram socket sends nothing; the kernel chooses the address that it would send from.
fn address_towards(other: &str) -> Option<IpAddr> {
    let target = (other, 9_u16).to_socket_addrs().ok()?.find(std::net::SocketAddr::is_ipv4)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(target).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_of_hosts() {
        for (list, expected) in [
            ("node1", vec!["node1"]),
            ("node[1-3,7],login0", vec!["node1", "node2", "node3", "node7", "login0"]),
            ("n[08-10]", vec!["n08", "n09", "n10"]),
            ("r[1-2]n[1-2]", vec!["r1n1", "r1n2", "r2n1", "r2n2"]),
            ("nid[001234]", vec!["nid001234"]),
            ("", vec![]),
            ("a[", vec!["a["]),
            ("a[3-1]", vec![]),
        ] {
            assert_eq!(expand_hostlist(list), expected, "{list}");
        }
        assert!(expand_hostlist("a[1-99999999999]b[1-99999999]").len() <= MOST_NODES);
    }

    #[test]
    fn node_files_and_addresses() {
        assert_eq!(node_file("n1\nn1\nn2\n\nn1\n"), ["n1", "n2"]);
        let line = "2: ib0    inet 10.1.2.3/16 brd 10.1.255.255 scope global ib0\\       valid_lft forever";
        assert_eq!(parse_ip_addr(line), Some("10.1.2.3".parse().unwrap()));
        assert_eq!(parse_ip_addr("nothing"), None);
        assert!(own_address(None, Some("127.0.0.1")).is_loopback());
        assert!(own_address(Some("servelab-no-such"), None).is_loopback());
    }

    #[test]
    fn words_in_front() {
        let slurm = Allocation { nodes: vec!["n1".to_owned(), "n2".to_owned()], via: Via::Srun };
        assert_eq!(
            slurm.prefix(1).unwrap().join(" "),
            "srun --overlap --nodes=1 --ntasks=1 --kill-on-bad-exit=1 -w n2"
        );
        assert_eq!(slurm.prefix(2), None);
        assert_eq!(Allocation::here().prefix(0), None);
    }

    proptest! {
        #[test]
        fn no_list_makes_a_panic(list in "[a-c0-9\\[\\],-]{0,30}") {
            expand_hostlist(&list);
        }
    }
}
