//! Effects of parameters with their intervals, interactions, a drift over the study, repeats that stand apart: what the
//! store found, in words.

use servelab_store::design::{DesignEffects, design_effects, odd_repeats, study_drift};
use servelab_store::{ResultRow, varied_parameters};

use super::ReportInput;
use super::rows::unmixed;
use crate::names::metric_value;
use crate::text::document::Document;
use crate::text::number::{number, percent, plural};
use crate::text::table::{Table, left, right};

/// Below this p, corrected for the number of tests, an effect is called one.
const P: f64 = 0.05;

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
