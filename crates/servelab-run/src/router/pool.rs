//! The servers of one role and how a request finds one of them; and connections to each, kept open between requests.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::split::mix;

/// How a request finds a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one with the fewest requests under way through this router.
    LeastLoaded,
    /// The same one for all turns of a conversation.
    Session,
}

impl Policy {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::RoundRobin, Self::LeastLoaded, Self::Session];

    /// As written in studies and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::LeastLoaded => "least-loaded",
            Self::Session => "session",
        }
    }
}

/// uvicorn, in front of vLLM and SGLang, closes an idle connection after 5 s.
const MAX_IDLE: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One server.
#[derive(Debug)]
pub struct Server {
    /// `http://host:port`.
    pub url: String,
    /// `host:port`.
    pub host: String,
    /// Requests on their way.
    pub in_flight: AtomicUsize,
    /// Requests sent to it.
    pub n_sent: AtomicU64,
    /// Requests that it did not answer to the end.
    pub n_failed: AtomicU64,
    /// Nanoseconds of all legs that it answered.
    pub busy_ns: AtomicU64,
    idle: Mutex<Vec<(TcpStream, Instant)>>,
}

impl Server {
    /// From `http://host:port`, with or without `/v1`.
    pub fn new(url: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("`{url}` is no address of a server: {why}; write http://HOST:PORT");
        let rest = url.trim().strip_prefix("http://").ok_or_else(|| bad("it does not begin with http://"))?;
        let rest = rest.trim_end_matches('/');
        let host = rest.strip_suffix("/v1").unwrap_or(rest);
        if host.contains('/') {
            return Err(bad("it has a path"));
        }
        let port = host.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()).filter(|port| *port > 0);
        if port.is_none() || host.starts_with(':') {
            return Err(bad("host or port is missing"));
        }
        Ok(Self {
            url: format!("http://{host}"),
            host: host.to_owned(),
            in_flight: AtomicUsize::new(0),
            n_sent: AtomicU64::new(0),
            n_failed: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
            idle: Mutex::new(Vec::new()),
        })
    }

    /// A connection, and whether it has carried a request before.
    pub fn connection(&self) -> io::Result<(TcpStream, bool)> {
        loop {
            let kept = self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
            match kept {
                Some((stream, since)) if since.elapsed() < MAX_IDLE && is_quiet(&stream) => return Ok((stream, true)),
                Some(_) => {}
                None => return self.connect().map(|stream| (stream, false)),
            }
        }
    }

    /// A connection that has carried nothing.
    pub fn connect(&self) -> io::Result<TcpStream> {
        let addresses: Vec<SocketAddr> = self.host.to_socket_addrs()?.collect();
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in addresses {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Connections that wait for the next request.
    #[cfg(test)]
    pub(super) fn n_idle(&self) -> usize {
        self.idle.lock().unwrap().len()
    }

    /// Keeps a connection whose answer is complete.
    pub fn keep(&self, stream: TcpStream) {
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((stream, Instant::now()));
    }
}

/// Open, and nothing unasked for has come: a server that closed it sent an end.
fn is_quiet(stream: &TcpStream) -> bool {
    let mut byte = [0];
    if stream.set_nonblocking(true).is_err() {
        return false;
    }
    let peeked = stream.peek(&mut byte);
    let is_quiet = peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    is_quiet && stream.set_nonblocking(false).is_ok()
}

/// The servers of a role.
#[derive(Debug)]
pub struct Pool {
    /// In the order in which they were given.
    pub servers: Vec<Server>,
    next: AtomicUsize,
}

/// A request under way; counts as load until it is dropped.
#[derive(Debug)]
pub struct Picked<'a> {
    /// Position in the pool.
    pub index: usize,
    /// The server.
    pub server: &'a Server,
}

impl Drop for Picked<'_> {
    fn drop(&mut self) {
        self.server.in_flight.fetch_sub(1, Relaxed);
    }
}

impl Pool {
    /// From the servers' addresses.
    pub fn new(urls: &[String]) -> Result<Self, String> {
        let servers = urls.iter().map(|url| Server::new(url)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { servers, next: AtomicUsize::new(0) })
    }

    /// A server for a request; `pinned` names one by position. `None` when there is no such server.
    pub fn pick(&self, policy: Policy, pinned: Option<usize>, session: &dyn Fn() -> u64) -> Option<Picked<'_>> {
        let loads = || self.servers.iter().map(|server| server.in_flight.load(Relaxed)).collect::<Vec<_>>();
        let index = match pinned {
            Some(index) => index,
            None => choose(policy, &loads(), self.next.fetch_add(1, Relaxed), session)?,
        };
        let server = self.servers.get(index)?;
        server.in_flight.fetch_add(1, Relaxed);
        server.n_sent.fetch_add(1, Relaxed);
        Some(Picked { index, server })
    }
}

/// The choice itself: loads, how many were chosen before, the session. Ties go round.
pub fn choose(policy: Policy, loads: &[usize], number: usize, session: &dyn Fn() -> u64) -> Option<usize> {
    let n = loads.len();
    if n <= 1 {
        return (n == 1).then_some(0);
    }
    match policy {
        Policy::RoundRobin => Some(number % n),
        Policy::LeastLoaded => {
            (0..n).map(|offset| (number + offset) % n).min_by_key(|at| loads.get(*at).copied().unwrap_or(usize::MAX))
        }
        // Rendezvous hashing: one server more or less moves only the sessions that it gets or had.
        Policy::Session => {
            let session = session();
            (0..n).max_by_key(|at| mix(session ^ mix(*at as u64 + 1)))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses() {
        for (url, expected) in [
            ("http://127.0.0.1:8000", Some("127.0.0.1:8000")),
            (" http://node1:8100/v1/ ", Some("node1:8100")),
            ("http://[::1]:9", Some("[::1]:9")),
            ("https://a:1", None),
            ("http://a", None),
            ("http://:80", None),
            ("http://a:0", None),
            ("http://a:1/x", None),
        ] {
            assert_eq!(Server::new(url).ok().map(|server| server.host).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn choices() {
        let none = || 0;
        let pick = |policy, loads: &[usize], number| choose(policy, loads, number, &none);
        assert_eq!(pick(Policy::RoundRobin, &[], 0), None);
        assert_eq!((0..4).map(|n| pick(Policy::RoundRobin, &[9, 0, 0], n)).collect::<Vec<_>>(), [0, 1, 2, 0].map(Some));
        assert_eq!(pick(Policy::LeastLoaded, &[3, 1, 2], 0), Some(1));
        assert_eq!((0..3).map(|n| pick(Policy::LeastLoaded, &[1, 1, 1], n)).collect::<Vec<_>>(), [0, 1, 2].map(Some));
    }

    #[test]
    fn load_is_counted_while_a_request_is_under_way() {
        let pool = Pool::new(&["http://a:1", "http://b:1"].map(str::to_owned)).unwrap();
        let first = pool.pick(Policy::LeastLoaded, None, &|| 0).unwrap();
        let second = pool.pick(Policy::LeastLoaded, None, &|| 0).unwrap();
        assert_ne!(first.index, second.index);
        let index = second.index;
        drop(second);
        assert_eq!(pool.pick(Policy::LeastLoaded, None, &|| 0).unwrap().index, index);
        assert_eq!(pool.pick(Policy::RoundRobin, Some(1), &|| 0).unwrap().index, 1);
        assert!(pool.pick(Policy::RoundRobin, Some(2), &|| 0).is_none());
    }

    proptest! {
        #[test]
        fn sessions_stay_and_few_move(sessions in prop::collection::vec(any::<u64>(), 300), n in 2usize..9) {
            let before: Vec<usize> =
                sessions.iter().map(|s| choose(Policy::Session, &vec![0; n], 7, &|| *s).unwrap()).collect();
            let after: Vec<usize> =
                sessions.iter().map(|s| choose(Policy::Session, &vec![5; n + 1], 0, &|| *s).unwrap()).collect();
            // Whoever moves, moves to the new one.
            prop_assert!(before.iter().zip(&after).all(|(b, a)| b == a || *a == n));
            let busiest = (0..n).map(|at| before.iter().filter(|b| **b == at).count()).max().unwrap();
            prop_assert!(busiest < 300 * 2 / n + 40, "{busiest} of 300 on one of {n}");
        }

        #[test]
        fn every_choice_is_a_server(loads in prop::collection::vec(0usize..50, 1..9), number in any::<usize>()) {
            for policy in Policy::ALL {
                let number = number / 2;
                prop_assert!(choose(policy, &loads, number, &|| 3).unwrap() < loads.len());
            }
            let least = choose(Policy::LeastLoaded, &loads, number / 2, &|| 3).unwrap();
            prop_assert_eq!(loads[least], *loads.iter().min().unwrap());
        }
    }
}
