//! Load sections: ramps, replays, pauses and starts; what they plan, what they refuse, what enters an id.

use crate::plan::{Load, StopAt};

use super::*;

fn study(workload: &str, load: &str) -> Harness {
    Harness::new(&format!(
        "schema: 1\nstudy: t\nengine: {{kind: sim}}\nmodel: {{id: meta-llama/Llama-3.1-8B}}\n\
         workloads:\n  w:\n    dataset: {workload}\nload:\n{load}\ndesigns: {{one: {{list: {{only: {{}}}}}}}}\n"
    ))
}

const SYNTH: &str = "{synth: {input_tokens: 10, output_tokens: 10}}";
const TRACE: &str = "{trace: {path: t.csv}}";

fn cells(workload: &str, load: &str) -> Vec<(Load, StopAt, String)> {
    let plan = study(workload, load).plan().unwrap_or_else(|error| panic!("{error}"));
    plan.cells.into_iter().map(|cell| (cell.load, cell.settings.stop, cell.id.as_str().to_owned())).collect()
}

fn id(workload: &str, load: &str) -> String {
    cells(workload, load).remove(0).2
}

#[test]
fn ramps_and_replays_are_levels_and_end_by_themselves() {
    let got = cells(SYNTH, "  open: {ramp: {linear: {from: 1, to: 50, over_s: 60}}}");
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].0.describe(), "ramp 1..50/60s poisson");
    assert_eq!((got[0].0.kind(), got[0].0.value(), got[0].1), ("ramp", 50.0, StopAt::DurationS(60.0)));

    let got = cells(
        SYNTH,
        "  open: {rate: [1, 2], arrival: gamma:2, ramp: {steps: [{rate: 1, for_s: 5}, {rate: 4, for_s: 5}]}}\n  stop: {duration_s: 20}",
    );
    let words: Vec<String> = got.iter().map(|(load, ..)| load.describe()).collect();
    assert_eq!(words, ["open 1/s gamma:2", "open 2/s gamma:2", "ramp 1x5s,4x5s gamma:2"]);
    assert!(got.iter().all(|(_, stop, _)| *stop == StopAt::DurationS(20.0)));

    let got = cells(TRACE, "  replay: {speed: [1, 2.5], max_concurrency: 64}");
    assert_eq!(got[1].0, Load::Replay { speed: 2.5, max_concurrency: Some(64) });
    assert_eq!((got[1].0.describe().as_str(), got[1].1), ("replay ×2.5", StopAt::TraceEnd));
    assert_eq!(cells(TRACE, "  replay: {}")[0].0, Load::Replay { speed: 1.0, max_concurrency: None });
    let got = cells(TRACE, "  replay: {}\n  closed: {concurrency: 2}\n  stop: {requests: 9}");
    assert!(got.iter().all(|(_, stop, _)| *stop == StopAt::Requests(9)), "a trace is a dataset for other loads too");
}

#[test]
fn pauses_and_starts_enter_the_id_only_when_they_change_something() {
    let closed = |more: &str| id(SYNTH, &format!("  closed: {{concurrency: 4{more}}}\n  stop: {{requests: 9}}"));
    let plain = closed("");
    assert_eq!(closed(", start: spread"), plain);
    assert_eq!(closed(", think_s: 0"), plain);
    let others = [", start: burst", ", start: {spread_s: 2}", ", think_s: 2", ", think_s: {exponential: 2}"];
    let mut ids: Vec<String> = others.iter().map(|more| closed(more)).collect();
    assert_eq!(closed(", think_s: {constant: 2}"), ids[2]);
    ids.push(plain);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 5);
    let load = cells(SYNTH, "  closed: {concurrency: 4, think_s: 2, start: burst}\n  stop: {requests: 9}").remove(0).0;
    assert_eq!((load.describe().as_str(), load.busy_slots()), ("closed 4, think 2s, start burst", None));
    assert_eq!(Load::closed(4).busy_slots(), Some(4));
}

#[test]
fn plans_read_back() {
    for load in [
        "  closed: {concurrency: 4, think_s: {exponential: 1}, start: {spread_s: 3}}\n  stop: {requests: 9}",
        "  open: {ramp: {steps: [{rate: 1, for_s: 5}]}, max_concurrency: 3}",
    ] {
        let plan = study(SYNTH, load).plan().unwrap();
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    }
    // A plan of an older version names neither pause nor start.
    let old: Load = serde_json::from_str(r#"{"kind": "closed", "concurrency": 8}"#).unwrap();
    assert_eq!(old, Load::closed(8));
    assert_eq!(serde_json::to_string(&old).unwrap(), r#"{"kind":"closed","concurrency":8}"#);
}

#[test]
fn mistakes_are_shown_at_their_line() {
    let check = |workload: &str, load: &str, parts: &[&str]| {
        let error = study(workload, load).plan().expect_err(load);
        for part in parts {
            assert!(error.contains(part), "{part}:\n{error}");
        }
    };
    check(SYNTH, "  open: {arrival: poisson}\n  stop: {requests: 1}", &["no rate is given", "ramp: {linear"]);
    check(
        SYNTH,
        "  open:\n    ramp:\n      linear:\n        from: 1\n        to: 0\n        over_s: 60",
        &["s.yaml:13:13", "to: 0", "^", "`linear.to` is 0; the last rate, which is held,"],
    );
    check(
        SYNTH,
        "  open:\n    ramp:\n      steps:\n        - {rate: 1, for_s: 5}\n        - {rate: 1, for_s: -5}",
        &["s.yaml:13:28", "`steps.1.for_s` is -5"],
    );
    check(SYNTH, "  open: {ramp: {linar: {from: 1, to: 2, over_s: 3}}}", &["linar", "did you mean `linear`?"]);
    check(SYNTH, "  open: {ramp: {linear: {from: 1, to: 2}}}", &["over_s"]);
    check(SYNTH, "  replay: {}", &["workload `w` is none", "trace: {path: …}", "s.yaml:7"]);
    check(TRACE, "  replay: {speed: 0}", &["greater than 0", "found 0", "2 twice as fast"]);
    check(TRACE, "  replay: {max_concurrency: 0}", &["at least 1"]);
    check(TRACE, "  replay: {}\n  closed: {concurrency: 1}", &["`stop` is exactly one of", "found 0"]);
    check(TRACE, "  replay: {}\n  stop: {requests_per_slot: 2}", &["an open loop has no slots"]);
    check(SYNTH, "  closed: {concurrency: 1, think_s: -1}\n  stop: {requests: 1}", &["`constant` is -1", "^"]);
    check(SYNTH, "  closed: {concurrency: 1, think_s: 2s}\n  stop: {requests: 1}", &["expected seconds, or"]);
    check(SYNTH, "  closed: {concurrency: 1, start: herd}\n  stop: {requests: 1}", &["herd", "burst"]);
    check(SYNTH, "  closed: {concurrency: 1, start: {spread_s: 0}}\n  stop: {requests: 1}", &["`spread_s` is 0"]);
    check(
        "{conversations: {synth: {turns: 0, user_tokens: 1, output_tokens: 1}}}",
        "  closed: {concurrency: 1}\n  stop: {requests: 1}",
        &["is 0, must be between 1 and 1000", "turns: 0"],
    );
    check(
        "{conversations: {synth: {turns: {min: 2}, user_tokens: 1, output_tokens: 1}}}",
        "  closed: {concurrency: 1}\n  stop: {requests: 1}",
        &["max"],
    );
    check("{trace: {path: t.csv, formt: azure}}", "  replay: {}", &["formt", "did you mean `format`?"]);
}

#[test]
fn conversations_must_fit_the_context() {
    let plan = study(
        "{conversations: {synth: {turns: 10, user_tokens: 1000, output_tokens: 1000}}}",
        "  closed: {concurrency: 1}\n  stop: {requests: 1}\nserve: {max_model_len: 8192}",
    )
    .plan()
    .unwrap();
    assert_eq!(plan.cells[0].status, PlanStatus::Infeasible, "{:?}", plan.cells[0].reasons);
    assert!(plan.cells[0].reasons[0].contains("8,192") || plan.cells[0].reasons[0].contains("8192"));
}
