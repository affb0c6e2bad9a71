//! How the objective depends on each parameter, and the comparison that `--compare-param` asks for. The means come from
//! the store.

use servelab_store::rank::{Marginal, marginals};
use servelab_store::{ResultRow, varied_parameters};

use super::ranking::range;
use super::rows::{by_workload, origin, unmixed};
use super::{ReportInput, metric};
use crate::names::{metric_title, metric_value};
use crate::text::document::Document;
use crate::text::number::{count, setting};
use crate::text::table::{Table, left, right};

/// What `--compare-param P --metric M` asks for.
#[derive(Debug, Clone, Copy)]
pub struct CompareRequest<'a> {
    /// The parameter.
    pub parameter: &'a str,
    /// The metric; any column of the results table or SLO name.
    pub metric: &'a str,
}

/// The asked comparison, per workload.
pub fn compare_section(out: &mut Document, input: &ReportInput<'_>, request: CompareRequest<'_>) {
    let CompareRequest { parameter, metric: name } = request;
    out.heading(2, format!("{} by {parameter}", metric_title(name)));
    let value = |row: &ResultRow| metric(row, name);
    let mut found = false;
    for (workload, rows) in by_workload(input.rows) {
        let rows = unmixed(&rows, input.mix_simulated);
        let mut parameters = varied_parameters(&rows);
        if !parameters.iter().any(|known| known == parameter) {
            parameters.push(parameter.to_owned());
        }
        let all = marginals(&rows, &parameters, &value);
        if let Some(marginal) = all.iter().find(|marginal| marginal.parameter == parameter) {
            found = true;
            out.heading(3, format!("On {workload}"));
            show(out, marginal, name, &rows);
        }
    }
    if !found {
        out.paragraph(why_not(input, request));
    }
}

fn why_not(input: &ReportInput<'_>, request: CompareRequest<'_>) -> String {
    let CompareRequest { parameter, metric: name } = request;
    let mut values: Vec<String> = Vec::new();
    for row in input.rows.iter().filter(|row| row.unranked_reason().is_none()) {
        let text = row.parameter(parameter).map_or_else(|| "unset".to_owned(), setting);
        if !values.contains(&text) {
            values.push(text);
        }
    }
    let has_metric = input.rows.iter().any(|row| metric(row, name).is_some());
    match values.as_slice() {
        [] => "No cell has a result that may be compared.".to_owned(),
        [only] => format!("`{parameter}` is {only} in every cell that may be compared: there is nothing to compare."),
        _ if !has_metric => format!("No cell has a value for `{name}`."),
        _ => format!("`{parameter}` takes one value only among the cells of each workload that have `{name}`."),
    }
}

/// Marginals of the objective over all varied parameters, per workload.
pub fn section(out: &mut Document, input: &ReportInput<'_>) {
    let value = |row: &ResultRow| input.objective.value(row);
    for (workload, rows) in by_workload(input.rows) {
        let rows = unmixed(&rows, input.mix_simulated);
        let all = marginals(&rows, &varied_parameters(&rows), &value);
        if all.is_empty() {
            continue;
        }
        out.heading(2, format!("{} per parameter, on {workload}", input.objective.title()));
        out.paragraph("Means over all cells with that value, whatever else differs; n counts cells.");
        for marginal in &all {
            out.heading(3, marginal.parameter.clone());
            show(out, marginal, input.objective.source(), &rows);
        }
    }
}

fn show(out: &mut Document, marginal: &Marginal, name: &str, rows: &[ResultRow]) {
    let mut table = Table::new([left("Value"), right("Mean"), right("min..max"), right("n"), left("Origin")]);
    for level in &marginal.levels {
        let value = if level.value.is_null() { "unset".to_owned() } else { setting(&level.value) };
        table.row([
            value,
            metric_value(name, Some(level.stats.mean)),
            range(&level.stats),
            count(level.stats.n),
            level_origin(marginal, &level.value, rows).to_owned(),
        ]);
    }
    out.table(table);
    if !marginal.is_balanced {
        out.paragraph(
            "Not balanced: these values were seen with different combinations of everything else, so the means also differ \
             for other reasons.",
        );
    }
}

fn level_origin(marginal: &Marginal, value: &serde_json::Value, rows: &[ResultRow]) -> &'static str {
    let here = rows.iter().filter(|row| {
        row.unranked_reason().is_none()
            && row.parameter(&marginal.parameter).unwrap_or(&serde_json::Value::Null) == value
    });
    let simulated: Vec<bool> = here.map(ResultRow::is_simulated).collect();
    if simulated.iter().any(|is| *is) && simulated.iter().any(|is| !*is) {
        "measured and simulated"
    } else {
        origin(simulated.first().copied().unwrap_or(false))
    }
}
