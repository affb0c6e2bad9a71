//! Answers that no server should send and some do: one table, each read whole, byte by byte and cut at every place, always
//! with the same outcome; and the limits that keep a broken server from eating the client's memory.

use proptest::prelude::*;
use servelab_core::record::Phase;

use super::tests::{Seen, code, read};
use super::*;
use crate::codes;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
const A: &str = r#"{"choices":[{"index":0,"text":"ä😀"}]}"#;

fn chunked(body: &str) -> String {
    format!("{OK}transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}

/// What must not depend on the chunking.
fn outcome(seen: &Seen) -> (Option<String>, Option<i64>, usize, Option<String>, Option<String>) {
    let tokens = seen.events.iter().map(|(_, n)| *n as usize).sum();
    let record = &seen.record;
    let finish = record.finish_reason.clone();
    (record.failure_code.clone(), record.output_tokens, tokens, finish, seen.conclusion.text.clone())
}

#[track_caller]
fn check(wire: &[u8], failure: Option<&str>, tokens: usize) {
    let expect = Expectation::default();
    let whole = read(&[wire], None, expect, true);
    let shown = String::from_utf8_lossy(wire);
    assert_eq!((code(&whole), outcome(&whole).2), (failure, tokens), "{shown:?}: {:?}", whole.conclusion);
    let bytes: Vec<&[u8]> = wire.chunks(1).collect();
    assert_eq!(outcome(&read(&bytes, None, expect, true)), outcome(&whole), "byte by byte: {shown:?}");
    for cut in 0..=wire.len() {
        let (head, tail) = wire.split_at(cut);
        assert_eq!(outcome(&read(&[head, tail], None, expect, true)), outcome(&whole), "cut at {cut}: {shown:?}");
    }
}

#[test]
fn line_ends_comments_and_fields() {
    let ok = |body: &str, tokens: usize| check(chunked(body).as_bytes(), None, tokens);
    for end in ["\n", "\r\n", "\r"] {
        ok(&format!("data: {A}{end}{end}data: [DONE]{end}{end}"), 1);
    }
    ok(&format!("data: {A}\r\n\ndata: {A}\r\rdata: {A}\n\r\ndata: [DONE]\n\n"), 3);
    ok(&format!("\u{feff}data: {A}\n\ndata: [DONE]\n\n"), 1);
    ok(&format!(": ping\n\ndata:{A}\n: more\nid: 7\nretry: 3\n\ndata:[DONE]\n\n"), 1);
    // One event in several data lines: a line end between JSON tokens is space.
    let (left, right) = A.split_once(',').unwrap();
    ok(&format!("data: {left},\ndata: {right}\n\ndata: [DONE]\n\n"), 1);
    ok(&format!("event: message\ndata: {A}\n\ndata: [DONE]"), 1);
    ok(&format!("data: {A}\n\ndata: \n\ndata\n\ndata: [DONE]\n\n"), 1);
    ok(&format!("data: {A}\n\ndata: [DONE]\n\ndata: {A}\n\ndata: garbage\n\n"), 1);
}

#[test]
fn framings_of_http() {
    let body = format!("data: {A}\n\ndata: [DONE]\n\n");
    let n = body.len();
    let good = |wire: String| check(wire.as_bytes(), None, 1);
    good(format!("{OK}content-length: {n}\r\n\r\n{body}"));
    good(format!("HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{body}"));
    good(format!("{OK}connection: close\r\n\r\n{body}"));
    good(format!(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n{OK}content-length: {n}\r\n\r\n{body}"
    ));
    good(format!(
        "{OK}transfer-encoding: chunked\r\n\r\n{n:X};name=\"v;w\"\r\n{body}\r\n0;last\r\nx-trailer: 1\r\ny: 2\r\n\r\n"
    ));
    good(format!("{OK}transfer-encoding: chunked\r\n\r\n00{n:x} \r\n{body}\r\n000\r\n\r\n"));
    // Both: chunks win, as RFC 9112 demands.
    good(format!("{OK}content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n{n:x}\r\n{body}\r\n0\r\n\r\n"));
    // Each byte in a chunk of its own: characters are cut by the framing.
    let tiny: String = body.bytes().map(|byte| format!("1\r\n{}\r\n", char::from(byte))).collect();
    let mut wire = format!("{OK}transfer-encoding: chunked\r\n\r\n").into_bytes();
    wire.extend(tiny.chars().map(|c| c as u32 as u8));
    wire.extend(b"0\r\n\r\n");
    check(&wire, None, 1);
}

#[test]
fn broken_framing_is_its_own_failure() {
    let bad = |wire: &str| check(wire.as_bytes(), Some(codes::MALFORMED_HTTP), 0);
    bad("HTTP/2 200\r\n\r\n");
    bad("ICY 200 OK\r\n\r\n");
    bad("HTTP/1.1 200 OK\r\nno colon\r\n\r\n");
    bad("HTTP/1.1 abc OK\r\n\r\n");
    bad(&format!("{OK}content-length: 99999999999999999999\r\n\r\n"));
    bad(&format!("{OK}transfer-encoding: gzip, chunked\r\n\r\n"));
    bad(&format!("{OK}transfer-encoding: chunked\r\n\r\nxyz\r\n"));
    bad(&format!("{OK}transfer-encoding: chunked\r\n\r\n-5\r\n"));
    bad("\0\0\0\0\r\n\r\n");
    let cut = |wire: &str, tokens| check(wire.as_bytes(), Some(codes::TRUNCATED_STREAM), tokens);
    cut(&format!("{OK}transfer-encoding: chunked\r\n\r\n40\r\ndata: {A}\n\n"), 1);
    cut(&format!("{OK}content-length: 500\r\n\r\ndata: {A}\n\n"), 1);
    cut(&format!("{OK}connection: close\r\n\r\ndata: {A}\n\n"), 1);
    cut("HTTP/1.1 200 OK\r\n", 0);
    check(b"", Some(codes::CONNECTION_RESET), 0);
}

#[test]
fn bytes_that_are_no_text() {
    let bad = |event: &[u8]| {
        let mut wire = format!("{OK}connection: close\r\n\r\ndata: ").into_bytes();
        wire.extend_from_slice(event);
        wire.extend_from_slice(b"\n\ndata: [DONE]\n\n");
        check(&wire, Some(codes::MALFORMED_SSE), 0);
    };
    bad(b"{\"choices\":[{\"text\":\"\xff\"}]}");
    bad(b"{\"choices\":[{\"text\":\"\xe2\x82\"}]}");
    bad(b"{\"choices\":[{\"text\":\"\0\"}]}");
    bad(b"\0");
    bad(br#"{"choices":[{"text":"cut"#);
    bad(br#"{"choices":[]}{"choices":[]}"#);
    bad(br#""[DONE]""#);
    bad(b"NaN");
    // Half a surrogate pair is replaced; the token was a token.
    check(chunked("data: {\"choices\":[{\"text\":\"\\ud83d\"}]}\n\ndata: [DONE]\n\n").as_bytes(), None, 1);
    let html = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>";
    check(html.as_bytes(), Some(codes::MALFORMED_HTTP), 0);
}

#[test]
fn limits_hold() {
    let mut reader = ResponseReader::new(false);
    assert_eq!(reader.feed(1, format!("{OK}connection: close\r\n\r\ndata: ").as_bytes(), |_| ()), Progress::Open);
    let block = vec![b'x'; 1 << 20];
    let n = (0..100).take_while(|_| reader.feed(2, &block, |_| ()) == Progress::Open).count();
    assert!(n < 33, "an event of {n} MB was still read");
    let mut record = RequestRecord::scheduled(0, Phase::Window, 0);
    let conclusion = reader.conclude(End::Closed, Expectation::default(), &mut record);
    assert_eq!(record.failure_code.as_deref(), Some(codes::MALFORMED_SSE));
    assert!(conclusion.detail.unwrap().contains("larger than"));

    // A head or a chunk line without end.
    for start in [
        "HTTP/1.1 200 OK\r\nx: ",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: ",
    ] {
        let mut reader = ResponseReader::new(false);
        reader.feed(1, start.as_bytes(), |_| ());
        assert_eq!(reader.feed(2, &block, |_| ()), Progress::Broken, "{start:?}");
    }

    // Trailers without end, each of them short.
    let mut reader = ResponseReader::new(false);
    reader.feed(1, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", |_| ());
    assert!((0..100_000).any(|_| reader.feed(2, b"x: y\r\n", |_| ()) == Progress::Broken));

    // Numbers of answers do not make the client slow.
    let events: String =
        (0..3000).map(|k| format!("data: {{\"choices\":[{{\"index\":{k},\"text\":\"a\"}}]}}\n\n")).collect();
    let seen = read(
        &[format!("{OK}connection: close\r\n\r\n{events}data: [DONE]\n\n").as_bytes()],
        None,
        Expectation::default(),
        true,
    );
    assert_eq!((code(&seen), seen.events.len()), (None, 3000));
}

#[test]
fn an_open_stream_is_small() {
    assert!(size_of::<ResponseReader>() <= 512, "{} bytes", size_of::<ResponseReader>());
}

fn body() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => Just(format!("data: {A}\n\n")),
        1 => Just(r#"data: {"choices":[{"index":0,"text":"b"}]}"#.to_owned() + "\r\n\r\n"),
        1 => Just("data: {\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"stop\"}]}\n\n".to_owned()),
        1 => Just(": ping\n\n".to_owned()),
        1 => Just("data: {\"choices\":[],\"usage\":{\"completion_tokens\":2}}\r\r".to_owned()),
        1 => Just("data: [DONE]\n\n".to_owned()),
        1 => Just("event: error\ndata: {\"error\":{\"message\":\"m\"}}\n\n".to_owned()),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    /// Stamps: an event belongs to the read that completed it, however the bytes were cut before.
    #[test]
    fn any_chunking_stamps_the_read_that_completed_the_event(
        body in body(), chunk in 1..40_usize, cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..14)
    ) {
        let mut wire = format!("{OK}transfer-encoding: chunked\r\n\r\n").into_bytes();
        for part in body.as_bytes().chunks(chunk) {
            wire.extend(format!("{:x}\r\n", part.len()).bytes().chain(part.iter().copied()).chain(*b"\r\n"));
        }
        wire.extend(b"0\r\n\r\n");
        let mut points: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).chain([0, wire.len()]).collect();
        points.sort_unstable();
        points.dedup();
        // Byte by byte, the stamp of an event is the position of the byte that completed it.
        let bytes: Vec<&[u8]> = wire.chunks(1).collect();
        let slow = read(&bytes, None, Expectation::default(), true);
        let parts: Vec<&[u8]> = points.windows(2).map(|pair| &wire[pair[0]..pair[1]]).collect();
        let fast = read(&parts, None, Expectation::default(), true);
        let read_of = |stamp: i64| {
            let end = stamp as usize / 10;
            10 * points[1..].iter().position(|point| *point >= end).map_or(i64::MAX, |at| at as i64 + 1)
        };
        let expected: Vec<(i64, i32)> = slow.events.iter().map(|(t, n)| (read_of(*t), *n)).collect();
        prop_assert_eq!(&fast.events, &expected);
        for (fast, slow) in [
            (fast.record.t_first, slow.record.t_first), (fast.record.t_last, slow.record.t_last),
            (fast.record.t_done, slow.record.t_done), (fast.record.t_usage, slow.record.t_usage),
            (fast.record.t_out, slow.record.t_out), (fast.record.t_hdr, slow.record.t_hdr),
        ] {
            prop_assert_eq!(fast, slow.map(read_of));
        }
        prop_assert_eq!(outcome(&fast), outcome(&slow));
    }
}
