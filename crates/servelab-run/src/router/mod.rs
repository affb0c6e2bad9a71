//! The router: a streaming reverse proxy in front of replicas, or of prefill and decode servers with the hand-over between
//! them. One thread per client connection on blocking sockets: a study has hundreds of them, and bytes pass through
//! uncopied and unparsed but for the framing. Failures are passed on as they are: a server's status, a broken stream as a
//! broken stream. What each leg took is recorded (`legs`).

mod exchange;
mod legs;
mod pool;
mod serve;
mod split;
#[cfg(test)]
mod tests;
mod wire;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use legs::{Leg, LegOutcome, LegRecord, read_legs};
pub use pool::Policy;
pub use split::Handover;
pub use wire::{Request, RequestReader, WireError};

use legs::LegLog;
use pool::Pool;

/// Most client connections at once; each has a thread.
const MAX_CONNECTIONS: usize = 16_384;
/// Threads only move bytes.
const STACK_BYTES: usize = 256 << 10;
const POLL: Duration = Duration::from_millis(100);

/// A header that names a server by position (of the decode servers, where there are two kinds).
pub const PIN_SERVER: &str = "x-servelab-server";
/// A header that names a prefill server by position.
pub const PIN_PREFILL: &str = "x-servelab-prefill";

/// What a router does.
#[derive(Debug, Clone)]
pub struct RouterOptions {
    /// Addresses of replicas, or of decode servers.
    pub servers: Vec<String>,
    /// Addresses of prefill servers.
    pub prefill: Vec<String>,
    /// How a request finds a server, of both kinds.
    pub policy: Policy,
    /// How KV gets from prefill to decode.
    pub handover: Handover,
    /// Records of legs go here.
    pub legs: Option<PathBuf>,
    /// A server that says nothing for so long is given up.
    pub silence: Duration,
}

/// Why a router cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// An address or a combination that makes no sense.
    #[error("{0}")]
    Options(String),
    /// The address is taken, a file cannot be written, …
    #[error("{action}: {source}")]
    System {
        /// What was tried.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

pub(crate) struct Shared {
    servers: Pool,
    prefill: Option<Pool>,
    policy: Policy,
    handover: Handover,
    silence: Duration,
    legs: LegLog,
    /// Begins the ids of requests that have none.
    name: String,
    next_id: AtomicU64,
    n_connections: AtomicUsize,
    is_stopping: AtomicBool,
}

/// A running router. Dropping it ends it: no more connections are taken, those that are open end with their request.
pub struct Router {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Router {
    /// Listens and serves in threads of its own.
    pub fn start(listen: SocketAddr, options: &RouterOptions) -> Result<Self, RouterError> {
        let bad = |text: &str| RouterError::Options(text.to_owned());
        if options.servers.is_empty() {
            let text = if options.prefill.is_empty() {
                "there is no server to route to"
            } else {
                "there are prefill servers and no decode server"
            };
            return Err(bad(text));
        }
        let pool = |urls: &[String]| Pool::new(urls).map_err(RouterError::Options);
        let system = |action: String| move |source| RouterError::System { action, source };
        let legs = LegLog::open(options.legs.as_deref()).map_err(system(format!(
            "write records of legs to {:?}",
            options.legs.as_deref().unwrap_or("".as_ref())
        )))?;
        let shared = Arc::new(Shared {
            servers: pool(&options.servers)?,
            prefill: if options.prefill.is_empty() { None } else { Some(pool(&options.prefill)?) },
            policy: options.policy,
            handover: options.handover,
            silence: options.silence,
            legs,
            name: format!("{:x}-{:x}", std::process::id(), servelab_load::clock::monotonic_ns()),
            next_id: AtomicU64::new(0),
            n_connections: AtomicUsize::new(0),
            is_stopping: AtomicBool::new(false),
        });
        let listener = TcpListener::bind(listen).map_err(system(format!("listen at {listen}")))?;
        let address = listener.local_addr().map_err(system("find the own address".to_owned()))?;
        listener.set_nonblocking(true).map_err(system("prepare the socket".to_owned()))?;
        let for_thread = Arc::clone(&shared);
        let accepting = thread::Builder::new()
            .name("router".to_owned())
            .spawn(move || accept(&listener, &for_thread))
            .map_err(system("start a thread".to_owned()))?;
        Ok(Self { address, shared, accepting: Some(accepting) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The first record that could not be written.
    pub fn take_problem(&self) -> Option<io::Error> {
        self.shared.legs.take_problem()
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, SeqCst);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let timeout = Timespec { tv_sec: 0, tv_nsec: POLL.subsec_nanos().into() };
    while !shared.is_stopping.load(SeqCst) {
        let mut fds = [PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)];
        let _ = poll(&mut fds, Some(&timeout));
        while let Ok((stream, _)) = listener.accept() {
            // Dropping the stream refuses it; the client sees a closed connection, which it counts as a failure.
            if shared.n_connections.load(SeqCst) >= MAX_CONNECTIONS {
                continue;
            }
            let shared = Arc::clone(shared);
            shared.n_connections.fetch_add(1, SeqCst);
            let counted = Counted(shared);
            let _ = thread::Builder::new()
                .name("route".to_owned())
                .stack_size(STACK_BYTES)
                .spawn(move || serve::connection(&counted.0, stream));
        }
    }
}

/// A connection that counts until it ends, or until no thread could be started for it.
struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.n_connections.fetch_sub(1, SeqCst);
    }
}
