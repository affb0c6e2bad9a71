//! Finds a free TCP port on this machine by binding it. The port is released again before the server takes it, so a
//! server may still find it taken; the caller then asks for the next one.

use std::net::{Ipv4Addr, TcpListener};

/// Ports tried above the base.
const BLOCK: u16 = 1000;

/// The first free port at or above `base` (127.0.0.1); `None` when a whole block is taken.
pub fn free_port(base: u16) -> Option<u16> {
    let is_free = |port: &u16| {
        // Both addresses: an engine that binds the wildcard fails when anybody has the port on any address.
        TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()
            && TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok()
    };
    (base..=base.saturating_add(BLOCK)).find(is_free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_ports_are_passed_over() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let found = free_port(port).unwrap();
        assert!(found > port, "{found} after {port}");
        TcpListener::bind((Ipv4Addr::LOCALHOST, found)).unwrap();
    }
}
