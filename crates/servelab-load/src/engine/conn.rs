//! Connections of one load thread: a slab of non-blocking sockets with the job that each carries, opening, liveness and
//! writing. Time stamps are taken by the worker; what bytes mean is decided in `stream`.

use std::net::{IpAddr, SocketAddr};

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, ipproto, recv, send, socket_with,
    sockopt,
};
use servelab_core::record::RequestRecord;

use super::session::Session;
use super::tls::TlsStream;
use crate::codes;
use crate::sink::EventLog;
use crate::stream::{Expectation, ResponseReader};

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Job {
    /// Unique per thread; tells a timer entry whether its job is still the one it was made for.
    pub(crate) ticket: u64,
    pub(crate) record: RequestRecord,
    pub(crate) expect: Expectation,
    /// The conversation that this is a turn of.
    pub(crate) session: Option<Box<Session>>,
    pub(crate) reader: ResponseReader,
    pub(crate) events: EventLog,
    /// Head and body; empty when all is written.
    pub(crate) bytes: Vec<u8>,
    /// Bytes written so far.
    pub(crate) written: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnState {
    Connecting,
    /// Connected, with the TLS handshake under way.
    Handshaking,
    /// Open, without a job or with one that is being written or answered.
    Open,
}

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) fd: OwnedFd,
    pub(crate) state: ConnState,
    pub(crate) tls: Option<TlsStream>,
    pub(crate) job: Option<Box<Job>>,
    /// The epoll registration asks for writability.
    pub(crate) wants_write: bool,
    /// End of the last response on it; `None` when it has carried none.
    pub(crate) idle_since_ns: Option<i64>,
}

/// Index and generation of a connection, as carried through epoll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    index: u32,
    generation: u32,
}

impl Token {
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.index) | u64::from(self.generation) << 32
    }

    pub(crate) fn unpack(data: u64) -> Self {
        Self { index: data as u32, generation: (data >> 32) as u32 }
    }
}

#[derive(Debug, Default)]
struct Entry {
    generation: u32,
    conn: Option<Conn>,
}

/// Connections by token; a token outlives its connection harmlessly.
#[derive(Debug, Default)]
pub(crate) struct Slab {
    entries: Vec<Entry>,
    free: Vec<u32>,
}

impl Slab {
    /// The token that [`Slab::insert`] will use next.
    pub(crate) fn next_token(&self) -> Token {
        let index = self.free.last().copied().unwrap_or(self.entries.len() as u32);
        let generation = self.entries.get(index as usize).map_or(0, |entry| entry.generation);
        Token { index, generation }
    }

    pub(crate) fn insert(&mut self, conn: Conn) -> Token {
        let token = self.next_token();
        self.free.pop();
        let index = token.index as usize;
        if index >= self.entries.len() {
            self.entries.resize_with(index + 1, Entry::default);
        }
        if let Some(entry) = self.entries.get_mut(index) {
            entry.conn = Some(conn);
        }
        token
    }

    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut Conn> {
        let entry = self.entries.get_mut(token.index as usize)?;
        if entry.generation == token.generation { entry.conn.as_mut() } else { None }
    }

    /// Takes a connection out; dropping it closes the socket.
    pub(crate) fn remove(&mut self, token: Token) -> Option<Conn> {
        let entry = self.entries.get_mut(token.index as usize)?;
        if entry.generation != token.generation {
            return None;
        }
        let conn = entry.conn.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(token.index);
        Some(conn)
    }

    pub(crate) fn tokens(&self) -> Vec<Token> {
        let tokens = self.entries.iter().enumerate().filter(|(_, entry)| entry.conn.is_some());
        tokens.map(|(index, entry)| Token { index: index as u32, generation: entry.generation }).collect()
    }
}

/// Opens a non-blocking socket, from `source` if there is one, and starts to connect it. `true` when it is connected
/// already.
pub(crate) fn start_connect(address: SocketAddr, source: Option<IpAddr>) -> Result<(OwnedFd, bool), Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_tcp_nodelay(&fd, true)?;
    if let Some(source) = source {
        bind(&fd, &SocketAddr::new(source, 0))?;
    }
    match connect(&fd, &address) {
        Ok(()) => Ok((fd, true)),
        Err(Errno::INPROGRESS | Errno::INTR) => Ok((fd, false)),
        Err(errno) => Err(errno),
    }
}

/// The outcome of a connect that epoll reported.
pub(crate) fn connect_outcome(fd: &OwnedFd) -> Result<(), Errno> {
    sockopt::socket_error(fd)?
}

/// The failure code of a connect error.
pub(crate) fn connect_code(errno: Errno) -> &'static str {
    match errno {
        Errno::CONNREFUSED => codes::CONNECT_REFUSED,
        Errno::TIMEDOUT => codes::CONNECT_TIMEOUT,
        Errno::MFILE | Errno::NFILE | Errno::ADDRNOTAVAIL | Errno::NOBUFS | Errno::NOMEM => codes::CLIENT_RESOURCES,
        _ => codes::CONNECT_FAILED,
    }
}

impl Conn {
    /// True when an idle connection is still open and silent. A server that closed it has left an end of stream to read.
    /// A TLS server may have sent records of its own (session tickets).
    pub(crate) fn is_alive(&self) -> bool {
        let mut byte = [0_u8; 1];
        match recv(&self.fd, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN) => true,
            Ok((n, _)) => n > 0 && self.tls.is_some(),
            Err(_) => false,
        }
    }
}

/// Writes as much of the request as the kernel takes. When all is written, returns the reading of `now` just before the
/// call that took the last byte: the kernel copies first and wakes the receiver afterwards, so a reading after the call
/// can be late by a whole time slice on a busy machine, and the time to the first token would come out too short.
pub(crate) fn write_request(
    fd: &OwnedFd,
    tls: Option<&mut TlsStream>,
    job: &mut Job,
    now: impl Fn() -> i64,
) -> Result<Option<i64>, Errno> {
    let t_send = match tls {
        Some(tls) => {
            if job.written < job.bytes.len() {
                tls.buffer(&job.bytes)?;
                job.written = job.bytes.len();
            }
            tls.flush(fd, now)?
        }
        None => loop {
            let rest = job.bytes.get(job.written..).unwrap_or_default();
            let before_ns = now();
            match send(fd, rest, SendFlags::NOSIGNAL) {
                Ok(n) => {
                    job.written += n;
                    if job.written >= job.bytes.len() {
                        break Some(before_ns);
                    }
                }
                Err(Errno::AGAIN) => break None,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        },
    };
    if t_send.is_some() {
        job.bytes = Vec::new();
    }
    Ok(t_send)
}
