use super::*;
use crate::source::SourceMap;
use crate::trace::{CommFamily, KernelFamily, Metric, RankSummary, StepKind, TraceInput, TraceReport};

fn report() -> TraceReport {
    let mut report = TraceReport {
        definitions: 1,
        taxonomy: "1".to_owned(),
        ranks: vec![0, 1],
        world_size: Some(2),
        steps: 7,
        ..TraceReport::default()
    };
    for rank in [0, 1] {
        report.per_rank.push(RankSummary { rank, kernels: 5, host: Some("n1".to_owned()), ..RankSummary::default() });
    }
    report.kernels.push(KernelFamily { family: "moe".to_owned(), calls: 3, ..KernelFamily::default() });
    report.comm.insert(
        "nccl".to_owned(),
        CommFamily { calls: 4, sum_ns: 9, library: "nccl".to_owned(), ..CommFamily::default() },
    );
    report.step_kinds.push(StepKind {
        kind: "decode".to_owned(),
        steps: 5,
        generation_tokens: Some(40),
        ..StepKind::default()
    });
    report.step_kinds.push(StepKind {
        kind: "prefill".to_owned(),
        steps: 2,
        context_tokens: Some(96),
        ..StepKind::default()
    });
    report.metrics.insert("iteration_wall_clock".to_owned(), Metric::of(12.5, "ms"));
    report.metrics.insert("mfu".to_owned(), Metric::absent("%", "no operator carries its FLOPs: \"none\""));
    let facts = [("gpu", "NVIDIA H100 80GB HBM3"), ("driver", "580.95.05"), ("nccl", "2.25.1-1+cuda12.8")];
    report.inputs.push(TraceInput {
        format: "kineto".to_owned(),
        facts: facts.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        ..TraceInput::default()
    });
    report
}

fn parse(text: &str) -> Result<Card, String> {
    let mut sources = SourceMap::default();
    let id = sources.add("card.yaml", text);
    read(id, text).map(|(card, _)| card).map_err(|error| error.render(&sources))
}

fn declared(text: &str) -> Declared {
    let mut sources = SourceMap::default();
    let id = sources.add("config.yaml", text);
    Declared::from_node(&crate::yaml::parse(id, text).unwrap())
}

/// The layout of document 004's experiments.
const CONFIG: &str = "experiment_id: E1.2\ndescription: \"TP=2: scaling\"\nmodel: {name: meta-llama/Llama-3.1-8B, precision: bf16}\nparallelism: {tp: 2, pp: 1, dp_replicate: 1, ep: 1}\ndata: {batch_size: 8, seq_len: 48, max_tokens: 512}\nprofile_iterations: 5\n";

#[test]
fn a_card_says_what_was_measured_and_reads_back() {
    let config = declared(CONFIG);
    let card = fill(&report(), Some(&config), "1.2.3");
    assert_eq!(
        card.workload.hardware.xpu_spec.total_count,
        Some(2),
        "ranks of the run, not a sum of degrees (2+1+1+1)"
    );
    assert_eq!(card.workload.hardware.xpu_spec.count_per_node, Some(2));
    assert_eq!(card.workload.model.moe, Some(true));
    let text = to_yaml(&card);
    for line in [
        "  model: NVIDIA H100 80GB HBM3",
        "description: \"TP=2: scaling\"",
        "hf_url: https://huggingface.co/meta-llama/Llama-3.1-8B",
        "    iteration_wall_clock: {value: 12.5, unit: ms}",
        "    mfu: \"no operator carries its FLOPs: \\\"none\\\"\"",
        "    phase: [prefill, decode]",
        "contributor: null  # to be written by a person",
        "    version: \"2.25.1-1+cuda12.8\"",
    ] {
        let quoted = line.replace(
            "https://huggingface.co/meta-llama/Llama-3.1-8B",
            "\"https://huggingface.co/meta-llama/Llama-3.1-8B\"",
        );
        assert!(text.contains(line) || text.contains(&quoted), "{line} is not in\n{text}");
    }
    let again = parse(&text).unwrap();
    assert_eq!(to_yaml(&again), text);
    assert_eq!(check(Some(&again), Some(&config), &report()), []);
}

#[test]
fn without_traces_of_all_ranks_nothing_is_counted() {
    let mut report = report();
    report.world_size = None;
    let card = fill(&report, None, "1");
    assert_eq!(
        (card.workload.hardware.xpu_spec.total_count, card.workload.hardware.xpu_spec.count_per_node),
        (None, None)
    );
    let text = to_yaml(&fill(&TraceReport::default(), None, "1"));
    assert!(text.contains("total_count: null  # the traces do not say how many ranks the run had"), "{text}");
    parse(&text).unwrap();
}

#[test]
fn wrong_cards_are_told_with_their_place() {
    let error = parse("version: 1\nworkload:\n  hardware:\n    xpu_specs: {type: GPU}\n").unwrap_err();
    assert!(error.contains("card.yaml:4:5") && error.contains("did you mean `xpu_spec`"), "{error}");
    let error = parse("workload:\n  hardware:\n    xpu_spec: {total_count: four}\n").unwrap_err();
    assert!(error.contains("card.yaml:3:") && error.contains('^'), "{error}");
    let error = parse("version: 7\n").unwrap_err();
    assert!(error.contains("version 7 of workload cards is unknown"), "{error}");
    parse("version: 1\nworkload:\nModel-executor: {framework: , protocol_selection: rocev2}\nmetric_source: {traces: [nsys]}\n").unwrap();
}

fn codes(card: &str, config: Option<&str>) -> Vec<(&'static str, String)> {
    let card = parse(card).unwrap();
    let config = config.map(declared);
    check(Some(&card), config.as_ref(), &report()).into_iter().map(|c| (c.code, c.detail)).collect()
}

#[test]
fn every_contradiction_is_found_and_agreement_is_none() {
    let just = |card: &str| codes(card, None).into_iter().map(|(code, _)| code).collect::<Vec<_>>();
    // The known bug: the sum of tp 2, pp 1, dp 1, ep 1 instead of 2.
    let summed = "workload: {hardware: {xpu_spec: {total_count: 5}}}\nModel-executor: {model_plan_parallelization: {dp_replicate: 1, tp: 2, pp: 1, ep: 1}}";
    let found = codes(summed, None);
    assert_eq!(found.len(), 1);
    assert!(found[0].1.contains("sum of the parallel degrees"), "{found:?}");
    assert_eq!(just("Model-executor: {model_plan_parallelization: {tp: 2, pp: 2}}"), ["parallel_plan"]);
    assert_eq!(just("Model-executor: {model_plan_parallelization: {tp: 2, pp: 1}}"), Vec::<&str>::new());
    assert_eq!(just("workload: {hardware: {xpu_spec: {model: nvidia_a100}}}"), ["gpu_model"]);
    assert_eq!(just("workload: {hardware: {xpu_spec: {model: nvidia_h100}}}"), Vec::<&str>::new());
    assert_eq!(just("workload: {hardware: {driver_version: 535.1}}"), ["driver_version"]);
    assert_eq!(just("workload: {hardware: {driver_version: cuda_12.4}}"), Vec::<&str>::new());
    assert_eq!(just("Model-executor: {communication_library: {name: NCCL, version: 2.21.5}}"), ["library_version"]);
    assert_eq!(just("Model-executor: {communication_library: {name: NCCL, version: \"2.25\"}}"), Vec::<&str>::new());
    assert_eq!(just("Model-executor: {communication_library: {name: NVSHMEM}}"), ["library"]);
    assert_eq!(just("workload: {model: {moe: false, iteration: 5, phase: training}}"), ["moe", "iterations", "phase"]);
    assert_eq!(just("metric_source: {traces: [nsys, kineto_trace]}"), ["traces"]);
    assert_eq!(just("workload: {data: {batch_size: 4, seq_len: 2048}}"), ["batch_size", "seq_len"]);
    assert_eq!(just("workload: {data: {batch_size: 8, seq_len: 48}}"), Vec::<&str>::new());
    assert_eq!(
        just("measured: {definitions: 1, metrics: {iteration_wall_clock: {value: 13}, mfu: {value: 1}}}"),
        ["measured", "measured"]
    );
    assert_eq!(just("measured: {definitions: 0, metrics: {iteration_wall_clock: {value: 13}}}"), Vec::<&str>::new());
}

#[test]
fn card_and_configuration_are_compared_too() {
    let card = "hf_url: https://huggingface.co/Qwen/Qwen3-8B\nModel-executor: {framework: {name: vllm 0.11.0}, model_plan_parallelization: {tp: 2}}\nworkload: {data: {seq_len: 32}}";
    let config = format!("{CONFIG}engine: {{kind: vllm, version: \"0.12.1\"}}\n");
    let found: Vec<&str> = codes(card, Some(&config)).into_iter().map(|(code, _)| code).collect();
    assert_eq!(found, ["seq_len", "model", "framework_version"]);
    let engine = declared("tensor_parallel_size: 4\nenable_expert_parallel: true\nmodel: org/m\n");
    let found: Vec<&str> = check(None, Some(&engine), &report()).into_iter().map(|c| c.code).collect();
    assert_eq!(found, ["parallel_plan"]);
}
