//! What can be known before anything is started: small pure rules over a point's shape, settings, model and GPU, and over
//! a point together with a workload. `infeasible` is a result with its numbers, not an error. A rule speaks only when it
//! knows all its inputs; the study's own `constraints:` live in `expr`.

mod lengths;
mod memory;
mod parallel;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::flags::RoleDeploy;
use crate::model::{GpuFacts, ModelFacts};

/// Settings by canonical dotted name.
pub trait Settings {
    /// The value, if there is one.
    fn get(&self, name: &str) -> Option<&Value>;

    /// True when some setting with this prefix has a value.
    fn has_prefix(&self, prefix: &str) -> bool;
}

impl Settings for BTreeMap<String, Value> {
    fn get(&self, name: &str) -> Option<&Value> {
        BTreeMap::get(self, name).filter(|value| !value.is_null())
    }

    fn has_prefix(&self, prefix: &str) -> bool {
        let from = self.range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        from.take_while(|(name, _)| name.starts_with(prefix)).any(|(_, value)| !value.is_null())
    }
}

/// One role of a point.
#[derive(Clone, Copy)]
pub struct RoleView<'a> {
    /// `serve`, `prefill` or `decode`.
    pub name: &'a str,
    /// Equal instances.
    pub count: u32,
    /// Shape of one instance.
    pub deploy: RoleDeploy,
    /// Settings of this role, the point's own included.
    pub settings: &'a dyn Settings,
}

/// A point as the rules see it. What is not known is `None`, and the rules that need it keep silent.
#[derive(Clone, Copy)]
pub struct PointView<'a> {
    /// `vllm`, `sim`, `sglang` or `external`. An external server is judged by nobody.
    pub engine: &'a str,
    /// Roles that use GPUs.
    pub roles: &'a [RoleView<'a>],
    /// The model.
    pub model: Option<&'a ModelFacts>,
    /// The GPU.
    pub gpu: Option<&'a GpuFacts>,
    /// GPUs on a node.
    pub gpus_per_node: Option<u32>,
    /// Nodes of the point.
    pub nodes: Option<u32>,
}

/// Lengths of a workload, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkloadView {
    /// Longest prompt.
    pub max_input_tokens: u64,
    /// Longest answer asked for.
    pub max_output_tokens: Option<u64>,
}

/// What a finding does to a point or cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingSeverity {
    /// It cannot run.
    Infeasible,
    /// It can, and somebody should know this.
    Warning,
}

/// One thing that a rule found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A code that `servelab explain` knows.
    pub code: &'static str,
    /// What it means for the plan.
    pub severity: FindingSeverity,
    /// One sentence with its numbers.
    pub text: String,
}

impl Finding {
    /// True when nothing can run.
    pub fn is_infeasible(&self) -> bool {
        self.severity == FindingSeverity::Infeasible
    }
}

/// Every rule's code; each has an explanation.
pub const RULE_CODES: [&str; 23] = [
    "heads_not_divisible",
    "kv_heads_not_divisible",
    "pp_exceeds_layers",
    "eplb_experts_not_divisible",
    "eplb_without_ep",
    "eplb_settings_unused",
    "ep_without_experts",
    "dcp_not_divisor",
    "dcp_needs_kv_heads",
    "too_few_gpus",
    "idle_gpus",
    "dp_local_mismatch",
    "tp_across_nodes",
    "mtp_missing",
    "max_len_over_model",
    "batch_below_model_len",
    "batch_below_seqs",
    "memory_fraction",
    "weights_too_large",
    "kv_capacity",
    "fp8_kv_slow",
    "prompt_too_long",
    "answer_too_long",
];

/// Judges a point.
pub fn check_point(point: &PointView<'_>) -> Vec<Finding> {
    let mut out = Findings { several_roles: point.roles.len() > 1, role: "", list: Vec::new() };
    if point.engine == "external" {
        return out.list;
    }
    parallel::check_gpus(point, &mut out);
    for role in point.roles {
        out.role = role.name;
        parallel::check_role(point, role, &mut out);
        lengths::check_role(point, role, &mut out);
        memory::check_role(point, role, &mut out);
    }
    out.list
}

/// Judges a point under a workload: only what [`check_point`] cannot know.
pub fn check_cell(point: &PointView<'_>, workload: &WorkloadView) -> Vec<Finding> {
    let mut out = Findings { several_roles: point.roles.len() > 1, role: "", list: Vec::new() };
    for role in point.roles {
        out.role = role.name;
        lengths::check_workload(point, role, workload, &mut out);
    }
    out.list
}

/// Collects findings and names the role where there are several.
struct Findings<'a> {
    several_roles: bool,
    role: &'a str,
    list: Vec<Finding>,
}

impl Findings<'_> {
    fn infeasible(&mut self, code: &'static str, text: String) {
        self.push(code, FindingSeverity::Infeasible, text);
    }

    fn warn(&mut self, code: &'static str, text: String) {
        self.push(code, FindingSeverity::Warning, text);
    }

    fn push(&mut self, code: &'static str, severity: FindingSeverity, text: String) {
        let text = if self.several_roles && !self.role.is_empty() { format!("{}: {text}", self.role) } else { text };
        self.list.push(Finding { code, severity, text });
    }
}

fn is_true(settings: &dyn Settings, name: &str) -> bool {
    settings.get(name).and_then(Value::as_bool) == Some(true)
}

/// A number of tokens or sequences; vLLM also reads `32k` (thousands) and `32K` (1,024s). `auto` is no number.
fn count(settings: &dyn Settings, name: &str) -> Option<u64> {
    match settings.get(name)? {
        Value::Number(number) => number.as_u64().or_else(|| whole(number.as_f64()?)),
        Value::String(text) => {
            let text = text.trim();
            let (digits, scale) = match text.char_indices().last()? {
                (at, 'k') => (text.get(..at)?, 1e3),
                (at, 'K') => (text.get(..at)?, 1024.0),
                (at, 'm') => (text.get(..at)?, 1e6),
                (at, 'M') => (text.get(..at)?, 1024.0 * 1024.0),
                _ => (text, 1.0),
            };
            whole(digits.parse::<f64>().ok()? * scale)
        }
        _ => None,
    }
}

fn whole(number: f64) -> Option<u64> {
    ((0.0..1e15).contains(&number) && number.fract() == 0.0).then_some(number as u64)
}

/// `32768` as `32,768`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
