//! What changed between two traces (or two folders of ranks): times per step and rank, ranked by how much time they
//! account for, and gates for CI over them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{RankSummary, TraceReport};

/// Version of [`TraceComparison`].
pub const COMPARISON_SCHEMA_VERSION: u32 = 1;

/// Two reports side by side.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TraceComparison {
    /// Always [`COMPARISON_SCHEMA_VERSION`] when written by this version.
    pub schema: u32,
    /// The baseline.
    pub a: Side,
    /// What is compared with it.
    pub b: Side,
    /// What times are divided by: `step and rank`, or `rank` when a side has no steps.
    pub per: String,
    /// Times that changed, those that account for most time first.
    pub changes: Vec<TimeChange>,
    /// Every metric that either side knows.
    pub metrics: Vec<MetricChange>,
    /// What a reader must know before believing the differences.
    pub notes: Vec<String>,
}

/// One of the two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// As it was given.
    pub label: String,
    /// Ranks.
    pub ranks: usize,
    /// Steps.
    pub steps: u64,
}

/// What kind of time a change is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// The parts that make up a rank's time: computing, exposed communication, exposed copies, idle.
    Part,
    /// A kernel family.
    KernelFamily,
    /// A communication family, over its union.
    CommFamily,
    /// A communication family, over its exposed part.
    CommExposed,
    /// A kernel by name.
    Kernel,
}

impl Group {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Part => "part of the time",
            Self::KernelFamily => "kernel family",
            Self::CommFamily => "communication",
            Self::CommExposed => "exposed communication",
            Self::Kernel => "kernel",
        }
    }

    /// In a gate's expression.
    fn prefix(self) -> &'static str {
        match self {
            Self::Part => "part",
            Self::KernelFamily => "kernels",
            Self::CommFamily => "comm",
            Self::CommExposed => "exposed",
            Self::Kernel => "kernel",
        }
    }
}

/// A time on both sides, in nanoseconds per what the comparison divides by. `None`: it does not occur there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimeChange {
    /// What kind.
    pub group: Group,
    /// Which.
    pub name: String,
    /// Time of the baseline.
    pub a_ns: Option<f64>,
    /// Time of the other.
    pub b_ns: Option<f64>,
    /// The difference; what does not occur counts as no time.
    pub delta_ns: f64,
    /// The difference in percent of the baseline; null when that is nothing.
    pub delta_percent: Option<f64>,
    /// Calls of the baseline.
    pub a_calls: Option<f64>,
    /// Calls of the other.
    pub b_calls: Option<f64>,
}

/// A metric on both sides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricChange {
    /// Its name.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// Value of the baseline.
    pub a: Option<f64>,
    /// Value of the other.
    pub b: Option<f64>,
    /// The difference, where both are measured.
    pub delta: Option<f64>,
    /// The difference in percent of the baseline.
    pub delta_percent: Option<f64>,
    /// Why one is not measured.
    pub absent: Option<String>,
}

/// Compares two reports.
pub fn compare(label_a: &str, a: &TraceReport, label_b: &str, b: &TraceReport) -> TraceComparison {
    let mut notes = Vec::new();
    let by_step = a.steps > 0 && b.steps > 0;
    if !by_step && (a.steps > 0) != (b.steps > 0) {
        let without = if a.steps == 0 { label_a } else { label_b };
        notes.push(format!("{without} has no step markers, so times are per rank and depend on how long was recorded"));
    } else if !by_step {
        notes.push(
            "neither side has step markers, so times are per rank and depend on how long was recorded".to_owned(),
        );
    }
    if a.definitions != b.definitions || a.taxonomy != b.taxonomy {
        notes.push("the two were analysed with different definitions or kernel families".to_owned());
    }
    if a.ranks.len() != b.ranks.len() {
        notes.push(format!(
            "{label_a} has {} ranks, {label_b} has {}: times are means over the ranks of each",
            a.ranks.len(),
            b.ranks.len()
        ));
    }
    for (label, report) in [(label_a, a), (label_b, b)] {
        if !report.warnings.is_empty() {
            let codes: BTreeSet<&str> = report.warnings.iter().map(|w| w.code.as_str()).collect();
            notes.push(format!("{label}: {}", codes.into_iter().collect::<Vec<_>>().join(", ")));
        }
    }
    let divide_a = divisor(a, by_step);
    let divide_b = divisor(b, by_step);
    let mut changes = Changes { divide_a, divide_b, list: Vec::new() };
    for (name, part) in PARTS {
        changes.add(Group::Part, name, total(a, part), total(b, part));
    }
    changes.tables(Group::KernelFamily, a, b, |report| {
        report.kernels.iter().map(|family| (family.family.clone(), family.sum_ns, family.calls)).collect()
    });
    changes.tables(Group::CommFamily, a, b, |report| {
        report.comm.iter().map(|(name, family)| (name.clone(), family.union_ns, family.calls)).collect()
    });
    changes.tables(Group::CommExposed, a, b, |report| {
        report.comm.iter().map(|(name, family)| (name.clone(), family.exposed_ns, family.calls)).collect()
    });
    changes.tables(Group::Kernel, a, b, |report| {
        report.top_kernels.iter().map(|kernel| (kernel.name.clone(), kernel.sum_ns, kernel.calls)).collect()
    });
    let mut list = changes.list;
    list.sort_by(|x, y| {
        y.delta_ns.abs().total_cmp(&x.delta_ns.abs()).then_with(|| (x.group, &x.name).cmp(&(y.group, &y.name)))
    });
    TraceComparison {
        schema: COMPARISON_SCHEMA_VERSION,
        a: Side { label: label_a.to_owned(), ranks: a.ranks.len(), steps: a.steps },
        b: Side { label: label_b.to_owned(), ranks: b.ranks.len(), steps: b.steps },
        per: if by_step { "step and rank" } else { "rank" }.to_owned(),
        changes: list,
        metrics: metrics(a, b),
        notes,
    }
}

/// Nanoseconds, and calls where they are counted.
type Time = (i64, Option<u64>);

type Part = fn(&RankSummary) -> i64;

/// The parts of a rank's time add up to its span.
const PARTS: [(&str, Part); 4] = [
    ("computing", |rank| rank.compute_ns),
    ("exposed communication", |rank| rank.exposed_comm_ns),
    ("exposed copies", |rank| rank.exposed_memcpy_ns),
    ("idle", |rank| rank.idle_ns),
];

#[expect(clippy::cast_precision_loss, reason = "steps and ranks")]
fn divisor(report: &TraceReport, by_step: bool) -> f64 {
    let ranks = report.ranks.len().max(1) as f64;
    if by_step { ranks * report.steps as f64 } else { ranks }
}

fn total(report: &TraceReport, part: Part) -> Option<Time> {
    let has_any = report.per_rank.iter().any(|rank| rank.span_ns > 0);
    has_any.then(|| (report.per_rank.iter().map(part).fold(0_i64, i64::saturating_add), None))
}

struct Changes {
    divide_a: f64,
    divide_b: f64,
    list: Vec<TimeChange>,
}

impl Changes {
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds and calls of a recording stay below 2^53")]
    fn add(&mut self, group: Group, name: &str, a: Option<Time>, b: Option<Time>) {
        let time = |side: Option<Time>, divide: f64| side.map(|(nanos, _)| nanos as f64 / divide);
        let calls = |side: Option<Time>, divide: f64| side.and_then(|(_, n)| n).map(|n| n as f64 / divide);
        let (a_ns, b_ns) = (time(a, self.divide_a), time(b, self.divide_b));
        if a_ns.is_none() && b_ns.is_none() {
            return;
        }
        let delta_ns = b_ns.unwrap_or(0.0) - a_ns.unwrap_or(0.0);
        self.list.push(TimeChange {
            group,
            name: name.to_owned(),
            a_ns,
            b_ns,
            delta_ns,
            delta_percent: percent(a_ns, delta_ns),
            a_calls: calls(a, self.divide_a),
            b_calls: calls(b, self.divide_b),
        });
    }

    fn tables(
        &mut self,
        group: Group,
        a: &TraceReport,
        b: &TraceReport,
        rows: impl Fn(&TraceReport) -> Vec<(String, i64, u64)>,
    ) {
        let mut both: BTreeMap<String, [Option<Time>; 2]> = BTreeMap::new();
        for (side, report) in [a, b].into_iter().enumerate() {
            for (name, nanos, calls) in rows(report) {
                if let Some(slot) = both.entry(name).or_default().get_mut(side) {
                    *slot = Some((nanos, Some(calls)));
                }
            }
        }
        for (name, [a, b]) in both {
            self.add(group, &name, a, b);
        }
    }
}

fn percent(a: Option<f64>, delta: f64) -> Option<f64> {
    a.filter(|a| *a != 0.0).map(|a| delta / a.abs() * 100.0)
}

fn metrics(a: &TraceReport, b: &TraceReport) -> Vec<MetricChange> {
    let names: BTreeSet<&String> = a.metrics.keys().chain(b.metrics.keys()).collect();
    let mut list = Vec::new();
    for name in names {
        let (in_a, in_b) = (a.metrics.get(name), b.metrics.get(name));
        let (value_a, value_b) = (in_a.and_then(|m| m.value), in_b.and_then(|m| m.value));
        let delta = value_a.zip(value_b).map(|(a, b)| b - a);
        let reason = |side: &str, metric: Option<&super::Metric>| {
            let reason = metric.map_or(Some("not known to this version"), |m| m.absent.as_deref());
            reason.map(|reason| format!("{side}: {reason}"))
        };
        let absent = match (value_a, value_b) {
            (None, _) => reason("A", in_a),
            (_, None) => reason("B", in_b),
            _ => None,
        };
        list.push(MetricChange {
            name: name.clone(),
            unit: in_b.or(in_a).map(|metric| metric.unit.clone()).unwrap_or_default(),
            a: value_a,
            b: value_b,
            delta,
            delta_percent: delta.and_then(|delta| percent(value_a, delta)),
            absent,
        });
    }
    list
}

/// A condition under which a comparison fails: `iteration_wall_clock>+5%`.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    text: String,
    name: String,
    operator: Operator,
    limit: Limit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Limit {
    /// A change in percent of the baseline.
    Percent(f64),
    /// A change in the unit of the metric, in milliseconds for times.
    Change(f64),
    /// The value itself.
    Value(f64),
}

/// What a gate found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateOutcome {
    /// The condition as it was given.
    pub gate: String,
    /// True when the comparison fails because of it.
    pub failed: bool,
    /// What was found.
    pub found: String,
}

impl Gate {
    /// Reads `NAME > +5%` (change in percent), `NAME > +0.2` (change in the metric's unit; milliseconds for times) or
    /// `NAME > 7` (the value itself); also `>=`, `<`, `<=`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "expected NAME>+5%, NAME<-3%, NAME>+0.2 or NAME>7";
        let at = text.find(['<', '>']).ok_or_else(|| format!("`{text}` compares nothing: {FORM}"))?;
        let (name, rest) = text.split_at(at);
        let (operator, limit) = match rest.as_bytes() {
            [b'>', b'=', ..] => (Operator::GreaterOrEqual, &rest[2..]),
            [b'<', b'=', ..] => (Operator::LessOrEqual, &rest[2..]),
            [b'>', ..] => (Operator::Greater, &rest[1..]),
            _ => (Operator::Less, &rest[1..]),
        };
        let name = name.trim();
        if name.is_empty() {
            return Err(format!("`{text}` names no metric: {FORM}"));
        }
        let limit = limit.trim();
        let number = |digits: &str| {
            digits
                .trim()
                .parse::<f64>()
                .ok()
                .filter(|x| x.is_finite())
                .ok_or_else(|| format!("`{limit}` is no number: {FORM}"))
        };
        let limit = if let Some(digits) = limit.strip_suffix('%') {
            if !digits.trim_start().starts_with(['+', '-']) {
                return Err(format!("`{limit}` needs a sign, as it is a change: {FORM}"));
            }
            Limit::Percent(number(digits)?)
        } else if limit.starts_with(['+', '-']) {
            Limit::Change(number(limit)?)
        } else {
            Limit::Value(number(limit)?)
        };
        Ok(Self { text: text.to_owned(), name: name.to_owned(), operator, limit })
    }

    /// Names that gates may use with a comparison.
    pub fn names(comparison: &TraceComparison) -> Vec<String> {
        let times = comparison.changes.iter().filter(|change| change.group != Group::Kernel);
        comparison
            .metrics
            .iter()
            .map(|metric| metric.name.clone())
            .chain(times.map(|change| format!("{}.{}", change.group.prefix(), change.name.replace(' ', "_"))))
            .collect()
    }

    /// The metric or time that it is about.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same condition on another name.
    #[must_use]
    pub fn renamed(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    /// Applies it; `None` when there is no such name. What was not measured fails, as nothing can then be promised.
    pub fn check(&self, comparison: &TraceComparison) -> Option<GateOutcome> {
        let metric = comparison.metrics.iter().find(|metric| metric.name == self.name);
        let (a, b, unit, absent) = if let Some(metric) = metric {
            (metric.a, metric.b, metric.unit.clone(), metric.absent.clone())
        } else {
            const MS: f64 = 1e6;
            let change = comparison
                .changes
                .iter()
                .find(|change| format!("{}.{}", change.group.prefix(), change.name.replace(' ', "_")) == self.name)?;
            let time = |nanos: Option<f64>| Some(nanos.unwrap_or(0.0) / MS);
            (time(change.a_ns), time(change.b_ns), format!("ms per {}", comparison.per), None)
        };
        let outcome = |failed: bool, found: String| Some(GateOutcome { gate: self.text.clone(), failed, found });
        let (Some(a), Some(b)) = (a, b) else {
            return match (self.limit, b) {
                (Limit::Value(limit), Some(b)) => outcome(self.holds(b, limit), format!("{b:.6} {unit}")),
                _ => outcome(true, format!("not measured ({})", absent.unwrap_or_default())),
            };
        };
        let (value, limit) = match self.limit {
            Limit::Value(limit) => (b, limit),
            Limit::Change(limit) => (b - a, limit),
            Limit::Percent(limit) => match percent(Some(a), b - a) {
                Some(change) => (change, limit),
                // From nothing to something is any percentage.
                None if b == a => (0.0, limit),
                None => (f64::INFINITY.copysign(b - a), limit),
            },
        };
        let change = percent(Some(a), b - a).map_or_else(String::new, |change| format!(" ({change:+.1} %)"));
        outcome(self.holds(value, limit), format!("{a:.6} → {b:.6} {unit}{change}"))
    }

    fn holds(&self, value: f64, limit: f64) -> bool {
        match self.operator {
            Operator::Greater => value > limit,
            Operator::GreaterOrEqual => value >= limit,
            Operator::Less => value < limit,
            Operator::LessOrEqual => value <= limit,
        }
    }
}

#[cfg(test)]
mod tests;
