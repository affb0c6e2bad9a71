//! `servelab router` between real processes: a load through a simulated prefill and decode server, replicas behind one
//! address, and what it refuses to start with.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use servelab_load::http::{get_text, post_json};
use servelab_testkit::{Deadline, Place, Signal, Spawned, at, number, poll};

use super::place;

const MODEL: &str = "meta-llama/Llama-3.1-8B";
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// The address in the line that a server prints when it listens.
fn address_of(process: &mut Spawned, says: &str) -> String {
    process.wait_for(says);
    let said = process.stderr();
    said.split_whitespace().find(|word| word.starts_with("http://127")).unwrap().to_owned()
}

fn sim(place: &Place, transfer: Option<&str>) -> (Spawned, String) {
    let line = format!("sim --listen 127.0.0.1:0 --model {MODEL} --max-model-len 4096 --speedup 20");
    let mut command = place.servelab(&line);
    if let Some(role) = transfer {
        let config = json!({"kv_connector": "NixlConnector", "kv_role": role, "kv_load_failure_policy": "fail"});
        command = command.args(["--kv-transfer-config", &config.to_string()]);
    }
    let mut sim = command.spawn();
    let url = address_of(&mut sim, "servelab sim listens on ");
    (sim, url)
}

fn router(place: &Place, line: &str) -> (Spawned, String) {
    let mut router = place.servelab(&format!("router --listen 127.0.0.1:0 {line}")).spawn();
    let url = address_of(&mut router, "servelab router listens on ");
    (router, url)
}

fn metric(url: &str, name: &str) -> f64 {
    let page = get_text(&format!("{url}/metrics"), CALL_LIMIT, None).unwrap().body;
    let values = page.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn a_load_through_prefill_and_decode() {
    let place = place();
    let (_prefill, prefill_url) = sim(&place, Some("kv_producer"));
    let (_decode, decode_url) = sim(&place, Some("kv_consumer"));
    let line = format!("--prefill {prefill_url} --decode {decode_url} --legs legs.jsonl");
    let (mut process, url) = router(&place, &line);
    let bench = format!(
        "bench --url {url} --model {MODEL} --endpoint completions --concurrency 4 --requests 20 --input-tokens 100 \
         --output-tokens 8 --ignore-eos --seed 1 --json"
    );
    let result = place.servelab(&bench).run().json();
    assert_eq!(number(&result, "requests.completed"), 20.0, "{result}");
    let legs = place.read("legs.jsonl");
    let legs: Vec<Value> = legs.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(legs.len() >= 20, "{}", legs.len());
    let ids: BTreeSet<&str> = legs.iter().map(|leg| leg["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), legs.len());
    for leg in &legs {
        assert_eq!((&leg["outcome"], &leg["handed_over"]), (&json!("ok"), &json!(true)), "{leg}");
        assert!(number(leg, "prefill.t_end_ns") <= number(leg, "decode.t_send_ns"), "{leg}");
    }
    // Every prompt came from the other server, and each server did its own part.
    let n = legs.len() as f64;
    assert_eq!(metric(&decode_url, "vllm:nixl_xfer_time_seconds_count"), n);
    assert_eq!(metric(&prefill_url, "vllm:generation_tokens_total"), n, "one token for each prompt");
    // The same answer as from one server alone, token for token.
    let ask = |url: &str| {
        let body = json!({"model": MODEL, "prompt": "a b c d e f g h ".repeat(8), "max_tokens": 12, "temperature": 0});
        let reply = post_json(&format!("{url}/v1/completions"), &body, CALL_LIMIT, None).unwrap();
        assert!(reply.is_success(), "{}", reply.body);
        let reply: Value = serde_json::from_str(&reply.body).unwrap();
        at(&reply, "choices.0.text").clone()
    };
    assert_eq!(ask(&url), ask(&decode_url));
    process.signal(Signal::TERM);
    poll("the router's end", Deadline::in_s(20), || process.has_ended().then_some(()));
}

#[test]
fn replicas_share_the_load() {
    let place = place();
    let (_a, a) = sim(&place, None);
    let (_b, b) = sim(&place, None);
    let (_router, url) = router(&place, &format!("--server {a} --server {b}/v1 --policy least-loaded"));
    let bench = format!(
        "bench --url {url} --model {MODEL} --endpoint completions --concurrency 4 --requests 24 --input-tokens 32 \
         --output-tokens 16 --ignore-eos --seed 1 --json"
    );
    let result = place.servelab(&bench).run().json();
    assert_eq!(number(&result, "requests.completed"), 24.0);
    let (at_a, at_b) = (metric(&a, "vllm:request_success_total"), metric(&b, "vllm:request_success_total"));
    assert!(at_a >= 6.0 && at_b >= 6.0, "{at_a} and {at_b}");
    assert_eq!(metric(&url, "servelab_router_legs_total"), at_a + at_b);
}

#[test]
fn what_it_refuses() {
    let place = place();
    place.servelab("router").run().expect(2).says("--server");
    place.servelab("router --server localhost").run().expect(2).says("http://HOST:PORT");
    place.servelab("router --server http://a:1 --silence 0").run().expect(2).says("above 0");
    place.servelab("router --server http://a:1 --legs /proc/no/legs").run().expect(1).says("records of legs");
}
