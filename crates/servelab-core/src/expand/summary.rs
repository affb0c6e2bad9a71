//! Counts of an expansion without keeping its points: what `plan --summary` prints for a million of them. Same rules,
//! same ids, same de-duplication as `build`; only labels, roles and cells are not made.

use std::collections::{BTreeMap, HashMap};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ExpandInput;
use super::blocks::{raw_size, walk};
use super::build::{Frame, WalkError, load_of, measurements};
use super::compile::{Compiled, compile};
use super::judge::Judge;
use super::view::{RowView, Shapes};
use crate::identity::canonical_json;
use crate::plan::{DesignSummary, Load, PlanCounts};
use crate::source::Diagnostic;

/// What an expansion amounts to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// Version of this document.
    pub schema: u32,
    /// The study's name.
    pub study: String,
    /// Counts.
    pub counts: PlanCounts,
    /// Per design.
    pub designs: Vec<DesignSummary>,
    /// Why points are infeasible: reason with its numbers masked → distinct points.
    pub infeasible_reasons: BTreeMap<String, u64>,
}

/// What is remembered of a distinct point.
struct Seen {
    measures: u64,
    feasible: bool,
    /// Feasibility per measurement number, for feasible points.
    row: u32,
}

/// Expands a study and counts.
///
/// # Errors
/// The first mistake in the study, at its place.
pub fn summarise(input: &ExpandInput<'_>) -> Result<Summary, Diagnostic> {
    let study = input.study;
    let compiled = compile(study, input.doc, input.flags, (study.engine.kind.name(), input.version))?;
    if compiled.measure_sets.len() > 64 {
        return super::expand(input).map(|plan| Summary {
            schema: 1,
            study: plan.study,
            counts: plan.counts,
            designs: plan.designs,
            infeasible_reasons: BTreeMap::new(),
        });
    }
    let mut counter = Counter::new(input, &compiled);
    let mut designs = Vec::new();
    for number in 0..compiled.designs.len() {
        designs.push(counter.design(number)?);
    }
    let counts = counter.counts(&designs);
    Ok(Summary {
        schema: 1,
        study: study.study.clone(),
        counts,
        designs,
        infeasible_reasons: counter.infeasible_reasons,
    })
}

struct Counter<'a> {
    input: &'a ExpandInput<'a>,
    compiled: &'a Compiled,
    frame: Frame,
    shapes: Shapes<'a>,
    row_shapes: Shapes<'a>,
    judge: Judge<'a>,
    seen: HashMap<u128, Seen>,
    deploy_texts: HashMap<usize, String>,
    infeasible_reasons: BTreeMap<String, u64>,
    /// Distinct sets of infeasible (workload, level) pairs, so that a point stores one number.
    verdicts: Vec<Vec<bool>>,
    all_measurements: Vec<Vec<(String, Load, u32)>>,
}

impl<'a> Counter<'a> {
    fn new(input: &'a ExpandInput<'a>, compiled: &'a Compiled) -> Self {
        let all_measurements = compiled
            .measure_sets
            .iter()
            .map(|set| {
                let (load, repeats) = load_of(input.study, set.design.as_deref());
                measurements(&set.workloads, load)
                    .into_iter()
                    .map(|(workload, level)| (workload, level, repeats.n))
                    .collect()
            })
            .collect();
        let shapes = || Shapes::new(&compiled.space, input.site.gpus.per_node, input.site.hardware.nodes);
        Self {
            input,
            compiled,
            frame: Frame::new(input),
            shapes: shapes(),
            row_shapes: shapes(),
            judge: Judge::new(input, compiled),
            seen: HashMap::new(),
            deploy_texts: HashMap::new(),
            infeasible_reasons: BTreeMap::new(),
            verdicts: Vec::new(),
            all_measurements,
        }
    }

    fn design(&mut self, number: usize) -> Result<DesignSummary, Diagnostic> {
        let compiled = self.compiled;
        let design = &compiled.designs[number];
        let mut summary = design.summary(self.input.study);
        if design.depends_on_results() {
            summary.blocked = Some("is counted once its source has results".to_owned());
            return Ok(summary);
        }
        let at = self.input.doc.span_at(&["designs", &design.name]);
        let mut buffer = Vec::new();
        for block in &design.blocks {
            summary.raw_points += raw_size(block);
            let Self { frame, shapes, row_shapes, judge, seen, deploy_texts, infeasible_reasons, verdicts, .. } = self;
            let all_measurements = &self.all_measurements;
            let mut view = RowView { slots: &compiled.slots, shapes };
            let mut labelled = 0u64;
            let mut new = 0u64;
            let mut mistake = None;
            walk::<WalkError>(&compiled.space, block, &mut view, &mut |combination| {
                labelled += 1;
                let row = combination.row;
                let shape = row_shapes.of(row).map_err(WalkError)?;
                let deploy = deploy_texts
                    .entry(std::rc::Rc::as_ptr(&shape) as usize)
                    .or_insert_with(|| canonical_json(&shape.canonical()));
                frame.write_point_with(&compiled.space, row, deploy, &mut buffer);
                let entry = seen.entry(id_bits(&buffer));
                let mask = 1u64 << block.measures;
                match entry {
                    std::collections::hash_map::Entry::Occupied(mut known) => known.get_mut().measures |= mask,
                    std::collections::hash_map::Entry::Vacant(slot) => {
                        new += 1;
                        let verdict = match judge.point(row, &shape) {
                            Ok(verdict) => verdict,
                            Err(error) => {
                                mistake.get_or_insert(error);
                                return Err(WalkError(String::new()));
                            }
                        };
                        let feasible = verdict.infeasible.is_empty();
                        let mut number = u32::MAX;
                        if feasible {
                            let flags: Vec<bool> = all_measurements
                                .iter()
                                .flatten()
                                .map(|(workload, level, _)| judge.workload_fits(row, &shape, workload, level))
                                .collect();
                            number = intern(verdicts, flags);
                        } else if let Some(reason) = verdict.infeasible.first() {
                            *infeasible_reasons.entry(mask_numbers(reason)).or_default() += 1;
                        }
                        slot.insert(Seen { measures: mask, feasible, row: number });
                    }
                }
                Ok(())
            })
            .map_err(|WalkError(message)| mistake.take().unwrap_or_else(|| Diagnostic::at(at, message)))?;
            summary.labelled_points += labelled;
            summary.new_points += new;
        }
        Ok(summary)
    }

    fn counts(&self, designs: &[DesignSummary]) -> PlanCounts {
        let mut counts = PlanCounts::default();
        for design in designs {
            counts.raw_points += design.raw_points;
            counts.labelled_points += design.labelled_points;
        }
        // Points with the same measure sets and the same verdicts have the same cells: count one of each.
        let mut classes: HashMap<(u64, u32), u64> = HashMap::new();
        for seen in self.seen.values() {
            counts.points += 1;
            counts.feasible_points += u64::from(seen.feasible);
            *classes.entry((seen.measures, seen.row)).or_default() += 1;
        }
        for ((mask, number), points) in classes {
            let fits = self.verdicts.get(number as usize);
            let mut cells: Vec<(&str, &Load, u32, bool)> = Vec::new();
            let mut position = 0;
            for (set, measurements) in self.all_measurements.iter().enumerate() {
                for (workload, level, repeats) in measurements {
                    let fit = fits.is_some_and(|fits| fits.get(position).copied().unwrap_or(false));
                    position += 1;
                    let known = cells.iter().any(|cell| (cell.0, cell.1, cell.2) == (workload, level, *repeats));
                    if mask & (1 << set) != 0 && !known {
                        cells.push((workload, level, *repeats, fit));
                    }
                }
            }
            let mut workloads: BTreeMap<&str, bool> = BTreeMap::new();
            for (workload, _, repeats, fit) in cells {
                counts.cells += points * u64::from(repeats);
                counts.runnable_cells += if fit { points * u64::from(repeats) } else { 0 };
                *workloads.entry(workload).or_default() |= fit;
            }
            counts.point_workloads += points * workloads.len() as u64;
            counts.infeasible_point_workloads += points * workloads.values().filter(|fit| !**fit).count() as u64;
        }
        counts
    }
}

fn intern(known: &mut Vec<Vec<bool>>, flags: Vec<bool>) -> u32 {
    let at = known.iter().position(|other| *other == flags).unwrap_or_else(|| {
        known.push(flags);
        known.len() - 1
    });
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// The 128 bits that a point id spells in hex.
fn id_bits(canonical: &[u8]) -> u128 {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(canonical);
    digest.iter().take(16).fold(0u128, |bits, byte| (bits << 8) | u128::from(*byte))
}

/// `needs 24.0 GiB` → `needs N GiB`: reasons that differ only in numbers are one reason. Digits inside names
/// (`GLM-4.6`) stay.
fn mask_numbers(reason: &str) -> String {
    let mut out = String::new();
    let mut in_number = false;
    let mut before = ' ';
    for c in reason.chars() {
        let starts = c.is_ascii_digit() && !(before.is_alphanumeric() || matches!(before, '-' | '.' | '/' | '_'));
        let goes_on = in_number && (c.is_ascii_digit() || matches!(c, '.' | ','));
        if starts && !in_number {
            out.push('N');
        }
        in_number = starts || goes_on;
        if !in_number {
            out.push(c);
        }
        before = c;
    }
    out
}
