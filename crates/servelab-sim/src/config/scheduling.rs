//! Flags that only the scheduler knows: read here, acted upon in `engine`. What is not given stays vLLM's default for the
//! declared version.

use serde_json::Value;

use crate::engine::Speculation;
use crate::flags::ServingFlags;

/// Scheduler flags as given.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SchedulingFlags {
    /// `--max-num-scheduled-tokens`; 0: not given.
    pub max_num_scheduled_tokens: u32,
    /// `--long-prefill-token-threshold-adaptive`.
    pub long_prefill_adaptive: bool,
    /// `--watermark`, share of blocks (0–1).
    pub watermark: f64,
    /// `--[no-]scheduler-reserve-full-isl`.
    pub reserve_full_prompt: Option<bool>,
    /// `--prefill-schedule-interval`; 0: not given.
    pub prefill_schedule_interval: u32,
    /// `--max-cudagraph-capture-size`.
    pub max_captured: Option<u32>,
    /// `--speculative-config` with acceptance rates, which vLLM takes for its synthetic sampler. Without rates nothing is
    /// simulated: acceptance is measured, never invented.
    pub speculation: Option<Speculation>,
}

/// Flags that are simulated when they are given; speculation only with rates.
const SIMULATED: [&str; 2] = ["async_scheduling", "max_num_scheduled_tokens"];

impl SchedulingFlags {
    pub(super) fn of(flags: &ServingFlags) -> Self {
        let size = |name: &str| flags.integer(name).map(super::saturating_u32);
        Self {
            max_num_scheduled_tokens: size("max_num_scheduled_tokens").unwrap_or(0),
            long_prefill_adaptive: flags.switch("long_prefill_token_threshold_adaptive").unwrap_or(false),
            watermark: flags.number("watermark").filter(|share| share.is_finite()).unwrap_or(0.0).clamp(0.0, 1.0),
            reserve_full_prompt: flags.switch("scheduler_reserve_full_isl"),
            prefill_schedule_interval: size("prefill_schedule_interval").unwrap_or(0),
            max_captured: size("max_cudagraph_capture_size"),
            speculation: flags.get("speculative_config").and_then(speculation),
        }
    }

    /// Removes from the list of ignored flags what is simulated after all; adds what is simulated in part.
    pub(super) fn strike_out(&self, ignored: &mut Vec<String>) {
        if self.speculation.as_ref().is_some_and(|spec| spec.layer_passes == 0 && spec.lookahead_tokens > 0) {
            ignored.push("the time of the draft model, whose shape is not known".to_owned());
        }
        ignored.retain(|name| {
            let simulated = SIMULATED.contains(&name.as_str()) || name.starts_with("pipeline_parallel_size");
            !(simulated || self.speculation.is_some() && name == "speculative_config")
        });
    }
}

/// Drafts with known acceptance: `synthetic_acceptance_rates`, share of drafts of which the first, the first two, … tokens
/// are accepted, or `synthetic_acceptance_length`, mean tokens per step (spread as vLLM does: whole positions first).
fn speculation(config: &Value) -> Option<Speculation> {
    let parsed;
    let config = match config {
        Value::String(text) => {
            parsed = serde_json::from_str::<Value>(text).ok()?;
            &parsed
        }
        other => other,
    };
    let draft_tokens = u32::try_from(config.get("num_speculative_tokens")?.as_u64()?).ok().filter(|k| *k <= 64)?;
    let rates = config.get("synthetic_acceptance_rates").and_then(Value::as_array);
    let acceptance: Vec<f64> = match (rates, config.get("synthetic_acceptance_length").and_then(Value::as_f64)) {
        (Some(rates), _) => rates.iter().map(Value::as_f64).collect::<Option<_>>()?,
        (None, Some(length)) => (0..draft_tokens).map(|at| (length - 1.0 - f64::from(at)).clamp(0.0, 1.0)).collect(),
        (None, None) => return None,
    };
    if acceptance.len() != draft_tokens as usize || acceptance.iter().any(|rate| !(0.0..=1.0).contains(rate)) {
        return None;
    }
    let method = config.get("method").and_then(Value::as_str).unwrap_or("draft_model");
    let drafter_keeps_kv = !matches!(method, "ngram" | "ngram_gpu" | "suffix" | "medusa");
    let is_head = matches!(method, "eagle" | "eagle3") || method.ends_with("mtp");
    Some(Speculation {
        draft_tokens,
        acceptance,
        lookahead_tokens: if drafter_keeps_kv { draft_tokens } else { 0 },
        draft_slots: 0,
        layer_passes: if is_head { draft_tokens } else { 0 },
        drops_last_hit: is_head,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Speculation> {
        speculation(&Value::String(text.to_owned()))
    }

    #[test]
    fn drafts_need_rates() {
        assert_eq!(of(r#"{"method": "ngram", "num_speculative_tokens": 2}"#), None);
        let given =
            of(r#"{"method": "eagle3", "num_speculative_tokens": 2, "synthetic_acceptance_rates": [0.8, 0.5]}"#);
        let expected = Speculation {
            draft_tokens: 2,
            acceptance: vec![0.8, 0.5],
            lookahead_tokens: 2,
            draft_slots: 0,
            layer_passes: 2,
            drops_last_hit: true,
        };
        assert_eq!(given, Some(expected));
        let length = of(r#"{"method": "ngram", "num_speculative_tokens": 3, "synthetic_acceptance_length": 2.5}"#);
        assert_eq!(length.map(|spec| (spec.acceptance, spec.lookahead_tokens)), Some((vec![1.0, 0.5, 0.0], 0)));
        assert_eq!(of(r#"{"num_speculative_tokens": 2, "synthetic_acceptance_rates": [0.8]}"#), None);
        assert_eq!(of("{"), None);
    }
}
