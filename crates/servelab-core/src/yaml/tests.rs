use proptest::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;

use super::*;
use crate::source::{Diagnostic, SourceMap};

fn tree(text: &str) -> Result<Node, String> {
    let mut sources = SourceMap::default();
    let id = sources.add("a.yaml", text);
    parse(id, text).map_err(|diagnostic| diagnostic.render(&sources))
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only printed with Debug")]
struct Sample {
    max_num_seqs: Option<u32>,
    name: Option<String>,
    eager: Option<bool>,
    nested: Option<Nested>,
    kind: Option<Kind>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only printed with Debug")]
struct Nested {
    needed: f64,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "only printed with Debug")]
enum Kind {
    Poisson,
    Gamma(f64),
}

fn typed(text: &str) -> String {
    let mut sources = SourceMap::default();
    let id = sources.add("a.yaml", text);
    let result = parse(id, text).and_then(|node| from_node::<Sample>(&node));
    match result {
        Ok(sample) => format!("{sample:?}"),
        Err(diagnostic) => diagnostic.render(&sources),
    }
}

#[test]
fn scalars_follow_the_core_schema() {
    let check = |text: &str, expected: NodeValue| assert_eq!(tree(text).unwrap().value, expected, "{text}");
    check("no", NodeValue::Text("no".into()));
    check("007", NodeValue::Text("007".into()));
    check("04:00:00", NodeValue::Text("04:00:00".into()));
    check("0.11.*", NodeValue::Text("0.11.*".into()));
    check("1e3", NodeValue::Float(1000.0));
    check("-3", NodeValue::Int(-3));
    check(".5", NodeValue::Float(0.5));
    check("1_000", NodeValue::Text("1_000".into()));
    check("\"12\"", NodeValue::Text("12".into()));
    check("!!str 12", NodeValue::Text("12".into()));
    check("~", NodeValue::Null);
    check("0", NodeValue::Int(0));
    check("99999999999999999999", NodeValue::Float(1e20));
}

#[test]
fn errors_point_at_the_place() {
    let check = |text: &str, expected: &str| assert_eq!(typed(text), expected);
    check(
        "name: x\nmax_num_seq: 64\n",
        "error: unknown key `max_num_seq`\n --> a.yaml:2:1\n  |\n2 | max_num_seq: 64\n  | ^^^^^^^^^^^\n  = help: did you mean `max_num_seqs`?\n",
    );
    check(
        "max_num_seqs: many\n",
        "error: expected a whole number ≥ 0 that fits, found the text `many`\n --> a.yaml:1:15\n  |\n1 | max_num_seqs: many\n  |               ^^^^\n",
    );
    check(
        "eager: no\n",
        "error: expected true or false, found the text `no`\n --> a.yaml:1:8\n  |\n1 | eager: no\n  |        ^^\n  = help: write `true` or `false`\n",
    );
    check(
        "name: 0.11\n",
        "error: expected text, found `0.11`\n --> a.yaml:1:7\n  |\n1 | name: 0.11\n  |       ^^^^\n  = help: put it in quotes\n",
    );
    check("nested: {}\n", "error: missing key `needed`\n --> a.yaml:1:1\n  |\n1 | nested: {}\n  | ^^^^^^\n");
    check(
        "kind: poison\n",
        "error: unknown value `poison`\n --> a.yaml:1:7\n  |\n1 | kind: poison\n  |       ^^^^^^\n  = help: did you mean `poisson`?\n",
    );
    check(
        "a: 1\na: 2\n",
        "error: duplicate key `a`\n --> a.yaml:2:1\n  |\n2 | a: 2\n  | ^\n  = help: it stands on line 1 already; keep one of the two\n",
    );
}

#[test]
fn typed_values_arrive() {
    assert_eq!(
        typed("{max_num_seqs: 64, name: x, eager: true, nested: {needed: 2}, kind: {gamma: 0.5}}"),
        "Sample { max_num_seqs: Some(64), name: Some(\"x\"), eager: Some(true), nested: Some(Nested { needed: 2.0 }), kind: Some(Gamma(0.5)) }"
    );
    assert!(typed("kind: poisson").contains("Poisson"));
    assert!(typed("max_num_seqs: -1").contains("expected a whole number ≥ 0 that fits, found `-1`"));
    assert!(typed("max_num_seqs: 8192.0").contains("Some(8192)"));
}

#[test]
fn anchors_and_merges_work_and_bombs_do_not() {
    let node = tree("base: &b {x: 1, y: 2}\nuse: {<<: *b, y: 3}\n").unwrap();
    assert_eq!(node.get("use").unwrap().to_json(), serde_json::json!({"x": 1, "y": 3}));
    let mut bomb = String::from("a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n");
    for i in 1..12 {
        let previous = format!("*a{}", i - 1);
        bomb.push_str(&format!("a{i}: &a{i} [{}]\n", vec![previous; 10].join(", ")));
    }
    assert!(tree(&bomb).unwrap_err().contains("after aliases are expanded"));
    assert!(tree(&format!("{}1{}", "[".repeat(100), "]".repeat(100))).unwrap_err().contains("levels deep"));
    assert!(tree("a: 1\n---\nb: 2\n").unwrap_err().contains("second YAML document"));
    assert!(tree("a: .inf").unwrap_err().contains("not a usable number") || tree("a: .inf").is_ok());
}

proptest! {
    #[test]
    fn any_text_gives_a_tree_or_an_error(text in "\\PC{0,200}") {
        let _ = typed(&text);
    }

    #[test]
    fn yaml_like_text_never_panics(text in "[a-z:\\-\\[\\]{},&*!|>'\"#% \\n\\t0-9.~<]{0,120}") {
        let _ = typed(&text);
    }

    #[test]
    fn numbers_survive(number in proptest::num::f64::NORMAL) {
        let node = tree(&format!("{number:e}")).unwrap();
        match node.value {
            NodeValue::Float(read) => prop_assert_eq!(read, number),
            NodeValue::Int(read) => prop_assert_eq!(read as f64, number),
            other => prop_assert!(false, "{:?}", other),
        }
    }
}

#[test]
fn a_diagnostic_without_a_place_still_renders() {
    let sources = SourceMap::default();
    assert_eq!(Diagnostic::new("x").with_hint("y").render(&sources), "error: x\n  = help: y\n");
}
