//! Can a point run, and can it serve a workload? The study's own constraints plus the rules of `feasibility`, over one
//! row. Findings are sentences with numbers; codes and severities come from the rules.

use super::ExpandInput;
use super::blocks::ExprView as _;
use super::compile::Compiled;
use super::shape::Shape;
use super::space::Row;
use super::view::{RowView, Shapes};
use crate::expr;
use crate::plan::Load;
use crate::source::Diagnostic;
use crate::study::OnViolation;

/// What the rules say of a point.
#[derive(Debug, Clone, Default)]
pub(super) struct PointVerdict {
    pub(super) infeasible: Vec<String>,
    pub(super) warnings: Vec<String>,
}

pub(super) struct Judge<'a> {
    input: &'a ExpandInput<'a>,
    compiled: &'a Compiled,
    shapes: Shapes<'a>,
    values: Vec<expr::Value>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(input: &'a ExpandInput<'a>, compiled: &'a Compiled) -> Self {
        let shapes = Shapes::new(&compiled.space, input.site.gpus.per_node, input.site.hardware.nodes);
        Self { input, compiled, shapes, values: Vec::new() }
    }

    /// Judges a point, whatever is asked of it.
    pub(super) fn point(&mut self, row: &Row, shape: &Shape) -> Result<PointVerdict, Diagnostic> {
        let mut verdict = PointVerdict::default();
        verdict.infeasible.extend(shape.problem.clone());
        if !self.compiled.constraints.is_empty() {
            let mut view = RowView { slots: &self.compiled.slots, shapes: &mut self.shapes };
            view.fill(&self.compiled.space, row, &mut self.values);
        }
        for constraint in &self.compiled.constraints {
            let truth = constraint
                .rule
                .truth(&self.values)
                .map_err(|error| Diagnostic::at(constraint.span, format!("rule `{}`: {error}", constraint.text)))?;
            if truth != Some(false) {
                continue;
            }
            let mut text = format!("violates `{}`", constraint.text);
            if let Some(because) = &constraint.because {
                text.push_str(": ");
                text.push_str(because);
            }
            match constraint.otherwise {
                OnViolation::Infeasible => verdict.infeasible.push(text),
                OnViolation::Warn => verdict.warnings.push(text),
            }
        }
        Ok(verdict)
    }

    /// Why a feasible point cannot serve a workload; empty when it can.
    pub(super) fn workload(&self, _row: &Row, _shape: &Shape, _workload: &str, _level: &Load) -> Vec<String> {
        Vec::new()
    }

    /// True when a feasible point can serve a workload.
    pub(super) fn workload_fits(&self, row: &Row, shape: &Shape, workload: &str, level: &Load) -> bool {
        self.workload(row, shape, workload, level).is_empty()
    }
}
