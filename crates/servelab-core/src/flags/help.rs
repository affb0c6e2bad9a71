//! Reads a captured `vllm serve --help=all`: the flags that the target environment really has.

use std::collections::BTreeMap;

use super::FlagKind;
use super::data::{FlagSpec, vllm};

/// The flags of one environment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HelpFlags {
    pub(super) flags: BTreeMap<String, FlagSpec>,
}

impl HelpFlags {
    /// Reads the text; lines that are no option are skipped, so any text gives an answer, possibly an empty one.
    pub fn parse(text: &str) -> Self {
        let mut flags = BTreeMap::new();
        for line in text.lines() {
            // Options are indented by two spaces, their descriptions by far more.
            let Some(option) = line.strip_prefix("  ").filter(|rest| rest.starts_with('-')) else {
                continue;
            };
            if let Some((name, spec)) = parse_option(option) {
                flags.insert(name, spec);
            }
        }
        Self { flags }
    }

    /// Number of flags read; a real help has hundreds.
    pub fn len(&self) -> usize {
        self.flags.len()
    }

    /// True when no flag was read: the text was no help.
    pub fn is_empty(&self) -> bool {
        self.flags.is_empty()
    }

    /// Is there a flag of this name (with underscores, without dashes in front)?
    pub fn has(&self, name: &str) -> bool {
        self.flags.contains_key(name) || self.flags.values().any(|spec| spec.also.iter().any(|other| other == name))
    }
}

fn parse_option(option: &str) -> Option<(String, FlagSpec)> {
    let (head, choices) = without_choices(option);
    let head = head.split("  ").next().unwrap_or("");
    let mut names = Vec::new();
    let mut arguments = "";
    for part in head.split(", ") {
        let (name, argument) = part.trim().split_once(' ').unwrap_or((part.trim(), ""));
        if let Some(long) = name.strip_prefix("--") {
            names.push(long.replace('-', "_"));
        }
        arguments = if argument.is_empty() { arguments } else { argument };
    }
    let name = names.first()?.clone();
    if name == "help" || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return None;
    }
    let negative = format!("no_{name}");
    let has_negative = names.contains(&negative);
    let kind = if has_negative {
        FlagKind::Bool
    } else if arguments.ends_with("...]") {
        FlagKind::List
    } else if arguments.is_empty() && choices.is_empty() {
        FlagKind::Switch
    } else if is_json(&name) {
        FlagKind::Json
    } else {
        FlagKind::Value
    };
    let also = names.into_iter().skip(1).filter(|other| *other != negative).collect();
    // Value lists with a free form behind them ("or name registered in …") bind nobody.
    let choices = if arguments.contains(" or ") || kind == FlagKind::List { Vec::new() } else { choices };
    Some((name, FlagSpec { kind, choices, also, since: None }))
}

/// Help does not say that a value is JSON; the table and vLLM's naming do.
fn is_json(name: &str) -> bool {
    match vllm().flags.get(name) {
        Some(known) => known.kind == FlagKind::Json,
        None => name.ends_with("_config"),
    }
}

/// Cuts `{a,b}` or `['a', 'b']` out of an option's first line and returns its members.
fn without_choices(option: &str) -> (String, Vec<String>) {
    for (open, close) in [("{", '}'), ("['", ']')] {
        let Some(start) = option.find(open) else { continue };
        let Some(length) = option.get(start..).and_then(|rest| rest.find(close)) else { continue };
        let inside = option.get(start + 1..start + length).unwrap_or("");
        let members = inside.split(',').map(|member| member.trim().trim_matches('\'').to_owned()).collect();
        let before = option.get(..start).unwrap_or("");
        let after = option.get(start + length + 1..).unwrap_or("");
        return (format!("{before}CHOICE{after}"), members);
    }
    (option.to_owned(), Vec::new())
}
