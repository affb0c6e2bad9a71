//! The document scanner: walks a Chrome-trace JSON given in windows of any size, tells a visitor about header values and
//! events, and never keeps more than one event. What a visitor does not want is skipped, not read.
//!
//! It is lenient where real files are wrong (control characters in strings, trailing commas, a cut end) and does not check
//! the grammar of what it skips.

use super::number::nanos;
use super::skip::{object_end, quote_or_backslash};

/// One event; texts are as they stand between their quotes, escapes included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RawEvent<'a> {
    /// Phase: `X` complete, `i` instant, `s`/`f` flow, `M` metadata; 0 when missing.
    pub ph: u8,
    /// Category.
    pub cat: &'a [u8],
    /// Name.
    pub name: &'a [u8],
    /// Process as written: a number or a quoted text.
    pub pid: &'a [u8],
    /// Thread as written.
    pub tid: &'a [u8],
    /// Start.
    pub ts_ns: Option<i64>,
    /// Length.
    pub dur_ns: Option<i64>,
    /// The object of arguments with its braces; empty when there is none.
    pub args: &'a [u8],
}

/// Who wants to know.
pub trait Visitor {
    /// A value beside `traceEvents`, as written.
    fn header(&mut self, key: &[u8], value: &[u8]);

    /// True to skip an event of which phase and category are known. Called at most once for each event.
    fn skips(&mut self, ph: u8, cat: &[u8]) -> bool;

    /// An event that was not skipped.
    fn event(&mut self, event: &RawEvent<'_>);
}

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// Byte of the document.
    pub at: u64,
    /// What was found there.
    pub what: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    Top,
    Events { is_in_object: bool },
    Done,
}

/// How far a document has been walked.
#[derive(Debug, Clone)]
pub struct Document {
    state: State,
    at: u64,
    events: u64,
    has_events: bool,
}

impl Default for Document {
    fn default() -> Self {
        Self { state: State::Start, at: 0, events: 0, has_events: false }
    }
}

/// Why a piece could not be walked.
enum Stop {
    /// The window ends inside it.
    More,
    /// It is wrong at this position of the window.
    Bad(usize, &'static str),
}

type Walk<T> = Result<T, Stop>;

impl Document {
    /// Events walked or skipped.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Bytes walked.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// True when the document came to its end.
    pub fn is_complete(&self) -> bool {
        self.state == State::Done
    }

    /// True when there was a list of events.
    pub fn has_events(&self) -> bool {
        self.has_events
    }

    /// Walks as much of the window as is complete and says how much that is; what remains must stand at the beginning of
    /// the next window.
    pub fn feed<V: Visitor>(&mut self, window: &[u8], visitor: &mut V) -> Result<usize, Malformed> {
        let mut at = 0;
        loop {
            match self.step(window, at, visitor) {
                Ok(next) => at = next,
                Err(Stop::More) => {
                    self.at += at as u64;
                    return Ok(at);
                }
                Err(Stop::Bad(place, what)) => {
                    let at = self.at + place as u64;
                    let found: String = window
                        .get(place..)
                        .map(|rest| String::from_utf8_lossy(rest.get(..24).unwrap_or(rest)).escape_debug().to_string())
                        .unwrap_or_default();
                    return Err(Malformed { at, what: format!("expected {what}, found `{found}`") });
                }
            }
        }
    }

    fn step<V: Visitor>(&mut self, text: &[u8], mut at: usize, visitor: &mut V) -> Walk<usize> {
        if self.state == State::Start && at == 0 {
            if text.starts_with(b"\xef\xbb\xbf") {
                at = 3;
            } else if text.len() < 3 && b"\xef\xbb\xbf".starts_with(text) && !text.is_empty() {
                return Err(Stop::More);
            }
        }
        at = skip_space(text, at);
        let Some(byte) = text.get(at) else { return Err(Stop::More) };
        match (self.state, byte) {
            (State::Done, _) => Err(Stop::Bad(at, "the end of the file")),
            (State::Start, b'{') => {
                self.state = State::Top;
                Ok(at + 1)
            }
            (State::Start, b'[') => {
                self.state = State::Events { is_in_object: false };
                self.has_events = true;
                Ok(at + 1)
            }
            (State::Start, _) => Err(Stop::Bad(at, "`{` or `[`")),
            (State::Top | State::Events { .. }, b',') => Ok(at + 1),
            (State::Top, b'}') => {
                self.state = State::Done;
                Ok(at + 1)
            }
            (State::Top, b'"') => self.pair(text, at, visitor),
            (State::Top, _) => Err(Stop::Bad(at, "a key")),
            (State::Events { is_in_object }, b']') => {
                self.state = if is_in_object { State::Top } else { State::Done };
                Ok(at + 1)
            }
            (State::Events { .. }, b'{') => {
                let end = event(text, at, visitor)?;
                self.events += 1;
                Ok(end)
            }
            (State::Events { .. }, b'n') => value_end(text, at),
            (State::Events { .. }, _) => Err(Stop::Bad(at, "an event")),
        }
    }

    fn pair<V: Visitor>(&mut self, text: &[u8], at: usize, visitor: &mut V) -> Walk<usize> {
        let (key, after) = string(text, at)?;
        let start = value_start(text, after)?;
        if key == b"traceEvents" && text.get(start) == Some(&b'[') {
            self.state = State::Events { is_in_object: true };
            self.has_events = true;
            return Ok(start + 1);
        }
        let end = value_end(text, start)?;
        visitor.header(key, text.get(start..end).unwrap_or_default());
        Ok(end)
    }
}

fn event<V: Visitor>(text: &[u8], start: usize, visitor: &mut V) -> Walk<usize> {
    let mut event = RawEvent::default();
    let (mut has_ph, mut has_cat, mut is_asked) = (false, false, false);
    let mut at = start + 1;
    loop {
        at = skip_space(text, at);
        match text.get(at) {
            None => return Err(Stop::More),
            Some(b',') => at += 1,
            Some(b'}') => {
                at += 1;
                break;
            }
            Some(b'"') => {
                let (key, after) = string(text, at)?;
                let from = value_start(text, after)?;
                at = match key {
                    b"ph" => {
                        let (value, end) = text_value(text, from)?;
                        event.ph = value.first().copied().unwrap_or_default();
                        has_ph = true;
                        end
                    }
                    b"cat" => {
                        let (value, end) = text_value(text, from)?;
                        event.cat = value;
                        has_cat = true;
                        end
                    }
                    b"name" => {
                        let (value, end) = text_value(text, from)?;
                        event.name = value;
                        end
                    }
                    b"ts" => {
                        let (value, end) = time_value(text, from)?;
                        event.ts_ns = value;
                        end
                    }
                    b"dur" => {
                        let (value, end) = time_value(text, from)?;
                        event.dur_ns = value;
                        end
                    }
                    b"args" => {
                        let end = value_end(text, from)?;
                        event.args = text.get(from..end).filter(|args| args.starts_with(b"{")).unwrap_or_default();
                        end
                    }
                    b"pid" | b"tid" => {
                        let end = value_end(text, from)?;
                        let value = text.get(from..end).unwrap_or_default();
                        if key == b"pid" {
                            event.pid = value;
                        } else {
                            event.tid = value;
                        }
                        end
                    }
                    _ => value_end(text, from)?,
                };
                if has_ph && has_cat && !is_asked {
                    is_asked = true;
                    if visitor.skips(event.ph, event.cat) {
                        return object_end(text, at).ok_or(Stop::More);
                    }
                }
            }
            Some(_) => return Err(Stop::Bad(at, "a key of an event")),
        }
    }
    if is_asked || !visitor.skips(event.ph, event.cat) {
        visitor.event(&event);
    }
    Ok(at)
}

#[inline]
fn skip_space(text: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = text.get(at) {
        at += 1;
    }
    at
}

/// What stands between quotes at `at`, and the position after them.
#[inline]
fn string(text: &[u8], at: usize) -> Walk<(&[u8], usize)> {
    let from = at + 1;
    let mut look = from;
    loop {
        let rest = text.get(look..).ok_or(Stop::More)?;
        let found = quote_or_backslash(rest).ok_or(Stop::More)?;
        let place = look + found;
        if rest.get(found) == Some(&b'"') {
            return Ok((text.get(from..place).unwrap_or_default(), place + 1));
        }
        look = place + 2;
    }
}

/// Position of the value after a key.
#[inline]
fn value_start(text: &[u8], at: usize) -> Walk<usize> {
    let colon = skip_space(text, at);
    match text.get(colon) {
        None => return Err(Stop::More),
        Some(b':') => {}
        Some(_) => return Err(Stop::Bad(colon, "`:`")),
    }
    let start = skip_space(text, colon + 1);
    if start < text.len() { Ok(start) } else { Err(Stop::More) }
}

/// A string value without its quotes; anything else as written.
#[inline]
fn text_value(text: &[u8], at: usize) -> Walk<(&[u8], usize)> {
    if text.get(at) == Some(&b'"') {
        return string(text, at);
    }
    let end = value_end(text, at)?;
    Ok((text.get(at..end).unwrap_or_default(), end))
}

/// A time, also in quotes; `None` when it is no number.
#[inline]
fn time_value(text: &[u8], at: usize) -> Walk<(Option<i64>, usize)> {
    if text.get(at) == Some(&b'"') {
        let (inside, end) = string(text, at)?;
        return Ok((nanos(inside).filter(|(_, used)| *used == inside.len()).map(|(value, _)| value), end));
    }
    // The common case in one go: a number, then a delimiter.
    if let Some((value, used)) = nanos(text.get(at..).unwrap_or_default())
        && matches!(text.get(at + used), Some(b',' | b'}' | b'\n' | b' ' | b'\r'))
    {
        return Ok((Some(value), at + used));
    }
    let end = value_end(text, at)?;
    let value = text.get(at..end).unwrap_or_default();
    Ok((nanos(value).filter(|(_, used)| *used == value.len()).map(|(value, _)| value), end))
}

/// Position after the value at `at`.
fn value_end(text: &[u8], at: usize) -> Walk<usize> {
    match text.get(at) {
        None => Err(Stop::More),
        Some(b'"') => string(text, at).map(|(_, end)| end),
        Some(b'{') => object_end(text, at + 1).ok_or(Stop::More),
        Some(b'[') => list_end(text, at),
        Some(b',' | b'}' | b']' | b':') => Err(Stop::Bad(at, "a value")),
        Some(_) => {
            let rest = text.get(at..).unwrap_or_default();
            let ends = |b: &u8| ENDS_A_TOKEN.get(usize::from(*b)).copied().unwrap_or(false);
            rest.iter().position(ends).map(|length| at + length).ok_or(Stop::More)
        }
    }
}

/// What may stand behind a number or a word.
const ENDS_A_TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let ends = *b",}] \n\r\t\"{[";
    let mut idx = 0;
    while idx < ends.len() {
        table[ends[idx] as usize] = true;
        idx += 1;
    }
    table
};

/// Position after the list at `at`; nesting is counted, so depth costs nothing.
fn list_end(text: &[u8], at: usize) -> Walk<usize> {
    let mut depth = 0_u64;
    let mut look = at;
    loop {
        match text.get(look) {
            None => return Err(Stop::More),
            Some(b'[') => {
                depth += 1;
                look += 1;
            }
            Some(b']') => {
                depth -= 1;
                look += 1;
                if depth == 0 {
                    return Ok(look);
                }
            }
            Some(b'"') => look = string(text, look)?.1,
            Some(b'{') => look = object_end(text, look + 1).ok_or(Stop::More)?,
            Some(_) => look += 1,
        }
    }
}

/// Keys and values of an object given with its braces, as written.
pub fn pairs(object: &[u8]) -> Pairs<'_> {
    Pairs { text: object, at: 1 }
}

/// See [`pairs`]. Ends early when the object is wrong.
#[derive(Debug, Clone)]
pub struct Pairs<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a [u8], &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.at = skip_space(self.text, self.at);
            match self.text.get(self.at)? {
                b',' => self.at += 1,
                b'"' => break,
                _ => return None,
            }
        }
        let (key, after) = string(self.text, self.at).ok()?;
        let from = value_start(self.text, after).ok()?;
        let end = value_end(self.text, from).ok()?;
        self.at = end;
        Some((key, self.text.get(from..end)?))
    }
}

/// The text of a value: without quotes when it has them.
pub fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value)
}

/// A text with its escapes resolved; wrong ones stay as they are.
pub fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        at += 1;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let Some(&code) = text.get(at) else {
            out.push(byte);
            break;
        };
        at += 1;
        match code {
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b'r' => out.push(b'\r'),
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'"' | b'\\' | b'/' => out.push(code),
            b'u' => {
                let (character, used) = unicode(text.get(at..).unwrap_or_default());
                let mut buffer = [0; 4];
                out.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
                at += used;
            }
            other => out.extend_from_slice(&[b'\\', other]),
        }
    }
    out
}

/// The character after `\u`, with its second half where there is one, and the bytes used.
fn unicode(text: &[u8]) -> (char, usize) {
    let unit = |from: usize| {
        let digits = std::str::from_utf8(text.get(from..from + 4)?).ok()?;
        u32::from_str_radix(digits, 16).ok()
    };
    let Some(first) = unit(0) else { return (char::REPLACEMENT_CHARACTER, 0) };
    if (0xd800..0xdc00).contains(&first)
        && text.get(4..6) == Some(b"\\u")
        && let Some(second) = unit(6).filter(|second| (0xdc00..0xe000).contains(second))
    {
        let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        return (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 10);
    }
    (char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER), 4)
}
