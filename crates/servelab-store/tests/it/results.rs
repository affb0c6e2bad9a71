//! The results table: the contract's columns, and which attempt a row shows.

use std::fs;

use serde_json::json;
use servelab_core::result::Severity;
use servelab_core::state::CellState;
use servelab_store::{CellValue, RowContext, Table, collect_rows, results_table};

use crate::scene;

/// CONTRACT's columns, in its order.
const CONTRACT: &str = "cell_id point_id labels legacy_hash study design workload load_kind load_value repeat attempt state verdict \
    engine engine_version model gpu_model site simulated gpus nodes throughput_tokens_per_sec throughput_requests_per_sec \
    goodput_requests_per_s total_tokens_generated total_time_s success_rate failed_requests ttft_mean_ms ttft_p50_ms ttft_p95_ms \
    ttft_p99_ms itl_mean_ms itl_p50_ms itl_p95_ms itl_p99_ms tpot_mean_ms tpot_p50_ms tpot_p95_ms tpot_p99_ms e2e_latency_mean_ms \
    e2e_latency_p50_ms e2e_latency_p95_ms e2e_latency_p99_ms ttft_sched_mean_ms ttft_sched_p50_ms ttft_sched_p95_ms \
    ttft_sched_p99_ms prom_preemptions prom_cache_usage prom_cache_usage_max prom_requests_running prom_requests_waiting";

fn value(table: &Table, row: usize, column: &str) -> CellValue {
    table.column(column).unwrap_or_else(|| panic!("no column {column}")).nth(row).unwrap().clone()
}

#[test]
fn one_row_per_cell_with_the_columns_of_the_contract() {
    let (_dir, root) = scene::root();
    let points = vec![
        scene::point("p1", json!({"max_num_seqs": 64, "eplb.window": null})),
        scene::point("p2", json!({"max_num_seqs": 128, "eplb.window": 0.5})),
    ];
    let cells = (0..5).map(|n| scene::cell(&format!("c{n}"), if n < 3 { "p1" } else { "p2" }, 8, n)).collect();
    let mut plan = scene::plan(points, cells);
    plan.cells[4].status = servelab_core::plan::PlanStatus::Infeasible;
    plan.cells[4].reasons = vec!["heads % tp".into()];
    scene::finish(&root, "c0", &scene::result());
    scene::attempt(&root, "c1").enter(CellState::Failed, scene::NOW, Some("server_crashed"), None).unwrap();
    scene::finish(&root, "c2", &scene::with_verdict(scene::result(), "saturated", Severity::Invalid));

    let context = RowContext { site: Some("vista".into()), gpu_model: Some("GH200".into()), ..RowContext::default() };
    let rows = collect_rows(&root, &plan, &context).unwrap();
    let table = results_table(&rows, false);
    let names: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    let mut order = CONTRACT.split_whitespace();
    let mut next = order.next();
    for name in &names {
        if Some(*name) == next {
            next = order.next();
        }
    }
    assert_eq!(next, None, "missing, or out of order");
    assert!(names.contains(&"max_num_seqs") && names.contains(&"eplb.window"));
    assert_eq!(table.rows.len(), 5);

    let check = |row: usize, column: &str, expected: CellValue| {
        assert_eq!(value(&table, row, column), expected, "{column} of row {row}")
    };
    check(0, "state", "done".into());
    check(0, "verdict", "ok".into());
    check(0, "labels", "label_p1;alias, 2".into());
    check(0, "legacy_hash", "9b6f4b39".into());
    check(0, "engine_version", "0.11.2".into());
    check(0, "gpu_model", "H100".into());
    check(0, "site", "vista".into());
    check(0, "simulated", false.into());
    check(0, "load_value", 8.0.into());
    check(0, "attempt", 1_i64.into());
    check(0, "max_num_seqs", 64_i64.into());
    check(0, "eplb.window", CellValue::Null);
    check(3, "eplb.window", 0.5.into());
    check(0, "throughput_tokens_per_sec", 30.0.into());
    check(0, "throughput_requests_per_sec", 3.0.into());
    check(0, "goodput_requests_per_s", CellValue::Null);
    check(0, "total_tokens_generated", 30_i64.into());
    check(0, "total_time_s", 1.0.into());
    check(0, "success_rate", 0.75.into());
    check(0, "failed_requests", 1_i64.into());
    check(0, "ttft_p50_ms", 49.0.into());
    check(0, "ttft_sched_p99_ms", 50.0.into());
    check(0, "itl_mean_ms", 10.0.into());
    check(0, "tpot_p95_ms", 10.0.into());
    check(0, "e2e_latency_mean_ms", 139.0.into());
    check(0, "prom_preemptions", 2.0.into());
    check(0, "prom_cache_usage", 0.5.into());
    check(0, "prom_cache_usage_max", 0.75.into());
    check(0, "prom_requests_running", 1.0.into());
    check(1, "state", "failed".into());
    check(1, "verdict", CellValue::Null);
    check(1, "engine_version", "0.11.0".into());
    check(1, "gpu_model", "GH200".into());
    check(1, "throughput_tokens_per_sec", CellValue::Null);
    check(2, "verdict", "saturated".into());
    check(3, "state", "planned".into());
    check(3, "attempt", CellValue::Null);
    check(4, "state", "infeasible".into());

    let enriched = results_table(&rows, true);
    assert_eq!(value(&enriched, 0, "serve.kv_cache_dtype"), "auto".into());
    assert_eq!(value(&enriched, 0, "deploy.tp"), 2_i64.into());
    let csv = String::from_utf8(table.to_csv()).unwrap();
    assert_eq!(csv.lines().count(), 6);
    assert!(csv.contains("\"label_p1;alias, 2\""));
}

#[test]
fn a_row_shows_the_newest_finished_attempt() {
    let (_dir, root) = scene::root();
    let plan = scene::plan(vec![scene::point("p", json!({}))], vec![scene::cell("c", "p", 1, 0)]);
    let row = || collect_rows(&root, &plan, &RowContext::default()).unwrap().remove(0);
    assert_eq!((row().attempt, row().state), (None, CellState::Planned));
    let first = scene::attempt(&root, "c");
    first.enter(CellState::Measuring, scene::NOW, None, None).unwrap();
    assert_eq!((row().attempt, row().state), (Some(1), CellState::Measuring));
    first.enter(CellState::Failed, scene::NOW, Some("server_crashed"), None).unwrap();
    let second = scene::finish(&root, "c", &scene::result());
    assert_eq!((row().attempt, row().state), (Some(2), CellState::Done));
    // A third one is running: the finished one is still what counts.
    scene::attempt(&root, "c").enter(CellState::Warming, scene::NOW, None, None).unwrap();
    assert_eq!((row().attempt, row().state), (Some(2), CellState::Done));

    fs::write(second.path().join("result.json"), "{\"schema\": 1, torn").unwrap();
    let damaged = row();
    assert_eq!((damaged.state, damaged.result.is_none()), (CellState::Done, true));
    assert!(damaged.problem.as_ref().unwrap().contains("result.json"));
    assert!(damaged.unranked_reason().is_some());
}

#[test]
fn tables_are_written_in_three_forms() {
    let (dir, root) = scene::root();
    let plan = scene::plan(vec![scene::point("p", json!({}))], vec![scene::cell("c", "p", 1, 0)]);
    scene::finish(&root, "c", &scene::result());
    let rows = collect_rows(&root, &plan, &RowContext::default()).unwrap();
    let table = results_table(&rows, true);
    let reports = root.reports_dir("demo", "r1").unwrap();
    table.write_csv(&reports.join("results.csv")).unwrap();
    table.write_parquet(&reports.join("results.parquet")).unwrap();
    table.write_viz_data(&reports.join("viz_data.json"), json!({"x": [1]})).unwrap();
    let viz: serde_json::Value = servelab_store::read_json(&reports.join("viz_data.json")).unwrap();
    assert_eq!(viz["schema"], 1);
    assert_eq!(viz["rows"][0]["throughput_tokens_per_sec"], 30.0);
    assert!(reports.starts_with(dir.path()) && fs::metadata(reports.join("results.parquet")).unwrap().len() > 500);
}

#[test]
fn a_stored_plan_comes_back_and_a_newer_one_is_refused() {
    let (_dir, root) = scene::root();
    let mut plan = scene::plan(vec![scene::point("p", json!({}))], vec![scene::cell("c", "p", 1, 0)]);
    let path = root.plan_path("demo").unwrap();
    servelab_store::write_json(&path, &plan).unwrap();
    assert_eq!(root.load_plan("demo").unwrap(), plan);
    plan.schema += 1;
    servelab_store::write_json(&path, &plan).unwrap();
    assert!(matches!(root.load_plan("demo"), Err(servelab_store::StoreError::TooNew { .. })));
}
