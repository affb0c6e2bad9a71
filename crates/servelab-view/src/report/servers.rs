//! What servers said about themselves: memory and cache sizes of their starts, and their own metrics over the window beside
//! the client's. Columns that no server filled are left out.

use std::collections::BTreeSet;

use servelab_store::ResultRow;

use super::rows::{origin, who};
use super::{ReportInput, metric};
use crate::names::{metric_title, metric_value};
use crate::text::document::Document;
use crate::text::table::{Table, left, right};

const START: [&str; 11] = [
    "model_memory_gib",
    "available_kv_gib",
    "kv_cache_tokens",
    "kv_cache_blocks",
    "kv_max_concurrency",
    "kv_max_concurrency_tokens",
    "model_load_s",
    "compile_s",
    "graph_capture_s",
    "engine_init_s",
    "server_ready_s",
];

const WINDOW: [&str; 12] = [
    "prom_cache_usage_max",
    "prom_requests_running",
    "prom_requests_waiting",
    "prom_preemptions",
    "prom_prefix_hit_rate",
    "prom_queue_time_mean_ms",
    "prom_prefill_time_mean_ms",
    "prom_decode_time_mean_ms",
    "prom_ttft_mean_ms",
    "ttft_mean_ms",
    "prom_itl_mean_ms",
    "itl_mean_ms",
];

const SPECULATION: [&str; 2] = ["spec_acceptance_rate", "spec_mean_length"];

const GPU: [&str; 6] =
    ["gpu_power_mean_w", "energy_per_token_j", "gpu_energy_j", "gpu_busy", "gpu_sm_active", "gpu_memory_used_max_mib"];

/// Starts, windows, speculation, GPUs: a table each, where there is something to show.
pub fn section(out: &mut Document, input: &ReportInput<'_>) {
    let rows: Vec<&ResultRow> = input.rows.iter().filter(|row| row.result.is_some()).collect();
    let is_known = |names: &[&str]| rows.iter().any(|row| names.iter().any(|name| metric(row, name).is_some()));
    let only_client = ["ttft_mean_ms", "itl_mean_ms"];
    let by_server: Vec<&str> = WINDOW.iter().filter(|name| !only_client.contains(name)).copied().collect();
    if !is_known(&START) && !is_known(&by_server) && !is_known(&GPU) {
        return;
    }
    out.heading(2, "Servers");
    if is_known(&START) {
        out.table(starts(&rows));
        out.paragraph(
            "By the engine's own log, of the first rank that spoke; ready: from the start of the process to the first token. \
             Max concurrency: requests of full length that the KV cache holds.",
        );
    }
    if is_known(&by_server) {
        out.table(cells(&rows, &WINDOW, None));
        out.paragraph(
            "Time-means and increases of the server's own metrics over the window; TTFT and ITL are means, the server's beside \
             the client's.",
        );
    }
    if is_known(&SPECULATION) {
        out.table(cells(&rows, &SPECULATION, Some(("Accepted by position", "spec_acceptance_by_position"))));
    }
    if is_known(&GPU) {
        out.table(cells(&rows, &GPU, None));
        out.paragraph("All GPUs of the node together. Busy is the share of time in which any kernel ran.");
    }
}

/// One line per server start that differs in anything; cells of one start say the same.
fn starts(rows: &[&ResultRow]) -> Table {
    let mut columns = vec![left("Exp")];
    columns.extend(START.iter().map(|name| right(metric_title(name))));
    columns.push(left("Origin"));
    let mut table = Table::new(columns);
    let mut seen = BTreeSet::new();
    for row in rows {
        let mut line = vec![who(row)];
        line.extend(START.iter().map(|name| shown(name, metric(row, name))));
        line.push(origin(row.is_simulated()).to_owned());
        if START.iter().any(|name| metric(row, name).is_some()) && seen.insert(line.clone()) {
            table.row(line);
        }
    }
    table.without_empty_columns()
}

fn cells(rows: &[&ResultRow], names: &[&str], text: Option<(&str, &str)>) -> Table {
    let mut columns = vec![left("Exp"), left("Dataset"), left("Load")];
    columns.extend(names.iter().map(|name| right(metric_title(name))));
    columns.extend(text.map(|(title, _)| left(title)));
    columns.push(left("Origin"));
    let mut table = Table::new(columns);
    for row in rows {
        if names.iter().all(|name| metric(row, name).is_none()) {
            continue;
        }
        let mut line = vec![who(row), row.cell.workload.clone(), row.cell.load.describe()];
        line.extend(names.iter().map(|name| shown(name, metric(row, name))));
        line.extend(text.map(|(_, column)| row.value(column).to_csv()));
        line.push(origin(row.is_simulated()).to_owned());
        table.row(line);
    }
    table.without_empty_columns()
}

/// Empty rather than a dash, so that a column without any value goes away.
fn shown(name: &str, value: Option<f64>) -> String {
    value.map(|value| metric_value(name, Some(value))).unwrap_or_default()
}
