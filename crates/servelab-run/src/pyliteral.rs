//! Reads the Python values that engines print into their logs: `{'a': 1, 'b': [True, None]}` and `a=1, b='x', c=auto`.
//! Lenient, because logs are not an interface: what is no literal is kept as its own text, and input that ends early
//! gives what was read so far. Never panics, never recurses deeper than [`MAX_DEPTH`].

use serde_json::{Map, Number, Value};

/// Deeper nesting is kept as text.
const MAX_DEPTH: u32 = 32;

/// Reads a dict that starts at the beginning of `text`; `None` when there is none.
pub fn parse_dict(text: &str) -> Option<Map<String, Value>> {
    let mut reader = Reader { text, at: 0 };
    if !reader.eat('{') {
        return None;
    }
    match reader.dict(1) {
        Value::Object(map) => Some(map),
        _ => None,
    }
}

/// Reads `name=value, name=value, …` up to the end of `text`.
pub fn parse_kwargs(text: &str) -> Map<String, Value> {
    let mut reader = Reader { text, at: 0 };
    let mut map = Map::new();
    loop {
        reader.skip_spaces();
        let name_start = reader.at;
        reader.take_while(|c| c.is_alphanumeric() || c == '_');
        let name = reader.since(name_start).to_owned();
        if name.is_empty() || !reader.eat('=') {
            return map;
        }
        let value = reader.value(0);
        map.insert(name, value);
        // Anything between the value and the next comma belongs to no literal that we know.
        reader.skip_opaque();
        if !reader.eat(',') {
            return map;
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn take_while(&mut self, belongs: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&belongs) {
            self.next();
        }
    }

    fn skip_spaces(&mut self) {
        self.take_while(char::is_whitespace);
    }

    fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or("")
    }

    fn value(&mut self, depth: u32) -> Value {
        self.skip_spaces();
        let start = self.at;
        let is_literal = match self.peek() {
            Some(quote @ ('\'' | '"')) => {
                self.next();
                let text = self.string(quote);
                Some(Value::String(text))
            }
            Some('{') if depth < MAX_DEPTH => {
                self.next();
                Some(self.dict(depth + 1))
            }
            Some('[') if depth < MAX_DEPTH => {
                self.next();
                Some(self.list(']', depth + 1))
            }
            Some('(') if depth < MAX_DEPTH => {
                self.next();
                Some(self.list(')', depth + 1))
            }
            _ => None,
        };
        let after_literal = self.at;
        self.skip_opaque();
        match is_literal {
            // `'a' + x`, `{…}.items()`: more than a literal.
            Some(value) if self.text.get(after_literal..self.at).unwrap_or("").trim().is_empty() => value,
            _ => atom(self.since(start).trim()),
        }
    }

    fn string(&mut self, quote: char) -> String {
        let mut out = String::new();
        while let Some(c) = self.next() {
            match c {
                c if c == quote => break,
                '\\' => match self.next() {
                    Some('n') => out.push('\n'),
                    Some('t') => out.push('\t'),
                    Some('r') => out.push('\r'),
                    Some('x') => out.extend(self.escape(2)),
                    Some('u') => out.extend(self.escape(4)),
                    Some(other) => out.push(other),
                    None => break,
                },
                c => out.push(c),
            }
        }
        out
    }

    fn escape(&mut self, digits: usize) -> Option<char> {
        let code = self.rest().get(..digits).and_then(|hex| u32::from_str_radix(hex, 16).ok())?;
        self.at += digits;
        char::from_u32(code)
    }

    fn dict(&mut self, depth: u32) -> Value {
        let mut map = Map::new();
        let mut elements = Vec::new();
        loop {
            self.skip_spaces();
            if self.eat('}') || self.peek().is_none() {
                break;
            }
            let before = self.at;
            let key = self.key(depth);
            self.skip_spaces();
            if self.eat(':') {
                let value = self.value(depth);
                map.insert(key, value);
            } else {
                elements.push(Value::String(key));
            }
            self.skip_opaque();
            if !self.eat(',') && self.peek() != Some('}') && self.at == before {
                self.next();
            }
        }
        // `{1, 2}` is a set.
        if map.is_empty() && !elements.is_empty() { Value::Array(elements) } else { Value::Object(map) }
    }

    /// A dict key ends at its colon, which an opaque value may contain.
    fn key(&mut self, depth: u32) -> String {
        let start = self.at;
        match self.peek() {
            Some(quote @ ('\'' | '"')) => {
                self.next();
                self.string(quote)
            }
            Some('(') if depth < MAX_DEPTH => {
                self.next();
                self.list(')', depth + 1);
                self.since(start).to_owned()
            }
            Some('<') => {
                self.skip_opaque();
                self.since(start).trim().to_owned()
            }
            _ => {
                self.take_while(|c| !matches!(c, ':' | ',' | '}' | ']' | ')'));
                self.since(start).trim().to_owned()
            }
        }
    }

    fn list(&mut self, close: char, depth: u32) -> Value {
        let mut items = Vec::new();
        loop {
            self.skip_spaces();
            if self.eat(close) || self.peek().is_none() {
                return Value::Array(items);
            }
            let before = self.at;
            items.push(self.value(depth));
            if !self.eat(',') && self.peek() != Some(close) && self.at == before {
                // A closing bracket of another kind: step over it instead of looping.
                items.pop();
                self.next();
            }
        }
    }

    /// Skips to the next `,` or closing bracket of this level. Brackets and quotes inside are skipped in pairs.
    fn skip_opaque(&mut self) {
        let mut open = 0_u32;
        while let Some(c) = self.peek() {
            match c {
                ',' if open == 0 => return,
                ')' | ']' | '}' if open == 0 => return,
                '(' | '[' | '{' | '<' => open += 1,
                ')' | ']' | '}' | '>' => open = open.saturating_sub(1),
                '\'' | '"' => {
                    self.next();
                    self.string(c);
                    continue;
                }
                _ => {}
            }
            self.next();
        }
    }
}

fn atom(text: &str) -> Value {
    match text {
        "None" => return Value::Null,
        "True" => return Value::Bool(true),
        "False" => return Value::Bool(false),
        _ => {}
    }
    if let Ok(number) = text.parse::<i64>() {
        return number.into();
    }
    let is_number = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
    let float = if is_number { text.parse().ok().and_then(Number::from_f64) } else { None };
    float.map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn dicts() {
        for (text, expected) in [
            ("{}", json!({})),
            ("{'a': 1, 'b': -2.5, 'c': None, 'd': True}", json!({"a": 1, "b": -2.5, "c": null, "d": true})),
            (r#"{'s': 'it\'s', "t": "a, b}", 'u': '\x41\u00e9'}"#, json!({"s": "it's", "t": "a, b}", "u": "Aé"})),
            (
                "{'l': [1, 'x', (2, 3)], 'e': [], 'n': {'m': {}}}",
                json!({"l": [1, "x", [2, 3]], "e": [], "n": {"m": {}}}),
            ),
            ("{'one': (1,), 2: 'two'} trailing", json!({"one": [1], "2": "two"})),
            ("{'mode': <Mode.NONE: 0>, 'x': 1}", json!({"mode": "<Mode.NONE: 0>", "x": 1})),
            ("{'o': Config(a=[1, 2], b='x, y'), 'x': 1}", json!({"o": "Config(a=[1, 2], b='x, y')", "x": 1})),
            (
                "{'big': 1e300, 'inf': inf, 'date': 2026-01-01}",
                json!({"big": 1e300, "inf": "inf", "date": "2026-01-01"}),
            ),
            ("{'cut': [1, 2", json!({"cut": [1, 2]})),
            ("{'set': {'a', 'b'}}", json!({"set": ["a", "b"]})),
        ] {
            assert_eq!(parse_dict(text).map(Value::Object), Some(expected), "{text}");
        }
        for text in ["", "a", "[1]", "'x'", "{'a'}"] {
            assert_eq!(parse_dict(text), None, "{text}");
        }
    }

    #[test]
    fn keyword_lists() {
        let text = "model='/m', dtype=torch.bfloat16, max_seq_len=2048, load_format=dummy, eager=True, q=None, \
                    c=C(a='x', b=[1, 2]), d={'m': <M.N: 0>, 'l': []}, last=0.5";
        let expected = json!({
            "model": "/m", "dtype": "torch.bfloat16", "max_seq_len": 2048, "load_format": "dummy", "eager": true,
            "q": null, "c": "C(a='x', b=[1, 2])", "d": {"m": "<M.N: 0>", "l": []}, "last": 0.5,
        });
        assert_eq!(Value::Object(parse_kwargs(text)), expected);
        assert!(parse_kwargs("").is_empty());
        assert!(parse_kwargs("no equals").is_empty());
    }

    #[test]
    fn deep_nesting_is_bounded() {
        let deep = format!("{{'a': {}", "[".repeat(100_000));
        assert!(parse_dict(&deep).is_some());
    }

    proptest! {
        #[test]
        fn anything_is_survived(text in r#"[{}()\[\]<>'":,=a1\\ .é-]{0,60}"#) {
            parse_dict(&text);
            parse_kwargs(&text);
        }

        #[test]
        fn json_like_values_survive(map in proptest::collection::btree_map("[a-z]{1,6}", any::<i64>(), 0..8)) {
            let text = format!("{map:?}");
            let parsed = parse_dict(&text);
            let expected: Map<String, Value> = map.into_iter().map(|(k, v)| (k, v.into())).collect();
            prop_assert_eq!(parsed, Some(expected));
        }
    }
}
