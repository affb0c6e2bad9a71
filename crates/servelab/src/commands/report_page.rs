//! report.html and the figures as files: which cells are looked at from inside, and where the files go.

use std::path::Path;

use servelab_store::best::{Best, BestRequest, best};
use servelab_store::{CellDetail, ResultRow, Root, cell_detail, write_atomic};
use servelab_view::{
    Figure, FigureInput, PageInput, PredictedPair, ReportInput, figure_svg, figures, four_panels_svg, meets_cell_slo,
    normalisation, normalised, report_page, svg_to_png,
};

use crate::error::CommandError;

/// Cells shown from inside, over all workloads.
const MOST_CELLS: usize = 24;
/// Requests drawn of each.
const MOST_DOTS: usize = 600;
/// Pixels for each unit of a figure: about 300 per inch in a column of a paper.
const PNG_SCALE: f32 = 2.5;

/// The page and what it was made from.
pub(crate) struct Page {
    pub(crate) html: String,
    pub(crate) figures: Vec<Figure>,
    pub(crate) problems: Vec<String>,
}

/// Makes it. Records that cannot be read cost their pictures, not the report.
pub(crate) fn make(
    root: &Root,
    report: &ReportInput<'_>,
    predicted: &[PredictedPair],
    further: &[String],
    study_file: Option<&Path>,
) -> Result<Page, CommandError> {
    let value = |row: &ResultRow| report.objective.value(row);
    let meets = |row: &ResultRow| meets_cell_slo(report.study, row);
    let answers =
        best(report.rows, &BestRequest { value: &value, direction: report.objective.direction(), meets: &meets });
    let mut problems = Vec::new();
    let mut details: Vec<CellDetail> = Vec::new();
    for row in looked_into(report.rows, &answers) {
        match cell_detail(root, row, MOST_DOTS) {
            Ok(found) => details.extend(found),
            Err(error) => problems.push(format!("cell {} is not drawn from inside: {error}", row.cell.id)),
        }
    }
    let figures = figures(&FigureInput { report, details: &details, predicted });
    let further: Vec<String> = further.iter().filter(|text| !text.is_empty()).cloned().collect();
    let study_file = study_file.map(|file| file.display().to_string());
    let html = report_page(&PageInput {
        report,
        best: &answers,
        figures: &figures,
        further: &further,
        study_file: study_file.as_deref(),
    });
    Ok(Page { html, figures, problems })
}

/// The cells of the best candidates first, then what else was measured, workloads in turn.
fn looked_into<'a>(rows: &'a [ResultRow], answers: &[Best]) -> Vec<&'a ResultRow> {
    let each = (MOST_CELLS / answers.len().max(1)).max(2);
    let mut out: Vec<&ResultRow> = Vec::new();
    for answer in answers {
        let own: Vec<&ResultRow> =
            rows.iter().filter(|row| row.cell.workload == answer.workload && row.attempt.is_some()).collect();
        let mut chosen: Vec<&ResultRow> = Vec::new();
        let ranked = answer.entries.iter().filter_map(|entry| {
            own.iter().find(|row| row.point.id == entry.group.point && row.cell.load.describe() == entry.group.load)
        });
        for row in ranked.chain(own.iter().filter(|row| row.cell.repeat == 0)) {
            if chosen.len() >= each {
                break;
            }
            if !chosen.iter().any(|known| known.cell.id == row.cell.id) {
                chosen.push(row);
            }
        }
        out.extend(chosen);
    }
    out
}

/// Writes every figure as SVG and PNG; returns how many.
pub(crate) fn write_figures(to: &Path, report: &ReportInput<'_>, figures: &[Figure]) -> Result<usize, CommandError> {
    std::fs::create_dir_all(to)
        .map_err(|error| CommandError::failed(format!("cannot make `{}`: {error}", to.display())))?;
    let per = normalisation(report, figures);
    let drawn: Vec<Figure> = figures.iter().map(|figure| normalised(figure, per)).collect();
    for figure in &drawn {
        write_figure(to, &figure.id, &figure_svg(figure))?;
    }
    let mut workloads: Vec<&str> = Vec::new();
    for figure in &drawn {
        if !workloads.contains(&figure.workload.as_str()) {
            workloads.push(&figure.workload);
        }
    }
    let mut n = drawn.len();
    for (idx, workload) in workloads.iter().enumerate() {
        let own: Vec<&Figure> = drawn.iter().filter(|figure| figure.workload == *workload).collect();
        if let Some(svg) = four_panels_svg(&own) {
            let name = if workloads.len() > 1 { format!("four_panels_{}", idx + 1) } else { "four_panels".to_owned() };
            write_figure(to, &name, &svg)?;
            n += 1;
        }
    }
    Ok(n)
}

fn write_figure(to: &Path, name: &str, svg: &str) -> Result<(), CommandError> {
    write_atomic(&to.join(format!("{name}.svg")), svg.as_bytes())?;
    let png = svg_to_png(svg, PNG_SCALE).map_err(|error| CommandError::failed(format!("cannot {error} `{name}`")))?;
    write_atomic(&to.join(format!("{name}.png")), &png)?;
    Ok(())
}
