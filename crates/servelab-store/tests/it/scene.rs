//! A small study with known results, for the other tests.

use serde_json::{Value, json};
use servelab_core::ids::{CellId, PointId};
use servelab_core::metrics::{ClientUsage, MetricsInput, RecordSlices, summarise};
use servelab_core::plan::{CellSettings, Load, Plan, PlanStatus, PlannedCell, PlannedPoint, StopAt};
use servelab_core::record::{ClockEpoch, EventRecord, Phase, PromSample, RequestRecord, TokenSource};
use servelab_core::result::{BenchResult, Severity, Verdict, VerdictReason};
use servelab_core::state::CellState;
use servelab_store::{AttemptDir, Claim, ClaimInfo, ClaimRequest, Liveness, Root, WindowInfo};

pub(crate) const NOW: i64 = 1_900_000_000_000_000_000;
const MS: i64 = 1_000_000;

pub(crate) fn point(name: &str, factors: Value) -> PlannedPoint {
    serde_json::from_value(json!({
        "id": name, "labels": [format!("label_{name}"), "alias, 2"], "legacy_hashes": {format!("label_{name}"): "9b6f4b39"},
        "designs": ["memory"], "factors": factors,
        "config": {"engine": {"kind": "vllm", "version": "0.11.0"}, "model": {"id": "org/model"},
                   "deploy": {"tp": 2}, "serve": {"max_num_seqs": 64, "kv_cache_dtype": "auto"}, "env": {}},
        "roles": [], "nodes": 1, "gpus": 2, "status": "planned", "reasons": [], "flag_notes": []
    }))
    .unwrap()
}

pub(crate) fn cell(id: &str, point: &str, concurrency: u32, repeat: u32) -> PlannedCell {
    PlannedCell {
        id: CellId::new(id),
        point: PointId::new(point),
        workload: "medium".into(),
        load: Load::closed(concurrency),
        repeat,
        settings: CellSettings {
            stop: StopAt::Requests(4),
            warmup_requests: 0,
            seed: 1,
            request_timeout_s: 60.0,
            output_max: None,
            ignore_eos: true,
            endpoint: None,
            temperature: 0.0,
            reuse_prompts: false,
        },
        status: PlanStatus::Planned,
        reasons: vec![],
    }
}

pub(crate) fn plan(points: Vec<PlannedPoint>, cells: Vec<PlannedCell>) -> Plan {
    serde_json::from_value(json!({
        "schema": 1, "id_scheme": 1, "study": "demo", "points": points, "cells": cells, "jobs": 1,
        "node_hours": {"sequential": 1.0}, "wall_hours": {"sequential": 1.0, "parallel": 1.0}, "warnings": [],
        "designs": [], "counts": {"raw_points": 1, "labelled_points": 1, "points": 1, "feasible_points": 1, "cells": 1,
        "runnable_cells": 1, "point_workloads": 1, "infeasible_point_workloads": 0}
    }))
    .unwrap()
}

/// Four requests in a row, one of them failed; ten tokens each.
pub(crate) fn requests() -> Vec<RequestRecord> {
    let request = |idx: i64| {
        let send = idx * 250 * MS;
        let mut request = RequestRecord::scheduled(idx, Phase::Window, send);
        request.t_slot = Some(send);
        request.t_send = Some(send + MS);
        request.requested_output_tokens = Some(10);
        if idx == 3 {
            request.failure_code = Some("http_5xx".into());
            request.http_status = Some(500);
            request.t_done = Some(send + 2 * MS);
            return request;
        }
        request.response_id = Some(format!("cmpl-{idx}"));
        request.t_hdr = Some(send + 40 * MS);
        request.t_first = Some(send + 50 * MS);
        request.t_out = request.t_first;
        request.t_last = Some(send + 140 * MS);
        request.t_done = Some(send + 141 * MS);
        (request.input_tokens, request.output_tokens, request.n_first) = (Some(100), Some(10), Some(1));
        request.token_source = Some(TokenSource::ServerUsage);
        request.finish_reason = Some("length".into());
        request.http_status = Some(200);
        request.bytes_received = 4_096;
        request
    };
    (0..4).map(request).collect()
}

pub(crate) fn events() -> Vec<EventRecord> {
    let stream = |idx: i64| {
        (0..10).map(move |k| EventRecord { request_idx: idx, t_ns: (idx * 250 + 50 + k * 10) * MS, n_tokens: 1 })
    };
    (0..3).flat_map(stream).collect()
}

pub(crate) fn prom() -> Vec<PromSample> {
    let sample = |t_ms: i64, metric: &str, value: f64| PromSample {
        t_ns: t_ms * MS,
        node: "n0".into(),
        engine: "0".into(),
        metric: metric.into(),
        labels: "model_name=\"m\"".into(),
        value,
    };
    vec![
        sample(0, "vllm:num_preemptions_total", 1.0),
        sample(1_000, "vllm:num_preemptions_total", 3.0),
        sample(0, "vllm:kv_cache_usage_perc", 0.25),
        sample(500, "vllm:kv_cache_usage_perc", 0.75),
        sample(0, "vllm:num_requests_running", 1.0),
        sample(0, "vllm:num_requests_waiting", 0.0),
    ]
}

pub(crate) fn result() -> BenchResult {
    let (requests, events, prom) = (requests(), events(), prom());
    let mut result = summarise(&MetricsInput {
        clock: ClockEpoch { epoch_monotonic_ns: 5, epoch_unix_ns: NOW },
        records: Box::new(RecordSlices::new(&requests, &events)),
        prom: &prom,
        window_start_ns: 0,
        window_end_ns: 1_000 * MS,
        slo: None,
        closed_loop_slots: Some(1),
        client: ClientUsage { cpu_s: 0.1, threads: 1, ..ClientUsage::default() },
    });
    result.verdict = Verdict { ok: true, reasons: vec![] };
    result
}

pub(crate) fn with_verdict(mut result: BenchResult, code: &str, severity: Severity) -> BenchResult {
    result.verdict.ok &= severity != Severity::Invalid;
    result.verdict.reasons.push(VerdictReason { code: code.into(), detail: String::new(), severity });
    result
}

pub(crate) fn with_throughput(mut result: BenchResult, tokens_per_s: f64) -> BenchResult {
    result.throughput.output_tokens_per_s = tokens_per_s;
    result
}

pub(crate) fn root() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open_or_create(dir.path()).unwrap();
    (dir, root)
}

/// The next attempt of a cell, whatever came before.
pub(crate) fn attempt(root: &Root, cell: &str) -> AttemptDir {
    let cell = CellId::new(cell);
    let rerun_after = root.latest_attempt(&cell).unwrap().map(|attempt| attempt.attempt());
    let info = ClaimInfo::of_this_process(None, NOW);
    let liveness = Liveness::local(NOW);
    match root.claim_cell(&ClaimRequest { cell: &cell, info: &info, liveness: &liveness, rerun_after }).unwrap() {
        Claim::Acquired(attempt) => attempt,
        other => panic!("{other:?}"),
    }
}

/// Finishes a cell with a result, in the order in which a run does it.
pub(crate) fn finish(root: &Root, cell: &str, result: &BenchResult) -> AttemptDir {
    let attempt = attempt(root, cell);
    attempt.enter(CellState::Measuring, NOW, None, None).unwrap();
    let window = WindowInfo {
        clock: Some(result.clock),
        window_end_ns: 1_000 * MS,
        engine_version: Some("0.11.2".into()),
        gpu_model: Some("H100".into()),
        simulated: Some(false),
        ..WindowInfo::default()
    };
    attempt.write_requests(&requests()).unwrap();
    attempt.write_events(&events()).unwrap();
    attempt.write_prom(&prom()).unwrap();
    attempt.write_window(&window).unwrap();
    attempt.write_result(result).unwrap();
    attempt.enter(if result.verdict.ok { CellState::Done } else { CellState::Invalid }, NOW + 1, None, None).unwrap();
    attempt
}
