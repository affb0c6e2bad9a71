//! Steps × streams: one figure for each rank. Every stream is a row; the height of a bin says how much of it is filled, its
//! colour what filled most of it. One path for each stream and family keeps the page small.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use servelab_core::trace::timeline::RankTimeline;

use crate::plot::escape;
use crate::text::number::{number, plural};

/// Height of a stream's row, in units of the drawing.
const ROW: u32 = 26;
/// Height of the steps' row.
const STEPS: u32 = 18;
/// Ranks whose figures are open from the start.
const MOST_OPEN: usize = 4;

/// Colour class of a family.
pub(super) fn class(family: &str) -> &'static str {
    match family {
        family if family.starts_with("comm") => "f-comm",
        "gemm" | "convolution" => "f-gemm",
        "attention" | "kv_cache" => "f-attention",
        "moe" => "f-moe",
        "norm" | "activation" | "softmax" | "elementwise" | "reduction" | "position" => "f-pointwise",
        "sampling" | "embedding" | "quantization" => "f-sampling",
        "copy" | "memset" | "memory" => "f-copy",
        "graph" => "f-graph",
        _ => "f-other",
    }
}

const LEGEND: [(&str, &str); 9] = [
    ("f-comm", "communication"),
    ("f-gemm", "gemm"),
    ("f-attention", "attention, KV cache"),
    ("f-moe", "experts"),
    ("f-pointwise", "norm, activation, elementwise"),
    ("f-sampling", "sampling, embedding, quantization"),
    ("f-copy", "copies, memory"),
    ("f-graph", "whole graphs"),
    ("f-other", "other"),
];

pub(super) fn overview(out: &mut String, timelines: &[RankTimeline]) {
    let drawn: Vec<&RankTimeline> = timelines.iter().filter(|timeline| !timeline.lanes.is_empty()).collect();
    if drawn.is_empty() {
        out.push_str("<p>No device event and no communication of a CPU backend to draw.</p>\n");
        return;
    }
    out.push_str("<p class=\"legend\">Streams:");
    let mut item = |class: &str, words: &str| {
        let swatch = format!("<span class=\"swatch {class}\" aria-hidden=\"true\"></span>");
        let _ = write!(out, " <span class=\"item\">{swatch} {words}</span>");
    };
    for (class, words) in LEGEND {
        item(class, words);
    }
    let kinds: BTreeSet<&str> =
        drawn.iter().flat_map(|timeline| &timeline.steps).map(|step| step.kind.as_str()).collect();
    if !kinds.is_empty() {
        item("none", "Steps:");
    }
    for kind in kinds {
        item(&format!("s-{}", escape(kind)), &escape(kind));
    }
    out.push_str(
        "</p>\n<p>Choose a figure (Tab), then: ← → move, + − zoom, n and p go from step to step, 0 shows everything.</p>\n",
    );
    for (idx, timeline) in drawn.iter().enumerate() {
        rank(out, timeline, idx < MOST_OPEN);
    }
}

fn rank(out: &mut String, timeline: &RankTimeline, is_open: bool) {
    let open = if is_open { " open" } else { "" };
    let n = timeline.n_bins;
    let bin_ns = bin_width(timeline);
    let rows = u32::try_from(timeline.lanes.len()).unwrap_or(0);
    let height = STEPS + rows * ROW;
    let span_ms = millis(timeline.span_ns);
    let _ = writeln!(
        out,
        "<details{open}><summary>rank {}: {} ms, {}, {}</summary>\n\
         <div class=\"timeline\" tabindex=\"0\" role=\"group\" aria-label=\"Time line of rank {}\" data-bins=\"{n}\" data-bin-ns=\"{bin_ns}\">\n\
         <div class=\"buttons\"><button type=\"button\" data-do=\"out\">− zoom out</button> <button type=\"button\" data-do=\"in\">+ zoom in</button> \
         <button type=\"button\" data-do=\"left\">← left</button> <button type=\"button\" data-do=\"right\">right →</button> \
         <button type=\"button\" data-do=\"prev\">previous step</button> <button type=\"button\" data-do=\"next\">next step</button> \
         <button type=\"button\" data-do=\"all\">all</button></div>",
        timeline.rank,
        number(span_ms),
        plural(timeline.steps.len() as u64, "step"),
        plural(timeline.lanes.len() as u64, "stream"),
        timeline.rank,
    );
    out.push_str("<div class=\"rows\"><div class=\"names\" aria-hidden=\"true\"><span class=\"stepname\">steps</span>");
    for lane in &timeline.lanes {
        let _ = write!(out, "<span>{}</span>", escape(&lane.name));
    }
    let _ = write!(
        out,
        "</div><svg viewBox=\"0 0 {n} {height}\" height=\"{height}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{} over {} ms\">",
        plural(timeline.lanes.len() as u64, "stream"),
        number(span_ms)
    );
    steps(out, timeline, bin_ns, height);
    for (row, lane) in (0..).zip(&timeline.lanes) {
        paths(out, lane, STEPS + row * ROW);
    }
    out.push_str("</svg></div>\n<div class=\"axis\"><span class=\"from\"></span><span class=\"what\" aria-live=\"polite\"></span><span class=\"to\"></span></div>\n");
    if timeline.n_lanes_left_out > 0 {
        let _ = writeln!(out, "<p>{} further streams hold less and are left out.</p>", timeline.n_lanes_left_out);
    }
    out.push_str("</div></details>\n");
}

fn bin_width(timeline: &RankTimeline) -> i64 {
    let n = i64::from(timeline.n_bins.max(1));
    ((timeline.span_ns.max(1) + n - 1) / n).max(1)
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds for people")]
fn millis(nanos: i64) -> f64 {
    nanos as f64 / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "places in a drawing")]
fn steps(out: &mut String, timeline: &RankTimeline, bin_ns: i64, height: u32) {
    for step in &timeline.steps {
        let x = step.start_ns as f64 / bin_ns as f64;
        let width = (step.dur_ns as f64 / bin_ns as f64).max(0.05);
        let _ = write!(
            out,
            "<rect class=\"step s-{}\" x=\"{x:.2}\" y=\"1\" width=\"{width:.2}\" height=\"{}\" data-start=\"{}\" data-dur=\"{}\"><title>{}, {} ms</title></rect>\
             <path class=\"edge\" d=\"M{x:.2} 0V{height}\"/>",
            escape(&step.kind),
            STEPS - 4,
            step.start_ns,
            step.dur_ns,
            escape(&step.name),
            number(millis(step.dur_ns))
        );
    }
}

fn paths(out: &mut String, lane: &servelab_core::trace::timeline::LaneTimeline, top: u32) {
    let mut by_family: BTreeMap<&str, String> = BTreeMap::new();
    for run in &lane.runs {
        let path = by_family.entry(&run.family).or_default();
        // Eighths of the row, three units each.
        let tall = u32::from(run.filled.clamp(1, 8)) * 3;
        let _ = write!(path, "M{} {}h{}v{tall}h-{}z", run.first, top + ROW - 1 - tall, run.len, run.len);
    }
    let _ = write!(out, "<path class=\"base\" d=\"M0 {}h100000\"/>", top + ROW - 1);
    for (family, path) in by_family {
        let _ = write!(
            out,
            "<path class=\"{}\" d=\"{path}\"><title>{}: {}</title></path>",
            class(family),
            escape(&lane.name),
            escape(family)
        );
    }
}
