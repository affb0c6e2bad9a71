//! A pull reader for one JSON text: no tree, no allocation. It checks the whole text as strictly as `serde_json` does
//! (grammar, UTF-8, control characters, depth), so that what it accepts is JSON, and hands out borrowed strings and
//! numbers to a caller that names the few keys it wants. One leniency: half of a surrogate pair, which Python servers can
//! send, is read as U+FFFD instead of being refused.

use std::borrow::Cow;

/// As `serde_json`: this many levels of nesting are refused.
const MAX_DEPTH: u32 = 128;

/// The text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// A string as it stands between its quotes, escapes unresolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonStr<'a> {
    raw: &'a str,
    is_escaped: bool,
}

impl<'a> JsonStr<'a> {
    /// A string of ours, without escapes.
    pub(crate) const fn plain(text: &'a str) -> Self {
        Self { raw: text, is_escaped: false }
    }

    /// True for `""`. No escape stands for nothing.
    pub fn is_empty(self) -> bool {
        self.raw.is_empty()
    }

    /// The text, copied only where it holds escapes.
    pub fn text(self) -> Cow<'a, str> {
        if !self.is_escaped {
            return Cow::Borrowed(self.raw);
        }
        let mut text = String::with_capacity(self.raw.len());
        self.push_to(&mut text);
        Cow::Owned(text)
    }

    /// What stands before and after the string, quotes included, in the text that it was read from.
    pub(super) fn around(self, data: &[u8]) -> Option<(&[u8], &[u8])> {
        let start = self.raw.as_ptr().addr().checked_sub(data.as_ptr().addr())?;
        Some((data.get(..start)?, data.get(start + self.raw.len()..)?))
    }

    /// Appends the text.
    pub fn push_to(self, text: &mut String) {
        if !self.is_escaped {
            text.push_str(self.raw);
            return;
        }
        let mut rest = self.raw;
        while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
            let (before, escape) = rest.split_at(at);
            text.push_str(before);
            let (decoded, used) = unescape(escape);
            text.push(decoded);
            rest = escape.get(used..).unwrap_or_default();
        }
        text.push_str(rest);
    }
}

/// The character at the start of `escape` and the bytes it takes. Escapes were checked when the string was read.
fn unescape(escape: &str) -> (char, usize) {
    let kind = escape.as_bytes().get(1).copied().unwrap_or(b'\\');
    let decoded = match kind {
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let unit = |from: usize| escape.get(from..from + 4).and_then(|hex| u32::from_str_radix(hex, 16).ok());
            let high = unit(2).unwrap_or(0);
            if (0xd800..0xdc00).contains(&high)
                && escape.get(6..8) == Some("\\u")
                && let Some(low @ 0xdc00..0xe000) = unit(8)
            {
                let joined = 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                return (char::from_u32(joined).unwrap_or(char::REPLACEMENT_CHARACTER), 12);
            }
            return (char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER), 6);
        }
        other => char::from(other),
    };
    (decoded, 2)
}

/// A number as it stands in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JsonNumber<'a> {
    raw: &'a str,
    is_integer: bool,
}

impl JsonNumber<'_> {
    pub(crate) fn as_i64(self) -> Option<i64> {
        // Minus zero is a float.
        if self.is_integer && self.raw != "-0" { self.raw.parse().ok() } else { None }
    }

    pub(crate) fn as_f64(self) -> Option<f64> {
        self.raw.parse().ok()
    }
}

/// A scalar, or the fact that the value was an object or array (which has been skipped).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar<'a> {
    Null,
    Bool(bool),
    Number(JsonNumber<'a>),
    String(JsonStr<'a>),
    Object,
    Array,
}

/// A position in a JSON text.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
}

impl<'a> Cursor<'a> {
    /// At the first value of the text.
    pub(crate) fn new(data: &'a [u8]) -> Result<Self, Malformed> {
        let text = std::str::from_utf8(data).map_err(|_| Malformed)?;
        let mut cursor = Self { text, at: 0, depth: 0 };
        cursor.space();
        Ok(cursor)
    }

    /// Nothing but space follows.
    pub(crate) fn end(&mut self) -> Result<(), Malformed> {
        self.space();
        if self.at == self.text.len() { Ok(()) } else { Err(Malformed) }
    }

    /// The byte at the position; NUL, which no value begins with, at the end.
    pub(crate) fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    /// Where the next value begins, for [`Cursor::since`].
    pub(crate) fn mark(&self) -> usize {
        self.at
    }

    /// The text from a mark to the position.
    pub(crate) fn since(&self, mark: usize) -> &'a str {
        self.text.get(mark..self.at).unwrap_or_default()
    }

    /// Calls `each` for every member of an object, which must consume the value.
    pub(crate) fn members(
        &mut self,
        mut each: impl FnMut(&mut Self, &str) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        self.open(b'{')?;
        if self.take(b'}') {
            return self.close();
        }
        loop {
            let key = self.string()?;
            self.space();
            self.expect(b':')?;
            self.space();
            if key.is_escaped {
                each(self, &key.text())?;
            } else {
                each(self, key.raw)?;
            }
            self.space();
            if self.take(b'}') {
                return self.close();
            }
            self.expect(b',')?;
            self.space();
        }
    }

    /// Calls `each` for every item of an array, which must consume it.
    pub(crate) fn items(&mut self, mut each: impl FnMut(&mut Self) -> Result<(), Malformed>) -> Result<(), Malformed> {
        self.open(b'[')?;
        if self.take(b']') {
            return self.close();
        }
        loop {
            each(self)?;
            self.space();
            if self.take(b']') {
                return self.close();
            }
            self.expect(b',')?;
            self.space();
        }
    }

    /// Consumes one value.
    pub(crate) fn value(&mut self) -> Result<Scalar<'a>, Malformed> {
        match self.peek() {
            b'"' => self.string().map(Scalar::String),
            b'{' => self.members(|cursor, _| cursor.value().map(drop)).map(|()| Scalar::Object),
            b'[' => self.items(|cursor| cursor.value().map(drop)).map(|()| Scalar::Array),
            b'n' => self.word("null").map(|()| Scalar::Null),
            b't' => self.word("true").map(|()| Scalar::Bool(true)),
            b'f' => self.word("false").map(|()| Scalar::Bool(false)),
            b'-' | b'0'..=b'9' => self.number().map(Scalar::Number),
            _ => Err(Malformed),
        }
    }

    fn space(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_there = self.peek() == byte;
        self.at += usize::from(is_there);
        is_there
    }

    fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.take(byte) { Ok(()) } else { Err(Malformed) }
    }

    fn open(&mut self, bracket: u8) -> Result<(), Malformed> {
        self.expect(bracket)?;
        self.depth += 1;
        self.space();
        if self.depth < MAX_DEPTH { Ok(()) } else { Err(Malformed) }
    }

    fn close(&mut self) -> Result<(), Malformed> {
        self.depth -= 1;
        Ok(())
    }

    fn word(&mut self, word: &str) -> Result<(), Malformed> {
        let bytes = self.text.as_bytes();
        if bytes.get(self.at..self.at + word.len()) != Some(word.as_bytes()) {
            return Err(Malformed);
        }
        self.at += word.len();
        Ok(())
    }

    fn string(&mut self) -> Result<JsonStr<'a>, Malformed> {
        self.expect(b'"')?;
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut is_escaped = false;
        loop {
            self.at = special_from(bytes, self.at);
            match bytes.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    is_escaped = true;
                    let length = match bytes.get(self.at + 1) {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
                        Some(b'u') => {
                            let digits = bytes.get(self.at + 2..self.at + 6).ok_or(Malformed)?;
                            if !digits.iter().all(u8::is_ascii_hexdigit) {
                                return Err(Malformed);
                            }
                            6
                        }
                        _ => return Err(Malformed),
                    };
                    self.at += length;
                }
                _ => return Err(Malformed),
            }
        }
        let raw = self.text.get(start..self.at).ok_or(Malformed)?;
        self.at += 1;
        Ok(JsonStr { raw, is_escaped })
    }

    fn number(&mut self) -> Result<JsonNumber<'a>, Malformed> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        let mut is_integer = true;
        let mut has_exponent = false;
        if self.take(b'.') {
            is_integer = false;
            self.digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            (is_integer, has_exponent) = (false, true);
            self.at += 1;
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        let raw = self.since(start);
        // Too large for a float is refused; without an exponent that takes more than 300 digits.
        if (has_exponent || raw.len() > 300) && raw.parse::<f64>().is_ok_and(f64::is_infinite) {
            return Err(Malformed);
        }
        Ok(JsonNumber { raw, is_integer })
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(Malformed) }
    }
}

/// True when bytes could stand between quotes as they are. Whether they are UTF-8 is not asked.
pub(super) fn is_plain_text(bytes: &[u8]) -> bool {
    special_from(bytes, 0) == bytes.len()
}

/// Position of the next quote, backslash or control character, eight bytes at a time. Borrows of the subtractions can
/// only reach bytes above a real hit, so the lowest mark is always right.
fn special_from(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    while let Some(block) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*block);
        let zero_in = |word: u64| word.wrapping_sub(ONES) & !word;
        let quote = zero_in(word ^ (ONES * 0x22));
        let backslash = zero_in(word ^ (ONES * 0x5c));
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let marks = (quote | backslash | control) & HIGH;
        if marks != 0 {
            return at + (marks.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while bytes.get(at).is_some_and(|byte| !matches!(byte, b'"' | b'\\' | 0..0x20)) {
        at += 1;
    }
    at
}
