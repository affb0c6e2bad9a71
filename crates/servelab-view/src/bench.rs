//! What `servelab bench` prints: counts, rates, latencies and verdicts of one result.

use servelab_core::result::{BenchResult, Quantiles, Severity};

use crate::text::document::Document;
use crate::text::number::{count, number, optional};
use crate::text::table::{Table, left, right};

/// One result for a terminal.
pub fn bench_text(result: &BenchResult, width: Option<usize>) -> String {
    let mut out = Document::default();
    let requests = &result.requests;
    let per_s = |x: f64, unit: &str| format!("{} {unit}", number(x));
    let failures: Vec<String> = result.failures.iter().map(|(code, n)| format!("{n} {code}")).collect();
    out.facts([
        (
            "requests",
            format!(
                "{} scheduled, {} sent, {} completed, {} failed, {} cut off by the end",
                count(requests.scheduled),
                count(requests.sent),
                count(requests.completed),
                count(requests.failed),
                count(requests.censored)
            ),
        ),
        ("failures", if failures.is_empty() { "none".to_owned() } else { failures.join(", ") }),
        ("window", per_s(result.duration_s, "s")),
        ("tokens", format!("{} in, {} out", count(result.input_tokens), count(result.output_tokens))),
        (
            "throughput",
            format!(
                "{}, {}",
                per_s(result.throughput.output_tokens_per_s, "output tokens/s"),
                per_s(result.throughput.requests_per_s, "requests/s")
            ),
        ),
        (
            "goodput",
            result.goodput_requests_per_s.map_or_else(|| "no SLO given".to_owned(), |x| per_s(x, "requests/s")),
        ),
        (
            "in flight",
            format!("{} on average, {} at most", number(result.concurrency.mean), count(result.concurrency.max)),
        ),
        (
            "client",
            format!(
                "{} CPU s on {} thread(s), lateness p99 {} ms",
                number(result.client.cpu_s),
                result.client.threads,
                optional(result.client.lateness_ms.p99)
            ),
        ),
    ]);
    out.facts(shards_and_precision(result));
    let latencies = &result.latency_ms;
    let mut table = Table::new([
        left("ms"),
        right("mean"),
        right("p50"),
        right("p90"),
        right("p95"),
        right("p99"),
        right("max"),
        right("n"),
    ]);
    for (name, quantiles) in [
        ("TTFT", &latencies.ttft),
        ("TTFT from schedule", &latencies.ttft_sched),
        ("ITL", &latencies.itl),
        ("inter-chunk", &latencies.icl),
        ("TPOT", &latencies.tpot),
        ("E2E", &latencies.e2e),
        ("E2E from schedule", &latencies.e2e_sched),
    ] {
        table.row(latency_row(name, quantiles));
    }
    out.table(table);
    for reason in &result.verdict.reasons {
        let weight = if reason.severity == Severity::Invalid { "INVALID" } else { "note" };
        out.paragraph(format!("{weight} {}: {}", reason.code, reason.detail));
    }
    if result.verdict.reasons.is_empty() {
        out.paragraph("Nothing speaks against these numbers.");
    }
    out.to_text(width)
}

/// Who took part, and how well the watched means are known; nothing for a plain run.
fn shards_and_precision(result: &BenchResult) -> Vec<(&'static str, String)> {
    let shards = result.shards.as_ref().map(|shards| {
        let present = shards.members.len();
        ("shards", format!("{present} of {}, started within {} ms", shards.count, number(shards.start_skew_ms)))
    });
    let precision = result.precision.iter().flatten().map(|report| {
        let reached =
            report.reached.map_or_else(|| "not known".to_owned(), |x| format!("\u{b1} {} %", number(100.0 * x)));
        let from = format!("{} observations, wanted {} %", count(report.observations), number(100.0 * report.wanted));
        ("precision", format!("mean {}: {reached} from {from}", report.metric))
    });
    shards.into_iter().chain(precision).collect()
}

fn latency_row(name: &str, quantiles: &Quantiles) -> Vec<String> {
    let mut row = vec![name.to_owned()];
    let values = [quantiles.mean, quantiles.p50, quantiles.p90, quantiles.p95, quantiles.p99, quantiles.max];
    row.extend(values.into_iter().map(optional));
    row.push(count(quantiles.n));
    row
}

#[cfg(test)]
mod tests {
    use servelab_core::record::ClockEpoch;
    use servelab_core::result::VerdictReason;

    use super::*;

    #[test]
    fn a_failed_load_says_so_first() {
        let mut result = servelab_core::metrics::summarise(&servelab_core::metrics::MetricsInput {
            clock: ClockEpoch { epoch_monotonic_ns: 0, epoch_unix_ns: 0 },
            records: Box::new(servelab_core::metrics::RecordSlices::new(&[], &[])),
            prom: &[],
            window_start_ns: 0,
            window_end_ns: 1_000_000_000,
            slo: None,
            closed_loop_slots: None,
            client: servelab_core::metrics::ClientUsage::default(),
        });
        result.verdict.reasons = vec![VerdictReason {
            code: "success_low".into(),
            detail: "no request succeeded".into(),
            severity: Severity::Invalid,
        }];
        let text = bench_text(&result, Some(100));
        assert!(text.contains("INVALID success_low: no request succeeded"), "{text}");
        assert!(text.contains("no SLO given") && text.contains("TTFT"), "{text}");
    }
}
