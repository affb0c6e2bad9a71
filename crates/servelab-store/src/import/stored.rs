//! Imported results as cells of a results folder, so that reports and comparisons read them like own ones: one study of
//! its own with a plan, points told apart by content first and by names where content says nothing, and one finished
//! attempt per result. Importing the same again changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use servelab_core::identity::{ID_SCHEME, cell_id, point_id};
use servelab_core::ids::{CellId, PointId};
use servelab_core::plan::{
    CellSettings, DesignSummary, NodeHours, PLAN_SCHEMA_VERSION, Plan, PlanCounts, PlanStatus, PlannedCell,
    PlannedPoint, StopAt, WallHours,
};
use servelab_core::record::ClockEpoch;
use servelab_core::state::CellState;

use super::result::ImportedResult;
use crate::attempt::WindowInfo;
use crate::claim::{Claim, ClaimInfo, ClaimRequest, Liveness};
use crate::error::StoreError;
use crate::files::{write_atomic, write_json};
use crate::results::{ResultRow, RowContext};
use crate::root::Root;

/// What was done with the imported results.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredImport {
    /// Cells written.
    pub written: u64,
    /// Cells that were there already.
    pub known: u64,
}

/// Labels that name one run and no configuration.
const VOLATILE: [&str; 9] =
    ["slurm_job_id", "run_date", "id", "benchmark_id", "run_number", "timestamp", "session", "config_hash", "folder"];

/// Writes results into `root` under the study `study`.
///
/// # Errors
/// The folder cannot be read or written, or holds a study of that name that was not imported.
pub fn store_imports(
    root: &Root,
    study: &str,
    results: &[ImportedResult],
    now_unix_ns: i64,
) -> Result<StoredImport, StoreError> {
    let mut plan = match root.load_plan(study) {
        Ok(plan) => plan,
        Err(error) if error.is_not_found() => empty_plan(study),
        Err(error) => return Err(error),
    };
    if plan.designs.iter().any(|design| design.kind != DESIGN_KIND) {
        let path = root.plan_path(study)?;
        return Err(StoreError::malformed(
            &path,
            "this study was planned here; give imports a study of their own (--study NAME)",
        ));
    }
    let mut ordered: Vec<&ImportedResult> = results.iter().collect();
    ordered.sort_by(|a, b| (&a.run.date, &a.path, a.index).cmp(&(&b.run.date, &b.path, b.index)));
    let mut stored = StoredImport::default();
    let mut known: BTreeSet<CellId> = plan.cells.iter().map(|cell| cell.id.clone()).collect();
    let mut repeats: BTreeMap<(PointId, String, String), u32> = BTreeMap::new();
    for cell in &plan.cells {
        let next = repeats.entry((cell.point.clone(), cell.workload.clone(), cell.load.describe())).or_default();
        *next = (*next).max(cell.repeat + 1);
    }
    for imported in ordered {
        let point = point_of(imported);
        let mut cell = cell_of(imported, &point);
        let id = cell.id.clone();
        if !known.insert(id.clone()) {
            stored.known += 1;
            continue;
        }
        let repeat = repeats.entry((point.id.clone(), cell.workload.clone(), cell.load.describe())).or_default();
        cell.repeat = *repeat;
        *repeat += 1;
        if !plan.points.iter().any(|known| known.id == point.id) {
            plan.points.push(with_own_label(point, &plan));
        }
        plan.cells.push(cell);
        write_cell(root, &id, imported, now_unix_ns)?;
        stored.written += 1;
    }
    finish_plan(&mut plan);
    let folder = root.study_dir(study)?;
    crate::files::create_dir_all(&folder)?;
    write_json(&root.plan_path(study)?, &plan)?;
    write_atomic(&folder.join("study.yaml"), study_yaml(study).as_bytes())?;
    Ok(stored)
}

/// Imported results as rows, without storing them: every result of one side of a comparison is a repeat of its condition.
pub fn import_rows(results: &[ImportedResult]) -> Vec<ResultRow> {
    let mut repeats: BTreeMap<(String, String), u32> = BTreeMap::new();
    let row = |imported: &ImportedResult| {
        let point = point_of(imported);
        let mut cell = cell_of(imported, &point);
        let repeat = repeats.entry((cell.workload.clone(), cell.load.describe())).or_default();
        cell.repeat = *repeat;
        *repeat += 1;
        let verdict = &imported.result.verdict;
        ResultRow {
            study: "imported".to_owned(),
            cell,
            point,
            attempt: None,
            state: if verdict.ok { CellState::Done } else { CellState::Invalid },
            code: verdict.reasons.first().map(|reason| reason.code.clone()),
            result: Some(imported.result.clone()),
            failure: None,
            window: window(imported),
            context: RowContext::default(),
            accuracy: None,
            problem: None,
        }
    };
    results.iter().map(row).collect()
}

/// Imported results as a study of their own, without storing them: its plan and its rows. Where no content says how many
/// GPUs there were, the folder's name does, if it can: `named_gpus` then has the points for which a name spoke.
pub fn import_study(study: &str, results: &[ImportedResult]) -> (Plan, Vec<ResultRow>, BTreeSet<PointId>) {
    let mut plan = empty_plan(study);
    let mut named_gpus = BTreeSet::new();
    let mut repeats: BTreeMap<(PointId, String, String), u32> = BTreeMap::new();
    let mut rows = import_rows(results);
    for (row, imported) in rows.iter_mut().zip(results) {
        study.clone_into(&mut row.study);
        let hint = imported.run.hints.get("gpus").and_then(|text| text.parse::<u32>().ok());
        if let Some(gpus) = hint.filter(|_| row.point.gpus == 0) {
            row.point.gpus = gpus;
            named_gpus.insert(row.point.id.clone());
        }
        let key = (row.point.id.clone(), row.cell.workload.clone(), row.cell.load.describe());
        let repeat = repeats.entry(key).or_default();
        row.cell.repeat = *repeat;
        *repeat += 1;
        match plan.points.iter().find(|known| known.id == row.point.id) {
            Some(known) => row.point = known.clone(),
            None => {
                row.point = with_own_label(row.point.clone(), &plan);
                plan.points.push(row.point.clone());
            }
        }
        plan.cells.push(row.cell.clone());
    }
    finish_plan(&mut plan);
    (plan, rows, named_gpus)
}

fn cell_of(imported: &ImportedResult, point: &PlannedPoint) -> PlannedCell {
    let content = json!({
        "imported": imported.fingerprint(), "point": point.id, "file": imported.path, "index": imported.index,
    });
    PlannedCell {
        id: cell_id(&content),
        point: point.id.clone(),
        workload: workload_name(imported),
        load: imported.load(),
        repeat: 0,
        settings: settings(imported),
        status: PlanStatus::Planned,
        reasons: Vec::new(),
    }
}

const DESIGN_KIND: &str = "import";

fn empty_plan(study: &str) -> Plan {
    Plan {
        schema: PLAN_SCHEMA_VERSION,
        id_scheme: ID_SCHEME,
        study: study.to_owned(),
        points: Vec::new(),
        cells: Vec::new(),
        jobs: 0,
        node_hours: NodeHours::default(),
        wall_hours: WallHours::default(),
        warnings: vec!["results of other tools; nothing here can be run".to_owned()],
        designs: vec![DesignSummary {
            name: "imported".to_owned(),
            kind: DESIGN_KIND.to_owned(),
            ..DesignSummary::default()
        }],
        counts: PlanCounts::default(),
    }
}

fn finish_plan(plan: &mut Plan) {
    let (points, cells) = (plan.points.len() as u64, plan.cells.len() as u64);
    let pairs: BTreeSet<(&str, &str)> =
        plan.cells.iter().map(|cell| (cell.point.as_str(), cell.workload.as_str())).collect();
    plan.counts = PlanCounts {
        raw_points: points,
        labelled_points: points,
        points,
        feasible_points: points,
        cells,
        runnable_cells: cells,
        point_workloads: pairs.len() as u64,
        infeasible_point_workloads: 0,
    };
    let factors: BTreeSet<String> = plan.points.iter().flat_map(|point| point.factors.keys().cloned()).collect();
    if let Some(design) = plan.designs.first_mut() {
        (design.raw_points, design.labelled_points, design.new_points) = (points, points, points);
        design.factors = factors.into_iter().collect();
    }
}

/// The study file that reports read: what `report` needs and nothing that could be run.
fn study_yaml(study: &str) -> String {
    format!(
        "# Made by `servelab import`: results of other tools. `servelab report` reads this file; there is nothing to run.\n\
         schema: 1\n\
         study: {study}\n\
         engine: {{kind: external, url: \"http://127.0.0.1:1\"}}\n\
         model: {{id: imported}}\n\
         workloads: {{imported: {{dataset: {{synth: {{input_tokens: 1, output_tokens: 1}}}}}}}}\n\
         load: {{closed: {{concurrency: [1]}}, stop: {{requests: 1}}}}\n\
         designs: {{imported: {{list: {{imported: {{}}}}}}}}\n"
    )
}

/// A point by its content: verified settings and the user's own labels; the folder and what is left of the file's name
/// only where there are no settings.
fn point_of(imported: &ImportedResult) -> PlannedPoint {
    let run = &imported.run;
    let mut identity: Map<String, Value> = Map::new();
    let text = |value: &str| Value::from(value);
    let labels = run.labels.iter().filter(|(key, _)| !VOLATILE.contains(&key.as_str()));
    let mut factors: BTreeMap<String, Value> = labels
        .map(|(key, value)| (key.clone(), value.parse::<i64>().map_or_else(|_| text(value), Value::from)))
        .collect();
    let name = name_of(imported);
    if run.settings.is_empty() {
        if let Some(hash) = run.labels.get("config_hash") {
            identity.insert("config_hash".into(), text(hash));
        } else {
            identity.insert("name".into(), text(&name));
        }
    } else {
        factors.remove("name");
        factors.extend(
            run.settings.iter().filter(|(key, _)| *key != "name").map(|(key, value)| (key.clone(), value.clone())),
        );
    }
    identity.extend(factors.clone());
    let engine =
        run.engine.clone().unwrap_or_else(|| if run.simulated == Some(true) { "sim" } else { "external" }.to_owned());
    let serve: Map<String, Value> = run.settings.clone().into_iter().collect();
    let config = json!({
        "engine": {"kind": engine},
        "model": {"id": run.model},
        "deploy": {},
        "serve": serve,
        "env": {},
        "imported": identity,
    });
    let legacy = run.labels.get("config_hash").filter(|hash| hash.len() == 8);
    let named = ["name", "label", "config_hash"].iter().find_map(|key| run.labels.get(*key));
    let label = named.cloned().unwrap_or(name);
    let number = |key: &str| run.settings.get(key).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let nodes = number("num_nodes").unwrap_or(1).max(1);
    let gpus = run.gpus.or_else(|| Some(nodes * number("gpus_per_node")?)).unwrap_or(0);
    PlannedPoint {
        id: point_id(&config),
        labels: vec![label.clone()],
        legacy_hashes: legacy.map(|hash| (label, hash.clone())).into_iter().collect(),
        designs: vec!["imported".to_owned()],
        factors,
        config,
        roles: Vec::new(),
        nodes,
        gpus,
        status: PlanStatus::Planned,
        reasons: Vec::new(),
        flag_notes: Vec::new(),
    }
}

/// Two points may be called the same by their tools; here each label names one point.
fn with_own_label(mut point: PlannedPoint, plan: &Plan) -> PlannedPoint {
    let id = point.id.short().to_owned();
    for label in &mut point.labels {
        if plan.points.iter().any(|other| other.labels.contains(label)) {
            let longer = format!("{label}@{id}");
            if let Some(hash) = point.legacy_hashes.remove(label) {
                point.legacy_hashes.insert(longer.clone(), hash);
            }
            *label = longer;
        }
    }
    point
}

/// Folder, and what is left of the file's name without load, date and repeat.
fn name_of(imported: &ImportedResult) -> String {
    let path = std::path::Path::new(&imported.path);
    let folder = path.parent().and_then(|folder| folder.file_name()).map(|name| name.to_string_lossy().into_owned());
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = name.split(".json").next().unwrap_or(&name);
    let is_said_elsewhere = |part: &&str| {
        let lower = part.to_ascii_lowercase();
        let letters = lower.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '=');
        let has_digits = letters.len() < lower.len();
        lower.is_empty()
            || lower.ends_with("qps")
            || (has_digits
                && ["", "conc", "concurrency", "run", "rep", "repeat", "stage", "rate", "c"].contains(&letters))
            || ["concurrency", "run", "rep", "repeat", "stage"].contains(&lower.as_str())
    };
    let rest: Vec<&str> = stem.split(['-', '_', ' ']).filter(|part| !is_said_elsewhere(part)).collect();
    let parts = folder.into_iter().chain((!rest.is_empty()).then(|| rest.join("_")));
    let name = parts.collect::<Vec<_>>().join("/");
    if name.is_empty() { "imported".to_owned() } else { name }
}

/// The data set's name, else mean lengths by content to two digits: only like is compared with like.
fn workload_name(imported: &ImportedResult) -> String {
    if let Some(name) = &imported.run.dataset {
        return name.clone();
    }
    let n = imported.result.requests.completed;
    let mean = |tokens: u64, key: &str| {
        if n == 0 || imported.result.is_unknown(key) {
            return "?".to_owned();
        }
        let mean = tokens as f64 / n as f64;
        let scale = 10_f64.powf((mean.max(1.0).log10().floor() - 1.0).max(0.0));
        format!("{}", (mean / scale).round() * scale)
    };
    format!(
        "~{} in ~{} out",
        mean(imported.result.input_tokens, "input_tokens"),
        mean(imported.result.output_tokens, "output_tokens")
    )
}

fn settings(imported: &ImportedResult) -> CellSettings {
    CellSettings {
        stop: StopAt::Requests(u32::try_from(imported.result.requests.scheduled).unwrap_or(u32::MAX)),
        warmup_requests: 0,
        seed: 0,
        request_timeout_s: 0.0,
        output_max: None,
        ignore_eos: false,
        endpoint: None,
        temperature: 0.0,
        reuse_prompts: false,
    }
}

fn write_cell(root: &Root, id: &CellId, imported: &ImportedResult, now_unix_ns: i64) -> Result<(), StoreError> {
    let info = ClaimInfo::of_this_process(None, now_unix_ns);
    let liveness = Liveness::local(now_unix_ns);
    let rerun_after = root.latest_attempt(id)?.map(|attempt| attempt.attempt());
    let request = ClaimRequest { cell: id, info: &info, liveness: &liveness, rerun_after };
    let Claim::Acquired(attempt) = root.claim_cell(&request)? else { return Ok(()) };
    let run = &imported.run;
    if !run.requests.is_empty() {
        attempt.write_requests(&run.requests)?;
        if !run.events.is_empty() {
            attempt.write_events(&run.events)?;
        }
    }
    attempt.write_window(&window(imported))?;
    attempt.write_result(&imported.result)?;
    let verdict = &imported.result.verdict;
    let state = if verdict.ok { CellState::Done } else { CellState::Invalid };
    let worst = verdict.reasons.first().filter(|_| !verdict.ok);
    attempt.enter(state, now_unix_ns, worst.map(|r| r.code.as_str()), worst.map(|r| r.detail.as_str()))?;
    Ok(())
}

fn window(imported: &ImportedResult) -> WindowInfo {
    let run = &imported.run;
    WindowInfo {
        clock: Some(ClockEpoch { epoch_monotonic_ns: 0, epoch_unix_ns: 0 }),
        window_end_ns: (imported.result.duration_s * 1e9) as i64,
        engine_version: run.engine_version.clone(),
        gpu_model: run.gpu_model.clone(),
        simulated: Some(
            run.simulated == Some(true) || imported.result.verdict.reasons.iter().any(|r| r.code == "simulated"),
        ),
        ..WindowInfo::default()
    }
}
