//! A JSON reader for other tools' result files: borrows from the text, keeps arrays of numbers as plain vectors, and reads
//! the `NaN`, `Infinity` and `-Infinity` that Python writes. Strings stay as they stand in the file until somebody asks.
//! Any input gives a tree or an error, never a panic; depth is bounded.

use std::borrow::Cow;

/// Deepest nesting that is read: result files have ten levels at most.
const MAX_DEPTH: usize = 64;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub enum Json<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// Any number that is no 64-bit integer; NaN and infinities included.
    Float(f64),
    /// An integer.
    Int(i64),
    /// A string as it stands between its quotes, escapes unread.
    Text(&'a str),
    /// An array of nothing but numbers; integers beyond 2⁵³ lose their last bits.
    Numbers(Vec<f64>),
    /// Any other array.
    Array(Vec<Json<'a>>),
    /// An object in the order of the file; of equal keys the last counts.
    Object(Vec<(&'a str, Json<'a>)>),
}

/// Why a text is no JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError {
    /// Byte offset.
    pub at: usize,
    /// What was expected or found there.
    pub what: &'static str,
}

impl<'a> Json<'a> {
    /// Reads exactly one document.
    pub fn parse(text: &'a str) -> Result<Self, JsonError> {
        let mut reader = Reader { text, bytes: text.as_bytes(), at: 0 };
        let value = reader.value(0)?;
        reader.space();
        if reader.at < reader.bytes.len() { Err(reader.error("more text after the document")) } else { Ok(value) }
    }

    /// Reads one or several documents with only white space between them (JSON lines, `--append-result`). An unfinished
    /// last one is left out when there is another: its writer was killed.
    pub fn parse_all(text: &'a str) -> Result<Vec<Self>, JsonError> {
        let mut reader = Reader { text, bytes: text.as_bytes(), at: 0 };
        let mut all = Vec::new();
        loop {
            reader.space();
            if reader.at >= reader.bytes.len() {
                return if all.is_empty() { Err(reader.error("the file is empty")) } else { Ok(all) };
            }
            match reader.value(0) {
                Ok(value) => all.push(value),
                Err(error) if error.at >= reader.bytes.len() && !all.is_empty() => return Ok(all),
                Err(error) => return Err(error),
            }
        }
    }

    /// The member of an object.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members
            .iter()
            .rev()
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value)
            .filter(|value| **value != Self::Null)
    }

    /// A member of a member: `a.b.c`. Keys with a dot in them are not found this way.
    pub fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |value, key| value.get(key))
    }

    /// The members of an object; nothing for other values.
    pub fn members(&self) -> &[(&'a str, Self)] {
        if let Self::Object(members) = self { members } else { &[] }
    }

    /// Any number, NaN and infinities included.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            Self::Int(value) => Some(*value as f64),
            _ => None,
        }
    }

    /// A count: a whole number of at least zero.
    pub fn count(&self) -> Option<u64> {
        match self {
            Self::Int(value) => u64::try_from(*value).ok(),
            Self::Float(value) if *value >= 0.0 && value.fract() == 0.0 && *value < 9e15 => Some(*value as u64),
            _ => None,
        }
    }

    /// A truth value.
    pub fn truth(&self) -> Option<bool> {
        if let Self::Bool(value) = self { Some(*value) } else { None }
    }

    /// A string, escapes read.
    pub fn text(&self) -> Option<Cow<'a, str>> {
        let Self::Text(raw) = self else { return None };
        Some(if raw.contains('\\') { Cow::Owned(unescape(raw)) } else { Cow::Borrowed(raw) })
    }

    /// Is it a string with something in it?
    pub fn is_text_with_content(&self) -> bool {
        matches!(self, Self::Text(raw) if !raw.is_empty())
    }

    /// Number of items of an array.
    pub fn item_count(&self) -> Option<usize> {
        match self {
            Self::Numbers(items) => Some(items.len()),
            Self::Array(items) => Some(items.len()),
            _ => None,
        }
    }

    /// An array of numbers; anything else in it counts as NaN. `None` for other values.
    pub fn numbers(&self) -> Option<Cow<'_, [f64]>> {
        match self {
            Self::Numbers(items) => Some(Cow::Borrowed(items)),
            Self::Array(items) => Some(items.iter().map(|item| item.number().unwrap_or(f64::NAN)).collect()),
            _ => None,
        }
    }

    /// The items of an array that holds more than numbers, or nothing; empty for other values.
    pub fn items(&self) -> &[Self] {
        if let Self::Array(items) = self { items } else { &[] }
    }

    /// Short text of a scalar, for labels; `None` for arrays, objects and null.
    pub fn label(&self) -> Option<String> {
        match self {
            Self::Text(_) => self.text().map(Cow::into_owned).filter(|text| text.len() <= 200),
            Self::Int(value) => Some(value.to_string()),
            Self::Float(value) => Some(value.to_string()),
            Self::Bool(value) => Some(value.to_string()),
            _ => None,
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn error(&self, what: &'static str) -> JsonError {
        JsonError { at: self.at, what }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Result<Json<'a>, JsonError> {
        if depth > MAX_DEPTH {
            return Err(self.error("nested too deeply"));
        }
        self.space();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(Json::Text),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'n') => self.word("null", Json::Null),
            Some(b'N') => self.word("NaN", Json::Float(f64::NAN)),
            Some(b'I') => self.word("Infinity", Json::Float(f64::INFINITY)),
            Some(b'-') if self.bytes.get(self.at + 1) == Some(&b'I') => {
                self.word("-Infinity", Json::Float(f64::NEG_INFINITY))
            }
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => Err(self.error("no JSON value begins like this")),
            None => Err(self.error("the text ends inside the document")),
        }
    }

    fn word(&mut self, word: &str, value: Json<'a>) -> Result<Json<'a>, JsonError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if rest.starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(value);
        }
        if word.as_bytes().starts_with(rest) {
            self.at = self.bytes.len();
            return Err(self.error("the text ends inside the document"));
        }
        Err(self.error("no JSON value begins like this"))
    }

    fn number(&mut self) -> Result<Json<'a>, JsonError> {
        let start = self.at;
        let mut whole = true;
        while let Some(byte) = self.peek() {
            match byte {
                b'0'..=b'9' | b'-' => {}
                b'.' | b'e' | b'E' | b'+' => whole = false,
                _ => break,
            }
            self.at += 1;
        }
        let digits = self.text.get(start..self.at).unwrap_or_default();
        if let Some(value) = whole.then(|| digits.parse().ok()).flatten() {
            return Ok(Json::Int(value));
        }
        if let Ok(value) = digits.parse() {
            return Ok(Json::Float(value));
        }
        // A number cut off by the end of the text is an unfinished document, not a wrong one.
        if self.at < self.bytes.len() {
            self.at = start;
        }
        Err(self.error("not a number"))
    }

    fn string(&mut self) -> Result<&'a str, JsonError> {
        let start = self.at + 1;
        let mut at = start;
        loop {
            let rest = self.bytes.get(at..).unwrap_or_default();
            let Some(found) = memchr::memchr2(b'"', b'\\', rest) else {
                self.at = self.bytes.len();
                return Err(self.error("the text ends inside a string"));
            };
            at += found;
            if self.bytes.get(at) == Some(&b'"') {
                self.at = at + 1;
                return Ok(self.text.get(start..at).unwrap_or_default());
            }
            at += 2;
        }
    }

    fn array(&mut self, depth: usize) -> Result<Json<'a>, JsonError> {
        self.at += 1;
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Json::Array(Vec::new()));
        }
        let mut numbers: Vec<f64> = Vec::new();
        let mut items: Vec<Json<'a>> = Vec::new();
        loop {
            let value = self.value(depth + 1)?;
            match value.number().filter(|_| items.is_empty()) {
                Some(number) => numbers.push(number),
                None => {
                    if items.is_empty() {
                        items.extend(std::mem::take(&mut numbers).into_iter().map(Json::Float));
                    }
                    items.push(value);
                }
            }
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(if items.is_empty() { Json::Numbers(numbers) } else { Json::Array(items) });
                }
                Some(_) => return Err(self.error("expected `,` or `]`")),
                None => return Err(self.error("the text ends inside an array")),
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json<'a>, JsonError> {
        self.at += 1;
        let mut members = Vec::new();
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Json::Object(members));
        }
        loop {
            self.space();
            match self.peek() {
                Some(b'"') => {}
                Some(_) => return Err(self.error("expected a key in double quotes")),
                None => return Err(self.error("the text ends inside an object")),
            }
            let key = self.string()?;
            self.space();
            match self.peek() {
                Some(b':') => self.at += 1,
                Some(_) => return Err(self.error("expected `:`")),
                None => return Err(self.error("the text ends inside an object")),
            }
            members.push((key, self.value(depth + 1)?));
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Json::Object(members));
                }
                Some(_) => return Err(self.error("expected `,` or `}`")),
                None => return Err(self.error("the text ends inside an object")),
            }
        }
    }
}

fn unescape(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('u') => {
                let unit = |chars: &mut std::str::Chars<'_>| {
                    let digits: String = chars.by_ref().take(4).collect();
                    u32::from_str_radix(&digits, 16).ok()
                };
                let first = unit(&mut chars).unwrap_or(0xfffd);
                let code = if (0xd800..0xdc00).contains(&first) {
                    let mut ahead = chars.clone();
                    let low =
                        (ahead.next() == Some('\\') && ahead.next() == Some('u')).then(|| unit(&mut ahead)).flatten();
                    match low.filter(|low| (0xdc00..0xe000).contains(low)) {
                        Some(low) => {
                            chars = ahead;
                            0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00)
                        }
                        None => 0xfffd,
                    }
                } else {
                    first
                };
                out.push(char::from_u32(code).unwrap_or('\u{fffd}'));
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn python_s_numbers_survive() {
        let value =
            Json::parse(r#"{"a": NaN, "b": [1, -Infinity, Infinity, 2.5e-3], "c": 1764412345678901234, "d": 9}"#)
                .unwrap();
        assert!(value.get("a").unwrap().number().unwrap().is_nan());
        assert_eq!(value.get("b").unwrap(), &Json::Numbers(vec![1.0, f64::NEG_INFINITY, f64::INFINITY, 0.0025]));
        assert_eq!(value.get("c"), Some(&Json::Int(1_764_412_345_678_901_234)));
        assert_eq!(value.get("d"), Some(&Json::Int(9)));
    }

    #[test]
    fn arrays_texts_and_paths() {
        let value =
            Json::parse(" {\"a\": {\"b\": [0.5, null, \"x\\n\\u00e9\\ud83d\\ude00\\\"\"]}, \"e\": []} ").unwrap();
        let items = value.at("a.b").unwrap().items();
        assert_eq!((items.len(), items[0].number()), (3, Some(0.5)));
        assert_eq!(items[2].text().unwrap(), "x\né😀\"");
        assert_eq!((value.get("e").unwrap().item_count(), value.at("a.c.d")), (Some(0), None));
    }

    #[test]
    fn several_documents_and_an_unfinished_last_one() {
        let all = Json::parse_all("{\"a\": 1}\n{\"a\": 2}\n{\"a\": [3, ").unwrap();
        assert_eq!(all.iter().filter_map(|d| d.get("a")?.count()).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(Json::parse_all("{\"a\": tr").unwrap_err().what, "the text ends inside the document");
        for wrong in
            ["", "{", "[1,]", "{\"a\" 1}", "{a: 1}", "nul", "1.2.3", "[1 2]", "\"x", "{\"a\":1} x", &"[".repeat(99)]
        {
            assert!(Json::parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}") {
            let _ = Json::parse(&text);
            let _ = Json::parse_all(&text);
        }

        #[test]
        fn what_serde_reads_is_read_the_same(floats in proptest::collection::vec(any::<f64>(), 0..20), word in ".{0,12}") {
            let source = serde_json::json!({"floats": floats, "word": word});
            let text = source.to_string();
            let read = Json::parse(&text).unwrap();
            prop_assert_eq!(read.get("word").map(|w| w.text().unwrap().into_owned()).unwrap_or_default(), word);
            let numbers = read.get("floats").unwrap().numbers().unwrap().into_owned();
            let expected: Vec<f64> = floats.iter().map(|f| if f.is_finite() { *f } else { f64::NAN }).collect();
            prop_assert_eq!(numbers.len(), expected.len());
            prop_assert!(numbers.iter().zip(&expected).all(|(a, b)| a == b || (a.is_nan() && b.is_nan())));
        }
    }
}
