use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn lookup(name: &str) -> Value {
    match name {
        "tp" | "p.tp" => Value::Number(4.0),
        "d.tp" => Value::Number(2.0),
        "heads" => Value::Number(96.0),
        "enable_eplb" => Value::Bool(true),
        "chunked" => Value::Bool(false),
        "kv_cache_dtype" => Value::text("fp8"),
        "max_num_seqs" => Value::text("auto"),
        _ => Value::Null,
    }
}

fn check(source: &str, expected: Value) {
    let expr = Expr::parse(source).unwrap_or_else(|error| panic!("{source}: {error:?}"));
    assert_eq!(expr.eval(&lookup).unwrap_or_else(|error| panic!("{source}: {error}")), expected, "{source}");
    let again = Expr::parse(&expr.to_string()).unwrap_or_else(|error| panic!("{expr}: {error:?}"));
    assert_eq!(again.to_string(), expr.to_string());
    assert_eq!(again.eval(&lookup), Ok(expected), "{source} printed as {expr}");
    let bound = expr.bind(|name| name.len());
    let mut values = vec![Value::Null; 64];
    let mut seen = BTreeMap::new();
    for name in expr.identifiers() {
        values[name.len()] = lookup(name);
        seen.insert(name.len(), name);
    }
    if seen.len() == expr.identifiers().len() {
        assert_eq!(bound.eval(&values), expr.eval(&lookup), "bound {source}");
    }
}

#[test]
fn evaluates() {
    let yes = || Value::Bool(true);
    let no = || Value::Bool(false);
    let num = Value::Number;
    for (source, expected) in [
        ("1 + 2 * 3", num(7.0)),
        ("(1 + 2) * 3", num(9.0)),
        ("10 - 4 - 3", num(3.0)),
        ("10 - (4 - 3)", num(9.0)),
        ("2 / 4", num(0.5)),
        ("7 // 2", num(3.0)),
        ("-7 // 2", num(-4.0)),
        ("-7 % 3", num(2.0)),
        ("7 % 3", num(1.0)),
        ("1 / 0", Value::Null),
        ("1 % 0", Value::Null),
        ("1 // 0", Value::Null),
        ("1e300 * 1e300", Value::Null),
        ("1_000 + 1e3 + 0.5 + .5", num(2001.0)),
        ("--2", num(2.0)),
        ("heads % tp == 0", yes()),
        ("heads % 7 == 0", no()),
        ("p.tp <= d.tp", no()),
        ("p.tp > d.tp and enable_eplb", yes()),
        ("not enable_eplb or chunked", no()),
        ("!enable_eplb || !chunked && true", yes()),
        ("kv_cache_dtype == 'fp8'", yes()),
        ("kv_cache_dtype != \"fp8\"", no()),
        ("kv_cache_dtype in ['auto', 'fp8']", yes()),
        ("kv_cache_dtype not in ['auto', 'fp8']", no()),
        ("tp in []", no()),
        ("tp not in []", yes()),
        ("missing in []", no()),
        ("missing in [1]", Value::Null),
        ("tp in [missing, 4]", yes()),
        ("tp in [missing, 5]", Value::Null),
        ("max_num_seqs == 4", no()),
        ("max_num_seqs != 4", yes()),
        ("'a' < 'b'", yes()),
        ("missing", Value::Null),
        ("missing > 3", Value::Null),
        ("not missing", Value::Null),
        ("missing and false", no()),
        ("missing and true", Value::Null),
        ("missing or true", yes()),
        ("missing or false", Value::Null),
        ("missing + 1", Value::Null),
        ("chunked or missing >= 5", Value::Null),
        ("is_set(missing)", no()),
        ("is_set(tp)", yes()),
        ("is_set(missing) and missing < 'x'", no()),
        ("default(missing, 3) + 1", num(4.0)),
        ("default(tp, 3)", num(4.0)),
        ("min(3, 1, 2)", num(1.0)),
        ("max(3, 1, 2)", num(3.0)),
        ("max(3, missing)", Value::Null),
        ("abs(-3) + floor(1.5) + ceil(1.5) + round(2.4)", num(8.0)),
        ("len('añb')", num(3.0)),
        ("len(missing)", Value::Null),
        ("null", Value::Null),
        ("true", yes()),
        (r#"'it\'s' == "it's""#, yes()),
        ("not (1 < 2) == false", yes()),
        ("chunked and tp < 'x'", no()),
    ] {
        check(source, expected);
    }
}

#[test]
fn type_errors_name_the_subexpression() {
    for (source, subexpression) in [
        ("enable_eplb and kv_cache_dtype < 3", "kv_cache_dtype < 3"),
        ("1 + (tp + kv_cache_dtype)", "tp + kv_cache_dtype"),
        ("tp and true", "tp"),
        ("not tp", "tp"),
        ("-kv_cache_dtype", "kv_cache_dtype"),
        ("true < false", "true < false"),
        ("len(3)", "len(3)"),
        ("max(1, 'a')", "\"a\""),
    ] {
        let expr = Expr::parse(source).expect(source);
        let error = expr.eval(&lookup).expect_err(source);
        assert_eq!(error.subexpression, subexpression, "{error}");
        let at = source.get(error.offset..error.offset + error.len).expect("inside the source");
        assert_eq!(at.replace('\'', "\""), subexpression, "the caret points at the subexpression");
    }
}

#[test]
fn truth_rejects_numbers() {
    let bound = Expr::parse("a + 1").expect("valid").bind(|_| 0);
    assert!(bound.truth(&[Value::Number(1.0)]).is_err());
    let bound = Expr::parse("a > 1").expect("valid").bind(|_| 0);
    assert_eq!(bound.truth(&[Value::Number(2.0)]), Ok(Some(true)));
    assert_eq!(bound.truth(&[]), Ok(None));
}

#[test]
fn rejects_with_position_and_hint() {
    for (source, offset, len, hint) in [
        ("a = 1", 2, 1, Some("compare with `==`")),
        ("a & b", 2, 1, Some("write `and`")),
        ("a AND b", 2, 3, Some("write `and`")),
        ("a == True", 5, 4, Some("write `true`")),
        ("a == null", 5, 4, Some("write `is_set(x)` or `not is_set(x)`")),
        ("1k < 2", 0, 2, Some("write the number in full, for instance 32_768 or 1e3")),
        ("maxx(1)", 0, 4, Some("did you mean `max`?")),
        ("1 < 2 < 3", 6, 1, Some("write `a < b and b < c`")),
        ("[1]", 0, 1, Some("write `x in [1, 2]`")),
        ("default(1)", 0, 7, None),
        ("", 0, 0, None),
        ("(a", 2, 0, None),
        ("a b", 2, 1, None),
        ("'open", 0, 5, None),
        ("a.", 0, 2, None),
        ("1e999", 0, 5, None),
        ("a not b", 6, 1, None),
        ("a in 3", 5, 1, None),
        ("or a", 0, 2, None),
    ] {
        let error = Expr::parse(source).expect_err(source);
        assert_eq!((error.offset, error.len, error.hint.as_deref()), (offset, len, hint), "{source}: {error:?}");
        assert!(!error.message.is_empty());
    }
}

#[test]
fn identifiers_are_distinct_and_ordered() {
    let expr = Expr::parse("b.c + a > b.c and max(a, d2) == 1").expect("valid");
    assert_eq!(expr.identifiers(), ["b.c", "a", "d2"]);
}

#[test]
fn depth_is_limited_without_overflow() {
    let long = 100_000;
    for source in ["(".repeat(long), "-".repeat(long), "not ".repeat(long), "max(".repeat(long)] {
        assert!(Expr::parse(&source).is_err());
    }
    for (open, close) in [("(", ")"), ("-", ""), ("not ", ""), ("max(", ")"), ("1+", ""), ("1 in [", "]")] {
        for n in [10, 90, 200, 2000] {
            let source = format!("{}1{}", open.repeat(n), close.repeat(n));
            let parsed = Expr::parse(&source);
            assert!(n >= 90 || parsed.is_ok(), "{source}");
            assert!(n <= 90 || parsed.is_err(), "{n} × {open}");
        }
    }
    let wide = vec!["a == 1"; 1000].join(" or ");
    assert_eq!(Expr::parse(&wide).expect("wide is fine").eval(&|_| Value::Number(1.0)), Ok(Value::Bool(true)));
}

#[test]
fn printing_keeps_structure() {
    for (source, printed) in [
        ("(a or b) and c", "(a or b) and c"),
        ("a or (b and c)", "a or b and c"),
        ("not(a and b)", "not (a and b)"),
        ("a-(b-c)", "a - (b - c)"),
        ("(a-b)-c", "a - b - c"),
        ("-(a+b)", "-(a + b)"),
        ("(a<b)==c", "(a < b) == c"),
        ("x in ['a','b\"']", "x in [\"a\", \"b\\\"\"]"),
        ("a || b || c", "a or b or c"),
        // Grouping that the author wrote between equal operators stays.
        ("(a or b) or c", "(a or b) or c"),
    ] {
        assert_eq!(Expr::parse(source).expect(source).to_string(), printed);
    }
}

fn arbitrary_expr() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "[a-e](\\.[a-e0-9]{1,3})?".prop_filter("keyword", |s| s != "in"),
        (0u32..100_000).prop_map(|n| n.to_string()),
        (0.0f64..1e6).prop_map(|x| x.to_string()),
        Just("true".to_owned()),
        "[a-z \"'\\\\é]{0,4}".prop_map(|s| format!("'{}'", s.replace('\\', "\\\\").replace('\'', "\\'"))),
    ];
    leaf.prop_recursive(5, 40, 4, |inner| {
        let op = prop::sample::select(vec!["and", "or", "+", "-", "*", "/", "//", "%", "<", "==", ">=", "!="]);
        prop_oneof![
            (inner.clone(), op, inner.clone()).prop_map(|(a, op, b)| format!("({a}) {op} ({b})")),
            inner.clone().prop_map(|a| format!("not ({a})")),
            inner.clone().prop_map(|a| format!("-({a})")),
            (inner.clone(), prop::collection::vec(inner.clone(), 0..3))
                .prop_map(|(a, list)| format!("({a}) not in [{}]", list.join(", "))),
            prop::collection::vec(inner, 1..4).prop_map(|args| format!("max({})", args.join(", "))),
        ]
    })
}

proptest! {
    #[test]
    fn never_panics_on_any_text(source in "\\PC{0,60}") {
        let _ = Expr::parse(&source).map(|expr| expr.eval(&lookup));
    }

    #[test]
    fn never_panics_on_token_soup(words in prop::collection::vec(prop::sample::select(vec![
        "a", "1", "(", ")", "[", "]", ",", "and", "or", "not", "in", "+", "-", "<", "==", "max", "'x'", "null", "//", "é",
    ]), 0..30)) {
        let source = words.join(" ");
        match Expr::parse(&source) {
            Ok(expr) => { let _ = expr.eval(&lookup); }
            Err(error) => prop_assert!(source.get(error.offset..error.offset + error.len).is_some()),
        }
    }

    #[test]
    fn printing_round_trips(source in arbitrary_expr()) {
        let expr = Expr::parse(&source).expect("generated");
        let printed = expr.to_string();
        let again = Expr::parse(&printed).unwrap_or_else(|error| panic!("{printed}: {error:?}"));
        prop_assert_eq!(again.to_string(), printed);
        let (a, b) = (expr.eval(&lookup), again.eval(&lookup));
        match (a, b) {
            (Ok(a), Ok(b)) => prop_assert_eq!(a, b),
            (a, b) => prop_assert_eq!(a.is_err(), b.is_err()),
        }
    }

    #[test]
    fn bound_and_looked_up_agree(source in arbitrary_expr(), numbers in prop::collection::vec(-5.0f64..5.0, 8)) {
        let expr = Expr::parse(&source).expect("generated");
        let values: Vec<Value> = numbers.iter().map(|n| Value::Number(n.round())).collect();
        let slot = |name: &str| name.bytes().map(usize::from).sum::<usize>() % 8;
        let bound = expr.bind(slot).eval(&values);
        let looked_up = expr.eval(&|name| values[slot(name)].clone());
        prop_assert_eq!(bound.ok(), looked_up.ok());
    }
}
