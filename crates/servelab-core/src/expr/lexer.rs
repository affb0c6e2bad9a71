//! Text to tokens. Every token knows its bytes, so that errors can point.

use super::{ExprError, MAX_SOURCE_BYTES};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum TokenKind {
    Number(f64),
    Text(String),
    /// A name with dots, or a keyword.
    Word(String),
    /// An operator or a bracket.
    Symbol(&'static str),
    End,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) offset: usize,
    pub(super) len: usize,
}

/// Longest first: `<=` before `<`.
const SYMBOLS: [&str; 20] =
    ["==", "!=", "<=", ">=", "||", "&&", "//", "<", ">", "+", "-", "*", "/", "%", "(", ")", "[", "]", ",", "!"];

pub(super) fn tokens(source: &str) -> Result<Vec<Token>, ExprError> {
    if source.len() > MAX_SOURCE_BYTES {
        return Err(ExprError {
            message: format!("the expression has {} bytes; at most {MAX_SOURCE_BYTES} are accepted", source.len()),
            offset: 0,
            len: 0,
            hint: Some("split it into several rules".to_owned()),
        });
    }
    let mut lexer = Lexer { source, offset: 0 };
    let mut out = Vec::new();
    loop {
        let token = lexer.next_token()?;
        let done = token.kind == TokenKind::End;
        out.push(token);
        if done {
            return Ok(out);
        }
    }
}

struct Lexer<'a> {
    source: &'a str,
    offset: usize,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        self.source.get(self.offset..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Moves over the longest run of characters that `accept` takes and returns it.
    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> &str {
        let start = self.offset;
        let length = self.rest().find(|c| !accept(c)).unwrap_or(self.rest().len());
        self.offset += length;
        self.source.get(start..self.offset).unwrap_or("")
    }

    fn next_token(&mut self) -> Result<Token, ExprError> {
        self.take_while(char::is_whitespace);
        let start = self.offset;
        let kind = match self.peek() {
            None => TokenKind::End,
            Some(c)
                if c.is_ascii_digit() || (c == '.' && self.rest()[1..].starts_with(|d: char| d.is_ascii_digit())) =>
            {
                self.number()?
            }
            Some(c) if c.is_alphabetic() || c == '_' => TokenKind::Word(self.word()?),
            Some(quote @ ('"' | '\'')) => self.text(quote)?,
            Some(c) => self.symbol(c)?,
        };
        Ok(Token { kind, offset: start, len: self.offset - start })
    }

    fn error(&self, start: usize, message: impl Into<String>, hint: Option<&str>) -> ExprError {
        ExprError { message: message.into(), offset: start, len: self.offset - start, hint: hint.map(str::to_owned) }
    }

    fn number(&mut self) -> Result<TokenKind, ExprError> {
        let start = self.offset;
        let mut digits = self.take_while(|c| c.is_ascii_digit() || c == '_').to_owned();
        if self.rest().starts_with('.') {
            self.offset += 1;
            digits.push('.');
            digits.push_str(self.take_while(|c| c.is_ascii_digit() || c == '_'));
        }
        if self.rest().starts_with(['e', 'E']) {
            let after = self.rest()[1..].trim_start_matches(['+', '-']);
            let signs = self.rest().len() - 1 - after.len();
            if signs <= 1 && after.starts_with(|c: char| c.is_ascii_digit()) {
                digits.push_str(&self.rest()[..1 + signs]);
                self.offset += 1 + signs;
                digits.push_str(self.take_while(|c| c.is_ascii_digit()));
            }
        }
        let suffix = self.take_while(|c| c.is_alphanumeric() || c == '_' || c == '.').to_owned();
        let hint = "write the number in full, for instance 32_768 or 1e3";
        if !suffix.is_empty() {
            return Err(self.error(start, format!("a number cannot end in `{suffix}`"), Some(hint)));
        }
        match digits.replace('_', "").parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(TokenKind::Number(value)),
            Ok(_) => Err(self.error(start, "the number is too large", None)),
            Err(_) => Err(self.error(start, "not a number", Some(hint))),
        }
    }

    fn word(&mut self) -> Result<String, ExprError> {
        let start = self.offset;
        let mut word = self.take_while(|c| c.is_alphanumeric() || c == '_').to_owned();
        while self.rest().starts_with('.') {
            self.offset += 1;
            let part = self.take_while(|c| c.is_alphanumeric() || c == '_').to_owned();
            if part.is_empty() {
                return Err(self.error(start, "a name cannot end in a dot", None));
            }
            word.push('.');
            word.push_str(&part);
        }
        Ok(word)
    }

    fn text(&mut self, quote: char) -> Result<TokenKind, ExprError> {
        let start = self.offset;
        self.offset += 1;
        let mut text = String::new();
        while let Some(c) = self.peek() {
            self.offset += c.len_utf8();
            if c == quote {
                return Ok(TokenKind::Text(text));
            }
            if c != '\\' {
                text.push(c);
                continue;
            }
            let escaped = self.peek();
            self.offset += escaped.map_or(0, char::len_utf8);
            text.push(match escaped {
                Some('n') => '\n',
                Some('t') => '\t',
                Some(c @ ('\\' | '"' | '\'')) => c,
                _ => {
                    return Err(self.error(start, "unknown escape in text", Some(r"write a backslash as \\")));
                }
            });
        }
        Err(self.error(start, format!("the text has no closing {quote}"), None))
    }

    fn symbol(&mut self, c: char) -> Result<TokenKind, ExprError> {
        if let Some(symbol) = SYMBOLS.into_iter().find(|symbol| self.rest().starts_with(symbol)) {
            self.offset += symbol.len();
            return Ok(TokenKind::Symbol(symbol));
        }
        let start = self.offset;
        self.offset += c.len_utf8();
        let hint = match c {
            '=' => Some("compare with `==`"),
            '&' => Some("write `and`"),
            '|' => Some("write `or`"),
            '{' | '}' => Some("lists are written [a, b]"),
            '$' => Some("names are written without `$`"),
            '^' => Some("there is no power; write the product"),
            _ => None,
        };
        Err(self.error(start, format!("unexpected `{}`", c.escape_debug()), hint))
    }
}
