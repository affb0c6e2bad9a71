//! `servelab report`: tables and texts of what was measured, into a folder whose name follows from the results: the same
//! results give the same folder and the same bytes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use servelab_core::identity::sha256_hex;
use servelab_core::state::CellState;
use servelab_store::import::{import, import_study};
use servelab_store::{ResultRow, Root, Table, collect_rows, load_curves, results_table, write_atomic};
use servelab_view::{
    CompareRequest, Figure, Objective, PredictedPair, ReportInput, answer_txt, folders_compared, per_gpus, report_md,
    report_txt,
};

use super::traces_of_points::PointTraces;
use super::{report_page as page, select, stored};
use crate::cli::StudyArgs;
use crate::error::CommandError;
use crate::predict::{PredictOptions, beside, predict_plan};
use crate::study_input::StudyInput;
use crate::ui::Ui;

/// Arguments of `servelab report`.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    #[command(flatten)]
    study: StudyArgs,
    /// Folder to write to; default: ROOT/reports/STUDY/REVISION
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Add every setting of a point's configuration as a column
    #[arg(long)]
    enrich_configs: bool,
    /// Compare the values of this parameter
    #[arg(long, value_name = "P", requires = "metric")]
    compare_param: Option<String>,
    /// Metric of the comparison: a column of results.csv
    #[arg(long, value_name = "M", requires = "compare_param")]
    metric: Option<String>,
    /// What the ranking makes large: an expression over columns; a leading `-` makes one small
    #[arg(long, value_name = "EXPR", allow_hyphen_values = true)]
    objective: Option<String>,
    /// Instead of the study's own results, show those in these folders beside each other, raw and per node; the study says by
    /// which objective, limits and `normalise`
    #[arg(long, value_name = "DIR", num_args = 1..)]
    compare_dirs: Vec<PathBuf>,
    /// Let simulated cells compete with measured ones
    #[arg(long)]
    mix_simulated: bool,
    /// Put predictions beside the measurements: columns and a section
    #[arg(long)]
    predict: bool,
    #[command(flatten)]
    options: PredictOptions,
    /// Write every figure as SVG and PNG too; default: the folder `figures` of the report
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    figures: Option<Option<PathBuf>>,
    /// Exit with 1 when a cell failed or a verdict says that it must not be believed
    #[arg(long)]
    strict: bool,
    /// Print the rows as JSON instead of the text
    #[arg(long)]
    json: bool,
}

pub(crate) fn report(args: &ReportArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let input = StudyInput::load(&args.study.study, &args.study.overrides())?;
    let objective = match &args.objective {
        Some(text) => Objective::parse(text)
            .map_err(|error| CommandError::usage(format!("`--objective {text}`: {}", error.message)))?,
        None => Objective::of_study(&input.study).map_err(|error| CommandError::usage(error.message))?,
    };
    if !args.compare_dirs.is_empty() {
        return compare_dirs(args, &input, &objective, ui);
    }
    let nothing = || {
        CommandError::failed(format!(
            "study `{}` has no results under `{}`",
            input.study.study,
            args.study.root.display()
        ))
        .hint(format!("measure first: servelab run {}", args.study.study.display()))
    };
    if !args.study.root.exists() {
        return Err(nothing());
    }
    let root = Root::open(&args.study.root)?;
    let mut plan = stored::plan_with_history(&root, &input.study.study)?.ok_or_else(nothing)?;
    let context = stored::row_context(&input, &plan);
    select::narrow(&mut plan, &args.study)?;
    let rows = collect_rows(&root, &plan, &context)?;
    let compare = match (&args.compare_param, &args.metric) {
        (Some(parameter), Some(metric)) => {
            check_comparison(&rows, parameter, metric)?;
            Some(CompareRequest { parameter, metric })
        }
        _ => None,
    };
    let report_input = ReportInput {
        plan: &plan,
        study: &input.study,
        rows: &rows,
        objective: &objective,
        compare,
        mix_simulated: args.mix_simulated,
        tool_version: env!("CARGO_PKG_VERSION"),
    };
    let traces = PointTraces::find(&root, &rows)?;
    for problem in &traces.problems {
        ui.always(&format!("warning: {problem}"));
    }
    let mut table = results_table(&rows, args.enrich_configs);
    traces.add_columns(&mut table, &rows);
    let mut extra = Extra { text: vec![traces.text()], markdown: vec![traces.markdown()], predicted: Vec::new() };
    if args.predict {
        let cells = predict_plan(&input, &plan, &args.options)?;
        extra.text.push(beside::section(&rows, &cells));
        extra.markdown.push(beside::markdown(&rows, &cells));
        extra.predicted = beside::pairs(&rows, &cells);
        beside::add_columns(&mut table, &rows, &cells);
    }
    let text = with_sections(report_txt(&report_input), &extra.text);
    let written = write(&root, &report_input, &table, &text, &extra, Some(&input.file), args.out.as_deref())?;
    let folder = written.folder;
    for problem in &written.problems {
        ui.always(&format!("warning: {problem}"));
    }
    if args.json {
        let json =
            serde_json::json!({"schema": 1, "study": plan.study, "folder": folder, "rows": table.to_json_rows()});
        ui.data(&serde_json::to_string_pretty(&json).map_err(|error| CommandError::failed(error.to_string()))?);
    } else {
        ui.data(&text);
    }
    ui.say(&format!(
        "wrote report.html, report.txt, report.md, results.csv, results.parquet, viz_data.json to {}",
        folder.display()
    ));
    if let Some(to) = &args.figures {
        let to = to.clone().unwrap_or_else(|| folder.join("figures"));
        let n = page::write_figures(&to, &report_input, &written.figures)?;
        ui.say(&format!("wrote {n} figures as SVG and PNG to {}", to.display()));
    }
    if args.strict && rows.iter().any(must_not_be_believed) {
        ui.always("strict: some cells failed or must not be believed (see the report)");
        return Ok(ExitCode::from(1));
    }
    Ok(ExitCode::SUCCESS)
}

/// The report over the results in folders.
fn compare_dirs(
    args: &ReportArgs,
    input: &StudyInput,
    objective: &Objective,
    ui: Ui,
) -> Result<ExitCode, CommandError> {
    if args.predict || args.compare_param.is_some() {
        return Err(CommandError::usage("`--compare-dirs` shows other results than the study's")
            .hint("leave out --predict and --compare-param"));
    }
    for folder in &args.compare_dirs {
        if !folder.exists() {
            return Err(CommandError::usage(format!("`--compare-dirs {}`: there is no such folder", folder.display())));
        }
    }
    let imports = import(&args.compare_dirs).map_err(|error| CommandError::usage(format!("cannot {error}")))?;
    for skipped in imports.skipped.iter().filter(|skipped| skipped.is_problem) {
        ui.always(&format!("warning: `{}` was not read: {}", skipped.path.display(), skipped.reason));
    }
    if imports.results.is_empty() {
        return Err(CommandError::usage("there is no result in these folders")
            .hint("formats that are read: docs, commands, import"));
    }
    let (plan, rows, named_gpus) = import_study(&input.study.study, &imports.results);
    let report_input = ReportInput {
        plan: &plan,
        study: &input.study,
        rows: &rows,
        objective,
        compare: None,
        mix_simulated: args.mix_simulated,
        tool_version: env!("CARGO_PKG_VERSION"),
    };
    let folders = folders_compared(&rows, per_gpus(&input.study), &named_gpus);
    let extra = Extra { text: vec![folders.text], markdown: vec![folders.markdown], predicted: Vec::new() };
    let text = with_sections(report_txt(&report_input), &extra.text);
    let table = results_table(&rows, args.enrich_configs);
    let root = Root::open_or_create(&args.study.root)?;
    let written = write(&root, &report_input, &table, &text, &extra, None, args.out.as_deref())?;
    if args.json {
        let json = serde_json::json!({
            "schema": 1, "study": plan.study, "folder": written.folder, "rows": table.to_json_rows(),
        });
        ui.data(&serde_json::to_string_pretty(&json).map_err(|error| CommandError::failed(error.to_string()))?);
    } else {
        ui.data(&text);
    }
    ui.say(&format!("wrote report.html and tables to {}", written.folder.display()));
    if let Some(to) = &args.figures {
        let to = to.clone().unwrap_or_else(|| written.folder.join("figures"));
        let n = page::write_figures(&to, &report_input, &written.figures)?;
        ui.say(&format!("wrote {n} figures as SVG and PNG to {}", to.display()));
    }
    Ok(if args.strict && rows.iter().any(must_not_be_believed) { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// Writes the report with its defaults; `run` does so at its end. Returns the folder and the answer.
pub(crate) fn write_default(
    root: &Root,
    input: &StudyInput,
    width: Option<usize>,
) -> Result<Option<(PathBuf, String)>, CommandError> {
    let Some(plan) = stored::plan_with_history(root, &input.study.study)? else { return Ok(None) };
    let rows = collect_rows(root, &plan, &stored::row_context(input, &plan))?;
    let objective = Objective::of_study(&input.study).map_err(|error| CommandError::usage(error.message))?;
    let report_input = ReportInput {
        plan: &plan,
        study: &input.study,
        rows: &rows,
        objective: &objective,
        compare: None,
        mix_simulated: false,
        tool_version: env!("CARGO_PKG_VERSION"),
    };
    let traces = PointTraces::find(root, &rows)?;
    let extra = Extra { text: vec![traces.text()], markdown: vec![traces.markdown()], predicted: Vec::new() };
    let text = with_sections(report_txt(&report_input), &extra.text);
    let mut table = results_table(&rows, false);
    traces.add_columns(&mut table, &rows);
    let written = write(root, &report_input, &table, &text, &extra, Some(&input.file), None)?;
    Ok(Some((written.folder, answer_txt(&report_input, width))))
}

/// What stands behind the report's own sections.
struct Extra {
    text: Vec<String>,
    markdown: Vec<String>,
    predicted: Vec<PredictedPair>,
}

/// What was written.
struct Written {
    folder: PathBuf,
    figures: Vec<Figure>,
    problems: Vec<String>,
}

fn write(
    root: &Root,
    input: &ReportInput<'_>,
    table: &Table,
    text: &str,
    extra: &Extra,
    study_file: Option<&Path>,
    out: Option<&Path>,
) -> Result<Written, CommandError> {
    let csv = table.to_csv();
    let folder = match out {
        Some(folder) => folder.to_path_buf(),
        None => root.reports_dir(&input.study.study, &revision(&csv, text))?,
    };
    std::fs::create_dir_all(&folder)
        .map_err(|error| CommandError::failed(format!("cannot make `{}`: {error}", folder.display())))?;
    write_atomic(&folder.join("results.csv"), &csv)?;
    table.write_parquet(&folder.join("results.parquet"))?;
    table.write_viz_data(&folder.join("viz_data.json"), load_curves(input.rows))?;
    write_atomic(&folder.join("report.txt"), text.as_bytes())?;
    write_atomic(&folder.join("report.md"), with_sections(report_md(input), &extra.markdown).as_bytes())?;
    let page = page::make(root, input, &extra.predicted, &extra.text, study_file)?;
    write_atomic(&folder.join("report.html"), page.html.as_bytes())?;
    Ok(Written { folder, figures: page.figures, problems: page.problems })
}

fn must_not_be_believed(row: &ResultRow) -> bool {
    matches!(row.state, CellState::Failed | CellState::Invalid | CellState::Timeout)
}

fn check_comparison(rows: &[ResultRow], parameter: &str, metric: &str) -> Result<(), CommandError> {
    if !rows.iter().any(|row| row.parameter(parameter).is_some()) {
        let known = servelab_store::varied_parameters(rows);
        return Err(CommandError::usage(format!("`--compare-param {parameter}`: no point has this parameter"))
            .hint(format!("varied here: {}", known.join(", "))));
    }
    let table = results_table(rows, false);
    let names: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    if !names.contains(&metric) && !rows.iter().any(|row| servelab_view::metric(row, metric).is_some()) {
        let near = servelab_core::source::did_you_mean(metric, names.iter().copied());
        return Err(CommandError::usage(format!("`--metric {metric}`: there is no such column")).hint(
            near.map_or_else(
                || "the columns of results.csv are the metrics".to_owned(),
                |near| format!("did you mean `{near}`?"),
            ),
        ));
    }
    Ok(())
}

fn with_sections(mut text: String, sections: &[String]) -> String {
    for section in sections.iter().filter(|section| !section.is_empty()) {
        text.push('\n');
        text.push_str(section);
    }
    text
}

/// Names a report after what is in it.
fn revision(csv: &[u8], text: &str) -> String {
    let mut digits = sha256_hex(&[csv, text.as_bytes()].concat());
    digits.truncate(10);
    digits
}
