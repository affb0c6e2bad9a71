//! Errors of predictions against measurements: MAPE, median, bias, coverage, and rank agreement within sweeps.

use std::collections::BTreeMap;

use serde::Serialize;

use super::rows::Row;

/// A measured row and a prediction of it.
pub(super) struct Pair<'a> {
    pub(super) row: &'a Row,
    pub(super) ttft_ms: f64,
    pub(super) tpot_ms: f64,
    label: &'static str,
}

impl<'a> Pair<'a> {
    pub(super) fn new(row: &'a Row, ttft_ms: f64, tpot_ms: f64, label: &'static str) -> Self {
        Self { row, ttft_ms, tpot_ms, label }
    }

    fn measured_throughput(&self) -> f64 {
        self.row.throughput(self.row.ttft_ms, self.row.tpot_ms)
    }

    fn predicted_throughput(&self) -> f64 {
        self.row.throughput(self.ttft_ms, self.tpot_ms)
    }
}

impl Serialize for Pair<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let row = self.row;
        serde_json::json!({
            "id": row.id, "group": row.group(), "sweep": row.sweep(), "version": row.version, "tp": row.tp, "dp": row.dp,
            "ep": row.ep, "concurrency": row.concurrency, "input": row.input, "output": row.output,
            "full": row.has_full_workload, "label": self.label,
            "measured": {"ttft_ms": row.ttft_ms, "tpot_ms": row.tpot_ms},
            "predicted": {"ttft_ms": self.ttft_ms, "tpot_ms": self.tpot_ms},
        })
        .serialize(serializer)
    }
}

struct Errors {
    mape: f64,
    median: f64,
    bias: f64,
}

fn errors(values: impl Iterator<Item = (f64, f64)>) -> Errors {
    let signed: Vec<f64> = values.map(|(predicted, measured)| predicted / measured - 1.0).collect();
    let n = signed.len().max(1) as f64;
    let mut absolute: Vec<f64> = signed.iter().map(|error| error.abs()).collect();
    absolute.sort_by(f64::total_cmp);
    Errors {
        mape: absolute.iter().sum::<f64>() / n,
        median: absolute.get(absolute.len() / 2).copied().unwrap_or(f64::NAN),
        bias: signed.iter().sum::<f64>() / n,
    }
}

/// One line per model × GPU, then all together, then rank agreement.
pub(super) fn print_table(title: &str, pairs: &[&Pair<'_>], n_asked: usize) {
    println!("\n### {title}\n");
    println!("MAPE (median, bias) in percent.\n");
    println!("| model · GPU | n | TPOT | throughput | TTFT |\n|---|---|---|---|---|");
    let mut groups: BTreeMap<String, Vec<&Pair<'_>>> = BTreeMap::new();
    for pair in pairs {
        groups.entry(pair.row.group()).or_default().push(pair);
    }
    for (group, members) in &groups {
        println!("| {group} | {} | {} |", members.len(), line(members));
    }
    println!(
        "| **all** ({:.0} % of {n_asked}) | {} | {} |",
        100.0 * pairs.len() as f64 / n_asked.max(1) as f64,
        pairs.len(),
        line(pairs)
    );
    let mut sweeps: BTreeMap<String, Vec<&Pair<'_>>> = BTreeMap::new();
    for pair in pairs {
        sweeps.entry(pair.row.sweep()).or_default().push(pair);
    }
    let ranks = |value: fn(&Pair<'_>) -> (f64, f64)| {
        let mut all: Vec<f64> = sweeps
            .values()
            .filter(|members| members.len() >= 5)
            .map(|members| spearman(&members.iter().map(|pair| value(pair)).collect::<Vec<_>>()))
            .collect();
        all.sort_by(f64::total_cmp);
        let mean = all.iter().sum::<f64>() / all.len().max(1) as f64;
        (mean, all.first().copied().unwrap_or(f64::NAN), all.len())
    };
    let (mean, worst, n) = ranks(|pair| (pair.predicted_throughput(), pair.measured_throughput()));
    let (tpot_mean, tpot_worst, _) = ranks(|pair| (pair.tpot_ms, pair.row.tpot_ms));
    println!(
        "\nSpearman within {n} sweeps of 5 or more: throughput per GPU mean {mean:.3} (worst {worst:.3}), TPOT mean {tpot_mean:.3} \
         (worst {tpot_worst:.3})"
    );
}

fn line(members: &[&Pair<'_>]) -> String {
    let show = |errors: Errors| {
        format!("{:.1} ({:.1}, {:+.1})", 100.0 * errors.mape, 100.0 * errors.median, 100.0 * errors.bias)
    };
    let tpot = errors(members.iter().map(|pair| (pair.tpot_ms, pair.row.tpot_ms)));
    let throughput = errors(members.iter().map(|pair| (pair.predicted_throughput(), pair.measured_throughput())));
    let ttft = errors(members.iter().map(|pair| (pair.ttft_ms, pair.row.ttft_ms)));
    format!("{} | {} | {}", show(tpot), show(throughput), show(ttft))
}

/// Spearman's rank correlation, ties sharing their mean rank.
fn spearman(pairs: &[(f64, f64)]) -> f64 {
    let a = ranks(&pairs.iter().map(|pair| pair.0).collect::<Vec<_>>());
    let b = ranks(&pairs.iter().map(|pair| pair.1).collect::<Vec<_>>());
    let n = a.len() as f64;
    let mean = (n + 1.0) / 2.0;
    let covariance: f64 = a.iter().zip(&b).map(|(x, y)| (x - mean) * (y - mean)).sum();
    let spread = |ranks: &[f64]| ranks.iter().map(|rank| (rank - mean).powi(2)).sum::<f64>();
    covariance / (spread(&a) * spread(&b)).sqrt()
}

fn ranks(values: &[f64]) -> Vec<f64> {
    values
        .iter()
        .map(|value| {
            let below = values.iter().filter(|other| *other < value).count() as f64;
            let equal = values.iter().filter(|other| *other == value).count() as f64;
            below + (equal + 1.0) / 2.0
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_agreement() {
        assert_eq!(spearman(&[(1.0, 10.0), (2.0, 20.0), (3.0, 30.0)]), 1.0);
        assert_eq!(spearman(&[(1.0, 30.0), (2.0, 20.0), (3.0, 10.0)]), -1.0);
        assert_eq!(ranks(&[5.0, 1.0, 5.0]), [2.5, 1.0, 2.5]);
    }

    #[test]
    fn errors_have_a_sign() {
        let e = errors([(110.0, 100.0), (90.0, 100.0)].into_iter());
        assert!((e.mape - 0.1).abs() < 1e-12 && e.bias.abs() < 1e-12);
    }
}
