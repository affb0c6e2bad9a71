use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::catalog::find_gpu;
use crate::config::ServerConfig;
use crate::flags::parse_serving_flags;
use crate::settings::SimSettings;

fn model(name: &str, gpu: &str, line: &str) -> RooflineStepTime {
    let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let mut settings = SimSettings::new(SocketAddr::from(([127, 0, 0, 1], 0)), name, gpu);
    settings.serving = parse_serving_flags(&args, "0.32.0").unwrap();
    RooflineStepTime::new(&ServerConfig::resolve(&settings).unwrap()).unwrap()
}

fn decode(n: u32, context: u64) -> StepShape {
    StepShape { n_requests: n, n_tokens: n, decode_context_tokens: context, ..StepShape::default() }
}

fn prefill(n: u32) -> StepShape {
    StepShape {
        n_requests: 1,
        n_tokens: n,
        n_prefills: 1,
        prefill_tokens: n,
        prefill_pairs: f64::from(n) * f64::from(n) / 2.0,
        ..StepShape::default()
    }
}

/// vLLM's published fit for Llama-3.1-8B on H100: 6.44 ms + 4.37e-5 ms per context token, half that slope with FP8.
#[test]
fn decode_meets_the_published_line() {
    let check = |line: &str, slope_ms: f64| {
        let time = model("Llama-3.1-8B", "H100", line);
        let at = |context: u64| time.step_nanos(&decode(8, context)) as f64 / 1e6;
        assert!((at(1000) / 6.44 - 1.0).abs() < 0.15, "{}", at(1000));
        let slope = (at(400_000) - at(200_000)) / 200_000.0;
        assert!((slope / slope_ms - 1.0).abs() < 0.25, "{line}: {slope}");
    };
    check("", 4.37e-5);
    check("--kv-cache-dtype fp8", 2.2e-5);
}

#[test]
fn every_term_moves_the_step_the_right_way() {
    let time = model("Llama-3.1-8B", "H100", "");
    let base = time.step_nanos(&decode(8, 1000));
    assert!(time.step_nanos(&decode(256, 1000)) > base);
    assert!(time.step_nanos(&decode(8, 100_000)) > base);
    assert!(time.step_nanos(&prefill(8192)) > 10 * base);
    assert!(model("Llama-3.1-8B", "A100", "").step_nanos(&decode(8, 1000)) > base);
    assert!(model("Llama-3.1-8B", "H100", "-tp 2").step_nanos(&decode(8, 1000)) < base);
    assert!(model("Llama-3.1-8B", "H100", "--quantization fp8").step_nanos(&decode(8, 1000)) < base);
    assert!(
        model("Llama-3.1-8B", "H200", "--enforce-eager").step_nanos(&decode(1, 1))
            >= model("Llama-3.1-8B", "H200", "").step_nanos(&decode(1, 1))
    );
}

/// A long prompt is compute-bound: it cannot beat the dense peak, and should reach a good part of it.
#[test]
fn prefill_is_bounded_by_the_peak() {
    let time = model("Llama-3.1-8B", "H100", "");
    let peak_s = 2.0 * 7.0e9 * 8192.0 / 989e12;
    let seconds = time.step_nanos(&prefill(8192)) as f64 / 1e9;
    assert!(seconds > peak_s && seconds < 2.0 * peak_s, "{seconds} vs {peak_s}");
}

#[test]
fn few_tokens_touch_few_experts() {
    let time = model("Qwen3-235B-A22B", "H200", "-tp 8 -ep");
    let one = time.step_nanos(&decode(1, 100));
    let many = time.step_nanos(&decode(256, 25_600));
    assert!(many * 2 > one * 3, "{one} {many}");
}

#[test]
fn a_window_bounds_what_a_layer_reads() {
    let time = model("gpt-oss-120b", "H100", "");
    let attention = |context: u64| time.breakdown(&decode(8, context)).attention_secs;
    // Half the layers keep 128 tokens, so twice the context costs less than twice.
    assert!(attention(1_600_000) < 1.99 * attention(800_000));
    let latent = model("DeepSeek-V3", "H200", "-tp 8");
    let grown = latent.breakdown(&decode(8, 400_000)).attention_secs - latent.breakdown(&decode(8, 0)).attention_secs;
    assert!(grown > 0.0, "latent attention reads its cache");
}

#[test]
fn every_device_and_parallelism_runs() {
    for gpu in crate::catalog::gpus().unwrap() {
        let parameters = Parameters::builtin(&gpu).unwrap();
        assert_eq!(parameters.is_validated, gpu.family == "hopper", "{}", gpu.name);
    }
    for gpu in ["H100", "B200", "GB200", "A100", "L40S", "MI300X", "MI355X", "H20"] {
        let time = model("Llama-3.1-8B", gpu, "-tp 2 -pp 2");
        assert!(time.step_nanos(&decode(8, 1000)) > 100_000, "{gpu}");
    }
    let all = model("GLM-4.6", "H200", "-tp 1 -dp 32 -ep --enable-eplb");
    let breakdown = all.breakdown(&decode(16, 16_000));
    assert!(breakdown.collectives_secs > 0.0 && breakdown.moe_secs > 0.0);
}

/// Over the network a collective costs more than inside a node.
#[test]
fn collectives_know_their_node() {
    let gpu = find_gpu("H200").unwrap();
    let parameters = Parameters::builtin(&gpu).unwrap();
    let secs = |ranks: f64, bytes: f64, family| {
        collective_secs(&CollectiveKernel { family, ranks, bytes, in_graph: true }, &gpu, &parameters)
    };
    for family in [
        CollectiveFamily::AllReduce,
        CollectiveFamily::AllGather,
        CollectiveFamily::ReduceScatter,
        CollectiveFamily::AllToAll,
    ] {
        assert_eq!(secs(1.0, 1e6, family), 0.0);
        assert!(secs(16.0, 1e8, family) > secs(8.0, 1e8, family), "{family:?}");
        assert!(secs(8.0, 2e8, family) > secs(8.0, 1e8, family), "{family:?}");
    }
    // 128 bytes over eight H200: 4.7 µs in a graph, 21.5 µs outside (vLLM's custom all-reduce, public table).
    let us = secs(8.0, 256.0, CollectiveFamily::AllReduce) * 1e6;
    assert!((4.0..12.0).contains(&us), "{us}");
}

#[test]
fn a_users_file_lies_over_the_built_in_table() {
    let gpu = find_gpu("H100").unwrap();
    let plain = Parameters::builtin(&gpu).unwrap();
    let mine =
        Parameters::resolve(&gpu, Some(r#"{"per_gpu": {"H100-SXM5-80GB": {"host": {"fixed_us": 1.5}}}}"#)).unwrap();
    assert_eq!(mine.host.fixed_us, 1.5);
    assert_eq!(mine.gemm, plain.gemm);
    let error = Parameters::resolve(&gpu, Some(r#"{"default": {"host": {"fixed_ms": 1}}}"#)).unwrap_err().to_string();
    assert!(error.contains("fixed_ms"), "{error}");
}

#[test]
fn factors_scale_their_terms() {
    let mut time = model("Llama-3.1-70B", "H100", "-tp 8");
    let before = time.breakdown(&decode(8, 10_000));
    time.parameters_mut().calibration.collectives = 2.0;
    let after = time.breakdown(&decode(8, 10_000));
    assert!((after.collectives_secs / before.collectives_secs - 2.0).abs() < 1e-9);
    assert_eq!(after.gemm_secs, before.gemm_secs);
}

fn models() -> Vec<RooflineStepTime> {
    vec![
        model("Llama-3.1-8B", "H100", ""),
        model("gpt-oss-120b", "H200", "-tp 2"),
        model("DeepSeek-V3", "H200", "-tp 8"),
        model("GLM-4.6", "B200", "-tp 8 --kv-cache-dtype fp8"),
        model("Qwen3-32B", "A100", "-tp 4 --enforce-eager"),
    ]
}

proptest! {
    /// More tokens, more context, longer prompts: never faster. Graph sizes only round up.
    #[test]
    fn more_work_is_never_faster(n in 1u32..400, extra in 0u32..400, context in 0u64..2_000_000, more in 0u64..2_000_000,
                                 prompt in 0u32..9000, longer in 0u32..4000) {
        for time in models() {
            let shape = |n: u32, context: u64, prompt: u32| StepShape {
                n_requests: n + u32::from(prompt > 0),
                n_tokens: n + prompt,
                n_prefills: u32::from(prompt > 0),
                prefill_tokens: prompt,
                decode_context_tokens: context,
                prefill_pairs: f64::from(prompt) * f64::from(prompt) / 2.0,
                // Told, so that regimes do not change between the two.
                padded_tokens: n + prompt,
                regime: Regime::Piecewise,
                ..StepShape::default()
            };
            let base = time.step_nanos(&shape(n, context, prompt));
            prop_assert!(base > 0);
            prop_assert!(time.step_nanos(&shape(n, context + more, prompt)) >= base);
            if prompt > 0 {
                prop_assert!(time.step_nanos(&shape(n, context, prompt + longer)) >= base);
            }
            // Kernels for few rows read weights at another speed: the two sides are compared apart.
            if (n + prompt <= 16) == (n + extra + prompt <= 16) {
                prop_assert!(time.step_nanos(&shape(n + extra, context, prompt)) >= base);
            }
        }
    }

    /// Every number is finite and positive, whatever the shape.
    #[test]
    fn steps_are_finite(n in 0u32..10_000, prompt in 0u32..100_000, context in 0u64..u64::from(u32::MAX)) {
        for time in models() {
            let shape = StepShape {
                n_requests: n, n_tokens: n.saturating_add(prompt), prefill_tokens: prompt, decode_context_tokens: context,
                prefill_pairs: f64::from(prompt).powi(2), ..StepShape::default()
            };
            let b = time.breakdown(&shape);
            for part in [b.gemm_secs, b.attention_secs, b.moe_secs, b.small_kernels_secs, b.collectives_secs, b.host_secs] {
                prop_assert!(part.is_finite() && part >= 0.0);
            }
            prop_assert!(b.total_secs.is_finite() && b.total_secs > 0.0);
        }
    }

    /// More ranks share the work, but never by more than their number.
    #[test]
    fn tensor_parallelism_scales_within_its_number(n in 1u32..256, context in 1000u64..1_000_000) {
        let one = model("Llama-3.1-8B", "H200", "").breakdown(&decode(n, context));
        for tp in [2u32, 4, 8] {
            let many = model("Llama-3.1-8B", "H200", &format!("-tp {tp}")).breakdown(&decode(n, context));
            prop_assert!(many.gemm_secs < one.gemm_secs);
            prop_assert!(many.gemm_secs * f64::from(tp) > 0.95 * one.gemm_secs);
            prop_assert!(many.attention_secs <= one.attention_secs);
        }
    }
}
