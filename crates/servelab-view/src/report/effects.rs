//! Effects of parameters with their intervals, interactions, a drift over the study, repeats that stand apart: what the
//! store found, in words.

use servelab_store::baseline::against_baseline;
use servelab_store::design::{DesignEffects, design_effects, odd_repeats, study_change, study_drift};
use servelab_store::rank::Direction;
use servelab_store::{ResultRow, varied_parameters};

use super::ReportInput;
use super::rows::{names, unmixed};
use crate::names::metric_value;
use crate::plan::factors;
use crate::text::document::Document;
use crate::text::number::{number, percent, plural};
use crate::text::table::{Table, left, right};

/// Below this p, corrected for the number of tests, an effect is called one.
const P: f64 = 0.05;
/// Comparisons with the baseline that are listed.
const LISTED: usize = 200;

/// The sections; nothing where nothing was varied or repeated.
pub fn section(out: &mut Document, input: &ReportInput<'_>) {
    let value = |row: &ResultRow| input.objective.value(row);
    let rows = unmixed(input.rows, input.mix_simulated);
    let found = design_effects(&rows, &varied_parameters(&rows), &value);
    for effects in found.iter().filter(|effects| !effects.model.main.is_empty()) {
        out.heading(2, format!("Effects on {} on {}", input.objective.title(), effects.workload));
        out.table(main_table(effects));
        out.bullets(interactions(effects));
        out.paragraph(basis(effects));
    }
    let odd = odd_repeats(&rows, &value);
    if !odd.is_empty() {
        out.heading(2, "Repeats that stand apart");
        out.bullets(odd.iter().map(|odd| {
            format!(
                "{}, {}, repeat {}: {} is {} robust standard deviations from the others; it stays in",
                odd.point,
                odd.condition,
                odd.repeat + 1,
                metric_value(input.objective.source(), Some(odd.value)),
                number(odd.distance)
            )
        }));
    }
    if let Some(change) = study_change(&rows, &value).filter(|change| change.p <= P) {
        out.paragraph(format!(
            "Note: before the {} the values were {} of their cells' means, from then on {} (change point, p = {}): something happened \
             between these two runs.",
            ordinal(change.at + 1),
            percent(change.before),
            percent(change.after),
            p_words(change.p)
        ));
    }
    if let Some(drift) = study_drift(&rows, &value).filter(|drift| drift.p <= P) {
        out.paragraph(format!(
            "Note: over the {} in the order in which they were made, values changed by {} (Spearman {:.2}, p = {:.3}): something \
             other than the configurations changed too.",
            plural(drift.n, "run"),
            percent(drift.relative_change),
            drift.correlation,
            drift.p
        ));
    }
}

/// `3rd run` and the like.
fn ordinal(n: usize) -> String {
    let ending = match (n % 10, n % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{n}{ending} run")
}

/// What each point is worth against the baseline, where the study names one.
pub fn against_baseline_section(out: &mut Document, input: &ReportInput<'_>) {
    let Some(baseline) = factors::baseline(input.plan, input.study) else { return };
    let value = |row: &ResultRow| input.objective.value(row);
    let rows = unmixed(input.rows, input.mix_simulated);
    let found = against_baseline(&rows, &baseline.id, &value);
    if found.is_empty() {
        return;
    }
    out.heading(2, format!("Against the baseline {}", names(&baseline.labels, baseline.id.short())));
    let mut table = Table::new([
        left("Config"),
        left("Workload"),
        left("Load"),
        right("Difference"),
        left("95 % interval"),
        right("p"),
        left("Call"),
        left("Settings"),
    ]);
    for one in found.iter().take(LISTED) {
        let comparison = &one.comparison;
        let relative = |x: f64| format!("{:+.1} %", 100.0 * x / comparison.baseline.abs());
        let ends = &comparison.difference;
        let is_known = ends.low.is_finite() && comparison.baseline != 0.0;
        let better = (comparison.relative.unwrap_or(0.0) > 0.0) == (input.objective.direction() == Direction::Maximise);
        let call = match one.p_adjusted {
            None => "unknown (n=1)",
            Some(p) if p > P => "within noise",
            Some(_) if better => "better",
            Some(_) => "worse",
        };
        let point = input.plan.points.iter().find(|point| point.id == one.point);
        table.row([
            names(&one.labels, one.point.short()),
            one.workload.clone(),
            one.load.clone(),
            comparison.relative.map(|x| format!("{:+.1} %", 100.0 * x)).unwrap_or_default(),
            if is_known {
                format!("{} to {}", relative(ends.low), relative(ends.high))
            } else {
                "not known".to_owned()
            },
            one.p_adjusted.map(p_words).unwrap_or_default(),
            call.to_owned(),
            point.map(|point| factors::differences(point, baseline)).unwrap_or_default(),
        ]);
    }
    out.table(table.without_empty_columns());
    if found.len() > LISTED {
        out.paragraph(format!("… and {} more.", found.len() - LISTED));
    }
    out.paragraph(format!(
        "{} of the baseline, in percent of it. p is adjusted so that of what is called better or worse at most 5 % is expected to be \
         chance (Benjamini and Hochberg, over {}).",
        input.objective.title(),
        plural(found.len() as u64, "comparison")
    ));
}

fn main_table(effects: &DesignEffects) -> Table {
    let mut table = Table::new([
        left("Parameter"),
        left("Value"),
        right("Effect"),
        left("95 % interval"),
        right("p"),
        right("Share"),
    ]);
    for (effect, p) in effects.model.main.iter().zip(&effects.p_main) {
        let name = effects.factors.get(effect.factor).cloned().unwrap_or_default();
        let levels = effects.levels.get(effect.factor).map(Vec::as_slice).unwrap_or_default();
        for (idx, (level, (value, half))) in levels.iter().zip(&effect.levels).enumerate() {
            let shown = |x: f64| {
                if effects.is_relative { format!("{:+.1} %", 100.0 * x.exp_m1()) } else { format!("{x:+.3}") }
            };
            let interval = half.map(|half| format!("{} to {}", shown(value - half), shown(value + half)));
            let is_first = idx == 0;
            table.row([
                if is_first { name.clone() } else { String::new() },
                level.clone(),
                shown(*value),
                interval.unwrap_or_else(|| "not known".to_owned()),
                if is_first { p.map(p_words).unwrap_or_default() } else { String::new() },
                if is_first { percent(effect.share) } else { String::new() },
            ]);
        }
    }
    table.without_empty_columns()
}

fn interactions(effects: &DesignEffects) -> Vec<String> {
    let name = |factor: usize| effects.factors.get(factor).map_or("?", String::as_str);
    let mut out: Vec<String> = effects
        .model
        .interactions
        .iter()
        .zip(&effects.p_interactions)
        .filter(|(_, p)| p.is_some_and(|p| p <= P))
        .map(|(found, p)| {
            let (a, b) = found.factors;
            format!(
                "{} and {} interact (p = {}, share {}): the effect of one depends on the other, so do not read their lines alone",
                name(a),
                name(b),
                p.map(p_words).unwrap_or_default(),
                percent(found.share)
            )
        })
        .collect();
    let confounded: Vec<&str> = effects.model.confounded.iter().map(|factor| name(*factor)).collect();
    if !confounded.is_empty() {
        out.push(format!("not separable, because they always varied together with others: {}", confounded.join(", ")));
    }
    out
}

fn basis(effects: &DesignEffects) -> String {
    let balance = if effects.model.is_balanced {
        "The grid is balanced."
    } else {
        "The grid is NOT balanced: plain means over a parameter's values differ for other reasons too; these effects do not, as far \
         as the model goes."
    };
    let scale = if effects.is_relative { "relative to the geometric mean" } else { "relative to the mean" };
    format!(
        "Least squares over {}, main effects {scale}, {} tested, {} degrees of freedom left. p is corrected for the number of tests \
         (Holm); share is partial η². {balance}",
        plural(effects.n as u64, "cell"),
        plural(effects.model.interactions.len() as u64, "interaction"),
        effects.model.freedom
    )
}

fn p_words(p: f64) -> String {
    if p < 0.001 { "< 0.001".to_owned() } else { format!("{p:.3}") }
}
