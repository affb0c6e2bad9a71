//! Traffic that is not a plain rate: ramps, replays of traces, conversations, pauses; by `bench` and by studies, against
//! the simulator, whose prefix cache tells what prompts have in common.

use servelab_testkit::{Place, TINY, at, number, text};

use super::bench::{MODEL, server};

const BIN: &str = env!("CARGO_BIN_EXE_servelab");

const TRACE: &str = r#"{"timestamp": 0, "input_length": 700, "output_length": 8, "hash_ids": [0, 1]}
{"timestamp": 400, "input_length": 1100, "output_length": 6, "hash_ids": [0, 2, 3]}
{"timestamp": 900, "input_length": 100, "output_length": 0}
{"timestamp": 800, "input_length": 1200, "output_length": 6, "hash_ids": [0, 2, 4]}
{"timestamp": 1200, "input_length": 700, "output_length": 7, "hash_ids": [0, 1]}
"#;

#[test]
fn a_replayed_trace_keeps_its_lengths_instants_and_shared_prefixes() {
    let place = Place::new(BIN);
    place.write("trace.jsonl", TRACE);
    let (sim, url) = server(&place, "");
    let line =
        format!("bench --url {url} --model {MODEL} --replay trace.jsonl --speed 2 --warmup 1 --ignore-eos --json");
    let result = place.servelab(&line).run().expect(0).json();
    assert_eq!(number(&result, "requests.completed"), 3.0);
    assert_eq!(number(&result, "input_tokens"), 3000.0);
    assert_eq!(number(&result, "output_tokens"), 19.0);
    // From 400 ms to 1200 ms at double speed, and the last answer.
    assert!((0.4..5.0).contains(&number(&result, "duration_s")), "{}", number(&result, "duration_s"));
    // Blocks found: 512 tokens of the first, 1024 of the second, 688 of the repeated one, so 2224 of 3000; fewer where the
    // counters' interval holds the warm-up too. Without shared text there would be none.
    let hits = number(&result, "server.prefix_hit_rate");
    assert!((0.55..0.75).contains(&hits), "{hits}");
    let few = format!("bench --url {url} --model {MODEL} --replay trace.jsonl --requests 9");
    place.servelab(&few).run().expect(2).says("holds 4 usable requests, but 9 are asked for");
    drop(sim);
}

#[test]
fn conversations_carry_the_answers_and_find_their_prefix() {
    let place = Place::new(BIN);
    let (sim, url) = server(&place, "");
    let line = format!(
        "bench --url {url} --model {MODEL} --endpoint completions --conversations turns=3,user=50,output=20 \
         --turn-think 0.05s --concurrency 2 --requests 10 --ignore-eos --json"
    );
    let result = place.servelab(&line).run().expect(0).json();
    assert_eq!(number(&result, "requests.completed"), 10.0);
    assert_eq!(number(&result, "output_tokens"), 200.0);
    // Three whole conversations and one turn: 50, then 50 more and the answer, and so on. The simulator counts the text of
    // an answer as more tokens than it made; without the answers it would be 950.
    let input = number(&result, "input_tokens");
    let least = 3.0 * (50.0 + 120.0 + 190.0) + 50.0;
    assert!((least..least * 1.5).contains(&input), "{input} for {least}");
    assert!(number(&result, "server.prefix_hit_rate") > 0.3);
    let reasons = at(&result, "verdict.reasons").to_string();
    assert!(!reasons.contains("not_steady"), "slots that pause are not expected to be busy: {reasons}");
    drop(sim);
}

#[test]
fn ramps_end_by_themselves_and_pauses_hold_slots_back() {
    let place = Place::new(BIN);
    let (sim, url) = server(&place, "");
    let base = format!("bench --url {url} --model {MODEL} --input-tokens 20 --output-tokens 2 --ignore-eos --json");
    let ramp = place.servelab(&format!("{base} --ramp 0..40/1s --arrival constant")).run().expect(0).json();
    // The area under the line, and the first at zero.
    assert_eq!(number(&ramp, "requests.scheduled"), 20.0);
    assert!((number(&ramp, "duration_s") - 1.0).abs() < 0.01);
    let line = format!("{base} --concurrency 2 --requests 6 --think 0.2s --start burst");
    let paused = place.servelab(&line).run().expect(0).json();
    // Three rounds of two: at least two pauses.
    assert!(number(&paused, "duration_s") > 0.4);
    drop(sim);
}

#[test]
fn wrong_traffic_is_told_before_anything_is_sent() {
    let place = Place::new(BIN);
    let base = "bench --url http://127.0.0.1:9 --model m";
    let check = |rest: &str, text: &str| {
        place.servelab(&format!("{base} {rest}")).run().expect(2).says(text);
    };
    check("--input-tokens 1 --output-tokens 1 --ramp 1..0/5s", "the last rate, which is held, must be greater than 0");
    check("--input-tokens 1 --output-tokens 1 --ramp 1..2/5s --rate 3", "cannot be used with");
    check("--input-tokens 1 --output-tokens 1 --concurrency 1 --requests 1 --think exp:0", "greater than 0");
    check("--concurrency 1 --requests 1 --conversations turns=2,user=5", "`output=` is missing");
    check("--concurrency 1 --requests 1 --conversations turns=0,user=5,output=5", "must be between 1 and 1000");
    place.write("t.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\nnever,1,2\n");
    check("--replay t.csv --speed 0", "`--speed` must be greater than 0");
    let broken = place.servelab(&format!("{base} --replay t.csv")).run();
    broken.expect(2).says("line 2").says("column `TIMESTAMP` holds `never`");
}

/// The smallest study with another dataset and load.
fn study(dataset: &str, load: &str) -> String {
    let mut out = String::new();
    let mut skips = false;
    for line in TINY.lines() {
        let is_top = !line.starts_with(' ') && !line.is_empty();
        if is_top {
            skips = line.starts_with("load:") || line.starts_with("workloads:");
        }
        if !skips {
            out.push_str(line);
            out.push('\n');
        }
    }
    format!("{out}workloads:\n  only: {{dataset: {dataset}}}\nload: {load}\n")
}

#[test]
fn studies_replay_traces_and_hold_conversations() {
    let place = super::place();
    place.write("trace.jsonl", TRACE);
    place.write(
        "replay.yaml",
        &study("{trace: {path: trace.jsonl}}", "{replay: {speed: [1, 4]}, warmup: {requests: 1}}"),
    );
    let plan = place.servelab("plan replay.yaml --json").run().expect(0).json();
    let cells = at(&plan, "cells").as_array().unwrap();
    assert!(cells.iter().all(|cell| text(cell, "load.kind") == "replay"), "{cells:?}");
    place.servelab("run replay.yaml --root out").run().expect(0);
    let mut measured = 0;
    for cell in place.list("out/cells") {
        let result = place.json(&format!("out/cells/{cell}/attempt-1/result.json"));
        assert_eq!(number(&result, "requests.completed"), 3.0);
        assert_eq!(number(&result, "input_tokens"), 3000.0);
        measured += 1;
    }
    assert_eq!(measured, cells.len());

    let talks = "{conversations: {synth: {turns: 2, user_tokens: 30, output_tokens: 10}, think_s: 0.01}}";
    place.write(
        "talks.yaml",
        &study(talks, "{closed: {concurrency: 2, start: burst}, warmup: {requests: 2}, stop: {requests: 8}}"),
    );
    place.servelab("run talks.yaml --root talked").run().expect(0);
    for cell in place.list("talked/cells") {
        let result = place.json(&format!("talked/cells/{cell}/attempt-1/result.json"));
        assert_eq!((number(&result, "requests.completed"), number(&result, "output_tokens")), (8.0, 80.0));
    }

    place.write("trace.jsonl", "{\"timestamp\": 1}\n");
    place.servelab("plan replay.yaml").run().expect(2).says("line 1").says("no `input_length`").says("replay.yaml:");
    place.write("other.yaml", &study("{synth: {input_tokens: 9, output_tokens: 9}}", "{replay: {}}"));
    place.servelab("plan other.yaml").run().expect(2).says("workload `only` is none");
}
