//! Many files → ranks: read in parallel, one thread a file, each reduced as soon as it is read so that only one trace per
//! thread is in memory; then every trace gets its rank.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use servelab_core::trace::timeline::RankTimeline;
use servelab_core::trace::timing::TimingStats;
use servelab_core::trace::{TraceReport, TraceWarning};

use crate::companions::Companions;
use crate::error::TraceError;
use crate::input::{Format, Input, rank_by_name};
use crate::kineto;
use crate::metrics::{RankAnalysis, analyse, report};
use crate::model::RankTrace;
use crate::nsys;
use crate::overview::overview;
use crate::steps::Phase;
use crate::taxonomy::Taxonomy;

/// Reads one file; a file may hold several ranks.
pub fn read_file(input: &Input, taxonomy: &Taxonomy) -> Result<Vec<RankTrace>, TraceError> {
    match input.format {
        Format::Kineto => Ok(vec![kineto::read(input, taxonomy)?]),
        Format::Nsys => nsys::read(&input.path).map_err(|error| {
            let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
            TraceError::NotATrace { path: input.path.clone(), reason: format!("{error}{hint}") }
        }),
        // These hold no events of their own; `companions` reads them.
        Format::ExecutionTrace | Format::TimingStats => Ok(Vec::new()),
    }
}

/// Place of a file, and what became of it.
type Read<T> = (usize, Result<Vec<T>, TraceError>);

/// Reads files in parallel and keeps what `reduce` makes of each trace, in the order of the files.
pub fn read_all<T: Send>(
    inputs: &[Input],
    taxonomy: &Taxonomy,
    threads: usize,
    reduce: impl Fn(RankTrace) -> T + Sync,
) -> Result<Vec<T>, TraceError> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Read<T>>> = Mutex::new(Vec::new());
    let work = || {
        while let Some((idx, input)) = {
            let idx = next.fetch_add(1, Ordering::Relaxed);
            inputs.get(idx).map(|input| (idx, input))
        } {
            let result = read_file(input, taxonomy).map(|traces| traces.into_iter().map(&reduce).collect());
            if let Ok(mut results) = results.lock() {
                results.push((idx, result));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.clamp(1, inputs.len().max(1)) {
            scope.spawn(work);
        }
        work();
    });
    let mut results = results.into_inner().unwrap_or_default();
    results.sort_by_key(|(idx, _)| *idx);
    let mut out = Vec::new();
    for (_, result) in results {
        out.extend(result?);
    }
    Ok(out)
}

/// What was made of all inputs.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The report.
    pub report: TraceReport,
    /// Times of steps by rank, as `timing_stats_<rank>.json` holds them.
    pub timings: Vec<(u32, TimingStats)>,
    /// Overviews, when they were asked for.
    pub timelines: Vec<RankTimeline>,
}

/// The report over all inputs.
pub fn measure(inputs: &[Input], taxonomy: &Taxonomy, threads: usize) -> Result<TraceReport, TraceError> {
    Ok(load(inputs, taxonomy, threads, None)?.report)
}

/// Reads all inputs once; with `n_bins`, overviews of that many bins are made too.
pub fn load(inputs: &[Input], taxonomy: &Taxonomy, threads: usize, n_bins: Option<u32>) -> Result<Loaded, TraceError> {
    let companions = Companions::read(inputs);
    let pairs = read_all(inputs, taxonomy, threads, |mut trace| {
        companions.describe(&mut trace, inputs, taxonomy);
        let timeline = n_bins.map(|n| overview(&trace, taxonomy, n));
        (analyse(&trace, taxonomy), timeline)
    })?;
    if pairs.is_empty() && companions.is_empty() {
        let path = inputs.first().map(|input| input.path.clone()).unwrap_or_default();
        return Err(TraceError::NotATrace { path, reason: "there is nothing in it".to_owned() });
    }
    let mut timelines: BTreeMap<(String, String), RankTimeline> = BTreeMap::new();
    let key =
        |rank: &RankAnalysis| (rank.meta.path.clone(), rank.meta.facts.get("process").cloned().unwrap_or_default());
    let mut ranks = Vec::with_capacity(pairs.len());
    for (rank, timeline) in pairs {
        timelines.extend(timeline.map(|timeline| (key(&rank), timeline)));
        ranks.push(rank);
    }
    let dropped = assign_ranks(&mut ranks);
    let mut report = report(&ranks, taxonomy);
    report.warnings.extend(dropped);
    let mut out = Loaded::default();
    for rank in &ranks {
        let number = rank.meta.rank.unwrap_or_default();
        if let Some(timeline) = timelines.remove(&key(rank)) {
            out.timelines.push(RankTimeline { rank: number, ..timeline });
        }
        out.timings.push((number, timing(rank)));
    }
    if ranks.is_empty() {
        for metric in report.metrics.values_mut() {
            metric.absent =
                Some("execution traces and timing_stats hold no events: give the Kineto or nsys trace, too".to_owned());
        }
    }
    companions.finish(&mut report);
    out.report = report;
    Ok(out)
}

fn timing(rank: &RankAnalysis) -> TimingStats {
    let used = || rank.steps.iter().filter(|step| step.is_used);
    let of = |wanted: &[Phase]| -> Vec<i64> {
        used().filter(|step| wanted.contains(&step.name.phase())).map(|step| step.time_ns).collect()
    };
    let all: Vec<i64> = used().map(|step| step.time_ns).collect();
    let source = format!("{} step markers, without the first and the last", rank.meta.format);
    TimingStats::from_steps(&all, &of(&[Phase::Prefill, Phase::Mixed]), &of(&[Phase::Decode]), &source)
}

/// Gives every trace a rank and sorts by it: the content's, else the file name's, else the next free one. Traces of
/// processes that are no rank (front ends), and second traces of the same rank, are dropped; what is returned says so.
pub fn assign_ranks(ranks: &mut Vec<RankAnalysis>) -> Vec<TraceWarning> {
    let mut warnings = Vec::new();
    let mut warn = |code: &str, detail: String| warnings.push(TraceWarning { code: code.to_owned(), detail });
    let knows_rank = ranks.iter().any(|rank| rank.meta.rank.is_some());
    let is_no_rank = |rank: &RankAnalysis| {
        knows_rank && rank.meta.rank.is_none() && rank.device.is_none() && rank.host.is_empty() && rank.steps.is_empty()
    };
    for rank in ranks.iter().filter(|rank| is_no_rank(rank)) {
        let path = &rank.meta.path;
        warn(
            "no_rank",
            format!("`{path}` was left out: it names no rank and has neither device events, communication nor steps"),
        );
    }
    ranks.retain(|rank| !is_no_rank(rank));

    let names: Vec<Option<u32>> = ranks.iter().map(|rank| rank_by_name(Path::new(&rank.meta.path))).collect();
    let is_distinct = |numbers: &[Option<u32>]| {
        let mut known: Vec<u32> = numbers.iter().flatten().copied().collect();
        known.sort_unstable();
        let all = known.len() == numbers.len();
        known.dedup();
        all && known.len() == numbers.len()
    };
    let contents: Vec<Option<u32>> = ranks.iter().map(|rank| rank.meta.rank).collect();
    // Data-parallel replicas are worlds of their own, each with a rank 0.
    let is_collision = ranks.len() > 1 && contents.iter().all(Option::is_some) && !is_distinct(&contents);
    if is_collision && is_distinct(&names) {
        for (rank, name) in ranks.iter_mut().zip(&names) {
            rank.meta.rank = *name;
            rank.meta.rank_source = Some("file name, as several files say the same rank");
        }
    }
    for (rank, name) in ranks.iter_mut().zip(&names) {
        if rank.meta.rank.is_none() && name.is_some() {
            rank.meta.rank = *name;
            rank.meta.rank_source = Some("file name");
        }
    }
    let mut taken: Vec<u32> = ranks.iter().filter_map(|rank| rank.meta.rank).collect();
    for rank in ranks.iter_mut().filter(|rank| rank.meta.rank.is_none()) {
        let free = (0..).find(|number| !taken.contains(number)).unwrap_or_default();
        taken.push(free);
        rank.meta.rank = Some(free);
        rank.meta.rank_source = Some("order of files");
    }
    ranks.sort_by_key(|rank| rank.meta.rank);
    let mut last: Option<(u32, String)> = None;
    ranks.retain(|rank| {
        let number = rank.meta.rank.unwrap_or_default();
        if let Some((known, path)) = &last
            && *known == number
        {
            let detail = format!("`{}` was left out: `{path}` is of rank {number}, too", rank.meta.path);
            warnings.push(TraceWarning { code: "duplicate_rank".to_owned(), detail });
            return false;
        }
        last = Some((number, rank.meta.path.clone()));
        true
    });
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RankMeta;

    fn rank(path: &str, rank: Option<u32>) -> RankAnalysis {
        let meta = RankMeta { path: path.to_owned(), rank, ..RankMeta::default() };
        RankAnalysis { meta, device: Some(crate::metrics::DeviceAnalysis::default()), ..RankAnalysis::default() }
    }

    fn check(ranks: Vec<RankAnalysis>, expected: &[(&str, u32)], codes: &[&str]) {
        let mut ranks = ranks;
        let warnings = assign_ranks(&mut ranks);
        let found: Vec<(&str, u32)> =
            ranks.iter().map(|rank| (rank.meta.path.as_str(), rank.meta.rank.unwrap())).collect();
        assert_eq!(found, expected);
        assert_eq!(warnings.iter().map(|warning| warning.code.as_str()).collect::<Vec<_>>(), codes);
    }

    #[test]
    fn content_beats_names_and_names_beat_order() {
        check(
            vec![rank("rank0.json", Some(3)), rank("rank1.json", Some(1))],
            &[("rank1.json", 1), ("rank0.json", 3)],
            &[],
        );
        check(vec![rank("rank5.json", None), rank("x.json", None)], &[("x.json", 0), ("rank5.json", 5)], &[]);
        check(
            vec![rank("rank0.json", Some(0)), rank("rank1.json", Some(0))],
            &[("rank0.json", 0), ("rank1.json", 1)],
            &[],
        );
        check(vec![rank("a.json", Some(0)), rank("b.json", Some(0))], &[("a.json", 0)], &["duplicate_rank"]);
        let mut front_end = rank("front.json", None);
        front_end.device = None;
        check(vec![rank("a.json", Some(0)), front_end], &[("a.json", 0)], &["no_rank"]);
    }
}
