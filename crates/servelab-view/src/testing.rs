//! Plans for tests, expanded from study texts the way the binary does it.

use std::collections::BTreeMap;

use serde_json::json;
use servelab_core::expand::{DatasetFacts, ExpandInput, expand};
use servelab_core::flags::{Dialect, FlagTable};
use servelab_core::plan::Plan;
use servelab_core::site::Site;
use servelab_core::source::SourceMap;
use servelab_core::study::Study;
use servelab_core::version::VersionSpec;
use servelab_core::yaml;

/// A study and its plan.
pub fn planned(text: &str, gpus_per_node: u32) -> (Study, Plan) {
    let mut sources = SourceMap::default();
    let source = sources.add("study.yaml", text);
    let doc = yaml::parse(source, text).unwrap_or_else(|error| panic!("{}", error.render(&sources)));
    let study: Study = yaml::from_node(&doc).unwrap_or_else(|error| panic!("{}", error.render(&sources)));
    let mut site = Site::local();
    site.gpus.per_node = Some(gpus_per_node);
    let version = study.engine.version.as_deref().map(|text| VersionSpec::parse(text).unwrap());
    let flags =
        Dialect::of_engine(study.engine.kind.name()).map(|dialect| FlagTable::builtin(dialect, version.as_ref()));
    let datasets: BTreeMap<String, DatasetFacts> = study
        .workloads
        .iter()
        .map(|(name, workload)| {
            let bounds = workload.dataset.synth().map(|synth| synth.length_bounds());
            let facts = DatasetFacts {
                content: json!(name),
                max_input_tokens: bounds.map(|bounds| bounds.input.max),
                max_output_tokens: bounds.map(|bounds| bounds.output.max),
            };
            (name.to_owned(), facts)
        })
        .collect();
    let model = servelab_core::model::builtin_model(&study.model.id);
    let input = ExpandInput {
        study: &study,
        doc: &doc,
        site: &site,
        version: version.as_ref(),
        flags: flags.as_ref(),
        model: model.as_deref(),
        gpu: None,
        model_path: "/models/m",
        tokenizer: "builtin",
        tokenizer_path: None,
        datasets: &datasets,
        winners: &|_| None,
    };
    let plan = expand(&input).unwrap_or_else(|error| panic!("{}", error.render(&sources)));
    (study, plan)
}

/// One factor at a time, with duplicates, an infeasible point and an infeasible workload.
pub const ABLATION: &str = r#"
schema: 1
study: small-ablation
description: What each switch is worth.
engine: {kind: vllm, version: "0.11.*"}
model: {id: zai-org/GLM-4.6}
deploy: {nodes: 1, tp: 8}
serve: {enforce_eager: true, max_model_len: 32768}
workloads:
  8k: {dataset: {suite: 8k}}
  64k: {dataset: {suite: 64k}}
load: {closed: {concurrency: [1, 4]}, warmup: {requests: 2}, stop: {requests: 10}}
designs:
  switches:
    purpose: One switch at a time.
    expect: Compilation helps.
    with: [8k]
    ablate:
      "1 compilation": {A: {}, B: {purpose: Graphs on., enforce_eager: false}}
      "2 context": {A: {with: [8k, 64k]}, B: {decode_context_parallel_size: 2}}
slo: {cell: {ttft_p95_ms: 2000, success: 0.99}, request: {ttft_ms: 2000, tpot_ms: 100}}
targets: {conservative: {throughput_tok_s: [800, 1200]}, bold: {throughput_tok_s: 2000, ttft_p95_ms: 1500}}
baseline: 1A
budget: {node_hours: 1, max_jobs: 2, estimate: {startup_minutes: 15, cell_minutes: 30}}
compat: {legacy_hash: md5-8-sorted-json}
"#;

/// Two factors and a condition, several repeats.
pub const GRID: &str = r#"
schema: 1
study: small-grid
engine: {kind: vllm, version: "0.11.*"}
model: {id: acme/unknown}
deploy: {tp: 1}
workloads: {medium: {dataset: {suite: medium_balanced}}}
load: {open: {rate: [1, 2]}, stop: {requests: 100}}
designs:
  batch:
    grid: {max_num_batched_tokens: [4096, 8192], max_num_seqs: [64, 128], enable_eplb: [false, true]}
  best: {from: {design: batch, pick: {maximise: goodput}}, grid: {kv_cache_dtype: [auto, fp8]}}
repeats: {n: 2}
"#;

/// Prefill and decode, packed and spread.
pub const PREFILL_DECODE: &str = r#"
schema: 1
study: small-pd
engine: {kind: vllm, version: "0.11.0"}
model: {id: openai/gpt-oss-120b}
workloads: {w: {dataset: {synth: {input_tokens: 500, output_tokens: 25}}}}
load: {closed: {concurrency: [4]}, stop: {requests_per_slot: 5}}
designs:
  shapes: {topology: {mode: pd, shapes: [1P-TP2+1D-TP4], place: [pack, spread]}}
"#;
