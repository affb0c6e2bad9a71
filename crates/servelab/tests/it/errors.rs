//! Broken studies and command lines: exit code 2, one error with its place and what to do, and nothing on disk changed.

use servelab_testkit::{Output, TINY, servelab_snapshot};

use super::place;

const SYNTH: &str = "{synth: {input_tokens: 64, output_tokens: 16, seed: 7}}";
const GRID: &str = "grid: {max_num_seqs: [4, 64]}";

/// What is broken, what of the good study is replaced by what, and what the error must say: its message, and its place
/// as `line:column`.
const BROKEN: [(&str, &str, &str, &str, &str); 55] = [
    ("unknown_key", "study: tiny", "study: tiny\nworkload: 3", "did you mean `workloads`?", "3:1"),
    ("mistyped_key", "stop: {", "stopp: {", "did you mean `stop`?", "8:59"),
    ("mistyped_nested_key", "kind: sim", "kinnd: sim", "did you mean `kind`?", "3:10"),
    ("duplicate_key", "study: tiny", "study: tiny\nstudy: other", "duplicate key `study`", "3:1"),
    ("text_for_number", "[2]", "[two]", "expected a whole number", "8:31"),
    ("fraction_for_number", "[2]", "[2.5]", "expected a whole number", "8:31"),
    ("list_for_mapping", "{id: meta-llama/Llama-3.1-8B}", "[a]", "", "4:8"),
    ("text_for_mapping", "{id: meta-llama/Llama-3.1-8B}", "llama", "", "4:8"),
    ("mapping_for_text", "study: tiny", "study: {a: 1}", "", "2:"),
    ("unknown_engine", "kind: sim", "kind: simm", "did you mean `sim`?", "3:16"),
    ("bad_version", "\"0.32.*\"", "\"zero\"", "read `zero` as versions", "3:30"),
    ("zero_concurrency", "[2]", "[0]", "`concurrency` must be at least 1", "8:"),
    ("negative_concurrency", "[2]", "[-1]", "expected a whole number", "8:31"),
    ("no_level", "[2]", "[]", "`concurrency`", "8:"),
    ("two_stops", "duration_s: 0.8", "duration_s: 0.8, requests: 3", "exactly one of", "8:59"),
    ("no_stop", "{duration_s: 0.8}", "{}", "exactly one of", "8:59"),
    ("negative_duration", "duration_s: 0.8", "duration_s: -1", "must be greater than 0", "8:"),
    ("missing_key", "model: {id: meta-llama/Llama-3.1-8B}\n", "", "missing key `model`", "1:1"),
    ("newer_format", "schema: 1", "schema: 2", "use a newer servelab", "1:9"),
    ("path_as_name", "study: tiny", "study: ../tiny", "cannot name a folder", "2:8"),
    ("missing_base", "study: tiny", "study: tiny\nextends: none.yaml", "there is no such file", "3:10"),
    ("own_base", "study: tiny", "study: tiny\nextends: study.yaml", "goes in a circle", "3:10"),
    ("missing_site", "study: tiny", "study: tiny\nsite: nowhere", "`servelab init` writes an example", "3:7"),
    ("no_workload", "batch: {", "batch: {with: [], ", "no workload", "10:"),
    (
        "unused_workload",
        "load: {closed: {concurrency: [2]}, warmup: {requests: 2}, stop: {duration_s: 0.8}}\ndesigns:\n  batch: {",
        "  other: {dataset: {suite: quick_test}}\nload: {closed: {concurrency: [2]}, stop: {requests: 2}}\ndesigns:\n  batch: {with: [chat], ",
        "`other`",
        "8:3",
    ),
    ("unknown_workload", "batch: {", "batch: {with: [chatt], ", "did you mean `chat`?", "10:"),
    ("constraint_that_ends", "designs:", "constraints: [\"max_num_seqs >=\"]\ndesigns:", "the expression ends", "9:31"),
    ("constraint_on_nothing", "designs:", "constraints: [\"max_num_seq > 3\"]\ndesigns:", "did you mean", "9:15"),
    ("constraint_guard", "designs:", "constraints: [{rule: tp < 2, for: vllm <}]\ndesigns:", "as a guard", "9:"),
    ("unknown_baseline", "designs:", "baseline: seqs_5\ndesigns:", "did you mean `seqs_4`?", "9:11"),
    ("unknown_placeholder", "{max_num_seqs}", "{max_num_seq}", "did you mean `{max_num_seqs}`?", "10:"),
    ("unknown_suite", SYNTH, "{suite: quick_tests}", "did you mean `quick_test`?", "7:27"),
    ("missing_dataset", SYNTH, "{file: {path: none.jsonl}}", "none.jsonl", "7:"),
    ("shares", SYNTH, "{synth: {mix: {short: 0.5, long: 0.1}}}", "must add up to 1", "7:28"),
    ("percent_for_fraction", "designs:", "slo: {cell: {success: 99}}\ndesigns:", "a fraction from 0 to 1", "9:"),
    ("unknown_metric", "designs:", "slo: {cell: {ttft_p96_ms: 9}}\ndesigns:", "did you mean `ttft_p9", "9:"),
    ("no_repeat", "designs:", "repeats: {n: 0}\ndesigns:", "`n` must be at least 1", "9:14"),
    ("walltime", "designs:", "budget: {walltime: four hours}\ndesigns:", "write `HH:MM:SS`", "9:20"),
    (
        "unknown_source",
        "designs:\n",
        "designs:\n  next: {from: {design: btch, pick: {maximise: goodput}}}\n",
        "did you mean `batch`?",
        "10:25",
    ),
    ("unknown_arrival", "closed: {concurrency: [2]}", "open: {rate: [2], arrival: poison}", "write `poisson`", "8:35"),
    ("no_rate", "closed: {concurrency: [2]}", "open: {rate: [0]}", "greater than 0 requests per second", "8:"),
    ("two_kinds_of_design", GRID, "grid: {max_num_seqs: [4]}, list: {a: {}}", "exactly one of", "10:3"),
    ("no_kind_of_design", GRID, "purpose: none", "", "10:"),
    ("factor_without_values", "[4, 64]", "[]", "has no values", "10:18"),
    ("later_design", GRID, "search: {n: 3}", "unknown key `search`", "10:"),
    (
        "bad_ratio",
        "designs:\n",
        "designs:\n  pd: {topology: {mode: pd, \"p:d\": [\"three:one\"], p: {tp: 1}, d: {tp: 1}}}\n",
        "is no ratio",
        "10:",
    ),
    ("bad_shape", "designs:\n", "designs:\n  pd: {topology: {mode: pd, shapes: [1P+1D]}}\n", "is no shape", "10:"),
    ("unclosed", "[4, 64]", "[4, 64", "not valid YAML", "10:"),
    ("unknown_variable", "8B}", "8B, path: \"${site.models}/x\"}", "not defined by site `local`", "4:44"),
    ("speedup_of_vllm", "kind: sim,", "kind: vllm, speedup: 3,", "for `kind: sim` only", "3:"),
    ("url_of_sim", "kind: sim,", "kind: sim, url: \"http://x\",", "for `kind: external` only", "3:"),
    ("no_url", "kind: sim,", "kind: external,", "needs `url`", "3:"),
    ("reserved_name", "  chat:", "  offline:", "choose another name", "7:3"),
    ("when_on_nothing", "[4, 64]}", "[4], block_size: {when: nonsense, in: [16]}}", "unknown name `nonsense`", "10:"),
    ("hot", SYNTH, "{suite: quick_test}, temperature: 3", "from 0 to 2", "7:"),
];

/// Shown in full, for the eyes of whoever reviews a change.
const SHOWN: [&str; 14] = [
    "unknown_key",
    "duplicate_key",
    "text_for_number",
    "list_for_mapping",
    "bad_version",
    "two_stops",
    "own_base",
    "missing_site",
    "constraint_on_nothing",
    "unknown_baseline",
    "unknown_suite",
    "unknown_metric",
    "two_kinds_of_design",
    "unclosed",
];

fn broken(from: &str, to: &str, options: &str) -> (Output, bool) {
    assert!(from.is_empty() || TINY.contains(from), "`{from}` is not in the good study");
    let place = place();
    place.write("study.yaml", &TINY.replacen(from, to, 1));
    let before = place.files();
    let out = place.servelab(&format!("{options} study.yaml --root out")).run();
    let is_unchanged = place.files() == before;
    (out, is_unchanged)
}

#[test]
fn the_study_that_is_broken_is_good_before() {
    let (out, _) = broken("", "", "plan");
    out.expect(0);
}

#[test]
fn every_mistake_has_its_place() {
    for (name, from, to, says, at) in BROKEN {
        let (out, is_unchanged) = broken(from, to, "plan");
        let all = format!("{name}\n{}", out.stderr);
        assert_eq!((out.code, out.stdout.as_str()), (Some(2), ""), "{all}");
        assert!(out.stderr.starts_with("error: ") && out.stderr.contains(says), "{all}");
        assert!(out.stderr.contains(&format!("--> study.yaml:{at}")), "expected at {at}: {all}");
        assert!(out.stderr.lines().any(|line| line.contains(" | ") && line.trim_end().ends_with('^')), "{all}");
        assert!(
            !["panicked", "struct ", "serde", "RUST_BACKTRACE"].iter().any(|word| out.stderr.contains(word)),
            "{all}"
        );
        assert!(is_unchanged, "{name}: something was written");
    }
}

#[test]
fn the_look_of_errors() {
    let shown: Vec<String> = SHOWN
        .iter()
        .map(|wanted| {
            let (_, from, to, ..) = BROKEN.iter().find(|(name, ..)| name == wanted).unwrap();
            format!("## {wanted}\n{}", broken(from, to, "plan").0.transcript())
        })
        .collect();
    insta::assert_snapshot!("the_look_of_errors", shown.join("\n"));
}

#[test]
fn run_refuses_what_plan_refuses() {
    for (name, from, to, says, _) in BROKEN.iter().step_by(9) {
        let (out, is_unchanged) = broken(from, to, "run");
        assert_eq!(out.code, Some(2), "{name}\n{}", out.stderr);
        assert!(out.stderr.contains(says) && is_unchanged, "{name}\n{}", out.stderr);
    }
}

#[test]
fn mistakes_on_the_command_line() {
    for (options, says) in [
        ("plan --set load.stopp.requests=3", "did you mean `stop`?"),
        ("plan --set load.stop", "write `--set KEY=VALUE`"),
        ("plan --set load.stop={", "not valid YAML"),
        ("plan --set load.closed.concurrency=[x]", "expected a whole number"),
        ("plan --only seqs_5", "did you mean `seqs_4`?"),
        ("plan --design btch", "did you mean `batch`?"),
        ("plan --site nowhere", "there is no site `nowhere`"),
        ("plan --max-requests 0", "--max-requests"),
        ("plan --engine vlm", "--engine"),
        ("plan --jsn", "--json"),
        ("run --retry no_such_code", "`servelab explain` lists"),
        ("run --engine external", "needs `url`"),
        ("pln", "plan"),
    ] {
        let (out, is_unchanged) = broken("", "", options);
        assert_eq!(out.code, Some(2), "{options}\n{}", out.stderr);
        assert!(out.stderr.contains(says), "{options}\n{}", out.stderr);
        assert!(is_unchanged, "{options}: something was written");
    }
}

#[test]
fn a_missing_study_names_the_next_command() {
    let place = place();
    servelab_snapshot!("a_missing_study", place.servelab("plan none.yaml").run().expect(2));
}

#[test]
fn a_missing_engine_names_the_next_command_and_writes_nothing_that_counts() {
    let (out, _) = broken("", "", "run --engine vllm --engine-bin /nowhere/vllm");
    assert!(out.code == Some(1) || out.code == Some(2), "{}", out.stderr);
    out.says("/nowhere/vllm").says("--engine sim");
}

#[test]
fn a_circle_of_studies_is_named() {
    let place = place();
    place.write("a.yaml", "extends: b.yaml\n");
    place.write("b.yaml", "extends: c.yaml\n");
    place.write("c.yaml", "extends: a.yaml\n");
    place.servelab("plan a.yaml").run().expect(2).says("a.yaml → b.yaml → c.yaml → a.yaml");
}

#[test]
fn a_broken_site_has_its_place_too() {
    for (site, says, at) in [
        ("schema: 1\nsite: s\nschedular: slurm\n", "did you mean `scheduler`?", "3:1"),
        ("schema: 1\nsite: s\nscheduler: lsf\n", "unknown value `lsf`", "3:12"),
        ("schema: 7\nsite: s\n", "site format 7", "1:9"),
        ("schema: 1\nsite: s\nwalltime: soon\n", "is no time limit", "3:11"),
        ("schema: 1\nsite: s\ngpus: {per_node: eight}\n", "expected a whole number", "3:18"),
        ("schema: 1\nsite: s\nhardware: {gpu: K80}\n", "knows no GPU `K80`", "3:17"),
    ] {
        let place = place();
        place.write("study.yaml", &TINY.replace("study: tiny", "study: tiny\nsite: s"));
        place.write("sites/s.yaml", site);
        let out = place.servelab("plan study.yaml").run().expect(2);
        assert!(out.stderr.contains(says) && out.stderr.contains(&format!("s.yaml:{at}")), "{}", out.stderr);
    }
}
