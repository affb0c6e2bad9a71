//! Results in folders beside each other, as a plotting script would print them: raw, and scaled to a node.

use std::collections::BTreeSet;

use servelab_core::ids::PointId;
use servelab_core::metrics::RepeatStats;
use servelab_core::study::Study;
use servelab_store::ResultRow;
use servelab_store::rank::{RepeatGroup, group_repeats};

use crate::names::metric_title;
use crate::report::metric;
use crate::report::rows::names;
use crate::text::document::Document;
use crate::text::number::{ABSENT, exact, optional};
use crate::text::table::{Table, left, right};

/// GPUs of a node, unless the study says otherwise.
const NODE: f64 = 8.0;

/// The section in its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoldersCompared {
    /// For report.txt.
    pub text: String,
    /// For report.md.
    pub markdown: String,
}

/// `report: {normalise: per_node(8)}` of the study: show rates per this many GPUs.
pub fn per_gpus(study: &Study) -> Option<f64> {
    let text = study.report.normalise.as_deref()?;
    let gpus: f64 = text.trim().strip_prefix("per_node(")?.strip_suffix(')')?.trim().parse().ok()?;
    Some(gpus).filter(|gpus| gpus.is_finite() && *gpus > 0.0)
}

/// Tables of all results, raw and per node. `named_gpus` are points whose GPUs only a folder's name tells.
pub fn folders_compared(rows: &[ResultRow], per: Option<f64>, named_gpus: &BTreeSet<PointId>) -> FoldersCompared {
    let per = per.unwrap_or(NODE);
    let mut groups = group_repeats(rows, &|_| Some(0.0));
    groups.sort_by(|a, b| {
        (&a.workload, &a.labels).cmp(&(&b.workload, &b.labels)).then(a.load_value.total_cmp(&b.load_value))
    });
    let mut out = Document::default();
    out.heading(2, "Folders beside each other");
    out.heading(3, "Raw");
    out.table(table(rows, &groups, None));
    out.heading(3, format!("Rates per {} GPUs", exact(per)));
    let scaled = table(rows, &groups, Some(per));
    if scaled.is_empty() {
        out.paragraph("Nothing says how many GPUs any of them had.");
    }
    out.table(scaled);
    out.paragraph(
        "Latencies are means over requests, and over repeats of a cell. Chunk latency is 15 TPOT + TTFT, interactivity 1000 / TPOT. What must \
         not be believed is left out here and stands under Verdicts.",
    );
    if !named_gpus.is_empty() {
        let labels: BTreeSet<String> = rows
            .iter()
            .filter(|row| named_gpus.contains(&row.point.id))
            .map(|row| names(&row.point.labels, row.point.id.short()))
            .collect();
        let labels: Vec<String> = labels.into_iter().collect();
        out.paragraph(format!(
            "Numbers of GPUs that only the name of a folder tells, and nothing confirms: {}.",
            labels.join(", ")
        ));
    }
    FoldersCompared { text: out.to_text(Some(140)), markdown: out.to_markdown() }
}

fn table(rows: &[ResultRow], groups: &[RepeatGroup], per: Option<f64>) -> Table {
    let mut table = Table::new([
        left("Configuration"),
        left("Workload"),
        right("GPUs"),
        left("Load"),
        right("n"),
        right(metric_title("throughput_tokens_per_sec")),
        right(metric_title("throughput_requests_per_sec")),
        right("TTFT (ms)"),
        right("TPOT (ms)"),
        right("Chunk latency (ms)"),
        right("Interactivity (tok/s)"),
    ]);
    for group in groups.iter().filter(|group| !group.rows.is_empty()) {
        let own = || group.rows.iter().filter_map(|idx| rows.get(*idx));
        let gpus = own().next().map_or(0, |row| row.point.gpus);
        if per.is_some() && gpus == 0 {
            continue;
        }
        let mean = |name: &str| RepeatStats::of(own().filter_map(|row| metric(row, name))).map(|stats| stats.mean);
        let rate = |name: &str| mean(name).map(|rate| per.map_or(rate, |per| rate * per / f64::from(gpus)));
        let (ttft, tpot) = (mean("ttft_mean_ms"), mean("tpot_mean_ms"));
        table.row([
            names(&group.labels, group.point.short()),
            group.workload.clone(),
            if gpus > 0 { gpus.to_string() } else { ABSENT.to_owned() },
            group.load.clone(),
            group.rows.len().to_string(),
            optional(rate("throughput_tokens_per_sec")),
            optional(rate("throughput_requests_per_sec")),
            optional(ttft),
            optional(tpot),
            optional(ttft.zip(tpot).map(|(ttft, tpot)| 15.0 * tpot + ttft)),
            optional(tpot.filter(|tpot| *tpot > 0.0).map(|tpot| 1e3 / tpot)),
        ]);
    }
    table.without_empty_columns()
}
