//! What can be said against a result that another tool measured, beyond the rules for our own: copies of one run, a
//! summary that contradicts its own data, and saturation where only totals are known.

use super::catalogue::Thresholds;
use super::evidence::CellEvidence;
use super::{judge, of_reasons};
use crate::plan::Load;
use crate::result::{Severity, Verdict, VerdictReason};

const LIMITS: Thresholds = Thresholds::DEFAULT;

/// A number of the file's summary that its per-request data do not give.
#[derive(Debug, Clone, PartialEq)]
pub struct Disagreement {
    /// The file's own name for it.
    pub key: String,
    /// What the summary says.
    pub stated: f64,
    /// What the data give under the same definition.
    pub recomputed: f64,
}

impl Disagreement {
    /// `None` where the two agree to within 1 %, or one is no number.
    pub fn between(key: &str, stated: f64, recomputed: f64) -> Option<Self> {
        let scale = stated.abs().max(recomputed.abs());
        let differs = scale.is_finite() && (stated - recomputed).abs() > LIMITS.recomputed * scale;
        differs.then(|| Self { key: key.to_owned(), stated, recomputed })
    }
}

/// What is known about an imported result beside the usual evidence.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImportEvidence {
    /// Name of the result that holds the same measurements.
    pub duplicate_of: Option<String>,
    /// Where summary and data differ.
    pub disagreements: Vec<Disagreement>,
}

/// Judges an imported result: the usual rules, and those for imports.
pub fn judge_import(evidence: &CellEvidence<'_>, import: &ImportEvidence) -> Verdict {
    let mut reasons = judge(evidence).reasons;
    let mut add = |severity: Severity, code: &str, detail: String| {
        reasons.push(VerdictReason { code: code.to_owned(), detail, severity });
    };
    if let Some(other) = &import.duplicate_of {
        add(Severity::Invalid, "duplicate_data", format!("the same measurements stand in {other}"));
    }
    if !import.disagreements.is_empty() {
        let list = import.disagreements.iter().map(|found| {
            format!(
                "{} is {} in the summary, {} from the data",
                found.key,
                rounded(found.stated),
                rounded(found.recomputed)
            )
        });
        add(Severity::Warning, "recomputed_differs", list.collect::<Vec<_>>().join("; "));
    }
    if evidence.result.import.as_ref().is_some_and(|import| !import.recomputed) {
        add(Severity::Warning, "aggregates_only", "there are no per-request data in the file".to_owned());
    }
    if let Some(detail) = saturated_by_totals(evidence) {
        add(Severity::Invalid, "saturated", detail);
    }
    of_reasons(reasons)
}

/// Without stamps: a server that keeps up ends one decoding time after the last arrival. What the run took beyond that,
/// and beyond the scatter of the arrivals (3/√n of their duration), is a queue that grew.
fn saturated_by_totals(evidence: &CellEvidence<'_>) -> Option<String> {
    let Load::Open { rate_per_s, .. } = evidence.load else { return None };
    let result = evidence.result;
    let backlog = evidence.requests.backlog;
    if backlog.ttft_sched.is_some() || backlog.e2e_sched.is_some() || result.is_unknown("duration_s") {
        return None;
    }
    let n = result.requests.scheduled as f64;
    let decode_s = (result.latency_ms.e2e.p99.or(result.latency_ms.e2e.mean)? - result.latency_ms.ttft.mean?) / 1e3;
    let arrivals_s = n / rate_per_s;
    // Where TTFT dominates, p99 of E2E holds the queue itself; then only decoding is allowed for.
    let decode_s = decode_s.min((result.latency_ms.e2e.mean? - result.latency_ms.ttft.mean?) / 1e3 * 3.0).max(0.0);
    let excess_s = result.duration_s - arrivals_s - decode_s;
    let allowed_s = ((1.0 - LIMITS.sustained_share) + LIMITS.backlog_noise / n.sqrt()) * arrivals_s;
    (n >= LIMITS.growth_min_requests as f64 && excess_s > allowed_s && arrivals_s.is_finite()).then(|| {
        format!(
            "{n:.0} requests were offered at {rate_per_s} per second, which takes {arrivals_s:.1} s; answering them took {:.1} s, \
             {excess_s:.1} s more than the last answer explains",
            result.duration_s
        )
    })
}

fn rounded(value: f64) -> String {
    let digits =
        if value == 0.0 || !value.is_finite() { 3 } else { (3 - value.abs().log10().floor() as i32).clamp(0, 9) };
    format!("{value:.*}", usize::try_from(digits).unwrap_or(3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{ClientUsage, MetricsInput, RecordSlices, summarise};
    use crate::record::ClockEpoch;
    use crate::result::{BenchResult, ImportInfo, Quantiles};
    use crate::verdict::RequestEvidence;

    fn result(duration_s: f64, ttft_ms: f64, e2e_ms: f64) -> BenchResult {
        let mut result = summarise(&MetricsInput {
            clock: ClockEpoch { epoch_monotonic_ns: 0, epoch_unix_ns: 0 },
            records: Box::new(RecordSlices::new(&[], &[])),
            prom: &[],
            window_start_ns: 0,
            window_end_ns: 1,
            slo: None,
            closed_loop_slots: None,
            client: ClientUsage::default(),
        });
        result.duration_s = duration_s;
        (result.requests.scheduled, result.requests.completed) = (1000, 1000);
        (result.input_tokens, result.output_tokens) = (100_000, 100_000);
        let at = |ms: f64| Quantiles { mean: Some(ms), p99: Some(ms * 1.5), n: 1000, ..Quantiles::default() };
        (result.latency_ms.ttft, result.latency_ms.e2e) = (at(ttft_ms), at(e2e_ms));
        result.import = Some(ImportInfo::default());
        result
    }

    fn codes(result: &BenchResult, import: &ImportEvidence) -> Vec<String> {
        let load = Load::Open { rate_per_s: 10.0, arrival: "unknown".into(), max_concurrency: None };
        let evidence = CellEvidence::new(result, &load, RequestEvidence::default());
        judge_import(&evidence, import).reasons.into_iter().map(|reason| reason.code).collect()
    }

    #[test]
    fn totals_alone_show_a_queue_that_grew() {
        let none = ImportEvidence::default();
        // 10 requests/s offered, 2.3 sustained; long answers of a server that keeps up; a short queue at the end.
        assert_eq!(codes(&result(440.0, 128_000.0, 167_000.0), &none), ["saturated", "aggregates_only"]);
        assert_eq!(codes(&result(140.0, 400.0, 30_000.0), &none), ["aggregates_only"]);
        assert_eq!(codes(&result(102.0, 100.0, 1_500.0), &none), ["aggregates_only"]);
    }

    #[test]
    fn copies_and_contradictions_are_named() {
        let mut own = result(102.0, 100.0, 1_500.0);
        own.import = Some(ImportInfo { recomputed: true, ..ImportInfo::default() });
        let import = ImportEvidence {
            duplicate_of: Some("a.json".into()),
            disagreements: Disagreement::between("mean_ttft_ms", 100.0, 150.0).into_iter().collect(),
        };
        assert_eq!(codes(&own, &import), ["duplicate_data", "recomputed_differs"]);
        assert_eq!(Disagreement::between("x", 100.0, 100.5), None);
        assert_eq!(Disagreement::between("x", f64::NAN, 1.0), None);
        assert_eq!(
            (rounded(1234.56), rounded(0.012345), rounded(0.0)),
            ("1235".into(), "0.01235".into(), "0.000".into())
        );
    }
}
