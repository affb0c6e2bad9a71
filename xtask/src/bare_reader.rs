//! The least that a client of event streams can do: wait, read, stamp, count bytes, send the next request. No parsing,
//! no records. Its CPU time per token event is the floor that the load engine is held against.

use std::error::Error;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use clap::Args;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::time::Timespec;
use serde::{Deserialize, Serialize};

use crate::system;

const EVENTS_PER_TURN: usize = 128;
const READ_BYTES: usize = 64 << 10;
/// Room for so many reads in the log; later ones are not logged.
const LOGGED_READS: usize = 4_000_000;
/// How every stream of the reference server ends.
const END: &[u8] = b"0\r\n\r\n";

/// What is read.
#[derive(Debug, Args)]
pub(crate) struct BareReaderArgs {
    /// A reference server; with several addresses the streams are dealt out
    #[arg(long, required = true, value_name = "ADDR")]
    address: Vec<SocketAddr>,
    /// Streams at a time
    #[arg(long, value_name = "N")]
    streams: usize,
    /// For how long
    #[arg(long, value_name = "S")]
    seconds: f64,
    /// Tokens of each request
    #[arg(long, default_value_t = 100)]
    tokens: u32,
    /// First requests are spread over this time
    #[arg(long, default_value_t = 2.0, value_name = "S")]
    spread_seconds: f64,
    /// Core that it stays on
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    /// Write stream and instant of every read here: pairs of little-endian i64
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

/// What it did, printed as one line of JSON.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct BareReport {
    /// The interval to which everything refers: from when all streams had begun to the end, absolute CLOCK_MONOTONIC.
    pub(crate) begin_ns: i64,
    pub(crate) end_ns: i64,
    /// CPU time of the reading thread.
    pub(crate) cpu_ns: i64,
    pub(crate) reads: u64,
    pub(crate) bytes: u64,
    /// Requests sent.
    pub(crate) requests: u64,
    /// Last stamp, so that stamping is not optimised away.
    pub(crate) last_stamp_ns: i64,
}

/// Reads and prints.
pub(crate) fn read(args: &BareReaderArgs) -> Result<(), Box<dyn Error>> {
    if let Some(core) = args.core {
        system::stay_on(core)?;
    }
    system::raise_descriptor_limit()?;
    let mut reads = Vec::with_capacity(if args.log.is_some() { LOGGED_READS } else { 0 });
    let report = run(args, &mut reads)?;
    if let Some(path) = &args.log {
        fs::write(
            path,
            reads
                .iter()
                .flat_map(|(stream, at_ns)| [*stream as i64, *at_ns])
                .flat_map(i64::to_le_bytes)
                .collect::<Vec<u8>>(),
        )?;
    }
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// The reads in a file that [`read`] wrote: stream, instant.
pub(crate) fn read_log(path: &Path) -> Result<Vec<(u64, i64)>, Box<dyn Error>> {
    let bytes = fs::read(path)?;
    let (words, _) = bytes.as_chunks::<8>();
    let (pairs, _) = words.as_chunks::<2>();
    Ok(pairs.iter().map(|[stream, at_ns]| (u64::from_le_bytes(*stream), i64::from_le_bytes(*at_ns))).collect())
}

/// Reads go into `reads` while there is room.
fn run(args: &BareReaderArgs, reads: &mut Vec<(u64, i64)>) -> Result<BareReport, Box<dyn Error>> {
    let request = request(args.tokens);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut sockets = Vec::with_capacity(args.streams);
    for (position, address) in (0..args.streams).zip(args.address.iter().cycle()) {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        epoll::add(&epoll, &socket, EventData::new_u64(position as u64), EventFlags::IN)?;
        sockets.push(socket);
    }
    let start_ns = system::now_ns();
    let spread_ns = args.spread_seconds * 1e9 / args.streams.max(1) as f64;
    let begin_ns = start_ns + (args.spread_seconds * 1e9) as i64;
    let end_ns = begin_ns + (args.seconds * 1e9) as i64;
    let mut report = BareReport::default();
    let mut cpu_at_begin_ns = None;
    let mut n_started = 0;
    let mut events = Vec::with_capacity(EVENTS_PER_TURN);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let now = system::now_ns();
        if now >= end_ns {
            break;
        }
        while n_started < sockets.len() && start_ns + (n_started as f64 * spread_ns) as i64 <= now {
            if let Some(socket) = sockets.get_mut(n_started) {
                socket.write_all(&request)?;
            }
            n_started += 1;
        }
        if cpu_at_begin_ns.is_none() && now >= begin_ns {
            cpu_at_begin_ns = Some(system::thread_cpu_ns());
            report = BareReport { begin_ns: now, ..BareReport::default() };
        }
        let timeout = Timespec { tv_sec: 0, tv_nsec: if n_started < sockets.len() { 1_000_000 } else { 20_000_000 } };
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(format!("wait for streams: {errno}").into()),
        }
        for event in events.drain(..) {
            let stream = event.data.u64();
            let Some(socket) = usize::try_from(stream).ok().and_then(|position| sockets.get_mut(position)) else {
                continue;
            };
            let length = match socket.read(&mut buffer) {
                Ok(0) => return Err("the server closed a connection".into()),
                Ok(length) => length,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
                Err(error) => return Err(format!("read a stream: {error}").into()),
            };
            report.last_stamp_ns = system::now_ns();
            if reads.len() < reads.capacity() {
                reads.push((stream, report.last_stamp_ns));
            }
            report.reads += 1;
            report.bytes += length as u64;
            if buffer.get(..length).is_some_and(|bytes| bytes.ends_with(END)) {
                report.requests += 1;
                socket.write_all(&request)?;
            }
        }
    }
    report.cpu_ns = system::thread_cpu_ns() - cpu_at_begin_ns.unwrap_or(0);
    report.end_ns = system::now_ns();
    Ok(report)
}

fn request(tokens: u32) -> Vec<u8> {
    let body = format!(
        r#"{{"model":"reference","prompt":"hello","max_tokens":{tokens},"stream":true,"stream_options":{{"include_usage":true}}}}"#
    );
    format!(
        "POST /v1/completions HTTP/1.1\r\nhost: reference\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use servelab_load::reference::{ReferenceConfig, ReferenceServer, Script};

    use super::*;

    #[test]
    fn what_it_reads_is_what_the_server_wrote() {
        let script = Script { first_ns: 2_000_000, gap_ns: 1_000_000, ..Script::default() };
        let server = ReferenceServer::start(ReferenceConfig { script, ..ReferenceConfig::default() }).unwrap();
        let args = BareReaderArgs {
            address: vec![server.address()],
            streams: 5,
            seconds: 1.0,
            tokens: 10,
            spread_seconds: 0.02,
            core: None,
            log: None,
        };
        let mut reads = Vec::with_capacity(1_000);
        let report = run(&args, &mut reads).unwrap();
        let log = server.stop().unwrap();
        assert!(reads.iter().all(|(stream, at_ns)| *stream < 5 && *at_ns <= report.end_ns) && !reads.is_empty());
        // On a busy machine several events come in one read, so nothing is said about their number.
        assert!(
            report.requests > 0 && report.reads >= report.requests && report.bytes > report.requests * 1_000,
            "{report:?}"
        );
        assert!(report.cpu_ns > 0 && report.end_ns > report.begin_ns);
        assert!(log.requests.len() as u64 >= report.requests);
    }
}
