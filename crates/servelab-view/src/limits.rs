//! SLOs and targets in words and as a table: what a study promises or hopes for, beside plan, manifest and results.

use servelab_core::study::{CellSlo, RequestSlo, Study};

use crate::names::{is_fraction, metric_title};
use crate::text::number::{ABSENT, exact, percent};
use crate::text::table::{Table, left, right};

/// A bound on a metric in words: `≥ 99 %`, `≤ 2,000`, `800–1,200`.
pub fn bound(metric: &str, bounds: &[f64]) -> String {
    let value = |x: f64| if is_fraction(metric) { percent(x) } else { exact(x) };
    match bounds {
        [one] if CellSlo::is_floor(metric) => format!("≥ {}", value(*one)),
        [one] => format!("≤ {}", value(*one)),
        [from, to] => format!("{}–{}", value(*from), value(*to)),
        _ => ABSENT.to_owned(),
    }
}

/// Does a value meet a bound? Of a range, the worse end counts.
pub fn meets(metric: &str, bounds: &[f64], value: f64) -> bool {
    if CellSlo::is_floor(metric) {
        bounds.iter().copied().reduce(f64::min).is_none_or(|floor| value >= floor)
    } else {
        bounds.iter().copied().reduce(f64::max).is_none_or(|ceiling| value <= ceiling)
    }
}

/// The request SLO in words.
pub fn request_limits(slo: &RequestSlo) -> String {
    let limits = [("TTFT", slo.ttft_ms), ("TPOT", slo.tpot_ms), ("E2E", slo.e2e_ms)];
    let words: Vec<String> = limits
        .into_iter()
        .filter_map(|(name, limit)| limit.map(|limit| format!("{name} ≤ {} ms", exact(limit))))
        .collect();
    if words.is_empty() { "no limit: every success counts".to_owned() } else { words.join(" · ") }
}

/// Metrics down, targets across, as document 000 shows them; the SLO stands in its own column where there is one.
pub fn targets_table(study: &Study) -> Table {
    let slo = &study.slo.cell.0;
    let mut metrics: Vec<&str> = Vec::new();
    let named = study.targets.iter().flat_map(|(_, target)| target.0.keys()).chain(slo.keys());
    for metric in named {
        if !metrics.contains(&metric) {
            metrics.push(metric);
        }
    }
    let mut columns = vec![left("Metric")];
    columns.extend(study.targets.iter().map(|(name, _)| right(capital(name))));
    columns.push(right("SLO"));
    let mut table = Table::new(columns);
    for metric in metrics {
        let mut row = vec![metric_title(metric)];
        for (_, target) in study.targets.iter() {
            row.push(target.0.get(metric).map_or_else(|| ABSENT.to_owned(), |bounds| bound(metric, &bounds.0)));
        }
        row.push(slo.get(metric).map_or_else(|| ABSENT.to_owned(), |limit| bound(metric, &[*limit])));
        table.row(row);
    }
    table.without_empty_columns()
}

fn capital(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        let check = |metric: &str, bounds: &[f64], expected: &str| assert_eq!(bound(metric, bounds), expected);
        check("success", &[0.99], "≥ 99 %");
        check("ttft_p95_ms", &[2000.0], "≤ 2,000");
        check("throughput_tok_s", &[800.0, 1200.0], "800–1,200");
        check("throughput_tok_s", &[], "-");
    }

    #[test]
    fn meeting_bounds() {
        let check = |metric: &str, bounds: &[f64], value, expected| assert_eq!(meets(metric, bounds, value), expected);
        check("success", &[0.99], 0.99, true);
        check("success", &[0.99], 0.98, false);
        check("itl_p95_ms", &[80.0], 80.0, true);
        check("itl_p95_ms", &[80.0], 80.1, false);
        check("itl_p95_ms", &[60.0, 80.0], 70.0, true);
        check("throughput_tok_s", &[800.0, 1200.0], 790.0, false);
        check("throughput_tok_s", &[800.0, 1200.0], 5000.0, true);
        check("itl_p95_ms", &[60.0, 80.0], f64::NAN, false);
    }
}
