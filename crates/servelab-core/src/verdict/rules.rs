//! The rules, one function each. A rule returns at most one reason, whose sentence carries the evidence with its numbers.

use super::catalogue::Thresholds;
use super::evidence::{CellEvidence, Trend};
use crate::plan::Load;
use crate::result::{Severity, VerdictReason};

const LIMITS: Thresholds = Thresholds::DEFAULT;

type Rule = fn(&CellEvidence<'_>) -> Option<VerdictReason>;

/// Every rule, in the order in which reasons of one severity are listed.
pub(super) const ALL: &[Rule] = &[
    success_low,
    zero_token_successes,
    server_restarted,
    effective_differs,
    client_limited,
    saturated,
    metrics_missing,
    foreign_traffic,
    token_count_mismatch,
    early_stops,
    prefix_cache_confounded,
    debug_logging,
    preemptions,
    factor_not_exercised,
    not_steady,
    too_few_samples,
    simulated,
];

fn reason(severity: Severity, code: &str, detail: String) -> Option<VerdictReason> {
    Some(VerdictReason { code: code.to_owned(), detail, severity })
}

fn invalid(code: &str, detail: String) -> Option<VerdictReason> {
    reason(Severity::Invalid, code, detail)
}

fn warning(code: &str, detail: String) -> Option<VerdictReason> {
    reason(Severity::Warning, code, detail)
}

fn success_low(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    let counts = evidence.result.requests;
    let ended = counts.completed + counts.failed;
    if counts.completed == 0 {
        return invalid(
            "success_low",
            format!("not one of {} scheduled requests succeeded ({} failed)", counts.scheduled, counts.failed),
        );
    }
    let rate = counts.completed as f64 / ended as f64;
    let required = evidence.success_required.unwrap_or(LIMITS.success_invalid);
    let detail = |limit: f64| {
        let worst = evidence.result.failures.iter().max_by_key(|(_, n)| **n);
        let worst = worst.map(|(code, n)| format!("; most often {code} ({n})")).unwrap_or_default();
        format!("{} of {ended} requests succeeded: {rate:.3}, below {limit}{worst}", counts.completed)
    };
    if rate < required {
        invalid("success_low", detail(required))
    } else if rate < LIMITS.success_warning {
        warning("success_low", detail(LIMITS.success_warning))
    } else {
        None
    }
}

fn zero_token_successes(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    let n = evidence.requests.zero_token_successes;
    (n > 0)
        .then(|| format!("{n} responses with an HTTP success carried no token"))
        .and_then(|detail| invalid("zero_token_successes", detail))
}

fn client_limited(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    let client = &evidence.result.client;
    let latency = &evidence.result.latency_ms;
    let allowed = |floor: f64| floor.max(latency.ttft_sched.p50.unwrap_or(0.0) * LIMITS.lateness_share_of_ttft);
    let mut findings = Vec::new();
    if let Some(p99) = client.lateness_ms.p99.filter(|p99| *p99 > allowed(LIMITS.lateness_p99_ms)) {
        findings.push(format!("sent up to {p99:.1} ms late (p99; allowed {:.1} ms)", allowed(LIMITS.lateness_p99_ms)));
    }
    for (name, canary) in [("TTFT", &client.canary_ttft_error_ms), ("ITL", &client.canary_itl_error_ms)] {
        if let Some(p99) = canary.as_ref().and_then(|q| q.p99).filter(|p99| *p99 > allowed(LIMITS.canary_p99_ms)) {
            findings.push(format!("mismeasured its canary's {name} by {p99:.1} ms (p99)"));
        }
    }
    let capacity_s = evidence.result.duration_s * f64::from(client.threads);
    if capacity_s > 0.0 && client.cpu_s > LIMITS.client_cpu * capacity_s {
        findings.push(format!(
            "used {:.0} % of its {} load threads' CPU time",
            100.0 * client.cpu_s / capacity_s,
            client.threads
        ));
    }
    if findings.is_empty() { None } else { invalid("client_limited", format!("the client {}", findings.join(", "))) }
}

fn saturated(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    if !matches!(evidence.load, Load::Open { .. }) {
        return None;
    }
    let mut findings = Vec::new();
    let result = evidence.result;
    if let Some(offered) = evidence.requests.offered_per_s {
        // Requests that arrived within one E2E time of the window's end could not finish inside it.
        let tail_s = result.latency_ms.e2e.p50.unwrap_or(0.0) / 1e3;
        let share = if result.duration_s > 0.0 { (1.0 - tail_s / result.duration_s).max(0.0) } else { 0.0 };
        let enough = result.requests.scheduled >= LIMITS.growth_min_requests;
        if enough && result.throughput.requests_per_s < LIMITS.sustained_share * offered * share {
            findings
                .push(format!("completed {:.2} requests/s of {offered:.2} offered", result.throughput.requests_per_s));
        }
    }
    let grows = |trend: &Trend, noise: f64| {
        trend.n >= LIMITS.growth_min_requests
            && trend.last > LIMITS.growth_ratio * trend.middle
            && trend.last - trend.middle > noise
    };
    // Poisson arrivals make the in-flight count fluctuate by its root; three of those are not a trend.
    if let Some(t) = evidence.requests.in_flight.filter(|t| grows(t, 3.0 * t.middle.max(1.0).sqrt())) {
        findings.push(format!("in-flight requests grew from {:.1} to {:.1}", t.middle, t.last));
    }
    if let Some(t) = evidence.requests.ttft_sched_ms.filter(|t| grows(t, LIMITS.growth_ttft_ms)) {
        findings.push(format!("median TTFT from the schedule grew from {:.0} ms to {:.0} ms", t.middle, t.last));
    }
    if findings.is_empty() { None } else { invalid("saturated", findings.join("; ")) }
}

fn metrics_missing(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    let scrapes = evidence.result.server.as_ref().map_or(0, |server| server.scrapes);
    if evidence.metrics_expected && scrapes == 0 {
        return invalid("metrics_missing", "no scrape of the server's metrics succeeded in the window".to_owned());
    }
    None
}

fn effective_differs(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    if evidence.effective_differs.is_empty() {
        return None;
    }
    let differences = evidence.effective_differs.iter();
    let list: Vec<String> =
        differences.map(|d| format!("{}: requested {}, effective {}", d.key, d.requested, d.effective)).collect();
    invalid("effective_differs", list.join("; "))
}

fn debug_logging(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    if evidence.debug_logging {
        return invalid("debug_logging", "the server logged at DEBUG level".to_owned());
    }
    None
}

fn early_stops(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    let counts = evidence.result.requests;
    let (n, ended) = (evidence.requests.early_stops, counts.completed + counts.failed);
    if !evidence.ignore_eos || n == 0 {
        return None;
    }
    let many = n as f64 > LIMITS.early_stop_share * ended as f64;
    let severity = if many { Severity::Invalid } else { Severity::Warning };
    reason(severity, "early_stops", format!("{n} of {ended} requests stopped before their length under ignore_eos"))
}

fn token_count_mismatch(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    let differ = |a: f64, b: f64| (a - b).abs() > LIMITS.token_mismatch * a.max(b) + 1.0;
    let tokens = evidence.requests.tokens;
    if let (Some(server), Some(events)) = (tokens.server_said, tokens.events)
        && differ(server as f64, events as f64)
    {
        let detail = format!("the server reported {server} output tokens, its events carried {events}");
        return invalid("token_count_mismatch", detail);
    }
    // The counter's window is shifted by up to one scrape, so that much generation is forgiven on either side.
    let server = evidence.result.server.as_ref()?;
    let counted = server.generation_tokens.filter(|_| evidence.servers_per_request == 1)?;
    let received = evidence.result.throughput.output_tokens_per_s * evidence.result.duration_s;
    let slack = 2.0 * received / server.scrapes.max(1) as f64;
    if (counted - received).abs() > LIMITS.token_mismatch * counted.max(received) + slack + 1.0 {
        let detail = format!("the server's counter grew by {counted:.0} tokens, the client received {received:.0}");
        return invalid("token_count_mismatch", detail);
    }
    None
}

fn preemptions(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    let n = evidence.result.server.as_ref()?.preemptions.filter(|n| *n > 0.0)?;
    warning("preemptions", format!("the engine preempted {n:.0} times in the window"))
}

fn factor_not_exercised(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    let short = evidence.limits.iter().filter_map(|limit| {
        let reached = limit.reached.filter(|reached| *reached < limit.limit)?;
        Some(format!("{} = {} was never reached (at most {reached})", limit.key, limit.limit))
    });
    let list: Vec<String> = short.collect();
    if list.is_empty() { None } else { warning("factor_not_exercised", list.join("; ")) }
}

fn not_steady(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    let Load::Closed { concurrency } = evidence.load else { return None };
    let result = evidence.result;
    let length_s = result.steady.as_ref().map_or(0.0, |steady| steady.end_s - steady.start_s);
    if length_s > 0.5 * result.duration_s {
        return None;
    }
    warning(
        "not_steady",
        format!(
            "all {concurrency} slots were busy for {length_s:.2} s of {:.2} s; mean in flight {:.2}",
            result.duration_s, result.concurrency.mean
        ),
    )
}

fn too_few_samples(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    let n = evidence.result.requests.completed;
    if n == 0 || n >= LIMITS.p99_samples {
        return None;
    }
    warning(
        "too_few_samples",
        format!("p99 rests on {n} successes; below {} it is little more than the maximum", LIMITS.p99_samples),
    )
}

fn server_restarted(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    let n = evidence.server_resets;
    if n == 0 {
        None
    } else {
        invalid("server_restarted", format!("the server's counters restarted {n} times in the window"))
    }
}

fn foreign_traffic(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    let server = evidence.result.server.as_ref()?;
    let finished = server.requests_finished? / f64::from(evidence.servers_per_request.max(1));
    let ours = evidence.requests.finished_in_window as f64;
    // One scrape period's worth of requests and everything in flight may fall on the other side of the window's edge.
    let edge = ours / server.scrapes.max(1) as f64 + evidence.result.concurrency.max as f64 + 1.0;
    if finished - ours > LIMITS.foreign_share * ours + edge {
        return invalid(
            "foreign_traffic",
            format!("the server finished {finished:.0} requests, this client {ours:.0}"),
        );
    }
    None
}

fn prefix_cache_confounded(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    let rate = evidence.result.server.as_ref()?.prefix_hit_rate?;
    let expected = evidence.expected_prefix_hit_rate?;
    if rate > expected + LIMITS.prefix_hit_excess {
        let detail = format!("prefix-cache hit rate {rate:.3}, where the workload implies {expected:.3}");
        return invalid("prefix_cache_confounded", detail);
    }
    None
}

fn simulated(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    if evidence.simulated {
        return warning("simulated", "these numbers come from the simulator".to_owned());
    }
    None
}
