//! What could be tried instead of a configuration that ran out of memory. A proposal is shown, with the lines that add it to
//! the study as a point of its own; nothing is ever changed silently.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// A neighbouring configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// The key that differs.
    pub key: &'static str,
    /// What it was, where that is known.
    pub from: Option<Value>,
    /// What it would be.
    pub to: Value,
    /// Why this value.
    pub why: String,
}

impl Proposal {
    /// The change in words.
    pub fn describe(&self) -> String {
        let from = self.from.as_ref().map(|from| format!(" instead of {from}")).unwrap_or_default();
        format!("{} {}{from}: {}", self.key, self.to, self.why)
    }

    /// A design that adds the proposed point beside the failed one, for people to paste into the study.
    pub fn design(&self, label: &str, factors: &BTreeMap<String, Value>) -> String {
        let mut point: BTreeMap<&str, &Value> = factors.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let is_same = |key: &str| key == self.key || key.ends_with(&format!(".{}", self.key));
        point.retain(|key, _| !is_same(key));
        point.insert(self.key, &self.to);
        let pairs: Vec<String> = point.iter().map(|(key, value)| format!("{key}: {value}")).collect();
        let name = format!("{label}_{}_{}", self.key, self.to);
        format!("proposed: {{list: {{{}: {{{}}}}}}}", Value::String(name), pairs.join(", "))
    }
}

/// The next configuration to try after this failure; `None` where nothing can be said. `detail` is the failure's sentence,
/// which carries the engine's own numbers (`estimated_max_len 34736`).
pub fn propose(code: &str, detail: &str, config: &Value) -> Option<Proposal> {
    let serve = |key: &str| config.get("serve").and_then(|serve| serve.get(key));
    let number = |key: &str| serve(key).and_then(Value::as_f64);
    let proposal = |key: &'static str, to: Value, why: &str| {
        Some(Proposal { key, from: serve(key).cloned(), to, why: why.to_owned() })
    };
    let utilisation = |by: f64, why: &str| {
        // vLLM's default where the study does not say.
        let now = number("gpu_memory_utilization").unwrap_or(0.9);
        let then = ((now + by) * 100.0).round() / 100.0;
        let is_sane = (0.5..=0.97).contains(&then) && then != now;
        is_sane.then(|| proposal("gpu_memory_utilization", json!(then), why)).flatten()
    };
    let halved = |key: &'static str, least: u64, why: &str| {
        let half = serve(key).and_then(Value::as_u64)? / 2;
        (half >= least).then(|| proposal(key, json!(half), why)).flatten()
    };
    match code {
        "kv_too_small" => match number_in(detail, "estimated_max_len").filter(|length| *length >= 16) {
            Some(length) => {
                proposal("max_model_len", json!(length), "the longest sequence by the engine's own estimate")
            }
            None => utilisation(0.03, "more memory for the KV cache"),
        },
        "kv_none" => utilisation(0.05, "nothing was left for the KV cache"),
        "cuda_oom_sampler" => halved("max_num_seqs", 1, "the sampler is warmed up with that many requests"),
        "cuda_oom_graph" => utilisation(-0.05, "graph capture needs memory beside the KV cache"),
        "cuda_oom_serving" => halved("max_num_batched_tokens", 512, "activations grow with the tokens of a step")
            .or_else(|| utilisation(-0.03, "activations need memory beside the KV cache")),
        _ => None,
    }
}

/// `name 123` in a sentence.
fn number_in(text: &str, name: &str) -> Option<u64> {
    let (_, rest) = text.rsplit_once(&format!("{name} "))?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_proposed() {
        let config = json!({"serve": {"max_model_len": 262_144, "gpu_memory_utilization": 0.9, "max_num_seqs": 256,
            "max_num_batched_tokens": 8192}});
        for (code, detail, expected) in [
            (
                "kv_too_small",
                "the server exited (needed_gib 24, estimated_max_len 34736, max_seq_len 262144)",
                Some("max_model_len 34736 instead of 262144"),
            ),
            ("kv_too_small", "the server exited", Some("gpu_memory_utilization 0.93 instead of 0.9")),
            ("kv_none", "", Some("gpu_memory_utilization 0.95 instead of 0.9")),
            ("cuda_oom_sampler", "", Some("max_num_seqs 128 instead of 256")),
            ("cuda_oom_graph", "", Some("gpu_memory_utilization 0.85 instead of 0.9")),
            ("cuda_oom_serving", "", Some("max_num_batched_tokens 4096 instead of 8192")),
            ("cuda_oom_load", "", None),
            ("bad_flag", "", None),
        ] {
            let proposal = propose(code, detail, &config).map(|proposal| proposal.describe());
            let is_so = match (&proposal, expected) {
                (Some(text), Some(start)) => text.starts_with(start),
                (found, wanted) => found.is_none() && wanted.is_none(),
            };
            assert!(is_so, "{code} {detail}: {proposal:?}");
        }
        let least = json!({"serve": {"max_num_seqs": 1, "gpu_memory_utilization": 0.97}});
        assert_eq!(propose("cuda_oom_sampler", "", &least), None);
        assert_eq!(propose("kv_none", "", &least), None);
    }

    #[test]
    fn the_design_to_paste() {
        let factors = BTreeMap::from([("max_num_seqs".to_owned(), json!(64)), ("max_model_len".to_owned(), json!(9))]);
        let proposal = Proposal { key: "max_model_len", from: None, to: json!(8), why: String::new() };
        let expected = r#"proposed: {list: {"long \"x\"_max_model_len_8": {max_model_len: 8, max_num_seqs: 64}}}"#;
        assert_eq!(proposal.design("long \"x\"", &factors), expected);
    }

    proptest! {
        #[test]
        fn nothing_in_a_sentence_makes_a_panic(detail in ".{0,80}", seqs in any::<u64>()) {
            let config = json!({"serve": {"max_num_seqs": seqs, "gpu_memory_utilization": detail}});
            for code in ["kv_too_small", "kv_none", "cuda_oom_sampler", "cuda_oom_serving"] {
                propose(code, &format!("{detail} estimated_max_len {detail}"), &config);
            }
        }
    }
}
