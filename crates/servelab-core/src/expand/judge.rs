//! Can a point run, and can it serve a workload? The study's own constraints plus the rules of `feasibility`, over one
//! row. Findings are sentences with numbers; codes and severities come from the rules.

use super::ExpandInput;
use super::blocks::ExprView as _;
use super::compile::Compiled;
use super::shape::{RoleSize, Shape};
use super::space::{Row, Space};
use super::view::{RowView, Shapes};
use crate::expr;
use crate::feasibility::{self, Finding, PointView, RoleView, WorkloadView};
use crate::flags::RoleDeploy;
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
        for finding in self.with_view(row, shape, feasibility::check_point) {
            let list = if finding.is_infeasible() { &mut verdict.infeasible } else { &mut verdict.warnings };
            list.push(finding.text);
        }
        Ok(verdict)
    }

    /// Why a feasible point cannot serve a workload; empty when it can.
    pub(super) fn workload(&self, row: &Row, shape: &Shape, workload: &str, level: &Load) -> Vec<String> {
        let lengths = match level {
            Load::Offline { seq_len, max_tokens, .. } => {
                WorkloadView { max_input_tokens: u64::from(*seq_len), max_output_tokens: Some(u64::from(*max_tokens)) }
            }
            _ => {
                let facts = self.input.datasets.get(workload);
                let Some(longest) = facts.and_then(|facts| facts.max_input_tokens) else { return Vec::new() };
                WorkloadView {
                    max_input_tokens: u64::from(longest),
                    max_output_tokens: facts.and_then(|facts| facts.max_output_tokens).map(u64::from),
                }
            }
        };
        self.with_view(row, shape, |view| feasibility::check_cell(view, &lengths))
            .into_iter()
            .filter(Finding::is_infeasible)
            .map(|finding| finding.text)
            .collect()
    }

    /// True when a feasible point can serve a workload.
    pub(super) fn workload_fits(&self, row: &Row, shape: &Shape, workload: &str, level: &Load) -> bool {
        self.workload(row, shape, workload, level).is_empty()
    }

    fn with_view<T>(&self, row: &Row, shape: &Shape, check: impl FnOnce(&PointView<'_>) -> T) -> T {
        let space = &self.compiled.space;
        let settings = RowSettings { space, row };
        let dcp = space.serve(row, "decode_context_parallel_size").and_then(serde_json::Value::as_u64);
        let dcp = dcp.and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
        let role = |name: &'static str, size: RoleSize| {
            let places = shape.placement.iter().find(|(role, _)| *role == name);
            let nodes = places.and_then(|(_, places)| places.first()).map_or(1, |place| place.node_gpus.len());
            RoleView {
                name,
                count: size.count,
                deploy: RoleDeploy {
                    tp: size.tp,
                    pp: size.pp,
                    dp: size.dp,
                    dp_local: shape.dp_local,
                    dcp,
                    nodes: u32::try_from(nodes).unwrap_or(1).max(1),
                    backend: None,
                },
                settings: &settings,
            }
        };
        let (first, second) = match shape.decode {
            Some(decode) => (role("prefill", shape.first), Some(role("decode", decode))),
            None => (role("serve", shape.first), None),
        };
        let both = [first, second.unwrap_or(first)];
        check(&PointView {
            engine: self.input.study.engine.kind.name(),
            roles: if second.is_some() { &both } else { &both[..1] },
            model: self.input.model,
            gpu: self.input.gpu,
            gpus_per_node: Some(shape.gpus_per_node),
            nodes: Some(shape.nodes),
        })
    }
}

/// The engine settings of a row.
struct RowSettings<'a> {
    space: &'a Space,
    row: &'a Row,
}

impl feasibility::Settings for RowSettings<'_> {
    fn get(&self, name: &str) -> Option<&serde_json::Value> {
        self.space.serve(self.row, name)
    }

    fn has_prefix(&self, prefix: &str) -> bool {
        self.space.serve_has_prefix(self.row, prefix)
    }
}
