//! From combinations to the plan: identity, de-duplication, rules, roles with command lines, cells, costs.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use serde_json::{Map, Value, json};

use super::ExpandInput;
use super::blocks::{Block, Combination, Naming, WhenError, raw_size, walk};
use super::compile::{Compiled, CompiledDesign, check_label_exists, compile};
use super::cost::{Job, job_hours, totals};
use super::judge::Judge;
use super::legacy::legacy_hash;
use super::measure::{OFFLINE_WORKLOAD, cell_content, levels, settings};
use super::roles::build_roles;
use super::shape::Shape;
use super::space::{KeyIdx, Row, Section, Space};
use super::view::{RowView, Shapes};
use crate::identity::{ID_SCHEME, canonical_json, cell_id, point_id_of_canonical};
use crate::ids::PointId;
use crate::plan::{DesignSummary, Load, PLAN_SCHEMA_VERSION, Plan, PlanCounts, PlanStatus, PlannedCell, PlannedPoint};
use crate::source::Diagnostic;
use crate::study::{DesignKind, LoadSection, Repeats, Study};

/// A distinct point while the plan is being built.
struct Draft {
    id: PointId,
    row: Row,
    shape: Rc<Shape>,
    labels: Vec<String>,
    designs: Vec<usize>,
    factors: Vec<KeyIdx>,
    measures: Vec<usize>,
}

/// What is the same for every point of a study.
pub(super) struct Frame {
    engine: String,
    model: String,
}

impl Frame {
    pub(super) fn new(input: &ExpandInput<'_>) -> Self {
        Self {
            engine: canonical_json(&engine_content(input.study)),
            model: canonical_json(&model_content(input.study)),
        }
    }

    /// The canonical text of a point: what its id is the hash of.
    pub(super) fn write_point(&self, space: &Space, row: &Row, shape: &Shape, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(b"{\"deploy\":");
        out.extend_from_slice(canonical_json(&shape.canonical()).as_bytes());
        self.write_rest(space, row, out);
    }

    /// Like [`Frame::write_point`] with the deployment's text at hand.
    pub(super) fn write_point_with(&self, space: &Space, row: &Row, deploy: &str, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(b"{\"deploy\":");
        out.extend_from_slice(deploy.as_bytes());
        self.write_rest(space, row, out);
    }

    fn write_rest(&self, space: &Space, row: &Row, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"engine\":");
        out.extend_from_slice(self.engine.as_bytes());
        out.extend_from_slice(b",\"env\":");
        space.write_section(row, Section::Env, out);
        out.extend_from_slice(b",\"model\":");
        out.extend_from_slice(self.model.as_bytes());
        out.extend_from_slice(b",\"scheme\":");
        out.extend_from_slice(ID_SCHEME.to_string().as_bytes());
        out.extend_from_slice(b",\"serve\":");
        space.write_section(row, Section::Serve, out);
        out.push(b'}');
    }
}

fn engine_content(study: &Study) -> Value {
    let mut content = Map::new();
    content.insert("kind".into(), study.engine.kind.name().into());
    if let Some(version) = &study.engine.version {
        content.insert("version".into(), version.trim().into());
    }
    // A faster simulator answers the same requests in other times, and injected failures change them.
    if let Some(speedup) = study.engine.speedup.filter(|speedup| *speedup != 1.0) {
        content.insert("speedup".into(), crate::yaml::normal_number(speedup));
    }
    if !study.engine.fail.is_empty() {
        content.insert("fail".into(), json!(study.engine.fail));
    }
    // How a setting is found is part of what the server is.
    if let Some(probe) = crate::probe::content(study) {
        content.insert("probe".into(), probe);
    }
    Value::Object(content)
}

fn model_content(study: &Study) -> Value {
    let mut content = Map::new();
    content.insert("id".into(), study.model.id.as_str().into());
    if let Some(revision) = &study.model.revision {
        content.insert("revision".into(), revision.as_str().into());
    }
    Value::Object(content)
}

/// An error while walking combinations.
pub(super) struct WalkError(pub(super) String);

impl From<WhenError> for WalkError {
    fn from(error: WhenError) -> Self {
        Self(format!("`when` of factor `{}`: {}", error.factor, error.message))
    }
}

/// Expands a study into its plan.
///
/// # Errors
/// The first mistake in the study, at its place.
pub fn expand(input: &ExpandInput<'_>) -> Result<Plan, Diagnostic> {
    let study = input.study;
    let compiled = compile(study, input.doc, input.flags, (study.engine.kind.name(), input.version))?;
    let mut drafting = Drafting {
        input,
        compiled: &compiled,
        frame: Frame::new(input),
        shapes: Shapes::new(&compiled.space, input.site.gpus.per_node, input.site.hardware.nodes),
        drafts: Vec::new(),
        by_id: HashMap::new(),
        by_label: BTreeMap::new(),
        buffer: Vec::new(),
    };
    let mut designs = Vec::new();
    for number in 0..compiled.designs.len() {
        designs.push(drafting.design(number)?);
    }
    let Drafting { drafts, by_label, .. } = drafting;
    check_baselines(input, &by_label, designs.iter().any(|design| design.blocked.is_some()))?;
    finish(input, &compiled, drafts, designs)
}

struct Drafting<'a> {
    input: &'a ExpandInput<'a>,
    compiled: &'a Compiled,
    frame: Frame,
    shapes: Shapes<'a>,
    drafts: Vec<Draft>,
    by_id: HashMap<PointId, usize>,
    by_label: BTreeMap<String, usize>,
    buffer: Vec<u8>,
}

impl Drafting<'_> {
    fn design(&mut self, number: usize) -> Result<DesignSummary, Diagnostic> {
        let compiled = self.compiled;
        let design = &compiled.designs[number];
        let mut summary = design.summary(self.input.study);
        let winners = self.winning_blocks(design)?;
        let blocks = match &winners {
            Ok(blocks) => blocks.as_slice(),
            Err(reason) => {
                summary.blocked = Some(reason.clone());
                &[]
            }
        };
        for block in design.blocks.iter().chain(blocks) {
            summary.raw_points += raw_size(block);
            self.block(number, block, &mut summary)?;
        }
        Ok(summary)
    }

    /// Blocks of a `from` design; the reason why there are none yet, on the inner error.
    fn winning_blocks(&self, design: &CompiledDesign) -> Result<Result<Vec<Block>, String>, Diagnostic> {
        let Some(from) = &design.from else { return Ok(Ok(Vec::new())) };
        let Some(ids) = (self.input.winners)(&from.source) else {
            return Ok(Err(format!(
                "waits for the results of design `{}`; plan or run again once it has them",
                from.source
            )));
        };
        let mut blocks = Vec::new();
        for id in ids {
            let Some(draft) = self.by_id.get(&id).and_then(|at| self.drafts.get(*at)) else { continue };
            let mut base = draft.row.clone();
            from.sets.iter().for_each(|set| set.apply(&mut base));
            let winner = draft.labels.first().cloned().unwrap_or_default();
            blocks.push(Block {
                base,
                changed: draft.factors.clone(),
                factors: from.factors.clone(),
                naming: Naming::Factors(format!("{}/{winner}", design.name)),
                measures: from.measures,
                purpose: None,
                expect: None,
            });
        }
        Ok(Ok(blocks))
    }

    fn block(&mut self, number: usize, block: &Block, summary: &mut DesignSummary) -> Result<(), Diagnostic> {
        let compiled = self.compiled;
        let design = &compiled.designs[number];
        let at = self.input.doc.span_at(&["designs", &design.name]);
        let mut found: Vec<(Row, String, Vec<KeyIdx>)> = Vec::new();
        let mut view = RowView { slots: &compiled.slots, shapes: &mut self.shapes };
        walk::<WalkError>(&compiled.space, block, &mut view, &mut |combination: &Combination<'_>| {
            found.push((combination.row.clone(), combination.label(), combination.factor_keys()));
            Ok(())
        })
        .map_err(|WalkError(message)| Diagnostic::at(at, message))?;
        for (row, label, factors) in found {
            summary.labelled_points += 1;
            if let Some(purpose) = block.purpose.as_ref().filter(|purpose| summary.purpose.as_ref() != Some(purpose)) {
                summary.label_purposes.insert(label.clone(), purpose.clone());
            }
            if let Some(expect) = block.expect.as_ref().filter(|e| summary.expect.as_ref() != Some(&e.text)) {
                summary.label_expects.insert(label.clone(), expect.text.clone());
            }
            let shape = self.shapes.of(&row).map_err(|message| {
                Diagnostic::at(at, format!("point `{label}` of design `{}`: {message}", design.name))
            })?;
            self.frame.write_point(&compiled.space, &row, &shape, &mut self.buffer);
            let id = point_id_of_canonical(&self.buffer);
            let drafts = &mut self.drafts;
            let index = *self.by_id.entry(id.clone()).or_insert_with(|| {
                summary.new_points += 1;
                drafts.push(Draft {
                    id,
                    row,
                    shape,
                    labels: Vec::new(),
                    designs: Vec::new(),
                    factors: Vec::new(),
                    measures: Vec::new(),
                });
                drafts.len() - 1
            });
            match self.by_label.insert(label.clone(), index) {
                Some(other) if other != index => {
                    return Err(Diagnostic::at(at, format!("the label `{label}` names two different points"))
                        .with_hint("give one of the designs a `label:` template, or rename the entry"));
                }
                _ => {}
            }
            let draft = &mut self.drafts[index];
            push_new(&mut draft.labels, label);
            push_new(&mut draft.designs, number);
            push_new(&mut draft.measures, block.measures);
            factors.into_iter().for_each(|factor| push_new(&mut draft.factors, factor));
        }
        Ok(())
    }
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

fn check_baselines(
    input: &ExpandInput<'_>,
    labels: &BTreeMap<String, usize>,
    some_blocked: bool,
) -> Result<(), Diagnostic> {
    let study = input.study;
    let check = |label: &str, path: &[&str]| {
        check_label_exists(label, labels).or_else(|hint| {
            if some_blocked {
                return Ok(());
            }
            let span = input.doc.at(path).map_or_else(|| input.doc.span_at(path), |node| node.span);
            Err(Diagnostic::at(span, format!("the baseline `{label}` is no point of this study")).with_hint(hint))
        })
    };
    if let Some(baseline) = &study.baseline {
        check(baseline, &["baseline"])?;
    }
    for (name, design) in study.designs.iter() {
        if let Some(baseline) = &design.baseline {
            check(baseline, &["designs", name, "baseline"])?;
        }
    }
    Ok(())
}

/// The load and repeats that a measure set stands for.
pub(super) fn load_of<'a>(study: &'a Study, design: Option<&str>) -> (&'a LoadSection, Repeats) {
    let own = design.and_then(|name| study.designs.get(name));
    let load = own.and_then(|own| own.load.as_ref()).unwrap_or(&study.load);
    let repeats = own.and_then(|own| own.repeats).unwrap_or(study.repeats);
    (load, repeats)
}

fn finish(
    input: &ExpandInput<'_>,
    compiled: &Compiled,
    drafts: Vec<Draft>,
    designs: Vec<DesignSummary>,
) -> Result<Plan, Diagnostic> {
    let study = input.study;
    let hardware = input.site.hardware_class();
    let varied = varied_keys(&drafts, &compiled.space);
    let mut judge = Judge::new(input, compiled);
    let mut points = Vec::new();
    let mut cells: Vec<PlannedCell> = Vec::new();
    let mut jobs = Vec::new();
    let mut counts = PlanCounts::default();
    for draft in drafts {
        let verdict = judge.point(&draft.row, &draft.shape)?;
        let roles = build_roles(input, &compiled.space, &draft.row, &draft.shape);
        let status = if verdict.infeasible.is_empty() { PlanStatus::Planned } else { PlanStatus::Infeasible };
        let first_cell = cells.len();
        let mut repeats_max = 0;
        for measures in &draft.measures {
            let set = &compiled.measure_sets[*measures];
            let (load, repeats) = load_of(study, set.design.as_deref());
            repeats_max = repeats_max.max(repeats.n);
            for (workload_name, level) in measurements(&set.workloads, load) {
                let workload = study.workloads.get(&workload_name);
                let settings = settings(load, &level, workload);
                let dataset = input.datasets.get(&workload_name);
                let reasons = match status {
                    PlanStatus::Planned => judge.workload(&draft.row, &draft.shape, &workload_name, &level),
                    _ => verdict.infeasible.clone(),
                };
                for repeat in 0..repeats.n {
                    let content =
                        cell_content(&draft.id, &hardware, dataset, input.tokenizer, &level, &settings, repeat);
                    let id = cell_id(&content);
                    if cells[first_cell..].iter().any(|cell| cell.id == id) {
                        continue;
                    }
                    cells.push(PlannedCell {
                        id,
                        point: draft.id.clone(),
                        workload: workload_name.clone(),
                        load: level.clone(),
                        repeat,
                        settings: settings.clone(),
                        status: if reasons.is_empty() { PlanStatus::Planned } else { PlanStatus::Infeasible },
                        reasons: reasons.clone(),
                    });
                }
            }
        }
        let own_cells = &cells[first_cell..];
        count_workloads(own_cells, &mut counts);
        let same_server = study.repeats.same_server;
        for repeat in 0..if same_server { 1 } else { repeats_max } {
            let mut runnable = own_cells
                .iter()
                .filter(|cell| cell.status == PlanStatus::Planned && (same_server || cell.repeat == repeat))
                .peekable();
            if runnable.peek().is_some() {
                let hours = job_hours(&study.budget, study.engine.kind, runnable);
                jobs.push(Job { nodes: draft.shape.nodes, hours });
            }
        }
        counts.points += 1;
        counts.feasible_points += u64::from(status == PlanStatus::Planned);
        let mut reasons = verdict.infeasible;
        reasons.extend(verdict.warnings);
        points.push(planned_point(input, compiled, draft, roles, status, reasons, &varied));
    }
    for design in &designs {
        counts.raw_points += design.raw_points;
        counts.labelled_points += design.labelled_points;
    }
    counts.cells = cells.len() as u64;
    counts.runnable_cells = cells.iter().filter(|cell| cell.status == PlanStatus::Planned).count() as u64;
    let (node_hours, wall_hours) = totals(&jobs, study.budget.max_jobs);
    let warnings = warnings(input, &points, &designs, node_hours.sequential);
    Ok(Plan {
        schema: PLAN_SCHEMA_VERSION,
        id_scheme: ID_SCHEME,
        study: study.study.clone(),
        points,
        cells,
        jobs: jobs.len() as u64,
        node_hours,
        wall_hours,
        warnings,
        designs,
        counts,
    })
}

fn count_workloads(cells: &[PlannedCell], counts: &mut PlanCounts) {
    let mut seen: Vec<(&str, bool)> = Vec::new();
    for cell in cells {
        let feasible = cell.status == PlanStatus::Planned;
        match seen.iter_mut().find(|(name, _)| *name == cell.workload) {
            Some((_, any)) => *any |= feasible,
            None => seen.push((&cell.workload, feasible)),
        }
    }
    counts.point_workloads += seen.len() as u64;
    counts.infeasible_point_workloads += seen.iter().filter(|(_, feasible)| !feasible).count() as u64;
}

/// Workload × level pairs of a load section; offline levels bring their own workload.
pub(super) fn measurements(workloads: &[String], load: &LoadSection) -> Vec<(String, Load)> {
    let mut out = Vec::new();
    let all = levels(load);
    for workload in workloads {
        out.extend(
            all.iter()
                .filter(|level| !matches!(level, Load::Offline { .. }))
                .map(|level| (workload.clone(), level.clone())),
        );
    }
    out.extend(
        all.iter()
            .filter(|level| matches!(level, Load::Offline { .. }))
            .map(|level| (OFFLINE_WORKLOAD.to_owned(), level.clone())),
    );
    out
}

/// Settings that differ between points, or that a design varies: what tables show.
fn varied_keys(drafts: &[Draft], space: &Space) -> Vec<KeyIdx> {
    (0..space.keys().len())
        .filter(|key| {
            let first = drafts.first().map(|draft| draft.row[*key]);
            drafts.iter().any(|draft| Some(draft.row[*key]) != first || draft.factors.contains(key))
        })
        .collect()
}

fn planned_point(
    input: &ExpandInput<'_>,
    compiled: &Compiled,
    draft: Draft,
    roles: super::roles::Roles,
    status: PlanStatus,
    reasons: Vec<String>,
    varied: &[KeyIdx],
) -> PlannedPoint {
    let space = &compiled.space;
    let study = input.study;
    let legacy = study.compat.as_ref().and_then(|compat| compat.legacy_hash).is_some();
    let legacy_hashes = draft
        .labels
        .iter()
        .filter(|_| legacy)
        .map(|label| (label.clone(), legacy_hash(study, space, &draft.row, &compiled.written, label)))
        .collect();
    let deploy = draft.shape.canonical();
    let factors = varied
        .iter()
        .filter_map(|key| {
            let value = space.json(draft.row[*key])?.clone();
            Some((space.keys()[*key].name.clone(), value))
        })
        .collect();
    let section = |section| -> Map<String, Value> {
        space.section(&draft.row, section).map(|(name, value)| (name.to_owned(), value.clone())).collect()
    };
    PlannedPoint {
        id: draft.id,
        labels: draft.labels,
        legacy_hashes,
        designs: draft.designs.iter().map(|number| compiled.designs[*number].name.clone()).collect(),
        factors,
        config: json!({
            "engine": engine_content(study),
            "model": model_content(study),
            "deploy": deploy,
            "serve": section(Section::Serve),
            "env": section(Section::Env),
        }),
        roles: roles.roles,
        nodes: draft.shape.nodes,
        gpus: draft.shape.gpus(),
        status,
        reasons,
        flag_notes: roles.notes,
    }
}

fn warnings(
    input: &ExpandInput<'_>,
    points: &[PlannedPoint],
    designs: &[DesignSummary],
    node_hours: f64,
) -> Vec<String> {
    let mut out = Vec::new();
    let study = input.study;
    let mut notes: BTreeMap<&str, usize> = BTreeMap::new();
    for note in points.iter().flat_map(|point| &point.flag_notes) {
        *notes.entry(note).or_default() += 1;
    }
    out.extend(notes.into_iter().map(|(note, n)| match points.len() {
        all if all == n => note.to_owned(),
        all => format!("{note} ({n} of {all} points)"),
    }));
    if let Some(budget) = study.budget.node_hours
        && node_hours > budget
    {
        out.push(format!("the plan needs about {node_hours:.1} node-hours, the budget is {budget}"));
    }
    if input.model.is_none() && study.engine.kind != crate::study::EngineKind::External {
        out.push(format!(
            "nothing is known about the architecture of `{}`: rules about heads, experts and KV memory were not checked",
            study.model.id
        ));
    }
    for design in designs {
        if let Some(reason) = &design.blocked {
            out.push(format!("design `{}` {reason}", design.name));
        }
    }
    out
}

impl CompiledDesign {
    /// What is known of the design before its points are counted.
    pub(super) fn summary(&self, study: &Study) -> DesignSummary {
        let own = study.designs.get(&self.name);
        DesignSummary {
            name: self.name.clone(),
            kind: self.kind.name().to_owned(),
            purpose: own.and_then(|own| own.purpose.clone()),
            expect: own.and_then(|own| own.expect.as_ref().map(|expect| expect.text.clone())),
            factors: self.factors.clone(),
            ..DesignSummary::default()
        }
    }

    /// True for designs whose points depend on results.
    pub fn depends_on_results(&self) -> bool {
        self.kind == DesignKind::From
    }
}
