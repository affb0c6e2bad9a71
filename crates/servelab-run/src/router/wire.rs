//! Requests as the router reads them: head, then a body framed by `Content-Length` or chunks, taken from bytes that come
//! split anywhere. And the few answers that the router gives itself. Answers of servers are passed on as they are.

/// Most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Most bytes of a request's body: a prompt of a million tokens fits many times.
const MAX_BODY_BYTES: usize = 256 << 20;
const MAX_HEADERS: usize = 100;

/// A whole request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: String,
    /// Path with its query.
    pub target: String,
    /// Names as they came, and values.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Without its framing.
    pub body: Vec<u8>,
    /// The client may send another one on this connection.
    pub is_keep_alive: bool,
}

impl Request {
    /// A header's value, when it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok().map(str::trim)
    }

    /// The target without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The same request for a server, with another body, its own framing and this id.
    pub fn to_server(&self, host: &str, body: &[u8], id: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(512 + body.len());
        out.extend_from_slice(format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", self.method, self.target).as_bytes());
        for (name, value) in self.headers.iter().filter(|(name, _)| !is_own(name)) {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        let framing = format!("X-Request-Id: {id}\r\nContent-Length: {}\r\n\r\n", body.len());
        out.extend_from_slice(framing.as_bytes());
        out.extend_from_slice(body);
        out
    }
}

/// Headers that belong to one connection, or that the router writes itself. An answer must not be compressed: it is read.
fn is_own(name: &str) -> bool {
    [
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-request-id",
    ]
    .iter()
    .any(|own| name.eq_ignore_ascii_case(own))
        || name.to_ascii_lowercase().starts_with("x-servelab-")
}

/// Why bytes are no request that can be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The head does not parse.
    #[error("malformed request head")]
    Head,
    /// Head or body is too large.
    #[error("request is too large")]
    TooLarge,
    /// Two framings, or one that does not parse.
    #[error("malformed request framing")]
    Framing,
}

impl WireError {
    /// Status of the answer.
    pub fn status(self) -> u16 {
        match self {
            Self::TooLarge => 413,
            Self::Head | Self::Framing => 400,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
}

/// Collects bytes until a request is complete.
#[derive(Debug, Default)]
pub struct RequestReader {
    bytes: Vec<u8>,
    head: Option<(Request, Framing)>,
    /// The client waits for a word before it sends the body.
    wants_continue: bool,
}

impl RequestReader {
    /// Takes bytes in.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// True when nothing of a next request has come.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.head.is_none()
    }

    /// True once for each request whose sender waits for `100 Continue`.
    pub fn take_wants_continue(&mut self) -> bool {
        std::mem::take(&mut self.wants_continue)
    }

    /// The next request, once it is whole.
    pub fn next_request(&mut self) -> Result<Option<Request>, WireError> {
        if self.head.is_none() {
            let Some((request, framing, length)) = parse_head(&self.bytes)? else { return Ok(None) };
            self.wants_continue = request.header("expect").is_some_and(|e| e.eq_ignore_ascii_case("100-continue"));
            self.bytes.drain(..length);
            self.head = Some((request, framing));
        }
        let Some((_, framing)) = &self.head else { return Ok(None) };
        let (body, used) = match *framing {
            Framing::Length(length) if self.bytes.len() < length => return Ok(None),
            Framing::Length(length) => (self.bytes.get(..length).unwrap_or_default().to_vec(), length),
            Framing::Chunked => match unchunk(&self.bytes)? {
                None => return Ok(None),
                Some(whole) => whole,
            },
        };
        self.bytes.drain(..used);
        self.wants_continue = false;
        Ok(self.head.take().map(|(request, _)| Request { body, ..request }))
    }
}

fn parse_head(bytes: &[u8]) -> Result<Option<(Request, Framing, usize)>, WireError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD_BYTES => length,
        Ok(httparse::Status::Complete(_)) => return Err(WireError::TooLarge),
        Ok(httparse::Status::Partial) if bytes.len() > MAX_HEAD_BYTES => return Err(WireError::TooLarge),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(WireError::Head),
    };
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(WireError::Head);
    };
    let headers: Vec<(String, Vec<u8>)> =
        parsed.headers.iter().map(|header| (header.name.to_owned(), header.value.to_vec())).collect();
    let mut request = Request {
        method: method.to_owned(),
        target: target.to_owned(),
        headers,
        body: Vec::new(),
        is_keep_alive: version == 1,
    };
    if let Some(connection) = request.header("connection") {
        let has = |word: &str| connection.split(',').any(|part| part.trim().eq_ignore_ascii_case(word));
        request.is_keep_alive = if version == 1 { !has("close") } else { has("keep-alive") };
    }
    let framing = framing(&request)?;
    Ok(Some((request, framing, length)))
}

fn framing(request: &Request) -> Result<Framing, WireError> {
    let all = |name: &str| -> Vec<&[u8]> {
        let named = request.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.trim_ascii()).collect()
    };
    let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(Framing::Length(0)),
        // Two framings at once are how requests are smuggled past a proxy.
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        ([length], []) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
            let length = std::str::from_utf8(length).ok().and_then(|text| text.parse::<usize>().ok());
            match length {
                Some(length) if length <= MAX_BODY_BYTES => Ok(Framing::Length(length)),
                _ => Err(WireError::TooLarge),
            }
        }
        _ => Err(WireError::Framing),
    }
}

/// A chunked body and the bytes that it takes up; `None` while it is incomplete.
fn unchunk(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, WireError> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let (line, size) = match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) if rest.len() > MAX_HEAD_BYTES => return Err(WireError::Framing),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(WireError::Framing),
        };
        let size = usize::try_from(size).map_err(|_| WireError::TooLarge)?;
        if body.len().saturating_add(size) > MAX_BODY_BYTES {
            return Err(WireError::TooLarge);
        }
        at += line;
        if size == 0 {
            return Ok(after_trailers(bytes, at)?.map(|end| (body, end)));
        }
        let Some(data) = bytes.get(at..at + size + 2) else { return Ok(None) };
        let (data, end) = data.split_at(size);
        if end != b"\r\n" {
            return Err(WireError::Framing);
        }
        body.extend_from_slice(data);
        at += size + 2;
    }
}

fn after_trailers(bytes: &[u8], mut at: usize) -> Result<Option<usize>, WireError> {
    let start = at;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            return if rest.len() > MAX_HEAD_BYTES { Err(WireError::Framing) } else { Ok(None) };
        };
        at += end + 1;
        if rest.get(..end).unwrap_or_default().trim_ascii().is_empty() {
            return Ok(Some(at));
        }
        if at - start > MAX_HEAD_BYTES {
            return Err(WireError::Framing);
        }
    }
}

/// An answer of the router's own.
pub fn answer(status: u16, content_type: &str, extra: &[(&str, &str)], body: &[u8], is_keep_alive: bool) -> Vec<u8> {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Answer",
    };
    let mut head = format!("HTTP/1.1 {status} {reason}\r\ncontent-type: {content_type}\r\n");
    for (name, value) in extra {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let connection = if is_keep_alive { "keep-alive" } else { "close" };
    head.push_str(&format!("content-length: {}\r\nconnection: {connection}\r\n\r\n", body.len()));
    let mut out = head.into_bytes();
    out.extend_from_slice(body);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8], cut: usize) -> Result<Vec<Request>, WireError> {
        let mut reader = RequestReader::default();
        let mut out = Vec::new();
        for part in bytes.chunks(cut.max(1)) {
            reader.push(part);
            while let Some(request) = reader.next_request()? {
                out.push(request);
            }
        }
        Ok(out)
    }

    #[test]
    fn requests_of_both_framings_one_after_the_other() {
        let bytes = b"POST /v1/completions?x=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
                      POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
                      3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: v\r\n\r\nGET /c HTTP/1.0\r\n\r\n";
        for cut in 1..=bytes.len() {
            let all = read(bytes, cut).unwrap();
            let seen: Vec<(&str, &[u8], bool)> =
                all.iter().map(|request| (request.path(), request.body.as_slice(), request.is_keep_alive)).collect();
            let expected: [(&str, &[u8], bool); 3] =
                [("/v1/completions", b"abc", true), ("/b", b"abcde", false), ("/c", b"", false)];
            assert_eq!(seen, expected, "cut every {cut}");
        }
    }

    #[test]
    fn what_is_refused() {
        for (head, expected) in [
            ("nonsense\r\n\r\n", WireError::Head),
            ("POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", WireError::Framing),
            ("POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", WireError::Framing),
            ("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", WireError::Framing),
            ("POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", WireError::Framing),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", WireError::Framing),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", WireError::Framing),
            ("POST / HTTP/1.1\r\nContent-Length: 999999999999999999999\r\n\r\n", WireError::TooLarge),
        ] {
            assert_eq!(read(head.as_bytes(), usize::MAX), Err(expected), "{head}");
        }
        let long = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(MAX_HEAD_BYTES));
        assert_eq!(read(long.as_bytes(), 1000), Err(WireError::TooLarge));
    }

    #[test]
    fn what_a_server_gets() {
        let bytes =
            b"POST /v1/completions HTTP/1.1\r\nHost: router\r\nAuthorization: Bearer k\r\nAccept-Encoding: gzip\r\n\
                      X-Request-Id: mine\r\nX-Servelab-Server: 1\r\nContent-Length: 2\r\n\r\n{}";
        let request = read(bytes, 7).unwrap().remove(0);
        assert_eq!(request.header("x-request-id"), Some("mine"));
        let text = String::from_utf8(request.to_server("d:1", b"{\"a\":1}", "other")).unwrap();
        let expected = "POST /v1/completions HTTP/1.1\r\nHost: d:1\r\nAuthorization: Bearer k\r\n\
                        X-Request-Id: other\r\nContent-Length: 7\r\n\r\n{\"a\":1}";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_sender_that_waits_is_told_once() {
        let mut reader = RequestReader::default();
        reader.push(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n");
        assert_eq!(reader.next_request(), Ok(None));
        assert!(reader.take_wants_continue() && !reader.take_wants_continue() && !reader.is_empty());
        reader.push(b"x");
        assert_eq!(reader.next_request().unwrap().unwrap().body, b"x");
        assert!(reader.is_empty());
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..4),
            chunked in any::<bool>(), cut in 1usize..40,
        ) {
            let mut bytes = Vec::new();
            for body in &bodies {
                if chunked {
                    bytes.extend_from_slice(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
                    for part in body.chunks(7) {
                        bytes.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                        bytes.extend_from_slice(part);
                        bytes.extend_from_slice(b"\r\n");
                    }
                    bytes.extend_from_slice(b"0\r\n\r\n");
                } else {
                    let head = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
                    bytes.extend_from_slice(head.as_bytes());
                    bytes.extend_from_slice(body);
                }
            }
            let read: Vec<Vec<u8>> = read(&bytes, cut).unwrap().into_iter().map(|request| request.body).collect();
            prop_assert_eq!(read, bodies);
        }

        #[test]
        fn no_bytes_make_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 1usize..50) {
            let _ = read(&bytes, cut);
            let mut framed = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            framed.extend_from_slice(&bytes);
            let _ = read(&framed, cut);
        }
    }
}
