//! Profiles of points: what a study's `profile:` asks of a run, and what is made of the traces that came back: metrics for
//! the report, timing_stats_<rank>.json and the workload card beside them.

use std::path::{Path, PathBuf};

use serde_json::json;
use servelab_core::plan::{Plan, PlannedPoint};
use servelab_core::source::SourceMap;
use servelab_core::study::{Ranks, Study};
use servelab_core::trace::card;
use servelab_core::yaml;
use servelab_run::profile::{ProfilePlan, ProfileRecord, TorchPlan};
use servelab_store::{Root, write_atomic};
use servelab_trace::{Taxonomy, input, load};

use super::trace::{json as to_json, write_timings};
use super::traces_of_points::{PROFILE_DIR, STORED_REPORT};
use crate::error::CommandError;
use crate::ui::Ui;

/// Usual numbers of iterations (document 004).
const WARMUP_ITERATIONS: u32 = 2;
const PROFILE_ITERATIONS: u32 = 5;
const CARD: &str = "workload_card.yaml";

/// How to profile; `None` without the section. A profile without a profiler is one of the torch profiler.
pub(crate) fn plan(study: &Study, is_rehearsal: bool) -> Option<ProfilePlan> {
    let profile = study.profile.as_ref()?;
    let torch = profile.torch.as_ref().map(|torch| TorchPlan {
        ranks: match &torch.ranks {
            Some(Ranks::Some(ranks)) => Some(ranks.clone()),
            Some(Ranks::All) | None => None,
        },
        execution_trace: torch.execution_trace,
    });
    let nsys = profile.nsys.as_ref().map(|nsys| nsys.trace.iter().cloned().collect());
    let torch = torch.or_else(|| nsys.is_none().then(TorchPlan::default));
    // `--max-requests` makes a small run of a large one.
    let iterations = |n: u32| if is_rehearsal { n.min(1) } else { n };
    Some(ProfilePlan {
        warmup_iterations: iterations(profile.warmup_iterations.unwrap_or(WARMUP_ITERATIONS)),
        profile_iterations: iterations(profile.profile_iterations.unwrap_or(PROFILE_ITERATIONS)),
        torch,
        nsys,
    })
}

/// Measures the traces of every profile that has not been measured. A trace that cannot be read costs its numbers only.
pub(crate) fn read(root: &Root, plan: &Plan, ui: Ui) -> Result<(), CommandError> {
    for point in &plan.points {
        let folder = root.point_dir(&point.id)?.join(PROFILE_DIR);
        let Ok(bytes) = std::fs::read(folder.join("profile.json")) else { continue };
        let Ok(record) = serde_json::from_slice::<ProfileRecord>(&bytes) else { continue };
        let traces: Vec<PathBuf> = record
            .files
            .iter()
            .filter(|file| file.starts_with("kineto_trace_") || file.starts_with("torch_et_"))
            .map(|file| folder.join(file))
            .collect();
        if traces.is_empty() || folder.join(STORED_REPORT).is_file() {
            continue;
        }
        if let Err(error) = measure(point, &record, &folder, &traces, ui) {
            let reason = error.text();
            ui.always(&format!("the profile of {} was kept, but not measured: {reason}", point.labels.join(" = ")));
        }
    }
    Ok(())
}

fn measure(
    point: &PlannedPoint,
    record: &ProfileRecord,
    folder: &Path,
    traces: &[PathBuf],
    ui: Ui,
) -> Result<(), CommandError> {
    let inputs = input::discover(traces)?;
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let loaded = load::load(&inputs, &Taxonomy::builtin()?, threads, None)?;
    write_timings(folder, &loaded.timings, ui)?;
    let declared = declared(point, record);
    let text = card::to_yaml(&card::fill(&loaded.report, declared.as_ref(), env!("CARGO_PKG_VERSION")));
    write_atomic(&folder.join(CARD), text.as_bytes())?;
    // Last: where it is, everything else is too.
    write_atomic(&folder.join(STORED_REPORT), to_json(&loaded.report)?.as_bytes())?;
    ui.say(&format!("traces of {}: {}", point.labels.join(" = "), folder.display()));
    Ok(())
}

/// What the traces cannot say.
fn declared(point: &PlannedPoint, record: &ProfileRecord) -> Option<card::Declared> {
    let mut config = point.config.clone();
    let all = config.as_object_mut()?;
    all.insert("experiment_id".to_owned(), json!(point.labels.first()));
    all.insert("description".to_owned(), json!(format!("profile of {}: {}", point.labels.join(" = "), record.load)));
    all.insert("profile_iterations".to_owned(), json!(record.profile_iterations));
    let data = json!({
        "batch_size": record.requests_per_iteration, "seq_len": record.seq_len, "max_tokens": record.max_tokens,
        "dataset": record.workload,
    });
    all.insert("data".to_owned(), data);
    let text = config.to_string();
    let mut sources = SourceMap::default();
    let id = sources.add("profile".to_owned(), text.clone());
    Some(card::Declared::from_node(&yaml::parse(id, &text).ok()?))
}
