//! Requests as the reference server reads them: a head, a body of known length, and the few fields of the body that
//! matter. Deliberately not the client's parser.

use memchr::memmem;
use serde::Deserialize;

use super::fault::Fault;

const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_BODY_BYTES: usize = 64 << 20;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Path {
    Completions,
    Chat,
    Models,
    Health,
    Unknown,
}

/// One whole request at the beginning of a buffer.
#[derive(Debug, PartialEq)]
pub(super) struct Request<'a> {
    pub(super) path: Path,
    pub(super) must_close: bool,
    pub(super) body: &'a [u8],
    /// Bytes of head and body together.
    pub(super) length: usize,
}

/// What the bytes so far amount to.
#[derive(Debug, PartialEq)]
pub(super) enum Parsed<'a> {
    Incomplete,
    Whole(Request<'a>),
    /// Answered with this status and closed.
    Refused(&'static str),
}

pub(super) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let Some(head_length) = memmem::find(bytes, b"\r\n\r\n") else {
        return if bytes.len() > MAX_HEAD_BYTES {
            Parsed::Refused("431 Request Header Fields Too Large")
        } else {
            Parsed::Incomplete
        };
    };
    let Some(head) = bytes.get(..head_length).and_then(|head| std::str::from_utf8(head).ok()) else {
        return Parsed::Refused("400 Bad Request");
    };
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut must_close = words.next() != Some("HTTP/1.1");
    let mut body_length = 0;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            match value.parse::<usize>() {
                Ok(length) if length <= MAX_BODY_BYTES => body_length = length,
                Ok(_) => return Parsed::Refused("413 Content Too Large"),
                Err(_) => return Parsed::Refused("400 Bad Request"),
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Parsed::Refused("411 Length Required");
        } else if name.eq_ignore_ascii_case("connection") {
            must_close |= value.eq_ignore_ascii_case("close");
        }
    }
    let body_start = head_length + 4;
    let length = body_start + body_length;
    let Some(body) = bytes.get(body_start..length) else { return Parsed::Incomplete };
    let path = match (method, target) {
        ("POST", "/v1/completions") => Path::Completions,
        ("POST", "/v1/chat/completions") => Path::Chat,
        ("GET", "/v1/models") => Path::Models,
        ("GET", "/health" | "/ping") => Path::Health,
        _ => Path::Unknown,
    };
    Parsed::Whole(Request { path, must_close, body, length })
}

/// What a body asks for; everything else in it is skipped.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Wishes {
    pub(super) max_tokens: Option<u32>,
    pub(super) is_stream: bool,
    pub(super) wants_usage: bool,
    pub(super) wants_token_ids: bool,
    pub(super) reference: Own,
    /// A stand-in for a count of prompt tokens: a quarter of the body's bytes. There is no tokenizer here.
    pub(super) prompt_tokens: u32,
}

/// The body's field `reference`.
#[derive(Debug, Default, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Own {
    pub(super) first_ms: Option<f64>,
    pub(super) gap_ms: Option<f64>,
    pub(super) jitter: Option<f64>,
    pub(super) tokens: Option<u32>,
    pub(super) tokens_per_event: Option<u32>,
    pub(super) events_per_write: Option<u32>,
    #[serde(deserialize_with = "fault")]
    pub(super) fault: Option<Fault>,
}

fn fault<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Fault>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

#[derive(Deserialize)]
struct Body {
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    return_token_ids: Option<bool>,
    #[serde(default)]
    reference: Own,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

impl Wishes {
    pub(super) fn parse(body: &[u8]) -> Result<Self, serde_json::Error> {
        let parsed: Body = serde_json::from_slice(body)?;
        Ok(Self {
            max_tokens: parsed.max_completion_tokens.or(parsed.max_tokens),
            is_stream: parsed.stream.unwrap_or(false),
            wants_usage: parsed.stream_options.and_then(|options| options.include_usage).unwrap_or(false),
            wants_token_ids: parsed.return_token_ids.unwrap_or(false),
            reference: parsed.reference,
            prompt_tokens: u32::try_from(body.len() / 4).unwrap_or(u32::MAX).max(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POST: &[u8] = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhelloGET /he";

    #[test]
    fn a_request_is_whole_with_its_last_byte() {
        let length = POST.len() - 7;
        for cut in 0..length {
            assert_eq!(parse(&POST[..cut]), Parsed::Incomplete, "{cut}");
        }
        let request = Request { path: Path::Completions, must_close: false, body: b"hello", length };
        assert_eq!(parse(POST), Parsed::Whole(request));
    }

    #[test]
    fn heads() {
        let check = |head: &str, path, must_close| {
            let bytes = format!("{head}\r\n\r\n");
            let Parsed::Whole(request) = parse(bytes.as_bytes()) else { panic!("{head}") };
            assert_eq!((request.path, request.must_close), (path, must_close), "{head}");
        };
        check("GET /health HTTP/1.1", Path::Health, false);
        check("GET /v1/models HTTP/1.1\r\nConnection: Close", Path::Models, true);
        check("POST /v1/chat/completions HTTP/1.1\r\ncontent-length:0", Path::Chat, false);
        check("GET /health HTTP/1.0", Path::Health, true);
        check("GET /v1/chat/completions HTTP/1.1", Path::Unknown, false);
        for (bytes, status) in [
            (&b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"[..], "411 Length Required"),
            (b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n", "400 Bad Request"),
            (b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", "413 Content Too Large"),
            (b"\xff\r\n\r\n", "400 Bad Request"),
        ] {
            assert_eq!(parse(bytes), Parsed::Refused(status));
        }
        assert_eq!(parse(&vec![b'a'; MAX_HEAD_BYTES + 1]), Parsed::Refused("431 Request Header Fields Too Large"));
    }

    #[test]
    fn bodies() {
        let chat =
            br#"{"messages":[{"role":"user","content":"x"}],"max_completion_tokens":3,"max_tokens":null,"stream":true,
            "stream_options":{"include_usage":true},"return_token_ids":true,"seed":1}"#;
        let wishes = Wishes::parse(chat).unwrap();
        assert_eq!((wishes.max_tokens, wishes.is_stream, wishes.wants_usage), (Some(3), true, true));
        assert!(wishes.wants_token_ids && wishes.prompt_tokens > 10);
        assert!(!Wishes::parse(b"{}").unwrap().is_stream);
        let wrong = Wishes::parse(br#"{"reference":{"fault":"nope"}}"#).unwrap_err().to_string();
        assert!(wrong.contains("there is no fault `nope`"), "{wrong}");
        assert!(Wishes::parse(br#"{"reference":{"gap":1}}"#).is_err());
        assert!(Wishes::parse(b"hello").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
            let _ = Wishes::parse(&bytes);
        }
    }
}
