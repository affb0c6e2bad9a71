//! Work beside the measured cells: answers for the accuracy guard, profiles. Both come after the cells, on servers that no
//! load is being measured on, and both are taken up again by the next run where they are missing.

use std::path::PathBuf;

use servelab_core::accuracy::AnswerSet;
use servelab_core::ids::PointId;
use servelab_core::plan::{PlanStatus, PlannedPoint};
use servelab_core::state::CellState;
use servelab_store::write_json;

use super::profiling::without_profile;
use super::{Run, RunInput, search_path};
use crate::answers::{Asked, ask_all};
use crate::error::RunError;
use crate::harness;
use crate::launch::{find_program, role_to_start, served_model};
use crate::observe::ServerPhase;
use crate::server::{PointServer, StartOutcome, headline};
use crate::source::RequestSource;

/// Points with at least one finished cell among those that this run may try.
pub(super) fn measured_points<'a>(input: &RunInput<'a>) -> Vec<&'a PlannedPoint> {
    let is_over = |cell: &servelab_core::ids::CellId| {
        let attempt = input.root.latest_attempt(cell).ok().flatten();
        let state = attempt.and_then(|attempt| attempt.state().ok().flatten());
        state.is_some_and(|state| matches!(state.state, CellState::Done | CellState::Invalid))
    };
    let mut points: Vec<&PlannedPoint> = Vec::new();
    for cell in input.plan.cells.iter().filter(|cell| input.cells.contains(&cell.id)) {
        let is_new = !points.iter().any(|point| point.id == cell.point);
        let point =
            input.plan.points.iter().find(|point| point.id == cell.point && point.status == PlanStatus::Planned);
        if let Some(point) = point.filter(|_| is_new && is_over(&cell.id)) {
            points.push(point);
        }
    }
    points
}

/// Where a point's answers are.
fn answers_path(input: &RunInput<'_>, point: &PointId) -> Result<PathBuf, RunError> {
    Ok(input.root.point_dir(point)?.join("answers.json"))
}

/// Are there answers to this very set?
fn has_answers(input: &RunInput<'_>, point: &PointId) -> bool {
    let Some(plan) = &input.options.accuracy else { return true };
    let bytes = answers_path(input, point).ok().and_then(|path| std::fs::read(path).ok());
    let set = bytes.and_then(|bytes| serde_json::from_slice::<AnswerSet>(&bytes).ok());
    set.is_some_and(|set| set.set == plan.set())
}

/// Points whose answers are missing although their cells are measured. Answers belong to what this run would measure too:
/// with `max_cells` it does only what it was asked for.
pub(super) fn without_answers<'a>(input: &RunInput<'a>) -> Vec<&'a PlannedPoint> {
    if input.options.accuracy.is_none() || input.options.max_cells.is_some() {
        return Vec::new();
    }
    measured_points(input).into_iter().filter(|point| !has_answers(input, &point.id)).collect()
}

impl Run<'_> {
    /// Asks a server that has measured its cells.
    pub(super) fn ask_for_answers(&self, point: &PlannedPoint, server: &PointServer) -> Result<(), RunError> {
        let Some(plan) = self.input.options.accuracy.as_ref().filter(|plan| !plan.prompts.is_empty()) else {
            return Ok(());
        };
        if has_answers(self.input, &point.id) || self.control.is_stopping() {
            return Ok(());
        }
        let role = role_to_start(self.input.engine, point, self.launcher.allocation.nodes.len()).ok().flatten();
        let model = served_model(point, role);
        let asked = Asked {
            base_url: &server.base_url,
            api_key: self.input.options.launch.api_key.as_ref(),
            endpoint: server.endpoint,
            model: &model,
            engine_version: server.effective.engine_version.as_deref(),
        };
        let who = || point.labels.join(" = ");
        match ask_all(plan, asked, self.control) {
            None => {}
            Some(Ok(set)) => {
                let n = set.answers.iter().flatten().count();
                write_json(&answers_path(self.input, &point.id)?, &set)?;
                self.recorder.notice(format!("  {}: {n} of {} greedy answers kept", who(), plan.prompts.len()));
            }
            Some(Err(reason)) => self.recorder.notice(format!("  {}: no greedy answers: {reason}", who())),
        }
        if let Some(tasks) = plan.lm_eval.as_ref().filter(|_| !self.control.is_stopping()) {
            let program = find_program("lm_eval".as_ref(), search_path(self.input).as_deref());
            let folder = self.input.root.point_dir(&point.id)?;
            let record = harness::hand_over(tasks, program.as_deref(), asked, &folder, self.control);
            if let Some(reason) = &record.absent {
                self.recorder.notice(format!("  {}: no lm-evaluation-harness: {reason}", who()));
            }
            write_json(&folder.join(harness::RECORD), &record)?;
        }
        Ok(())
    }

    /// What is still missing once all cells are over.
    pub(super) fn side_work(&mut self, source: &mut dyn RequestSource) -> Result<(), RunError> {
        for point in without_answers(self.input) {
            if self.control.is_stopping() {
                return Ok(());
            }
            self.answers_alone(point)?;
        }
        for point in without_profile(self.input) {
            if self.control.is_stopping() {
                return Ok(());
            }
            self.profile(point, source)?;
        }
        Ok(())
    }

    /// A server start for answers only: an earlier run was ended between the cells and them.
    fn answers_alone(&mut self, point: &PlannedPoint) -> Result<(), RunError> {
        let Ok(role) = role_to_start(self.input.engine, point, self.launcher.allocation.nodes.len()) else {
            return Ok(());
        };
        match self.launcher.start(point, role, &[])? {
            StartOutcome::Up(server) => {
                self.ask_for_answers(point, &server)?;
                self.launcher.stop(point, server)
            }
            StartOutcome::Failed(failure) => {
                let detail = headline(&failure.report);
                self.recorder.server(&point.id, ServerPhase::Failed, 0.0, Some(detail))?;
                Ok(())
            }
            StartOutcome::Cancelled => Ok(()),
        }
    }
}
