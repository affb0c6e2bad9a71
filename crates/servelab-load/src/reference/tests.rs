//! The server against a plain blocking client that shares no code with it either: what the client sees is what the log
//! says, for good answers and for each fault.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;

/// Longest wait for anything in these tests.
const PATIENCE: Duration = Duration::from_secs(20);

fn clock_ns() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

fn start(script: Script) -> ReferenceServer {
    ReferenceServer::start(ReferenceConfig { script, ..ReferenceConfig::default() }).unwrap()
}

fn quick() -> Script {
    Script { first_ns: 5_000_000, gap_ns: 2_000_000, jitter: 0.1, tokens: 6, ..Script::default() }
}

fn request(path: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn stream_body() -> Value {
    json!({"model": "x", "prompt": "hello", "stream": true, "stream_options": {"include_usage": true}})
}

/// One connection that reads byte runs and remembers when each came.
struct Client {
    socket: TcpStream,
    seen: Vec<u8>,
    /// Length of `seen` after each read, and when that read returned.
    reads: Vec<(usize, i64)>,
}

/// How reading ended.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Whole,
    Closed,
    Reset,
}

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, seen: Vec::new(), reads: Vec::new() }
    }

    fn send(&mut self, bytes: &[u8]) -> i64 {
        self.seen.clear();
        self.reads.clear();
        let before_ns = clock_ns();
        self.socket.write_all(bytes).unwrap();
        before_ns
    }

    fn read_until(&mut self, end: &str) -> Outcome {
        let mut buffer = [0; 65_536];
        while !self.seen.ends_with(end.as_bytes()) {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Outcome::Closed,
                Ok(n) => {
                    self.seen.extend_from_slice(&buffer[..n]);
                    self.reads.push((self.seen.len(), clock_ns()));
                }
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Outcome::Reset,
                Err(error) => panic!("{error}; so far {}", self.text()),
            }
        }
        Outcome::Whole
    }

    fn read_stream(&mut self) -> Outcome {
        self.read_until("\r\n0\r\n\r\n")
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// For each piece of JSON in the stream, when its last byte had been read.
    fn events(&self) -> Vec<(Value, i64)> {
        let text = self.text();
        let mut events = Vec::new();
        for (at, _) in text.match_indices("data: {") {
            let end = at + text[at..].find("\n\n").map_or(text.len() - at, |end| end + 2);
            let read_ns = self.reads.iter().find(|(length, _)| *length >= end).unwrap().1;
            if let Ok(event) = serde_json::from_str(text[at + 6..end].trim_end()) {
                events.push((event, read_ns));
            }
        }
        events
    }

    fn tokens(&self) -> Vec<i64> {
        let tokens = self.events().into_iter().filter(|(event, _)| {
            let choice = &event["choices"][0];
            [&choice["text"], &choice["delta"]["content"]]
                .iter()
                .any(|text| text.as_str().is_some_and(|t| !t.is_empty()))
        });
        tokens.map(|(_, read_ns)| read_ns).collect()
    }
}

#[test]
fn a_blocking_client_sees_what_the_log_says() {
    for (path, role_chunk) in [
        ("/v1/completions", RoleChunk::WithFirstToken),
        ("/v1/chat/completions", RoleChunk::WithFirstToken),
        ("/v1/chat/completions", RoleChunk::WithHead),
    ] {
        let script = Script { role_chunk, ..quick() };
        let server = start(script.clone());
        let mut client = Client::connect(server.address());
        for number in 0..3 {
            let before_ns = client.send(&request(path, &stream_body()));
            assert_eq!(client.read_stream(), Outcome::Whole);
            let received = client.tokens();
            let log = server.take_log().unwrap();
            let [stamp] = log.requests[..] else { panic!("{:?}", log.requests) };
            assert_eq!((stamp.number, stamp.connection, stamp.end), (number, 0, RequestEnd::Complete));
            assert_eq!((stamp.tokens, stamp.tokens_written), (6, 6));
            for (event, _) in client.events() {
                assert_eq!(request_number(event["id"].as_str().unwrap()), Some(number));
            }
            assert!(stamp.read_ns > before_ns && stamp.head_ns >= stamp.read_ns);
            let events = log.events_by_request().pop().unwrap();
            assert_eq!((events.len(), received.len()), (6, 6));
            let due = script.due_offsets_ns(number, 6);
            for ((event, received_ns), due_ns) in events.iter().zip(&received).zip(due) {
                assert!(event.before_ns >= stamp.read_ns + due_ns, "an event was early");
                assert!(
                    event.before_ns <= *received_ns && event.before_ns <= event.after_ns,
                    "seen before it was written"
                );
            }
            let late: Vec<u32> = log.writes.iter().map(|write| write.late_ns).collect();
            let by_offset: Vec<i64> = events.iter().map(|event| event.before_ns - stamp.read_ns).collect();
            let due = script.due_offsets_ns(number, 6);
            assert!(by_offset.iter().zip(due).zip(late).all(|((at, due), late)| at - due == i64::from(late)));
            assert!(stamp.end_ns >= events[5].before_ns);
        }
    }
}

#[test]
fn groups_and_usage() {
    let server = start(Script { tokens_per_event: 2, events_per_write: 3, ..quick() });
    let mut client = Client::connect(server.address());
    let mut body = stream_body();
    body["max_tokens"] = json!(11);
    body["return_token_ids"] = json!(true);
    client.send(&request("/v1/completions", &body));
    assert_eq!(client.read_stream(), Outcome::Whole);
    let log = server.stop().unwrap();
    // Six events: the first alone, three together, two left.
    assert_eq!(log.writes.iter().map(|write| write.n_events).collect::<Vec<_>>(), [1, 3, 2]);
    assert_eq!(log.n_events(), 6);
    let events = client.events();
    let ids: usize =
        events.iter().filter_map(|(event, _)| event["choices"][0]["token_ids"].as_array()).map(Vec::len).sum();
    assert_eq!(ids, 11);
    assert_eq!(events.last().unwrap().0["usage"]["completion_tokens"], 11);
}

#[test]
fn pages_and_whole_answers_on_one_connection() {
    let server = start(quick());
    let mut client = Client::connect(server.address());
    for (bytes, expected) in [
        (b"GET /health HTTP/1.1\r\n\r\n".to_vec(), "HTTP/1.1 200 OK"),
        (b"GET /v1/models HTTP/1.1\r\n\r\n".to_vec(), "\"reference\""),
        (b"GET /other HTTP/1.1\r\n\r\n".to_vec(), "HTTP/1.1 404 Not Found"),
        (request("/v1/completions", &json!({"max_tokens": "many"})), "HTTP/1.1 400 Bad Request"),
        (request("/v1/completions", &json!({"prompt": "x", "max_tokens": 3})), "\"text\":\" tok tok tok\""),
        (request("/v1/chat/completions", &json!({"max_tokens": 1})), "\"content\":\" tok\""),
    ] {
        client.send(&bytes);
        let deadline = Instant::now() + PATIENCE;
        let mut buffer = [0; 4096];
        while !client.text().contains(expected) {
            assert!(Instant::now() < deadline);
            let n = client.socket.read(&mut buffer).unwrap();
            assert!(n > 0, "closed before `{expected}`: {}", client.text());
            client.seen.extend_from_slice(&buffer[..n]);
        }
        // Heads and bodies are written in one call each and are far smaller than the buffer.
    }
    let log = server.stop().unwrap();
    assert_eq!(log.requests.len(), 2, "only generation counts");
    let script = quick();
    assert!(log.requests[0].end_ns - log.requests[0].read_ns >= script.due_offsets_ns(0, 3)[2]);
}

#[test]
fn requests_in_one_write_are_answered_in_order() {
    let server = start(quick());
    let mut client = Client::connect(server.address());
    let mut bytes = request("/v1/completions", &stream_body());
    bytes.extend(request("/v1/completions", &stream_body()));
    bytes.extend(b"GET /health HTTP/1.1\r\nconnection: close\r\n\r\n");
    client.send(&bytes);
    assert_eq!(client.read_until("never"), Outcome::Closed);
    let numbers: Vec<Option<u32>> =
        client.events().iter().map(|(event, _)| request_number(event["id"].as_str().unwrap())).collect();
    assert_eq!(numbers, [[Some(0); 7], [Some(1); 7]].concat());
    assert!(client.text().ends_with("content-length: 0\r\n\r\n"));
    assert_eq!(server.stop().unwrap().requests.len(), 2);
}

#[test]
fn faults() {
    let check = |fault: &str, outcome: Outcome, tokens: usize, contains: &str| {
        let server = start(Script { faults: vec![format!("{fault}:2+1").parse().unwrap()], ..quick() });
        let mut client = Client::connect(server.address());
        client.send(&request("/v1/completions", &stream_body()));
        assert_eq!(client.read_stream(), Outcome::Whole, "the first request is not hit");
        client.send(&request("/v1/completions", &stream_body()));
        let end = if contains.is_empty() { "\r\n0\r\n\r\n" } else { contains };
        assert_eq!(client.read_until(end), outcome, "{fault}: {}", client.text());
        assert_eq!(client.tokens().len(), tokens, "{fault}: {}", client.text());
        let log = server.stop().unwrap();
        assert_eq!(log.requests.len(), 2, "{fault}");
        let stamp = log.requests.iter().find(|request| request.number == 1).unwrap();
        assert_eq!(stamp.end, RequestEnd::Fault, "{fault}");
        assert_eq!(log.writes.iter().filter(|write| write.request == 1).count(), tokens, "{fault}");
        client
    };
    check("reset@2", Outcome::Reset, 2, "");
    check("truncate@4", Outcome::Closed, 4, "");
    check("truncate", Outcome::Closed, 3, "");
    let client = check("in_band_error@1", Outcome::Whole, 1, "");
    assert!(client.text().contains("data: {\"error\":{") && client.text().contains("[DONE]"));
    let client = check("no_done", Outcome::Whole, 6, "");
    assert!(!client.text().contains("[DONE]") && !client.text().contains("usage"));
    let client = check("zero_tokens", Outcome::Whole, 0, "");
    assert!(client.text().contains("\"completion_tokens\":0") && client.text().contains("[DONE]"));
    let client = check("bad_chunk@3", Outcome::Closed, 3, "never");
    assert!(client.text().ends_with("zz\r\ndata: {}\n\n\r\n"));
    check("http_503", Outcome::Whole, 0, "\"code\":503}}");
    let client = check("early_stop@4", Outcome::Whole, 4, "");
    assert!(client.text().contains("\"finish_reason\":\"stop\"") && client.text().contains("\"completion_tokens\":4"));
}

#[test]
fn a_broken_event_is_followed_by_good_ones() {
    let server = start(quick());
    let mut client = Client::connect(server.address());
    let mut body = stream_body();
    body["reference"] = json!({"fault": "bad_event@2"});
    client.send(&request("/v1/completions", &body));
    assert_eq!(client.read_stream(), Outcome::Whole);
    assert_eq!(client.text().matches("data: {").count(), 8, "six tokens, the broken one, usage");
    assert_eq!(client.events().len(), 7);
}

#[test]
fn a_slow_head_stops_in_the_middle() {
    let server = start(quick());
    let mut client = Client::connect(server.address());
    let mut body = stream_body();
    body["reference"] = json!({"fault": "slow_header", "first_ms": 30});
    client.send(&request("/v1/completions", &body));
    assert_eq!(client.read_stream(), Outcome::Whole);
    assert_eq!(client.reads[0].0, 9, "{:?}", client.reads);
    assert!(client.reads[1].1 - client.reads[0].1 > 20_000_000);
    assert_eq!(client.tokens().len(), 6);
}

#[test]
fn silence_and_hanging_last_until_the_client_goes() {
    for (fault, tokens) in [("silence", 0), ("hang@2", 2)] {
        let server = start(quick());
        let mut client = Client::connect(server.address());
        let mut body = stream_body();
        body["reference"] = json!({"fault": fault, "gap_ms": 0});
        client.send(&request("/v1/completions", &body));
        if tokens > 0 {
            while client.tokens().len() < tokens {
                let mut buffer = [0; 4096];
                let n = client.socket.read(&mut buffer).unwrap();
                client.seen.extend_from_slice(&buffer[..n]);
                client.reads.push((client.seen.len(), clock_ns()));
            }
        }
        client.socket.set_read_timeout(Some(Duration::from_millis(30))).unwrap();
        let nothing = client.socket.read(&mut [0; 1]).unwrap_err();
        assert!(matches!(nothing.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{fault}");
        drop(client);
        let deadline = Instant::now() + PATIENCE;
        let mut log = server.take_log().unwrap();
        while log.requests.is_empty() && Instant::now() < deadline {
            log.append(server.take_log().unwrap());
        }
        assert_eq!(log.requests[0].end, RequestEnd::ClientClosed, "{fault}");
        assert_eq!(log.requests[0].tokens_written as usize, tokens);
    }
}

#[test]
fn a_stall_shifts_everything() {
    const STALL_NS: i64 = 150_000_000;
    let stall = Stall { after_ns: 10_000_000, length_ns: STALL_NS };
    let script = Script { stalls: vec![stall], jitter: 0.0, ..quick() };
    let server = start(script.clone());
    let mut client = Client::connect(server.address());
    client.send(&request("/v1/completions", &stream_body()));
    assert_eq!(client.read_stream(), Outcome::Whole);
    let log = server.stop().unwrap();
    let [(begin, end)] = log.stalls[..] else { panic!("{:?}", log.stalls) };
    assert!(end - begin >= STALL_NS);
    let read_ns = log.requests[0].read_ns;
    let events = log.events_by_request().pop().unwrap();
    for (event, due) in events.iter().zip(script.due_offsets_ns(0, 6)) {
        assert!(event.before_ns < begin || event.before_ns >= end, "written while it stood still");
        let shift = if event.before_ns < begin { 0 } else { end - begin };
        assert!(event.before_ns >= read_ns + due + shift);
    }
    assert!(events.last().unwrap().before_ns >= end, "the script ended too early to show anything");
}

#[test]
fn a_slow_reader_is_marked() {
    let server =
        start(Script { first_ns: 0, gap_ns: 0, tokens_per_event: 1000, events_per_write: 50, ..Script::default() });
    let mut client = Client::connect(server.address());
    let mut body = stream_body();
    body["max_tokens"] = json!(10_000_000);
    client.send(&request("/v1/completions", &body));
    // Reads nothing until the server has found the socket full.
    let deadline = Instant::now() + PATIENCE;
    let mut log = server.take_log().unwrap();
    while !log.writes.iter().any(|write| write.is_partial) {
        assert!(Instant::now() < deadline, "{} writes", log.writes.len());
        log.append(server.take_log().unwrap());
    }
    assert_eq!(client.read_stream(), Outcome::Whole);
    log.append(server.stop().unwrap());
    assert_eq!(log.n_events(), 10_000);
    assert_eq!(client.text().matches("data: {").count(), 10_001);
}

#[test]
fn logs_are_handed_over_in_parts_that_join() {
    let server = start(quick());
    let mut client = Client::connect(server.address());
    client.send(&request("/v1/completions", &stream_body()));
    let mut log = ReferenceLog::default();
    let deadline = Instant::now() + PATIENCE;
    while log.requests.is_empty() && Instant::now() < deadline {
        log.append(server.take_log().unwrap());
    }
    log.append(server.stop().unwrap());
    assert_eq!((log.requests.len(), log.n_events(), log.dropped_writes), (1, 6, 0));
    assert!(log.cpu_ns > 0);
}

#[test]
fn a_stopped_server_says_what_was_running() {
    let server = start(quick());
    let mut client = Client::connect(server.address());
    client.send(&request("/v1/completions", &json!({"stream": true, "reference": {"first_ms": 60_000}})));
    assert_eq!(client.read_until("\r\n\r\n"), Outcome::Whole);
    let log = server.stop().unwrap();
    assert_eq!(log.requests[0].end, RequestEnd::Stopped);
    assert_eq!(client.read_until("never"), Outcome::Closed);
}

#[test]
fn several_addresses_and_what_cannot_be() {
    let local = |last| SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
    let server = ReferenceServer::start(ReferenceConfig {
        listen: vec![local(1), local(2)],
        spin: Spin::Near,
        ..ReferenceConfig::default()
    })
    .unwrap();
    assert_eq!(server.addresses().len(), 2);
    for address in server.addresses() {
        let mut client = Client::connect(*address);
        client.send(b"GET /health HTTP/1.1\r\n\r\n");
        assert_eq!(client.read_until("\r\n\r\n"), Outcome::Whole);
    }
    let taken = ReferenceConfig { listen: vec![server.address()], ..ReferenceConfig::default() };
    let message = ReferenceServer::start(taken).err().unwrap().to_string();
    assert!(message.contains(&server.address().to_string()), "{message}");
    let nowhere = ReferenceConfig { core: Some(1023), ..ReferenceConfig::default() };
    assert!(matches!(ReferenceServer::start(nowhere), Err(ReferenceError::System { .. })));
    let deaf = ReferenceConfig { listen: Vec::new(), ..ReferenceConfig::default() };
    assert!(matches!(ReferenceServer::start(deaf), Err(ReferenceError::NoAddress)));
}
