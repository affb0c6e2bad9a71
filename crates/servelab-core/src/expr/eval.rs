//! Evaluation over borrowed values. Only errors allocate.

use std::cmp::Ordering;

use super::ast::{Function, Kind, Node, Op};
use super::{EvalError, Value};

/// A value that borrows its text from the tree or from the caller's values.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    Number(f64),
    Text(&'a Value),
}

impl From<Scalar<'_>> for Value {
    fn from(scalar: Scalar<'_>) -> Self {
        match scalar {
            Scalar::Null => Self::Null,
            Scalar::Bool(value) => Self::Bool(value),
            Scalar::Number(value) => Self::Number(value),
            Scalar::Text(value) => value.clone(),
        }
    }
}

impl<'a> Scalar<'a> {
    fn borrow(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(value) => Self::number(*value),
            Value::Text(_) => Self::Text(value),
        }
    }

    /// Infinite and undefined results are not values.
    fn number(value: f64) -> Self {
        if value.is_finite() { Self::Number(value) } else { Self::Null }
    }

    fn describe(self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => format!("truth value {value}"),
            Self::Number(value) => format!("number {value}"),
            Self::Text(value) => format!("text {value}"),
        }
    }
}

type Evaluated<'a> = Result<Scalar<'a>, EvalError>;

pub(super) fn evaluate<'a>(node: &'a Node, values: &'a [Value]) -> Evaluated<'a> {
    match &node.kind {
        Kind::Const(value) => Ok(Scalar::borrow(value)),
        Kind::Slot { slot, .. } => Ok(values.get(*slot).map_or(Scalar::Null, Scalar::borrow)),
        Kind::Not(inner) => Ok(truth(inner, values)?.map_or(Scalar::Null, |value| Scalar::Bool(!value))),
        Kind::Negate(inner) => Ok(number(inner, values)?.map_or(Scalar::Null, |value| Scalar::Number(-value))),
        Kind::All(nodes) => kleene(nodes, values, false),
        Kind::Any(nodes) => kleene(nodes, values, true),
        Kind::Binary { op, left, right } => binary(node, *op, left, right, values),
        Kind::In { needle, list, negated } => membership(needle, list, *negated, values),
        Kind::Call { function, args } => call(node, *function, args, values),
    }
}

/// The node's truth value; anything else than a truth value or null is an error.
pub(super) fn truth(node: &Node, values: &[Value]) -> Result<Option<bool>, EvalError> {
    match evaluate(node, values)? {
        Scalar::Null => Ok(None),
        Scalar::Bool(value) => Ok(Some(value)),
        other => Err(error(node, format!("expected true or false, found {}", other.describe()))),
    }
}

fn number(node: &Node, values: &[Value]) -> Result<Option<f64>, EvalError> {
    match evaluate(node, values)? {
        Scalar::Null => Ok(None),
        Scalar::Number(value) => Ok(Some(value)),
        other => Err(error(node, format!("expected a number, found {}", other.describe()))),
    }
}

fn error(node: &Node, message: String) -> EvalError {
    EvalError { message, subexpression: node.to_string(), offset: node.offset, len: node.len }
}

/// `decisive` is the operand that settles the result: false for `and`, true for `or`. Operands to its right are not
/// evaluated, so that a guard on the left protects what follows.
fn kleene<'a>(nodes: &'a [Node], values: &'a [Value], decisive: bool) -> Evaluated<'a> {
    let mut unknown = false;
    for node in nodes {
        match truth(node, values)? {
            Some(value) if value == decisive => return Ok(Scalar::Bool(decisive)),
            Some(_) => {}
            None => unknown = true,
        }
    }
    Ok(if unknown { Scalar::Null } else { Scalar::Bool(!decisive) })
}

/// Equality across types is false, not an error: `max_num_seqs == "auto"` must work when the setting is a number.
fn equal(left: Scalar<'_>, right: Scalar<'_>) -> Option<bool> {
    match (left, right) {
        (Scalar::Null, _) | (_, Scalar::Null) => None,
        (Scalar::Bool(a), Scalar::Bool(b)) => Some(a == b),
        (Scalar::Number(a), Scalar::Number(b)) => Some(a == b),
        (Scalar::Text(a), Scalar::Text(b)) => Some(a == b),
        _ => Some(false),
    }
}

fn order(node: &Node, left: Scalar<'_>, right: Scalar<'_>) -> Result<Option<Ordering>, EvalError> {
    match (left, right) {
        (Scalar::Null, _) | (_, Scalar::Null) => Ok(None),
        (Scalar::Number(a), Scalar::Number(b)) => Ok(a.partial_cmp(&b)),
        (Scalar::Text(Value::Text(a)), Scalar::Text(Value::Text(b))) => Ok(Some(a.cmp(b))),
        (a, b) => Err(error(node, format!("cannot order {} and {}", a.describe(), b.describe()))),
    }
}

fn binary<'a>(node: &'a Node, op: Op, left: &'a Node, right: &'a Node, values: &'a [Value]) -> Evaluated<'a> {
    let a = evaluate(left, values)?;
    let b = evaluate(right, values)?;
    let compared = match op {
        Op::Equal => equal(a, b),
        Op::NotEqual => equal(a, b).map(|same| !same),
        Op::Less => order(node, a, b)?.map(Ordering::is_lt),
        Op::LessEqual => order(node, a, b)?.map(Ordering::is_le),
        Op::Greater => order(node, a, b)?.map(Ordering::is_gt),
        Op::GreaterEqual => order(node, a, b)?.map(Ordering::is_ge),
        _ => return arithmetic(node, op, a, b),
    };
    Ok(compared.map_or(Scalar::Null, Scalar::Bool))
}

fn arithmetic<'a>(node: &'a Node, op: Op, a: Scalar<'a>, b: Scalar<'a>) -> Evaluated<'a> {
    let (a, b) = match (a, b) {
        (Scalar::Number(a), Scalar::Number(b)) => (a, b),
        (Scalar::Null, Scalar::Null | Scalar::Number(_)) | (Scalar::Number(_), Scalar::Null) => {
            return Ok(Scalar::Null);
        }
        (a, b) => {
            let (a, b) = (a.describe(), b.describe());
            return Err(error(node, format!("cannot compute {} with {a} and {b}", op.symbol())));
        }
    };
    // Division by zero gives an infinity or NaN, which `Scalar::number` turns into null.
    Ok(Scalar::number(match op {
        Op::Add => a + b,
        Op::Subtract => a - b,
        Op::Multiply => a * b,
        Op::Divide => a / b,
        Op::FloorDivide => (a / b).floor(),
        _ => a - b * (a / b).floor(),
    }))
}

fn membership<'a>(needle: &'a Node, list: &'a [Node], negated: bool, values: &'a [Value]) -> Evaluated<'a> {
    let wanted = evaluate(needle, values)?;
    let mut unknown = matches!(wanted, Scalar::Null) && !list.is_empty();
    for item in list {
        match equal(wanted, evaluate(item, values)?) {
            Some(true) => return Ok(Scalar::Bool(!negated)),
            Some(false) => {}
            None => unknown = true,
        }
    }
    Ok(if unknown { Scalar::Null } else { Scalar::Bool(negated) })
}

fn call<'a>(node: &'a Node, function: Function, args: &'a [Node], values: &'a [Value]) -> Evaluated<'a> {
    let Some(first) = args.first() else {
        return Ok(Scalar::Null);
    };
    let rounded = |round: fn(f64) -> f64| Ok(number(first, values)?.map_or(Scalar::Null, |x| Scalar::number(round(x))));
    match function {
        Function::Min => extreme(args, values, f64::min),
        Function::Max => extreme(args, values, f64::max),
        Function::Abs => rounded(f64::abs),
        Function::Floor => rounded(f64::floor),
        Function::Ceil => rounded(f64::ceil),
        Function::Round => rounded(f64::round),
        Function::IsSet => Ok(Scalar::Bool(!matches!(evaluate(first, values)?, Scalar::Null))),
        Function::Default => match evaluate(first, values)? {
            Scalar::Null => args.get(1).map_or(Ok(Scalar::Null), |fallback| evaluate(fallback, values)),
            value => Ok(value),
        },
        Function::Len => match evaluate(first, values)? {
            Scalar::Null => Ok(Scalar::Null),
            Scalar::Text(Value::Text(text)) => Ok(Scalar::Number(text.chars().count() as f64)),
            other => Err(error(node, format!("expected text, found {}", other.describe()))),
        },
    }
}

fn extreme<'a>(args: &'a [Node], values: &'a [Value], pick: fn(f64, f64) -> f64) -> Evaluated<'a> {
    let mut best: Option<f64> = None;
    let mut unknown = false;
    for arg in args {
        match number(arg, values)? {
            Some(value) => best = Some(best.map_or(value, |b| pick(b, value))),
            None => unknown = true,
        }
    }
    Ok(if unknown { Scalar::Null } else { best.map_or(Scalar::Null, Scalar::Number) })
}
