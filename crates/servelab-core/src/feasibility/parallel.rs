//! Rules about how a model divides over GPUs, and GPUs over nodes.

use serde_json::Value;

use super::{Findings, PointView, RoleView, count, is_true};

/// GPUs of all roles against the GPUs of the allocation.
pub(super) fn check_gpus(point: &PointView<'_>, out: &mut Findings<'_>) {
    let (Some(per_node), Some(nodes)) = (point.gpus_per_node, point.nodes) else {
        return;
    };
    let instance = |role: &RoleView<'_>| {
        [role.deploy.tp, role.deploy.pp, role.deploy.dp]
            .iter()
            .fold(1u64, |product, size| product.saturating_mul(u64::from((*size).max(1))))
    };
    let needed: u64 = point
        .roles
        .iter()
        .map(|role| u64::from(role.count).saturating_mul(instance(role)))
        .fold(0, u64::saturating_add);
    let available = u64::from(per_node) * u64::from(nodes);
    if needed > available {
        let roles: Vec<String> = point
            .roles
            .iter()
            .map(|role| {
                let shape = role.deploy;
                format!("{} × {} (tp {} × pp {} × dp {})", role.count, role.name, shape.tp, shape.pp, shape.dp)
            })
            .collect();
        let roles = roles.join(" + ");
        let text = format!("{roles} needs {needed} GPUs; {nodes} node(s) × {per_node} GPUs are {available}");
        out.infeasible("too_few_gpus", text);
    } else if needed < available && needed > 0 {
        let idle = available - needed;
        out.warn("idle_gpus", format!("{idle} of {available} GPUs stay idle ({needed} are used)"));
    }
}

/// Divisibility within one server.
pub(super) fn check_role(point: &PointView<'_>, role: &RoleView<'_>, out: &mut Findings<'_>) {
    let (tp, pp, dp) = (role.deploy.tp.max(1), role.deploy.pp.max(1), role.deploy.dp.max(1));
    check_nodes(point, role, tp, dp, out);
    if let Some(model) = point.model {
        let name = &model.name;
        if !model.heads.is_multiple_of(tp) {
            let text = format!("{} attention heads of {name} do not divide by tensor parallel size {tp}", model.heads);
            out.infeasible("heads_not_divisible", text);
        } else if model.mla.is_none() {
            let (large, small) = (model.kv_heads.max(tp), model.kv_heads.min(tp).max(1));
            if !large.is_multiple_of(small) {
                let kv_heads = model.kv_heads;
                let text =
                    format!("{kv_heads} KV heads of {name} neither divide by nor divide tensor parallel size {tp}");
                out.infeasible("kv_heads_not_divisible", text);
            }
        }
        if pp > model.layers {
            let text = format!("pipeline parallel size {pp} is more than the {} layers of {name}", model.layers);
            out.infeasible("pp_exceeds_layers", text);
        }
        if model.experts.is_none() && is_true(role.settings, "enable_expert_parallel") {
            out.warn("ep_without_experts", format!("expert parallelism is on, but {name} has no experts"));
        }
        let method = role.settings.get("speculative_config.method").and_then(Value::as_str).unwrap_or("");
        if method.ends_with("mtp") && model.mtp.is_none() {
            out.warn(
                "mtp_missing",
                format!("speculation by {method} needs a built-in predictor; none is known of {name}"),
            );
        }
    }
    check_eplb(point, role, u64::from(tp) * u64::from(dp), out);
    check_dcp(point, role, tp, out);
}

fn check_nodes(point: &PointView<'_>, role: &RoleView<'_>, tp: u32, dp: u32, out: &mut Findings<'_>) {
    if let Some(per_node) = point.gpus_per_node
        && tp > per_node
    {
        let text =
            format!("tensor parallel size {tp} spans nodes of {per_node} GPUs; every layer waits for the network");
        out.warn("tp_across_nodes", text);
    }
    let Some(local) = role.deploy.dp_local.filter(|local| *local > 0) else {
        return;
    };
    if !dp.is_multiple_of(local) || local > dp {
        let text = format!("{dp} data-parallel ranks do not divide into nodes of {local} ranks");
        out.infeasible("dp_local_mismatch", text);
    } else if point.roles.len() == 1
        && role.count == 1
        && point.nodes.is_some_and(|nodes| nodes.saturating_mul(local) < dp)
    {
        let nodes = point.nodes.unwrap_or(0);
        let text =
            format!("{dp} data-parallel ranks with {local} per node need {} nodes, here are {nodes}", dp / local);
        out.infeasible("dp_local_mismatch", text);
    } else if point.gpus_per_node.is_some_and(|per_node| local.saturating_mul(tp) > per_node && tp <= per_node) {
        let per_node = point.gpus_per_node.unwrap_or(0);
        let text = format!(
            "{local} data-parallel ranks of tp {tp} need {} GPUs on a node that has {per_node}",
            local.saturating_mul(tp)
        );
        out.infeasible("dp_local_mismatch", text);
    }
}

/// Without EPLB vLLM spreads experts that do not divide; with it, physical experts must divide by the expert-parallel
/// size, which is tp × dp.
fn check_eplb(point: &PointView<'_>, role: &RoleView<'_>, ep: u64, out: &mut Findings<'_>) {
    let settings = role.settings;
    if !is_true(settings, "enable_eplb") {
        if settings.has_prefix("eplb.") {
            out.warn("eplb_settings_unused", "EPLB settings are given, but enable_eplb is off".to_owned());
        }
        return;
    }
    if !is_true(settings, "enable_expert_parallel") {
        let text = "enable_eplb needs enable_expert_parallel: it balances experts over ranks".to_owned();
        return out.infeasible("eplb_without_ep", text);
    }
    if ep <= 1 {
        let text = "enable_eplb needs more than one expert-parallel rank (tp × dp is 1)".to_owned();
        return out.infeasible("eplb_without_ep", text);
    }
    let Some(experts) = point.model.and_then(|model| model.experts) else {
        return;
    };
    let redundant = count(settings, "eplb.num_redundant_experts").unwrap_or(0);
    let physical = u64::from(experts.total) + redundant;
    if !physical.is_multiple_of(ep) {
        let next = physical.next_multiple_of(ep) - u64::from(experts.total);
        let text = format!(
            "EPLB needs experts + redundant to divide by the expert-parallel size: {} + {redundant} = {physical} does not \
             divide by {ep}; {next} redundant experts would",
            experts.total
        );
        out.infeasible("eplb_experts_not_divisible", text);
    }
}

fn check_dcp(point: &PointView<'_>, role: &RoleView<'_>, tp: u32, out: &mut Findings<'_>) {
    let set = count(role.settings, "decode_context_parallel_size").unwrap_or(1);
    let dcp = set.max(u64::from(role.deploy.dcp));
    if dcp <= 1 {
        return;
    }
    if !u64::from(tp).is_multiple_of(dcp) {
        let text = format!("tensor parallel size {tp} must be divisible by decode context parallel size {dcp}");
        out.infeasible("dcp_not_divisor", text);
    }
    if let Some(model) = point.model
        && model.mla.is_none()
        && tp <= model.kv_heads
    {
        let text = format!(
            "decode context parallel size {dcp} requires tensor parallel size ({tp}) to be greater than the KV heads of {} \
             ({}); every rank already holds different heads, so there is no copy of the context to split",
            model.name, model.kv_heads
        );
        out.infeasible("dcp_needs_kv_heads", text);
    }
}
