//! Everything that a study gives a value to: its own settings, and the keys that rows need before they can be laid out.

use std::collections::BTreeSet;

use serde_json::Value;

use super::names::{DEPLOY_NAMES, check_setting, resolve_name};
use super::space::{Key, Section, flatten};
use crate::flags::FlagTable;
use crate::ordered::OrderedMap;
use crate::source::Diagnostic;
use crate::study::{Design, RoleShape, Study};
use crate::yaml::Node;

/// The study's own settings as `(name, value)`, deploy first.
pub(super) fn base_settings(study: &Study) -> Vec<(String, Value)> {
    let deploy = &study.deploy;
    let mut out = Vec::new();
    let mut number = |name: &str, value: Option<u32>| {
        if let Some(value) = value {
            out.push((format!("deploy.{name}"), Value::from(value)));
        }
    };
    number("nodes", deploy.nodes);
    number("gpus_per_node", deploy.gpus_per_node);
    number("tp", deploy.tp);
    number("pp", deploy.pp);
    number("dp", deploy.dp);
    number("dp_local", deploy.dp_local);
    number("replicas", deploy.replicas);
    for (prefix, role) in [("p", deploy.p), ("d", deploy.d)] {
        let RoleShape { count, tp, pp, dp } = role.unwrap_or_default();
        number(&format!("{prefix}.count"), count);
        number(&format!("{prefix}.tp"), tp);
        number(&format!("{prefix}.pp"), pp);
        number(&format!("{prefix}.dp"), dp);
    }
    if let Some(mode) = deploy.mode {
        out.push(("deploy.mode".into(), mode_name(mode).into()));
    }
    if let Some(place) = deploy.place {
        out.push(("deploy.place".into(), place.name().into()));
    }
    if let Some(router) = deploy.router {
        out.push(("deploy.router".into(), router.name().into()));
    }
    if let Some(launch) = deploy.launch {
        out.push(("deploy.launch".into(), launch.name().into()));
    }
    for (name, value) in study.serve.iter() {
        out.push((name.to_owned(), value.clone()));
    }
    for (name, value) in &study.env {
        out.push((format!("env.{name}"), Value::from(value.0.join(","))));
    }
    out
}

fn mode_name(mode: crate::study::DeployMode) -> &'static str {
    match mode {
        crate::study::DeployMode::Collocated => "collocated",
        crate::study::DeployMode::Pd => "pd",
    }
}

/// Settings whose value is a structure must be known by their leaves before rows can be laid out.
pub(super) fn collect_keys(
    study: &Study,
    doc: &Node,
    flags: Option<&FlagTable>,
    out: &mut BTreeSet<Key>,
) -> Result<(), Diagnostic> {
    let mut add = |path: &[&str], name: &str, value: &Value| -> Result<(), Diagnostic> {
        let span = doc.span_at(path);
        check_setting(name, value, flags).map_err(|(message, hint)| Diagnostic { message, span: Some(span), hint })?;
        let mut leaves = Vec::new();
        flatten(name, value, &mut leaves);
        for (leaf, _) in leaves {
            let key = resolve_name(&leaf).map_err(|message| Diagnostic::at(span, message))?;
            out.insert(key);
        }
        Ok(())
    };
    for (name, value) in base_settings(study) {
        let section = if name.starts_with("deploy.") {
            "deploy"
        } else if name.starts_with("env.") {
            "env"
        } else {
            "serve"
        };
        let plain = name.strip_prefix("deploy.").or_else(|| name.strip_prefix("env.")).unwrap_or(&name).to_owned();
        let first = plain.split('.').next().unwrap_or(&plain).to_owned();
        let path = if section == "deploy" { first.as_str() } else { plain.as_str() };
        add(&[section, path], &name, &value)?;
    }
    for (design_name, design) in study.designs.iter() {
        for (name, value) in design.set.iter() {
            add(&["designs", design_name, "set", name], name, value)?;
        }
        for (name, factor) in design.grid.iter().flat_map(OrderedMap::iter) {
            for value in &factor.values {
                add(&["designs", design_name, "grid", name], name, value)?;
            }
        }
        for (entry_name, entry) in design.list.iter().flat_map(OrderedMap::iter) {
            for (name, factor) in entry.grid.iter() {
                for value in &factor.values {
                    add(&["designs", design_name, "list", entry_name, "grid", name], name, value)?;
                }
            }
            for (name, value) in entry.settings.iter() {
                add(&["designs", design_name, "list", entry_name, name], name, value)?;
            }
        }
        for (group, arms) in design.ablate.iter().flat_map(OrderedMap::iter) {
            for (arm_name, arm) in arms.iter() {
                for (name, value) in arm.settings.iter() {
                    add(&["designs", design_name, "ablate", group, arm_name, name], name, value)?;
                }
            }
        }
    }
    for name in study.probe.keys() {
        add(&["probe", name], name, &Value::from(1))?;
    }
    if study.designs.iter().any(|(_, design)| design.topology.is_some()) {
        out.extend(DEPLOY_NAMES.map(|name| Key { section: Section::Deploy, name: name.to_owned() }));
    }
    Ok(())
}

/// The settings that a design varies, as the study spells them.
pub(super) fn factor_names(design: &Design) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut add = |name: &str| {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    };
    design.grid.iter().flat_map(OrderedMap::keys).for_each(&mut add);
    for (_, entry) in design.list.iter().flat_map(OrderedMap::iter) {
        entry.grid.keys().for_each(&mut add);
        entry.settings.keys().for_each(&mut add);
    }
    for (_, arms) in design.ablate.iter().flat_map(OrderedMap::iter) {
        for (_, arm) in arms.iter() {
            arm.settings.keys().for_each(&mut add);
        }
    }
    if let Some(topology) = &design.topology {
        if !topology.tp.is_empty() {
            add("tp");
        }
        if !topology.ratios.is_empty() {
            add("p:d");
        }
        if !topology.shapes.is_empty() {
            add("shape");
        }
        if topology.place.0.len() > 1 {
            add("place");
        }
    }
    names
}
