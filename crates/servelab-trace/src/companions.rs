//! Files that have no events of their own but belong to a rank: execution traces describe its operators and collectives,
//! `timing_stats_<rank>.json` gives times of iterations where no trace has step markers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use servelab_core::trace::timing::TimingStats;
use servelab_core::trace::{
    DescribedCollective, ExecutionSummary, Metric, OperatorCount, TraceInput, TraceReport, TraceWarning,
};

use crate::error::TraceError;
use crate::et::{self, ExecutionTrace, Finder};
use crate::input::{Format, Input, rank_by_name};
use crate::kineto;
use crate::model::RankTrace;
use crate::taxonomy::Taxonomy;

/// Operators that are listed by name.
const MOST_OPERATORS: usize = 40;

/// What belongs to ranks.
#[derive(Debug, Default)]
pub struct Companions {
    executions: Vec<Execution>,
    timings: Vec<(PathBuf, Option<u32>, TimingStats)>,
    warnings: Vec<TraceWarning>,
    inputs: Vec<TraceInput>,
}

#[derive(Debug)]
struct Execution {
    path: PathBuf,
    rank: Option<u32>,
    trace: ExecutionTrace,
    n_linked: Mutex<u64>,
}

impl Companions {
    /// Reads those among the inputs. One that cannot be read is a warning: the traces do not need it.
    pub fn read(inputs: &[Input]) -> Self {
        let mut out = Self::default();
        for input in inputs {
            let read = match input.format {
                Format::ExecutionTrace => out.read_execution(input),
                Format::TimingStats => out.read_timing(input),
                Format::Kineto | Format::Nsys => continue,
            };
            if let Err(error) = read {
                out.warn("malformed", format!("cannot {error}"));
            }
        }
        out
    }

    /// True when there is nothing.
    pub fn is_empty(&self) -> bool {
        self.executions.is_empty() && self.timings.is_empty()
    }

    fn warn(&mut self, code: &str, detail: String) {
        self.warnings.push(TraceWarning { code: code.to_owned(), detail });
    }

    fn note_input(&mut self, input: &Input, rank: Option<u32>, events: u64, is_truncated: bool) {
        let bytes = std::fs::metadata(&input.path).map_or(0, |metadata| metadata.len());
        self.inputs.push(TraceInput {
            path: input.path.display().to_string(),
            format: input.format.name().to_owned(),
            rank,
            rank_source: rank.map(|_| "file name".to_owned()),
            bytes,
            text_bytes: bytes,
            events,
            is_truncated,
            facts: BTreeMap::new(),
        });
    }

    fn read_execution(&mut self, input: &Input) -> Result<(), TraceError> {
        let trace = et::read(&input.path)?;
        for (code, detail) in trace.notes() {
            self.warn(code, format!("`{}`: {detail}", input.path.display()));
        }
        let rank = trace.rank.or_else(|| rank_by_name(&input.path));
        self.note_input(input, rank, trace.n_nodes, trace.broke_off.is_some());
        self.executions.push(Execution { path: input.path.clone(), rank, trace, n_linked: Mutex::new(0) });
        Ok(())
    }

    fn read_timing(&mut self, input: &Input) -> Result<(), TraceError> {
        let not = |reason: String| TraceError::NotATrace { path: input.path.clone(), reason };
        let text = std::fs::read(&input.path).map_err(|source| TraceError::Io { path: input.path.clone(), source })?;
        let stats: TimingStats = serde_json::from_slice(&text).map_err(|error| not(error.to_string()))?;
        for problem in stats.problems() {
            self.warn("malformed", format!("`{}`: {problem}", input.path.display()));
        }
        let rank = rank_by_name(&input.path);
        self.note_input(input, rank, stats.iteration_times_s.len() as u64, false);
        self.timings.push((input.path.clone(), rank, stats));
        Ok(())
    }

    /// Adds to a Kineto trace what the execution trace of the same rank says about its collectives.
    pub fn describe(&self, trace: &mut RankTrace, inputs: &[Input], taxonomy: &Taxonomy) {
        if trace.meta.format != "kineto" {
            return;
        }
        let path = Path::new(&trace.meta.path);
        let rank = trace.meta.rank.or_else(|| rank_by_name(path));
        let Some(execution) = self.execution_of(path, rank) else { return };
        let Some(input) = inputs.iter().find(|input| input.path == path) else { return };
        if execution.trace.described.is_empty() {
            return;
        }
        let mut finder = Finder::new(&execution.trace, taxonomy);
        if kineto::visit_input(input, &mut finder).is_ok() {
            let n = finder.apply(trace);
            if let Ok(mut linked) = execution.n_linked.lock() {
                *linked += n as u64;
            }
        }
    }

    /// The execution trace of a rank, in the same folder first; a lone one of an unknown rank belongs to it, too.
    fn execution_of(&self, path: &Path, rank: Option<u32>) -> Option<&Execution> {
        let same_rank = || self.executions.iter().filter(move |execution| execution.rank == rank);
        same_rank().find(|execution| execution.path.parent() == path.parent()).or_else(|| same_rank().next()).or_else(
            || match self.executions.as_slice() {
                [only] if only.rank.is_none() || rank.is_none() => Some(only),
                _ => None,
            },
        )
    }

    /// Puts everything into the report. Numbers of `timing_stats` stand in where no trace gives them.
    pub fn finish(self, report: &mut TraceReport) {
        for execution in &self.executions {
            report.executions.push(summary(execution));
            if report.world_size.is_none() {
                report.world_size = execution.trace.world_size;
            }
        }
        let mut given: BTreeMap<&'static str, Vec<Metric>> = BTreeMap::new();
        for (_, _, stats) in &self.timings {
            for (name, metric) in stats.metrics() {
                given.entry(name).or_default().push(metric);
            }
        }
        for (name, metrics) in given {
            let is_absent = report.metrics.get(name).is_none_or(|metric| metric.value.is_none());
            let values: Vec<f64> = metrics.iter().filter_map(|metric| metric.value).collect();
            if is_absent && !values.is_empty() {
                #[expect(clippy::cast_precision_loss, reason = "a count of ranks")]
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                let note = metrics.into_iter().find_map(|metric| metric.note);
                report.metrics.insert(name.to_owned(), Metric { note, ..Metric::of(mean, "ms") });
            }
        }
        report.inputs.extend(self.inputs);
        report.warnings.extend(self.warnings);
    }
}

fn summary(execution: &Execution) -> ExecutionSummary {
    let trace = &execution.trace;
    let mut by_name: Vec<OperatorCount> = trace
        .operators
        .iter()
        .map(|(name, calls)| OperatorCount {
            name: name.clone(),
            calls: *calls,
            shapes: trace.shapes.get(name).cloned().unwrap_or_default(),
        })
        .collect();
    by_name.sort_by(|a, b| b.calls.cmp(&a.calls).then_with(|| a.name.cmp(&b.name)));
    by_name.truncate(MOST_OPERATORS);
    let mut collectives: BTreeMap<DescribedCollective, u64> = BTreeMap::new();
    for collective in &trace.collectives {
        let group = collective.group.clone();
        let known_size = group.as_ref().and_then(|group| trace.groups.get(group)).map(|(_, size)| *size);
        let key = DescribedCollective {
            kind: collective.kind.clone(),
            group_size: collective.group_size.or(known_size),
            group,
            dtype: collective.dtype.clone(),
            in_elements: collective.in_elements,
            out_elements: collective.out_elements,
            calls: 0,
        };
        *collectives.entry(key).or_default() += 1;
    }
    ExecutionSummary {
        path: execution.path.display().to_string(),
        rank: execution.rank,
        format_version: trace.schema.clone(),
        nodes: trace.n_nodes,
        operators: trace.n_operators(),
        by_name,
        collectives: collectives.into_iter().map(|(key, calls)| DescribedCollective { calls, ..key }).collect(),
        linked: execution.n_linked.lock().map_or(0, |linked| *linked),
    }
}
