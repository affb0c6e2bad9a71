//! The rules, one function each. A rule returns at most one reason, whose sentence carries the evidence with its numbers.

use super::backlog::{Growth, Shortfall};
use super::catalogue::Thresholds;
use super::evidence::{CellEvidence, TokenCounts};
use crate::result::{Severity, VerdictReason};

const LIMITS: Thresholds = Thresholds::DEFAULT;

type Rule = fn(&CellEvidence<'_>) -> Option<VerdictReason>;

/// Every rule, in the order in which reasons of one severity are listed.
pub(super) const ALL: &[Rule] = &[
    shard_missing,
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
    no_kv_transfer,
    prefix_cache_confounded,
    debug_logging,
    metrics_partial,
    shard_clock,
    precision_not_reached,
    merged_events,
    preemptions,
    factor_not_exercised,
    not_steady,
    too_few_samples,
    decode_only_workload,
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

fn shard_missing(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    let shards = evidence.result.shards.as_ref()?;
    let list = |indices: &[u32]| indices.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let mut findings = Vec::new();
    if !shards.missing.is_empty() {
        findings.push(format!("of {} shards the records of {} are missing", shards.count, list(&shards.missing)));
    }
    if !shards.interrupted.is_empty() {
        findings.push(format!("of {} shards {} did not finish", shards.count, list(&shards.interrupted)));
    }
    if findings.is_empty() { None } else { invalid("shard_missing", findings.join("; ")) }
}

fn shard_clock(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    let shards = evidence.result.shards.as_ref()?;
    let vague = shards.members.iter().filter_map(|member| match member.clock_uncertainty_ms {
        None => Some(format!("that of shard {} ({}) to nobody knows what", member.index, member.host)),
        Some(ms) if ms > LIMITS.shard_clock_ms => {
            Some(format!("that of shard {} ({}) to {ms:.1} ms", member.index, member.host))
        }
        Some(_) => None,
    });
    let mut findings: Vec<String> = vague.collect();
    if !findings.is_empty() {
        findings = vec![format!("clocks are known only vaguely: {}", findings.join(", "))];
    }
    if shards.start_skew_ms > LIMITS.shard_skew_ms {
        findings.push(format!("the shards' windows began {:.1} ms apart", shards.start_skew_ms));
    }
    if findings.is_empty() { None } else { warning("shard_clock", findings.join("; ")) }
}

fn precision_not_reached(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    let wide = evidence.result.precision.as_ref()?.iter().filter(|report| !report.is_reached).map(|report| {
        let reached = report.reached.map_or("an unknown width".to_owned(), |width| format!("{:.1} %", 100.0 * width));
        format!("mean {} is known to {reached}, wanted {:.1} %", report.metric, 100.0 * report.wanted)
    });
    let list: Vec<String> = wide.collect();
    if list.is_empty() { None } else { warning("precision_not_reached", list.join("; ")) }
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
        // Of a few samples the 99th percentile is the largest: one hiccup of the machine, not the client's habit.
        let canary = canary.as_ref().filter(|errors| errors.n >= LIMITS.p99_samples);
        if let Some(p99) = canary.and_then(|q| q.p99).filter(|p99| *p99 > allowed(LIMITS.canary_p99_ms)) {
            findings.push(format!("mismeasured its canary's {name} by {p99:.1} ms (p99)"));
        }
    }
    let capacity_s = evidence.result.duration_s * f64::from(client.threads);
    let share = client.cpu_share.or_else(|| (capacity_s > 0.0).then(|| client.cpu_s / capacity_s));
    if let Some(share) = share.filter(|share| *share > LIMITS.client_cpu) {
        findings.push(format!("used {:.0} % of its {} load threads' CPU time", 100.0 * share, client.threads));
    }
    if findings.is_empty() { None } else { invalid("client_limited", format!("the client {}", findings.join(", "))) }
}

fn saturated(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    if !evidence.load.is_open() {
        return None;
    }
    let backlog = evidence.requests.backlog;
    let mut findings = Vec::new();
    if let Some(Shortfall { arrived, completed, expected, noise }) = backlog.shortfall {
        let missing = arrived.saturating_sub(completed) as f64;
        let allowed = (1.0 - LIMITS.sustained_share) * arrived as f64 + expected + LIMITS.backlog_noise * noise;
        if arrived >= LIMITS.growth_min_requests && missing > allowed {
            findings.push(format!("completed {completed} requests while {arrived} arrived"));
        }
    }
    for (name, growth) in [("TTFT", backlog.ttft_sched), ("E2E time", backlog.e2e_sched)] {
        if let Some(growth) = growth.filter(grows) {
            let Growth { slope, rise_ms, n, .. } = growth;
            findings.push(format!(
                "{name} from the schedule grew by {slope:.2} s per second of arrivals ({rise_ms:.0} ms over {n} requests)"
            ));
        }
    }
    if findings.is_empty() { None } else { invalid("saturated", findings.join("; ")) }
}

/// The slope that a stable queue shows by chance shrinks with the number of requests.
fn grows(growth: &Growth) -> bool {
    growth.n >= LIMITS.growth_min_requests
        && growth.slope > LIMITS.growth_slope + LIMITS.growth_slope_requests / growth.n as f64
        && growth.slope > LIMITS.backlog_noise * growth.slope_error
        && growth.rise_ms > LIMITS.growth_rise_ms
}

fn metrics_missing(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    let inside = evidence.result.server.as_ref().map_or(0, |server| server.scrapes);
    if evidence.metrics_expected && inside == 0 && evidence.requests.server.is_none() {
        let detail = "no scrape of the server's metrics succeeded in the window or on both sides of it";
        return invalid("metrics_missing", detail.to_owned());
    }
    None
}

fn metrics_partial(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    let inside = evidence.result.server.as_ref()?.scrapes;
    let length_s = evidence.result.duration_s;
    let detail = match evidence.requests.server {
        None if inside == 0 => return None,
        None => "the server's metrics were scraped once only: there are no counter increases".to_owned(),
        Some(share) if share.covered < LIMITS.scrapes_cover => {
            format!("the scrapes cover {:.0} % of the window of {length_s:.2} s", 100.0 * share.covered)
        }
        Some(share) if share.scrapes_inside == 0 => format!(
            "no scrape fell into the window of {length_s:.2} s: gauges are those just before and after it, counters include \
             what happened there"
        ),
        Some(_) => return None,
    };
    warning("metrics_partial", detail)
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
    let too_many = |difference: u64, of: u64| difference as f64 > LIMITS.token_mismatch * of as f64 + 1.0;
    let TokenCounts { counted, counted_difference, guessed, guessed_excess, .. } = evidence.requests.tokens;
    if too_many(counted_difference, counted) {
        return invalid(
            "token_count_mismatch",
            format!(
                "the server reported {counted} output tokens; what it counted in the events differs by {counted_difference}"
            ),
        );
    }
    if too_many(guessed_excess, guessed) {
        return invalid(
            "token_count_mismatch",
            format!(
                "the server reported {guessed} output tokens and sent {guessed_excess} token events more than that"
            ),
        );
    }
    let grown = evidence.result.server.as_ref()?.generation_tokens.filter(|_| evidence.servers_per_request == 1)?;
    let share = evidence.requests.server?;
    let (least, most) = (share.tokens_at_least as f64, share.tokens_at_most as f64);
    let slack = LIMITS.token_mismatch * grown.max(most) + 1.0;
    if grown + slack < least || grown - slack > most {
        let detail = format!(
            "the server's counter grew by {grown:.0} tokens, where this client's requests account for {least:.0} to {most:.0}"
        );
        return invalid("token_count_mismatch", detail);
    }
    None
}

fn merged_events(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    let TokenCounts { guessed, guessed_events, guessed_excess, .. } = evidence.requests.tokens;
    let share = 1.0 - guessed_events.saturating_sub(guessed_excess) as f64 / guessed.max(1) as f64;
    if guessed == 0 || share <= LIMITS.merged_share {
        return None;
    }
    let per_event = guessed as f64 / guessed_events.max(1) as f64;
    warning(
        "merged_events",
        format!("{guessed} output tokens came in {guessed_events} events ({per_event:.2} per event): ITL is per chunk"),
    )
}

fn preemptions(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    let n = evidence.result.server.as_ref()?.preemptions.filter(|n| *n > 0.0)?;
    warning("preemptions", format!("the engine preempted {n:.0} times in the window"))
}

fn factor_not_exercised(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    // Gauges from outside the window do not show what was reached inside it.
    if evidence.result.server.as_ref().is_some_and(|server| server.scrapes == 0) {
        return None;
    }
    let short = evidence.limits.iter().filter_map(|limit| {
        let reached = limit.reached.filter(|reached| *reached < limit.limit)?;
        Some(format!("{} = {} was never reached (at most {reached})", limit.key, limit.limit))
    });
    let list: Vec<String> = short.collect();
    if list.is_empty() { None } else { warning("factor_not_exercised", list.join("; ")) }
}

fn not_steady(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    let concurrency = evidence.load.busy_slots().filter(|_| evidence.arrivals_known && !evidence.slots_pause)?;
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

fn decode_only_workload(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    let result = evidence.result;
    let n = result.requests.completed;
    if n == 0 || result.is_unknown("input_tokens") {
        return None;
    }
    let mean = |tokens: u64| tokens as f64 / n as f64;
    let (prompt, answer) = (mean(result.input_tokens), mean(result.output_tokens));
    if prompt == 0.0 || prompt > LIMITS.decode_only_prompt || answer < LIMITS.decode_only_answer {
        return None;
    }
    warning("decode_only_workload", format!("prompts have {prompt:.1} tokens on average, answers {answer:.0}"))
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
    let finished = evidence.result.server.as_ref()?.requests_finished?;
    let finished = finished / f64::from(evidence.servers_per_request.max(1));
    let ours = evidence.requests.server?.requests_at_most as f64;
    if finished > (1.0 + LIMITS.foreign_share) * ours + 1.0 {
        let detail =
            format!("the server finished {finished:.0} requests, of which at most {ours:.0} are this client's");
        return invalid("foreign_traffic", detail);
    }
    None
}

fn no_kv_transfer(evidence: &CellEvidence<'_>) -> Option<VerdictReason> {
    let transfer = evidence.kv_transfer?;
    let completed = evidence.result.requests.completed;
    if completed == 0 {
        return None;
    }
    match transfer.has_moved() {
        None => invalid(
            "no_kv_transfer",
            format!("{completed} requests completed, and no server has a counter of KV transfers"),
        ),
        Some(false) => invalid(
            "no_kv_transfer",
            format!("{completed} requests completed while every counter of KV transfers stood still"),
        ),
        Some(true) => {
            let failed = transfer.failed.filter(|failed| *failed > 0.0);
            let few = transfer.transfers.filter(|n| *n > 0.0 && *n < LIMITS.transfer_share * completed as f64);
            let text = match (failed, few) {
                (Some(failed), _) => format!("{failed:.0} KV transfers failed"),
                (None, Some(n)) => format!("{completed} requests completed with {n:.0} KV transfers"),
                (None, None) => return None,
            };
            warning("no_kv_transfer", format!("{text}: some prompts were computed by decode servers"))
        }
    }
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
