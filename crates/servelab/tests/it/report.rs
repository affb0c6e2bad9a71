//! `servelab report`, `status` and `logs` on a study that ran: the files, the columns of the contract, what is ranked and
//! what is not.

use std::collections::BTreeMap;

use servelab_core::record::Phase;
use servelab_testkit::{Place, TINY, at, keys, number, text};

use super::place;

/// Columns that scripts rely on (CONTRACT).
const COLUMNS: [&str; 22] = [
    "cell_id",
    "point_id",
    "labels",
    "legacy_hash",
    "study",
    "design",
    "workload",
    "load_kind",
    "load_value",
    "repeat",
    "attempt",
    "state",
    "verdict",
    "engine",
    "engine_version",
    "model",
    "gpu_model",
    "site",
    "simulated",
    "gpus",
    "nodes",
    "max_num_seqs",
];
const METRICS: [&str; 12] = [
    "throughput_tokens_per_sec",
    "throughput_requests_per_sec",
    "goodput_requests_per_s",
    "total_tokens_generated",
    "total_time_s",
    "success_rate",
    "failed_requests",
    "prom_preemptions",
    "prom_cache_usage",
    "prom_cache_usage_max",
    "prom_requests_running",
    "prom_requests_waiting",
];

/// TINY with two repeats and an SLO, run once.
fn ran() -> Place {
    let place = place();
    let more = "repeats: {n: 2}\nslo: {cell: {success: 0.99}, request: {ttft_ms: 500}}\nbaseline: seqs_4\n";
    place.write("study.yaml", &format!("{TINY}{more}"));
    place.servelab("run study.yaml --root out").run().expect(0);
    place
}

fn rows(place: &Place, file: &str) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_path(place.path().join(file)).unwrap();
    let header = reader.headers().unwrap().clone();
    let records = reader.records().map(|record| {
        let record = record.unwrap();
        header.iter().map(str::to_owned).zip(record.iter().map(str::to_owned)).collect()
    });
    records.collect()
}

#[test]
fn files_columns_and_numbers() {
    let place = ran();
    let out = place.servelab("report study.yaml --root out").run().expect(0);
    let revision = place.list("out/reports/tiny").pop().unwrap();
    let folder = format!("out/reports/tiny/{revision}");
    assert_eq!(
        place.list(&folder),
        ["report.html", "report.md", "report.txt", "results.csv", "results.parquet", "viz_data.json"],
        "{}",
        out.stderr
    );
    assert_eq!(out.stdout, place.read(&format!("{folder}/report.txt")));
    let rows = rows(&place, &format!("{folder}/results.csv"));
    assert_eq!(rows.len(), 4, "one row per cell");
    let mut expected: Vec<String> = COLUMNS.iter().chain(&METRICS).map(|name| (*name).to_owned()).collect();
    for latency in ["ttft", "itl", "tpot", "e2e_latency", "ttft_sched"] {
        expected.extend(["mean", "p50", "p95", "p99"].map(|statistic| format!("{latency}_{statistic}_ms")));
    }
    for row in &rows {
        for column in &expected {
            assert!(row.contains_key(column), "no column {column}");
        }
        assert_eq!((row["study"].as_str(), row["simulated"].as_str(), row["state"].as_str()), ("tiny", "true", "done"));
        // The table repeats the record, to the last digit.
        let result = place.json(&format!("out/cells/{}/attempt-1/result.json", row["cell_id"]));
        let cell = |column: &str| row[column].parse::<f64>().unwrap();
        assert_eq!(cell("throughput_tokens_per_sec"), number(&result, "throughput.output_tokens_per_s"));
        assert_eq!(cell("ttft_p95_ms"), number(&result, "latency_ms.ttft.p95"));
        assert_eq!(cell("total_tokens_generated"), number(&result, "output_tokens"));
        assert_eq!(cell("success_rate"), 1.0);
        assert!(!row["goodput_requests_per_s"].is_empty(), "the study has an SLO on requests");
        assert_eq!(row["legacy_hash"], "", "absent is empty, never 0");
    }
    let parquet = std::fs::read(place.path().join(&folder).join("results.parquet")).unwrap();
    assert!(parquet.starts_with(b"PAR1") && parquet.ends_with(b"PAR1"));
    let viz = place.json(&format!("{folder}/viz_data.json"));
    assert_eq!((number(&viz, "schema"), at(&viz, "rows").as_array().unwrap().len()), (1.0, 4));
    keys(at(&viz, "curves"));
    // The same results give the same folder and the same bytes.
    let before = place.files();
    place.servelab("report study.yaml --root out").run().expect(0);
    assert_eq!(place.files(), before);
}

#[test]
fn records_can_be_read() {
    let place = ran();
    for cell in place.list("out/cells") {
        let attempt = place.path().join(format!("out/cells/{cell}/attempt-1"));
        let requests = servelab_store::read_requests(&attempt.join("requests.parquet")).unwrap();
        let events = servelab_store::read_events(&attempt.join("events.parquet")).unwrap();
        let prom = servelab_store::read_prom(&attempt.join("prom.parquet")).unwrap();
        assert!(requests.iter().any(|request| request.phase == Phase::Warmup));
        for request in requests.iter().filter(|request| request.is_success() && request.phase == Phase::Window) {
            let order = [request.t_send, request.t_hdr, request.t_first, request.t_last, request.t_done];
            assert!(order.windows(2).all(|pair| pair[0] <= pair[1]), "{request:?}");
            let own: Vec<_> = events.iter().filter(|event| event.request_idx == request.request_idx).collect();
            let first_and_last = (own.first().map(|event| event.t_ns), own.last().map(|event| event.t_ns));
            assert_eq!(first_and_last, (request.t_first, request.t_last), "{request:?}");
            // Fewer where the server put two tokens into one event.
            let tokens: i64 = own.iter().map(|event| i64::from(event.n_tokens)).sum();
            assert!(tokens > 0 && Some(tokens) <= request.output_tokens, "{request:?}");
        }
        assert!(prom.iter().any(|sample| sample.metric == "vllm:generation_tokens_total"));
    }
}

#[test]
fn repeats_are_shown_and_options_add_what_they_promise() {
    let place = ran();
    let report = |options: &str| place.servelab(&format!("report study.yaml --root out {options}")).run().expect(0);
    let text_of = report("").stdout;
    assert!(text_of.contains("n=2") && text_of.contains("SIMULATED"), "{text_of}");
    assert!(text_of.contains("seqs_4") && text_of.contains("seqs_64") && text_of.contains("max_num_seqs"), "{text_of}");
    report("--out plain");
    report("--out rich --enrich-configs");
    let (plain, rich) = (rows(&place, "plain/results.csv"), rows(&place, "rich/results.csv"));
    assert!(rich[0].len() > plain[0].len());
    assert!(rich[0].keys().any(|column| column.ends_with("max_model_len")), "{:?}", rich[0].keys());
    let compared = report("--compare-param max_num_seqs --metric ttft_p95_ms --out compared").stdout;
    assert!(compared.contains("max_num_seqs") && compared.contains("TTFT"), "{compared}");
    assert_ne!(compared, text_of);
    let small_first = report("--objective -ttft_p95_ms --json --out json").json();
    assert_eq!(at(&small_first, "rows").as_array().unwrap().len(), 4);
    for (options, says) in [
        ("--compare-param max_num_seq --metric ttft_p95_ms", "max_num_seqs"),
        ("--compare-param max_num_seqs --metric ttft_p96_ms", "ttft_p9"),
        ("--compare-param max_num_seqs", "--metric"),
        ("--objective (", "--objective"),
    ] {
        place.servelab(&format!("report study.yaml --root out {options}")).run().expect(2).says(says);
    }
}

#[test]
fn before_anything_ran() {
    let place = place();
    place.write("study.yaml", TINY);
    let before = place.files();
    place.servelab("report study.yaml --root out").run().expect(1).says("servelab run study.yaml");
    let status = place.servelab("status study.yaml --root out --json").run().expect(0).json();
    assert_eq!(at(&status, "cells").to_string(), r#"{"planned":2}"#);
    let logs = place.servelab("logs study.yaml --root out").run();
    assert_eq!(logs.code, Some(1), "{}", logs.stderr);
    logs.says("servelab run study.yaml");
    assert_eq!(place.files(), before);
}

#[test]
fn status_and_logs() {
    let place = place();
    place.write("study.yaml", TINY);
    place.servelab("run study.yaml --root out --max-cells 1").run().expect(0);
    let status = place.servelab("status study.yaml --root out --json").run().expect(0).json();
    assert_eq!(at(&status, "cells").to_string(), r#"{"done":1,"planned":1}"#);
    assert_eq!(at(&status, "failures").as_array().map(Vec::len), Some(0));
    let job = at(&status, "jobs.0");
    assert_eq!((text(job, "state"), at(job, "scheduler_id").is_null()), ("finished", true));
    assert!(text(job, "uuid").len() > 20 && keys(job).contains("reason"));
    assert!(place.servelab("status study.yaml --root out").run().expect(0).stdout.contains("1 of 2"));

    let log = place.servelab("logs study.yaml --root out").run().expect(0).stdout;
    assert!(log.contains("Application startup complete"), "{log}");
    let path = place.servelab("logs study.yaml --root out --path").run().expect(0).stdout;
    assert_eq!(place.read(path.trim()), log);

    // A failure has its code, its line and its advice.
    let fail = "--set engine.fail=[oom_start] --only seqs_64";
    place.servelab(&format!("run study.yaml --root other {fail}")).run().expect(1);
    let status = place.servelab(&format!("status study.yaml --root other --json {fail}")).run().expect(0).json();
    let failure = at(&status, "failures.0");
    assert_eq!(text(failure, "code"), "cuda_oom_load");
    assert!(text(failure, "line").contains("out of memory") && !text(failure, "advice").is_empty());
    assert!(place.states("other").contains_key(text(failure, "cell")));
}

#[test]
fn folders_of_another_tool_beside_each_other() {
    let place = place();
    place.write("study.yaml", &format!("{TINY}report: {{normalise: per_node(8)}}\n"));
    // As `vllm bench serve` writes it, with the numbers of a run that nobody made.
    let result = |concurrency: u32, tokens_per_s: f64| {
        let ms = [("ttft", 100.0), ("tpot", 20.0), ("itl", 20.0)].map(|(name, ms)| {
            format!(
                "\"mean_{name}_ms\": {ms}, \"median_{name}_ms\": {ms}, \"p99_{name}_ms\": {ms}, \"std_{name}_ms\": 0.1"
            )
        });
        format!(
            "{{\"date\": \"20251101-0{concurrency}0000\", \"endpoint_type\": \"openai\", \"backend\": \"vllm\", \"model_id\": \"m\", \
             \"tokenizer_id\": \"m\", \"num_prompts\": 40, \"max_concurrency\": {concurrency}, \"request_rate\": \"inf\", \"burstiness\": 1.0, \
             \"duration\": 10.0, \"completed\": 40, \"failed\": 0, \"total_input_tokens\": 200000, \"total_output_tokens\": 10000, \
             \"request_throughput\": 4.0, \"output_throughput\": {tokens_per_s}, \"total_token_throughput\": 21000.0, {}}}",
            ms.join(", ")
        )
    };
    for (folder, speed) in
        [("m_itl5000_otl250_mixed_2xtp2_baseline", 1000.0), ("m_itl5000_otl250_mixed_1xtp2-1xtp2_pd", 800.0)]
    {
        for concurrency in [4, 8] {
            place.write(
                &format!("{folder}/conc{concurrency}.json"),
                &result(concurrency, speed + f64::from(concurrency)),
            );
        }
    }
    let folders = "m_itl5000_otl250_mixed_2xtp2_baseline m_itl5000_otl250_mixed_1xtp2-1xtp2_pd";
    let line = format!("report study.yaml --root out --out both --compare-dirs {folders}");
    let out = place.servelab(&line).run().expect(0);
    assert!(
        out.stdout.contains("Folders beside each other") && out.stdout.contains("Rates per 8 GPUs"),
        "{}",
        out.stdout
    );
    assert!(out.stdout.contains("2,008"), "1004 on four GPUs is 2008 on eight:\n{}", out.stdout);
    assert!(out.stdout.contains("nothing confirms"), "{}", out.stdout);
    assert!(place.read("both/report.html").contains("throughput_vs_tpot_mean"));
    assert_eq!(rows(&place, "both/results.csv").len(), 4);
    place
        .servelab("report study.yaml --root out --compare-dirs missing")
        .run()
        .expect(2)
        .says("there is no such folder");
    place.servelab(&format!("{line} --predict")).run().expect(2).says("--predict");
}
