//! What the router writes down about each request: when each leg began, answered and ended, on which server, and what
//! became of it. One JSON object a line; stamps are CLOCK_MONOTONIC nanoseconds, the clock of the client's records when
//! both run on one machine.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

/// One leg: a request to one server and its answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leg {
    /// Position of the server among those of its role.
    pub server: usize,
    /// When the request had been written.
    pub t_send_ns: i64,
    /// When the first byte of the answer came.
    pub t_head_ns: Option<i64>,
    /// When the first byte of the answer's body came.
    pub t_body_ns: Option<i64>,
    /// When the answer ended, well or not.
    pub t_end_ns: i64,
    /// Status of the answer.
    pub status: Option<u16>,
    /// Bytes of the answer's body.
    pub bytes: u64,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LegOutcome {
    /// Answered to the end with status 2xx.
    Ok,
    /// A server answered with another status, which was passed on.
    Status,
    /// No connection to a server.
    Refused,
    /// A server closed the connection before its answer was complete.
    Died,
    /// A server said nothing for too long.
    TimedOut,
    /// The client went away; the server was told by closing the connection.
    ClientGone,
    /// The request cannot be served by this router.
    Rejected,
}

impl LegOutcome {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Ok, Self::Status, Self::Refused, Self::Died, Self::TimedOut, Self::ClientGone, Self::Rejected];

    /// As in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Status => "status",
            Self::Refused => "refused",
            Self::Died => "died",
            Self::TimedOut => "timed_out",
            Self::ClientGone => "client_gone",
            Self::Rejected => "rejected",
        }
    }
}

/// A request's way through the router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegRecord {
    /// `X-Request-Id`: the client's, else one made here. Both servers got it.
    pub id: String,
    /// Path of the request.
    pub path: String,
    /// When the request had been read.
    pub t_accept_ns: i64,
    /// The prefill leg, where there is one.
    pub prefill: Option<Leg>,
    /// The decode leg, or the only one.
    pub decode: Option<Leg>,
    /// The prefill server's answer named where the KV lies; `None` where nothing is handed over.
    pub handed_over: Option<bool>,
    /// What became of it.
    pub outcome: LegOutcome,
    /// More about it.
    pub error: Option<String>,
}

/// A file of records, and counts of outcomes.
#[derive(Debug, Default)]
pub struct LegLog {
    file: Option<Mutex<File>>,
    counts: Mutex<[u64; LegOutcome::ALL.len()]>,
    /// The first line that could not be written, until somebody asks.
    problem: Mutex<Option<io::Error>>,
}

impl LegLog {
    /// Appends to a file, or to nothing.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { file: Some(Mutex::new(file)), ..Self::default() })
    }

    /// Writes a record at once: what happened must be there when the router is killed.
    pub fn write(&self, record: &LegRecord) {
        if let Some(at) = LegOutcome::ALL.iter().position(|outcome| *outcome == record.outcome)
            && let Some(count) = lock(&self.counts).get_mut(at)
        {
            *count += 1;
        }
        let (Some(file), Ok(mut line)) = (&self.file, serde_json::to_vec(record)) else { return };
        line.push(b'\n');
        if let Err(error) = lock(file).write_all(&line) {
            lock(&self.problem).get_or_insert(error);
        }
    }

    /// Requests by what became of them.
    pub fn counts(&self) -> Vec<(LegOutcome, u64)> {
        LegOutcome::ALL.into_iter().zip(*lock(&self.counts)).collect()
    }

    /// The first record that could not be written.
    pub fn take_problem(&self) -> Option<io::Error> {
        lock(&self.problem).take()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The records in a file's bytes; a last line that is still being written is left out.
pub fn read_legs(bytes: &[u8]) -> Vec<LegRecord> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    lines.filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/legs.jsonl");
        let log = LegLog::open(Some(&path)).unwrap();
        let leg = Leg { server: 1, t_send_ns: 5, t_head_ns: Some(6), t_end_ns: 9, status: Some(200), ..Leg::default() };
        let record = LegRecord {
            id: "x-1".to_owned(),
            path: "/v1/completions".to_owned(),
            t_accept_ns: 1,
            prefill: Some(leg.clone()),
            decode: None,
            handed_over: Some(true),
            outcome: LegOutcome::Died,
            error: Some("it \"died\"\n".to_owned()),
        };
        log.write(&record);
        log.write(&LegRecord { outcome: LegOutcome::Ok, decode: Some(leg), ..record.clone() });
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend_from_slice(b"{\"id\":\"half");
        let read = read_legs(&bytes);
        assert_eq!((read.len(), read.first()), (2, Some(&record)));
        let counts: Vec<u64> = log.counts().into_iter().map(|(_, n)| n).collect();
        assert_eq!(counts, [1, 0, 0, 1, 0, 0, 0]);
        assert!(log.take_problem().is_none());
        for outcome in LegOutcome::ALL {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.name());
        }
    }
}
