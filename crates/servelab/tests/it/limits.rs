//! `bench --search` and `bench --until` against a server that the test starts.

use servelab_testkit::{Place, at, number};

use super::bench::{MODEL, server};

const BIN: &str = env!("CARGO_BIN_EXE_servelab");

#[test]
fn a_search_finds_the_slots_of_the_server() {
    let place = Place::new(BIN);
    // Four requests run at once, 52 ms each with 13 ms to the first token; with n in flight, each waits (n − 4) × 13 ms
    // before that: six are just within the limit, eight are not, whatever else this machine does meanwhile.
    let (sim, url) = server(&place, "--max-num-seqs 4");
    let line = format!(
        "bench --url {url} --model {MODEL} --search concurrency --search-min 2 --search-max 8 --search-repeats 1 --requests 40 \
         --slo ttft_ms=45,attainment=0.8 --input-tokens 20 --output-tokens 8 --ignore-eos --out found --json"
    );
    let report = place.servelab(&line).run().expect(0).json();
    assert_eq!(at(&report, "axis"), "concurrency");
    let (passes, fails) = (number(&report, "passes.level"), number(&report, "fails.level"));
    assert!((4.0..=6.0).contains(&passes) && fails == passes + 1.0, "{report}");
    assert!(number(&report, "confidence") > 0.5 && number(&report, "goodput_requests_per_s") > 20.0, "{report}");
    assert_eq!(place.json("found/search.json"), report);
    let trials = at(&report, "trials").as_array().map_or(0, Vec::len);
    let folders = place.list("found").into_iter().filter(|name| name.starts_with("trial-")).count();
    assert_eq!(folders, trials + 1, "every trial and the idle server");
    assert!(place.list("found/trial-002").contains(&"requests.parquet".to_owned()));

    let hopeless = format!(
        "bench --url {url} --model {MODEL} --search rate --slo ttft_ms=0.001 --input-tokens 20 --output-tokens 4 --ignore-eos"
    );
    let output = place.servelab(&hopeless).run().expect(1);
    assert!(output.stdout.contains("one at a time: no load can"), "{}", output.stdout);
    drop(sim);
}

#[test]
fn a_run_ends_when_its_means_are_known() {
    let place = Place::new(BIN);
    let (sim, url) = server(&place, "--max-num-seqs 8 --speedup 4");
    let base = format!("bench --url {url} --model {MODEL} --input-tokens 20 --output-tokens 4 --ignore-eos --json");
    let known = format!("{base} --concurrency 4 --until ci=20%,metric=ttft --min-duration 0.1 --duration 60");
    let result = place.servelab(&known).run().expect(0).json();
    let precision = at(&result, "precision").as_array().cloned().unwrap_or_default();
    assert_eq!(precision.len(), 1, "{result}");
    assert_eq!((at(&precision[0], "metric"), at(&precision[0], "is_reached")), (&"ttft".into(), &true.into()));
    assert!(number(&precision[0], "reached") <= 0.2 && number(&precision[0], "observations") >= 128.0);
    assert!(number(&result, "duration_s") < 50.0);
    let unknown = format!("{base} --rate 50 --until ci=0.1% --requests 60");
    let result = place.servelab(&unknown).run().expect(0).json();
    assert_eq!(number(&result, "requests.completed"), 60.0);
    let codes: Vec<&str> = at(&result, "verdict.reasons")
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|reason| at(reason, "code").as_str())
        .collect();
    assert!(codes.contains(&"precision_not_reached"), "{codes:?}");
    drop(sim);
}

#[test]
fn wrong_usage_is_told_before_anything_is_sent() {
    let place = Place::new(BIN);
    let base = "bench --url http://127.0.0.1:9 --model m --input-tokens 10 --output-tokens 2";
    let check = |rest: &str, text: &str| {
        place.servelab(&format!("{base} {rest}")).run().expect(2).says(text);
    };
    check("--search rate", "--slo");
    check("--search rate --slo ttft_ms=5 --rate 3", "cannot be used with");
    check("--search rate --slo ttft_p96_ms=5", "did you mean");
    check("--search rate --slo ttft_ms=5 --search-precision 0", "no width");
    check("--search rate --slo ttft_ms=5 --search-min 5 --search-max 3", "above the highest");
    check("--search concurrency --slo ttft_ms=5 --search-min 0.5", "no level");
    check("--concurrency 2 --requests 4 --slo ttft_p95_ms=5", "limits a whole load");
    check("--concurrency 2 --until ci=500%", "no width");
    check("--concurrency 2 --until ci=5%,metric=p99", "no metric `p99`");
    check("--concurrency 2 --until ci=5% --min-duration 9 --duration 3", "longer than");
    check("--concurrency 2 --requests 4 --shard 0/2", "--out");
    check("--concurrency 2 --requests 4 --out x --shard 2/2", "is no shard");
    check("--concurrency 2 --requests 4 --out x --shard auto", "start it with srun");
    check("--concurrency 2 --requests 4 --out x --shard 2/3", "leaves nothing for shard 2/3");
    check("--concurrency 2 --requests 4 --out x --shard 0/2 --barrier tcp://nowhere", "is no meeting place");
    assert!(place.list(".").is_empty(), "nothing is left on disk");
}
