//! Names of settings: which section a name belongs to, and which names are mistakes.

use serde_json::Value;

use super::space::{Key, Section};
use crate::flags::{self, FlagTable, FlagVerdict};
use crate::source::did_you_mean;

/// Settings of `deploy` by their names in grids and expressions.
pub const DEPLOY_NAMES: [&str; 19] = [
    "mode",
    "nodes",
    "gpus_per_node",
    "tp",
    "pp",
    "dp",
    "dp_local",
    "replicas",
    "launch",
    "place",
    "router",
    "p.count",
    "p.tp",
    "p.pp",
    "p.dp",
    "d.count",
    "d.tp",
    "d.pp",
    "d.dp",
];

/// Facts about a point that expressions may use beside its settings.
pub const DERIVED_NAMES: [&str; 1] = ["gpus"];

/// Resolves a setting's name to its section and canonical name.
pub fn resolve_name(name: &str) -> Result<Key, String> {
    for (prefix, section) in [("env.", Section::Env), ("serve.", Section::Serve), ("deploy.", Section::Deploy)] {
        if let Some(rest) = name.strip_prefix(prefix) {
            return match section {
                Section::Env => Ok(Key { section, name: rest.to_owned() }),
                _ => resolve_name(rest),
            };
        }
    }
    if DEPLOY_NAMES.contains(&name) {
        return Ok(Key { section: Section::Deploy, name: name.to_owned() });
    }
    let canonical = flags::canonical_setting(name);
    match canonical.section {
        flags::Section::Deploy => Ok(Key { section: Section::Deploy, name: canonical.name }),
        flags::Section::Serve => Ok(Key { section: Section::Serve, name: canonical.name }),
        flags::Section::Model => Err(format!("`{name}` is no engine setting: write it as `model.{}`", canonical.name)),
    }
}

/// A mistyped setting is an error; one that the engine version does not know otherwise is the plan's business.
pub(super) fn check_setting(
    name: &str,
    value: &Value,
    flags: Option<&FlagTable>,
) -> Result<(), (String, Option<String>)> {
    let key = resolve_name(name).map_err(|message| (message, None))?;
    match key.section {
        Section::Env => {
            let fine = !key.name.is_empty()
                && key.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                && !key.name.starts_with(|c: char| c.is_ascii_digit());
            if fine { Ok(()) } else { Err((format!("`{}` is no name of an environment variable", key.name), None)) }
        }
        Section::Deploy => {
            if DEPLOY_NAMES.contains(&key.name.as_str()) {
                return Ok(());
            }
            let near = did_you_mean(&key.name, DEPLOY_NAMES);
            Err((
                format!("unknown deploy setting `{}`", key.name),
                Some(near.map_or_else(
                    || format!("known: {}", DEPLOY_NAMES.join(", ")),
                    |near| format!("did you mean `{near}`?"),
                )),
            ))
        }
        Section::Serve => {
            if name == "extra_args" {
                return Ok(());
            }
            if let Some(near) = did_you_mean(name, DEPLOY_NAMES)
                && (near == name || (name.contains('.') && (name.starts_with("p.") || name.starts_with("d."))))
            {
                return Err((format!("unknown deploy setting `{name}`"), Some(format!("did you mean `{near}`?"))));
            }
            match flags.map(|table| table.check(name, value)) {
                Some(FlagVerdict::Unknown { suggestion: Some(near) }) => Err((
                    format!("unknown setting `{name}`"),
                    Some(format!(
                        "did you mean `{near}`? To pass a flag that Servelab does not know, use `extra_args: [\"--flag\", …]`"
                    )),
                )),
                _ => Ok(()),
            }
        }
    }
}
