//! Which figures a report has: trade-offs, loads, effects, grids, distributions, time lines, requests, predictions.

use std::collections::BTreeMap;

use servelab_core::ids::PointId;
use servelab_core::metrics::RepeatStats;
use servelab_store::rank::{RepeatGroup, group_repeats};
use servelab_store::{CellDetail, ResultRow};

use super::{Axis, Figure, Good, Kind, Limit, Series, cells, design, short};
use crate::names::{is_higher_better, metric_title};
use crate::report::rows::{names, origin, unmixed};
use crate::report::{ReportInput, metric};
use crate::text::number::{plural, slug};

/// A prediction beside a measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct PredictedPair {
    /// Column of the results table.
    pub metric: &'static str,
    /// Workload.
    pub workload: String,
    /// The point's name.
    pub point: String,
    /// Load in words.
    pub load: String,
    /// Predicted.
    pub predicted: f64,
    /// Measured.
    pub measured: f64,
}

/// What figures are made from.
#[derive(Debug, Clone, Copy)]
pub struct FigureInput<'a> {
    /// The report.
    pub report: &'a ReportInput<'a>,
    /// Cells looked at from inside.
    pub details: &'a [CellDetail],
    /// Predictions beside measurements.
    pub predicted: &'a [PredictedPair],
}

/// Configurations by their number: the order of the report.
pub(super) struct Hues<'a> {
    of: BTreeMap<&'a PointId, usize>,
}

impl<'a> Hues<'a> {
    fn new(rows: &'a [ResultRow]) -> Self {
        let mut of = BTreeMap::new();
        for row in rows.iter().filter(|row| row.result.is_some()) {
            let next = of.len();
            of.entry(&row.point.id).or_insert(next);
        }
        Self { of }
    }

    pub(super) fn get(&self, point: &PointId) -> usize {
        self.of.get(point).copied().unwrap_or(0)
    }
}

/// Every figure for which there are data.
pub fn figures(input: &FigureInput<'_>) -> Vec<Figure> {
    let rows = unmixed(input.report.rows, input.report.mix_simulated);
    let hues = Hues::new(&rows);
    let mut workloads: Vec<&str> = Vec::new();
    for row in &rows {
        if !workloads.contains(&row.cell.workload.as_str()) {
            workloads.push(&row.cell.workload);
        }
    }
    let several = workloads.len() > 1;
    let mut out = Vec::new();
    for workload in workloads {
        let own: Vec<ResultRow> = rows.iter().filter(|row| row.cell.workload == workload).cloned().collect();
        let groups: Vec<RepeatGroup> = group_repeats(&own, &|_| Some(0.0));
        let groups: Vec<RepeatGroup> = groups.into_iter().filter(|group| !group.rows.is_empty()).collect();
        let scene = Scene { input, rows: &own, groups: &groups, hues: &hues, workload };
        let mut found = trade_offs(&scene);
        found.extend(loads(&scene));
        found.extend(design::effects(&scene));
        found.extend(design::grids(&scene));
        found.extend(cells::all(&scene));
        found.extend(predicted(&scene));
        found.retain(|figure| figure.series.iter().any(|series| !series.x.is_empty()));
        if several {
            found.iter_mut().for_each(|figure| figure.id = format!("{}_{}", figure.id, slug(workload)));
        }
        out.extend(found);
    }
    out
}

/// What the figures of one workload are made from.
pub(super) struct Scene<'a> {
    pub(super) input: &'a FigureInput<'a>,
    pub(super) rows: &'a [ResultRow],
    pub(super) groups: &'a [RepeatGroup],
    pub(super) hues: &'a Hues<'a>,
    pub(super) workload: &'a str,
}

/// Metrics that only figures know.
pub(super) fn drawn_metric(row: &ResultRow, name: &str) -> Option<f64> {
    match name {
        "interactivity" => metric(row, "tpot_mean_ms").filter(|tpot| *tpot > 0.0).map(|tpot| 1e3 / tpot),
        "chunk_latency_ms" => Some(15.0 * metric(row, "tpot_mean_ms")? + metric(row, "ttft_mean_ms")?),
        other => metric(row, other),
    }
}

impl Scene<'_> {
    /// Mean and range over the repeats of a group that count.
    pub(super) fn stats(&self, group: &RepeatGroup, name: &str) -> Option<RepeatStats> {
        let rows = group.rows.iter().filter_map(|idx| self.rows.get(*idx));
        RepeatStats::of(rows.filter_map(|row| drawn_metric(row, name)).filter(|x| x.is_finite()).collect::<Vec<_>>())
    }

    /// One series per point, over its load levels of one kind.
    fn series(&self, kind: Option<&str>, x: &dyn Fn(&RepeatGroup) -> Option<f64>, y: &str) -> Vec<Series> {
        let mut by_point: Vec<(&PointId, Vec<&RepeatGroup>)> = Vec::new();
        let mut places: BTreeMap<&PointId, usize> = BTreeMap::new();
        for group in self.groups {
            let place = *places.entry(&group.point).or_insert(by_point.len());
            match by_point.get_mut(place) {
                Some((_, own)) => own.push(group),
                None => by_point.push((&group.point, vec![group])),
            }
        }
        let mut out: Vec<Series> = Vec::new();
        for (point, mut own) in by_point {
            own.sort_by(|a, b| a.load_value.total_cmp(&b.load_value));
            let mut series = Series { hue: self.hues.get(point), ..Series::default() };
            for group in own {
                let Some(row) = group.rows.first().and_then(|idx| self.rows.get(*idx)) else { continue };
                if kind.is_some_and(|kind| row.cell.load.kind() != kind) {
                    continue;
                }
                let (Some(x), Some(stats)) = (x(group), self.stats(group, y)) else { continue };
                series.name = names(&group.labels, group.point.short());
                series.gpus = row.point.gpus;
                series.simulated |= group.simulated;
                series.x.push(short(x));
                series.y.push(short(stats.mean));
                let has_range = stats.n > 1;
                series.low.push(has_range.then(|| short(stats.min)));
                series.high.push(has_range.then(|| short(stats.max)));
                series.text.push(format!("{}, n={}, {}", group.load, stats.n, origin(group.simulated)));
            }
            if series.low.iter().all(Option::is_none) {
                series.low.clear();
                series.high.clear();
            }
            if !series.x.is_empty() {
                out.push(series);
            }
        }
        out
    }

    /// The study's limit on a metric, as a line.
    fn limit(&self, name: &str, on_x: bool) -> Vec<Limit> {
        let limits = &self.input.report.study.slo.cell.0;
        limits
            .get(name)
            .map(|value| Limit { on_x, value: *value, text: format!("SLO {}", metric_title(name)) })
            .into_iter()
            .collect()
    }

    pub(super) fn figure(&self, id: &str, set: &'static str, tab: &str, kind: Kind, axes: (Axis, Axis)) -> Figure {
        Figure {
            id: id.to_owned(),
            set,
            tab: tab.to_owned(),
            workload: self.workload.to_owned(),
            title: String::new(),
            caption: String::new(),
            kind,
            x: axes.0,
            y: axes.1,
            series: Vec::new(),
            limits: Vec::new(),
            shown: usize::MAX,
        }
    }
}

/// The horizontal axes of trade-offs: name, tab, title, which end is better.
const TRADED: [(&str, &str, &str, Good); 5] = [
    ("interactivity", "Interactivity", "Interactivity: tokens/s of one user (1000 / mean TPOT in ms)", Good::More),
    ("tpot_mean_ms", "TPOT", "TPOT, mean (ms)", Good::Less),
    ("ttft_mean_ms", "TTFT", "TTFT, mean (ms)", Good::Less),
    ("chunk_latency_ms", "Chunk latency", "Time to 15 tokens: 15 TPOT + TTFT (ms)", Good::Less),
    ("e2e_latency_mean_ms", "End to end", "End-to-end latency, mean (ms)", Good::Less),
];

fn trade_offs(scene: &Scene<'_>) -> Vec<Figure> {
    let y = Axis::new("Throughput (output tok/s)", Good::More).rate();
    TRADED
        .iter()
        .map(|(name, tab, title, good)| {
            let place = |group: &RepeatGroup| scene.stats(group, name).map(|stats| stats.mean);
            let series = scene.series(None, &place, "throughput_tokens_per_sec");
            let is_wide = *good == Good::Less && spans(series.iter().flat_map(|series| &series.x), 20.0);
            let x = Axis::new(*title, *good).log(is_wide);
            let base = scene.figure(
                &format!("throughput_vs_{}", name.trim_end_matches("_ms")),
                "trade",
                tab,
                Kind::Front,
                (x, y.clone()),
            );
            Figure {
                title: format!(
                    "Throughput against {}",
                    if tab.chars().any(|c| c.is_ascii_lowercase()) { tab.to_lowercase() } else { (*tab).to_owned() }
                ),
                caption: "Each marker is one load level of one configuration (mean over repeats; whiskers: lowest and highest \
                          repeat). The dashed front joins what no other beats in both."
                    .to_owned(),
                series,
                limits: scene.limit(name, true),
                ..base
            }
        })
        .collect()
}

/// Do positive values span more than a factor?
fn spans<'a>(values: impl Iterator<Item = &'a f64>, factor: f64) -> bool {
    let positive: Vec<f64> = values.copied().filter(|x| *x > 0.0).collect();
    let low = positive.iter().copied().fold(f64::INFINITY, f64::min);
    let high = positive.iter().copied().fold(0.0, f64::max);
    high > low * factor
}

/// What is drawn over the load: column, tab, always logarithmic.
const OVER_LOAD: [(&str, &str, bool); 10] = [
    ("ttft_p50_ms", "TTFT P50", true),
    ("ttft_p95_ms", "TTFT P95", true),
    ("tpot_mean_ms", "TPOT", false),
    ("itl_p95_ms", "ITL P95", false),
    ("e2e_latency_p95_ms", "E2E P95", false),
    ("throughput_tokens_per_sec", "Throughput", false),
    ("throughput_requests_per_sec", "Requests/s", false),
    ("goodput_requests_per_s", "Goodput", false),
    ("success_rate", "Success", false),
    ("prom_cache_usage_max", "KV cache", false),
];

/// The title of a load axis.
pub(super) fn load_title(kind: &str) -> &'static str {
    match kind {
        "closed" => "Concurrency (requests in flight)",
        "open" => "Offered rate (requests/s)",
        "ramp" => "Highest offered rate (requests/s)",
        "replay" => "Speed of the replay",
        _ => "Batch size",
    }
}

fn loads(scene: &Scene<'_>) -> Vec<Figure> {
    let mut kinds: Vec<&str> = Vec::new();
    for row in scene.rows.iter().filter(|row| row.result.is_some()) {
        if !kinds.contains(&row.cell.load.kind()) {
            kinds.push(row.cell.load.kind());
        }
    }
    let mut out = Vec::new();
    for kind in &kinds {
        for (name, tab, log) in OVER_LOAD {
            let series = scene.series(Some(kind), &|group| Some(group.load_value), name);
            if series.iter().all(|series| series.x.len() < 2) {
                continue;
            }
            let good = if is_higher_better(name) { Good::More } else { Good::Less };
            let x =
                Axis::new(load_title(kind), Good::Neither).log(spans(series.iter().flat_map(|series| &series.x), 7.9));
            let is_log = log || spans(series.iter().flat_map(|series| &series.y), 100.0);
            let mut y = Axis::new(metric_title(name), good).log(is_log);
            y.rate = name.starts_with("throughput") || name.starts_with("goodput");
            let by = if *kind == "closed" { "concurrency" } else { *kind };
            let id = format!("{}_vs_{by}", name.trim_end_matches("_ms"));
            let tab = if kinds.len() > 1 { format!("{tab}, {kind}") } else { tab.to_owned() };
            let base = scene.figure(&id, "load", &tab, Kind::Lines, (x, y));
            out.push(Figure {
                title: format!("{} over {by}", metric_title(name)),
                caption: "Mean over repeats; whiskers: lowest and highest repeat.".to_owned(),
                series,
                limits: scene.limit(name, false),
                ..base
            });
        }
    }
    out
}

fn predicted(scene: &Scene<'_>) -> Vec<Figure> {
    let mut metrics: Vec<&'static str> = Vec::new();
    let pairs = || scene.input.predicted.iter().filter(|pair| pair.workload == scene.workload);
    for pair in pairs() {
        if !metrics.contains(&pair.metric) {
            metrics.push(pair.metric);
        }
    }
    metrics
        .into_iter()
        .map(|name| {
            let own: Vec<&PredictedPair> = pairs().filter(|pair| pair.metric == name).collect();
            let dots = Series {
                name: plural(own.len() as u64, "cell"),
                x: own.iter().map(|pair| short(pair.measured)).collect(),
                y: own.iter().map(|pair| short(pair.predicted)).collect(),
                text: own
                    .iter()
                    .map(|pair| {
                        let error = 100.0 * (pair.predicted / pair.measured - 1.0);
                        format!("{}, {}: {error:+.1} %", pair.point, pair.load)
                    })
                    .collect(),
                ..Series::default()
            };
            let all = || dots.x.iter().chain(&dots.y).copied();
            let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
            let equal = Series {
                name: "equal".to_owned(),
                hue: 7,
                x: vec![low, high],
                y: vec![low, high],
                ..Series::default()
            };
            let is_log = spans(dots.x.iter().chain(&dots.y), 10.0);
            let title = metric_title(name);
            let axes = (
                Axis::new(format!("Measured: {title}"), Good::Neither).log(is_log),
                Axis::new(format!("Predicted: {title}"), Good::Neither).log(is_log),
            );
            let id = format!("predicted_{}", name.trim_end_matches("_ms"));
            let base = scene.figure(&id, "predicted", &title, Kind::Dots, axes);
            Figure {
                title: format!("Predicted against measured: {title}"),
                caption: "Each dot is one cell. On the line, prediction and measurement agree.".to_owned(),
                series: vec![dots, equal],
                ..base
            }
        })
        .collect()
}
