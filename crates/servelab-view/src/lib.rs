//! What people read: the plan on a terminal, MANIFEST.md, the report, the status. Pure functions from records to text; no
//! file is touched, nothing is printed, and every statistic comes from `servelab-store` or `servelab-core`.

mod bench;
mod commands;
mod limits;
mod manifest;
mod names;
mod plan;
mod report;
mod search;
mod status;
#[cfg(test)]
mod testing;
mod text;
mod trace;

pub use bench::bench_text;
pub use commands::HowToRun;
pub use manifest::{ManifestOptions, manifest_md};
pub use plan::{PlanTextOptions, plan_text, summary_text};
pub use report::{
    CompareRequest, DEFAULT_OBJECTIVE, Objective, ReportInput, answer_txt, metric, report_md, report_txt,
};
pub use search::search_text;
pub use status::{JobLine, StatusInput, status_text};
pub use trace::{trace_metrics_text, trace_summary_text};
