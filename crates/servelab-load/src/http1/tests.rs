use proptest::prelude::*;

use super::*;

#[derive(Debug, PartialEq)]
struct Parsed {
    head: Option<Head>,
    body: Vec<u8>,
    used: usize,
    is_complete: bool,
}

fn parse(parts: &[&[u8]]) -> Result<Parsed, HttpError> {
    let mut parser = ResponseParser::new();
    let mut body = Vec::new();
    let mut used = 0;
    for part in parts {
        used += parser.feed(part, |_, data| body.extend_from_slice(data))?;
    }
    Ok(Parsed { head: parser.head(), body, used, is_complete: parser.is_complete() })
}

fn check(input: &[u8], status: u16, body: &[u8]) {
    let whole = parse(&[input]).unwrap();
    assert_eq!((whole.head.unwrap().status, whole.body.as_slice(), whole.is_complete), (status, body, true));
    for cut in 0..=input.len() {
        let (head, tail) = input.split_at(cut);
        assert_eq!(parse(&[head, tail]).unwrap(), whole, "cut at {cut}");
    }
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(parse(&bytes).unwrap(), whole, "byte by byte");
}

fn check_error(input: &[u8], expected: HttpError) {
    assert_eq!(parse(&[input]), Err(expected.clone()));
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(parse(&bytes), Err(expected));
}

#[test]
fn framings() {
    check(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", 200, b"hello");
    check(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, b"");
    check(b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"");
    check(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200, b"hello");
    check(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\nA\r\n0123456789\r\n000\r\nx: y\r\n\r\n", 200, b"abc0123456789");
    check(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\nno", 503, b"no");
    check(b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok", 200, b"ok");
}

#[test]
fn until_close_ends_with_the_connection() {
    let mut parser = ResponseParser::new();
    let mut body = Vec::new();
    parser.feed(b"HTTP/1.0 200 OK\r\n\r\nabc", |_, data| body.extend_from_slice(data)).unwrap();
    assert!(!parser.is_complete());
    parser.finish().unwrap();
    assert!(parser.is_complete());
    assert_eq!(body, b"abc");
    assert!(!parser.head().unwrap().is_keep_alive);
}

#[test]
fn head_facts() {
    let head = |text: &str| parse(&[text.as_bytes()]).unwrap().head.unwrap();
    let stream = head("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\ncontent-length: 0\r\n\r\n");
    assert!(stream.is_event_stream && stream.is_keep_alive);
    let closing =
        head("HTTP/1.1 200 OK\r\nconnection: Close\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n");
    assert!(!closing.is_event_stream && !closing.is_keep_alive);
    assert!(head("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n").is_keep_alive);
}

#[test]
fn bytes_after_the_response_are_left() {
    let input = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokEXTRA";
    assert_eq!(parse(&[input]).unwrap().used, input.len() - 5);
}

#[test]
fn truncation_and_horrors() {
    for input in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell"] {
        let mut parser = ResponseParser::new();
        parser.feed(input.as_bytes(), |_, _| ()).unwrap();
        assert_eq!(parser.finish(), Err(HttpError::Truncated), "{input:?}");
    }
    check_error(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", HttpError::Head(httparse::Error::Version));
    check_error(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", HttpError::ContentLength);
    check_error(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", HttpError::ContentLength);
    check_error(b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", HttpError::TransferEncoding);
    for chunk in ["zz\r\n", "\r\n", "-1\r\n", "fffffffffffffffff\r\n", "2\r\nabX\r\n"] {
        let input = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunk}");
        check_error(input.as_bytes(), HttpError::Chunk);
    }
    let mut endless = b"HTTP/1.1 200 OK\r\n".to_vec();
    endless.resize(MAX_HEAD_BYTES + 10, b'a');
    check_error(&endless, HttpError::HeadTooLarge);
}

proptest! {
    #[test]
    fn any_chunking_of_a_chunked_body(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 0..6), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10)) {
        let mut wire = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        for chunk in &chunks {
            wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"0\r\n\r\n");
        let mut points: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
        points.extend([0, wire.len()]);
        points.sort_unstable();
        let parts: Vec<&[u8]> = points.windows(2).map(|pair| &wire[pair[0]..pair[1]]).collect();
        let parsed = parse(&parts).unwrap();
        prop_assert!(parsed.is_complete);
        prop_assert_eq!(parsed.body, chunks.concat());
    }

    #[test]
    fn never_panics(prefix in prop::sample::select(vec!["", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"]), parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6)) {
        let mut all = vec![prefix.as_bytes()];
        all.extend(parts.iter().map(Vec::as_slice));
        let _ = parse(&all);
    }
}
