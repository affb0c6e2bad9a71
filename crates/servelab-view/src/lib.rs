//! What people read: the plan on a terminal, MANIFEST.md, the report, the status. Pure functions from records to text; no
//! file is touched, nothing is printed, and every statistic comes from `servelab-store` or `servelab-core`.

mod bench;
mod best;
mod commands;
mod comparison;
mod figure;
mod finding;
mod folders;
mod import;
mod limits;
mod manifest;
mod names;
mod plan;
mod plot;
mod report;
mod report_page;
mod search;
mod status;
#[cfg(test)]
mod testing;
mod text;
mod trace;
mod trace_compare;
mod trace_page;
mod trace_points;

pub use bench::bench_text;
pub use best::{best_text, meets_cell_slo};
pub use commands::HowToRun;
pub use comparison::comparison_text;
pub use figure::{Figure, FigureInput, PredictedPair, figure_svg, figures, four_panels_svg, normalised};
pub use finding::{DraftPoint, FindingDraft, FindingLine, finding_check_text, finding_template};
pub use folders::{FoldersCompared, folders_compared, per_gpus};
pub use import::{ImportRow, import_text};
pub use manifest::{ManifestOptions, manifest_md};
pub use names::is_higher_better;
pub use plan::{PlanTextOptions, plan_text, summary_text};
pub use plot::{PngError, scaling_svg, svg_to_png};
pub use report::{
    CompareRequest, DEFAULT_OBJECTIVE, Objective, ReportInput, answer_txt, metric, report_md, report_txt,
};
pub use report_page::{PageInput, normalisation, report_page};
pub use search::search_text;
pub use status::{JobLine, StatusInput, status_text};
pub use trace::{trace_metrics_text, trace_summary_text};
pub use trace_compare::{compare_text, scaling_text};
pub use trace_page::trace_page;
pub use trace_points::{TRACE_COLUMNS, traces_of_points_md, traces_of_points_txt};
