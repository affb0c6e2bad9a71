//! Tokens to tree, by precedence: `or`, `and`, `not`, comparisons and `in`, sums, products, unary minus.

use std::sync::Arc;

use super::ast::{Function, Kind, Node, Op};
use super::lexer::{Token, TokenKind, tokens};
use super::{ExprError, MAX_DEPTH, Value};

/// Words that are not names, and what stands for them.
const FOREIGN_WORDS: [(&str, &str); 12] = [
    ("True", "true"),
    ("TRUE", "true"),
    ("False", "false"),
    ("FALSE", "false"),
    ("None", "null"),
    ("NULL", "null"),
    ("nil", "null"),
    ("AND", "and"),
    ("OR", "or"),
    ("NOT", "not"),
    ("IN", "in"),
    ("is", "== or is_set(…)"),
];

pub(super) fn parse(source: &str) -> Result<(Node, Vec<String>), ExprError> {
    let mut parser = Parser { tokens: tokens(source)?, position: 0, nesting: 0, identifiers: Vec::new() };
    if parser.peek().kind == TokenKind::End {
        return Err(parser.error("the expression is empty", None));
    }
    let root = parser.any()?;
    if parser.peek().kind != TokenKind::End {
        return Err(parser.unexpected("the end or an operator"));
    }
    Ok((root, parser.identifiers))
}

struct Parser {
    /// Never empty: the last one is always `End`.
    tokens: Vec<Token>,
    position: usize,
    nesting: usize,
    identifiers: Vec<String>,
}

const END: Token = Token { kind: TokenKind::End, offset: 0, len: 0 };

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.position).or(self.tokens.last()).unwrap_or(&END)
    }

    fn advance(&mut self) {
        if self.position + 1 < self.tokens.len() {
            self.position += 1;
        }
    }

    fn at_symbol(&self, symbol: &str) -> bool {
        matches!(self.peek().kind, TokenKind::Symbol(s) if s == symbol)
    }

    fn at_word(&self, word: &str) -> bool {
        matches!(&self.peek().kind, TokenKind::Word(w) if w == word)
    }

    fn take_symbol(&mut self, symbol: &str) -> bool {
        let found = self.at_symbol(symbol);
        if found {
            self.advance();
        }
        found
    }

    fn take_word_or_symbol(&mut self, word: &str, symbol: &str) -> bool {
        let found = self.at_word(word) || self.at_symbol(symbol);
        if found {
            self.advance();
        }
        found
    }

    fn take_op(&mut self, ops: &[Op]) -> Option<Op> {
        let op = ops.iter().copied().find(|op| self.at_symbol(op.symbol()))?;
        self.advance();
        Some(op)
    }

    fn error(&self, message: impl Into<String>, hint: Option<String>) -> ExprError {
        let token = self.peek();
        ExprError { message: message.into(), offset: token.offset, len: token.len, hint }
    }

    fn unexpected(&self, wanted: &str) -> ExprError {
        match &self.peek().kind {
            TokenKind::End => self.error(format!("the expression ends where {wanted} should be"), None),
            TokenKind::Symbol(symbol) => self.error(format!("`{symbol}` stands where {wanted} should be"), None),
            TokenKind::Number(number) => self.error(format!("`{number}` stands where {wanted} should be"), None),
            TokenKind::Text(_) => self.error(format!("text stands where {wanted} should be"), None),
            TokenKind::Word(word) => self.error(
                format!("`{word}` stands where {wanted} should be"),
                foreign(word).map(|w| format!("write `{w}`")),
            ),
        }
    }

    fn node(&self, kind: Kind, first: &Token) -> Result<Node, ExprError> {
        let depth = 1 + match &kind {
            Kind::Const(_) | Kind::Slot { .. } => 0,
            Kind::Not(inner) | Kind::Negate(inner) => inner.depth,
            Kind::All(nodes) | Kind::Any(nodes) | Kind::Call { args: nodes, .. } => deepest(nodes),
            Kind::Binary { left, right, .. } => left.depth.max(right.depth),
            Kind::In { needle, list, .. } => needle.depth.max(deepest(list)),
        };
        if depth > MAX_DEPTH {
            return Err(self.too_deep());
        }
        let end = self.position.checked_sub(1).and_then(|last| self.tokens.get(last)).map_or(0, |t| t.offset + t.len);
        Ok(Node { kind, offset: first.offset, len: end.saturating_sub(first.offset), depth })
    }

    fn too_deep(&self) -> ExprError {
        self.error(format!("more than {MAX_DEPTH} levels of nesting"), Some("split it into several rules".to_owned()))
    }

    /// Runs `inner` one level deeper; the only way to recurse.
    fn nested(&mut self, inner: fn(&mut Self) -> Result<Node, ExprError>) -> Result<Node, ExprError> {
        if self.nesting >= MAX_DEPTH {
            return Err(self.too_deep());
        }
        self.nesting += 1;
        let node = inner(self);
        self.nesting -= 1;
        node
    }

    fn any(&mut self) -> Result<Node, ExprError> {
        let first = self.peek().clone();
        let mut nodes = vec![self.all()?];
        while self.take_word_or_symbol("or", "||") {
            nodes.push(self.all()?);
        }
        self.joined(nodes, Kind::Any, &first)
    }

    fn all(&mut self) -> Result<Node, ExprError> {
        let first = self.peek().clone();
        let mut nodes = vec![self.negation()?];
        while self.take_word_or_symbol("and", "&&") {
            nodes.push(self.negation()?);
        }
        self.joined(nodes, Kind::All, &first)
    }

    fn joined(&self, mut nodes: Vec<Node>, kind: fn(Vec<Node>) -> Kind, first: &Token) -> Result<Node, ExprError> {
        match nodes.pop() {
            Some(only) if nodes.is_empty() => Ok(only),
            Some(last) => {
                nodes.push(last);
                self.node(kind(nodes), first)
            }
            None => Err(self.unexpected("a value")),
        }
    }

    fn negation(&mut self) -> Result<Node, ExprError> {
        let first = self.peek().clone();
        if self.take_word_or_symbol("not", "!") {
            let inner = self.nested(Self::negation)?;
            return self.node(Kind::Not(Box::new(inner)), &first);
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Node, ExprError> {
        let first = self.peek().clone();
        let left = self.sum()?;
        let negated = self.at_word("not");
        if negated {
            self.advance();
        }
        if self.at_word("in") {
            self.advance();
            if !self.take_symbol("[") {
                return Err(self.unexpected("a list like [1, 2]"));
            }
            let list = self.list("]")?;
            let node = self.node(Kind::In { needle: Box::new(left), list, negated }, &first)?;
            return self.reject_chain(node);
        }
        if negated {
            return Err(self.unexpected("`in`"));
        }
        let Some(op) = self.take_op(&Op::COMPARISONS) else {
            return Ok(left);
        };
        let right_token = self.peek().clone();
        let right = self.sum()?;
        if let Some(token) =
            [(&left, &first), (&right, &right_token)].iter().find(|(n, _)| is_null(n)).map(|(_, token)| *token)
        {
            return Err(ExprError {
                message: "a comparison with null is never true or false".to_owned(),
                offset: token.offset,
                len: token.len,
                hint: Some("write `is_set(x)` or `not is_set(x)`".to_owned()),
            });
        }
        let node = self.node(Kind::Binary { op, left: Box::new(left), right: Box::new(right) }, &first)?;
        self.reject_chain(node)
    }

    fn reject_chain(&self, node: Node) -> Result<Node, ExprError> {
        if Op::COMPARISONS.iter().any(|op| self.at_symbol(op.symbol())) || self.at_word("in") {
            let hint = Some("write `a < b and b < c`".to_owned());
            return Err(self.error("comparisons do not chain", hint));
        }
        Ok(node)
    }

    fn sum(&mut self) -> Result<Node, ExprError> {
        self.left_grouped(&Op::SUMS, |parser| parser.left_grouped(&Op::PRODUCTS, Self::unary))
    }

    fn left_grouped(
        &mut self,
        ops: &[Op],
        operand: fn(&mut Self) -> Result<Node, ExprError>,
    ) -> Result<Node, ExprError> {
        let first = self.peek().clone();
        let mut left = operand(self)?;
        while let Some(op) = self.take_op(ops) {
            let right = operand(self)?;
            left = self.node(Kind::Binary { op, left: Box::new(left), right: Box::new(right) }, &first)?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Node, ExprError> {
        let first = self.peek().clone();
        if self.take_symbol("-") {
            let inner = self.nested(Self::unary)?;
            return self.node(Kind::Negate(Box::new(inner)), &first);
        }
        self.primary()
    }

    fn primary(&mut self) -> Result<Node, ExprError> {
        let first = self.peek().clone();
        match first.kind.clone() {
            TokenKind::Number(number) => self.constant(Value::Number(number), &first),
            TokenKind::Text(text) => self.constant(Value::text(text), &first),
            TokenKind::Symbol("(") => {
                self.advance();
                let inner = self.nested(Self::any)?;
                if !self.take_symbol(")") {
                    return Err(self.unexpected("`)`"));
                }
                Ok(inner)
            }
            TokenKind::Word(word) => self.word(&word, &first),
            TokenKind::Symbol("[") => {
                Err(self.error("a list can only follow `in`", Some("write `x in [1, 2]`".to_owned())))
            }
            TokenKind::Symbol(_) | TokenKind::End => Err(self.unexpected("a value")),
        }
    }

    fn constant(&mut self, value: Value, first: &Token) -> Result<Node, ExprError> {
        self.advance();
        self.node(Kind::Const(value), first)
    }

    fn word(&mut self, word: &str, first: &Token) -> Result<Node, ExprError> {
        match word {
            "true" => return self.constant(Value::Bool(true), first),
            "false" => return self.constant(Value::Bool(false), first),
            "null" => return self.constant(Value::Null, first),
            "and" | "or" | "not" | "in" => return Err(self.unexpected("a value")),
            _ => {}
        }
        if let Some(ours) = foreign(word) {
            return Err(self.error(format!("`{word}` is not a name"), Some(format!("write `{ours}`"))));
        }
        self.advance();
        if self.at_symbol("(") {
            return self.call(word, first);
        }
        let slot = self.identifiers.iter().position(|name| name == word).unwrap_or_else(|| {
            self.identifiers.push(word.to_owned());
            self.identifiers.len() - 1
        });
        self.node(Kind::Slot { slot, name: Arc::from(word) }, first)
    }

    fn call(&mut self, word: &str, first: &Token) -> Result<Node, ExprError> {
        let pointing =
            |message: String, hint: Option<String>| ExprError { message, offset: first.offset, len: first.len, hint };
        let Some(function) = Function::ALL.into_iter().find(|function| function.name() == word) else {
            let names = Function::ALL.map(Function::name);
            let near = names.iter().find(|name| strsim::damerau_levenshtein(name, word) <= 2);
            let hint = match near {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("there are {}", names.join(", ")),
            };
            return Err(pointing(format!("there is no function `{word}`"), Some(hint)));
        };
        self.advance();
        let args = self.list(")")?;
        let (fewest, most) = function.arity();
        if args.len() < fewest || args.len() > most {
            let wanted = if most == usize::MAX { format!("at least {fewest}") } else { fewest.to_string() };
            return Err(pointing(format!("`{word}` takes {wanted} argument(s), here are {}", args.len()), None));
        }
        self.node(Kind::Call { function, args }, first)
    }

    /// Comma-separated expressions up to `close`; the opening bracket is already taken.
    fn list(&mut self, close: &str) -> Result<Vec<Node>, ExprError> {
        let mut nodes = Vec::new();
        if self.take_symbol(close) {
            return Ok(nodes);
        }
        loop {
            nodes.push(self.nested(Self::any)?);
            if self.take_symbol(close) {
                return Ok(nodes);
            }
            if !self.take_symbol(",") {
                return Err(self.unexpected(&format!("`,` or `{close}`")));
            }
        }
    }
}

fn deepest(nodes: &[Node]) -> usize {
    nodes.iter().map(|node| node.depth).max().unwrap_or(0)
}

fn is_null(node: &Node) -> bool {
    matches!(node.kind, Kind::Const(Value::Null))
}

fn foreign(word: &str) -> Option<&'static str> {
    FOREIGN_WORDS.iter().find(|(theirs, _)| *theirs == word).map(|(_, ours)| *ours)
}
