//! The syntax tree and how it prints.

use std::fmt;

use super::Value;

/// A node and the bytes of source that it came from. Equality ignores the bytes.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) offset: usize,
    pub(super) len: usize,
    /// 1 + the deepest operand.
    pub(super) depth: usize,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Const(Value),
    /// Position of the value; before binding, also that of the name.
    Slot {
        slot: usize,
        name: std::sync::Arc<str>,
    },
    Not(Box<Node>),
    Negate(Box<Node>),
    /// Two or more operands.
    All(Vec<Node>),
    /// Two or more operands.
    Any(Vec<Node>),
    Binary {
        op: Op,
        left: Box<Node>,
        right: Box<Node>,
    },
    In {
        needle: Box<Node>,
        list: Vec<Node>,
        negated: bool,
    },
    Call {
        function: Function,
        args: Vec<Node>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Remainder,
}

impl Op {
    pub(super) const COMPARISONS: [Self; 6] =
        [Self::Equal, Self::NotEqual, Self::Less, Self::LessEqual, Self::Greater, Self::GreaterEqual];
    pub(super) const SUMS: [Self; 2] = [Self::Add, Self::Subtract];
    pub(super) const PRODUCTS: [Self; 4] = [Self::Multiply, Self::Divide, Self::FloorDivide, Self::Remainder];

    pub(super) fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessEqual => "<=",
            Self::Greater => ">",
            Self::GreaterEqual => ">=",
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::FloorDivide => "//",
            Self::Remainder => "%",
        }
    }

    fn precedence(self) -> u8 {
        match self {
            Self::Add | Self::Subtract => 5,
            Self::Multiply | Self::Divide | Self::FloorDivide | Self::Remainder => 6,
            _ => 4,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Min,
    Max,
    Abs,
    Floor,
    Ceil,
    Round,
    Default,
    IsSet,
    Len,
}

impl Function {
    pub(super) const ALL: [Self; 9] =
        [Self::Min, Self::Max, Self::Abs, Self::Floor, Self::Ceil, Self::Round, Self::Default, Self::IsSet, Self::Len];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Min => "min",
            Self::Max => "max",
            Self::Abs => "abs",
            Self::Floor => "floor",
            Self::Ceil => "ceil",
            Self::Round => "round",
            Self::Default => "default",
            Self::IsSet => "is_set",
            Self::Len => "len",
        }
    }

    /// Fewest and most arguments.
    pub(super) fn arity(self) -> (usize, usize) {
        match self {
            Self::Min | Self::Max => (1, usize::MAX),
            Self::Default => (2, 2),
            _ => (1, 1),
        }
    }
}

impl Node {
    /// Replaces slot numbers after binding.
    pub(super) fn remap(&mut self, slots: &[usize]) {
        match &mut self.kind {
            Kind::Const(_) => {}
            Kind::Slot { slot, .. } => *slot = slots.get(*slot).copied().unwrap_or(usize::MAX),
            Kind::Not(inner) | Kind::Negate(inner) => inner.remap(slots),
            Kind::All(nodes) | Kind::Any(nodes) | Kind::Call { args: nodes, .. } => {
                nodes.iter_mut().for_each(|node| node.remap(slots));
            }
            Kind::Binary { left, right, .. } => {
                left.remap(slots);
                right.remap(slots);
            }
            Kind::In { needle, list, .. } => {
                needle.remap(slots);
                list.iter_mut().for_each(|node| node.remap(slots));
            }
        }
    }

    fn precedence(&self) -> u8 {
        match &self.kind {
            Kind::Any(_) => 1,
            Kind::All(_) => 2,
            Kind::Not(_) => 3,
            Kind::In { .. } => 4,
            Kind::Binary { op, .. } => op.precedence(),
            Kind::Negate(_) => 7,
            Kind::Const(_) | Kind::Slot { .. } | Kind::Call { .. } => 8,
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Const(value) => write!(f, "{value}"),
            Kind::Slot { name, .. } => f.write_str(name),
            Kind::Not(inner) => {
                f.write_str("not ")?;
                write_at_least(f, inner, 3)
            }
            Kind::Negate(inner) => {
                f.write_str("-")?;
                write_at_least(f, inner, 7)
            }
            Kind::All(nodes) => write_joined(f, nodes, " and ", 3),
            Kind::Any(nodes) => write_joined(f, nodes, " or ", 2),
            Kind::Binary { op, left, right } => {
                // Comparisons do not chain, sums and products group to the left.
                let own = op.precedence();
                write_at_least(f, left, if own == 4 { 5 } else { own })?;
                write!(f, " {} ", op.symbol())?;
                write_at_least(f, right, own + 1)
            }
            Kind::In { needle, list, negated } => {
                write_at_least(f, needle, 5)?;
                f.write_str(if *negated { " not in [" } else { " in [" })?;
                write_joined(f, list, ", ", 0)?;
                f.write_str("]")
            }
            Kind::Call { function, args } => {
                write!(f, "{}(", function.name())?;
                write_joined(f, args, ", ", 0)?;
                f.write_str(")")
            }
        }
    }
}

fn write_at_least(f: &mut fmt::Formatter<'_>, node: &Node, precedence: u8) -> fmt::Result {
    if node.precedence() < precedence { write!(f, "({node})") } else { write!(f, "{node}") }
}

fn write_joined(f: &mut fmt::Formatter<'_>, nodes: &[Node], separator: &str, precedence: u8) -> fmt::Result {
    for (idx, node) in nodes.iter().enumerate() {
        if idx > 0 {
            f.write_str(separator)?;
        }
        write_at_least(f, node, precedence)?;
    }
    Ok(())
}

/// Writes text in double quotes with the escapes that the lexer reads.
pub(super) fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\t' => f.write_str("\\t")?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}
