//! One name per setting: engine spellings, command-line spellings and the names of older frameworks lead to the name that
//! Servelab uses in files and ids.

/// Which part of a study a setting belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// `deploy`: shape and placement.
    Deploy,
    /// `serve`: everything else that the engine is told.
    Serve,
    /// `model`: what is served.
    Model,
}

/// A setting under its own name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canonical {
    /// Where it belongs.
    pub section: Section,
    /// Its name there.
    pub name: String,
}

/// Names that differ from ours. Everything absent is a `serve` setting under its own name.
const ALIASES: [(&str, Section, &str); 47] = [
    ("tensor_parallel_size", Section::Deploy, "tp"),
    ("tp_size", Section::Deploy, "tp"),
    ("tp", Section::Deploy, "tp"),
    ("pipeline_parallel_size", Section::Deploy, "pp"),
    ("pp_size", Section::Deploy, "pp"),
    ("pp", Section::Deploy, "pp"),
    ("data_parallel_size", Section::Deploy, "dp"),
    ("dp_size", Section::Deploy, "dp"),
    ("dp_replicate", Section::Deploy, "dp"),
    ("dp", Section::Deploy, "dp"),
    ("data_parallel_size_local", Section::Deploy, "dp_local"),
    ("dp_local", Section::Deploy, "dp_local"),
    ("num_nodes", Section::Deploy, "nodes"),
    ("nnodes", Section::Deploy, "nodes"),
    ("nodes", Section::Deploy, "nodes"),
    ("gpus_per_node", Section::Deploy, "gpus_per_node"),
    ("distributed_executor_backend", Section::Deploy, "launch"),
    ("data_parallel_backend", Section::Deploy, "launch"),
    ("launch", Section::Deploy, "launch"),
    ("mode", Section::Deploy, "mode"),
    ("place", Section::Deploy, "place"),
    ("replicas", Section::Deploy, "replicas"),
    ("model", Section::Model, "id"),
    ("model_id", Section::Model, "id"),
    ("model_name", Section::Model, "id"),
    ("model_path", Section::Model, "path"),
    ("revision", Section::Model, "revision"),
    ("tokenizer", Section::Model, "tokenizer"),
    ("trust_remote_code", Section::Model, "trust_remote_code"),
    ("served_model_name", Section::Model, "served_name"),
    ("context_parallel_size", Section::Serve, "decode_context_parallel_size"),
    ("dcp", Section::Serve, "decode_context_parallel_size"),
    ("swap_space_gb", Section::Serve, "swap_space"),
    ("device_memory_utilization", Section::Serve, "gpu_memory_utilization"),
    ("ep", Section::Serve, "enable_expert_parallel"),
    ("eplb_num_redundant_experts", Section::Serve, "eplb.num_redundant_experts"),
    ("num_redundant_experts", Section::Serve, "eplb.num_redundant_experts"),
    ("eplb_window_size", Section::Serve, "eplb.window_size"),
    ("eplb_step_interval", Section::Serve, "eplb.step_interval"),
    ("eplb_log_balancedness", Section::Serve, "eplb.log_balancedness"),
    ("num_speculative_tokens", Section::Serve, "speculative_config.num_speculative_tokens"),
    ("spec_tokens", Section::Serve, "speculative_config.num_speculative_tokens"),
    ("speculative_model", Section::Serve, "speculative_config.model"),
    ("spec_model", Section::Serve, "speculative_config.model"),
    ("spec_method", Section::Serve, "speculative_config.method"),
    ("cuda_graph_sizes", Section::Serve, "cudagraph_capture_sizes"),
    ("guided_decoding_backend", Section::Serve, "structured_outputs_config.backend"),
];

/// The JSON flags that studies write under a shorter name.
const SHORT_GROUPS: [(&str, &str); 5] = [
    ("eplb", "eplb_config"),
    ("speculative", "speculative_config"),
    ("kv_transfer", "kv_transfer_config"),
    ("compilation", "compilation_config"),
    ("profiler", "profiler_config"),
];

/// The section and name of a setting, whatever spelling it comes in: `--tensor-parallel-size`, `tensor_parallel_size` and
/// `tp` are all `deploy.tp`.
pub fn canonical_setting(name: &str) -> Canonical {
    let plain = name.trim().trim_start_matches('-').replace('-', "_");
    if let Some((_, section, ours)) = ALIASES.iter().find(|(theirs, ..)| *theirs == plain) {
        return Canonical { section: *section, name: (*ours).to_owned() };
    }
    // `eplb_config.x` and `eplb.x` are one setting; ours is the short one for EPLB only, as the documents write it.
    let name = match plain.split_once('.') {
        Some(("eplb_config", member)) => format!("eplb.{member}"),
        Some((group, member)) if group != "eplb" => format!("{}.{member}", engine_group(group)),
        _ => plain,
    };
    Canonical { section: Section::Serve, name }
}

/// The engine's name of a group of members.
fn engine_group(group: &str) -> &str {
    SHORT_GROUPS.iter().find(|(short, _)| *short == group).map_or(group, |(_, long)| long)
}

/// The dotted path in the engine's terms: `eplb.window_size` → `eplb_config.window_size`.
pub fn engine_path(name: &str) -> String {
    let plain = name.trim().trim_start_matches('-').replace('-', "_");
    match plain.split_once('.') {
        Some((group, member)) => format!("{}.{member}", engine_group(group)),
        None if plain == "eplb" => "eplb_config".to_owned(),
        None => plain,
    }
}
