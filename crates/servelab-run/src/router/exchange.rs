//! One leg: a request goes to a server and the answer is collected or streamed through as it comes, while the client is
//! watched. When the client leaves, the connection to the server is closed, which is how engines learn of it.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use servelab_load::clock::monotonic_ns;
use servelab_load::http1::ResponseParser;

use super::legs::Leg;
use super::pool::Picked;

const READ_BYTES: usize = 64 << 10;

/// What happens with the answer.
#[derive(Debug)]
pub(super) enum Sink<'a> {
    /// Its body is collected.
    Collect(&'a mut Vec<u8>),
    /// Its bytes go to the client as they are, framing included.
    Stream,
}

/// How a leg ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// With a whole answer. False: its end was the end of the connection, and so the client must see one.
    Complete { is_framed: bool },
    /// No connection.
    Refused(io::Error),
    /// The connection ended or broke before the answer did.
    Died(String),
    /// Nothing came for so long.
    TimedOut,
    /// The client left.
    ClientGone,
}

/// Sends `request` and handles the answer.
pub(super) fn exchange(
    picked: &Picked<'_>,
    request: &[u8],
    client: &mut TcpStream,
    silence: Duration,
    mut sink: Sink<'_>,
) -> (Leg, Ended) {
    let server = picked.server;
    let mut leg = Leg { server: picked.index, t_send_ns: monotonic_ns(), ..Leg::default() };
    let mut is_second = false;
    let ended = loop {
        let opened = if is_second { server.connect().map(|stream| (stream, false)) } else { server.connection() };
        let (mut stream, was_used) = match opened {
            Ok(opened) => opened,
            Err(error) => break Ended::Refused(error),
        };
        let written = stream.write_all(request);
        leg.t_send_ns = monotonic_ns();
        let ended = match written {
            Ok(()) => answer(&mut stream, client, silence, &mut sink, &mut leg),
            Err(error) => Ended::Died(format!("it closed the connection while the request was written: {error}")),
        };
        // A kept connection may have been closed from the other side just now; nothing was answered on it, so the
        // request was not taken.
        if was_used && !is_second && leg.t_head_ns.is_none() && matches!(ended, Ended::Died(_)) {
            is_second = true;
            continue;
        }
        if let Ended::Complete { is_framed: true } = ended {
            server.keep(stream);
        }
        break ended;
    };
    leg.t_end_ns = monotonic_ns();
    let busy_ns = u64::try_from(leg.t_end_ns - leg.t_send_ns).unwrap_or(0);
    server.busy_ns.fetch_add(busy_ns, std::sync::atomic::Ordering::Relaxed);
    if !matches!(ended, Ended::Complete { .. } | Ended::ClientGone) {
        server.n_failed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    (leg, ended)
}

fn answer(
    stream: &mut TcpStream,
    client: &mut TcpStream,
    silence: Duration,
    sink: &mut Sink<'_>,
    leg: &mut Leg,
) -> Ended {
    let mut parser = ResponseParser::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut deadline = Instant::now() + silence;
    loop {
        match wait(stream, client, deadline) {
            Ok(Ready::Server) => {}
            Ok(Ready::ClientGone) => return Ended::ClientGone,
            Ok(Ready::Nobody) => return Ended::TimedOut,
            Err(error) => return Ended::Died(error.to_string()),
        }
        let n = match stream.read(&mut buffer) {
            Ok(0) => {
                return match parser.finish() {
                    Ok(()) => Ended::Complete { is_framed: false },
                    Err(_) if leg.t_head_ns.is_none() => Ended::Died("it closed the connection unanswered".to_owned()),
                    Err(_) => Ended::Died("it closed the connection inside its answer".to_owned()),
                };
            }
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Ended::Died(error.to_string()),
        };
        let now = monotonic_ns();
        deadline = Instant::now() + silence;
        leg.t_head_ns.get_or_insert(now);
        let bytes = buffer.get(..n).unwrap_or_default();
        let fed = parser.feed(bytes, |_, body| {
            leg.t_body_ns.get_or_insert(now);
            leg.bytes += body.len() as u64;
            if let Sink::Collect(collected) = &mut *sink {
                collected.extend_from_slice(body);
            }
        });
        leg.status = parser.head().map(|head| head.status);
        let used = match fed {
            Ok(used) => used,
            Err(error) => return Ended::Died(format!("its answer cannot be read: {error}")),
        };
        if matches!(sink, Sink::Stream) && client.write_all(bytes.get(..used).unwrap_or_default()).is_err() {
            return Ended::ClientGone;
        }
        if parser.is_complete() {
            // A server that closes has said so to the client as well.
            let is_framed = used == n && parser.head().is_some_and(|head| head.is_keep_alive);
            return Ended::Complete { is_framed };
        }
    }
}

enum Ready {
    Server,
    ClientGone,
    Nobody,
}

/// Waits for the server's bytes or the client's end.
fn wait(server: &TcpStream, client: &TcpStream, deadline: Instant) -> io::Result<Ready> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Ready::Nobody);
        }
        // Of the client only its end matters now: what it sends meanwhile is its next request.
        let mut fds = [
            PollFd::from_borrowed_fd(server.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(client.as_fd(), PollFlags::RDHUP),
        ];
        let timeout = Timespec { tv_sec: left.as_secs().min(1 << 20) as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let [server, client] = fds.map(|fd| fd.revents());
        if client.intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            return Ok(Ready::ClientGone);
        }
        if !server.is_empty() {
            return Ok(Ready::Server);
        }
    }
}
