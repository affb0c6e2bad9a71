//! One load from several real processes: the same requests at the same instants as from one, merged without loss; and
//! what happens when one of them is not there.

use std::collections::BTreeMap;

use servelab_core::record::{Phase, RequestRecord};
use servelab_load::arrivals::{Arrival, Extent, schedule};
use servelab_store::{read_events, read_requests};
use servelab_testkit::{Place, Signal, Spawned, at, number};

use super::bench::{MODEL, server};

const BIN: &str = env!("CARGO_BIN_EXE_servelab");

/// Runs `bench LOAD` as `n` processes and returns what shard 0 printed.
fn shards(place: &Place, load: &str, n: u32, out: &str, barrier: &str) -> serde_json::Value {
    let start = |index: u32| {
        let line = format!("{load} --shard {index}/{n} --out {out} {barrier} --barrier-timeout 30 --events --json");
        place.servelab(&line).spawn()
    };
    let running: Vec<Spawned> = (0..n).map(start).collect();
    let outputs: Vec<_> = running.into_iter().map(|shard| shard.wait().expect(0)).collect();
    assert!(outputs[1..].iter().all(|output| output.stdout.is_empty()), "only shard 0 prints the result");
    outputs[0].json()
}

fn requests(place: &Place, folder: &str) -> BTreeMap<i64, RequestRecord> {
    let all = read_requests(&place.path().join(folder).join("requests.parquet")).unwrap();
    let n = all.len();
    let map: BTreeMap<i64, RequestRecord> = all.into_iter().map(|request| (request.request_idx, request)).collect();
    assert_eq!(map.len(), n, "no request twice");
    map
}

/// Scheduled instants of the window relative to its first, by request.
fn instants(requests: &BTreeMap<i64, RequestRecord>) -> Vec<(i64, i64)> {
    let window = || requests.values().filter(|request| request.phase == Phase::Window);
    let zero = window().map(|request| request.t_sched).min().unwrap();
    window().map(|request| (request.request_idx, request.t_sched - zero)).collect()
}

#[test]
fn an_open_loop_is_the_same_from_one_process_and_from_three() {
    let place = Place::new(BIN);
    let (sim, url) = server(&place, "--max-num-seqs 64 --speedup 4");
    let load = format!(
        "bench --url {url} --model {MODEL} --rate 60 --requests 90 --warmup 7 --seed 5 --input-tokens 20 --output-tokens 4 \
         --ignore-eos"
    );
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let whole = shards(&place, &load, 1, "one", "");
    let split = shards(&place, &load, 3, "three", "");
    let over_tcp = shards(&place, &load, 2, "two", &format!("--barrier tcp://:{port}"));
    let one = requests(&place, "one");
    let expected: Vec<i64> = (0..97).collect();
    assert_eq!(one.keys().copied().collect::<Vec<_>>(), expected);
    // The window's instants are those of the schedule, to the nanosecond.
    let plan = schedule(&Arrival::Poisson, 60.0, Extent::Count(90), 5).unwrap();
    let planned: Vec<i64> = plan.iter().map(|t| t - plan[0]).collect();
    assert_eq!(instants(&one).iter().map(|(_, t)| *t).collect::<Vec<_>>(), planned);
    for (folder, result, n) in [("three", &split, 3.0), ("two", &over_tcp, 2.0)] {
        let many = requests(&place, folder);
        assert_eq!(many.keys().collect::<Vec<_>>(), one.keys().collect::<Vec<_>>(), "{folder}");
        assert_eq!(instants(&many), instants(&one), "{folder}");
        assert_eq!(number(result, "shards.count"), n);
        assert_eq!(at(result, "shards.missing").as_array().map(Vec::len), Some(0));
        assert_eq!(number(result, "shards.start_skew_ms"), 0.0, "one host, one clock, one instant");
        for key in ["requests.scheduled", "requests.completed", "input_tokens", "output_tokens"] {
            assert_eq!(number(result, key), number(&whole, key), "{folder}: {key}");
        }
        // Prompts are the same too: their lengths are counted by the server.
        let tokens = |requests: &BTreeMap<i64, RequestRecord>| {
            requests.values().map(|request| request.input_tokens).collect::<Vec<_>>()
        };
        assert_eq!(tokens(&many), tokens(&one));
    }
    let events = read_events(&place.path().join("three/events.parquet")).unwrap();
    let split_events: usize =
        (0..3).map(|i| read_events(&place.path().join(format!("three/shard-{i}/events.parquet"))).unwrap().len()).sum();
    assert_eq!(events.len(), split_events);

    // By hand, from the folders: the same numbers.
    let merged = place.servelab("bench --merge three --out again --events --json").run().expect(0).json();
    for key in ["requests", "latency_ms", "duration_s", "shards", "throughput"] {
        assert_eq!(at(&merged, key), at(&split, key), "{key}");
    }
    let partly = place.servelab("bench --merge three/shard-0 three/shard-2 --out part --json").run().expect(1).json();
    assert_eq!(at(&partly, "shards.missing"), &serde_json::json!([1]));
    assert_eq!(at(&partly, "verdict.reasons.0.code"), "shard_missing");
    place.servelab("bench --merge three two --out wrong").run().expect(2).says("twice");
    place.servelab("bench --merge three/shard-0 two/shard-1 --out wrong").run().expect(2).says("belongs to load");
    place.servelab("bench --merge again --out wrong").run().expect(2).says("there is no shard in `again`");
    drop(sim);
}

#[test]
fn a_closed_loop_splits_its_slots() {
    let place = Place::new(BIN);
    let (sim, url) = server(&place, "--max-num-seqs 64 --speedup 4");
    let load = format!(
        "bench --url {url} --model {MODEL} --concurrency 7 --requests 61 --input-tokens 20 --output-tokens 4 --ignore-eos"
    );
    let result = shards(&place, &load, 3, "out", "");
    assert_eq!(requests(&place, "out").into_keys().collect::<Vec<_>>(), (0..61).collect::<Vec<_>>());
    assert!(number(&result, "concurrency.max") <= 7.0, "{result}");
    assert_eq!(number(&result, "requests.completed"), 61.0);
    for (index, slots) in [(0, 3.0), (1, 2.0), (2, 2.0)] {
        let own = place.json(&format!("out/shard-{index}/result.json"));
        assert!(number(&own, "concurrency.max") <= slots, "shard {index}: {own}");
    }
    drop(sim);
}

#[test]
fn whoever_is_missing_is_named() {
    let place = Place::new(BIN);
    let (sim, url) = server(&place, "--max-num-seqs 64 --speedup 4");
    let base = format!("bench --url {url} --model {MODEL} --rate 40 --input-tokens 20 --output-tokens 4 --ignore-eos");
    // Two of four come; ranks from a launcher.
    let alone: Vec<Spawned> = [0, 2]
        .into_iter()
        .map(|rank| {
            let line = format!("{base} --requests 8 --shard auto --out never --barrier-timeout 1");
            let rank = rank.to_string();
            place.servelab(&line).env("SLURM_PROCID", &rank).env("SLURM_NTASKS", "4").spawn()
        })
        .collect();
    for shard in alone {
        shard.wait().expect(1).says("shards 1, 3 are not there");
    }
    // One is killed while it measures.
    let line = |index: u32| format!("{base} --duration 3 --shard {index}/2 --out half --barrier-timeout 1.5 --json");
    let first = place.servelab(&line(0)).spawn();
    let mut second = place.servelab(&line(1)).spawn();
    second.wait_for("shard 1/2 starts");
    second.kill_9();
    let output = first.wait().expect(1);
    let result = output.json();
    assert_eq!(at(&result, "shards.missing"), &serde_json::json!([1]), "{result}");
    assert_eq!(at(&result, "verdict.ok"), false);
    assert_eq!(at(&result, "verdict.reasons.0.code"), "shard_missing");
    // One that is interrupted keeps its records, and the whole is not believed either.
    let line = |index: u32| format!("{base} --duration 3 --shard {index}/2 --out cut --barrier-timeout 10 --json");
    let first = place.servelab(&line(0)).spawn();
    let mut second = place.servelab(&line(1)).spawn();
    second.wait_for("shard 1/2 starts");
    second.signal(Signal::INT);
    second.wait().expect(1);
    let result = first.wait().expect(1).json();
    assert_eq!(at(&result, "shards.interrupted"), &serde_json::json!([1]), "{result}");
    assert_eq!(at(&result, "verdict.reasons.0.code"), "shard_missing");
    drop(sim);
}
