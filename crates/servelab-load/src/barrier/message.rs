//! The lines that shards exchange over TCP: one JSON document each, of limited length. What comes from the network is
//! either one of these or an error.

use std::io::{self, BufRead};

use serde::{Deserialize, Serialize};
use servelab_core::shard::{ClockOffset, Shard};

/// Longest line, bytes.
const MAX_LINE: u64 = 16 << 10;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Message {
    /// Shard 0 greets.
    Greeting {
        /// Version of this protocol.
        version: u32,
        /// To be answered with a proof, when there is a token.
        nonce: String,
    },
    /// A shard says who it is.
    Hello {
        /// Which one.
        shard: Shard,
        /// What it was started for.
        fingerprint: String,
        /// Its host.
        host: String,
        /// Its host's boot id.
        boot_id: String,
        /// Shows that it knows the token.
        proof: Option<String>,
    },
    /// Shard 0 accepts it.
    Welcome {
        /// Shard 0's boot id.
        boot_id: String,
    },
    /// What time is it?
    Ping {},
    /// Shard 0's CLOCK_MONOTONIC when the question came and when the answer left.
    Pong {
        /// Nanoseconds.
        received_ns: i64,
        /// Nanoseconds.
        sent_ns: i64,
    },
    /// The shard is ready, and its clock is known.
    Ready {
        /// Beside that of shard 0.
        offset: ClockOffset,
        /// Shortest round trip, nanoseconds.
        round_trip_ns: i64,
    },
    /// Everybody is there.
    Go {
        /// Names the load.
        run_id: String,
        /// The start on shard 0's CLOCK_MONOTONIC, nanoseconds.
        start_monotonic_ns: i64,
    },
    /// Shard 0 gives up, or does not want this shard.
    Refused {
        /// Why.
        words: String,
    },
}

impl Message {
    /// As a line.
    pub(super) fn line(&self) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// Reads one line. The end of the stream, a line that is too long and one that is no message are errors.
pub fn read_message(reader: &mut impl BufRead) -> io::Result<Message> {
    let mut line = Vec::new();
    let n = io::Read::take(&mut *reader, MAX_LINE).read_until(b'\n', &mut line)?;
    if n == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if line.pop() != Some(b'\n') {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without an end"));
    }
    serde_json::from_slice(&line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
