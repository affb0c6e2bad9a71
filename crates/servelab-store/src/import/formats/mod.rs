//! The formats, most telling first: the first whose `detect` says yes reads the file. Each module says what its tool's
//! numbers mean; units are converted there and nowhere else.

mod aiperf;
mod genai_bench;
mod genai_perf;
mod guidellm;
mod guidellm_csv;
mod hf;
mod inference_perf;
mod legacy;
mod llmd;
mod mlperf;
mod own;
mod sglang;
mod srt;
#[cfg(test)]
mod tests;
mod vllm;

use std::collections::BTreeMap;

use servelab_core::plan::Load;

use super::json::Json;
use super::run::{Latency, Run, StatedMs};
use super::{Doc, Format, Parsed};

/// Every format that is read.
pub const FORMATS: &[Format] = &[
    own::FORMAT,
    sglang::FORMAT,
    vllm::FORMAT,
    vllm::SUMMARY,
    legacy::FORMAT,
    legacy::CONFIG,
    guidellm::FORMAT,
    guidellm::YAML,
    guidellm_csv::FORMAT,
    aiperf::FORMAT,
    aiperf::RECORDS,
    aiperf::CSV,
    genai_perf::FORMAT,
    genai_perf::PROFILE,
    inference_perf::STAGE,
    inference_perf::REQUESTS,
    genai_bench::FORMAT,
    hf::FORMAT,
    mlperf::ENDPOINTS,
    mlperf::LOADGEN,
    srt::FORMAT,
    llmd::FORMAT,
];

/// A number of the object by one of several keys.
fn number(object: &Json<'_>, keys: &[&str]) -> Option<f64> {
    keys.iter().find_map(|key| object.get(key)?.number())
}

/// A count of the object by one of several keys.
fn count(object: &Json<'_>, keys: &[&str]) -> Option<u64> {
    keys.iter().find_map(|key| object.get(key)?.count())
}

/// A text of the object.
fn text(object: &Json<'_>, key: &str) -> Option<String> {
    object.get(key)?.text().map(|text| text.into_owned()).filter(|text| !text.is_empty())
}

/// Statistics spelled `mean`, `p50` or `median`, …, in units of `scale` milliseconds.
fn stated(object: &Json<'_>, scale: f64) -> StatedMs {
    let get = |keys: &[&str]| number(object, keys).map(|value| value * scale);
    StatedMs {
        mean: get(&["mean", "avg"]),
        p50: get(&["p50", "median"]),
        p90: get(&["p90"]),
        p95: get(&["p95"]),
        p99: get(&["p99"]),
        max: get(&["max"]),
        n: count(object, &["count"]),
    }
}

fn put(run: &mut Run, latency: Latency, stated: StatedMs) {
    if !stated.is_empty() {
        run.stated.insert(latency, stated);
    }
}

/// An open loop at a rate, or everything at once; a cap on requests in flight makes a closed loop where there is no rate.
fn load(rate_per_s: Option<f64>, cap: Option<u64>, arrival: &str, run: &Run) -> Option<Load> {
    let max_concurrency = cap.and_then(|cap| u32::try_from(cap).ok()).filter(|cap| *cap > 0);
    match rate_per_s.filter(|rate| rate.is_finite() && *rate > 0.0) {
        Some(rate_per_s) => Some(Load::Open { rate_per_s, arrival: arrival.to_owned(), max_concurrency }),
        None => match max_concurrency {
            Some(concurrency) => Some(Load::closed(concurrency)),
            None => {
                let n = run.scheduled.or(run.completed)?;
                let mean = |tokens: Option<u64>| u32::try_from(tokens.unwrap_or(0) / n.max(1)).unwrap_or(0);
                Some(Load::Offline {
                    batch_size: u32::try_from(n).ok()?,
                    seq_len: mean(run.input_tokens),
                    max_tokens: mean(run.output_tokens),
                })
            }
        },
    }
}

/// Scalars of an object that are none of the known keys: the user's own metadata.
fn metadata(object: &Json<'_>, known: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
    let members = object.members().iter().filter(|(key, _)| !known(key));
    members.filter_map(|(key, value)| Some(((*key).to_owned(), value.label()?))).collect()
}
