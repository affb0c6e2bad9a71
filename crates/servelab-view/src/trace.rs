//! What `servelab trace` prints: where the time of a run went, and every metric with its value or the reason for its
//! absence.

use std::collections::BTreeSet;

use servelab_core::trace::catalogue::TRACE_METRICS;
use servelab_core::trace::{CommFamily, Metric, Place, TraceReport};

use crate::text::document::Document;
use crate::text::number::{ABSENT, count, number, percent, plural};
use crate::text::table::{Table, left, right};

/// Kernels that the summary names.
const KERNELS: usize = 10;
/// Collectives that the summary names.
const COLLECTIVES: usize = 10;
/// Ranks that the summary shows one by one.
const RANKS: usize = 16;
/// Letters of a kernel's name that are shown; templates go on for hundreds.
const NAME_LENGTH: usize = 72;

/// Names of the metrics that the summary leads with.
const HEADLINES: &[&str] = &[
    "iteration_wall_clock",
    "step_time",
    "ttft",
    "tpot",
    "throughput_tokens_sec",
    "comm_overhead",
    "comm_overhead_exposed",
    "cpu_comm_overhead",
    "coll_call_num",
    "compute_comm_overlap",
    "gpu_busy",
    "mean_sm_coverage",
    "straggler_rank",
    "straggler_score",
    "comm_transfer",
    "comm_wait",
];

fn micros(ns: i64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    number(ns as f64 / 1e3)
}

/// Bytes in the largest unit that leaves a whole part.
fn bytes(n: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    let (value, unit) = match n {
        0..1024 => (n as f64, "B"),
        1024..1_048_576 => (n as f64 / 1024.0, "KiB"),
        1_048_576..1_073_741_824 => (n as f64 / 1_048_576.0, "MiB"),
        _ => (n as f64 / 1_073_741_824.0, "GiB"),
    };
    format!("{} {unit}", number(value))
}

fn millis(ns: i64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    number(ns as f64 / 1e6)
}

#[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
fn share(part: i64, whole: i64) -> String {
    if whole > 0 { percent(part as f64 / whole as f64) } else { ABSENT.to_owned() }
}

fn short(name: &str) -> String {
    let name = name.strip_prefix("void ").unwrap_or(name);
    if name.chars().count() <= NAME_LENGTH {
        return name.to_owned();
    }
    let mut out: String = name.chars().take(NAME_LENGTH - 1).collect();
    out.push('…');
    out
}

/// The summary for a terminal.
pub fn trace_summary_text(report: &TraceReport, width: Option<usize>) -> String {
    let mut out = Document::default();
    out.facts(head(report));
    for warning in &report.warnings {
        out.paragraph(format!("WARNING {}: {}", warning.code, warning.detail));
    }
    out.heading(2, "The numbers");
    measured(&mut out, report, |name| HEADLINES.contains(&name));
    if !report.step_kinds.is_empty() {
        out.heading(2, "Steps");
        out.table(steps(report));
    }
    if report.per_rank.iter().any(|rank| rank.busy_ns > 0) {
        out.heading(2, "Where the device time went");
        out.table(devices(report));
        if report.per_rank.len() > RANKS {
            out.paragraph(format!(
                "The first {RANKS} of {} ranks; `trace metrics --json` has all.",
                report.per_rank.len()
            ));
        }
    }
    if !report.comm.is_empty() {
        out.heading(2, "Communication");
        out.table(communication(report));
        if report.collectives.iter().any(|stats| stats.message_bytes.is_some()) {
            out.table(collectives(report));
        }
    }
    if !report.kernels.is_empty() {
        out.heading(2, "Kernels");
        let mut table = Table::new([left("family"), right("kernels"), right("ms"), right("share")]);
        for family in &report.kernels {
            table.row([family.family.clone(), count(family.calls), millis(family.sum_ns), percent(family.share)]);
        }
        out.table(table);
        let mut table = Table::new([left("kernel"), left("family"), right("calls"), right("ms"), right("share")]);
        for kernel in report.top_kernels.iter().take(KERNELS) {
            let share = percent(kernel.share);
            table.row([short(&kernel.name), kernel.family.clone(), count(kernel.calls), millis(kernel.sum_ns), share]);
        }
        out.table(table);
    }
    if !report.suspects.is_empty() {
        out.paragraph("These kernels sound like communication and no rule of the taxonomy claims them; if they are, add them with `--taxonomy FILE`:");
        out.bullets(report.suspects.iter().map(|name| short(name)));
    }
    out.to_text(width)
}

fn head(report: &TraceReport) -> Vec<(&'static str, String)> {
    let paths: BTreeSet<&str> = report.inputs.iter().map(|input| input.path.as_str()).collect();
    let files = paths.len() as u64;
    let events: u64 = report.inputs.iter().map(|input| input.events).sum();
    let bytes: u64 = report.inputs.iter().map(|input| input.text_bytes).sum();
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    let size = number(bytes as f64 / 1e6);
    let ranks = match report.world_size {
        Some(world) => format!("{} of {world}", report.ranks.len()),
        None => report.ranks.len().to_string(),
    };
    let mut formats: Vec<&str> = report.inputs.iter().map(|input| input.format.as_str()).collect();
    formats.dedup();
    let fact = |key: &str| {
        let mut values: Vec<&str> =
            report.inputs.iter().filter_map(|input| input.facts.get(key)).map(String::as_str).collect();
        values.sort_unstable();
        values.dedup();
        values.join(", ")
    };
    let mut out = vec![
        (
            "traces",
            format!("{}, {} events, {size} MB of text ({})", plural(files, "file"), count(events), formats.join(", ")),
        ),
        ("ranks", ranks),
        ("steps", format!("{} marked, {} used", count(report.steps), count(report.steps_used))),
    ];
    for (label, key) in [("GPU", "gpu"), ("backend", "backend"), ("NCCL", "nccl_version"), ("vLLM", "vllm_version")] {
        let value = fact(key);
        if !value.is_empty() {
            out.push((label, value));
        }
    }
    out
}

/// Metrics that were measured as a table, the others by the reason why not: one reason often stands for many.
fn measured(out: &mut Document, report: &TraceReport, wanted: impl Fn(&str) -> bool) {
    let has_value = |name: &str| report.metrics.get(name).is_some_and(|metric| metric.value.is_some());
    out.table(metric_table(report, |name| wanted(name) && has_value(name)));
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for doc in TRACE_METRICS.iter().filter(|doc| wanted(doc.name)) {
        let Some(reason) = report.metrics.get(doc.name).and_then(|metric| metric.absent.as_deref()) else { continue };
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, names)) => names.push(doc.name),
            None => reasons.push((reason, vec![doc.name])),
        }
    }
    if !reasons.is_empty() {
        out.paragraph("Not measured:");
        out.bullets(reasons.into_iter().map(|(reason, names)| format!("{}: {reason}", names.join(", "))));
    }
}

fn metric_table(report: &TraceReport, wanted: impl Fn(&str) -> bool) -> Table {
    let mut table = Table::new([left("metric"), right("value"), left("unit"), left("remark")]);
    for doc in TRACE_METRICS.iter().filter(|doc| wanted(doc.name)) {
        if let Some(metric) = report.metrics.get(doc.name) {
            table.row(metric_row(doc.name, metric));
        }
    }
    table.without_empty_columns()
}

fn metric_row(name: &str, metric: &Metric) -> Vec<String> {
    let value = match metric.value {
        Some(value) if metric.unit == "fraction" => percent(value),
        Some(value) => number(value),
        None => ABSENT.to_owned(),
    };
    let unit = if metric.value.is_none() || metric.unit == "fraction" { String::new() } else { metric.unit.clone() };
    let remark = metric.absent.clone().or_else(|| metric.note.clone()).unwrap_or_default();
    vec![name.to_owned(), value, unit, remark]
}

fn steps(report: &TraceReport) -> Table {
    let mut table = Table::new([
        left("kind"),
        right("steps"),
        right("ms"),
        right("mean ms"),
        right("context tokens"),
        right("generated tokens"),
    ]);
    for kind in &report.step_kinds {
        let steps = i64::try_from(kind.steps.max(1)).unwrap_or(i64::MAX);
        table.row([
            kind.kind.clone(),
            count(kind.steps),
            millis(kind.sum_ns),
            millis(kind.sum_ns / steps),
            kind.context_tokens.map_or_else(String::new, count),
            kind.generation_tokens.map_or_else(String::new, count),
        ]);
    }
    table.without_empty_columns()
}

fn devices(report: &TraceReport) -> Table {
    let mut table = Table::new([
        right("rank"),
        right("span ms"),
        right("computation"),
        right("exposed communication"),
        right("exposed copies"),
        right("idle"),
        right("waited for others ms"),
    ]);
    for rank in report.per_rank.iter().take(RANKS) {
        table.row([
            rank.rank.to_string(),
            millis(rank.span_ns),
            share(rank.compute_ns, rank.span_ns),
            share(rank.exposed_comm_ns, rank.span_ns),
            share(rank.exposed_memcpy_ns, rank.span_ns),
            share(rank.idle_ns, rank.span_ns),
            rank.comm_wait_ns.map_or_else(String::new, millis),
        ]);
    }
    table.without_empty_columns()
}

fn communication(report: &TraceReport) -> Table {
    let mut table = Table::new([
        left("family"),
        left("where"),
        right("calls"),
        right("sum ms"),
        right("union ms"),
        right("exposed ms"),
        left("kinds"),
    ]);
    let mut families: Vec<(&String, &CommFamily)> = report.comm.iter().collect();
    families.sort_by_key(|(_, family)| std::cmp::Reverse(family.sum_ns));
    for (name, family) in families {
        let kinds: Vec<String> =
            family.kinds.iter().map(|(kind, time)| format!("{} {kind}", count(time.calls))).collect();
        table.row([
            name.clone(),
            match family.place {
                Place::Device => "GPU".to_owned(),
                Place::Host => "CPU".to_owned(),
            },
            count(family.calls),
            millis(family.sum_ns),
            millis(family.union_ns),
            millis(family.exposed_ns),
            kinds.join(", "),
        ]);
    }
    table
}

/// Collectives whose size is known, those with most time first.
fn collectives(report: &TraceReport) -> Table {
    let mut table = Table::new([
        left("collective"),
        left("group"),
        right("ranks"),
        right("calls"),
        right("message"),
        right("mean us"),
        right("least us"),
        right("algorithm GB/s"),
        right("bus GB/s"),
        right("fastest bus GB/s"),
    ]);
    let sized = report.collectives.iter().filter(|stats| stats.message_bytes.is_some());
    for stats in sized.take(COLLECTIVES) {
        let speed = |value: Option<f64>| value.map_or_else(String::new, number);
        let calls = i64::try_from(stats.calls.max(1)).unwrap_or(i64::MAX);
        table.row([
            format!("{} {}", stats.family, stats.kind),
            stats.group.clone().unwrap_or_default(),
            stats.group_size.map_or_else(String::new, |size| size.to_string()),
            count(stats.calls),
            stats.message_bytes.map_or_else(String::new, bytes),
            micros(stats.sum_ns / calls),
            micros(stats.min_ns),
            speed(stats.algorithm_gb_per_s),
            speed(stats.bus_gb_per_s),
            speed(stats.fastest_bus_gb_per_s),
        ]);
    }
    table.without_empty_columns()
}

/// Metrics as a table: those named, or all.
pub fn trace_metrics_text(report: &TraceReport, only: &[&str], width: Option<usize>) -> String {
    let mut out = Document::default();
    if only.is_empty() {
        measured(&mut out, report, |_| true);
    } else {
        out.table(metric_table(report, |name| only.contains(&name)));
    }
    for warning in &report.warnings {
        out.paragraph(format!("WARNING {}: {}", warning.code, warning.detail));
    }
    out.to_text(width)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use servelab_core::trace::{KindTime, RankSummary, TraceInput, TraceWarning};

    use super::*;

    fn report() -> TraceReport {
        let kinds = BTreeMap::from([("all_reduce".to_owned(), KindTime { calls: 95, sum_ns: 4_000_000 })]);
        let shm = CommFamily {
            calls: 95,
            sum_ns: 4_000_000,
            union_ns: 4_000_000,
            exposed_ns: 4_000_000,
            place: Place::Host,
            kinds,
            ..CommFamily::default()
        };
        TraceReport {
            ranks: vec![0, 1],
            world_size: Some(8),
            steps: 21,
            steps_used: 19,
            metrics: BTreeMap::from([
                ("tpot".to_owned(), Metric::of(6.25, "ms")),
                ("comm_overhead".to_owned(), Metric::absent("fraction", "not measured (CPU backend)")),
                ("cpu_comm_overhead".to_owned(), Metric::of(0.0625, "fraction")),
            ]),
            comm: BTreeMap::from([("shm".to_owned(), shm)]),
            per_rank: vec![RankSummary {
                rank: 1,
                span_ns: 10_000_000,
                busy_ns: 9_000_000,
                compute_ns: 8_000_000,
                idle_ns: 1_000_000,
                ..RankSummary::default()
            }],
            inputs: vec![TraceInput {
                format: "kineto".into(),
                events: 13_037,
                text_bytes: 5_584_453,
                ..TraceInput::default()
            }],
            suspects: vec!["my_allreduce".into()],
            warnings: vec![TraceWarning { code: "missing_ranks".into(), detail: "traces of 2 of 8 ranks".into() }],
            ..TraceReport::default()
        }
    }

    #[test]
    fn the_summary_says_what_is_known_and_why_the_rest_is_not() {
        let text = trace_summary_text(&report(), Some(110));
        for expected in [
            "2 of 8",
            "21 marked, 19 used",
            "not measured (CPU backend)",
            "6.25 %",
            "95 all_reduce",
            "CPU",
            "my_allreduce",
            "WARNING missing_ranks",
            "80 %",
        ] {
            assert!(text.contains(expected), "{expected} is missing:\n{text}");
        }
    }

    #[test]
    fn metrics_can_be_chosen() {
        let text = trace_metrics_text(&report(), &["tpot"], Some(110));
        assert!(text.contains("tpot") && text.contains("6.25") && !text.contains("comm_overhead"), "{text}");
    }
}
