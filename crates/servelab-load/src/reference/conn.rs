//! Connections of the reference server: a slab of sockets, each with at most one answer in progress, and writing with
//! what the kernel did not take kept for later. When to write what is decided in `server`.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use super::log::RequestStamp;
use super::request::Path;
use super::script::Plan;

/// An answer in progress.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) stamp: RequestStamp,
    pub(super) plan: Plan,
    pub(super) path: Path,
    pub(super) is_stream: bool,
    pub(super) wants_usage: bool,
    pub(super) wants_token_ids: bool,
    pub(super) prompt_tokens: u32,
    pub(super) finish_reason: &'static str,
    /// Bytes of the head that are still to be sent, at its end.
    pub(super) head_left: usize,
    pub(super) needs_role: bool,
    /// Position of the next event.
    pub(super) next_event: u32,
    /// Events before the fault that is still to come.
    pub(super) fault_after: Option<u32>,
    /// When the next write is due, on the clock that stalls stop.
    pub(super) due_ns: i64,
}

impl Answer {
    /// Events in the next write; 0 when there is none left or the fault comes first.
    pub(super) fn next_count(&self) -> u32 {
        let before_fault = self.fault_after.map_or(u32::MAX, |after| after.saturating_sub(self.next_event));
        self.plan.group(self.next_event).min(before_fault)
    }
}

/// What became of bytes that were to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    All,
    /// The rest follows when the socket has room.
    Partly,
    /// The client is gone.
    Gone,
}

#[derive(Debug)]
pub(super) struct Conn {
    pub(super) socket: TcpStream,
    pub(super) number: u32,
    /// Bytes of requests that cannot be answered yet, and when the last of them came.
    pub(super) inbox: Vec<u8>,
    pub(super) inbox_read_ns: i64,
    outbox: Vec<u8>,
    outbox_sent: usize,
    /// The epoll registration asks for writability.
    pub(super) is_watched_for_writing: bool,
    pub(super) must_close: bool,
    pub(super) answer: Option<Box<Answer>>,
}

impl Conn {
    pub(super) fn new(socket: TcpStream, number: u32) -> Self {
        Self {
            socket,
            number,
            inbox: Vec::new(),
            inbox_read_ns: 0,
            outbox: Vec::new(),
            outbox_sent: 0,
            is_watched_for_writing: false,
            must_close: false,
            answer: None,
        }
    }

    /// `None` when there is nothing to read after all.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Option<std::io::Result<usize>> {
        match self.socket.read(buffer) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => None,
            outcome => Some(outcome),
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Sent {
        if self.has_unsent() {
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

/// Place and generation of a connection, as carried through epoll and the timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) place: u32,
    pub(super) generation: u32,
}

impl Key {
    pub(super) fn pack(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.place)
    }

    pub(super) fn unpack(data: u64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "two halves of one word")]
        let key = Self { place: data as u32, generation: (data >> 32) as u32 };
        key
    }
}

/// Connections by key; the key of a closed one fits nothing.
#[derive(Debug, Default)]
pub(super) struct Conns {
    slots: Vec<(u32, Option<Conn>)>,
    free: Vec<u32>,
}

impl Conns {
    pub(super) fn insert(&mut self, conn: Conn) -> Key {
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let Some(slot) = self.slots.get_mut(place as usize) else { return Key { place, generation: u32::MAX } };
        slot.1 = Some(conn);
        Key { place, generation: slot.0 }
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Conn> {
        let (generation, conn) = self.slots.get_mut(key.place as usize)?;
        if *generation == key.generation { conn.as_mut() } else { None }
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Conn> {
        let (generation, conn) = self.slots.get_mut(key.place as usize)?;
        if *generation != key.generation {
            return None;
        }
        let conn = conn.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(key.place);
        Some(conn)
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = Conn> + '_ {
        self.slots.iter_mut().filter_map(|(_, conn)| conn.take())
    }
}
