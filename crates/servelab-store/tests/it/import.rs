//! Files that the real tools wrote (against the simulated server), and the published results of document 001.

use std::path::{Path, PathBuf};

use servelab_core::plan::Load;
use servelab_core::state::CellState;
use servelab_store::import::{ImportedResult, Imports, import, store_imports};
use servelab_store::rank::{Direction, RankRequest, Scope, rank};
use servelab_store::{Root, RowContext, collect_rows};

fn fixture(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/import").join(below)
}

fn all(below: &str) -> Imports {
    let imports = import(&[fixture(below)]).unwrap();
    assert!(imports.skipped.iter().all(|skipped| !skipped.is_problem), "{:?}", imports.skipped);
    imports
}

fn one(below: &str) -> ImportedResult {
    let mut imports = all(below);
    assert_eq!(imports.results.len(), 1, "{below}: {:?}", imports.skipped);
    imports.results.remove(0)
}

fn codes(imported: &ImportedResult) -> Vec<&str> {
    imported.result.verdict.reasons.iter().map(|reason| reason.code.as_str()).collect()
}

/// Our numbers from the data are the tool's own where the definitions are the same.
fn agrees(imported: &ImportedResult, latency: &str, statistic: &str) {
    let json = imported.result.to_json();
    let ours = json["latency_ms"][latency][statistic].as_f64().unwrap();
    let kind = imported.run.stated.iter().find(|(kind, _)| kind.key() == latency).map(|(_, stated)| *stated).unwrap();
    let theirs = if statistic == "mean" { kind.mean } else { kind.p99 }.unwrap();
    assert!(
        (ours - theirs).abs() < 1e-3 * theirs,
        "{} {latency} {statistic}: {ours}, the tool says {theirs}",
        imported.path
    );
}

#[test]
fn vllm_detailed_is_recomputed_to_the_same_numbers() {
    let imported = one("vllm/gptoss_itl48_otl12_sim");
    for (latency, statistic) in
        [("ttft", "mean"), ("ttft", "p99"), ("tpot", "mean"), ("icl", "mean"), ("e2e", "mean"), ("e2e", "p99")]
    {
        agrees(&imported, latency, statistic);
    }
    assert_eq!((imported.format, imported.load()), ("vllm-bench", Load::closed(4)));
    assert_eq!(imported.run.labels.get("tp").map(String::as_str), Some("1"), "metadata");
    assert_eq!(imported.run.hints.get("output_tokens").map(String::as_str), Some("12"));
    assert!(imported.result.verdict.ok && imported.result.import.as_ref().unwrap().recomputed);
}

#[test]
fn vllm_appended_results_and_its_rust_variant() {
    let imports = all("vllm/append.jsonl");
    let rates: Vec<f64> = imports.results.iter().map(|imported| imported.load().value()).collect();
    assert_eq!(rates, [20.0, 40.0]);
    assert!(imports.results.iter().all(|imported| codes(imported).contains(&"aggregates_only")));
    let rust = one("vllm-rs");
    assert_eq!(rust.result.requests.completed, 12);
    agrees(&rust, "ttft", "mean");
    agrees(&rust, "tpot", "mean");
}

#[test]
fn guidellm_in_three_forms() {
    let json = one("guidellm");
    assert_eq!((json.format, json.load(), json.run.model.as_deref()), ("guidellm", Load::closed(4), Some("tiny")));
    for (latency, statistic) in [("ttft", "mean"), ("tpot", "mean")] {
        agrees(&json, latency, statistic);
    }
    assert!(!json.result.is_unknown("latency_ms.ttft_sched"), "it knows when requests were due");
    let yaml = one("guidellm-yaml");
    assert_eq!((yaml.format, yaml.fingerprint()), ("guidellm-yaml", json.fingerprint()));
    let csv = one("guidellm-csv");
    let p99 =
        |imported: &ImportedResult| imported.run.stated.values().filter_map(|stated| stated.p99).collect::<Vec<_>>();
    assert_eq!(
        (csv.format, csv.load(), csv.result.output_tokens),
        ("guidellm-csv", Load::closed(4), json.result.output_tokens)
    );
    assert_eq!(csv.result.latency_ms.ttft.p99, p99(&json).first().copied());
}

#[test]
fn inference_perf_stages_get_their_own_requests() {
    let imports = all("inference-perf");
    let names: Vec<&str> = imports.results.iter().map(|imported| imported.path.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["stage_0_lifecycle_metrics.json", "stage_1_lifecycle_metrics.json"], "the summary mixes loads");
    for imported in &imports.results {
        agrees(imported, "ttft", "mean");
        assert!(imported.load().is_open() && imported.result.import.as_ref().unwrap().recomputed);
        // It counts the tokens of its own tokenizer, not those the server reported.
        assert!(codes(imported).contains(&"recomputed_differs"), "{:?}", codes(imported));
    }
}

#[test]
fn genai_bench_has_no_instants() {
    let imported = one("genai-bench");
    for (latency, statistic) in [("ttft", "mean"), ("tpot", "mean"), ("e2e", "p99")] {
        agrees(&imported, latency, statistic);
    }
    assert_eq!(imported.load(), Load::closed(2));
    assert!(imported.result.is_unknown("concurrency.mean") && imported.result.is_unknown("latency_ms.itl"));
}

#[test]
fn aiperf_summary_and_records() {
    let imported = one("aiperf");
    assert_eq!((imported.format, imported.load()), ("aiperf", Load::closed(4)));
    for (latency, statistic) in [("ttft", "mean"), ("tpot", "mean"), ("e2e", "mean")] {
        agrees(&imported, latency, statistic);
    }
    let alone = std::fs::read_to_string(fixture("aiperf/profile_export.jsonl")).unwrap();
    let records = servelab_store::import::import_str("profile_export.jsonl", &alone).unwrap();
    assert_eq!(records[0].fingerprint(), imported.fingerprint());
    let csv = one("aiperf-csv");
    assert_eq!((csv.format, csv.result.requests.completed), ("aiperf-csv", 12));
    let (ours, theirs) = (csv.result.latency_ms.ttft.p99.unwrap(), imported.result.latency_ms.ttft.p99.unwrap());
    assert!((ours - theirs).abs() < 0.01, "{ours} {theirs}");
}

#[test]
fn copies_are_found_by_content_and_damage_costs_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(fixture("vllm/gptoss_itl48_otl12_sim/conc4.json")).unwrap();
    let write = |name: &str, text: &str| {
        std::fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
        std::fs::write(dir.path().join(name), text).unwrap();
    };
    write("a_pd-pack/conc4.json", &text);
    write("b_pd-spread/conc4.json", &text.replace("\"date\": \"", "\"date\": \"x"));
    write("c/conc4.json", text.get(..text.len() / 2).unwrap());
    write("notes.txt", "hello");
    let imports = import(&[dir.path().to_owned()]).unwrap();
    assert_eq!(imports.results.len(), 2);
    assert!(imports.results[0].result.verdict.ok && !imports.results[1].result.verdict.ok);
    let reason = &imports.results[1].result.verdict.reasons[0];
    assert!(reason.code == "duplicate_data" && reason.detail.contains("a_pd-pack"), "{reason:?}");
    assert_eq!(imports.skipped.len(), 2);

    // Stored, they are two points, of which one may be ranked; importing again changes nothing.
    let root = Root::open_or_create(&dir.path().join("root")).unwrap();
    let stored = store_imports(&root, "bm", &imports.results, 1).unwrap();
    assert_eq!((stored.written, stored.known), (2, 0));
    let again = store_imports(&root, "bm", &imports.results, 2).unwrap();
    assert_eq!((again.written, again.known), (0, 2));
    let rows = collect_rows(&root, &root.load_plan("bm").unwrap(), &RowContext::default()).unwrap();
    let states: Vec<CellState> = rows.iter().map(|row| row.state).collect();
    assert_eq!(states, [CellState::Done, CellState::Invalid]);
    assert_ne!(rows[0].point.id, rows[1].point.id, "the folder is all that tells them apart");
}

#[test]
fn a_configuration_gives_its_settings_only_to_results_that_name_the_hash_of_its_content() {
    let dir = tempfile::tempdir().unwrap();
    let settings =
        r#"{"model_path": "org/m", "tensor_parallel_size": 2, "max_model_len": 4096, "num_nodes": 1, "name": "a"}"#;
    let map = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(settings).unwrap();
    let hash = servelab_core::identity::legacy_md5_8(&map);
    let result = format!(
        r#"{{"config_hash": "{hash}", "num_requests": 100, "request_rate": 10.0, "successful_requests": 100, "failed_requests": 0,
        "total_time": 10.5, "total_tokens_generated": 900, "throughput_tokens_per_sec": 85.7, "ttft_mean": 0.1, "e2e_latency_mean": 0.4,
        "prometheus_metrics": {{"x": 1}}}}"#
    );
    std::fs::write(dir.path().join(format!("config_00_a_{hash}.json")), settings).unwrap();
    std::fs::write(dir.path().join("results.json"), result).unwrap();
    let imports = import(&[dir.path().to_owned()]).unwrap();
    let only = &imports.results[0];
    assert_eq!(
        (only.run.model.as_deref(), only.run.labels["name"].as_str(), only.run.settings.len()),
        (Some("org/m"), "a", 5)
    );
    assert_eq!((only.result.latency_ms.ttft.mean, only.result.verdict.ok), (Some(100.0), true));
}

#[test]
fn published_results_of_document_001_have_nothing_to_rank() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/samples/results");
    if !samples.is_dir() {
        println!("skipped: no published results beside the project");
        return;
    }
    let imports = import(&[samples]).unwrap();
    assert_eq!(imports.results.len(), 6);
    for imported in &imports.results {
        let codes = codes(imported);
        assert!(codes.contains(&"metrics_missing"), "{}: {codes:?}", imported.path);
        let expected = match imported.run.labels["config_hash"].as_str() {
            "0a6d146a" => "success_low",
            "4ba356b7" => "zero_token_successes",
            _ => "saturated",
        };
        assert!(codes.contains(&expected), "{}: {codes:?}", imported.path);
        assert!(imported.result.is_unknown("input_tokens"), "words are no tokens");
    }
    // Seconds are seconds: a TTFT of 264.7 s, not of 264.7 ms.
    let slow = imports.results.iter().find(|imported| imported.run.labels["config_hash"] == "11d75c1e").unwrap();
    assert!((slow.result.latency_ms.ttft.p95.unwrap() - 264_695.448).abs() < 0.01);
    assert!((slow.result.throughput.output_tokens_per_s - 634.89).abs() < 0.01);
    // The configuration that is named like a result was edited since: its settings are not those that ran.
    let baseline = imports.results.iter().find(|imported| imported.run.labels["config_hash"] == "8675a82e").unwrap();
    assert!(baseline.run.settings.is_empty());
    let notes = &baseline.result.import.as_ref().unwrap().notes;
    assert!(notes.iter().any(|note| note.contains("its content has the hash 8acd1260")), "{notes:?}");

    let dir = tempfile::tempdir().unwrap();
    let root = Root::open_or_create(dir.path()).unwrap();
    store_imports(&root, "published", &imports.results, 1).unwrap();
    let rows = collect_rows(&root, &root.load_plan("published").unwrap(), &RowContext::default()).unwrap();
    let value = |row: &servelab_store::ResultRow| row.metric("throughput_tokens_per_sec");
    let request =
        RankRequest { value: &value, direction: Direction::Maximise, scope: Scope::Overall, mix_simulated: false };
    let ranking = rank(&rows, &request);
    assert!(ranking.ranked.is_empty() && ranking.unranked.len() == 6);
}
