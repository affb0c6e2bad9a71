//! What contradicts what: a card, a configuration and the trace each say something about the same run. Only what two of
//! them say is compared; silence contradicts nothing.

use std::fmt::Display;

use serde::Serialize;

use super::fill::{DRIVER_FACTS, Declared, GPU_FACTS, NCCL_FACTS, fact, main_library, phases, world_size};
use super::{Card, Parallelization};
use crate::trace::TraceReport;

/// Two sources that cannot both be right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Contradiction {
    /// What it is about: gpu_count, parallel_plan, library, …
    pub code: &'static str,
    /// One sentence with both values.
    pub detail: String,
    /// Where the card says it, as a path of keys; empty when the card has no part in it.
    pub card_key: Vec<&'static str>,
}

struct Found {
    list: Vec<Contradiction>,
}

impl Found {
    fn add(&mut self, code: &'static str, card_key: &[&'static str], detail: String) {
        self.list.push(Contradiction { code, detail, card_key: card_key.to_vec() });
    }

    /// Two sources give the same thing; they should agree.
    fn same<T: PartialEq + Display>(
        &mut self,
        code: &'static str,
        key: &[&'static str],
        what: &str,
        (source_a, a): (&str, Option<T>),
        (source_b, b): (&str, Option<T>),
    ) {
        if let (Some(a), Some(b)) = (a, b)
            && a != b
        {
            self.add(code, key, format!("{what}: the {source_a} says {a}, the {source_b} says {b}"));
        }
    }
}

const COUNT: [&str; 5] = ["workload", "hardware", "xpu_spec", "total_count", ""];
const PLAN: [&str; 2] = ["Model-executor", "model_plan_parallelization"];

/// Compares a card and a configuration with each other and with the trace.
pub fn check(card: Option<&Card>, declared: Option<&Declared>, report: &TraceReport) -> Vec<Contradiction> {
    let mut found = Found { list: Vec::new() };
    let ranks = world_size(report);
    if let Some(card) = card {
        gpu_count(&mut found, card, ranks);
        plan(&mut found, "card", &PLAN, &card.executor.model_plan_parallelization, ranks);
        hardware(&mut found, card, report);
        model(&mut found, card, report);
        measured(&mut found, card, report);
        batches(&mut found, "card", &["workload", "data", "batch_size"], card.workload.data.batch_size, report);
        let prompt = card.workload.data.input_len.or(card.workload.data.seq_len);
        prompts(&mut found, "card", &["workload", "data", "seq_len"], prompt, report);
    }
    if let Some(declared) = declared {
        plan(&mut found, "configuration", &[], &declared.plan, ranks);
        batches(&mut found, "configuration", &[], declared.batch_size, report);
        prompts(&mut found, "configuration", &[], declared.seq_len, report);
        let seen = report.kernels.iter().any(|family| family.family == "moe" && family.calls > 0);
        if declared.is_expert_parallel == Some(true) && !seen && report.per_rank.iter().any(|rank| rank.kernels > 0) {
            found.add(
                "expert_parallel",
                &[],
                "the configuration turns expert parallelism on, and no kernel of a mixture of experts ran".to_owned(),
            );
        }
    }
    if let (Some(card), Some(declared)) = (card, declared) {
        card_and_configuration(&mut found, card, declared);
    }
    found.list
}

fn gpu_count(found: &mut Found, card: &Card, ranks: Option<u64>) {
    let plan = &card.executor.model_plan_parallelization;
    let (Some(count), Some(ranks)) = (card.workload.hardware.xpu_spec.total_count, ranks) else { return };
    let key = &COUNT[..4];
    if count != ranks {
        let why = if count == plan.sum() && plan.n_gpus() == Some(ranks) {
            " (the card's number is the sum of the parallel degrees; GPUs are their product)"
        } else {
            ""
        };
        found.add("gpu_count", key, format!("the card counts {count} GPUs, the trace's run had {ranks} ranks{why}"));
    }
    if let Some(per_node) = card.workload.hardware.xpu_spec.count_per_node
        && per_node > count
    {
        let key = ["workload", "hardware", "xpu_spec", "count_per_node"];
        found.add("gpu_count", &key, format!("the card counts {per_node} GPUs on one node and {count} in all"));
    }
}

fn plan(found: &mut Found, source: &str, key: &[&'static str], plan: &Parallelization, ranks: Option<u64>) {
    let (Some(product), Some(ranks)) = (plan.n_gpus(), ranks) else { return };
    if product != ranks {
        let degrees: Vec<String> = [
            ("dp_replicate", plan.dp_replicate),
            ("dp_shard", plan.dp_shard),
            ("tp", plan.tp),
            ("pp", plan.pp),
            ("cp", plan.cp),
        ]
        .into_iter()
        .filter_map(|(name, degree)| degree.filter(|n| *n > 0).map(|n| format!("{name} {n}")))
        .collect();
        found.add(
            "parallel_plan",
            key,
            format!("the {source}'s plan spans {product} ranks ({}), the trace's run had {ranks}", degrees.join(" × ")),
        );
    }
    if let Some(ep) = plan.ep
        && ep > 1
        && (ep > ranks || !ranks.is_multiple_of(ep))
    {
        found.add(
            "parallel_plan",
            key,
            format!("the {source} has ep {ep}, which does not divide the {ranks} ranks of the run"),
        );
    }
}

/// Letters and digits, lower case: `NVIDIA_H100-80GB` and `nvidia h100 80gb` are one.
fn plain(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
}

/// The part of a GPU's name that tells it from others: `h100`, `mi300x`, `a100`.
fn gpu_models(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .map(str::to_ascii_lowercase)
        .filter(|word| {
            word.len() <= 8
                && word.starts_with(|c: char| c.is_ascii_alphabetic())
                && word.chars().any(|c| c.is_ascii_digit())
                && !word.starts_with("hbm")
                && !word.starts_with("sxm")
        })
        .collect()
}

/// `2.25.1-1+cuda12.8` → 2.25.1.
fn numbers(version: &str) -> Vec<u64> {
    let start = version.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = start.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(start.len());
    start.get(..end).unwrap_or_default().split('.').map_while(|part| part.parse().ok()).collect()
}

/// True when both have numbers and they differ as far as both go.
fn versions_differ(a: &str, b: &str) -> bool {
    let (a, b) = (numbers(a), numbers(b));
    let both = a.len().min(b.len());
    both > 0 && a.get(..both) != b.get(..both)
}

fn text_of(value: Option<&serde_json::Value>) -> Option<String> {
    match value? {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn hardware(found: &mut Found, card: &Card, report: &TraceReport) {
    if let (Some(ours), Some(theirs)) = (fact(report, &GPU_FACTS), &card.workload.hardware.xpu_spec.model) {
        let (seen, said) = (gpu_models(ours), gpu_models(theirs));
        let is_same = plain(ours).contains(&plain(theirs))
            || said.iter().any(|word| seen.iter().any(|other| other.starts_with(word) || word.starts_with(other)));
        if !is_same && !seen.is_empty() && !said.is_empty() {
            let key = ["workload", "hardware", "xpu_spec", "model"];
            found.add("gpu_model", &key, format!("the card names {theirs}, the trace ran on {ours}"));
        }
    }
    let driver = text_of(card.workload.hardware.driver_version.as_ref());
    if let (Some(ours), Some(theirs)) = (fact(report, &DRIVER_FACTS), driver)
        // Some cards give the CUDA version here.
        && !theirs.to_ascii_lowercase().contains("cuda")
        && versions_differ(ours, &theirs)
    {
        let key = ["workload", "hardware", "driver_version"];
        found.add("driver_version", &key, format!("the card says driver {theirs}, the trace says {ours}"));
    }
    let library = &card.executor.communication_library;
    let version = text_of(library.version.as_ref());
    if let (Some(ours), Some(theirs)) = (fact(report, &NCCL_FACTS), version)
        && library.name.as_deref().is_none_or(|name| plain(name).contains("nccl"))
        && versions_differ(ours, &theirs)
    {
        let key = ["Model-executor", "communication_library", "version"];
        found.add("library_version", &key, format!("the card says NCCL {theirs}, the trace says {ours}"));
    }
    if let Some(name) = &library.name
        && !report.comm.is_empty()
        && report.comm.values().any(|family| family.calls > 0)
        && !report.comm.iter().any(|(family, comm)| {
            plain(&comm.library) == plain(name)
                || plain(family) == plain(name)
                || plain(name).contains(&plain(&comm.library))
        })
    {
        let seen = main_library(report).unwrap_or_default();
        let key = ["Model-executor", "communication_library", "name"];
        found.add("library", &key, format!("the card names {name}, and the trace's communication ran through {seen}"));
    }
}

fn model(found: &mut Found, card: &Card, report: &TraceReport) {
    let model = &card.workload.model;
    if model.moe == Some(false)
        && let Some(family) = report.kernels.iter().find(|family| family.family == "moe" && family.calls > 0)
    {
        let key = ["workload", "model", "moe"];
        found.add(
            "moe",
            &key,
            format!("the card says that the model has no experts, and {} kernels of experts ran", family.calls),
        );
    }
    if let Some(iteration) = model.iteration
        && report.steps > 0
        && iteration != report.steps
    {
        let key = ["workload", "model", "iteration"];
        found.add(
            "iterations",
            &key,
            format!("the card says {iteration} iterations, the trace has {} steps", report.steps),
        );
    }
    let seen = phases(report);
    if !seen.is_empty() && model.phase.iter().any(|phase| phase.eq_ignore_ascii_case("training")) {
        found.add(
            "phase",
            &["workload", "model", "phase"],
            format!("the card says training, the trace's steps are {}", seen.join(" and ")),
        );
    }
    for (name, formats) in [("nsys", &["nsys"][..]), ("kineto", &["kineto"]), ("torch_et", &["execution_trace"])] {
        let is_claimed = card.metric_source.traces.iter().any(|trace| plain(trace).contains(&plain(name)));
        let is_there = report.inputs.iter().any(|input| formats.contains(&input.format.as_str()));
        if is_claimed && !is_there && !report.inputs.is_empty() {
            let read: std::collections::BTreeSet<&str> =
                report.inputs.iter().map(|input| input.format.as_str()).collect();
            let read: Vec<&str> = read.into_iter().collect();
            found.add(
                "traces",
                &["metric_source", "traces"],
                format!("the card names {name} as a source, and only {} was read", read.join(", ")),
            );
        }
    }
}

/// Values of the same definitions must be the same values.
fn measured(found: &mut Found, card: &Card, report: &TraceReport) {
    let Some(measured) = &card.measured else { return };
    if measured.definitions != report.definitions {
        return;
    }
    for (name, theirs) in &measured.metrics {
        let Some(ours) = report.metrics.get(name) else { continue };
        let differs = match ours.value {
            Some(value) => (value - theirs.value).abs() > 1e-6 * value.abs().max(theirs.value.abs()),
            None => true,
        };
        if differs {
            let ours = ours.value.map_or_else(|| "nothing".to_owned(), |value| format!("{value}"));
            found.add(
                "measured",
                &["measured", "metrics"],
                format!("{name}: the card says {}, the trace gives {ours}", theirs.value),
            );
        }
    }
}

/// More requests decode in a step than a batch can hold.
fn batches(found: &mut Found, source: &str, key: &[&'static str], batch: Option<u64>, report: &TraceReport) {
    let decode = report.step_kinds.iter().find(|kind| kind.kind == "decode" && kind.steps > 0);
    if let (Some(batch), Some(decode)) = (batch, decode)
        && let Some(tokens) = decode.generation_tokens
        && tokens > batch.saturating_mul(decode.steps)
    {
        #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
        let mean = tokens as f64 / decode.steps as f64;
        found.add(
            "batch_size",
            key,
            format!("the {source} says a batch of {batch}, and decode steps of the trace generate {mean:.1} tokens on average"),
        );
    }
}

/// No prompt of that length was ever computed.
fn prompts(found: &mut Found, source: &str, key: &[&'static str], prompt: Option<u64>, report: &TraceReport) {
    let context: Option<u64> = report
        .step_kinds
        .iter()
        .filter(|kind| kind.kind == "prefill" || kind.kind == "mixed")
        .map(|kind| kind.context_tokens)
        .fold(None, |sum, tokens| tokens.map_or(sum, |n| Some(sum.unwrap_or(0) + n)));
    if let (Some(prompt), Some(context)) = (prompt, context)
        && context < prompt
    {
        found.add(
            "seq_len",
            key,
            format!("the {source} says prompts of {prompt} tokens, and all prefill steps of the trace together computed {context}"),
        );
    }
}

fn card_and_configuration(found: &mut Found, card: &Card, declared: &Declared) {
    let (ours, theirs) = (&card.executor.model_plan_parallelization, &declared.plan);
    let both = |a, b| (("card", a), ("configuration", b));
    for (what, key, a, b) in [
        ("tp", "tp", ours.tp, theirs.tp),
        ("pp", "pp", ours.pp, theirs.pp),
        ("dp_replicate", "dp_replicate", ours.dp_replicate, theirs.dp_replicate),
        ("ep", "ep", ours.ep, theirs.ep),
    ] {
        let (a, b) = both(a, b);
        found.same("parallel_plan", &[PLAN[0], PLAN[1], key], what, a, b);
    }
    let data = &card.workload.data;
    let (a, b) = both(data.batch_size, declared.batch_size);
    found.same("batch_size", &["workload", "data", "batch_size"], "batch_size", a, b);
    let (a, b) = both(data.seq_len, declared.seq_len);
    found.same("seq_len", &["workload", "data", "seq_len"], "seq_len", a, b);
    let (a, b) = both(data.output_len, declared.max_tokens);
    found.same("output_len", &["workload", "data", "output_len"], "output_len", a, b);
    if let (Some(url), Some(model)) = (&card.hf_url, &declared.model)
        && model.contains('/')
        && !url.to_ascii_lowercase().trim_end_matches('/').ends_with(&model.to_ascii_lowercase())
    {
        found.add("model", &["hf_url"], format!("the card points to {url}, the configuration serves {model}"));
    }
    if let (Some(name), Some(framework)) = (&card.executor.framework.name, &declared.framework) {
        let key = ["Model-executor", "framework", "name"];
        if !plain(name).contains(&plain(framework)) {
            found.add("framework", &key, format!("the card says {name}, the configuration says {framework}"));
        } else if let Some(version) = &declared.framework_version
            && versions_differ(name, version)
        {
            found.add(
                "framework_version",
                &key,
                format!("the card says {name}, the configuration says {framework} {version}"),
            );
        }
    }
}
