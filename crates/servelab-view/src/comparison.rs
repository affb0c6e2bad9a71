//! What `servelab compare` prints: the answer, a table per condition, what speaks against the comparison.

use servelab_core::result::Severity;
use servelab_core::verdict::Call;
use servelab_store::versus::{MetricVersus, Versus};

use crate::names::{metric_title, metric_value};
use crate::text::document::Document;
use crate::text::number::{ABSENT, number, plural};
use crate::text::table::{Table, left, right};

/// The text; `names` are those of baseline and candidate.
pub fn comparison_text(versus: &Versus, names: (&str, &str), margin: f64, width: Option<usize>) -> String {
    let mut out = Document::default();
    out.heading(1, format!("{} against {}", names.1, names.0));
    out.paragraph(answer(versus, names));
    for reason in &versus.verdict.reasons {
        let weight = if reason.severity == Severity::Invalid { "INVALID" } else { "note" };
        out.paragraph(format!("{weight} {}: {}", reason.code, reason.detail));
    }
    for condition in &versus.conditions {
        let mut table = Table::new([
            left("Metric"),
            right(names.0),
            right(names.1),
            right("difference"),
            left("95 % interval"),
            right("p"),
            right("p (permutation)"),
            right("effect"),
            left("n"),
            left("call"),
        ]);
        condition.metrics.iter().for_each(|found| table.row(line(found)));
        out.heading(2, condition.condition.clone());
        out.table(table.without_empty_columns());
    }
    out.paragraph(format!(
        "Differences are {} minus {}. p is of Welch's t test, or Student's where repeats are paired, corrected for the number \
         of comparisons (Holm); \"equivalent\" means within ± {} % by two one-sided tests; effect is Hedges' g.",
        names.1,
        names.0,
        number(100.0 * margin)
    ));
    out.to_text(width)
}

fn answer(versus: &Versus, names: (&str, &str)) -> String {
    if !versus.verdict.ok {
        return "These two cannot be compared.".to_owned();
    }
    let all = || versus.conditions.iter().flat_map(|condition| &condition.metrics);
    let count = |call: Call| all().filter(|found| found.call == call).count() as u64;
    let (better, worse) = (count(Call::Better), count(Call::Worse));
    let total = all().count() as u64;
    if better + worse == 0 {
        let equal = count(Call::Equivalent);
        let how = if equal == total && total > 0 { "are equivalent" } else { "cannot be told apart" };
        return format!("{} and {} {how} in {}.", names.0, names.1, plural(total, "metric"));
    }
    format!(
        "{} is better in {}, worse in {}, of {} compared.",
        names.1,
        plural(better, "metric"),
        plural(worse, "metric"),
        plural(total, "metric")
    )
}

fn line(found: &MetricVersus) -> Vec<String> {
    let comparison = &found.comparison;
    let interval = &comparison.difference;
    let relative =
        |x: f64| if comparison.baseline == 0.0 { number(x) } else { signed(100.0 * x / comparison.baseline.abs()) };
    let ends = if interval.low.is_finite() {
        format!("{} to {} %", relative(interval.low), relative(interval.high))
    } else {
        "not known".to_owned()
    };
    let p = |p: Option<f64>| {
        p.map_or_else(|| ABSENT.to_owned(), |p| if p < 0.001 { "< 0.001".to_owned() } else { format!("{p:.3}") })
    };
    let call = match (found.call, found.repeats_needed) {
        (Call::Better, _) => "better".to_owned(),
        (Call::Worse, _) => "worse".to_owned(),
        (Call::Equivalent, _) => "equivalent".to_owned(),
        (Call::Unknown, _) => "unknown: repeat both".to_owned(),
        (Call::WithinNoise, Some(n)) => format!("within noise; {n} repeats would settle it"),
        (Call::WithinNoise, None) => "within noise".to_owned(),
    };
    let n = if comparison.is_paired {
        format!("{} pairs", comparison.n_baseline)
    } else {
        format!("{} and {}", comparison.n_baseline, comparison.n_candidate)
    };
    vec![
        metric_title(&found.metric),
        metric_value(&found.metric, Some(comparison.baseline)),
        metric_value(&found.metric, Some(comparison.candidate)),
        comparison.relative.map_or_else(|| number(interval.estimate), |x| format!("{} %", signed(100.0 * x))),
        ends,
        p(found.p_adjusted),
        p(comparison.p_permutation),
        comparison.effect_size.map_or_else(|| ABSENT.to_owned(), |g| format!("{g:.1}")),
        n,
        call,
    ]
}

fn signed(x: f64) -> String {
    format!("{x:+.1}")
}
