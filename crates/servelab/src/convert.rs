//! Older configuration files → a study: the flat JSON of document 001 and the experiment YAML of document 004. What all
//! files share becomes the study's base, what differs becomes named points; nothing is dropped without a comment.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Map, Value};
use servelab_core::flags::{self, Dialect, FlagTable, FlagVerdict, canonical_setting};
use servelab_core::source::SourceMap;
use servelab_core::version::VersionSpec;
use servelab_core::yaml;

use crate::commands::init::yaml_text;
use crate::error::CommandError;
use crate::files::read_text;

/// The engine version that the older frameworks were written for.
const OLD_VERSION: &str = "0.11.*";

/// Older files as a study's text.
pub(crate) fn study_from(paths: &[PathBuf], study: &str) -> Result<String, CommandError> {
    let mut configs = Vec::new();
    for path in paths {
        let name = path.to_string_lossy();
        let text = read_text(&name).map_err(|reason| CommandError::usage(format!("cannot read `{name}`: {reason}")))?;
        let mut sources = SourceMap::default();
        let id = sources.add(name.as_ref(), text.as_str());
        let node = yaml::parse(id, &text).map_err(|problem| CommandError::diagnostic(&problem, &sources))?;
        let Value::Object(config) = node.to_json() else {
            return Err(CommandError::usage(format!("`{name}` is no configuration: expected a mapping")));
        };
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        configs.push((stem, config));
    }
    let experiments = configs.iter().filter(|(_, config)| config.contains_key("experiment_id")).count();
    match experiments {
        0 => sweep(&configs, study),
        n if n == configs.len() => profiling(&configs, study),
        _ => Err(CommandError::usage("these files are of two kinds: sweep configurations and profiling experiments")
            .hint("convert each kind into a study of its own")),
    }
}

/// Values that all maps share, and what each has beyond them.
fn split_common(maps: &[&Map<String, Value>]) -> (Map<String, Value>, Vec<Map<String, Value>>) {
    let Some(first) = maps.first() else { return (Map::new(), Vec::new()) };
    let common: Map<String, Value> = first
        .iter()
        .filter(|(key, value)| maps.iter().all(|map| map.get(*key) == Some(value)))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let rest = maps
        .iter()
        .map(|map| {
            map.iter().filter(|(key, _)| !common.contains_key(*key)).map(|(k, v)| (k.clone(), v.clone())).collect()
        })
        .collect();
    (common, rest)
}

/// A sweep configuration's settings, sorted into a study's sections.
#[derive(Default)]
struct Sections {
    deploy: Map<String, Value>,
    serve: Map<String, Value>,
    model: Map<String, Value>,
    hash_only: Map<String, Value>,
}

fn sections(config: &Map<String, Value>, table: &FlagTable) -> Sections {
    let mut out = Sections::default();
    for (name, value) in config {
        if name == "name" {
            continue;
        }
        if name == "num_replicas" {
            out.deploy.insert("replicas".into(), value.clone());
            continue;
        }
        let canonical = canonical_setting(name);
        match canonical.section {
            flags::Section::Deploy => {
                out.deploy.insert(canonical.name, value.clone());
            }
            flags::Section::Model => {
                out.model.insert(name.clone(), value.clone());
            }
            flags::Section::Serve => match table.check(name, value) {
                FlagVerdict::Removed { .. } | FlagVerdict::Unknown { .. } => {
                    out.hash_only.insert(name.clone(), value.clone());
                }
                _ => {
                    out.serve.insert(canonical.name, value.clone());
                }
            },
        }
    }
    out
}

fn sweep(configs: &[(String, Map<String, Value>)], study: &str) -> Result<String, CommandError> {
    let maps: Vec<&Map<String, Value>> = configs.iter().map(|(_, config)| config).collect();
    let (common, rest) = split_common(&maps);
    let version = VersionSpec::parse(OLD_VERSION).ok();
    let table = FlagTable::builtin(Dialect::Vllm, version.as_ref());
    let base = sections(&common, &table);
    if rest.iter().any(|config| config.contains_key("model_path")) {
        return Err(CommandError::usage("these configurations serve different models")
            .hint("convert each model into a study of its own"));
    }
    let model = base.model.get("model_path").and_then(Value::as_str).unwrap_or("unknown/model");
    let mut out = String::new();
    let _ = writeln!(out, "# Made by `servelab init --from` out of {} older configuration file(s).", configs.len());
    let _ = writeln!(out, "# Load and workload were not in them: the ones below are document 001's usual ones.");
    let _ = writeln!(out, "schema: 1\nstudy: {study}\nengine: {{kind: vllm, version: \"{OLD_VERSION}\"}}");
    let trust = base.model.get("trust_remote_code") == Some(&Value::Bool(true));
    let trust = if trust { ", trust_remote_code: true" } else { "" };
    let _ = writeln!(out, "model: {{id: {}, tokenizer: builtin{trust}}}", yaml_text(model));
    section(&mut out, "deploy", &base.deploy);
    section(&mut out, "serve", &base.serve);
    out.push_str(
        "workloads:\n  medium_balanced: {dataset: {suite: medium_balanced}}\nload:\n  open: {rate: [10], arrival: poisson}\n  warmup: {requests: 64}\n  stop: {requests: 500}\ndesigns:\n  converted:\n    list:\n",
    );
    let mut names = BTreeMap::new();
    for ((stem, config), own) in configs.iter().zip(&rest) {
        let name = config.get("name").and_then(Value::as_str).unwrap_or(stem);
        if let Some(other) = names.insert(name.to_owned(), stem.clone()) {
            return Err(CommandError::usage(format!("`{other}` and `{stem}` are both called `{name}`")));
        }
        let own = sections(own, &table);
        let mut settings = own.deploy.clone();
        settings.extend(own.serve.clone());
        // A removed setting that differs between files must keep its points apart.
        settings.extend(own.hash_only.clone());
        let _ = writeln!(out, "      {}: {}", yaml_text(name), Value::Object(settings));
    }
    out.push_str("compat:\n  legacy_hash: md5-8-sorted-json\n");
    let mut fields = base.hash_only.clone();
    if maps.iter().all(|config| !config.contains_key("name")) {
        // The label is our invention then and must stay out of the older hash.
        fields.insert("name".to_owned(), Value::Null);
    }
    for (name, value) in &base.model {
        if name != "trust_remote_code" || *value == Value::Bool(false) {
            fields.insert(name.clone(), value.clone());
        }
    }
    if !fields.is_empty() {
        out.push_str("  # In the older hash only: no vLLM of this version has these flags, or the model's place.\n");
        let _ = writeln!(out, "  fields: {}", Value::Object(fields));
    }
    Ok(out)
}

fn section(out: &mut String, name: &str, values: &Map<String, Value>) {
    if values.is_empty() {
        return;
    }
    let _ = writeln!(out, "{name}:");
    for (key, value) in values {
        let _ = writeln!(out, "  {key}: {value}");
    }
}

/// Names with their settings.
type Experiments = Vec<(String, Map<String, Value>)>;

fn profiling(configs: &[(String, Map<String, Value>)], study: &str) -> Result<String, CommandError> {
    let text_at = |config: &Map<String, Value>, path: &[&str]| -> Option<Value> {
        let mut value = config.get(*path.first()?)?;
        for step in path.get(1..)? {
            value = value.get(step)?;
        }
        (!value.is_null()).then(|| value.clone())
    };
    let mut models: Vec<String> = Vec::new();
    let mut groups: Vec<(Value, Experiments)> = Vec::new();
    let mut iterations = (None, None);
    let mut dtype = None;
    for (stem, config) in configs {
        let id = config.get("experiment_id").and_then(Value::as_str).unwrap_or(stem).to_owned();
        let model = text_at(config, &["model", "name"]).and_then(|value| value.as_str().map(str::to_owned));
        let model = model.ok_or_else(|| CommandError::usage(format!("`{stem}` has no `model.name`")))?;
        if !models.contains(&model) {
            models.push(model);
        }
        dtype = dtype.or_else(|| text_at(config, &["model", "precision"]));
        iterations.0 = iterations.0.or_else(|| text_at(config, &["warmup_iterations"]));
        iterations.1 = iterations.1.or_else(|| text_at(config, &["profile_iterations"]));
        let mut settings = Map::new();
        for (theirs, ours) in [("tp", "tp"), ("pp", "pp"), ("dp_replicate", "dp")] {
            if let Some(size) = text_at(config, &["parallelism", theirs]) {
                settings.insert(ours.to_owned(), size);
            }
        }
        if text_at(config, &["parallelism", "ep"]).and_then(|ep| ep.as_u64()).is_some_and(|ep| ep > 1) {
            settings.insert("enable_expert_parallel".into(), Value::Bool(true));
        }
        if let Some(purpose) = text_at(config, &["description"]) {
            settings.insert("purpose".into(), purpose);
        }
        let data = text_at(config, &["data"]).ok_or_else(|| {
            CommandError::usage(format!("`{stem}` has no `data` with batch_size, seq_len, max_tokens"))
        })?;
        match groups.iter_mut().find(|(known, _)| *known == data) {
            Some((_, list)) => list.push((id, settings)),
            None => groups.push((data, vec![(id, settings)])),
        }
    }
    let [model] = models.as_slice() else {
        return Err(CommandError::usage(format!("these experiments serve different models: {}", models.join(", ")))
            .hint("convert each model into a study of its own"));
    };
    let mut out = String::new();
    let _ = writeln!(out, "# Made by `servelab init --from` out of {} profiling experiment(s).", configs.len());
    let _ = writeln!(out, "schema: 1\nstudy: {study}\nengine: {{kind: vllm, version: \"{OLD_VERSION}\"}}");
    let _ = writeln!(out, "model: {{id: {}, tokenizer: builtin}}", yaml_text(model));
    if let Some(dtype) = dtype {
        let _ = writeln!(out, "serve: {{dtype: {dtype}}}");
    }
    let load = |data: &Value| format!("{{offline: {data}, warmup: {{requests: 8}}, stop: {{requests: 20}}}}");
    if let Some((data, _)) = groups.first() {
        let _ = writeln!(out, "load: {}", load(data));
    }
    out.push_str("designs:\n");
    for (number, (data, experiments)) in groups.iter().enumerate() {
        let _ = writeln!(out, "  converted_{}:", number + 1);
        if number > 0 {
            let _ = writeln!(out, "    load: {}", load(data));
        }
        out.push_str("    list:\n");
        for (id, settings) in experiments {
            let _ = writeln!(out, "      {}: {}", yaml_text(id), Value::Object(settings.clone()));
        }
    }
    let number = |value: &Option<Value>, default: u64| value.as_ref().and_then(Value::as_u64).unwrap_or(default);
    let _ = writeln!(
        out,
        "profile: {{separate_run: true, warmup_iterations: {}, profile_iterations: {}, torch: {{ranks: all, execution_trace: true}}}}",
        number(&iterations.0, 2),
        number(&iterations.1, 5),
    );
    Ok(out)
}
