//! A card as YAML, in the order of the template, with a comment where a value is empty.

use std::fmt::Write as _;

use serde_json::Value;

use super::Card;
use crate::ordered::OneOrMany;

struct Writer {
    out: String,
}

/// Why a value is empty.
const UNSAID: &str = "neither the traces nor a configuration say";
const PERSON: &str = "to be written by a person";

impl Writer {
    fn section(&mut self, depth: usize, key: &str) {
        let _ = writeln!(self.out, "{:1$}{key}:", "", depth * 2);
    }

    fn value(&mut self, depth: usize, key: &str, value: Option<Value>, reason: &str) {
        let _ = match value {
            Some(value) => writeln!(self.out, "{:2$}{key}: {}", "", scalar(&value), depth * 2),
            None => writeln!(self.out, "{:2$}{key}: null  # {}", "", one_line(reason), depth * 2),
        };
    }

    fn text(&mut self, depth: usize, key: &str, value: Option<&String>, reason: &str) {
        self.value(depth, key, value.map(|text| Value::from(text.as_str())), reason);
    }

    fn count(&mut self, depth: usize, key: &str, value: Option<u64>, reason: &str) {
        self.value(depth, key, value.map(Value::from), reason);
    }

    fn list<T: Clone + Into<Value>>(&mut self, depth: usize, key: &str, list: &OneOrMany<T>, reason: &str) {
        let items: Vec<Value> = list.iter().cloned().map(Into::into).collect();
        let value = (!items.is_empty()).then_some(Value::Array(items));
        self.value(depth, key, value, reason);
    }
}

/// A value on one line; text is quoted unless no reader could take it for anything else.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, ' ' | '_' | '-' | '/' | '.'))
                && !text.ends_with(' ')
                && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
                    .contains(&text.to_lowercase().as_str())
                && !["inf", "nan"].contains(&text.to_lowercase().as_str());
            if is_plain { text.clone() } else { value.to_string() }
        }
        Value::Array(items) => format!("[{}]", items.iter().map(scalar).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The card as YAML.
pub fn to_yaml(card: &Card) -> String {
    let mut w = Writer { out: String::new() };
    w.count(0, "version", card.version.map(u64::from), "");
    w.text(0, "description", card.description.as_ref(), PERSON);
    w.text(0, "hf_url", card.hf_url.as_ref(), PERSON);
    w.text(0, "trace_url", card.trace_url.as_ref(), PERSON);
    w.text(0, "contributor", card.contributor.as_ref(), PERSON);
    w.text(0, "contact", card.contact.as_ref(), PERSON);
    w.section(0, "workload");
    w.section(1, "model");
    let model = &card.workload.model;
    w.list(2, "phase", &model.phase, "no step marker with counts");
    w.value(2, "moe", model.moe.map(Value::from), "no kernel of a mixture of experts was seen, which proves nothing");
    w.text(2, "granularity", model.granularity.as_ref(), PERSON);
    w.text(2, "model_family", model.model_family.as_ref(), UNSAID);
    w.text(2, "precision", model.precision.as_ref(), UNSAID);
    w.count(2, "epochs", model.epochs, UNSAID);
    w.count(2, "iteration", model.iteration, "no step marker");
    w.section(2, "model_arch");
    let arch = &model.model_arch;
    w.value(3, "num_params", arch.num_params.clone(), UNSAID);
    w.value(3, "num_params_embedding", arch.num_params_embedding.clone(), UNSAID);
    w.count(3, "num_layers", arch.num_layers, UNSAID);
    w.count(3, "num_heads", arch.num_heads, UNSAID);
    w.count(3, "head_dim", arch.head_dim, UNSAID);
    w.section(1, "data");
    let data = &card.workload.data;
    w.count(2, "batch_size", data.batch_size, UNSAID);
    w.count(2, "seq_len", data.seq_len, UNSAID);
    w.count(2, "input_len", data.input_len, UNSAID);
    w.count(2, "output_len", data.output_len, UNSAID);
    w.text(2, "dataset", data.dataset.as_ref(), UNSAID);
    hardware(&mut w, card);
    executor(&mut w, card);
    w.section(0, "metric_source");
    w.list(1, "traces", &card.metric_source.traces, UNSAID);
    let specific: Vec<Value> =
        card.metric_source.metrics_specific_trace.iter().map(|t| Value::from(t.as_str())).collect();
    w.value(1, "metrics_specific_trace", Some(Value::Array(specific)), "");
    measured(&mut w, card);
    w.out
}

fn hardware(w: &mut Writer, card: &Card) {
    let hardware = &card.workload.hardware;
    w.section(1, "hardware");
    w.section(2, "network_topo");
    w.text(3, "topology", hardware.network_topo.topology.as_ref(), UNSAID);
    w.list(3, "bandwidth_gbps", &hardware.network_topo.bandwidth_gbps, UNSAID);
    w.section(2, "xpu_spec");
    let xpu = &hardware.xpu_spec;
    w.text(3, "type", xpu.kind.as_ref(), UNSAID);
    w.text(3, "model", xpu.model.as_ref(), "the traces do not name the GPU");
    w.count(3, "total_count", xpu.total_count, "the traces do not say how many ranks the run had");
    w.count(3, "count_per_node", xpu.count_per_node, "not every rank was read, or they do not name their hosts");
    w.value(2, "driver_version", hardware.driver_version.clone(), UNSAID);
}

fn executor(w: &mut Writer, card: &Card) {
    let executor = &card.executor;
    w.section(0, "Model-executor");
    w.section(1, "framework");
    w.text(2, "name", executor.framework.name.as_ref(), UNSAID);
    w.text(2, "compiler_tool_selection", executor.framework.compiler_tool_selection.as_ref(), UNSAID);
    w.section(1, "model_plan_parallelization");
    let plan = &executor.model_plan_parallelization;
    for (key, degree) in [
        ("dp_replicate", plan.dp_replicate),
        ("dp_shard", plan.dp_shard),
        ("tp", plan.tp),
        ("pp", plan.pp),
        ("cp", plan.cp),
        ("ep", plan.ep),
        ("pp_mb", plan.pp_mb),
    ] {
        w.count(2, key, degree, UNSAID);
    }
    w.section(1, "communication_library");
    let library = &executor.communication_library;
    w.text(2, "name", library.name.as_ref(), "no communication was seen");
    w.value(2, "version", library.version.clone(), UNSAID);
    if library.env.is_empty() {
        w.value(2, "env", Some(Value::Object(serde_json::Map::new())), "");
    } else {
        w.section(2, "env");
        for (name, value) in &library.env {
            w.value(3, name, Some(value.clone()), "");
        }
    }
    w.list(1, "protocol_selection", &executor.protocol_selection, UNSAID);
}

fn measured(w: &mut Writer, card: &Card) {
    let Some(measured) = &card.measured else { return };
    w.section(0, "measured");
    w.count(1, "schema", Some(u64::from(measured.schema)), "");
    w.text(1, "tool", measured.tool.as_ref(), "");
    w.count(1, "definitions", Some(u64::from(measured.definitions)), "");
    w.value(1, "taxonomy", measured.taxonomy.clone(), "");
    w.value(1, "ranks", Some(Value::from(measured.ranks.clone())), "");
    w.count(1, "world_size", measured.world_size.map(u64::from), "the traces do not say");
    w.count(1, "steps", Some(measured.steps), "");
    if measured.metrics.is_empty() {
        w.value(1, "metrics", Some(Value::Object(serde_json::Map::new())), "");
    } else {
        w.section(1, "metrics");
    }
    for (name, metric) in &measured.metrics {
        let number = crate::yaml::normal_number(metric.value);
        let unit = scalar(&Value::from(metric.unit.as_str()));
        let _ = writeln!(w.out, "    {name}: {{value: {number}, unit: {unit}}}");
    }
    if measured.absent.is_empty() {
        return;
    }
    w.section(1, "absent");
    for (name, reason) in &measured.absent {
        w.value(2, name, Some(Value::from(one_line(reason))), "");
    }
}
