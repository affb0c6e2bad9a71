//! The report: answer first, then the ranking, parameters, every cell, what failed and why, and where it all comes from.
//! One document, rendered as report.txt and report.md. Statistics come from the store; this module chooses words.

mod accuracy;
pub(crate) mod advice;
mod effects;
mod marginals;
mod objective;
pub(crate) mod problems;
mod ranking;
mod results;
pub(crate) mod rows;
mod servers;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};

use servelab_core::plan::Plan;
use servelab_core::state::CellState;
use servelab_core::study::Study;
use servelab_store::ResultRow;

pub use marginals::CompareRequest;
pub use objective::{DEFAULT_OBJECTIVE, Objective, metric};

use crate::text::document::Document;
use crate::text::number::{count, plural};
use crate::text::table::{Table, left, right};

/// Width of report.txt: tables wrap here, so that it can be read in an editor and in a mail.
const TEXT_WIDTH: usize = 140;

/// Everything that a report is made from.
#[derive(Debug, Clone, Copy)]
pub struct ReportInput<'a> {
    /// The plan that the rows belong to.
    pub plan: &'a Plan,
    /// The study.
    pub study: &'a Study,
    /// One row per cell of the plan.
    pub rows: &'a [ResultRow],
    /// What the ranking is by.
    pub objective: &'a Objective,
    /// A comparison that was asked for.
    pub compare: Option<CompareRequest<'a>>,
    /// Let simulated cells compete with measured ones.
    pub mix_simulated: bool,
    /// Version of Servelab, for the record.
    pub tool_version: &'a str,
}

/// report.txt.
pub fn report_txt(input: &ReportInput<'_>) -> String {
    document(input).to_text(Some(TEXT_WIDTH))
}

/// The answer alone, as `run` shows it at its end.
pub fn answer_txt(input: &ReportInput<'_>, width: Option<usize>) -> String {
    let mut out = Document::default();
    simulated_banner(&mut out, input.rows);
    ranking::answer(&mut out, input, &ranking::rank_workloads(input));
    out.to_text(width)
}

/// report.md.
pub fn report_md(input: &ReportInput<'_>) -> String {
    document(input).to_markdown()
}

fn document(input: &ReportInput<'_>) -> Document {
    let mut out = Document::default();
    let rankings = ranking::rank_workloads(input);
    out.heading(1, format!("Report: {}", input.plan.study));
    out.paragraph(input.study.description.clone().unwrap_or_default());
    simulated_banner(&mut out, input.rows);
    ranking::answer(&mut out, input, &rankings);
    summary(&mut out, input);
    ranking::section(&mut out, input, &rankings);
    if let Some(request) = input.compare {
        marginals::compare_section(&mut out, input, request);
    }
    marginals::section(&mut out, input);
    effects::against_baseline_section(&mut out, input);
    effects::section(&mut out, input);
    results::section(&mut out, input);
    results::slo_section(&mut out, input);
    accuracy::section(&mut out, input);
    servers::section(&mut out, input);
    advice::section(&mut out, input);
    advice::expectations(&mut out, input);
    problems::failures_section(&mut out, input.rows);
    problems::verdicts_section(&mut out, input.rows);
    problems::infeasible_section(&mut out, input.rows);
    ranking::unranked_section(&mut out, &rankings);
    provenance(&mut out, input);
    out
}

/// The parts of the report after its answer, for the page: id, name in the table of contents, content.
pub(crate) fn sections(input: &ReportInput<'_>) -> Vec<(&'static str, &'static str, Document)> {
    let rankings = ranking::rank_workloads(input);
    let part = |id, name, fill: &dyn Fn(&mut Document)| {
        let mut out = Document::default();
        fill(&mut out);
        (id, name, out)
    };
    vec![
        part("ranking", "Ranking", &|out| {
            ranking::section(out, input, &rankings);
            if let Some(request) = input.compare {
                marginals::compare_section(out, input, request);
            }
        }),
        part("expected", "What was expected", &|out| advice::expectations(out, input)),
        part("try", "What to try", &|out| advice::section(out, input)),
        part("baseline", "Against the baseline", &|out| effects::against_baseline_section(out, input)),
        part("parameters", "Parameters", &|out| {
            effects::section(out, input);
            marginals::section(out, input);
        }),
        part("results", "Results", &|out| {
            summary(out, input);
            results::section(out, input);
        }),
        part("slo", "SLO and targets", &|out| results::slo_section(out, input)),
        part("failures", "Failures", &|out| problems::failures_section(out, input.rows)),
        part("verdicts", "Verdicts", &|out| problems::verdicts_section(out, input.rows)),
        part("infeasible", "Infeasible", &|out| problems::infeasible_section(out, input.rows)),
        part("unranked", "Without a rank", &|out| ranking::unranked_section(out, &rankings)),
        part("provenance", "Provenance", &|out| provenance(out, input)),
    ]
}

fn simulated_banner(out: &mut Document, rows: &[ResultRow]) {
    let with_result: Vec<&ResultRow> = rows.iter().filter(|row| row.result.is_some()).collect();
    let simulated = with_result.iter().filter(|row| row.is_simulated()).count();
    if simulated > 0 && simulated == with_result.len() {
        out.paragraph("ALL RESULTS ARE SIMULATED: they come from a model of the engine, not from hardware.");
    } else if simulated > 0 {
        let all = count(with_result.len() as u64);
        out.paragraph(format!(
            "{} OF {all} RESULTS ARE SIMULATED; they are marked and ranked apart from measured ones.",
            count(simulated as u64)
        ));
    }
}

fn summary(out: &mut Document, input: &ReportInput<'_>) {
    out.heading(2, "Summary");
    let counts = &input.plan.counts;
    out.paragraph(format!(
        "{} in {}; {}.",
        plural(counts.points, "point"),
        plural(input.plan.designs.len() as u64, "design"),
        plural(input.rows.len() as u64, "cell")
    ));
    out.table(states_table(input.rows));
}

/// Cells per state, in the order of a cell's life.
pub(crate) fn states_table(rows: &[ResultRow]) -> Table {
    let mut states: BTreeMap<CellState, u64> = BTreeMap::new();
    rows.iter().for_each(|row| *states.entry(row.state).or_default() += 1);
    let mut table = Table::new([left("State"), right("Cells")]);
    states.into_iter().for_each(|(state, cells)| table.row([rows::status(state), count(cells)]));
    table
}

fn provenance(out: &mut Document, input: &ReportInput<'_>) {
    let with_result = || input.rows.iter().filter(|row| row.result.is_some());
    let known = |value: &dyn Fn(&ResultRow) -> Option<String>| {
        let values: BTreeSet<String> = with_result().filter_map(value).collect();
        values.into_iter().collect::<Vec<_>>().join(", ")
    };
    let text = |row: &ResultRow, column: &str| Some(row.value(column).to_csv()).filter(|text| !text.is_empty());
    let facts = [
        ("Servelab", input.tool_version.to_owned()),
        ("ids", format!("scheme {}", input.plan.id_scheme)),
        ("plan", format!("schema {}", input.plan.schema)),
        ("objective", format!("`{}`", input.objective.source())),
        (
            "engines",
            known(&|row| Some(format!("{} {}", row.engine()?, row.engine_version().unwrap_or("(version unknown)")))),
        ),
        ("models", known(&|row| text(row, "model"))),
        ("GPU", known(&|row| text(row, "gpu_model"))),
        ("sites", known(&|row| text(row, "site"))),
        ("attempts", count(input.rows.iter().filter(|row| row.attempt.is_some()).count() as u64)),
    ];
    out.heading(2, "Provenance");
    out.facts(facts.into_iter().filter(|(_, value)| !value.is_empty()));
    out.paragraph(
        "Percentiles are linear (numpy type 7) over successful requests; definitions: docs, metric definitions. Ranks rest on \
         means over repeats; \"within noise\" is Tukey and Kramer's range test against the best at 95 %, which allows for all \
         that were compared.",
    );
}
