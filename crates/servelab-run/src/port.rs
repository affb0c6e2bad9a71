//! Ports for servers on this machine. A port is found by binding it and released again before the server takes it, which a
//! real engine does only a minute later; until then a reservation keeps other runs of this program away from it. Anybody
//! else may still take it: `ready` notices who answers there.

use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

/// Ports tried above the base.
const BLOCK: u16 = 1000;

/// A port that no other run on this machine takes while this lives. A run that is killed gives its ports back.
#[derive(Debug)]
pub struct ReservedPort {
    port: u16,
    /// An abstract socket name: the kernel frees it with its holder, and it spans what the port spans, the network
    /// namespace.
    _name: UnixListener,
}

impl ReservedPort {
    /// The number.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// The first free and unreserved port at or above `base` (127.0.0.1); `None` when a whole block is taken.
pub fn reserve_port(base: u16) -> Option<ReservedPort> {
    (base..=base.saturating_add(BLOCK)).find_map(|port| {
        let name = SocketAddr::from_abstract_name(format!("servelab-port-{port}")).ok()?;
        let name = UnixListener::bind_addr(&name).ok()?;
        is_free(port).then_some(ReservedPort { port, _name: name })
    })
}

/// `n` consecutive ports at or above `base`, for servers that count from one up.
pub fn reserve_block(base: u16, n: u16) -> Option<Vec<ReservedPort>> {
    let mut block: Vec<ReservedPort> = Vec::new();
    let mut next = base;
    while block.len() < usize::from(n) {
        let found = reserve_port(next).filter(|found| found.port() <= base.saturating_add(BLOCK))?;
        if block.last().is_some_and(|last| found.port() != last.port().saturating_add(1)) {
            block.clear();
        }
        next = found.port().checked_add(1)?;
        block.push(found);
    }
    Some(block)
}

/// Both addresses: an engine that binds the wildcard fails when anybody has the port on any address.
fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn taken_ports_are_passed_over() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let found = reserve_port(port).unwrap().port();
        assert!(found > port, "{found} after {port}");
        TcpListener::bind((Ipv4Addr::LOCALHOST, found)).unwrap();
    }

    #[test]
    fn blocks_have_no_gaps() {
        let base = reserve_port(33_000).unwrap().port();
        let taken = reserve_port(base.saturating_add(2)).unwrap();
        let block: Vec<u16> = reserve_block(base, 4).unwrap().iter().map(ReservedPort::port).collect();
        assert!(block.windows(2).all(|pair| pair[1] == pair[0] + 1) && !block.contains(&taken.port()), "{block:?}");
        assert_eq!(block.len(), 4);
    }

    #[test]
    fn two_servers_that_are_both_still_loading_get_two_ports() {
        let first = reserve_port(31_000).unwrap();
        let second = reserve_port(first.port()).unwrap();
        assert!(second.port() > first.port());
        let free_again = first.port();
        drop(first);
        // A process that another test is starting holds a copy of the name until its exec.
        let deadline = Instant::now() + Duration::from_secs(10);
        while reserve_port(free_again).unwrap().port() != free_again {
            assert!(Instant::now() < deadline, "port {free_again} stays reserved");
            std::thread::yield_now();
        }
    }
}
