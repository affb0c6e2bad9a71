//! The crate graph against the architecture: arrows point down only, heavy dependencies stay behind their fence. A new
//! edge needs a line here and a sentence in ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Who may depend on whom, in products and build scripts. Tests may also use what the last table names.
const ALLOWED: [(&str, &[&str]); 10] = [
    (
        "servelab",
        &[
            "servelab-core",
            "servelab-data",
            "servelab-load",
            "servelab-run",
            "servelab-sim",
            "servelab-store",
            "servelab-trace",
            "servelab-view",
        ],
    ),
    ("servelab-run", &["servelab-load", "servelab-store", "servelab-core"]),
    ("servelab-view", &["servelab-store", "servelab-core"]),
    ("servelab-data", &["servelab-core"]),
    ("servelab-sim", &["servelab-core"]),
    ("servelab-load", &["servelab-core"]),
    ("servelab-store", &["servelab-core"]),
    ("servelab-trace", &["servelab-core"]),
    ("servelab-core", &[]),
    ("xtask", &["servelab-core", "servelab-load", "servelab-sim", "servelab-store"]),
];

/// Development only: may see anything, and only tests may see it.
const TESTKIT: &str = "servelab-testkit";

/// Dependencies that only the named crates may have.
const FENCED: [(&str, &[&str]); 11] = [
    ("axum", &["servelab-sim", "servelab-run", "servelab-view"]),
    ("clap", &["servelab", "xtask"]),
    ("indicatif", &["servelab"]),
    ("parquet", &["servelab-store"]),
    ("process-wrap", &["servelab-run"]),
    ("ratatui", &["servelab-view"]),
    ("resvg", &["servelab-view"]),
    ("rusqlite", &["servelab-trace"]),
    ("tokenizers", &["servelab-data"]),
    ("tokio", &["servelab-sim", "servelab-run", "servelab-view"]),
    ("ureq", &["servelab-load", "servelab-run", "servelab"]),
];

/// What would give `servelab-core` a file, a clock, a thread or a random source.
const NEVER_IN_CORE: [&str; 8] = ["libc", "mio", "rand", "rand_chacha", "rustix", "tempfile", "tokio", "ureq"];

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    from: String,
    to: String,
    is_dev: bool,
}

fn edges() -> (BTreeSet<String>, Vec<Edge>) {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut names = BTreeSet::new();
    let mut edges = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let from = package["name"].as_str().unwrap().to_owned();
        for dependency in package["dependencies"].as_array().unwrap() {
            edges.push(Edge {
                from: from.clone(),
                to: dependency["name"].as_str().unwrap().to_owned(),
                is_dev: dependency["kind"].as_str() == Some("dev"),
            });
        }
        names.insert(from);
    }
    (names, edges)
}

/// What is wrong with a set of edges.
fn violations(names: &BTreeSet<String>, edges: &[Edge]) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    let fenced: BTreeMap<&str, &[&str]> = FENCED.into_iter().collect();
    let mut wrong = Vec::new();
    for name in names {
        if name != TESTKIT && !allowed.contains_key(name.as_str()) {
            wrong.push(format!("{name} is not in the table of crates"));
        }
    }
    for Edge { from, to, is_dev } in edges {
        if from == TESTKIT {
            continue;
        }
        let is_ours = to.starts_with("servelab") || to == "xtask";
        let may = allowed.get(from.as_str()).copied().unwrap_or_default();
        if is_ours && !(may.contains(&to.as_str()) || *is_dev && to == TESTKIT) {
            wrong.push(format!("{from} → {to} points the wrong way"));
        }
        if let Some(owners) = fenced.get(to.as_str())
            && !owners.contains(&from.as_str())
            && !is_dev
        {
            wrong.push(format!("{from} → {to}: only {} may", owners.join(", ")));
        }
        if from == "servelab-core" && !is_dev && NEVER_IN_CORE.contains(&to.as_str()) {
            wrong.push(format!("servelab-core → {to}: core has no I/O, clock or random source"));
        }
    }
    wrong
}

#[test]
fn arrows_point_down() {
    let (names, edges) = edges();
    assert!(names.contains("servelab-core") && edges.len() > 30, "cargo metadata told too little: {names:?}");
    let wrong = violations(&names, &edges);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn wrong_arrows_are_noticed() {
    let check = |from: &str, to: &str, is_dev: bool, is_wrong: bool| {
        let edge = Edge { from: from.to_owned(), to: to.to_owned(), is_dev };
        assert_eq!(!violations(&BTreeSet::new(), &[edge]).is_empty(), is_wrong, "{from} → {to}");
    };
    check("servelab-load", "servelab-sim", false, true);
    check("servelab-load", "servelab-sim", true, true);
    check("servelab-core", "servelab-store", false, true);
    check("servelab-view", "servelab-run", false, true);
    check("servelab-view", "servelab-store", false, false);
    check("servelab-store", "servelab-testkit", true, false);
    check("servelab-store", "servelab-testkit", false, true);
    check("servelab-core", "tokio", false, true);
    check("servelab-run", "clap", false, true);
    check("servelab-store", "parquet", false, false);
    assert_eq!(violations(&BTreeSet::from(["servelab-new".to_owned()]), &[]).len(), 1);
}
