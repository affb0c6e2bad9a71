//! The reference server: a scripted OpenAI-compatible server that stamps what it does, so that a client's numbers can be
//! held against the truth. It is the judge of the load engine and therefore shares no code with it: its own request
//! parser, its own loop, its own answers. One thread, one epoll.
//!
//! It serves in process (the canary of a run) and as a process of its own (`cargo xtask ref-server`). What a request gets
//! is in `script` and `fault`, bytes are made in `wire`, stamps are in `log`, the loop is `server`.

mod conn;
mod fault;
mod log;
mod request;
mod script;
mod server;
#[cfg(test)]
mod tests;
mod wire;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;

pub use fault::{Fault, FaultKind, FaultRule};
pub use log::{LogFileError, ReferenceLog, RequestEnd, RequestStamp, TokenEvent, WriteStamp};
pub use script::{RoleChunk, Script, Stall};
pub use wire::request_number;

/// How the server waits for the next instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spin {
    /// Sleep until the instant; late by what the kernel needs to wake a thread. For a core that others need.
    Never,
    /// Sleep until 60 µs before it, then poll.
    Near,
    /// Poll all the time: reads are picked up at once, too. For a core that nobody else uses.
    Always,
}

/// What the server is told before it starts.
#[derive(Debug, Clone)]
pub struct ReferenceConfig {
    /// Addresses to listen on; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Name of the only model; requests for any other are answered all the same.
    pub model: String,
    /// What requests get.
    pub script: Script,
    /// How it waits.
    pub spin: Spin,
    /// Core on which the thread stays.
    pub core: Option<usize>,
    /// Writes that the log has room for; further ones are counted as dropped.
    pub max_writes: usize,
    /// Requests that the log has room for; further ones are counted as dropped.
    pub max_requests: usize,
    /// Touch the log's memory before the start, so that no page fault delays a write.
    pub prefault: bool,
}

impl Default for ReferenceConfig {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
            model: "reference".to_owned(),
            script: Script::default(),
            spin: Spin::Never,
            core: None,
            max_writes: 1 << 16,
            max_requests: 1 << 13,
            prefault: false,
        }
    }
}

/// Why the server is not there, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// An address cannot be listened on.
    #[error("listen on `{address}`: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The kernel's words.
        source: io::Error,
    },
    /// The kernel refused something.
    #[error("{action} for the reference server: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The kernel's words.
        source: io::Error,
    },
    /// No address was given.
    #[error("the reference server has no address to listen on")]
    NoAddress,
    /// The thread is gone.
    #[error("the reference server's thread ended by itself")]
    Gone,
}

impl ReferenceError {
    fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { action, source: source.into() }
    }
}

/// What the handle and the thread share.
struct Shared {
    wake: OwnedFd,
    must_stop: AtomicBool,
    must_hand_over: AtomicBool,
}

/// A running reference server. Dropping the handle stops it.
pub struct ReferenceServer {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    logs: Receiver<ReferenceLog>,
    thread: Option<JoinHandle<Result<ReferenceLog, ReferenceError>>>,
}

impl ReferenceServer {
    /// Listens and starts the thread. Requests are served from when this returns.
    pub fn start(config: ReferenceConfig) -> Result<Self, ReferenceError> {
        let listeners = config.listen.iter().map(|address| listen(*address)).collect::<Result<Vec<_>, _>>()?;
        let addresses: Vec<SocketAddr> = listeners.iter().map(|(address, _)| *address).collect();
        if addresses.is_empty() {
            return Err(ReferenceError::NoAddress);
        }
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(ReferenceError::system("create an eventfd"))?;
        let shared =
            Arc::new(Shared { wake, must_stop: AtomicBool::new(false), must_hand_over: AtomicBool::new(false) });
        let (logs_tx, logs) = channel();
        let listeners = listeners.into_iter().map(|(_, listener)| listener).collect();
        let server = server::Server::new(config, listeners, Arc::clone(&shared), logs_tx)?;
        let (ready_tx, ready) = channel();
        let body = move || {
            let settled = server.settle();
            let is_settled = settled.is_ok();
            let _ = ready_tx.send(settled);
            if is_settled { server.run() } else { Err(ReferenceError::Gone) }
        };
        let thread = std::thread::Builder::new()
            .name("reference-server".to_owned())
            .spawn(body)
            .map_err(ReferenceError::system("start a thread"))?;
        ready.recv().unwrap_or(Err(ReferenceError::Gone))?;
        Ok(Self { addresses, shared, logs, thread: Some(thread) })
    }

    /// The first address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.addresses.first().copied().unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// Every address it listens on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Base URL of the first address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Takes what has been logged since the last call: the writes so far and the requests that have ended. A request
    /// that is still running appears in a later log, as do its further writes; [`ReferenceLog::append`] joins them.
    pub fn take_log(&self) -> Result<ReferenceLog, ReferenceError> {
        self.shared.must_hand_over.store(true, SeqCst);
        self.wake();
        self.logs.recv().map_err(|_| ReferenceError::Gone)
    }

    /// Stops the server, closes its connections and returns what has been logged since the last [`Self::take_log`].
    pub fn stop(mut self) -> Result<ReferenceLog, ReferenceError> {
        self.end().unwrap_or(Err(ReferenceError::Gone))
    }

    fn wake(&self) {
        // Fails only when the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
    }

    fn end(&mut self) -> Option<Result<ReferenceLog, ReferenceError>> {
        let thread = self.thread.take()?;
        self.shared.must_stop.store(true, SeqCst);
        self.wake();
        thread.join().ok()
    }
}

impl Drop for ReferenceServer {
    fn drop(&mut self) {
        self.end();
    }
}

/// The accept queue must hold a herd of clients that connect at once; the kernel caps it at `somaxconn`.
const BACKLOG: i32 = 65_535;

fn listen(address: SocketAddr) -> Result<(SocketAddr, TcpListener), ReferenceError> {
    let failed = |source| ReferenceError::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    rustix::net::listen(&listener, BACKLOG).map_err(|errno| failed(errno.into()))?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok((listener.local_addr().map_err(failed)?, listener))
}
