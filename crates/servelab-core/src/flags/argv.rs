//! The argument vector of one server. Settings that the engine would not take are left out and noted, never silently.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::canonical::{Section, canonical_setting, engine_path};
use super::table::{FlagTable, FlagVerdict};
use super::{Dialect, FlagKind};

/// How several nodes or ranks are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// A Ray cluster.
    Ray,
    /// vLLM's own processes over several nodes.
    Mp,
    /// One process group per node, joined by the data-parallel RPC.
    DpRpc,
}

/// The shape of one server instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleDeploy {
    /// Tensor parallel size.
    pub tp: u32,
    /// Pipeline parallel size.
    pub pp: u32,
    /// Data parallel size.
    pub dp: u32,
    /// Data parallel ranks on one node.
    pub dp_local: Option<u32>,
    /// Decode context parallel size.
    pub dcp: u32,
    /// Nodes of this instance.
    pub nodes: u32,
    /// How they are joined.
    pub backend: Option<Backend>,
}

impl Default for RoleDeploy {
    fn default() -> Self {
        Self { tp: 1, pp: 1, dp: 1, dp_local: None, dcp: 1, nodes: 1, backend: None }
    }
}

/// What a command line is made from.
#[derive(Debug, Clone, Copy)]
pub struct ArgvRequest<'a> {
    /// Path or id of the model.
    pub model: &'a str,
    /// The name that requests carry.
    pub served_name: Option<&'a str>,
    /// GPU model, for the simulator.
    pub gpu: Option<&'a str>,
    /// Shape.
    pub deploy: RoleDeploy,
    /// Settings by dotted name. `extra_args`, a list of texts, is passed on verbatim.
    pub serve: &'a BTreeMap<String, Value>,
    /// Settings of this role, unless `serve` says otherwise.
    pub role_extras: &'a BTreeMap<String, Value>,
}

/// How much a note matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoteSeverity {
    /// The engine gets what was meant.
    Info,
    /// The engine does not get, or does not honour, what was written.
    Warning,
    /// The name is not known at all.
    Unknown,
}

/// Something to know about one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagNote {
    /// The setting, as written.
    pub setting: String,
    /// One sentence.
    pub text: String,
    /// How much it matters.
    pub severity: NoteSeverity,
}

impl std::fmt::Display for FlagNote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.setting, self.text)
    }
}

/// A command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Argv {
    /// Program and arguments, without host, port and per-node arguments.
    pub argv: Vec<String>,
    /// Environment that replaces flags which this version does not have yet.
    pub env: BTreeMap<String, String>,
    /// What to know, in the order of the settings.
    pub notes: Vec<FlagNote>,
}

/// Settings that the runner decides.
const RUNNER_OWNED: [&str; 10] = [
    "host",
    "port",
    "headless",
    "node_rank",
    "master_addr",
    "master_port",
    "data_parallel_address",
    "data_parallel_rpc_port",
    "data_parallel_start_rank",
    "data_parallel_rank",
];

/// What a prefill or decode server is told about KV transfer unless the study says otherwise. A failed transfer must not
/// end in a silent recompute, hence the policy, where the version has one (vllm#26813).
pub fn pd_role_extras(role: &str, table: &FlagTable) -> BTreeMap<String, Value> {
    let kv_role = match role {
        "prefill" => "kv_producer",
        "decode" => "kv_consumer",
        _ => return BTreeMap::new(),
    };
    let mut config = json!({"kv_connector": "NixlConnector", "kv_role": kv_role});
    if let Some(config) = config.as_object_mut().filter(|_| table.may_be_at_least("0.11.1")) {
        config.insert("kv_load_failure_policy".to_owned(), "fail".into());
    }
    BTreeMap::from([("kv_transfer_config".to_owned(), config)])
}

/// The command line of one server.
pub fn build_argv(request: &ArgvRequest<'_>, table: &FlagTable) -> Argv {
    let mut builder = Builder { table, out: Argv::default() };
    builder.program(request);
    builder.shape(&request.deploy);
    let mut settings: BTreeMap<String, (String, Value)> = BTreeMap::new();
    // The study's own words come last and win.
    for (name, value) in request.role_extras.iter().chain(request.serve) {
        if name != "extra_args" && !value.is_null() {
            builder.admit(name, value, &mut settings);
        }
    }
    if table.dialect() == Dialect::LlamaCpp {
        share_context(&mut settings);
    }
    for (path, (written, value)) in &settings {
        builder.flag(path, written, value);
    }
    for extra in [request.serve, request.role_extras].iter().filter_map(|map| map.get("extra_args")) {
        match extra {
            Value::Array(items) => builder.out.argv.extend(items.iter().map(plain_text)),
            other => builder.out.argv.push(plain_text(other)),
        }
    }
    builder.out
}

/// llama.cpp divides its context among the slots, and has a type for keys and one for values.
fn share_context(settings: &mut BTreeMap<String, (String, Value)>) {
    let whole = |settings: &BTreeMap<String, (String, Value)>, name: &str| settings.get(name)?.1.as_u64();
    let slots = whole(settings, "max_num_seqs").unwrap_or(1).max(1);
    if let Some(length) = whole(settings, "max_model_len")
        && let Some((_, value)) = settings.get_mut("max_model_len")
    {
        *value = json!(length.saturating_mul(slots));
    }
    if let Some(dtype) = settings.get("kv_cache_dtype").cloned() {
        settings.entry("kv_cache_dtype_v".to_owned()).or_insert(dtype);
    }
}

struct Builder<'a> {
    table: &'a FlagTable,
    out: Argv,
}

impl Builder<'_> {
    fn push(&mut self, parts: &[&str]) {
        self.out.argv.extend(parts.iter().map(|part| (*part).to_owned()));
    }

    fn note(&mut self, setting: &str, severity: NoteSeverity, text: impl Into<String>) {
        self.out.notes.push(FlagNote { setting: setting.to_owned(), text: text.into(), severity });
    }

    fn program(&mut self, request: &ArgvRequest<'_>) {
        match self.table.dialect() {
            Dialect::Vllm => self.push(&["vllm", "serve", request.model]),
            // Without the flag there is no /metrics.
            Dialect::Sglang => {
                let model = request.model;
                self.push(&["python3", "-m", "sglang.launch_server", "--model-path", model, "--enable-metrics"]);
            }
            Dialect::LlamaCpp => self.push(&["llama-server", "--model", request.model, "--metrics"]),
            Dialect::Sim => {
                self.push(&["servelab", "sim", "--model", request.model]);
                if let Some(gpu) = request.gpu {
                    self.push(&["--gpu", gpu]);
                }
            }
        }
        let is_llamacpp = self.table.dialect() == Dialect::LlamaCpp;
        if let Some(name) = request.served_name {
            self.push(&[if is_llamacpp { "--alias" } else { "--served-model-name" }, name]);
        }
    }

    fn shape(&mut self, deploy: &RoleDeploy) {
        if self.table.dialect() == Dialect::LlamaCpp {
            // It spreads a model's rows over the devices that it sees.
            if deploy.tp > 1 {
                self.push(&["--split-mode", "row"]);
            }
            return;
        }
        let long = self.table.dialect() != Dialect::Sglang;
        let name = |vllm: &'static str, sglang: &'static str| if long { vllm } else { sglang };
        let sizes = [
            (name("--tensor-parallel-size", "--tp-size"), deploy.tp),
            (name("--pipeline-parallel-size", "--pp-size"), deploy.pp),
            (name("--data-parallel-size", "--dp-size"), deploy.dp),
        ];
        for (flag, size) in sizes.into_iter().filter(|(_, size)| *size > 1) {
            self.push(&[flag, &size.to_string()]);
        }
        if !long {
            if deploy.nodes > 1 {
                self.push(&["--nnodes", &deploy.nodes.to_string()]);
            }
            return;
        }
        if let Some(local) = deploy.dp_local.filter(|_| deploy.dp > 1) {
            self.push(&["--data-parallel-size-local", &local.to_string()]);
        }
        if deploy.dcp > 1 {
            self.push(&["--decode-context-parallel-size", &deploy.dcp.to_string()]);
        }
        match deploy.backend {
            Some(Backend::Ray) => {
                self.push(&["--distributed-executor-backend", "ray"]);
                if deploy.dp > 1 {
                    self.push(&["--data-parallel-backend", "ray"]);
                }
            }
            Some(Backend::Mp) if deploy.nodes > 1 => {
                self.push(&["--distributed-executor-backend", "mp", "--nnodes", &deploy.nodes.to_string()]);
            }
            Some(Backend::DpRpc) if deploy.dp > 1 => self.push(&["--data-parallel-backend", "mp"]),
            _ => {}
        }
    }

    /// Decides whether a setting reaches the command line, and under which name.
    fn admit(&mut self, name: &str, value: &Value, settings: &mut BTreeMap<String, (String, Value)>) {
        use NoteSeverity::{Info, Unknown, Warning};
        let plain = name.trim_start_matches('-').replace('-', "_");
        let canonical = canonical_setting(name);
        if RUNNER_OWNED.contains(&plain.as_str()) {
            return self.note(name, Warning, "left out: the runner decides this");
        }
        let is_model_flag = matches!(plain.as_str(), "trust_remote_code" | "tokenizer" | "revision");
        if canonical.section != Section::Serve && !is_model_flag {
            let section = if canonical.section == Section::Deploy { "deploy" } else { "model" };
            return self.note(name, Warning, format!("left out: write `{}` under `{section}:`", canonical.name));
        }
        let mut path = engine_path(if is_model_flag { &plain } else { &canonical.name });
        let verdict = self.table.check(&path, value);
        if verdict == FlagVerdict::Known && engine_path(name) != path {
            self.note(name, Info, format!("goes by `{}` here", canonical.name));
        }
        match verdict {
            FlagVerdict::Known => {}
            FlagVerdict::Renamed { to } => {
                self.note(name, Info, format!("renamed to `{to}` in this version"));
                path = to;
            }
            FlagVerdict::Removed { since, why } => {
                return self.note(name, Warning, format!("left out: not in this version (gone by {since}); {why}"));
            }
            FlagVerdict::NotYet { since } => {
                if let Some((variable, why)) = self.table.environment_variable(&path) {
                    self.out.env.insert(variable.to_owned(), plain_text(value));
                    return self.note(name, Info, format!("set through {variable}: {why}"));
                }
                return self.note(name, Warning, format!("left out: it came with {since}"));
            }
            FlagVerdict::Idle { why } => self.note(name, Warning, format!("accepted but without effect: {why}")),
            FlagVerdict::SilentlyChanged { to } => {
                self.note(name, Warning, format!("the engine silently uses {to} instead of {}", plain_text(value)));
            }
            FlagVerdict::ValueRefused { why } => self.note(name, Warning, format!("the engine refuses this: {why}")),
            FlagVerdict::Unknown { suggestion } => {
                let hint = suggestion.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                let text = format!("left out: this engine version has no such setting{hint}");
                return self.note(name, Unknown, text);
            }
        }
        self.insert(&path, name, value, settings);
    }

    /// Members of JSON flags are gathered in one object.
    fn insert(&mut self, path: &str, written: &str, value: &Value, settings: &mut BTreeMap<String, (String, Value)>) {
        let mut parts = path.split('.');
        let root = parts.next().unwrap_or(path).to_owned();
        let mut nested = value.clone();
        for part in parts.rev() {
            nested = Value::Object(Map::from_iter([(part.to_owned(), nested)]));
        }
        match settings.get_mut(&root) {
            Some((_, existing)) => merge(existing, nested),
            None => {
                settings.insert(root, (written.to_owned(), nested));
            }
        }
    }

    fn flag(&mut self, root: &str, written: &str, value: &Value) {
        let (name, kind) = if matches!(self.table.dialect(), Dialect::Sglang | Dialect::LlamaCpp) {
            match self.table.mapped_flag(root) {
                Some(mapped) => (mapped.flag.clone(), mapped.kind),
                None => return,
            }
        } else {
            (root.replace('_', "-"), self.table.spec(root).map_or(FlagKind::Value, |spec| spec.kind))
        };
        let flag = format!("--{name}");
        match (kind, value) {
            (FlagKind::Bool | FlagKind::Switch | FlagKind::On, Value::Bool(true))
            | (FlagKind::Off, Value::Bool(false)) => self.push(&[&flag]),
            (FlagKind::Bool, Value::Bool(false)) => self.push(&[&format!("--no-{name}")]),
            (FlagKind::Switch | FlagKind::On, Value::Bool(false)) | (FlagKind::Off, Value::Bool(true)) => {}
            (FlagKind::Bool | FlagKind::Switch | FlagKind::On | FlagKind::Off, other) => {
                let text = format!("left out: it is true or false, not {}", plain_text(other));
                self.note(written, NoteSeverity::Warning, text);
            }
            (FlagKind::List, Value::Array(items)) => {
                self.push(&[&flag]);
                self.out.argv.extend(items.iter().map(plain_text));
            }
            (_, value) => self.push(&[&flag, &plain_text(value)]),
        }
    }
}

/// Later members win; anything that is not an object on both sides is replaced.
fn merge(existing: &mut Value, new: Value) {
    match (existing, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in new {
                match old.get_mut(&key) {
                    Some(member) => merge(member, value),
                    None => {
                        old.insert(key, value);
                    }
                }
            }
        }
        (existing, new) => *existing = new,
    }
}

/// A value as an engine reads it: text bare, numbers in their shortest form, everything else as compact JSON.
fn plain_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => format!("{float}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}
