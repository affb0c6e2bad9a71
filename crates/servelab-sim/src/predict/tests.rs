//! Predictions of deployments as a whole: what splitting, drafts and windows do to a cell.

use std::net::SocketAddr;

use super::*;
use crate::config::ServerConfig;
use crate::engine::EngineConfig;
use crate::flags::parse_serving_flags;
use crate::settings::SimSettings;

fn config(model: &str, flags: &str) -> ServerConfig {
    let mut settings = SimSettings::new(SocketAddr::from(([127, 0, 0, 1], 0)), model, "H100");
    settings.serving = parse_serving_flags(&words_of(flags), "0.32.0").unwrap();
    ServerConfig::resolve(&settings).unwrap()
}

/// Words of a command line, apart by bars.
fn words_of(text: &str) -> Vec<String> {
    text.split('|').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn load(concurrency: u32, input_tokens: u32, output_tokens: u32) -> CellLoad {
    CellLoad {
        arrivals: ArrivalKind::Closed { concurrency, ramp_ns: 1_000_000_000, think_ns: 0 },
        lengths: [(input_tokens, output_tokens)].into(),
        shared_prefix_tokens: 0,
        warmup_requests: concurrency,
        requests: 6 * concurrency,
        duration_ns: None,
    }
}

#[test]
fn prefill_apart_keeps_prompts_out_of_the_way_of_decodes() {
    let config = config("meta-llama/Llama-3.1-8B", "");
    let load = load(32, 4000, 200);
    let together = predict_fleet(&config, 1, None, &load).unwrap();
    let split = |same_node| {
        let prefill = PrefillServers { config: config.clone(), n_servers: 2, same_node };
        predict_fleet(&config, 1, Some(&prefill), &load).unwrap()
    };
    let (near, far) = (split(true), split(false));
    assert_eq!((near.label, near.completed), (Label::Unvalidated, 192));
    assert!(near.itl_ms.p99 < together.itl_ms.p99, "{:?} {:?}", near.itl_ms, together.itl_ms);
    // 4,000 tokens of 128 KiB: 0.52 GB, over half of 450 GB/s, or 70 % of 50 GB/s.
    let (near_ms, far_ms) = (near.transfer_mean_ms.unwrap(), far.transfer_mean_ms.unwrap());
    assert!(near_ms > 4.0 && near_ms < 7.0 && far_ms > 16.0, "{near_ms} {far_ms}");
    assert_eq!(together.transfer_mean_ms, None);
}

#[test]
fn too_few_prefill_servers_hold_everything_back() {
    let config = config("meta-llama/Llama-3.1-8B", "");
    let of = |n_servers| {
        let prefill = PrefillServers { config: config.clone(), n_servers, same_node: true };
        predict_fleet(&config, 1, Some(&prefill), &load(64, 4000, 50)).unwrap()
    };
    let (one, four) = (of(1), of(4));
    assert!(four.output_tokens_per_s > 1.5 * one.output_tokens_per_s, "{one:?} {four:?}");
    assert!(four.ttft_ms.mean < one.ttft_ms.mean);
}

#[test]
fn drafts_pay_where_they_are_accepted() {
    let with = |rates: &str| {
        let json = format!(r#"{{"method":"eagle3","num_speculative_tokens":3,"synthetic_acceptance_rates":{rates}}}"#);
        predict_cell(&config("meta-llama/Llama-3.1-8B", &format!("--speculative-config|{json}")), &load(4, 500, 200))
            .unwrap()
    };
    let plain = predict_cell(&config("meta-llama/Llama-3.1-8B", ""), &load(4, 500, 200)).unwrap();
    let (good, none) = (with("[0.9,0.8,0.7]"), with("[0,0,0]"));
    assert!(good.tpot_ms.mean < Some(0.6 * plain.tpot_ms.mean.unwrap()), "{:?} {:?}", good.tpot_ms, plain.tpot_ms);
    assert!(none.tpot_ms.mean > plain.tpot_ms.mean, "drafting costs time: {:?} {:?}", none.tpot_ms, plain.tpot_ms);
    assert_eq!(good.label, Label::Unvalidated);
}

#[test]
fn layers_that_slide_keep_only_their_window() {
    let windowed = EngineConfig::of(&config("openai/gpt-oss-120b", ""));
    let window = windowed.sliding_window.unwrap();
    assert_eq!((window.tokens, window.full_groups, window.window_groups), (128, 1, 1));
    assert_eq!(EngineConfig::of(&config("meta-llama/Llama-3.1-8B", "")).sliding_window, None);
    // The window's blocks come on top of those of the layers that keep everything.
    let kv = |tokens| predict_cell(&config("openai/gpt-oss-120b", ""), &load(8, tokens, 20)).unwrap().kv_peak;
    let (short, long) = (kv(1000), kv(8000));
    assert!(long > 5.0 * short && long < 8.0 * short, "{short} {long}");
}
