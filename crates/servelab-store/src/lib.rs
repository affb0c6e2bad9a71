//! Results on disk: the root folder and its layout, claims, attempts, Parquet records, and the tables derived from them.
//! Plain files with atomic renames, so that a kill at any instant loses nothing that was finished. Metric definitions and
//! verdicts live in `servelab-core`; nothing here starts processes or prints.

mod accuracy;
mod attempt;
pub mod baseline;
pub mod best;
mod claim;
pub mod claims;
mod curves;
pub mod design;
mod detail;
mod error;
mod files;
pub mod finding;
pub mod import;
pub mod rank;
mod records;
mod results;
mod root;
mod table;
pub mod versus;
mod vllm_bench;

pub use accuracy::AccuracyGuard;
pub use attempt::{AttemptDir, AttemptState, FailureReport, StateChange, WindowInfo};
pub use claim::{Claim, ClaimInfo, ClaimRequest, JobLife, Liveness, hostname, is_gone};
pub use curves::{CURVE_METRICS, load_curves};
pub use detail::{CellDetail, RequestDot, cell_detail};
pub use error::StoreError;
pub use files::{Durability, JsonLines, append_line, read_json, read_json_lines, write_atomic, write_json};
pub use records::{
    ForeignColumn, RecordFiles, RecordWriter, read_events, read_foreign_columns, read_prom, read_requests,
    write_events, write_prom, write_requests,
};
pub use results::{ResultRow, RowContext, collect_rows, results_table, varied_parameters};
pub use root::{ROOT_FORMAT, Root};
pub use table::{CellValue, Column, ColumnKind, Table, viz_data};
pub use vllm_bench::{VllmBenchInfo, vllm_bench};
