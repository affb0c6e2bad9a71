//! HTTP/1.1 as the server reads and writes it: requests out of a growing buffer, heads of answers, chunks. Pure: no
//! socket, no routing. What a path means is `route`'s business.

use std::fmt::Write as _;

use memchr::memchr;

const MAX_HEADERS: usize = 96;
const MAX_HEAD_BYTES: usize = 64 << 10;
/// A prompt of a million token ids is about 8 MB.
const MAX_BODY_BYTES: usize = 256 << 20;

/// One whole request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`, ….
    pub method: String,
    /// The path without its query.
    pub path: String,
    /// What follows the question mark, not decoded.
    pub query: String,
    /// The connection may serve another request afterwards.
    pub keep_alive: bool,
    /// `X-Request-Id`.
    pub request_id: Option<String>,
    /// `Authorization`.
    pub authorization: Option<String>,
    /// The body, chunks joined.
    pub body: Vec<u8>,
}

/// What the bytes so far amount to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// More bytes are needed.
    Incomplete {
        /// The client waits for `100 Continue` before it sends its body.
        expects_continue: bool,
    },
    /// A request and the bytes that it took.
    Whole(Box<Request>, usize),
    /// Not HTTP as this server speaks it: answer with this status line and close.
    Refused(&'static str),
}

/// Reads one request from the beginning of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let head_bytes = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() > MAX_HEAD_BYTES => {
            return Parsed::Refused("431 Request Header Fields Too Large");
        }
        Ok(httparse::Status::Partial) => return Parsed::Incomplete { expects_continue: false },
        Err(httparse::Error::TooManyHeaders) => return Parsed::Refused("431 Request Header Fields Too Large"),
        Err(_) => return Parsed::Refused("400 Bad Request"),
    };
    let target = head.path.unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: head.method.unwrap_or("GET").to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        keep_alive: head.version == Some(1),
        request_id: None,
        authorization: None,
        body: Vec::new(),
    };
    let mut length = None;
    let mut is_chunked = false;
    let mut expects_continue = false;
    for header in head.headers.iter() {
        let value = String::from_utf8_lossy(header.value);
        let value = value.trim();
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            match value.parse::<usize>() {
                Ok(bytes) if bytes > MAX_BODY_BYTES => return Parsed::Refused("413 Content Too Large"),
                Ok(bytes) if length.is_none_or(|known| known == bytes) => length = Some(bytes),
                _ => return Parsed::Refused("400 Bad Request"),
            }
        } else if is("transfer-encoding") {
            if !value.eq_ignore_ascii_case("chunked") {
                return Parsed::Refused("501 Not Implemented");
            }
            is_chunked = true;
        } else if is("connection") {
            for word in value.split(',') {
                match word.trim() {
                    word if word.eq_ignore_ascii_case("close") => request.keep_alive = false,
                    word if word.eq_ignore_ascii_case("keep-alive") => request.keep_alive = true,
                    _ => {}
                }
            }
        } else if is("expect") {
            expects_continue = value.eq_ignore_ascii_case("100-continue");
        } else if is("x-request-id") {
            request.request_id = Some(value.to_owned());
        } else if is("authorization") {
            request.authorization = Some(value.to_owned());
        }
    }
    let rest = bytes.get(head_bytes..).unwrap_or_default();
    if is_chunked {
        return match chunked(rest) {
            Chunked::Incomplete => Parsed::Incomplete { expects_continue },
            Chunked::Whole(body, taken) => {
                request.body = body;
                Parsed::Whole(Box::new(request), head_bytes + taken)
            }
            Chunked::Broken => Parsed::Refused("400 Bad Request"),
            Chunked::TooLarge => Parsed::Refused("413 Content Too Large"),
        };
    }
    let length = length.unwrap_or(0);
    match rest.get(..length) {
        None => Parsed::Incomplete { expects_continue },
        Some(body) => {
            request.body = body.to_vec();
            Parsed::Whole(Box::new(request), head_bytes + length)
        }
    }
}

enum Chunked {
    Incomplete,
    Whole(Vec<u8>, usize),
    Broken,
    TooLarge,
}

fn chunked(bytes: &[u8]) -> Chunked {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let (start, size) = match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) => return Chunked::Incomplete,
            Err(_) => return Chunked::Broken,
        };
        at += start;
        let Some(size) = usize::try_from(size).ok().filter(|size| body.len().saturating_add(*size) <= MAX_BODY_BYTES)
        else {
            return Chunked::TooLarge;
        };
        if size == 0 {
            return trailers(bytes, at).map_or(Chunked::Incomplete, |end| Chunked::Whole(body, end));
        }
        let Some(chunk) = bytes.get(at..at + size) else { return Chunked::Incomplete };
        body.extend_from_slice(chunk);
        at += size;
        match bytes.get(at..at + 2) {
            Some(b"\r\n") => at += 2,
            Some(_) => return Chunked::Broken,
            None => return Chunked::Incomplete,
        }
    }
}

/// The end of the trailer section that starts at `at`: after its empty line.
fn trailers(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let line = bytes.get(at..)?;
        let end = memchr(b'\n', line)?;
        at += end + 1;
        if line.get(..end).is_some_and(|line| line.is_empty() || line == b"\r") {
            return Some(at);
        }
    }
}

/// How the body of an answer is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// `content-length`.
    Length(usize),
    /// `transfer-encoding: chunked`.
    Chunked,
}

/// What every head of this server carries besides its status.
#[derive(Debug, Clone, Default)]
pub(super) struct HeadFacts {
    /// Value of `x-servelab-sim`.
    pub(super) label: String,
    /// `X-Request-Id`, where the server echoes it.
    pub(super) request_id: Option<String>,
    pub(super) keep_alive: bool,
}

/// Appends the head of an answer, with vLLM's headers in vLLM's order and ours that says what this is.
pub(super) fn write_head(
    out: &mut Vec<u8>,
    status: &str,
    content_type: Option<&str>,
    framing: Framing,
    facts: &HeadFacts,
    date: &str,
) {
    let mut head = format!("HTTP/1.1 {status}\r\ndate: {date}\r\nserver: uvicorn\r\n");
    if let Framing::Length(length) = framing {
        let _ = write!(head, "content-length: {length}\r\n");
    }
    if let Some(kind) = content_type {
        let _ = write!(head, "content-type: {kind}\r\n");
    }
    head.push_str("vary: Origin\r\n");
    if let Some(id) = &facts.request_id {
        let _ = write!(head, "x-request-id: {id}\r\n");
    }
    let _ = write!(head, "x-servelab-sim: {}\r\n", facts.label);
    if !facts.keep_alive {
        head.push_str("connection: close\r\n");
    }
    if framing == Framing::Chunked {
        head.push_str("transfer-encoding: chunked\r\n");
    }
    head.push_str("\r\n");
    out.extend_from_slice(head.as_bytes());
}

/// Ends a chunked body.
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Appends what `fill` writes as one chunk. The size is known only afterwards, so a fixed width is reserved for it:
/// leading zeros are allowed there.
pub(super) fn write_chunk(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    const WIDTH: usize = 6;
    let start = out.len();
    out.extend_from_slice(b"000000\r\n");
    fill(out);
    let mut size = out.len() - start - WIDTH - 2;
    for place in out.iter_mut().skip(start).take(WIDTH).rev() {
        *place = b"0123456789abcdef"[size % 16];
        size /= 16;
    }
    // As short as the server that it imitates writes it.
    let zeros = out.iter().skip(start).take(WIDTH - 1).take_while(|digit| **digit == b'0').count();
    out.drain(start..start + zeros);
    out.extend_from_slice(b"\r\n");
}

/// The `date` header for seconds since 1970.
pub(super) fn http_date(unix_s: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let days = unix_s / 86_400;
    let (year, month, day) = crate::startup::civil_date(days);
    let second = unix_s % 86_400;
    format!(
        "{}, {day:02} {} {year} {:02}:{:02}:{:02} GMT",
        DAYS.get((days % 7) as usize).unwrap_or(&"Thu"),
        MONTHS.get(month.saturating_sub(1) as usize).unwrap_or(&"Jan"),
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POST: &[u8] =
        b"POST /v1/completions?x=1 HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\r\nContent-Length: 5\r\n\r\nhelloGET /he";
    const CHUNKED: &[u8] =
        b"POST /tokenize HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nt: 1\r\n\r\nrest";

    #[test]
    fn a_request_is_whole_with_its_last_byte() {
        for (bytes, tail) in [(POST, 7), (CHUNKED, 4)] {
            let length = bytes.len() - tail;
            for cut in 0..length {
                assert!(matches!(parse(&bytes[..cut]), Parsed::Incomplete { .. }), "{cut}");
            }
            let Parsed::Whole(request, taken) = parse(bytes) else { panic!("not whole") };
            assert_eq!((request.body.as_slice(), taken, request.keep_alive), (&b"hello"[..], length, true));
        }
        let Parsed::Whole(request, _) = parse(POST) else { panic!("not whole") };
        assert_eq!((request.path.as_str(), request.query.as_str()), ("/v1/completions", "x=1"));
        assert_eq!(request.request_id.as_deref(), Some("a"));
    }

    #[test]
    fn heads_that_are_refused() {
        for (bytes, status) in [
            (&b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n"[..], "501 Not Implemented"),
            (b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n", "400 Bad Request"),
            (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "400 Bad Request"),
            (b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", "413 Content Too Large"),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "400 Bad Request"),
            (b"\xff\r\n\r\n", "400 Bad Request"),
        ] {
            assert_eq!(parse(bytes), Parsed::Refused(status), "{}", String::from_utf8_lossy(bytes));
        }
        let endless = [&b"GET / HTTP/1.1\r\nx: "[..], &vec![b'a'; MAX_HEAD_BYTES]].concat();
        assert_eq!(parse(&endless), Parsed::Refused("431 Request Header Fields Too Large"));
    }

    #[test]
    fn connections_and_expectations() {
        let keeps = |text: &str| match parse(format!("{text}\r\n\r\n").as_bytes()) {
            Parsed::Whole(request, _) => request.keep_alive,
            other => panic!("{other:?}"),
        };
        assert!(keeps("GET / HTTP/1.1") && keeps("GET / HTTP/1.0\r\nConnection: keep-alive"));
        assert!(!keeps("GET / HTTP/1.0") && !keeps("GET / HTTP/1.1\r\nconnection: Close"));
        let waiting = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
        assert_eq!(parse(waiting), Parsed::Incomplete { expects_continue: true });
    }

    #[test]
    fn chunks_carry_their_size() {
        let check = |n: usize, size: &str| {
            let mut out = b"x".to_vec();
            write_chunk(&mut out, |out| out.extend(std::iter::repeat_n(b'a', n)));
            assert_eq!(out, format!("x{size}\r\n{}\r\n", "a".repeat(n)).into_bytes());
        };
        check(1, "1");
        check(16, "10");
        check(306, "132");
        check(70_000, "11170");
    }

    #[test]
    fn dates() {
        assert_eq!(http_date(1_795_377_290), "Sun, 22 Nov 2026 19:54:50 GMT");
        assert_eq!(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http_date(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
            let _ = parse(&[b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", bytes.as_slice()].concat());
        }
    }
}
