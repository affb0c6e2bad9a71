//! How a run scales: one row per configuration, speed-up and efficiency against the one with the fewest GPUs, and the share
//! of communication (document 004's `results_summary.csv`).

use serde::{Deserialize, Serialize};

use super::TraceReport;

/// One configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ScalingRow {
    /// Its name.
    pub experiment: String,
    /// GPUs (ranks of the run).
    pub gpus: u32,
    /// Ranks whose traces were read.
    pub ranks_read: usize,
    /// Steps.
    pub steps: u64,
    /// Speed against the first row; null when neither throughput nor iteration time was measured in both.
    pub speedup: Option<f64>,
    /// Speed-up per GPU added, 1 = perfect.
    pub efficiency: Option<f64>,
    /// The metrics of the table, in the order of [`COLUMNS`].
    pub metrics: Vec<Option<f64>>,
    /// Why some of them are absent.
    pub absent: Vec<String>,
}

/// Metrics of the table.
pub const COLUMNS: [&str; 7] = [
    "iteration_wall_clock",
    "throughput_tokens_sec",
    "ttft",
    "tpot",
    "comm_overhead",
    "comm_overhead_exposed",
    "coll_call_num",
];

/// All configurations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// By GPUs.
    pub rows: Vec<ScalingRow>,
    /// What speed-up compares: `throughput_tokens_sec`, or `iteration_wall_clock` where tokens are unknown.
    pub basis: Option<String>,
    /// Units of [`COLUMNS`].
    pub units: Vec<String>,
    /// What limits the comparison.
    pub notes: Vec<String>,
}

/// Makes the table.
pub fn scaling(runs: &[(String, TraceReport)]) -> Scaling {
    let mut sorted: Vec<&(String, TraceReport)> = runs.iter().collect();
    sorted.sort_by_key(|(label, report)| (gpus(report), label.clone()));
    let value = |report: &TraceReport, name: &str| report.metrics.get(name).and_then(|metric| metric.value);
    let everywhere = |name: &str| sorted.iter().all(|(_, report)| value(report, name).is_some_and(|value| value > 0.0));
    let mut table = Scaling::default();
    if sorted.len() > 1 {
        table.basis = ["throughput_tokens_sec", "iteration_wall_clock"]
            .into_iter()
            .find(|name| everywhere(name))
            .map(str::to_owned);
        if table.basis.is_none() {
            table
                .notes
                .push("no speed-up: neither throughput nor iteration time was measured in all of them".to_owned());
        } else if table.basis.as_deref() == Some("iteration_wall_clock") {
            table.notes.push(
                "speed-up is by iteration time: it assumes that an iteration does the same work everywhere".to_owned(),
            );
        }
    }
    table.units = COLUMNS
        .iter()
        .map(|name| {
            sorted.iter().find_map(|(_, report)| report.metrics.get(*name)).map(|m| m.unit.clone()).unwrap_or_default()
        })
        .collect();
    let base = sorted.first().map(|(_, report)| report);
    for (label, report) in &sorted {
        let n = gpus(report);
        let speedup = match (&table.basis, base) {
            (Some(name), Some(base)) => value(base, name)
                .zip(value(report, name))
                .map(|(first, here)| if name == "throughput_tokens_sec" { here / first } else { first / here }),
            _ => None,
        };
        let growth = base.map_or(1.0, |base| f64::from(n) / f64::from(gpus(base).max(1)));
        let absent = COLUMNS
            .iter()
            .filter_map(|name| Some(format!("{name}: {}", report.metrics.get(*name)?.absent.as_deref()?)))
            .collect();
        if report.world_size.is_none() {
            table.notes.push(format!("{label}: the traces do not say how many ranks the run had; {n} were read"));
        }
        table.rows.push(ScalingRow {
            experiment: label.clone(),
            gpus: n,
            ranks_read: report.ranks.len(),
            steps: report.steps,
            speedup,
            efficiency: speedup.map(|speedup| speedup / growth),
            metrics: COLUMNS.iter().map(|name| value(report, name)).collect(),
            absent,
        });
    }
    table
}

fn gpus(report: &TraceReport) -> u32 {
    report.world_size.unwrap_or_else(|| u32::try_from(report.ranks.len()).unwrap_or(u32::MAX))
}

impl Scaling {
    /// `results_summary.csv`.
    pub fn to_csv(&self) -> String {
        let quoted = |text: &str| {
            if text.contains(['"', ',', '\n', '\r']) {
                format!("\"{}\"", text.replace('"', "\"\""))
            } else {
                text.to_owned()
            }
        };
        let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
        let mut header = vec!["experiment".to_owned(), "gpus".to_owned(), "ranks_read".to_owned(), "steps".to_owned()];
        for (name, unit) in COLUMNS.iter().zip(&self.units) {
            let unit: String = unit.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
            let unit = if unit == "_" { "percent".to_owned() } else { unit };
            let is_named = unit.is_empty()
                || name.ends_with(&unit)
                || *name == "coll_call_num"
                || *name == "throughput_tokens_sec";
            header.push(if is_named { (*name).to_owned() } else { format!("{name}_{unit}") });
        }
        header.extend(["speedup", "efficiency", "absent"].map(str::to_owned));
        let mut out = header.join(",");
        out.push('\n');
        for row in &self.rows {
            let mut cells =
                vec![quoted(&row.experiment), row.gpus.to_string(), row.ranks_read.to_string(), row.steps.to_string()];
            cells.extend(row.metrics.iter().map(|value| number(*value)));
            cells.extend([number(row.speedup), number(row.efficiency), quoted(&row.absent.join("; "))]);
            out.push_str(&cells.join(","));
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Metric;

    fn run(gpus: u32, tokens_per_sec: Option<f64>, iteration_ms: f64) -> (String, TraceReport) {
        let mut report =
            TraceReport { ranks: (0..gpus).collect(), world_size: Some(gpus), steps: 9, ..TraceReport::default() };
        let throughput =
            tokens_per_sec.map_or_else(|| Metric::absent("tok/s", "no counts, \"none\""), |t| Metric::of(t, "tok/s"));
        report.metrics.insert("throughput_tokens_sec".to_owned(), throughput);
        report.metrics.insert("iteration_wall_clock".to_owned(), Metric::of(iteration_ms, "ms"));
        report.metrics.insert("comm_overhead".to_owned(), Metric::of(3.0, "%"));
        (format!("tp{gpus}"), report)
    }

    #[test]
    fn speed_is_measured_against_the_fewest_gpus() {
        let table = scaling(&[run(4, Some(300.0), 5.0), run(1, Some(100.0), 10.0), run(2, Some(180.0), 7.0)]);
        assert_eq!(table.basis.as_deref(), Some("throughput_tokens_sec"));
        assert_eq!(
            table.rows.iter().map(|row| (row.gpus, row.speedup)).collect::<Vec<_>>(),
            [(1, Some(1.0)), (2, Some(1.8)), (4, Some(3.0))]
        );
        assert_eq!(table.rows[2].efficiency, Some(0.75));
        let csv = table.to_csv();
        assert!(
            csv.starts_with("experiment,gpus,ranks_read,steps,iteration_wall_clock_ms,throughput_tokens_sec,"),
            "{csv}"
        );
        assert!(csv.contains("comm_overhead_percent"), "{csv}");
        assert_eq!(csv.lines().count(), 4);
    }

    #[test]
    fn iteration_time_stands_in_and_that_is_said() {
        let table = scaling(&[run(1, None, 10.0), run(2, Some(1.0), 5.0)]);
        assert_eq!(table.basis.as_deref(), Some("iteration_wall_clock"));
        assert_eq!(table.rows[1].speedup, Some(2.0));
        assert!(table.notes[0].contains("same work"));
        assert!(table.to_csv().contains("\"throughput_tokens_sec: no counts, \"\"none\"\"\""));
        assert_eq!(scaling(&[run(1, None, 10.0)]).rows[0].speedup, None);
    }
}
