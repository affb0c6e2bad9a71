//! `--design` and `--only`: which points and cells of a plan a command is about.

use std::collections::BTreeSet;

use servelab_core::ids::CellId;
use servelab_core::plan::{Plan, PlannedPoint};
use servelab_core::source::did_you_mean;

use crate::cli::StudyArgs;
use crate::error::CommandError;

/// Shortest beginning of an id that may stand for it.
const LEAST_PREFIX: usize = 6;

/// The cells that the arguments select, in plan order.
pub(crate) fn cells(plan: &Plan, args: &StudyArgs) -> Result<Vec<CellId>, CommandError> {
    let (points, only_cells) = selection(plan, args)?;
    Ok(plan
        .cells
        .iter()
        .filter(|cell| points.contains(cell.point.as_str()) || only_cells.contains(cell.id.as_str()))
        .map(|cell| cell.id.clone())
        .collect())
}

/// Keeps only what the arguments select.
pub(crate) fn narrow(plan: &mut Plan, args: &StudyArgs) -> Result<(), CommandError> {
    if args.design.is_empty() && args.only.is_empty() {
        return Ok(());
    }
    let wanted: BTreeSet<CellId> = cells(plan, args)?.into_iter().collect();
    let (points, _) = selection(plan, args)?;
    let points: BTreeSet<String> = points.into_iter().map(str::to_owned).collect();
    plan.cells.retain(|cell| wanted.contains(&cell.id));
    let with_cells: BTreeSet<String> = plan.cells.iter().map(|cell| cell.point.as_str().to_owned()).collect();
    plan.points.retain(|point| points.contains(point.id.as_str()) || with_cells.contains(point.id.as_str()));
    Ok(())
}

fn selection<'a>(plan: &'a Plan, args: &StudyArgs) -> Result<(BTreeSet<&'a str>, BTreeSet<&'a str>), CommandError> {
    for name in &args.design {
        let names: Vec<&str> = plan.designs.iter().map(|design| design.name.as_str()).collect();
        if !names.contains(&name.as_str()) {
            let hint = did_you_mean(name, names.iter().copied())
                .map_or_else(|| format!("designs: {}", names.join(", ")), |near| format!("did you mean `{near}`?"));
            return Err(CommandError::usage(format!("the study has no design `{name}`")).hint(hint));
        }
    }
    let in_design =
        |point: &&PlannedPoint| args.design.is_empty() || point.designs.iter().any(|name| args.design.contains(name));
    let candidates: Vec<&PlannedPoint> = plan.points.iter().filter(in_design).collect();
    if args.only.is_empty() {
        return Ok((candidates.iter().map(|point| point.id.as_str()).collect(), BTreeSet::new()));
    }
    let mut points = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for wanted in &args.only {
        let named = |point: &&&PlannedPoint| {
            point.labels.iter().any(|label| label == wanted)
                || point.legacy_hashes.values().any(|hash| hash == wanted)
                || is_prefix(wanted, point.id.as_str())
        };
        let found: Vec<&str> = candidates.iter().filter(named).map(|point| point.id.as_str()).collect();
        let found_cells: Vec<&str> =
            plan.cells.iter().map(|cell| cell.id.as_str()).filter(|id| is_prefix(wanted, id)).collect();
        match (found.as_slice(), found_cells.as_slice()) {
            ([], []) => {
                let labels: Vec<&str> =
                    candidates.iter().flat_map(|point| point.labels.iter().map(String::as_str)).collect();
                let hint = did_you_mean(wanted, labels.iter().copied()).map_or_else(
                    || "`servelab plan` lists labels and ids".to_owned(),
                    |near| format!("did you mean `{near}`?"),
                );
                return Err(CommandError::usage(format!("no point or cell is called `{wanted}`")).hint(hint));
            }
            ([_], _) | ([], [_]) => {
                points.extend(found);
                cells.extend(found_cells);
            }
            _ => {
                return Err(CommandError::usage(format!("`{wanted}` fits more than one point or cell"))
                    .hint("give more digits of the id"));
            }
        }
    }
    Ok((points, cells))
}

fn is_prefix(wanted: &str, id: &str) -> bool {
    wanted.len() >= LEAST_PREFIX && id.starts_with(wanted)
}
