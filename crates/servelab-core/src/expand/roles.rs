//! The servers of one point: role sizes, command lines, environment, placement.

use std::collections::BTreeMap;

use serde_json::Value;

use super::ExpandInput;
use super::shape::{RoleSize, Shape};
use super::space::{Row, Section, Space};
use crate::flags::{ArgvRequest, Backend, Dialect, NoteSeverity, RoleDeploy, build_argv, pd_role_extras};
use crate::plan::{Placement, RolePlan};
use crate::version::VersionSpec;

/// The roles of a point and what to know about their flags.
pub(super) struct Roles {
    pub(super) roles: Vec<RolePlan>,
    pub(super) notes: Vec<String>,
}

pub(super) fn build_roles(input: &ExpandInput<'_>, space: &Space, row: &Row, shape: &Shape) -> Roles {
    let serve: BTreeMap<String, Value> =
        space.section(row, Section::Serve).map(|(name, value)| (name.to_owned(), value.clone())).collect();
    let env: BTreeMap<String, String> = space
        .section(row, Section::Env)
        .map(|(name, value)| (name.to_owned(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
        .collect();
    let mut roles = Vec::new();
    let mut notes = Vec::new();
    for (name, size) in shape.roles() {
        let placement = shape.placement.iter().find(|(role, _)| *role == name).map(|(_, places)| places.clone());
        let placement = placement.unwrap_or_default();
        let (argv, extra_env) = command(input, &serve, name, size, shape, &placement, &mut notes);
        let mut env = env.clone();
        env.extend(extra_env);
        roles.push(RolePlan { role: name.to_owned(), count: size.count, gpus: size.gpus(), argv, env, placement });
    }
    if shape.needs_router() {
        let placement = vec![Placement { instance: 0, node_gpus: BTreeMap::from([(0, Vec::new())]) }];
        roles.push(RolePlan {
            role: "router".to_owned(),
            count: 1,
            gpus: 0,
            argv: Vec::new(),
            env: BTreeMap::new(),
            placement,
        });
    }
    Roles { roles, notes }
}

fn command(
    input: &ExpandInput<'_>,
    serve: &BTreeMap<String, Value>,
    role: &str,
    size: RoleSize,
    shape: &Shape,
    placement: &[Placement],
    notes: &mut Vec<String>,
) -> (Vec<String>, BTreeMap<String, String>) {
    let Some(table) = input.flags else { return (Vec::new(), BTreeMap::new()) };
    let nodes = placement.first().map_or(1, |place| u32::try_from(place.node_gpus.len()).unwrap_or(1).max(1));
    let dcp = serve.get("decode_context_parallel_size").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let backend = match shape.launch.as_deref() {
        Some("ray") => Some(Backend::Ray),
        Some("mp") => Some(Backend::Mp),
        Some("dp-rpc") => Some(Backend::DpRpc),
        _ => None,
    };
    let mut settings = serve.clone();
    if input.study.model.trust_remote_code {
        settings.insert("trust_remote_code".to_owned(), Value::Bool(true));
    }
    if let Some(revision) = &input.study.model.revision {
        settings.insert("revision".to_owned(), Value::from(revision.as_str()));
    }
    let argv = build_argv(
        &ArgvRequest {
            model: input.model_path,
            served_name: Some(input.study.model.served_name.as_deref().unwrap_or(&input.study.model.id)),
            gpu: input.site.hardware.gpu.as_deref(),
            deploy: RoleDeploy {
                tp: size.tp,
                pp: size.pp,
                dp: size.dp,
                dp_local: shape.dp_local,
                dcp: dcp.unwrap_or(1),
                nodes,
                backend,
            },
            serve: &settings,
            role_extras: &pd_role_extras(role, table),
        },
        table,
    );
    let mut line = argv.argv;
    if table.dialect() == Dialect::Sim {
        line.extend(simulator_options(input));
        let text = format!("simulated: one process stands for all {nodes} nodes of a server");
        if nodes > 1 && !notes.contains(&text) {
            notes.push(text);
        }
    }
    for note in argv.notes {
        let text = note.to_string();
        if note.severity != NoteSeverity::Info && !notes.contains(&text) {
            notes.push(text);
        }
    }
    (line, argv.env)
}

/// What the simulator is told beside vLLM's flags.
fn simulator_options(input: &ExpandInput<'_>) -> Vec<String> {
    let engine = &input.study.engine;
    let mut out = Vec::new();
    let mut option = |name: &str, value: String| out.extend([name.to_owned(), value]);
    if let Some(speedup) = engine.speedup {
        option("--speedup", speedup.to_string());
    }
    for spec in &engine.fail {
        option("--fail", spec.clone());
    }
    if let Some(version) = input.version.and_then(VersionSpec::min) {
        let text = version.to_string();
        // `0.32.*` declares two parts; a server reports three.
        let text = if text.bytes().filter(|b| *b == b'.').count() == 1 { format!("{text}.0") } else { text };
        option("--engine-version", text);
    }
    if let Some(path) = input.tokenizer_path {
        option("--tokenizer", path.to_owned());
    }
    out
}
