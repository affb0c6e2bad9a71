//! Plans on disk: the current one, its earlier revisions, and what they say together. A plan is rewritten only when it
//! changed; the one it replaces is kept as a revision, so that a report never forgets a cell that was measured.

use std::path::{Path, PathBuf};

use servelab_core::ids::PointId;
use servelab_core::plan::{Plan, PlannedPoint};
use servelab_store::rank::{Direction, RankRequest, Scope, rank};
use servelab_store::{AccuracyGuard, ResultRow, Root, RowContext, collect_rows, write_atomic, write_json};
use servelab_view::{HowToRun, ManifestOptions, manifest_md};

use crate::error::CommandError;
use crate::study_input::StudyInput;

/// Writes study.yaml, plan.json, labels.json and MANIFEST.md; returns the study's folder.
pub(crate) fn write_plan(root: &Root, input: &StudyInput, plan: &Plan, path: &Path) -> Result<PathBuf, CommandError> {
    let folder = root.study_dir(&input.study.study)?;
    std::fs::create_dir_all(&folder)
        .map_err(|error| CommandError::failed(format!("cannot make `{}`: {error}", folder.display())))?;
    let plan_path = root.plan_path(&input.study.study)?;
    match root.load_plan(&input.study.study) {
        Ok(earlier) if earlier == *plan => {}
        Ok(earlier) => {
            let revision = revisions(&folder).len() + 1;
            write_json(&folder.join(format!("plan-{revision}.json")), &earlier)?;
            write_json(&plan_path, plan)?;
        }
        Err(error) if error.is_not_found() => write_json(&plan_path, plan)?,
        Err(error) => return Err(error.into()),
    }
    let labels: std::collections::BTreeMap<&str, &str> = plan
        .points
        .iter()
        .flat_map(|point| point.labels.iter().map(move |label| (label.as_str(), point.id.as_str())))
        .collect();
    write_json(&folder.join("labels.json"), &labels)?;
    let resolved = serde_json::to_string_pretty(&input.doc.to_json()).unwrap_or_default();
    let header = format!("# As read from {}, with `extends` and `--set` applied. JSON is YAML.\n", path.display());
    write_atomic(&folder.join("study.yaml"), format!("{header}{resolved}\n").as_bytes())?;
    write_atomic(&folder.join("MANIFEST.md"), manifest(input, plan, path).as_bytes())?;
    Ok(folder)
}

/// MANIFEST.md.
pub(crate) fn manifest(input: &StudyInput, plan: &Plan, path: &Path) -> String {
    let file = path.to_string_lossy();
    let options =
        ManifestOptions { how: how_to_run(input, &file, None), site: Some(&input.site), created: None, max_points: 0 };
    manifest_md(plan, &input.study, &options)
}

/// What suggested commands depend on.
pub(crate) fn how_to_run<'a>(input: &'a StudyInput, file: &'a str, root: Option<&'a str>) -> HowToRun<'a> {
    HowToRun { study_file: file, scheduler: input.site.scheduler, site: &input.site.site, root }
}

fn revisions(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.strip_prefix("plan-")
                .and_then(|rest| rest.strip_suffix(".json"))
                .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
        })
        .collect();
    found.sort();
    found
}

/// The stored plan, with the points and cells of earlier revisions that have attempts.
pub(crate) fn plan_with_history(root: &Root, study: &str) -> Result<Option<Plan>, CommandError> {
    let mut plan = match root.load_plan(study) {
        Ok(plan) => plan,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    for path in revisions(&root.study_dir(study)?) {
        let earlier: Plan = servelab_store::read_json(&path)?;
        if earlier.id_scheme != plan.id_scheme {
            continue;
        }
        for cell in earlier.cells {
            let known = plan.cells.iter().any(|other| other.id == cell.id);
            if known || root.attempts(&cell.id)?.is_empty() {
                continue;
            }
            if !plan.points.iter().any(|point| point.id == cell.point)
                && let Some(point) = earlier.points.iter().find(|point| point.id == cell.point)
            {
                plan.points.push(with_free_labels(point.clone(), &plan));
            }
            plan.cells.push(cell);
        }
    }
    Ok(Some(plan))
}

/// A point of an earlier revision: a label that names another point now gets the point's own id behind it.
fn with_free_labels(mut point: PlannedPoint, plan: &Plan) -> PlannedPoint {
    let id = point.id.short().to_owned();
    for label in &mut point.labels {
        if plan.points.iter().any(|other| other.labels.contains(label)) {
            *label = format!("{label}@{id}");
        }
    }
    point
}

/// What rows need to know beside the plan. `plan` is the whole one: the baseline counts also where it is not shown.
pub(crate) fn row_context(input: &StudyInput, plan: &Plan) -> RowContext {
    let baseline = input.study.baseline.as_ref();
    let baseline = baseline.and_then(|label| plan.points.iter().find(|point| point.labels.contains(label)));
    RowContext {
        site: Some(input.site.site.clone()),
        gpu_model: input.site.hardware.gpu.clone(),
        accuracy: input.study.accuracy.as_ref().map(|accuracy| AccuracyGuard {
            baseline: baseline.map(|point| point.id.clone()),
            max_mismatch: accuracy.max_mismatch,
        }),
    }
}

/// Finds the winners of designs that others start from, once every cell of the design has ended.
pub(crate) fn winners(root_path: &Path, input: &StudyInput) -> impl Fn(&str) -> Option<Vec<PointId>> {
    let rows = winners_rows(root_path, input);
    let picks: Vec<(String, String, Direction, usize)> = input
        .study
        .designs
        .iter()
        .filter_map(|(_, design)| design.from.as_ref())
        .filter_map(|from| {
            let n = from.pick.n.unwrap_or(1) as usize;
            let (text, direction) = match (&from.pick.maximise, &from.pick.minimise) {
                (Some(text), _) => (text, Direction::Maximise),
                (_, Some(text)) => (text, Direction::Minimise),
                _ => return None,
            };
            Some((from.design.clone(), text.clone(), direction, n))
        })
        .collect();
    move |design: &str| {
        let (_, objective, direction, n) = picks.iter().find(|(source, ..)| source == design)?;
        let rows: Vec<ResultRow> =
            rows.iter().filter(|row| row.point.designs.iter().any(|name| name == design)).cloned().collect();
        if rows.is_empty() || rows.iter().any(|row| !(row.state.is_terminal())) {
            return None;
        }
        best_points(&rows, objective, *direction, *n)
    }
}

fn winners_rows(root_path: &Path, input: &StudyInput) -> Vec<ResultRow> {
    let Ok(root) = Root::open(root_path) else { return Vec::new() };
    let Ok(Some(plan)) = plan_with_history(&root, &input.study.study) else { return Vec::new() };
    collect_rows(&root, &plan, &row_context(input, &plan)).unwrap_or_default()
}

fn best_points(rows: &[ResultRow], objective: &str, direction: Direction, n: usize) -> Option<Vec<PointId>> {
    let expr = servelab_core::expr::Expr::parse(&metric_column(objective)).ok()?;
    let value = |row: &ResultRow| -> Option<f64> {
        expr.eval(&|name| row.metric(name).map_or(servelab_core::expr::Value::Null, servelab_core::expr::Value::Number))
            .ok()?
            .as_number()
    };
    let ranking = rank(rows, &RankRequest { value: &value, direction, scope: Scope::Overall, mix_simulated: true });
    let mut out: Vec<PointId> = Vec::new();
    for ranked in ranking.ranked {
        if !out.contains(&ranked.group.point) {
            out.push(ranked.group.point.clone());
        }
        if out.len() == n {
            break;
        }
    }
    (!out.is_empty()).then_some(out)
}

/// Short names that studies use for result columns.
pub(crate) fn metric_column(objective: &str) -> String {
    match objective.trim() {
        "goodput" => "goodput_requests_per_s".to_owned(),
        "throughput" => "throughput_tokens_per_sec".to_owned(),
        other => other.to_owned(),
    }
}
