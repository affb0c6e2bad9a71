//! Where the shards of one load meet before it starts: all of them are there, they were started for the same load, and
//! they agree on one absolute instant. Either through a folder that all can see (`dir`), or through a TCP connection to
//! shard 0 (`tcp`), which also measures how the clocks of two hosts differ. What a shard sends is decided elsewhere.

mod dir;
mod message;
mod tcp;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use servelab_core::shard::{ClockOffset, Shard};

use crate::clock;

pub use message::{Message, read_message};

/// The start lies at least so far ahead.
const LEAD: Duration = Duration::from_millis(300);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Where to meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BarrierPlace {
    /// A folder on a file system that all shards see.
    Folder(PathBuf),
    /// Shard 0 listens there, the others connect. Host and port.
    Tcp(String),
}

impl FromStr for BarrierPlace {
    type Err = BarrierError;

    /// `tcp://HOST:PORT`, `tcp://:PORT` (127.0.0.1), or a folder.
    fn from_str(text: &str) -> Result<Self, BarrierError> {
        let Some(address) = text.strip_prefix("tcp://") else {
            return if text.is_empty() || text.contains("://") {
                Err(BarrierError::Place { text: text.to_owned() })
            } else {
                Ok(Self::Folder(PathBuf::from(text)))
            };
        };
        let place = || BarrierError::Place { text: text.to_owned() };
        let (host, port) = address.trim_end_matches('/').rsplit_once(':').ok_or_else(place)?;
        port.parse::<u16>().map_err(|_| place())?;
        // Nobody else's business unless somebody names another address.
        let host = if host.is_empty() { "127.0.0.1" } else { host };
        Ok(Self::Tcp(format!("{host}:{port}")))
    }
}

/// A host, as far as clocks are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostIdentity {
    /// Its name.
    pub name: String,
    /// The kernel's boot id: equal ids share CLOCK_MONOTONIC.
    pub boot_id: String,
}

impl HostIdentity {
    /// This host.
    pub fn here() -> Self {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { name, boot_id: boot_id.trim().to_owned() }
    }

    /// True when both share one CLOCK_MONOTONIC.
    fn shares_clock(&self, boot_id: &str) -> bool {
        !self.boot_id.is_empty() && self.boot_id == boot_id
    }
}

/// What a shard brings to the meeting.
#[derive(Debug, Clone)]
pub struct Meeting {
    /// Who it is.
    pub shard: Shard,
    /// What it was started for; must be equal for all.
    pub fingerprint: String,
    /// How long it waits for the others.
    pub patience: Duration,
    /// Secret that all must know (TCP only).
    pub token: Option<String>,
    /// Where it runs.
    pub host: HostIdentity,
    /// Added to this host's clock; for tests of clocks that differ.
    clock_shift_ns: i64,
}

impl Meeting {
    /// A meeting of this process.
    pub fn new(shard: Shard, fingerprint: String, patience: Duration, token: Option<String>) -> Self {
        Self { shard, fingerprint, patience, token, host: HostIdentity::here(), clock_shift_ns: 0 }
    }

    fn monotonic_ns(&self) -> i64 {
        clock::monotonic_ns().saturating_add(self.clock_shift_ns)
    }
}

/// What all agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// Names this load; the same for all shards, and no other load has it.
    pub run_id: String,
    /// The start on this host's CLOCK_MONOTONIC, nanoseconds.
    pub start_monotonic_ns: i64,
    /// This host's clock beside that of shard 0.
    pub offset: ClockOffset,
}

/// Why the shards did not meet.
#[derive(Debug, thiserror::Error)]
pub enum BarrierError {
    /// Neither a folder nor an address.
    #[error("`{text}` is no meeting place; give a folder, or tcp://HOST:PORT")]
    Place {
        /// As given.
        text: String,
    },
    /// Some did not come.
    #[error(
        "start: of {count}, {} not there after {waited_s:.0} s; are all of them running, with the same --barrier?",
        name_missing(missing)
    )]
    Missing {
        /// Those that did not come.
        missing: Vec<u32>,
        /// Of so many.
        count: u32,
        /// Seconds waited.
        waited_s: f64,
    },
    /// Shard 0 was not found.
    #[error("start: shard 0 was not reached at {place} for {waited_s:.0} s ({problem})")]
    NoFirst {
        /// Where it was looked for.
        place: String,
        /// Seconds waited.
        waited_s: f64,
        /// The last error.
        problem: String,
    },
    /// Shard 0 said no, or went away.
    #[error("start: shard 0 says: {words}")]
    Refused {
        /// Its words.
        words: String,
    },
    /// A shard does not belong here.
    #[error("start: shard {index} ({host}) {problem}")]
    Stranger {
        /// Who.
        index: u32,
        /// Its host.
        host: String,
        /// What is wrong.
        problem: String,
    },
    /// The start was known only after it.
    #[error(
        "start: this shard heard of the agreed start {late_ms:.0} ms too late; use a TCP barrier, or a faster file system"
    )]
    Late {
        /// By how much.
        late_ms: f64,
    },
    /// Files or sockets failed.
    #[error("start: {action} {place}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// On what.
        place: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// Somebody asked to end.
    #[error("start: interrupted while waiting for the other shards")]
    Cancelled,
}

fn name_missing(missing: &[u32]) -> String {
    let list = missing.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    if missing.len() == 1 { format!("shard {list} is") } else { format!("shards {list} are") }
}

/// Waits until all shards are there. Opening connections comes after it: a server closes those that are idle for long.
pub fn gather(place: &BarrierPlace, meeting: &Meeting, is_cancelled: &dyn Fn() -> bool) -> Result<(), BarrierError> {
    let place = match place {
        BarrierPlace::Folder(folder) => BarrierPlace::Folder(folder.join("gather")),
        place @ BarrierPlace::Tcp(_) => place.clone(),
    };
    let fingerprint = format!("gather {}", meeting.fingerprint);
    agree(&place, &Meeting { fingerprint, ..meeting.clone() }, is_cancelled).map(|_| ())
}

/// Waits until all shards are ready and returns what they agreed on. `is_cancelled` is looked at while waiting.
pub fn meet(place: &BarrierPlace, meeting: &Meeting, is_cancelled: &dyn Fn() -> bool) -> Result<Agreed, BarrierError> {
    let agreed = agree(place, meeting, is_cancelled)?;
    let late_ns = meeting.monotonic_ns().saturating_sub(agreed.start_monotonic_ns);
    if late_ns > 0 {
        return Err(BarrierError::Late { late_ms: late_ns as f64 / 1e6 });
    }
    Ok(agreed)
}

fn agree(place: &BarrierPlace, meeting: &Meeting, is_cancelled: &dyn Fn() -> bool) -> Result<Agreed, BarrierError> {
    let wait = Wait { until: Instant::now() + meeting.patience, patience: meeting.patience, is_cancelled };
    match place {
        BarrierPlace::Folder(folder) => dir::meet(folder, meeting, &wait),
        BarrierPlace::Tcp(address) => tcp::meet(address, meeting, &wait),
    }
}

/// A deadline that a person may cut short.
struct Wait<'a> {
    until: Instant,
    patience: Duration,
    is_cancelled: &'a dyn Fn() -> bool,
}

impl Wait<'_> {
    /// Pauses a little; false when the time is up.
    fn pause(&self) -> Result<bool, BarrierError> {
        if (self.is_cancelled)() {
            return Err(BarrierError::Cancelled);
        }
        if Instant::now() >= self.until {
            return Ok(false);
        }
        std::thread::sleep(LOOK);
        Ok(true)
    }

    fn waited_s(&self) -> f64 {
        self.patience.as_secs_f64()
    }
}

/// Nobody else's: 128 bits from the kernel, or the time and the process id where it has none.
fn nonce() -> String {
    use std::fmt::Write as _;
    use std::io::Read as _;
    let mut bytes = [0_u8; 16];
    let filled = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    if filled.is_err() {
        return format!("{:x}-{:x}", clock::new_epoch().epoch_unix_ns, std::process::id());
    }
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
