//! Expressions: parsing never panics, printing keeps the meaning, both ways of evaluating agree.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_core::expr::{Expr, Value};

fn lookup(name: &str) -> Value {
    match name.len() % 5 {
        0 => Value::Null,
        1 => Value::Number(3.5),
        2 => Value::Bool(true),
        3 => Value::text("fp8"),
        _ => Value::Number(-8192.0),
    }
}

/// NaN equals itself here: a result is compared with the same result computed in another way.
fn same(a: &Value, b: &Value) -> bool {
    a == b || matches!((a, b), (Value::Number(a), Value::Number(b)) if a.is_nan() && b.is_nan())
}

fuzz_target!(|text: &str| {
    let Ok(expr) = Expr::parse(text) else { return };
    let printed = expr.to_string();
    let direct = expr.eval(&lookup);
    if let Ok(again) = Expr::parse(&printed) {
        assert_eq!(again.to_string(), printed);
        if let (Ok(a), Ok(b)) = (&direct, &again.eval(&lookup)) {
            assert!(same(a, b), "{text:?} gave {a:?}, its printed form {printed:?} gave {b:?}");
        }
    } else {
        // Printing adds parentheses, which may pass the limits on length and depth, and nothing else.
        assert!(text.len() > 256 || printed.len() > 4096, "{text:?} was printed as {printed:?}, which is unreadable");
    }
    let mut names = Vec::new();
    let bound = expr.bind(|name| {
        names.push(name.to_owned());
        names.len() - 1
    });
    let values: Vec<Value> = names.iter().map(|name| lookup(name)).collect();
    match (direct, bound.eval(&values)) {
        (Ok(a), Ok(b)) => assert!(same(&a, &b), "{text:?}: {a:?} by name, {b:?} by slot"),
        (a, b) => assert_eq!(a.is_ok(), b.is_ok(), "{text:?}"),
    }
});
