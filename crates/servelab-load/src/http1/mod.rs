//! Sans-IO HTTP/1.1 response parser for the hot path: head, then a body framed by `Content-Length`, chunks or the end
//! of the connection. Bytes go in split anywhere, body slices come out uncopied. Requests are built in `engine`;
//! nothing here knows about sockets, time or event streams.

use memchr::memmem;

#[cfg(test)]
mod tests;

/// Most bytes of a response head, and of chunk-size lines and trailers.
const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_HEADERS: usize = 128;

/// Why bytes are not an HTTP/1.1 response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// The head does not parse.
    #[error("malformed response head: {0}")]
    Head(httparse::Error),
    /// The head is larger than 64 KiB.
    #[error("response head is larger than {MAX_HEAD_BYTES} bytes")]
    HeadTooLarge,
    /// `Content-Length` is no number or contradicts itself.
    #[error("malformed content-length")]
    ContentLength,
    /// A transfer coding other than `chunked`.
    #[error("unsupported transfer-encoding")]
    TransferEncoding,
    /// The chunk framing is broken.
    #[error("malformed chunk framing")]
    Chunk,
    /// The connection ended before the response did.
    #[error("connection ended inside the response")]
    Truncated,
}

/// What the head said, as far as the load generator needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Status code.
    pub status: u16,
    /// The body is `text/event-stream`.
    pub is_event_stream: bool,
    /// The server keeps the connection open after this response.
    pub is_keep_alive: bool,
    /// The body has a content coding (compression). It is framed all the same, and cannot be read.
    pub is_encoded: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Length {
        left: u64,
    },
    ChunkSize,
    ChunkData {
        left: u64,
    },
    /// CR LF after a chunk's data.
    ChunkEnd,
    Trailers,
    UntilClose,
    Complete,
}

/// Incremental parser of one response. Make a new one for the next response on the same connection.
#[derive(Debug)]
pub struct ResponseParser {
    state: State,
    /// Incomplete head, chunk-size line or trailer line.
    line: Vec<u8>,
    trailer_bytes: usize,
    head: Option<Head>,
}

impl Default for ResponseParser {
    fn default() -> Self {
        Self::new()
    }
}

impl ResponseParser {
    /// A parser that waits for a status line.
    pub fn new() -> Self {
        Self { state: State::Head, line: Vec::new(), trailer_bytes: 0, head: None }
    }

    /// The head, once it is complete (interim 1xx heads are skipped).
    pub fn head(&self) -> Option<Head> {
        self.head
    }

    /// True when the whole response has been seen.
    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Consumes bytes up to the end of the response, handing body slices to `body`, and returns how many were used.
    /// Bytes after the end are left alone. The head is passed along because the first body slice may come with it.
    pub fn feed(&mut self, bytes: &[u8], mut body: impl FnMut(Head, &[u8])) -> Result<usize, HttpError> {
        let mut rest = bytes;
        while !rest.is_empty() && self.state != State::Complete {
            match self.state {
                State::Head => rest = self.feed_head(rest)?,
                State::Length { left } => {
                    let (data, tail) = split_at_most(rest, left);
                    self.emit(data, &mut body);
                    let left = left - data.len() as u64;
                    self.state = if left == 0 { State::Complete } else { State::Length { left } };
                    rest = tail;
                }
                State::UntilClose => {
                    self.emit(rest, &mut body);
                    rest = &[];
                }
                State::ChunkData { left } => {
                    let (data, tail) = split_at_most(rest, left);
                    self.emit(data, &mut body);
                    let left = left - data.len() as u64;
                    self.state = if left == 0 { State::ChunkEnd } else { State::ChunkData { left } };
                    rest = tail;
                }
                State::ChunkSize | State::ChunkEnd | State::Trailers => rest = self.feed_line(rest)?,
                State::Complete => {}
            }
        }
        Ok(bytes.len() - rest.len())
    }

    /// The connection ended. Fine after a complete response, or where the end is the framing.
    pub fn finish(&mut self) -> Result<(), HttpError> {
        match self.state {
            State::Complete => Ok(()),
            State::UntilClose => {
                self.state = State::Complete;
                Ok(())
            }
            _ => Err(HttpError::Truncated),
        }
    }

    fn emit(&self, data: &[u8], body: &mut impl FnMut(Head, &[u8])) {
        if let Some(head) = self.head
            && !data.is_empty()
        {
            body(head, data);
        }
    }

    fn feed_head<'a>(&mut self, rest: &'a [u8]) -> Result<&'a [u8], HttpError> {
        // The usual head comes whole and is never copied.
        if self.line.is_empty()
            && let Some(end) = head_end(rest, 0).filter(|end| *end <= MAX_HEAD_BYTES)
        {
            let (head, tail) = rest.split_at(end);
            self.on_head(head)?;
            return Ok(tail);
        }
        // Look for the end only around the new bytes: a head that trickles in must not be searched again and again.
        let searched = self.line.len().saturating_sub(3);
        let before = self.line.len();
        let room = MAX_HEAD_BYTES.saturating_sub(before);
        self.line.extend_from_slice(rest.get(..room.min(rest.len())).unwrap_or_default());
        let Some(end) = head_end(&self.line, searched) else {
            return if before + rest.len() > MAX_HEAD_BYTES { Err(HttpError::HeadTooLarge) } else { Ok(&[]) };
        };
        let head = std::mem::take(&mut self.line);
        self.on_head(head.get(..end).unwrap_or_default())?;
        Ok(rest.get(end.saturating_sub(before)..).unwrap_or_default())
    }

    fn on_head(&mut self, head: &[u8]) -> Result<(), HttpError> {
        let (head, next) = parse_head(head)?;
        if head.status >= 200 {
            self.head = Some(head);
            self.state = next;
        }
        Ok(())
    }

    fn feed_line<'a>(&mut self, rest: &'a [u8]) -> Result<&'a [u8], HttpError> {
        let Some(end) = memchr::memchr(b'\n', rest) else {
            self.line.extend_from_slice(rest);
            return if self.line.len() > MAX_HEAD_BYTES { Err(HttpError::Chunk) } else { Ok(&[]) };
        };
        let (line, tail) = rest.split_at(end);
        let tail = tail.get(1..).unwrap_or_default();
        if self.line.is_empty() {
            self.on_line(line)?;
        } else {
            let mut whole = std::mem::take(&mut self.line);
            whole.extend_from_slice(line);
            self.on_line(&whole)?;
        }
        Ok(tail)
    }

    /// A whole line without its LF.
    fn on_line(&mut self, line: &[u8]) -> Result<(), HttpError> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.state = match self.state {
            State::ChunkEnd if line.is_empty() => State::ChunkSize,
            State::ChunkEnd => return Err(HttpError::Chunk),
            State::Trailers if line.is_empty() => State::Complete,
            State::Trailers => {
                self.trailer_bytes += line.len();
                if self.trailer_bytes > MAX_HEAD_BYTES {
                    return Err(HttpError::Chunk);
                }
                State::Trailers
            }
            _ => match parse_chunk_size(line)? {
                0 => State::Trailers,
                left => State::ChunkData { left },
            },
        };
        Ok(())
    }
}

fn split_at_most(bytes: &[u8], at: u64) -> (&[u8], &[u8]) {
    let at = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
    bytes.split_at(at)
}

fn head_end(head: &[u8], from: usize) -> Option<usize> {
    let window = head.get(from..)?;
    let crlf = memmem::find(window, b"\r\n\r\n").map(|at| from + at + 4);
    let lf = memmem::find(window, b"\n\n").map(|at| from + at + 2);
    match (crlf, lf) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn parse_chunk_size(line: &[u8]) -> Result<u64, HttpError> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if digits.is_empty() || digits.len() > 15 {
        return Err(HttpError::Chunk);
    }
    digits.iter().try_fold(0, |size, digit| {
        let value = char::from(*digit).to_digit(16).ok_or(HttpError::Chunk)?;
        Ok(size << 4 | u64::from(value))
    })
}

fn parse_head(bytes: &[u8]) -> Result<(Head, State), HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    if response.parse(bytes).map_err(HttpError::Head)?.is_partial() {
        return Err(HttpError::Head(httparse::Error::NewLine));
    }
    let status = response.code.unwrap_or_default();
    let is_http11 = response.version == Some(1);
    let mut length: Option<u64> = None;
    let mut is_chunked = false;
    let mut is_event_stream = false;
    let mut is_keep_alive = is_http11;
    let mut is_encoded = false;
    for header in response.headers.iter() {
        let value = header.value.trim_ascii();
        if header.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(value).map_err(|_| HttpError::ContentLength)?;
            let number = text.parse().map_err(|_| HttpError::ContentLength)?;
            if length.is_some_and(|earlier| earlier != number) {
                return Err(HttpError::ContentLength);
            }
            length = Some(number);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(HttpError::TransferEncoding);
            }
            is_chunked = true;
        } else if header.name.eq_ignore_ascii_case("content-type") {
            let media = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
            is_event_stream = media.eq_ignore_ascii_case(b"text/event-stream");
        } else if header.name.eq_ignore_ascii_case("content-encoding") {
            is_encoded |= !value.is_empty() && !value.eq_ignore_ascii_case(b"identity");
        } else if header.name.eq_ignore_ascii_case("connection") {
            for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                if token.eq_ignore_ascii_case(b"close") {
                    is_keep_alive = false;
                } else if token.eq_ignore_ascii_case(b"keep-alive") {
                    is_keep_alive = true;
                }
            }
        }
    }
    let state = match (status, is_chunked, length) {
        (204 | 304, _, _) => State::Complete,
        (_, true, _) => State::ChunkSize,
        (_, false, Some(0)) => State::Complete,
        (_, false, Some(left)) => State::Length { left },
        (_, false, None) => {
            is_keep_alive = false;
            State::UntilClose
        }
    };
    Ok((Head { status, is_event_stream, is_keep_alive, is_encoded }, state))
}
