//! How the simulated ranks of a server that spans nodes find each other, in the place of vLLM's own rendezvous: the first
//! waits for all others at its master port, and none goes on without the others.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::SimError;
use crate::settings::LogSink;

/// vLLM waits as long for a rank that does not come.
pub const LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

/// The other ranks, as long as this lives.
#[derive(Debug)]
pub struct Gathered {
    _ranks: Vec<TcpStream>,
}

/// Waits for ranks 1 to `n_nodes` - 1.
pub fn gather(
    port: u16,
    n_nodes: u32,
    limit: Duration,
    shutdown: &AtomicBool,
    log: &LogSink,
) -> Result<Gathered, SimError> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(SimError::Start)?;
    listener.set_nonblocking(true).map_err(SimError::Start)?;
    let mut missing: BTreeSet<u32> = (1..n_nodes).collect();
    let mut ranks = Vec::new();
    let deadline = Instant::now() + limit;
    while !missing.is_empty() {
        if shutdown.load(Ordering::Relaxed) {
            return Err(SimError::Refused("asked to end while waiting for other ranks".to_owned()));
        }
        if Instant::now() >= deadline {
            let names: Vec<String> = missing.iter().map(u32::to_string).collect();
            let waited = limit.as_secs();
            return Err(SimError::Refused(format!(
                "RuntimeError: rank {} did not join within {waited} s",
                names.join(", ")
            )));
        }
        match listener.accept() {
            Ok((stream, from)) => {
                if let Some(rank) = rank_of(&stream) {
                    missing.remove(&rank);
                    log(&format!("rank {rank} joined from {}", from.ip()));
                    ranks.push(stream);
                }
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
    Ok(Gathered { _ranks: ranks })
}

/// A rank says its number in four bytes; whoever else knocks is sent away.
fn rank_of(stream: &TcpStream) -> Option<u32> {
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut bytes = [0_u8; 4];
    let mut reader = stream;
    reader.read_exact(&mut bytes).ok()?;
    Some(u32::from_be_bytes(bytes))
}

/// A rank without a server of its own: joins, and stays until the first rank is gone or it is asked to end.
pub fn follow(
    address: &str,
    port: u16,
    rank: u32,
    limit: Duration,
    shutdown: &AtomicBool,
    log: &LogSink,
) -> Result<(), SimError> {
    let deadline = Instant::now() + limit;
    let mut stream = loop {
        if shutdown.load(Ordering::Relaxed) {
            return Ok(());
        }
        let target = (address, port).to_socket_addrs().ok().and_then(|mut all| all.next());
        let connected = target.and_then(|target| TcpStream::connect_timeout(&target, Duration::from_secs(5)).ok());
        match connected {
            Some(stream) => break stream,
            None if Instant::now() >= deadline => {
                let waited = limit.as_secs();
                return Err(SimError::Refused(format!(
                    "RuntimeError: rank {rank} could not reach {address}:{port} within {waited} s"
                )));
            }
            None => std::thread::sleep(POLL),
        }
    };
    stream.write_all(&rank.to_be_bytes()).map_err(SimError::Start)?;
    stream.set_read_timeout(Some(POLL)).map_err(SimError::Start)?;
    log(&format!("rank {rank} joined {address}:{port}; headless"));
    let mut byte = [0_u8; 1];
    loop {
        if shutdown.load(Ordering::Relaxed) {
            return Ok(());
        }
        match stream.read(&mut byte) {
            Ok(0) => return Err(SimError::Refused(format!("rank {rank} lost rank 0 at {address}:{port}"))),
            Err(error) if !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                return Err(SimError::Refused(format!("rank {rank} lost rank 0 at {address}:{port}: {error}")));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn quiet() -> LogSink {
        Arc::new(|_: &str| {})
    }

    #[test]
    fn ranks_meet_and_part() {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let never = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let follower = scope.spawn(|| follow("127.0.0.1", port, 1, LIMIT, &never, &quiet()));
            let gathered = gather(port, 2, LIMIT, &never, &quiet()).unwrap();
            assert!(!follower.is_finished());
            drop(gathered);
            assert!(follower.join().unwrap().unwrap_err().to_string().contains("lost rank 0"));
        });
    }

    #[test]
    fn a_rank_that_does_not_come_is_named() {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let never = AtomicBool::new(false);
        let error = gather(port, 3, Duration::from_millis(50), &never, &quiet()).unwrap_err().to_string();
        assert!(error.contains("rank 1, 2 did not join"), "{error}");
        let error = follow("127.0.0.1", port, 2, Duration::ZERO, &never, &quiet()).unwrap_err().to_string();
        assert!(error.contains("could not reach"), "{error}");
        let asked = AtomicBool::new(true);
        assert!(gather(port, 2, LIMIT, &asked, &quiet()).is_err());
        follow("127.0.0.1", port, 1, LIMIT, &asked, &quiet()).unwrap();
    }
}
