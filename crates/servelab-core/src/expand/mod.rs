//! Expansion: from a study to points, cells, roles, command lines and costs. Pure and deterministic: same study, same
//! plan, same bytes. `compile` understands the study, `blocks` enumerates, `shape` places roles, `build` makes the plan;
//! reading files and printing happen elsewhere.

mod blocks;
mod build;
mod collect;
mod compile;
mod cost;
mod judge;
mod legacy;
mod measure;
mod names;
mod roles;
mod shape;
mod space;
mod summary;
#[cfg(test)]
mod tests;
mod topology;
mod view;

use std::collections::BTreeMap;

use serde_json::Value;

pub use build::expand;
pub use compile::parse_expression;
pub use measure::{OFFLINE_WORKLOAD, levels};
pub use names::DEPLOY_NAMES;
pub use shape::{RoleSize, Shape, parse_ratio, parse_shape};
pub use summary::{Summary, summarise};

use crate::flags::FlagTable;
use crate::ids::PointId;
use crate::model::{GpuFacts, ModelFacts};
use crate::site::Site;
use crate::study::Study;
use crate::version::VersionSpec;
use crate::yaml::Node;

/// What is known of a workload's prompts without drawing them.
#[derive(Debug, Clone, PartialEq)]
pub struct DatasetFacts {
    /// What identifies the content: the canonical spec of a synthetic set, or the hash of a file.
    pub content: Value,
    /// Longest prompt, tokens.
    pub max_input_tokens: Option<u32>,
    /// Longest answer asked for, tokens.
    pub max_output_tokens: Option<u32>,
}

/// Everything that expansion depends on.
pub struct ExpandInput<'a> {
    /// The study.
    pub study: &'a Study,
    /// Its tree, for places in messages.
    pub doc: &'a Node,
    /// Where it will run.
    pub site: &'a Site,
    /// The engine's declared version.
    pub version: Option<&'a VersionSpec>,
    /// The engine's flags; `None` for an external server.
    pub flags: Option<&'a FlagTable>,
    /// The model's architecture, where known.
    pub model: Option<&'a ModelFacts>,
    /// The site's GPU, where known.
    pub gpu: Option<&'a GpuFacts>,
    /// Path of the model as the engine is told, variables filled in.
    pub model_path: &'a str,
    /// Fingerprint of the tokenizer that counts prompt tokens.
    pub tokenizer: &'a str,
    /// Path of that tokenizer, unless it is the built-in one; the simulator counts with the same.
    pub tokenizer_path: Option<&'a str>,
    /// Facts per workload.
    pub datasets: &'a BTreeMap<String, DatasetFacts>,
    /// Winning points of a design, once it has results.
    pub winners: &'a dyn Fn(&str) -> Option<Vec<PointId>>,
}
