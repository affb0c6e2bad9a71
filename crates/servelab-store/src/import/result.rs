//! From a run of another tool to a result under our definitions: recomputed where per-request data allow, the tool's own
//! numbers otherwise; what is in neither is listed as unknown, with the reason. Judged by the same rules as our own.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use servelab_core::identity::sha256_hex;
use servelab_core::metrics::{ClientUsage, MetricsInput, RecordSlices, summarise};
use servelab_core::plan::Load;
use servelab_core::record::ClockEpoch;
use servelab_core::result::{BenchResult, ImportInfo, Latencies, Quantiles, Throughput, Verdict};
use servelab_core::verdict::{CellEvidence, Disagreement, ImportEvidence, RequestEvidence, judge_import};

use super::run::{Arrivals, Latency, Run, StatedMs};

/// An imported run: what the file says, and what follows from it.
#[derive(Debug, Clone)]
pub struct ImportedResult {
    /// The file.
    pub path: String,
    /// Name of its format.
    pub format: &'static str,
    /// Position among the results of one file, from 0.
    pub index: u32,
    /// What the file says.
    pub run: Run,
    /// What follows, judged.
    pub result: BenchResult,
    /// What the verdict rests on.
    requests: RequestEvidence,
    evidence: ImportEvidence,
}

impl ImportedResult {
    /// Computes and judges.
    pub(super) fn of(mut run: Run, format: &'static str, path: &str, index: u32) -> Self {
        let records = RecordSlices::new(&run.requests, &run.events);
        let window_end_ns = window_end(&run);
        let input = MetricsInput {
            clock: ClockEpoch { epoch_monotonic_ns: 0, epoch_unix_ns: 0 },
            records: Box::new(records),
            prom: &[],
            // Token events at the very start belong to the window too.
            window_start_ns: -1,
            window_end_ns,
            slo: None,
            closed_loop_slots: run
                .load
                .as_ref()
                .and_then(Load::busy_slots)
                .filter(|_| run.arrivals == Arrivals::Measured),
            client: ClientUsage::default(),
        };
        let mut result = summarise(&input);
        let mut requests = RequestEvidence::collect(&input);
        drop(input);
        if run.arrivals == Arrivals::Unknown {
            requests.backlog = servelab_core::verdict::Backlog::default();
        }
        let recomputed = !run.requests.is_empty();
        let mut unknown = BTreeMap::new();
        let mut evidence = ImportEvidence::default();
        if recomputed {
            recompute(&run, &mut result, &mut unknown, &mut evidence, window_end_ns);
        } else {
            repeat(&run, &mut result, &mut unknown);
        }
        common(&run, &mut result, &mut unknown);
        let fingerprint = fingerprint(&run);
        result.import = Some(ImportInfo {
            format: format.to_owned(),
            path: path.to_owned(),
            index,
            recomputed,
            unknown: unknown.into_iter().map(|(key, why)| (key.to_owned(), why.to_owned())).collect(),
            notes: std::mem::take(&mut run.notes),
            hints: run.hints.clone(),
            fingerprint,
        });
        let path = path.to_owned();
        let mut imported = Self { path, format, index, run, result, requests, evidence };
        imported.judge();
        imported
    }

    /// This tool's own result: taken as it is, with the verdict that it has.
    pub(super) fn own(result: BenchResult, format: &'static str, path: &str) -> Self {
        let (requests, evidence) = Default::default();
        Self { path: path.to_owned(), format, index: 0, run: Run::default(), result, requests, evidence }
    }

    /// Hash over what was measured: equal for two copies of one run.
    pub fn fingerprint(&self) -> String {
        match &self.result.import {
            Some(import) => import.fingerprint.clone(),
            None => sha256_hex(serde_json::to_string(&self.result).unwrap_or_default().as_bytes()),
        }
    }

    pub(super) fn add_note(&mut self, note: String) {
        self.result.import.get_or_insert_default().notes.push(note);
    }

    /// Says that another result holds the same measurements, and judges again.
    pub(super) fn is_copy_of(&mut self, other: String) {
        self.evidence.duplicate_of = Some(other);
        self.judge();
    }

    /// The load; a run whose file does not tell is taken for a batch of all its requests.
    pub fn load(&self) -> Load {
        self.run.load.clone().unwrap_or_else(|| {
            let n = self.result.requests.scheduled.max(1);
            let mean = |tokens: u64| u32::try_from(tokens / n).unwrap_or(0);
            Load::Offline {
                batch_size: u32::try_from(n).unwrap_or(u32::MAX),
                seq_len: mean(self.result.input_tokens),
                max_tokens: mean(self.result.output_tokens),
            }
        })
    }

    fn judge(&mut self) {
        if self.result.import.is_none() {
            return;
        }
        let load = self.load();
        let mut evidence = CellEvidence::new(&self.result, &load, self.requests.clone());
        evidence.metrics_expected = self.run.server_expected;
        evidence.arrivals_known = self.run.arrivals == Arrivals::Measured;
        evidence.simulated = self.run.simulated == Some(true);
        let verdict: Verdict = judge_import(&evidence, &self.evidence);
        self.result.verdict = verdict;
    }
}

fn window_end(run: &Run) -> i64 {
    let end = run.requests.iter().flat_map(|r| [r.t_done, r.t_last]).flatten().max().unwrap_or(0);
    end.max(1)
}

const NO_STAMPS: &str = "the file does not say when requests were sent";
const NO_SCHEDULE: &str = "the file does not say when requests should have been sent";
const NOT_THERE: &str = "not in the file";

type Unknown = BTreeMap<&'static str, &'static str>;

/// Per-request data: latencies are ours; rates need stamps, else the length of the run.
fn recompute(run: &Run, result: &mut BenchResult, unknown: &mut Unknown, evidence: &mut ImportEvidence, end_ns: i64) {
    let counts = result.requests;
    if run.arrivals == Arrivals::Measured {
        // The origin is the first send: one nanosecond was added for its own sake.
        result.duration_s = end_ns as f64 / 1e9;
    } else {
        result.steady = None;
        unknown.insert("concurrency", NO_STAMPS);
        match run.duration_s.filter(|s| *s > 0.0) {
            Some(duration_s) => {
                result.duration_s = duration_s;
                result.throughput = Throughput {
                    output_tokens_per_s: result.output_tokens as f64 / duration_s,
                    requests_per_s: counts.completed as f64 / duration_s,
                };
            }
            None => {
                unknown.insert("duration_s", NOT_THERE);
                unknown.insert("throughput", "neither stamps nor the length of the run are in the file");
            }
        }
        if run.concurrency_mean.is_some() || run.concurrency_max.is_some() {
            unknown.remove("concurrency");
            concurrency(run, result, unknown);
        }
    }
    if !run.schedule_known {
        unknown.insert("latency_ms.ttft_sched", NO_SCHEDULE);
        unknown.insert("latency_ms.e2e_sched", NO_SCHEDULE);
        (result.latency_ms.ttft_sched, result.latency_ms.e2e_sched) = (Quantiles::default(), Quantiles::default());
        if let Some(tails) = &mut result.latency_with_failures_ms {
            (tails.ttft_sched, tails.e2e_sched) = Default::default();
        }
        unknown.insert("latency_with_failures_ms.ttft_sched", NO_SCHEDULE);
        unknown.insert("latency_with_failures_ms.e2e_sched", NO_SCHEDULE);
    }
    if run.events.is_empty() {
        unknown.insert("latency_ms.itl", "the file has no times of single tokens");
        unknown.insert("latency_ms.icl", "the file has no times of single tokens");
        (result.latency_ms.itl, result.latency_ms.icl, result.smoothness) = Default::default();
    }
    if !run.ttft_known {
        for key in ["latency_ms.ttft", "latency_ms.ttfo", "latency_ms.tpot", "latency_ms.tpot_vllm"] {
            unknown.insert(key, "the file has no time of the first token");
        }
    }
    result.goodput_requests_per_s = run.goodput_requests_per_s;
    let mut check = |key: &str, stated: Option<f64>, recomputed: Option<f64>| {
        evidence.disagreements.extend(
            stated.zip(recomputed).and_then(|(stated, recomputed)| Disagreement::between(key, stated, recomputed)),
        );
    };
    check("completed", run.completed.map(|n| n as f64), Some(counts.completed as f64));
    check("output tokens", run.output_tokens.map(|n| n as f64), Some(result.output_tokens as f64));
    // Failed requests leave nothing to compare: some tools keep them in their percentiles.
    if counts.failed == 0 && counts.censored == 0 {
        let latency = &result.latency_ms;
        for (name, kind, ours) in [
            ("TTFT", Latency::Ttft, &latency.ttft),
            ("TPOT", Latency::Tpot, &latency.tpot),
            ("inter-chunk time", Latency::Icl, &latency.icl),
            ("E2E time", Latency::E2e, &latency.e2e),
        ] {
            let Some(stated) = run.stated.get(&kind) else { continue };
            check(&format!("mean {name} (ms)"), stated.mean, ours.mean);
            check(&format!("p99 {name} (ms)"), stated.p99, ours.p99);
        }
    }
}

/// Only the tool's own summary.
fn repeat(run: &Run, result: &mut BenchResult, unknown: &mut Unknown) {
    let known = |value: Option<u64>, key: &'static str, unknown: &mut Unknown| {
        if value.is_none() {
            unknown.insert(key, NOT_THERE);
        }
        value.unwrap_or(0)
    };
    let scheduled = run.scheduled.or_else(|| Some(run.completed? + run.failed.unwrap_or(0)));
    let failed = run.failed.or_else(|| Some(run.scheduled?.saturating_sub(run.completed?)));
    let counts = &mut result.requests;
    counts.scheduled = known(scheduled, "requests.scheduled", unknown);
    counts.sent = counts.scheduled;
    counts.completed = known(run.completed, "requests.completed", unknown);
    counts.failed = known(failed, "requests.failed", unknown);
    unknown.insert("requests.censored", NOT_THERE);
    if counts.failed > 0 {
        result.failures.insert("unknown".to_owned(), counts.failed);
    }
    result.duration_s = run.duration_s.unwrap_or(0.0);
    if run.duration_s.is_none() {
        unknown.insert("duration_s", NOT_THERE);
    }
    result.output_tokens = known(run.output_tokens, "output_tokens", unknown);
    let per_s = |stated: Option<f64>, count: Option<u64>| {
        stated.or_else(|| count.zip(run.duration_s.filter(|s| *s > 0.0)).map(|(n, s)| n as f64 / s))
    };
    for (key, place, value) in [
        (
            "throughput.output_tokens_per_s",
            &mut result.throughput.output_tokens_per_s,
            per_s(run.output_tokens_per_s, run.output_tokens),
        ),
        ("throughput.requests_per_s", &mut result.throughput.requests_per_s, per_s(run.requests_per_s, run.completed)),
    ] {
        match value.filter(|value| value.is_finite()) {
            Some(value) => *place = value,
            None => {
                unknown.insert(key, NOT_THERE);
            }
        }
    }
    result.goodput_requests_per_s = run.goodput_requests_per_s.filter(|rate| rate.is_finite());
    concurrency(run, result, unknown);
    result.latency_ms = Latencies::default();
    for (kind, place) in [
        (Latency::Ttft, &mut result.latency_ms.ttft),
        (Latency::TtftSched, &mut result.latency_ms.ttft_sched),
        (Latency::Ttfo, &mut result.latency_ms.ttfo),
        (Latency::Icl, &mut result.latency_ms.icl),
        (Latency::Itl, &mut result.latency_ms.itl),
        (Latency::Tpot, &mut result.latency_ms.tpot),
        (Latency::E2e, &mut result.latency_ms.e2e),
    ] {
        if let Some(stated) = run.stated.get(&kind).filter(|stated| !stated.is_empty()) {
            *place = quantiles(stated, run.completed);
        }
    }
    result.latency_with_failures_ms = None;
    result.steady = None;
}

fn concurrency(run: &Run, result: &mut BenchResult, unknown: &mut Unknown) {
    match run.concurrency_mean.filter(|mean| mean.is_finite()) {
        Some(mean) => result.concurrency.mean = mean,
        None => {
            unknown.insert("concurrency.mean", NOT_THERE);
        }
    }
    match run.concurrency_max {
        Some(max) => result.concurrency.max = max,
        None => {
            unknown.insert("concurrency.max", NOT_THERE);
        }
    }
}

/// True of every import.
fn common(run: &Run, result: &mut BenchResult, unknown: &mut Unknown) {
    unknown.insert("client", "another tool's client, which did not measure its own error");
    unknown.insert("clock", "stamps are relative to the first send");
    result.client = Default::default();
    match run.input_tokens {
        Some(n) if result.input_tokens == 0 => result.input_tokens = n,
        None if !run.input_tokens_known => {
            unknown.insert("input_tokens", "the file has no count of prompt tokens");
        }
        _ => {}
    }
    result.server = run.server.clone();
}

fn quantiles(stated: &StatedMs, completed: Option<u64>) -> Quantiles {
    let finite = |value: Option<f64>| value.filter(|value| value.is_finite());
    Quantiles {
        mean: finite(stated.mean),
        p50: finite(stated.p50),
        p90: finite(stated.p90),
        p95: finite(stated.p95),
        p99: finite(stated.p99),
        max: finite(stated.max),
        n: stated.n.or(completed).unwrap_or(0),
        ..Quantiles::default()
    }
}

/// Hash over measurements only: no name, no label, no date.
fn fingerprint(run: &Run) -> String {
    let mut text = String::new();
    for request in &run.requests {
        let since = |stamp: Option<i64>| stamp.zip(request.t_send).map_or(-1, |(t, send)| t.saturating_sub(send));
        let (first, last) = (since(request.t_first), since(request.t_last));
        let _ = write!(text, "{first},{last},{};", request.output_tokens.unwrap_or(-1));
    }
    if run.requests.is_empty() {
        let _ = write!(
            text,
            "{:?}|{:?}|{:?}|{:?}|{:?}",
            run.duration_s, run.completed, run.failed, run.output_tokens, run.stated
        );
    }
    let mut digits = sha256_hex(text.as_bytes());
    digits.truncate(32);
    digits
}
