//! Shard 0 listens, the others connect. One thread per connection answers; the clocks of two hosts are compared by
//! ping-pong: the shortest of many round trips was delayed least, so half of it bounds the error (as NTP does, RFC 5905).

use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use servelab_core::shard::{ClockOffset, OffsetMethod, Shard, proof, same_proof};

use super::{Agreed, BarrierError, LEAD, Meeting, Message, Wait, nonce, read_message};

const VERSION: u32 = 1;
const PINGS: usize = 64;
/// A peer that says nothing for so long is gone, except while it waits for the start.
const SILENCE: Duration = Duration::from_secs(10);

pub(super) fn meet(address: &str, meeting: &Meeting, wait: &Wait<'_>) -> Result<Agreed, BarrierError> {
    if meeting.shard.index == 0 { listen(address, meeting, wait) } else { join(address, meeting, wait) }
}

fn system(action: &'static str, place: &str) -> impl Fn(io::Error) -> BarrierError {
    move |source| BarrierError::System { action, place: place.to_owned(), source }
}

/// What a connection's thread tells shard 0.
enum News {
    Ready { shard: Shard, round_trip_ns: i64, stream: TcpStream },
    Stranger { index: u32, host: String, problem: String },
}

fn listen(address: &str, meeting: &Meeting, wait: &Wait<'_>) -> Result<Agreed, BarrierError> {
    let listener = TcpListener::bind(address).map_err(system("listen on", address))?;
    listener.set_nonblocking(true).map_err(system("listen on", address))?;
    let count = meeting.shard.count;
    let (news_tx, news_rx) = mpsc::channel();
    let mut joined: Vec<Option<TcpStream>> = (1..count).map(|_| None).collect();
    let mut longest_ns = 0;
    std::thread::scope(|scope| {
        let outcome = loop {
            while let Ok((stream, _)) = listener.accept() {
                let news = news_tx.clone();
                let answer = move || answer(stream, meeting, &news);
                let spawned = std::thread::Builder::new().name("barrier".to_owned()).spawn_scoped(scope, answer);
                if let Err(source) = spawned {
                    return Err(system("start a thread for", address)(source));
                }
            }
            let mut stranger = None;
            for news in news_rx.try_iter() {
                match news {
                    News::Ready { shard, round_trip_ns, stream } => {
                        longest_ns = longest_ns.max(round_trip_ns);
                        // Whoever comes again replaces its earlier self, which has died.
                        if let Some(place) = joined.get_mut(shard.index as usize - 1) {
                            *place = Some(stream);
                        }
                    }
                    News::Stranger { index, host, problem } => stranger = Some((index, host, problem)),
                }
            }
            if let Some((index, host, problem)) = stranger {
                break Err(BarrierError::Stranger { index, host, problem });
            }
            if joined.iter().all(Option::is_some) {
                break Ok(());
            }
            match wait.pause() {
                Ok(true) => {}
                Ok(false) => {
                    let absent = joined.iter().zip(1..).filter(|(stream, _)| stream.is_none());
                    let missing = absent.map(|(_, index)| index).collect();
                    break Err(BarrierError::Missing { missing, count, waited_s: wait.waited_s() });
                }
                Err(error) => break Err(error),
            }
        };
        let lead_ns = i64::try_from(LEAD.as_nanos()).unwrap_or(0).saturating_add(4 * longest_ns);
        let start_monotonic_ns = meeting.monotonic_ns().saturating_add(lead_ns);
        let run_id = nonce();
        let message = match &outcome {
            Ok(()) => Message::Go { run_id: run_id.clone(), start_monotonic_ns },
            Err(error) => Message::Refused { words: error.to_string() },
        };
        let line = message.line().map_err(system("write to the shards from", address))?;
        for (stream, index) in joined.iter_mut().zip(1..) {
            let Some(stream) = stream else { continue };
            if let Err(source) = stream.write_all(&line)
                && outcome.is_ok()
            {
                let problem = format!("went away before the start ({source})");
                return Err(BarrierError::Stranger { index, host: "its host".to_owned(), problem });
            }
        }
        outcome?;
        let offset = ClockOffset { offset_ns: 0, uncertainty_ns: Some(0), method: OffsetMethod::SameHost };
        Ok(Agreed { run_id, start_monotonic_ns, offset })
    })
}

/// Shard 0's side of one connection, up to the point where both wait for the others.
fn answer(mut stream: TcpStream, meeting: &Meeting, news: &mpsc::Sender<News>) {
    // Whoever breaks off, or talks nonsense, is not one of ours; a shard that died comes again or is missed.
    let _ = welcome(&mut stream, meeting).map(|told| told.map(|told| news.send(told)));
}

fn welcome(stream: &mut TcpStream, meeting: &Meeting) -> io::Result<Option<News>> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE.min(meeting.patience)))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let nonce = nonce();
    stream.write_all(&Message::Greeting { version: VERSION, nonce: nonce.clone() }.line()?)?;
    let Message::Hello { shard, fingerprint, host, boot_id, proof: shown } = read_message(&mut reader)? else {
        return Ok(None);
    };
    let knows_token = meeting
        .token
        .as_ref()
        .is_none_or(|token| shown.as_deref().is_some_and(|shown| same_proof(shown, &proof(token, &nonce, shard))));
    if !knows_token {
        let words = "the token is wrong (SERVELAB_SHARD_TOKEN must be the same for all shards)".to_owned();
        stream.write_all(&Message::Refused { words }.line()?)?;
        return Ok(None);
    }
    let problem = if shard.count != meeting.shard.count {
        Some(format!("was started as {shard}, shard 0 as one of {}", meeting.shard.count))
    } else if Shard::new(shard.index, shard.count).is_none() || shard.index == 0 {
        Some(format!("was started as {shard}, as was this one"))
    } else if fingerprint != meeting.fingerprint {
        Some("was started with other arguments; all shards need the same load, prompts and seed".to_owned())
    } else {
        None
    };
    if let Some(problem) = problem {
        stream.write_all(&Message::Refused { words: format!("this shard {problem}") }.line()?)?;
        return Ok(Some(News::Stranger { index: shard.index, host, problem }));
    }
    stream.write_all(&Message::Welcome { boot_id: meeting.host.boot_id.clone() }.line()?)?;
    let _ = boot_id;
    loop {
        match read_message(&mut reader)? {
            Message::Ping {} => {
                let received_ns = meeting.monotonic_ns();
                stream.write_all(&Message::Pong { received_ns, sent_ns: meeting.monotonic_ns() }.line()?)?;
            }
            Message::Ready { round_trip_ns, .. } => {
                let stream = stream.try_clone()?;
                return Ok(Some(News::Ready { shard, round_trip_ns: round_trip_ns.clamp(0, 10_000_000_000), stream }));
            }
            _ => return Ok(None),
        }
    }
}

fn join(address: &str, meeting: &Meeting, wait: &Wait<'_>) -> Result<Agreed, BarrierError> {
    let mut problem;
    loop {
        match connect(address) {
            Ok(stream) => match converse(stream, meeting, wait) {
                Ok(agreed) => return agreed,
                Err(error) => problem = error.to_string(),
            },
            Err(error) => problem = error.to_string(),
        }
        if !wait.pause()? {
            return Err(BarrierError::NoFirst { place: address.to_owned(), waited_s: wait.waited_s(), problem });
        }
    }
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, Duration::from_secs(2)) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A shard's side of the connection. The outer error means: try again.
fn converse(mut stream: TcpStream, meeting: &Meeting, wait: &Wait<'_>) -> io::Result<Result<Agreed, BarrierError>> {
    let nonsense = || io::Error::new(io::ErrorKind::InvalidData, "something else than shard 0 answers there");
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let Message::Greeting { version, nonce } = read_message(&mut reader)? else { return Err(nonsense()) };
    if version != VERSION {
        let words = format!("protocol {version}; this is {VERSION}: all shards need the same version of servelab");
        return Ok(Err(BarrierError::Refused { words }));
    }
    let hello = Message::Hello {
        shard: meeting.shard,
        fingerprint: meeting.fingerprint.clone(),
        host: meeting.host.name.clone(),
        boot_id: meeting.host.boot_id.clone(),
        proof: meeting.token.as_ref().map(|token| proof(token, &nonce, meeting.shard)),
    };
    stream.write_all(&hello.line()?)?;
    let boot_id = match read_message(&mut reader)? {
        Message::Welcome { boot_id } => boot_id,
        Message::Refused { words } => return Ok(Err(BarrierError::Refused { words })),
        _ => return Err(nonsense()),
    };
    let (offset, round_trip_ns) = if meeting.host.shares_clock(&boot_id) {
        (ClockOffset { offset_ns: 0, uncertainty_ns: Some(0), method: OffsetMethod::SameHost }, 0)
    } else {
        compare_clocks(&mut stream, &mut reader, meeting)?
    };
    stream.write_all(&Message::Ready { offset, round_trip_ns }.line()?)?;
    // Shard 0 waits for the others as long as it likes; its own patience ends the wait.
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    loop {
        match read_message(&mut reader) {
            Ok(Message::Go { run_id, start_monotonic_ns }) => {
                let start_monotonic_ns = start_monotonic_ns.saturating_sub(offset.offset_ns);
                return Ok(Ok(Agreed { run_id, start_monotonic_ns, offset }));
            }
            Ok(Message::Refused { words }) => return Ok(Err(BarrierError::Refused { words })),
            Ok(_) => return Err(nonsense()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if (wait.is_cancelled)() {
                    return Ok(Err(BarrierError::Cancelled));
                }
                if Instant::now() > wait.until + wait.patience {
                    let words = "nothing for twice this shard's patience".to_owned();
                    return Ok(Err(BarrierError::Refused { words }));
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// This host's clock beside shard 0's, and the shortest round trip.
fn compare_clocks(
    stream: &mut TcpStream,
    reader: &mut BufReader<TcpStream>,
    meeting: &Meeting,
) -> io::Result<(ClockOffset, i64)> {
    let mut best: Option<(i64, i64)> = None;
    let line = Message::Ping {}.line()?;
    for _ in 0..PINGS {
        let asked_ns = meeting.monotonic_ns();
        stream.write_all(&line)?;
        let Message::Pong { received_ns, sent_ns } = read_message(reader)? else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no answer to a ping"));
        };
        let heard_ns = meeting.monotonic_ns();
        let round_trip = (heard_ns - asked_ns) - sent_ns.saturating_sub(received_ns);
        let there = received_ns.saturating_sub(asked_ns);
        let back = sent_ns.saturating_sub(heard_ns);
        let offset = there / 2 + back / 2;
        if best.is_none_or(|(shortest, _)| round_trip < shortest) {
            best = Some((round_trip, offset));
        }
    }
    let (round_trip, offset_ns) = best.unwrap_or_default();
    let round_trip = round_trip.max(0);
    Ok((
        ClockOffset { offset_ns, uncertainty_ns: Some(round_trip / 2 + 1), method: OffsetMethod::PingPong },
        round_trip,
    ))
}
