//! Points with several servers, run whole on simulated engines: replicas behind the router, prefill and decode apart, in
//! the shapes of the example of document 003.

use std::collections::BTreeMap;

use serde_json::Value;
use servelab_testkit::{Place, at, number, text};

use super::{example, place};

/// Sixteen simulated GPUs on one machine, with loads of a second.
fn run(place: &Place, only: &[&str], more: &[&str]) -> servelab_testkit::Output {
    let study = example("pd-gptoss");
    let mut line = format!("run {study} --engine sim --root out");
    for label in only {
        line.push_str(&format!(" --only {label}"));
    }
    let small = [
        "repeats.n=1",
        "engine.speedup=20",
        "load.closed.concurrency=[4]",
        "load.stop={requests: 24}",
        "workloads.itl5000_otl250.dataset.synth={input_tokens: 200, output_tokens: 16}",
        "serve.max_model_len=4096",
    ];
    let sets = small.iter().chain(more).flat_map(|set| ["--set", set]);
    place.servelab(&line).args(sets).run()
}

fn the_point(place: &Place, label: &str) -> String {
    let plan = place.json("out/studies/pd-gptoss/plan.json");
    let point = at(&plan, "points")
        .as_array()
        .unwrap()
        .iter()
        .find(|point| at(point, "labels").as_array().unwrap().iter().any(|known| known == label));
    text(point.unwrap(), "id").to_owned()
}

/// The only attempt of the only cell of a point.
fn attempt(place: &Place, label: &str) -> String {
    let id = the_point(place, label);
    let plan = place.json("out/studies/pd-gptoss/plan.json");
    let cell = at(&plan, "cells").as_array().unwrap().iter().find(|cell| text(cell, "point") == id).unwrap();
    format!("out/cells/{}/attempt-1", text(cell, "id"))
}

/// No count contradicts another. What depends on the time that this machine has for us is not looked at.
#[track_caller]
fn assert_consistent(result: &Value) {
    let reasons = at(result, "verdict.reasons").as_array().unwrap().iter().map(|reason| text(reason, "code"));
    let wrong = [
        "effective_differs",
        "foreign_traffic",
        "metrics_missing",
        "no_kv_transfer",
        "server_restarted",
        "success_low",
        "token_count_mismatch",
    ];
    let found: Vec<&str> = reasons.filter(|code| wrong.contains(code)).collect();
    assert!(found.is_empty(), "{result}");
}

#[test]
fn prefill_and_decode_servers_behind_the_router() {
    let place = place();
    run(&place, &["2P-TP2+2D-TP2"], &[]).expect(0);
    let folder = attempt(&place, "2P-TP2+2D-TP2");
    let result = place.json(&format!("{folder}/result.json"));
    assert_eq!(number(&result, "requests.completed"), 24.0, "{result}");
    assert_consistent(&result);
    // Four engines and the router, each with its log; each engine with its own GPUs and side channel.
    assert_eq!(
        place.list(&format!("{folder}/server")),
        ["decode-0.log", "decode-1.log", "prefill-0.log", "prefill-1.log", "router-0.log"]
    );
    let commands = place.read(&format!("out/points/{}/command.txt", the_point(&place, "2P-TP2+2D-TP2")));
    let value = |name: &str| -> Vec<String> {
        let words = commands.split_whitespace().filter_map(|word| word.strip_prefix(&format!("{name}=")));
        words.map(str::to_owned).collect()
    };
    assert_eq!(value("CUDA_VISIBLE_DEVICES"), ["0,1", "2,3", "4,5", "6,7"]);
    let ports: Vec<u16> = value("VLLM_NIXL_SIDE_CHANNEL_PORT").iter().map(|port| port.parse().unwrap()).collect();
    assert!(ports.len() == 4 && ports.windows(2).all(|pair| pair[1] >= pair[0] + 2), "{ports:?}");
    let roles = ["kv_producer", "kv_producer", "kv_consumer", "kv_consumer"];
    let lines: Vec<&str> = commands.lines().collect();
    assert!(lines.iter().zip(roles).all(|(line, role)| line.contains(role)), "{commands}");
    assert!(lines[4].contains(" router ") && lines[4].matches("--prefill").count() == 2, "{commands}");
    // Every request's way is known, by the number that it has in the client's records.
    let legs = place.read(&format!("{folder}/legs.jsonl"));
    let legs: Vec<Value> = legs.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: std::collections::BTreeSet<i64> =
        legs.iter().map(|leg| at(leg, "request_idx").as_i64().unwrap()).collect();
    assert!(ids.len() == legs.len() && legs.len() >= 24, "{}", legs.len());
    assert!(legs.iter().all(|leg| number(leg, "prefill.t_end") <= number(leg, "decode.t_send")));
    // The transfer was proved for each of the four pairs before, and its counters moved for every request.
    let proof = place.json(&format!("out/points/{}/transfer.json", the_point(&place, "2P-TP2+2D-TP2")));
    assert_eq!((at(&proof, "is_proved"), at(&proof, "pairs").as_array().unwrap().len()), (&Value::Bool(true), 4));
    let moved = place.json(&format!("{folder}/transfer.json"));
    assert!(number(&moved, "transfers") >= 24.0, "{moved}");
    // Nothing is left running.
    place.wait_until_quiet();
}

#[test]
fn replicas_behind_the_router() {
    let place = place();
    run(&place, &["4xTP2"], &["deploy.router=least-loaded"]).expect(0);
    let folder = attempt(&place, "4xTP2");
    let result = place.json(&format!("{folder}/result.json"));
    assert_eq!(number(&result, "requests.completed"), 24.0, "{result}");
    assert_consistent(&result);
    assert_eq!(place.list(&format!("{folder}/server")).len(), 5);
    let commands = place.read(&format!("out/points/{}/command.txt", the_point(&place, "4xTP2")));
    assert!(commands.contains("--policy least-loaded") && !commands.contains("--prefill"), "{commands}");
    assert!(!commands.contains("SIDE_CHANNEL"), "{commands}");
    // What every server counted adds up to what the client sent, warm-up and all.
    let legs: Vec<Value> = legs(&place);
    let mut by_server: BTreeMap<u64, u64> = BTreeMap::new();
    for leg in &legs {
        *by_server.entry(at(leg, "decode.server").as_u64().unwrap()).or_default() += 1;
    }
    assert_eq!(by_server.len(), 4, "{by_server:?}");
}

fn legs(place: &Place) -> Vec<Value> {
    let job = place.list("out/jobs").pop().unwrap();
    let start = place.list(&format!("out/jobs/{job}/server")).pop().unwrap();
    let text = place.read(&format!("out/jobs/{job}/server/{start}/legs.jsonl"));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn decode_that_computes_prompts_itself_is_no_separation() {
    let place = place();
    // This version's decode servers recompute when a transfer fails, and say nothing about it to the client.
    let out = run(&place, &["1P-TP2+1D-TP4"], &["engine.fail=[\"kv_transfer:1\"]"]);
    let states: Vec<(String, Option<String>)> = place.states("out").into_values().collect();
    assert_eq!(states, [("invalid".to_owned(), Some("no_kv_transfer".to_owned()))], "{}", out.stderr);
    let proof = place.json(&format!("out/points/{}/transfer.json", the_point(&place, "1P-TP2+1D-TP4")));
    assert!(text(&proof, "why").contains("computed the prompt itself"), "{proof}");
    // It is in the report, and nothing is ranked.
    let study = example("pd-gptoss");
    let report = place.servelab(&format!("report {study} --root out")).run();
    assert!(report.code == Some(0), "{}", report.stderr);
}

#[test]
fn a_server_of_the_crew_that_dies_is_named() {
    let place = place();
    // Both servers get it; the decode server reaches its tenth request under load.
    let out = run(&place, &["1P-TP2+1D-TP4"], &["engine.fail=[\"crash:12\"]"]).expect(1);
    out.says("server_exited");
    place.wait_until_quiet();
    let states: Vec<String> = place.states("out").into_values().map(|(state, _)| state).collect();
    assert_eq!(states, ["failed"]);
}
