//! What the server stamped: one record per request, one per write. Instants are absolute CLOCK_MONOTONIC nanoseconds, the
//! clock of a client on the same machine. Kept in memory of a size that is fixed beforehand; the file form is binary,
//! little-endian, with a JSON head.
//!
//! The instant just before a write is the reference for what a client receives: no byte can be seen earlier, and on
//! loopback the kernel hands the bytes over and wakes the reader inside the call, often before it returns. The instant
//! after it says how long that took.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::script::Script;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestEnd {
    /// Every byte of its answer was handed to the kernel.
    Complete,
    /// As its fault says.
    Fault,
    /// The client closed the connection first.
    ClientClosed,
    /// The server stopped first.
    Stopped,
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestStamp {
    /// From 0, in the order in which requests became whole; the response id carries it.
    pub number: u32,
    /// From 0, in the order in which connections were accepted.
    pub connection: u32,
    /// The `read()` that completed the request returned.
    pub read_ns: i64,
    /// Just before the first byte of the head was written; 0 when there was none.
    pub head_ns: i64,
    /// The write of its last bytes (`[DONE]`) returned, or it ended otherwise.
    pub end_ns: i64,
    /// Tokens that the answer should have.
    pub tokens: u32,
    /// Tokens written.
    pub tokens_written: u32,
    /// How it ended.
    pub end: RequestEnd,
}

/// One write of token events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteStamp {
    /// The request's number.
    pub request: u32,
    /// Position of its first event in the stream, from 0.
    pub first_event: u32,
    /// Events in it.
    pub n_events: u16,
    /// Tokens in each; the stream's last event may have fewer.
    pub tokens_per_event: u16,
    /// Not all bytes were taken at once: the client was slower than the server.
    pub is_partial: bool,
    /// Just before the call.
    pub before_ns: i64,
    /// The call took so long; saturating.
    pub took_ns: u32,
    /// `before_ns` minus the instant that the script wanted; saturating.
    pub late_ns: u32,
}

/// A token event as seen by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenEvent {
    /// Position in its stream.
    pub event: u32,
    /// Just before its write: the reference for receive errors.
    pub before_ns: i64,
    /// Just after its write.
    pub after_ns: i64,
    /// See [`WriteStamp::is_partial`].
    pub is_partial: bool,
}

/// Everything that was stamped.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReferenceLog {
    /// The script, for computing every intended instant again.
    pub script: Script,
    /// Requests that have ended, in the order of their ends.
    pub requests: Vec<RequestStamp>,
    /// Writes of token events in the order of time.
    pub writes: Vec<WriteStamp>,
    /// Begin and end of each stall that happened.
    pub stalls: Vec<(i64, i64)>,
    /// Requests for which there was no room.
    pub dropped_requests: u64,
    /// Writes for which there was no room.
    pub dropped_writes: u64,
    /// CPU time of the server's thread, user and system.
    pub cpu_ns: i64,
}

impl ReferenceLog {
    pub(super) fn with_room(script: Script, max_requests: usize, max_writes: usize, prefault: bool) -> Self {
        let mut requests = Vec::with_capacity(max_requests);
        let mut writes = Vec::with_capacity(max_writes);
        if prefault {
            requests.resize(max_requests, EMPTY_REQUEST);
            writes.resize(max_writes, EMPTY_WRITE);
            requests.clear();
            writes.clear();
        }
        Self { script, requests, writes, ..Self::default() }
    }

    pub(super) fn push_request(&mut self, request: RequestStamp) {
        if self.requests.len() < self.requests.capacity() {
            self.requests.push(request);
        } else {
            self.dropped_requests += 1;
        }
    }

    pub(super) fn push_write(&mut self, write: WriteStamp) {
        if self.writes.len() < self.writes.capacity() {
            self.writes.push(write);
        } else {
            self.dropped_writes += 1;
        }
    }

    /// Adds a later log of the same server.
    pub fn append(&mut self, later: Self) {
        self.requests.extend(later.requests);
        self.writes.extend(later.writes);
        self.stalls.extend(later.stalls);
        self.dropped_requests += later.dropped_requests;
        self.dropped_writes += later.dropped_writes;
        self.cpu_ns = self.cpu_ns.max(later.cpu_ns);
    }

    /// The token events of each request, by number; empty where nothing was written.
    pub fn events_by_request(&self) -> Vec<Vec<TokenEvent>> {
        let highest = self.writes.iter().map(|write| write.request as usize + 1).max().unwrap_or(0);
        let highest = self.requests.iter().map(|request| request.number as usize + 1).fold(highest, usize::max);
        let mut events = vec![Vec::new(); highest];
        for write in &self.writes {
            let Some(events) = events.get_mut(write.request as usize) else { continue };
            events.extend((0..u32::from(write.n_events)).map(|offset| TokenEvent {
                event: write.first_event + offset,
                before_ns: write.before_ns,
                after_ns: write.before_ns + i64::from(write.took_ns),
                is_partial: write.is_partial,
            }));
        }
        events
    }

    /// Token events written.
    pub fn n_events(&self) -> u64 {
        self.writes.iter().map(|write| u64::from(write.n_events)).sum()
    }

    /// Writes the file.
    pub fn write_file(&self, path: &Path) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        let head = Head {
            schema: 1,
            script: self.script.clone(),
            requests: self.requests.len() as u64,
            writes: self.writes.len() as u64,
            stalls: self.stalls.clone(),
            dropped_requests: self.dropped_requests,
            dropped_writes: self.dropped_writes,
            cpu_ns: self.cpu_ns,
        };
        let head = serde_json::to_vec(&head)?;
        file.write_all(MAGIC)?;
        file.write_all(&(head.len() as u64).to_le_bytes())?;
        file.write_all(&head)?;
        for request in &self.requests {
            file.write_all(&request.to_bytes())?;
        }
        for write in &self.writes {
            file.write_all(&write.to_bytes())?;
        }
        file.flush()
    }

    /// Reads a file written by [`Self::write_file`].
    pub fn read_file(path: &Path) -> Result<Self, LogFileError> {
        Self::read_from(BufReader::new(File::open(path)?))
    }

    /// Reads the bytes of such a file; damaged ones are an error.
    pub fn read_from(mut input: impl Read) -> Result<Self, LogFileError> {
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic)?;
        if &magic != MAGIC {
            return Err(LogFileError::Malformed("it is no reference server's log"));
        }
        let mut length = [0; 8];
        input.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEAD_BYTES {
            return Err(LogFileError::Malformed("its head is too long"));
        }
        let mut head = Vec::new();
        input.by_ref().take(length).read_to_end(&mut head)?;
        let head: Head = serde_json::from_slice(&head).map_err(|_| LogFileError::Malformed("its head is damaged"))?;
        if head.schema != 1 {
            return Err(LogFileError::Malformed("it was written by a newer version"));
        }
        let mut log = Self {
            script: head.script,
            stalls: head.stalls,
            dropped_requests: head.dropped_requests,
            dropped_writes: head.dropped_writes,
            cpu_ns: head.cpu_ns,
            ..Self::default()
        };
        // Room is made as records come: a damaged count must not ask for memory that the file does not fill.
        for _ in 0..head.requests {
            let mut bytes = [0; REQUEST_BYTES];
            input.read_exact(&mut bytes)?;
            log.requests.push(
                RequestStamp::from_bytes(&bytes).ok_or(LogFileError::Malformed("a request ends in an unknown way"))?,
            );
        }
        for _ in 0..head.writes {
            let mut bytes = [0; WRITE_BYTES];
            input.read_exact(&mut bytes)?;
            log.writes.push(WriteStamp::from_bytes(&bytes));
        }
        Ok(log)
    }
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogFileError {
    /// The file is not there, or ends too early.
    #[error("read the reference server's log: {0}")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("read the reference server's log: {0}")]
    Malformed(&'static str),
}

#[derive(Serialize, Deserialize)]
struct Head {
    schema: u32,
    script: Script,
    requests: u64,
    writes: u64,
    stalls: Vec<(i64, i64)>,
    dropped_requests: u64,
    dropped_writes: u64,
    cpu_ns: i64,
}

const MAGIC: &[u8; 8] = b"SLREFLG\n";
const MAX_HEAD_BYTES: u64 = 1 << 20;
const REQUEST_BYTES: usize = 41;
const WRITE_BYTES: usize = 29;

const EMPTY_REQUEST: RequestStamp = RequestStamp {
    number: 0,
    connection: 0,
    read_ns: 0,
    head_ns: 0,
    end_ns: 0,
    tokens: 0,
    tokens_written: 0,
    end: RequestEnd::Stopped,
};
const EMPTY_WRITE: WriteStamp = WriteStamp {
    request: 0,
    first_event: 0,
    n_events: 0,
    tokens_per_event: 0,
    is_partial: false,
    before_ns: 0,
    took_ns: 0,
    late_ns: 0,
};

/// Reads fixed-size fields one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn next<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().unwrap_or((&[0; N], &[]));
        self.0 = rest;
        *field
    }
}

/// Writes fixed-size fields one after the other.
struct Record<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Record<N> {
    fn new() -> Self {
        Self { bytes: [0; N], at: 0 }
    }

    fn put(mut self, field: &[u8]) -> Self {
        if let Some(place) = self.bytes.get_mut(self.at..self.at + field.len()) {
            place.copy_from_slice(field);
        }
        self.at += field.len();
        self
    }
}

impl RequestStamp {
    fn to_bytes(self) -> [u8; REQUEST_BYTES] {
        let end = match self.end {
            RequestEnd::Complete => 0,
            RequestEnd::Fault => 1,
            RequestEnd::ClientClosed => 2,
            RequestEnd::Stopped => 3,
        };
        Record::new()
            .put(&self.number.to_le_bytes())
            .put(&self.connection.to_le_bytes())
            .put(&self.read_ns.to_le_bytes())
            .put(&self.head_ns.to_le_bytes())
            .put(&self.end_ns.to_le_bytes())
            .put(&self.tokens.to_le_bytes())
            .put(&self.tokens_written.to_le_bytes())
            .put(&[end])
            .bytes
    }

    fn from_bytes(bytes: &[u8; REQUEST_BYTES]) -> Option<Self> {
        let mut fields = Fields(bytes);
        Some(Self {
            number: u32::from_le_bytes(fields.next()),
            connection: u32::from_le_bytes(fields.next()),
            read_ns: i64::from_le_bytes(fields.next()),
            head_ns: i64::from_le_bytes(fields.next()),
            end_ns: i64::from_le_bytes(fields.next()),
            tokens: u32::from_le_bytes(fields.next()),
            tokens_written: u32::from_le_bytes(fields.next()),
            end: match fields.next() {
                [0] => RequestEnd::Complete,
                [1] => RequestEnd::Fault,
                [2] => RequestEnd::ClientClosed,
                [3] => RequestEnd::Stopped,
                _ => return None,
            },
        })
    }
}

impl WriteStamp {
    fn to_bytes(self) -> [u8; WRITE_BYTES] {
        Record::new()
            .put(&self.request.to_le_bytes())
            .put(&self.first_event.to_le_bytes())
            .put(&self.n_events.to_le_bytes())
            .put(&self.tokens_per_event.to_le_bytes())
            .put(&[u8::from(self.is_partial)])
            .put(&self.before_ns.to_le_bytes())
            .put(&self.took_ns.to_le_bytes())
            .put(&self.late_ns.to_le_bytes())
            .bytes
    }

    fn from_bytes(bytes: &[u8; WRITE_BYTES]) -> Self {
        let mut fields = Fields(bytes);
        Self {
            request: u32::from_le_bytes(fields.next()),
            first_event: u32::from_le_bytes(fields.next()),
            n_events: u16::from_le_bytes(fields.next()),
            tokens_per_event: u16::from_le_bytes(fields.next()),
            is_partial: fields.next() != [0],
            before_ns: i64::from_le_bytes(fields.next()),
            took_ns: u32::from_le_bytes(fields.next()),
            late_ns: u32::from_le_bytes(fields.next()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ReferenceLog {
        let request = RequestStamp {
            number: 1,
            connection: 9,
            read_ns: 123_456_789_012,
            head_ns: 123_456_789_112,
            end_ns: -5,
            tokens: 4,
            tokens_written: 3,
            end: RequestEnd::ClientClosed,
        };
        let write = WriteStamp {
            request: 1,
            first_event: 2,
            n_events: 3,
            tokens_per_event: 5,
            is_partial: true,
            before_ns: 1 << 60,
            took_ns: 7,
            late_ns: u32::MAX,
        };
        ReferenceLog {
            requests: vec![request, RequestStamp { end: RequestEnd::Complete, ..request }],
            writes: vec![write, WriteStamp { request: 0, first_event: 0, n_events: 1, is_partial: false, ..write }],
            stalls: vec![(1, 2)],
            dropped_requests: 1,
            dropped_writes: 2,
            cpu_ns: 3,
            ..ReferenceLog::default()
        }
    }

    fn bytes(log: &ReferenceLog) -> Vec<u8> {
        let path = std::env::temp_dir().join(format!("servelab-reflog-{}-{:p}", std::process::id(), log));
        log.write_file(&path).unwrap();
        assert_eq!(ReferenceLog::read_file(&path).unwrap(), *log);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        bytes(&ReferenceLog::default());
        bytes(&sample());
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let whole = bytes(&sample());
        for cut in 0..whole.len() {
            assert!(ReferenceLog::read_from(&whole[..cut]).is_err(), "{cut}");
        }
        for position in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[position] ^= 0x55;
            // Some bytes are free to differ; none may make it panic or ask for endless memory.
            let _ = ReferenceLog::read_from(&damaged[..]);
        }
        let other = ReferenceLog::read_from(&b"PAR1PAR1"[..]).unwrap_err().to_string();
        assert!(other.contains("no reference server's log"), "{other}");
    }

    #[test]
    fn room_is_fixed() {
        for prefault in [false, true] {
            let mut log = ReferenceLog::with_room(Script::default(), 1, 2, prefault);
            for _ in 0..5 {
                log.push_request(EMPTY_REQUEST);
                log.push_write(EMPTY_WRITE);
            }
            let room = (log.requests.capacity() as u64, log.writes.capacity() as u64);
            assert_eq!(
                (log.requests.len() as u64 + log.dropped_requests, log.requests.len() as u64),
                (5, room.0.min(5))
            );
            assert_eq!((log.writes.len() as u64 + log.dropped_writes, log.writes.len() as u64), (5, room.1.min(5)));
        }
    }

    #[test]
    fn events_of_requests() {
        let events = sample().events_by_request();
        assert_eq!(events.len(), 2);
        assert_eq!(events[0].iter().map(|event| event.event).collect::<Vec<_>>(), [0]);
        assert_eq!(events[1].iter().map(|event| event.event).collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!(events[1][2].after_ns - events[1][2].before_ns, 7);
        assert_eq!(sample().n_events(), 4);
        let mut both = sample();
        both.append(sample());
        assert_eq!((both.requests.len(), both.writes.len(), both.cpu_ns, both.dropped_writes), (4, 4, 3, 4));
    }
}
