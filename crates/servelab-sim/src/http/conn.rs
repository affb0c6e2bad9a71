//! Connections: a slab of sockets, each with at most one answer in progress, and writing with what the kernel did not
//! take kept for later. When to write what is decided in `server`.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

/// A client that does not read gets no more than this.
const MOST_UNSENT_BYTES: usize = 64 << 20;

/// What became of bytes that were to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    All,
    /// The rest follows when the socket has room.
    Partly,
    /// The client is gone, or does not read.
    Gone,
}

#[derive(Debug)]
pub(super) struct Conn {
    pub(super) socket: TcpStream,
    /// Bytes of requests that cannot be answered yet.
    pub(super) inbox: Vec<u8>,
    outbox: Vec<u8>,
    outbox_sent: usize,
    /// The epoll registration asks for writability.
    pub(super) is_watched_for_writing: bool,
    /// Close when everything is written.
    pub(super) must_close: bool,
    /// `100 Continue` was sent for the request in the inbox.
    pub(super) has_continued: bool,
    /// The job whose answer this connection waits for.
    pub(super) job: Option<usize>,
    /// `X-Request-Id` of the answer, where the server echoes it.
    pub(super) echo_id: Option<String>,
    /// The request being answered, for the server's own metrics.
    pub(super) note: Option<RequestNote>,
}

/// What the server's own metrics say about a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestNote {
    pub(super) handler: &'static str,
    pub(super) method: &'static str,
    pub(super) began: Instant,
    pub(super) body_bytes: usize,
}

impl Conn {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            inbox: Vec::new(),
            outbox: Vec::new(),
            outbox_sent: 0,
            is_watched_for_writing: false,
            must_close: false,
            has_continued: false,
            job: None,
            echo_id: None,
            note: None,
        }
    }

    /// Reads what is there; false when the client has closed.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> bool {
        loop {
            match self.socket.read(buffer) {
                Ok(0) => return false,
                Ok(n) => {
                    self.inbox.extend_from_slice(buffer.get(..n).unwrap_or_default());
                    if n < buffer.len() {
                        return true;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Sent {
        if self.has_unsent() {
            if self.outbox.len() - self.outbox_sent > MOST_UNSENT_BYTES {
                return Sent::Gone;
            }
            self.outbox.extend_from_slice(bytes);
            return Sent::Partly;
        }
        match self.socket.write(bytes) {
            Ok(sent) if sent == bytes.len() => Sent::All,
            Ok(sent) => self.keep(bytes.get(sent..).unwrap_or_default()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => self.keep(bytes),
            Err(_) => Sent::Gone,
        }
    }

    fn keep(&mut self, rest: &[u8]) -> Sent {
        self.outbox.extend_from_slice(rest);
        Sent::Partly
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.outbox_sent < self.outbox.len()
    }

    pub(super) fn flush(&mut self) -> Sent {
        let unsent = self.outbox.get(self.outbox_sent..).unwrap_or_default();
        match self.socket.write(unsent) {
            Ok(sent) => self.outbox_sent += sent,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return Sent::Gone,
        }
        if self.has_unsent() {
            return Sent::Partly;
        }
        self.outbox.clear();
        self.outbox_sent = 0;
        Sent::All
    }
}

/// Things by place; places are used again.
#[derive(Debug)]
pub(super) struct Slab<T> {
    slots: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(super) fn insert(&mut self, thing: T) -> usize {
        match self.free.pop() {
            Some(place) => {
                if let Some(slot) = self.slots.get_mut(place) {
                    *slot = Some(thing);
                }
                place
            }
            None => {
                self.slots.push(Some(thing));
                self.slots.len() - 1
            }
        }
    }

    /// The place that the next [`Slab::insert`] will use.
    pub(super) fn next_place(&self) -> usize {
        self.free.last().copied().unwrap_or(self.slots.len())
    }

    pub(super) fn get(&self, place: usize) -> Option<&T> {
        self.slots.get(place)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        self.slots.get_mut(place)?.as_mut()
    }

    pub(super) fn remove(&mut self, place: usize) -> Option<T> {
        let thing = self.slots.get_mut(place)?.take()?;
        self.free.push(place);
        Some(thing)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten()
    }

    /// The places that are taken.
    pub(super) fn places(&self) -> Vec<usize> {
        self.slots.iter().enumerate().filter(|(_, slot)| slot.is_some()).map(|(place, _)| place).collect()
    }
}
