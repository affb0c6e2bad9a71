//! One row per cell, put together from the plan and the newest finished attempt: the results table of the contract.
//! Statistics over rows live in `rank`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use servelab_core::accuracy::AccuracyReport;
use servelab_core::engine_facts::EngineFacts;
use servelab_core::plan::{Plan, PlannedCell, PlannedPoint};
use servelab_core::result::{BenchResult, Quantiles, Severity, Verdict};
use servelab_core::state::CellState;

use crate::accuracy::{self, AccuracyGuard};
use crate::attempt::{AttemptDir, FailureReport, WindowInfo};
use crate::error::StoreError;
use crate::root::Root;
use crate::table::{CellValue, Column, ColumnKind, Table};

use ColumnKind::{Bool, Float, Int, Text};

/// The columns before the varied parameters.
const IDENTITY_COLUMNS: [(&str, ColumnKind); 22] = [
    ("cell_id", Text),
    ("point_id", Text),
    ("labels", Text),
    ("legacy_hash", Text),
    ("study", Text),
    ("design", Text),
    ("workload", Text),
    ("load_kind", Text),
    ("load_value", Float),
    ("repeat", Int),
    ("attempt", Int),
    ("state", Text),
    ("verdict", Text),
    ("warnings", Text),
    ("engine", Text),
    ("engine_version", Text),
    ("model", Text),
    ("gpu_model", Text),
    ("site", Text),
    ("simulated", Bool),
    ("gpus", Int),
    ("nodes", Int),
];

/// The columns after them and before the latencies.
const METRIC_COLUMNS: [(&str, ColumnKind); 7] = [
    ("throughput_tokens_per_sec", Float),
    ("throughput_requests_per_sec", Float),
    ("goodput_requests_per_s", Float),
    ("total_tokens_generated", Int),
    ("total_time_s", Float),
    ("success_rate", Float),
    ("failed_requests", Int),
];

const LATENCIES: [&str; 5] = ["ttft", "itl", "tpot", "e2e_latency", "ttft_sched"];
const LATENCY_STATISTICS: [&str; 4] = ["mean", "p50", "p95", "p99"];

const SERVER_COLUMNS: [(&str, ColumnKind); 36] = [
    ("prom_preemptions", Float),
    ("prom_cache_usage", Float),
    ("prom_cache_usage_max", Float),
    ("prom_requests_running", Float),
    ("prom_requests_waiting", Float),
    ("accuracy_exact_match", Float),
    ("accuracy_first_divergence", Float),
    ("accuracy_token_kl", Float),
    ("prom_prefix_hit_rate", Float),
    ("prom_queue_time_mean_ms", Float),
    ("prom_prefill_time_mean_ms", Float),
    ("prom_decode_time_mean_ms", Float),
    ("prom_ttft_mean_ms", Float),
    ("prom_itl_mean_ms", Float),
    ("spec_acceptance_rate", Float),
    ("spec_mean_length", Float),
    ("spec_acceptance_by_position", Text),
    ("gpu_power_mean_w", Float),
    ("gpu_power_max_w", Float),
    ("gpu_energy_j", Float),
    ("gpu_busy", Float),
    ("gpu_sm_active", Float),
    ("gpu_memory_used_max_mib", Float),
    ("energy_per_token_j", Float),
    ("model_memory_gib", Float),
    ("kv_cache_tokens", Int),
    ("kv_cache_blocks", Int),
    ("available_kv_gib", Float),
    ("kv_max_concurrency", Float),
    ("kv_max_concurrency_tokens", Int),
    ("model_load_s", Float),
    ("compile_s", Float),
    ("graph_capture_s", Float),
    ("graph_memory_gib", Float),
    ("engine_init_s", Float),
    ("server_ready_s", Float),
];

/// Facts about the whole study that neither the plan nor an attempt may know; an attempt's own word wins.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RowContext {
    /// Site name.
    pub site: Option<String>,
    /// GPU model of the site.
    pub gpu_model: Option<String>,
    /// The study's accuracy guard, if it has one.
    pub accuracy: Option<AccuracyGuard>,
}

/// Everything known about one cell.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultRow {
    /// Study.
    pub study: String,
    /// The cell as planned.
    pub cell: PlannedCell,
    /// Its point as planned.
    pub point: PlannedPoint,
    /// Number of the attempt that the row shows.
    pub attempt: Option<u32>,
    /// State of that attempt, or the planned state.
    pub state: CellState,
    /// Failure or verdict code of the attempt, or the planned reasons.
    pub code: Option<String>,
    /// The result, when the attempt is over and has one.
    pub result: Option<BenchResult>,
    /// Why it failed.
    pub failure: Option<FailureReport>,
    /// Facts of the attempt.
    pub window: WindowInfo,
    /// Facts of the study.
    pub context: RowContext,
    /// The point's greedy answers beside the baseline's, or why there is no comparison; `None` without a guard.
    pub accuracy: Option<Result<AccuracyReport, String>>,
    /// A file of the attempt that could not be read; the row then lacks what stood in it.
    pub problem: Option<String>,
}

/// One row per cell of the plan, in the plan's order. A damaged file costs its row, not the report.
pub fn collect_rows(root: &Root, plan: &Plan, context: &RowContext) -> Result<Vec<ResultRow>, StoreError> {
    let points: BTreeMap<_, _> = plan.points.iter().map(|point| (&point.id, point)).collect();
    let cells = plan.cells.iter().filter_map(|cell| Some((cell, *points.get(&cell.point)?)));
    let mut rows: Vec<ResultRow> =
        cells.map(|(cell, point)| collect_row(root, &plan.study, cell, point, context)).collect::<Result<_, _>>()?;
    if let Some(guard) = &context.accuracy {
        accuracy::judge_rows(root, guard, &mut rows);
    }
    Ok(rows)
}

fn collect_row(
    root: &Root,
    study: &str,
    cell: &PlannedCell,
    point: &PlannedPoint,
    context: &RowContext,
) -> Result<ResultRow, StoreError> {
    let planned = match cell.status {
        servelab_core::plan::PlanStatus::Planned => CellState::Planned,
        servelab_core::plan::PlanStatus::Infeasible => CellState::Infeasible,
        servelab_core::plan::PlanStatus::Blocked => CellState::Blocked,
    };
    let mut row = ResultRow {
        study: study.to_owned(),
        cell: cell.clone(),
        point: point.clone(),
        attempt: None,
        state: planned,
        code: (!cell.reasons.is_empty()).then(|| cell.reasons.join("; ")),
        result: None,
        failure: None,
        window: WindowInfo::default(),
        context: context.clone(),
        accuracy: None,
        problem: None,
    };
    let attempts = root.attempts(&cell.id)?;
    let mut shown = attempts.last();
    for attempt in attempts.iter().rev() {
        if attempt.state().is_ok_and(|state| state.is_some_and(|state| state.state.is_terminal())) {
            shown = Some(attempt);
            break;
        }
    }
    if let Some(attempt) = shown {
        row.attempt = Some(attempt.attempt());
        if let Err(error) = fill(&mut row, attempt) {
            row.problem = Some(error.to_string());
        }
    }
    Ok(row)
}

fn fill(row: &mut ResultRow, attempt: &AttemptDir) -> Result<(), StoreError> {
    if let Some(state) = attempt.state()? {
        row.state = state.state;
        row.code = state.code;
    }
    row.failure = attempt.failure()?;
    row.window = attempt.window()?.unwrap_or_default();
    row.result = attempt.result()?;
    Ok(())
}

impl ResultRow {
    fn accuracy_report(&self) -> Option<&AccuracyReport> {
        self.accuracy.as_ref()?.as_ref().ok()
    }

    /// The verdict, if there is a result.
    pub fn verdict(&self) -> Option<&Verdict> {
        self.result.as_ref().map(|result| &result.verdict)
    }

    /// True when the numbers come from a simulator: by the attempt's word, else by the planned engine.
    pub fn is_simulated(&self) -> bool {
        self.window.simulated.unwrap_or_else(|| self.engine() == Some("sim"))
    }

    /// Engine kind.
    pub fn engine(&self) -> Option<&str> {
        self.config(&["engine", "kind"]).and_then(Value::as_str)
    }

    /// The version that ran, else the declared one.
    pub fn engine_version(&self) -> Option<&str> {
        let declared = || self.config(&["engine", "version"]).and_then(Value::as_str);
        self.window.engine_version.as_deref().or_else(declared)
    }

    /// Value of a parameter: the varied one, else what the configuration says.
    pub fn parameter(&self, name: &str) -> Option<&Value> {
        self.point.factors.get(name).or_else(|| self.window.probed.get(name)).or_else(|| {
            let path: Vec<&str> = name.split('.').collect();
            ["serve", "deploy"].iter().find_map(|section| {
                let mut full = vec![*section];
                full.extend(&path);
                self.config(&full).or_else(|| self.config(&[section, name]))
            })
        })
    }

    /// A number of the results table by its column name; `None` when absent or not a number.
    pub fn metric(&self, column: &str) -> Option<f64> {
        match self.value(column) {
            CellValue::Null => self.parameter(column).and_then(Value::as_f64),
            value => value.as_f64(),
        }
    }

    /// Every number of the row by column name, for expressions.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let names = fixed_columns().into_iter().map(|(name, _)| name);
        names.filter_map(|name| self.value(&name).as_f64().map(|value| (name, value))).collect()
    }

    /// Why this row must never get a rank; `None` when it may.
    pub fn unranked_reason(&self) -> Option<String> {
        if self.state != CellState::Done && self.state != CellState::Invalid {
            let code = self.code.as_ref().map(|code| format!(" ({code})")).unwrap_or_default();
            return Some(format!("{}{code}", self.state.name()));
        }
        let Some(result) = &self.result else {
            return Some(self.problem.clone().unwrap_or_else(|| "no result".to_owned()));
        };
        if result.requests.completed == 0 {
            return Some("no request succeeded".to_owned());
        }
        if self.state == CellState::Invalid || !result.verdict.ok {
            let codes = codes(&result.verdict, Severity::Invalid);
            return Some(format!("invalid ({})", if codes.is_empty() { "no reason recorded" } else { &codes }));
        }
        None
    }

    /// The value of one fixed column; null for a name that is none.
    pub fn value(&self, column: &str) -> CellValue {
        let text = |value: Option<&str>| CellValue::from(value);
        match column {
            "cell_id" => self.cell.id.as_str().into(),
            "point_id" => self.point.id.as_str().into(),
            "labels" => self.point.labels.join(";").into(),
            "legacy_hash" => {
                let in_label_order = self.point.labels.iter().filter_map(|label| self.point.legacy_hashes.get(label));
                let hashes: Vec<&str> = in_label_order.map(String::as_str).collect();
                text((!hashes.is_empty()).then_some(hashes.join(";")).as_deref())
            }
            "study" => self.study.as_str().into(),
            "design" => self.point.designs.join(";").into(),
            "workload" => self.cell.workload.as_str().into(),
            "load_kind" => self.cell.load.kind().into(),
            "load_value" => self.cell.load.value().into(),
            "repeat" => self.cell.repeat.into(),
            "attempt" => self.attempt.into(),
            "state" => self.state.name().into(),
            "verdict" => self
                .verdict()
                .map(|verdict| if verdict.ok { "ok".to_owned() } else { codes(verdict, Severity::Invalid) })
                .into(),
            "warnings" => {
                let codes = self.verdict().map(|verdict| codes(verdict, Severity::Warning));
                codes.filter(|codes| !codes.is_empty()).into()
            }
            "engine" => text(self.engine()),
            "engine_version" => text(self.engine_version()),
            "model" => text(self.config(&["model", "id"]).or_else(|| self.config(&["model"])).and_then(Value::as_str)),
            "gpu_model" => text(self.window.gpu_model.as_deref().or(self.context.gpu_model.as_deref())),
            "site" => text(self.window.site.as_deref().or(self.context.site.as_deref())),
            "simulated" => self.is_simulated().into(),
            "gpus" => self.point.gpus.into(),
            "nodes" => self.point.nodes.into(),
            "accuracy_exact_match" => self.accuracy_report().and_then(|report| report.exact_match_rate).into(),
            "accuracy_first_divergence" => {
                self.accuracy_report().and_then(|report| report.first_divergence_median).into()
            }
            "accuracy_token_kl" => self.accuracy_report().and_then(|report| report.token_kl_mean).into(),
            _ => match start_value(&self.window.engine, column) {
                Some(value) => value,
                None => self.result.as_ref().map_or(CellValue::Null, |result| result_value(result, column)),
            },
        }
    }

    fn config(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(&self.point.config, |value, key| value.get(key)).filter(|value| !value.is_null())
    }
}

/// A column about the server's start; `None` for a name that is none.
fn start_value(engine: &EngineFacts, column: &str) -> Option<CellValue> {
    Some(match column {
        "model_memory_gib" => engine.model_memory_gib.into(),
        "kv_cache_tokens" => engine.kv_cache_tokens.into(),
        "kv_cache_blocks" => engine.kv_cache_blocks.into(),
        "available_kv_gib" => engine.available_kv_gib.into(),
        "kv_max_concurrency" => engine.max_concurrency.into(),
        "kv_max_concurrency_tokens" => engine.max_concurrency_tokens.into(),
        "model_load_s" => engine.model_load_s.into(),
        "compile_s" => engine.compile_s.into(),
        "graph_capture_s" => engine.graph_capture_s.into(),
        "graph_memory_gib" => engine.graph_memory_gib.into(),
        "engine_init_s" => engine.engine_init_s.into(),
        "server_ready_s" => engine.ready_s.into(),
        _ => return None,
    })
}

/// A column's key in `result.json`, for those that another tool's file may say nothing about.
fn result_key(column: &str) -> &str {
    match column {
        "throughput_tokens_per_sec" => "throughput.output_tokens_per_s",
        "throughput_requests_per_sec" => "throughput.requests_per_s",
        "total_tokens_generated" => "output_tokens",
        "total_time_s" => "duration_s",
        "success_rate" => "requests.completed",
        "failed_requests" => "requests.failed",
        other => other,
    }
}

fn result_value(result: &BenchResult, column: &str) -> CellValue {
    let server = result.server.as_ref();
    let counts = result.requests;
    if result.is_unknown(result_key(column)) {
        return CellValue::Null;
    }
    match column {
        "throughput_tokens_per_sec" => result.throughput.output_tokens_per_s.into(),
        "throughput_requests_per_sec" => result.throughput.requests_per_s.into(),
        "goodput_requests_per_s" => result.goodput_requests_per_s.into(),
        "total_tokens_generated" => result.output_tokens.into(),
        "total_time_s" => result.duration_s.into(),
        "success_rate" => {
            let ended = counts.completed + counts.failed;
            (ended > 0).then(|| counts.completed as f64 / ended as f64).into()
        }
        "failed_requests" => counts.failed.into(),
        "prom_preemptions" => server.and_then(|server| server.preemptions).into(),
        "prom_cache_usage" => server.and_then(|server| server.kv_usage_mean).into(),
        "prom_cache_usage_max" => server.and_then(|server| server.kv_usage_max).into(),
        "prom_requests_running" => server.and_then(|server| server.running_mean).into(),
        "prom_requests_waiting" => server.and_then(|server| server.waiting_mean).into(),
        "prom_prefix_hit_rate" => server.and_then(|server| server.prefix_hit_rate).into(),
        "prom_queue_time_mean_ms" => server.and_then(|server| server.queue_time_mean_ms).into(),
        "prom_prefill_time_mean_ms" => server.and_then(|server| server.prefill_time_mean_ms).into(),
        "prom_decode_time_mean_ms" => server.and_then(|server| server.decode_time_mean_ms).into(),
        "prom_ttft_mean_ms" => server.and_then(|server| server.ttft_mean_ms).into(),
        "prom_itl_mean_ms" => server.and_then(|server| server.itl_mean_ms).into(),
        _ => match server_part_value(result, column) {
            Some(value) => value,
            None => latency_value(result, column).into(),
        },
    }
}

/// A column about speculative decoding or the GPUs; `None` for a name that is none.
fn server_part_value(result: &BenchResult, column: &str) -> Option<CellValue> {
    let server = result.server.as_ref();
    let speculation = server.and_then(|server| server.speculation.as_ref());
    let gpu = server.and_then(|server| server.gpu.as_ref());
    Some(match column {
        "spec_acceptance_rate" => speculation.map(|spec| spec.acceptance_rate).into(),
        "spec_mean_length" => speculation.map(|spec| spec.mean_length).into(),
        "spec_acceptance_by_position" => {
            let shares = speculation.map(|spec| &spec.acceptance_by_position).filter(|shares| !shares.is_empty());
            shares.map(|shares| shares.iter().map(|share| format!("{share:.4}")).collect::<Vec<_>>().join(";")).into()
        }
        "gpu_power_mean_w" => gpu.and_then(|gpu| gpu.power_mean_w).into(),
        "gpu_power_max_w" => gpu.and_then(|gpu| gpu.power_max_w).into(),
        "gpu_energy_j" => gpu.and_then(|gpu| gpu.energy_j).into(),
        "gpu_busy" => gpu.and_then(|gpu| gpu.busy_mean).into(),
        "gpu_sm_active" => gpu.and_then(|gpu| gpu.sm_active_mean).into(),
        "gpu_memory_used_max_mib" => gpu.and_then(|gpu| gpu.memory_used_max_mib).into(),
        "energy_per_token_j" => {
            let rate = Some(result.throughput.output_tokens_per_s).filter(|rate| *rate > 0.0);
            gpu.and_then(|gpu| gpu.power_mean_w).zip(rate).map(|(power_w, rate)| power_w / rate).into()
        }
        _ => return None,
    })
}

fn latency_value(result: &BenchResult, column: &str) -> Option<f64> {
    let (latency, statistic) = column.strip_suffix("_ms")?.rsplit_once('_')?;
    let all = &result.latency_ms;
    let quantiles: &Quantiles = match latency {
        "ttft" => &all.ttft,
        "itl" => &all.itl,
        "tpot" => &all.tpot,
        "e2e_latency" => &all.e2e,
        "ttft_sched" => &all.ttft_sched,
        _ => return None,
    };
    match statistic {
        "mean" => quantiles.mean,
        "p50" => quantiles.p50,
        "p95" => quantiles.p95,
        "p99" => quantiles.p99,
        _ => None,
    }
}

fn codes(verdict: &Verdict, severity: Severity) -> String {
    let reasons = verdict.reasons.iter().filter(|reason| reason.severity == severity);
    reasons.map(|reason| reason.code.as_str()).collect::<Vec<_>>().join(";")
}

fn latency_columns() -> impl Iterator<Item = (String, ColumnKind)> {
    LATENCIES.iter().flat_map(|latency| {
        LATENCY_STATISTICS.iter().map(move |statistic| (format!("{latency}_{statistic}_ms"), Float))
    })
}

fn owned(columns: &[(&str, ColumnKind)]) -> Vec<(String, ColumnKind)> {
    columns.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect()
}

fn fixed_columns() -> Vec<(String, ColumnKind)> {
    let mut columns = owned(&IDENTITY_COLUMNS);
    columns.extend(owned(&METRIC_COLUMNS));
    columns.extend(latency_columns());
    columns.extend(owned(&SERVER_COLUMNS));
    columns
}

/// Names of the parameters that any of the rows' designs varies or a probe found, sorted; those that are fixed columns anyway are left out.
pub fn varied_parameters(rows: &[ResultRow]) -> Vec<String> {
    let fixed: BTreeSet<String> = fixed_columns().into_iter().map(|(name, _)| name).collect();
    let own = |row: &'_ ResultRow| -> Vec<String> {
        row.point.factors.keys().chain(row.window.probed.keys()).cloned().collect()
    };
    let names: BTreeSet<String> = rows.iter().flat_map(own).collect();
    names.into_iter().filter(|name| !fixed.contains(name)).collect()
}

/// The results table. With `enrich_configs` every setting of the points' configurations is a column of its own, named by
/// its dotted path.
pub fn results_table(rows: &[ResultRow], enrich_configs: bool) -> Table {
    let parameters = varied_parameters(rows);
    let settings: Vec<BTreeMap<String, Value>> =
        if enrich_configs { rows.iter().map(|row| leaves(&row.point.config)).collect() } else { Vec::new() };
    let setting_names: BTreeSet<&String> = settings.iter().flat_map(BTreeMap::keys).collect();

    let mut table = Table::default();
    let mut add = |name: &str, kind: ColumnKind| table.columns.push(Column { name: name.to_owned(), kind });
    let parameter_kinds: Vec<ColumnKind> =
        parameters.iter().map(|name| kind_of(rows.iter().filter_map(|row| row.parameter(name)))).collect();
    let setting_kinds: Vec<ColumnKind> =
        setting_names.iter().map(|name| kind_of(settings.iter().filter_map(|leaf| leaf.get(*name)))).collect();
    let mut metrics = owned(&METRIC_COLUMNS);
    metrics.extend(latency_columns());
    metrics.extend(owned(&SERVER_COLUMNS));
    IDENTITY_COLUMNS.iter().for_each(|(name, kind)| add(name, *kind));
    parameters.iter().zip(&parameter_kinds).for_each(|(name, kind)| add(name, *kind));
    metrics.iter().for_each(|(name, kind)| add(name, *kind));
    setting_names.iter().zip(&setting_kinds).for_each(|(name, kind)| add(name, *kind));

    for (idx, row) in rows.iter().enumerate() {
        let mut cells: Vec<CellValue> = IDENTITY_COLUMNS.iter().map(|(name, _)| row.value(name)).collect();
        let varied = parameters.iter().zip(&parameter_kinds);
        cells.extend(varied.map(|(name, kind)| cell_value(row.parameter(name), *kind)));
        cells.extend(metrics.iter().map(|(name, _)| row.value(name)));
        let names = setting_names.iter().zip(&setting_kinds);
        cells.extend(names.map(|(name, kind)| cell_value(settings.get(idx).and_then(|leaf| leaf.get(*name)), *kind)));
        table.rows.push(cells);
    }
    table
}

/// The narrowest kind that holds every value.
fn kind_of<'a>(values: impl Iterator<Item = &'a Value>) -> ColumnKind {
    let mut kind = None;
    for value in values {
        let this = match value {
            Value::Null => continue,
            Value::Bool(_) => Bool,
            Value::Number(number) if number.is_i64() => Int,
            Value::Number(_) => Float,
            _ => Text,
        };
        kind = Some(match (kind, this) {
            (None, this) => this,
            (Some(kind), this) if kind == this => this,
            (Some(Int | Float), Int | Float) => Float,
            _ => Text,
        });
    }
    kind.unwrap_or(Text)
}

fn cell_value(value: Option<&Value>, kind: ColumnKind) -> CellValue {
    match (value, kind) {
        (None | Some(Value::Null), _) => CellValue::Null,
        (Some(Value::Bool(value)), Bool) => (*value).into(),
        (Some(value), Int) => value.as_i64().into(),
        (Some(value), Float) => value.as_f64().into(),
        (Some(Value::String(text)), _) => text.as_str().into(),
        (Some(value), _) => value.to_string().into(),
    }
}

fn leaves(config: &Value) -> BTreeMap<String, Value> {
    fn walk(prefix: &str, value: &Value, out: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                for (key, inner) in map {
                    let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                    walk(&path, inner, out);
                }
            }
            leaf => {
                out.insert(prefix.to_owned(), leaf.clone());
            }
        }
    }
    let mut out = BTreeMap::new();
    walk("", config, &mut out);
    out
}
