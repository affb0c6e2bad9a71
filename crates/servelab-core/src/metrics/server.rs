//! The server's own metrics over the window: counter increases summed over engines and nodes, time-weighted means and
//! maxima of gauges. Names changed between engine versions; the alias tables here are the only place that knows.

mod gpu;

use std::collections::{BTreeMap, BTreeSet};

use crate::record::PromSample;
use crate::result::{ServerSummary, SpeculationSummary};

/// Names of one quantity, newest first; the first one that has samples is used, so that a version which shows both the
/// old and the new name is not counted twice.
type Aliases = &'static [&'static str];

const PREEMPTIONS: Aliases = &["vllm:num_preemptions_total", "vllm:num_preemptions"];
const KV_USAGE: Aliases =
    &["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage", "llamacpp:kv_cache_usage_ratio"];
const RUNNING: Aliases = &["vllm:num_requests_running", "sglang:num_running_reqs", "llamacpp:requests_processing"];
const WAITING: Aliases = &["vllm:num_requests_waiting", "sglang:num_queue_reqs", "llamacpp:requests_deferred"];
const GENERATION_TOKENS: Aliases = &[
    "vllm:generation_tokens_total",
    "vllm:generation_tokens",
    "sglang:generation_tokens_total",
    "llamacpp:tokens_predicted_total",
];
const PROMPT_TOKENS: Aliases =
    &["vllm:prompt_tokens_total", "vllm:prompt_tokens", "sglang:prompt_tokens_total", "llamacpp:prompt_tokens_total"];
const PREFIX_HITS: Aliases = &[
    "vllm:prefix_cache_hits_total",
    "vllm:prefix_cache_hits",
    "vllm:gpu_prefix_cache_hits_total",
    "vllm:gpu_prefix_cache_hits",
];
const PREFIX_QUERIES: Aliases = &[
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_queries",
    "vllm:gpu_prefix_cache_queries_total",
    "vllm:gpu_prefix_cache_queries",
];
const FINISHED: Aliases = &["vllm:request_success_total", "vllm:request_success", "sglang:num_requests_total"];
const TTFT: Aliases = &["vllm:time_to_first_token_seconds", "sglang:time_to_first_token_seconds"];
const ITL: Aliases = &[
    "vllm:inter_token_latency_seconds",
    "vllm:time_per_output_token_seconds",
    "sglang:inter_token_latency_seconds",
    "sglang:time_per_output_token_seconds",
];
const QUEUE_TIME: Aliases =
    &["vllm:request_queue_time_seconds", "vllm:time_in_queue_requests", "sglang:queue_time_seconds"];
const PREFILL_TIME: Aliases = &["vllm:request_prefill_time_seconds"];
const DECODE_TIME: Aliases = &["vllm:request_decode_time_seconds"];
const DRAFTS: Aliases = &["vllm:spec_decode_num_drafts_total", "vllm:spec_decode_num_drafts"];
const DRAFT_TOKENS: Aliases = &["vllm:spec_decode_num_draft_tokens_total", "vllm:spec_decode_num_draft_tokens"];
const ACCEPTED_TOKENS: Aliases =
    &["vllm:spec_decode_num_accepted_tokens_total", "vllm:spec_decode_num_accepted_tokens"];
const ACCEPTED_BY_POSITION: Aliases =
    &["vllm:spec_decode_num_accepted_tokens_per_pos_total", "vllm:spec_decode_num_accepted_tokens_per_pos"];
const PROCESS_START: &str = "process_start_time_seconds";

/// One time series: (instant, value), ascending.
type Series = Vec<(i64, f64)>;

/// Summarises the scrapes over a window. Counters grow from the last scrape at or before the window to the first one at
/// or after it, so that a window between two scrapes has numbers too; what they include beyond its edges is less than two
/// scrape periods, and [`counter_interval`] says where they begin and end. Gauges hold from one scrape to the next; when
/// none fell into the window, the scrapes around it speak for it.
pub fn server_summary(samples: &[PromSample], window_start_ns: i64, window_end_ns: i64) -> ServerSummary {
    let scrapes = Scrapes::of_engines(samples, window_start_ns, window_end_ns);
    let hits = scrapes.increase(PREFIX_HITS);
    let queries = scrapes.increase(PREFIX_QUERIES);
    let running = scrapes.summed_gauge(RUNNING);
    let kv = scrapes.gauges(KV_USAGE);
    ServerSummary {
        preemptions: scrapes.increase(PREEMPTIONS),
        kv_usage_mean: mean(kv.iter().map(|gauge| gauge.mean)),
        kv_usage_max: kv.iter().map(|gauge| gauge.max).reduce(f64::max),
        running_mean: running.map(|gauge| gauge.mean),
        running_max: running.map(|gauge| gauge.max),
        waiting_mean: scrapes.summed_gauge(WAITING).map(|gauge| gauge.mean),
        generation_tokens: scrapes.increase(GENERATION_TOKENS),
        prompt_tokens: scrapes.increase(PROMPT_TOKENS),
        prefix_hit_rate: hits.zip(queries).filter(|(_, queries)| *queries > 0.0).map(|(hits, queries)| hits / queries),
        requests_finished: scrapes.increase(FINISHED),
        ttft_mean_ms: scrapes.histogram_mean_ms(TTFT),
        itl_mean_ms: scrapes.histogram_mean_ms(ITL),
        queue_time_mean_ms: scrapes.histogram_mean_ms(QUEUE_TIME),
        prefill_time_mean_ms: scrapes.histogram_mean_ms(PREFILL_TIME),
        decode_time_mean_ms: scrapes.histogram_mean_ms(DECODE_TIME),
        speculation: scrapes.speculation(),
        gpu: gpu::summary(samples, window_start_ns, window_end_ns),
        scrapes: scrapes.count,
    }
}

/// The server's state over a window, for plots: (instant in nanoseconds, value), each value holding until the next.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServerTimeline {
    /// Running requests, summed over engines.
    pub running: Vec<(i64, f64)>,
    /// Waiting requests, summed over engines.
    pub waiting: Vec<(i64, f64)>,
    /// KV-cache usage (0–1), mean over engines.
    pub kv_usage: Vec<(i64, f64)>,
    /// Preemptions since the window's start, summed over engines.
    pub preemptions: Vec<(i64, f64)>,
}

/// The samples behind [`server_summary`], over time.
pub fn server_timeline(samples: &[PromSample], window_start_ns: i64, window_end_ns: i64) -> ServerTimeline {
    let scrapes = Scrapes::of_engines(samples, window_start_ns, window_end_ns);
    let summed = |aliases| scrapes.steps(scrapes.aliased(aliases).into_iter().map(|(_, series)| series));
    let engines = scrapes.aliased(KV_USAGE).len().max(1) as f64;
    let mut preemptions = summed(PREEMPTIONS);
    if let Some((_, first)) = preemptions.first().copied() {
        preemptions.iter_mut().for_each(|(_, value)| *value -= first);
    }
    ServerTimeline {
        running: summed(RUNNING),
        waiting: summed(WAITING),
        kv_usage: summed(KV_USAGE).into_iter().map(|(t_ns, value)| (t_ns, value / engines)).collect(),
        preemptions,
    }
}

/// Between which scrapes the counters of [`server_summary`] grew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CounterInterval {
    /// The part that all nodes have in common, nanoseconds; the same as `outer` when there is one node.
    pub inner: (i64, i64),
    /// The part that any node has, nanoseconds.
    pub outer: (i64, i64),
    /// Scrapes inside the window.
    pub inside: u64,
}

/// Finds it; `None` unless a node was scraped at least twice around or in the window.
pub fn counter_interval(samples: &[PromSample], window_start_ns: i64, window_end_ns: i64) -> Option<CounterInterval> {
    let scrapes = Scrapes::of_engines(samples, window_start_ns, window_end_ns);
    let edges = scrapes.edges.values().filter(|(from, to)| from < to);
    edges.fold(None, |found: Option<CounterInterval>, &(from, to)| {
        let (inner, outer) = found.map_or(((from, to), (from, to)), |found| (found.inner, found.outer));
        Some(CounterInterval {
            inner: (inner.0.max(from), inner.1.min(to)),
            outer: (outer.0.min(from), outer.1.max(to)),
            inside: scrapes.count,
        })
    })
}

/// How often a server lost its counters inside the window: counters that fell, or another process start time. Counted
/// once per node and instant.
pub fn counter_resets(samples: &[PromSample], window_start_ns: i64, window_end_ns: i64) -> u64 {
    let scrapes = Scrapes::of_engines(samples, window_start_ns, window_end_ns);
    let mut resets = BTreeSet::new();
    for (metric, all) in &scrapes.series {
        let is_start = *metric == PROCESS_START;
        if !is_start && !metric.ends_with("_total") {
            continue;
        }
        for (key, series) in all {
            let window = scrapes.between_edges(key.node, series);
            for (before, after) in window.iter().zip(window.iter().skip(1)) {
                if (is_start && after.1 != before.1) || (!is_start && after.1 < before.1) {
                    resets.insert((key.node, after.0));
                }
            }
        }
    }
    resets.len() as u64
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SeriesKey<'a> {
    node: &'a str,
    engine: &'a str,
    labels: &'a str,
}

#[derive(Debug, Clone, Copy)]
struct Gauge {
    mean: f64,
    max: f64,
}

pub(super) struct Scrapes<'a> {
    /// By metric name, then by origin.
    series: BTreeMap<&'a str, BTreeMap<SeriesKey<'a>, Series>>,
    /// Per node: the last scrape at or before the window and the first at or after it; where there is none, the first
    /// or last of all.
    edges: BTreeMap<&'a str, (i64, i64)>,
    start_ns: i64,
    end_ns: i64,
    count: u64,
}

impl<'a> Scrapes<'a> {
    /// The engines' own metrics. Telemetry of GPUs is read at instants of its own, which must not pass for scrapes of
    /// the engine: its counters would be cut there.
    pub(super) fn of_engines(samples: &'a [PromSample], start_ns: i64, end_ns: i64) -> Self {
        Self::new(samples.iter().filter(|sample| !gpu::is_telemetry(&sample.metric)), start_ns, end_ns)
    }

    fn new(samples: impl Iterator<Item = &'a PromSample>, start_ns: i64, end_ns: i64) -> Self {
        let mut series: BTreeMap<&str, BTreeMap<SeriesKey<'a>, Series>> = BTreeMap::new();
        let mut instants: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
        for sample in samples {
            instants.entry(&sample.node).or_default().insert(sample.t_ns);
            if !sample.value.is_finite() {
                continue;
            }
            let key = SeriesKey { node: &sample.node, engine: &sample.engine, labels: &sample.labels };
            series.entry(&sample.metric).or_default().entry(key).or_default().push((sample.t_ns, sample.value));
        }
        for points in series.values_mut().flat_map(BTreeMap::values_mut) {
            points.sort_by_key(|(t_ns, _)| *t_ns);
        }
        let mut edges = BTreeMap::new();
        let mut count = 0;
        for (node, instants) in instants {
            let from = instants.range(..=start_ns).next_back().or(instants.first());
            let to = instants.range(end_ns..).next().or(instants.last());
            edges.extend(from.zip(to).map(|(from, to)| (node, (*from, *to))));
            count += instants.iter().filter(|t_ns| (start_ns..=end_ns).contains(t_ns)).count() as u64;
        }
        Self { series, edges, start_ns, end_ns, count }
    }

    /// The series of one exact metric name.
    fn named(&self, metric: &str) -> impl Iterator<Item = (&SeriesKey<'a>, &Series)> {
        self.series.get(metric).into_iter().flatten()
    }

    /// The series of the first alias that has any.
    fn aliased(&self, aliases: Aliases) -> Vec<(&SeriesKey<'a>, &Series)> {
        aliases.iter().map(|metric| self.named(metric).collect::<Vec<_>>()).find(|s| !s.is_empty()).unwrap_or_default()
    }

    /// The samples between the scrapes that enclose the window.
    fn between_edges<'s>(&self, node: &str, series: &'s [(i64, f64)]) -> &'s [(i64, f64)] {
        let Some(&(from, to)) = self.edges.get(node) else { return &[] };
        let first = series.partition_point(|(t_ns, _)| *t_ns < from);
        let last = series.partition_point(|(t_ns, _)| *t_ns <= to);
        series.get(first..last).unwrap_or_default()
    }

    /// The samples from the last one at or before the window's start up to the window's end.
    fn inside<'s>(&self, series: &'s [(i64, f64)]) -> &'s [(i64, f64)] {
        let first = series.partition_point(|(t_ns, _)| *t_ns <= self.start_ns).saturating_sub(1);
        let last = series.partition_point(|(t_ns, _)| *t_ns <= self.end_ns);
        series.get(first..last).unwrap_or_default()
    }

    /// Increase of one counter between the enclosing scrapes; unknown when they are one and the same. After a fall the
    /// counter is taken to have restarted at zero, and so is one that appears after the first of the scrapes.
    fn series_increase(&self, key: &SeriesKey<'a>, series: &[(i64, f64)]) -> Option<f64> {
        let edges = self.edges.get(key.node).filter(|(from, to)| from < to)?;
        let (first, rest) = self.between_edges(key.node, series).split_first()?;
        let mut previous = if first.0 > edges.0 { 0.0 } else { first.1 };
        let mut increase = first.1 - previous;
        for (_, value) in rest {
            increase += if *value < previous { *value } else { *value - previous };
            previous = *value;
        }
        Some(increase)
    }

    pub(super) fn increase(&self, aliases: Aliases) -> Option<f64> {
        let increases = self.aliased(aliases).into_iter().filter_map(|(key, series)| self.series_increase(key, series));
        increases.reduce(|a, b| a + b)
    }

    /// Increases of one counter by the value of a label that is a number.
    fn increases_by(&self, aliases: Aliases, label: &str) -> BTreeMap<u32, f64> {
        let mut sums = BTreeMap::new();
        for (key, series) in self.aliased(aliases) {
            let value = label_value(key.labels, label).and_then(|text| text.parse::<u32>().ok());
            if let Some((value, increase)) = value.zip(self.series_increase(key, series)) {
                *sums.entry(value).or_insert(0.0) += increase;
            }
        }
        sums
    }

    fn speculation(&self) -> Option<SpeculationSummary> {
        let drafts = self.increase(DRAFTS).filter(|drafts| *drafts > 0.0)?;
        let draft_tokens = self.increase(DRAFT_TOKENS).filter(|tokens| *tokens > 0.0)?;
        let accepted_tokens = self.increase(ACCEPTED_TOKENS)?;
        let by_position = self.increases_by(ACCEPTED_BY_POSITION, "position");
        Some(SpeculationSummary {
            drafts,
            draft_tokens,
            accepted_tokens,
            acceptance_rate: accepted_tokens / draft_tokens,
            mean_length: 1.0 + accepted_tokens / drafts,
            acceptance_by_position: by_position.values().map(|accepted| accepted / drafts).collect(),
        })
    }

    fn histogram_mean_ms(&self, aliases: Aliases) -> Option<f64> {
        aliases.iter().find_map(|name| {
            let total = |suffix: &str| {
                let metric = format!("{name}{suffix}");
                let increases = self.named(&metric).filter_map(|(key, series)| self.series_increase(key, series));
                increases.reduce(|a, b| a + b)
            };
            let (sum, count) = (total("_sum")?, total("_count")?);
            (count > 0.0).then(|| sum / count * 1e3)
        })
    }

    /// Time-weighted mean and maximum of each series, a sample holding until the next one.
    fn gauges(&self, aliases: Aliases) -> Vec<Gauge> {
        let series = self.aliased(aliases);
        series.into_iter().filter_map(|(_, series)| self.hold(&self.steps(std::iter::once(series)))).collect()
    }

    /// The same over the sum of all series.
    fn summed_gauge(&self, aliases: Aliases) -> Option<Gauge> {
        self.hold(&self.steps(self.aliased(aliases).into_iter().map(|(_, series)| series)))
    }

    /// Sum of several sample-and-hold functions as steps inside the window.
    fn steps<'s>(&self, all: impl Iterator<Item = &'s Series>) -> Series {
        let mut changes: Series = Vec::new();
        for series in all {
            let mut held = 0.0;
            for (t_ns, value) in self.gauge_points(series) {
                changes.push((t_ns, value - held));
                held = value;
            }
        }
        changes.sort_by_key(|(t_ns, _)| *t_ns);
        let mut steps: Series = Vec::new();
        let mut level = 0.0;
        for (t_ns, change) in changes {
            level += change;
            match steps.last_mut() {
                Some(last) if last.0 == t_ns => last.1 = level,
                _ => steps.push((t_ns, level)),
            }
        }
        steps
    }

    /// The samples of a gauge, moved into the window. Around a window that no scrape hit, the sample before it holds for
    /// the first half and the one after it for the second.
    fn gauge_points(&self, series: &[(i64, f64)]) -> Series {
        let mut points: Series =
            self.inside(series).iter().map(|(t_ns, value)| ((*t_ns).max(self.start_ns), *value)).collect();
        if self.count == 0 {
            let from = if points.is_empty() { self.start_ns } else { self.start_ns.midpoint(self.end_ns) };
            let after = series.get(series.partition_point(|(t_ns, _)| *t_ns <= self.end_ns));
            points.extend(after.map(|(_, value)| (from, *value)));
        }
        points
    }

    fn hold(&self, steps: &[(i64, f64)]) -> Option<Gauge> {
        let first = steps.first()?;
        let ends = steps.iter().skip(1).map(|(t_ns, _)| *t_ns).chain([self.end_ns]);
        let (mut integral, mut span) = (0.0, 0.0);
        for ((from, value), to) in steps.iter().zip(ends) {
            let length = to.saturating_sub(*from).max(0) as f64;
            integral += value * length;
            span += length;
        }
        let max = steps.iter().map(|(_, value)| *value).fold(first.1, f64::max);
        Some(Gauge { mean: if span > 0.0 { integral / span } else { first.1 }, max })
    }
}

/// The value of one label in `a="x",b="y"`; escapes are left as they are.
fn label_value<'l>(labels: &'l str, name: &str) -> Option<&'l str> {
    let mut rest = labels;
    while let Some((key, after)) = rest.split_once("=\"") {
        let mut end = None;
        let mut is_escaped = false;
        for (at, c) in after.char_indices() {
            match c {
                '\\' if !is_escaped => is_escaped = true,
                '"' if !is_escaped => {
                    end = Some(at);
                    break;
                }
                _ => is_escaped = false,
            }
        }
        let (value, tail) = (after.get(..end?)?, after.get(end? + 1..)?);
        if key.trim_start_matches(',') == name {
            return Some(value);
        }
        rest = tail;
    }
    None
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0_u32), |(sum, n), value| (sum + value, n + 1));
    (n > 0).then(|| sum / f64::from(n))
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
