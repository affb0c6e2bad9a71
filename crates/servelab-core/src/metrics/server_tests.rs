//! Counters, gauges and time lines from scrapes as they come.

use super::*;

fn sample(t_s: i64, engine: &str, metric: &str, value: f64) -> PromSample {
    PromSample {
        t_ns: t_s * 1_000_000_000,
        node: "n0".into(),
        engine: engine.into(),
        metric: metric.into(),
        labels: "model_name=\"m\"".into(),
        value,
    }
}

fn summary(samples: &[PromSample]) -> ServerSummary {
    server_summary(samples, 10_000_000_000, 20_000_000_000)
}

#[test]
fn counters_add_up_over_engines_and_survive_a_reset() {
    let name = "vllm:num_preemptions_total";
    let samples = [
        sample(5, "0", name, 1.0),
        sample(9, "0", name, 3.0),
        sample(15, "0", name, 7.0),
        sample(20, "0", name, 2.0),
        sample(25, "0", name, 90.0),
        sample(9, "1", name, 10.0),
        sample(20, "1", name, 11.0),
    ];
    assert_eq!(summary(&samples).preemptions, Some(4.0 + 2.0 + 1.0));
    assert_eq!(counter_resets(&samples, 10_000_000_000, 20_000_000_000), 1);
    assert_eq!(counter_resets(&samples[..3], 10_000_000_000, 20_000_000_000), 0);
}

#[test]
fn a_counter_that_appears_late_started_at_zero() {
    let samples =
        [sample(9, "0", "vllm:num_requests_running", 0.0), sample(15, "0", "vllm:request_success_total", 6.0)];
    assert_eq!(summary(&samples).requests_finished, Some(6.0));
    let only_scrape = [sample(15, "0", "vllm:request_success_total", 6.0)];
    assert_eq!(summary(&only_scrape).requests_finished, None, "one reading is no increase");
}

#[test]
fn a_window_between_two_scrapes_has_the_numbers_of_both() {
    let samples = [
        sample(9, "0", "vllm:generation_tokens_total", 100.0),
        sample(9, "0", "vllm:num_requests_running", 2.0),
        sample(9, "0", "vllm:num_requests_waiting", 0.0),
        sample(21, "0", "vllm:generation_tokens_total", 340.0),
        sample(21, "0", "vllm:num_requests_running", 6.0),
        sample(22, "0", "vllm:generation_tokens_total", 999.0),
    ];
    let got = summary(&samples);
    assert_eq!((got.generation_tokens, got.scrapes), (Some(240.0), 0));
    assert_eq!((got.running_mean, got.running_max, got.waiting_mean), (Some(4.0), Some(6.0), Some(0.0)));
    assert_eq!((got.kv_usage_mean, got.preemptions), (None, None), "what no scrape showed stays unknown");
    let interval = |samples: &[PromSample]| counter_interval(samples, 10_000_000_000, 20_000_000_000);
    let bracket = (9_000_000_000, 21_000_000_000);
    assert_eq!(interval(&samples), Some(CounterInterval { inner: bracket, outer: bracket, inside: 0 }));
    assert_eq!(interval(&samples[..3]), None, "a scrape on one side only encloses nothing");
    assert_eq!(summary(&samples[..3]).generation_tokens, None);
    let mut two_nodes = samples.to_vec();
    two_nodes.extend([8, 20].map(|t_s| PromSample { node: "n1".into(), ..sample(t_s, "0", "up", 1.0) }));
    let interval = interval(&two_nodes).unwrap();
    assert_eq!((interval.inner, interval.outer), ((9_000_000_000, 20_000_000_000), (8_000_000_000, 21_000_000_000)));
    assert_eq!(interval.inside, 1);
}

#[test]
fn a_time_line_sums_engines_and_counts_from_the_start() {
    let mut samples =
        vec![sample(9, "0", "vllm:num_preemptions_total", 3.0), sample(15, "0", "vllm:num_preemptions_total", 5.0)];
    for (t_s, engine, value) in [(8, "0", 4.0), (15, "0", 8.0), (12, "1", 2.0)] {
        samples.push(sample(t_s, engine, "vllm:num_requests_running", value));
        samples.push(sample(t_s, engine, "vllm:kv_cache_usage_perc", value / 10.0));
    }
    let got = server_timeline(&samples, 10_000_000_000, 20_000_000_000);
    let at = |t_s: i64, value: f64| (t_s * 1_000_000_000, value);
    assert_eq!(got.running, [at(10, 4.0), at(12, 6.0), at(15, 10.0)]);
    assert_eq!(got.preemptions, [at(10, 0.0), at(15, 2.0)]);
    assert!((got.kv_usage[2].1 - 0.5).abs() < 1e-12);
    assert_eq!(got.waiting, []);
}

#[test]
fn gauges_are_weighted_by_time_and_summed_over_engines() {
    let name = "vllm:num_requests_running";
    let samples = [
        sample(8, "0", name, 4.0),
        sample(15, "0", name, 8.0),
        sample(10, "1", name, 2.0),
        sample(18, "1", name, 0.0),
        sample(30, "1", name, 99.0),
    ];
    let got = summary(&samples);
    // Engine 0: 4 for 5 s, 8 for 5 s; engine 1: 2 for 8 s, 0 for 2 s.
    assert_eq!(got.running_mean, Some(6.0 + 1.6));
    assert_eq!(got.running_max, Some(10.0));
    assert_eq!(got.waiting_mean, None);
    assert_eq!(got.scrapes, 3);
}

#[test]
fn old_and_new_names_are_one_quantity_and_not_counted_twice() {
    let old = [sample(10, "", "vllm:gpu_cache_usage_perc", 0.5)];
    assert_eq!(summary(&old).kv_usage_mean, Some(0.5));
    let both = [sample(10, "0", "vllm:gpu_cache_usage_perc", 0.5), sample(10, "0", "vllm:kv_cache_usage_perc", 0.25)];
    assert_eq!(summary(&both).kv_usage_max, Some(0.25));
    let itl = "vllm:time_per_output_token_seconds";
    let histogram = [
        sample(10, "0", &format!("{itl}_sum"), 1.0),
        sample(10, "0", &format!("{itl}_count"), 10.0),
        sample(20, "0", &format!("{itl}_sum"), 3.0),
        sample(20, "0", &format!("{itl}_count"), 110.0),
    ];
    assert_eq!(summary(&histogram).itl_mean_ms, Some(20.0));
}

#[test]
fn kv_usage_is_a_mean_over_engines_and_hit_rate_a_quotient() {
    let samples = [
        sample(10, "0", "vllm:kv_cache_usage_perc", 0.2),
        sample(10, "1", "vllm:kv_cache_usage_perc", 0.6),
        sample(10, "0", "vllm:prefix_cache_queries_total", 100.0),
        sample(20, "0", "vllm:prefix_cache_queries_total", 300.0),
        sample(10, "0", "vllm:prefix_cache_hits_total", 0.0),
        sample(20, "0", "vllm:prefix_cache_hits_total", 50.0),
    ];
    let got = summary(&samples);
    assert!((got.kv_usage_mean.unwrap() - 0.4).abs() < 1e-12);
    assert_eq!((got.kv_usage_max, got.prefix_hit_rate), (Some(0.6), Some(0.25)));
}

#[test]
fn label_values() {
    for (labels, name, expected) in [
        (r#"model_name="m",position="2""#, "position", Some("2")),
        (r#"a="x\",position=\"9",position="1""#, "position", Some("1")),
        (r#"position="3""#, "pos", None),
        (r#"position="3"#, "position", None),
        ("", "position", None),
    ] {
        assert_eq!(label_value(labels, name), expected, "{labels}");
    }
}

#[test]
fn speculation_by_position_and_times_of_requests() {
    let by_position = |t_s: i64, position: u32, value: f64| PromSample {
        labels: format!("model_name=\"m\",position=\"{position}\""),
        ..sample(t_s, "0", "vllm:spec_decode_num_accepted_tokens_per_pos_total", value)
    };
    let mut samples = vec![
        sample(10, "0", "vllm:spec_decode_num_drafts_total", 2.0),
        sample(20, "0", "vllm:spec_decode_num_drafts_total", 12.0),
        sample(10, "0", "vllm:spec_decode_num_draft_tokens_total", 4.0),
        sample(20, "0", "vllm:spec_decode_num_draft_tokens_total", 24.0),
        sample(10, "0", "vllm:spec_decode_num_accepted_tokens_total", 0.0),
        sample(20, "0", "vllm:spec_decode_num_accepted_tokens_total", 12.0),
    ];
    samples.extend([by_position(10, 0, 0.0), by_position(20, 0, 9.0), by_position(10, 1, 1.0)]);
    samples.push(by_position(20, 1, 4.0));
    for (metric, sum) in [("queue", 3.0), ("prefill", 1.0), ("decode", 6.0)] {
        let name = format!("vllm:request_{metric}_time_seconds");
        samples.extend([(10, 0.0, 0.0), (20, sum, 10.0)].into_iter().flat_map(|(t_s, sum, count)| {
            [sample(t_s, "0", &format!("{name}_sum"), sum), sample(t_s, "0", &format!("{name}_count"), count)]
        }));
    }
    let got = summary(&samples);
    let expected = SpeculationSummary {
        drafts: 10.0,
        draft_tokens: 20.0,
        accepted_tokens: 12.0,
        acceptance_rate: 0.6,
        mean_length: 2.2,
        acceptance_by_position: vec![0.9, 0.3],
    };
    assert_eq!(got.speculation, Some(expected));
    assert_eq!(
        (got.queue_time_mean_ms, got.prefill_time_mean_ms, got.decode_time_mean_ms),
        (Some(300.0), Some(100.0), Some(600.0))
    );
    assert_eq!(summary(&samples[..6]).speculation.map(|spec| spec.acceptance_by_position), Some(Vec::new()));
    let idle = [samples[0].clone(), sample(20, "0", "vllm:spec_decode_num_drafts_total", 2.0)];
    assert_eq!(summary(&idle).speculation, None, "nothing was drafted in the window");
}

#[test]
fn nothing_scraped_is_nothing_known() {
    assert_eq!(summary(&[]), ServerSummary::default());
    let nan = [sample(12, "0", "vllm:kv_cache_usage_perc", f64::NAN)];
    assert_eq!((summary(&nan).kv_usage_mean, summary(&nan).scrapes), (None, 1));
    let started = [sample(11, "", PROCESS_START, 1.0), sample(12, "", PROCESS_START, 2.0)];
    assert_eq!(counter_resets(&started, 0, 20_000_000_000), 1);
}
