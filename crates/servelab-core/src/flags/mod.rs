//! Serving settings and the command lines that engines read: which names an engine version knows, renamed, removed or
//! silently reinterprets, and the argument vector of one server. Tables are data (`data/*-flags.json`); a captured
//! `--help=all` of the target environment beats them. Starting anything is left to the runner, which also adds host,
//! port and per-node arguments.

mod argv;
mod canonical;
mod data;
mod help;
mod table;

#[cfg(test)]
mod tests;

pub use argv::{Argv, ArgvRequest, Backend, FlagNote, NoteSeverity, RoleDeploy, build_argv, pd_role_extras};
pub use canonical::{Canonical, Section, canonical_setting, engine_path};
pub use help::HelpFlags;
pub use table::{FlagTable, FlagVerdict, setting_flag};

/// Whose command line is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `vllm serve`.
    Vllm,
    /// `python -m sglang.launch_server`.
    Sglang,
    /// llama.cpp.
    LlamaCpp,
    /// `servelab sim`, which reads vLLM's flags.
    Sim,
}

impl Dialect {
    /// The dialect of an engine kind; `external` has none, since somebody else starts it.
    pub fn of_engine(kind: &str) -> Option<Self> {
        match kind {
            "vllm" => Some(Self::Vllm),
            "sglang" => Some(Self::Sglang),
            "llamacpp" => Some(Self::LlamaCpp),
            "sim" => Some(Self::Sim),
            _ => None,
        }
    }
}

/// How a flag takes its value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlagKind {
    /// `--name VALUE`.
    #[default]
    Value,
    /// `--name` or `--no-name`.
    Bool,
    /// `--name '{…}'`; its members are written `name.member` in a study.
    Json,
    /// `--name A B C`.
    List,
    /// `--name`, with no negative form.
    Switch,
    /// `--name` when the setting is true, nothing otherwise, under a name of the engine's own.
    On,
    /// `--name` when the setting is false, nothing otherwise.
    Off,
}
