//! One catalogue of every code that Servelab prints: failures, verdicts, request failures, plan rules. `servelab explain`
//! reads it; the rules themselves live where they are applied.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::failures::failures;
use crate::result::Severity;
use crate::verdict::VERDICTS;

/// What a code is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeKind {
    /// A server, job or run failed.
    Failure,
    /// A result must not be believed, or only with care.
    Verdict,
    /// One request failed.
    RequestFailure,
    /// A rule spoke before anything was started.
    Plan,
}

/// What a code does to the thing it is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// The result must not be ranked or compared.
    Invalid,
    /// It stands, with a remark.
    Warning,
    /// It cannot be run at all.
    Infeasible,
    /// It ended without a result.
    Failed,
}

/// What `servelab explain` says about a code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The code.
    pub code: String,
    /// What it is about.
    pub kind: CodeKind,
    /// What it does; the worst it can do.
    #[serde(rename = "severity")]
    pub weight: Weight,
    /// A few words.
    pub title: String,
    /// What it means.
    pub meaning: String,
    /// What to do.
    pub advice: String,
}

/// The explanation of a code.
pub fn explain(code: &str) -> Option<&'static Explanation> {
    catalogue().iter().find(|explanation| explanation.code == code)
}

/// Every code, by kind and then by name.
pub fn all_codes() -> impl Iterator<Item = &'static Explanation> {
    catalogue().iter()
}

/// Codes that resemble a word nobody knows, best first, for "did you mean".
pub fn similar_codes(word: &str) -> Vec<&'static str> {
    let mut scored: Vec<(f64, &str)> = catalogue()
        .iter()
        .map(|known| (strsim::normalized_damerau_levenshtein(word, &known.code), known.code.as_str()))
        .filter(|(score, _)| *score >= 0.6)
        .collect();
    scored.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    scored.into_iter().take(3).map(|(_, code)| code).collect()
}

fn catalogue() -> &'static [Explanation] {
    static CATALOGUE: OnceLock<Vec<Explanation>> = OnceLock::new();
    CATALOGUE.get_or_init(|| {
        let mut all = written();
        all.extend(failures().iter().map(|failure| Explanation {
            code: failure.code.clone(),
            kind: CodeKind::Failure,
            weight: if failure.infeasible { Weight::Infeasible } else { Weight::Failed },
            title: failure.title.clone(),
            meaning: failure.meaning.clone(),
            advice: failure.advice.clone(),
        }));
        all.extend(VERDICTS.iter().map(|verdict| Explanation {
            code: verdict.code.to_owned(),
            kind: CodeKind::Verdict,
            weight: match verdict.severity {
                Severity::Invalid => Weight::Invalid,
                Severity::Warning => Weight::Warning,
            },
            title: title_of(verdict.code),
            meaning: verdict.meaning.to_owned(),
            advice: verdict.advice.to_owned(),
        }));
        all.sort_by(|a, b| a.kind.cmp(&b.kind).then_with(|| a.code.cmp(&b.code)));
        // Where a rule and this catalogue both explain a code, the rule's own words come later and are dropped.
        all.dedup_by(|a, b| a.code == b.code);
        all
    })
}

/// The explanations that have no other home. Parsed by a test, so the empty fallback is never seen.
fn written() -> Vec<Explanation> {
    serde_json::from_str(include_str!("../data/codes.json")).unwrap_or_default()
}

/// `success_low` as "Success low".
fn title_of(code: &str) -> String {
    let words = code.replace('_', " ");
    let mut letters = words.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::feasibility::RULE_CODES;

    #[test]
    fn written_explanations_parse() {
        let parsed: Vec<Explanation> = serde_json::from_str(include_str!("../data/codes.json")).expect("codes.json");
        assert!(parsed.len() > 60);
    }

    #[test]
    fn every_code_is_explained_once() {
        let codes: Vec<&str> = all_codes().map(|known| known.code.as_str()).collect();
        let distinct: BTreeSet<&str> = codes.iter().copied().collect();
        assert_eq!(codes.len(), distinct.len());
        for known in all_codes() {
            assert!(!known.title.is_empty() && known.meaning.len() > 10 && known.advice.len() > 5, "{}", known.code);
            assert_eq!(explain(&known.code).map(|found| &found.title), Some(&known.title));
            assert!(known.code.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
        }
        assert!(explain("no_such_code").is_none());
        assert_eq!(similar_codes("saturatd").first(), Some(&"saturated"));
    }

    #[test]
    fn design_s_codes_are_all_there() {
        let verdicts = [
            "success_low",
            "zero_token_successes",
            "client_limited",
            "saturated",
            "not_steady",
            "factor_not_exercised",
            "effective_differs",
            "prefix_cache_confounded",
            "debug_logging",
            "early_stops",
            "accuracy_drop",
            "token_count_mismatch",
            "metrics_missing",
            "metrics_partial",
            "merged_events",
            "server_restarted",
            "too_few_samples",
            "within_noise",
            "duplicate_data",
            "preemptions",
            "socket_fallback",
            "no_kv_transfer",
            "decode_only_workload",
            "foreign_traffic",
            "mixed_versions",
            "simulated",
        ];
        let requests = [
            "connect_refused",
            "connect_timeout",
            "connect_failed",
            "client_resources",
            "connection_reset",
            "request_timeout",
            "http_3xx",
            "http_4xx",
            "http_429",
            "http_5xx",
            "http_503",
            "in_band_error",
            "truncated_stream",
            "malformed_sse",
            "malformed_http",
            "unsupported_encoding",
            "server_aborted",
            "zero_tokens",
            "early_stop",
            "over_delivery",
            "cancelled",
            "censored",
        ];
        let failures = [
            "kv_too_small",
            "kv_none",
            "bad_flag",
            "bad_combo",
            "port_in_use",
            "nccl_hang",
            "server_start_timeout",
            "server_exited",
            "engine_not_found",
            "model_not_found",
            "interrupted",
            "disk_full",
            "claim_held",
            "endpoint_unreachable",
            "server_unhealthy",
            "permission",
            "prepare_failed",
            "load_failed",
            "saturated_at_lower_rate",
            "stopped_early",
            "stopped_at_lower_load",
            "dataset_too_small",
            "dataset_unusable",
            "workload_missing",
            "arrivals_unusable",
        ];
        let kinds = [
            (CodeKind::Verdict, verdicts.as_slice()),
            (CodeKind::RequestFailure, requests.as_slice()),
            (CodeKind::Failure, failures.as_slice()),
            (CodeKind::Plan, RULE_CODES.as_slice()),
        ];
        for (kind, codes) in kinds {
            for code in codes {
                assert_eq!(explain(code).map(|known| known.kind), Some(kind), "{code}");
            }
        }
    }
}
