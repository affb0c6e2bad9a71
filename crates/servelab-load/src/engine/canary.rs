//! The canary: a small server inside this process writes lines at instants that it stamps itself, and one load thread
//! reads them in the same loop, in the same order, with the same stamps as everybody's tokens. Their difference is the
//! client's own error. Whether it is small enough is decided in `servelab_core::verdict`.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::net::{SendFlags, send};
use servelab_core::record::ClockEpoch;

use crate::clock;
use crate::spec::CanaryErrors;

/// Lines per request.
const LINES: u32 = 20;
/// Time to the first line and between lines: primes, so that they do not fall in step with anything.
const FIRST_NS: i64 = 23_000_000;
const GAP_NS: i64 = 13_000_000;
/// Between two requests.
const PAUSE_NS: i64 = 50_000_000;
/// Samples kept; above, every other one is dropped and requests become half as frequent.
const MOST_SAMPLES: usize = 200_000;

/// The client's end.
#[derive(Debug)]
pub(crate) struct Canary {
    pub(crate) fd: OwnedFd,
    line: Vec<u8>,
    sent_ns: Option<i64>,
    last: Option<Line>,
    lines: u32,
    next_ns: i64,
    pause_ns: i64,
    errors: CanaryErrors,
}

#[derive(Debug, Clone, Copy)]
struct Line {
    seen_ns: i64,
    written_ns: i64,
}

/// Starts the server; it ends when the client's end is dropped.
pub(crate) fn start(epoch: ClockEpoch) -> std::io::Result<Canary> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::Builder::new().name("canary".to_owned()).spawn(move || {
        if let Ok((stream, _)) = listener.accept() {
            // The client leaves when it has seen enough.
            let _ = serve(stream, epoch);
        }
    })?;
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(Canary {
        fd: stream.into(),
        line: Vec::new(),
        sent_ns: None,
        last: None,
        lines: 0,
        next_ns: i64::MIN,
        pause_ns: PAUSE_NS,
        errors: CanaryErrors::default(),
    })
}

fn serve(mut stream: TcpStream, epoch: ClockEpoch) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut requests = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    while requests.read_line(&mut request)? > 0 {
        request.clear();
        let read_ns = clock::now_ns(epoch);
        for line in 0..i64::from(LINES) {
            let wait_ns = read_ns + FIRST_NS + line * GAP_NS - clock::now_ns(epoch);
            thread::sleep(Duration::from_nanos(u64::try_from(wait_ns).unwrap_or(0)));
            let mut text = Vec::with_capacity(48);
            writeln!(text, "{read_ns} {}", clock::now_ns(epoch))?;
            stream.write_all(&text)?;
        }
    }
    Ok(())
}

impl Canary {
    /// When [`Canary::act`] has something to do.
    pub(crate) fn due_ns(&self) -> i64 {
        if self.sent_ns.is_some() { i64::MAX } else { self.next_ns }
    }

    /// Sends the next request when it is due.
    pub(crate) fn act(&mut self, now_ns: i64, epoch: ClockEpoch) {
        if now_ns < self.due_ns() {
            return;
        }
        let sent_ns = clock::now_ns(epoch);
        if send(&self.fd, b"GO\n", SendFlags::NOSIGNAL).is_ok() {
            self.sent_ns = Some(sent_ns);
            self.lines = 0;
            self.last = None;
        } else {
            self.next_ns = now_ns + self.pause_ns;
        }
    }

    /// Takes the bytes of a read that returned at `seen_ns`.
    pub(crate) fn on_bytes(&mut self, seen_ns: i64, bytes: &[u8]) {
        for byte in bytes {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.on_line(seen_ns, &line);
            } else {
                self.line.push(*byte);
            }
        }
    }

    fn on_line(&mut self, seen_ns: i64, line: &[u8]) {
        let text = std::str::from_utf8(line).unwrap_or_default();
        let mut numbers = text.split(' ').map(str::parse::<i64>);
        let (Some(Ok(read_ns)), Some(Ok(written_ns)), Some(sent_ns)) = (numbers.next(), numbers.next(), self.sent_ns)
        else {
            return;
        };
        self.errors.receive_ns.push(seen_ns - written_ns);
        match self.last {
            None => self.errors.ttft_ns.push((seen_ns - sent_ns) - (written_ns - read_ns)),
            Some(last) => self.errors.itl_ns.push((seen_ns - last.seen_ns) - (written_ns - last.written_ns)),
        }
        self.last = Some(Line { seen_ns, written_ns });
        self.lines += 1;
        if self.lines == LINES {
            self.sent_ns = None;
            self.next_ns = seen_ns + self.pause_ns;
            self.thin_out();
        }
    }

    fn thin_out(&mut self) {
        let CanaryErrors { ttft_ns, itl_ns, receive_ns } = &mut self.errors;
        if receive_ns.len() <= MOST_SAMPLES {
            return;
        }
        self.pause_ns = self.pause_ns.saturating_mul(2) + i64::from(LINES) * GAP_NS;
        for samples in [ttft_ns, itl_ns, receive_ns] {
            let mut keep = false;
            samples.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }

    /// What was seen.
    pub(crate) fn into_errors(self) -> CanaryErrors {
        self.errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_differences_to_the_servers_own_stamps() {
        let mut canary = start(clock::new_epoch()).unwrap();
        canary.sent_ns = Some(1_000);
        // Read at 1,100, first line written at 5,000, second at 9,000; both lines seen in reads split anywhere.
        canary.on_bytes(5_060, b"1100 50");
        canary.on_bytes(5_070, b"00\n1100 9");
        canary.on_bytes(9_200, b"000\nnonsense\n");
        let CanaryErrors { ttft_ns, itl_ns, receive_ns } = canary.into_errors();
        assert_eq!(ttft_ns, [(5_070 - 1_000) - (5_000 - 1_100)]);
        assert_eq!(itl_ns, [(9_200 - 5_070) - (9_000 - 5_000)]);
        assert_eq!(receive_ns, [70, 200]);
    }

    #[test]
    fn samples_are_bounded() {
        let mut canary = start(clock::new_epoch()).unwrap();
        canary.errors.receive_ns = (0..=MOST_SAMPLES as i64).collect();
        canary.thin_out();
        assert_eq!(canary.errors.receive_ns.len(), MOST_SAMPLES / 2 + 1);
        assert!(canary.pause_ns > PAUSE_NS);
    }
}
