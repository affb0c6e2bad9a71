//! KV that went from prefill to decode servers, by the servers' own counters: NIXL's histograms, or the tokens that an
//! external cache supplied. Counters that stand still while requests are answered mean that decode computed the prompts.

use serde::{Deserialize, Serialize};

use super::server::Scrapes;
use crate::record::PromSample;

const TRANSFERS: &[&str] = &["vllm:nixl_xfer_time_seconds_count"];
const SECONDS: &[&str] = &["vllm:nixl_xfer_time_seconds_sum"];
const BYTES: &[&str] = &["vllm:nixl_bytes_transferred_sum"];
const FAILED: &[&str] = &["vllm:nixl_num_failed_transfers_total", "vllm:nixl_num_failed_transfers"];
const EXTERNAL_HITS: &[&str] = &["vllm:external_prefix_cache_hits_total", "vllm:external_prefix_cache_hits"];

/// The counters that prove a transfer when they grow, for a page that is read by itself.
pub const TRANSFER_PROOFS: [&str; 2] = ["vllm:nixl_xfer_time_seconds_count", "vllm:external_prefix_cache_hits_total"];

/// `transfer.json` of an attempt: increases between the scrapes that enclose the window, summed over all servers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct KvTransfer {
    /// Transfers that NIXL timed; with tensor parallelism each rank counts its own.
    pub transfers: Option<f64>,
    /// Their time, seconds.
    pub seconds: Option<f64>,
    /// Their bytes.
    pub bytes: Option<f64>,
    /// Transfers that failed.
    pub failed: Option<f64>,
    /// Prompt tokens that came from outside of the server that used them.
    pub external_hit_tokens: Option<f64>,
    /// Mean rate while a transfer was under way, 10⁹ bytes per second.
    pub gb_per_s: Option<f64>,
}

impl KvTransfer {
    /// True when a counter grew, false when those that there are stood still; `None` when no server shows any.
    pub fn has_moved(&self) -> Option<bool> {
        let counters = [self.transfers, self.external_hit_tokens];
        counters.iter().any(Option::is_some).then(|| counters.iter().flatten().any(|increase| *increase > 0.0))
    }
}

/// Reads the increases out of scrapes; `None` when no two scrapes enclose anything of the window.
pub fn kv_transfer(samples: &[PromSample], window_start_ns: i64, window_end_ns: i64) -> Option<KvTransfer> {
    super::server::counter_interval(samples, window_start_ns, window_end_ns)?;
    let scrapes = Scrapes::of_engines(samples, window_start_ns, window_end_ns);
    let (seconds, bytes) = (scrapes.increase(SECONDS), scrapes.increase(BYTES));
    Some(KvTransfer {
        transfers: scrapes.increase(TRANSFERS),
        seconds,
        bytes,
        failed: scrapes.increase(FAILED),
        external_hit_tokens: scrapes.increase(EXTERNAL_HITS),
        gb_per_s: bytes.zip(seconds).filter(|(_, s)| *s > 0.0).map(|(bytes, s)| bytes / s / 1e9),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(t_s: i64, node: &str, metric: &str, value: f64) -> PromSample {
        let (engine, labels) = ("0".to_owned(), String::new());
        PromSample { t_ns: t_s * 1_000_000_000, node: node.into(), engine, metric: metric.into(), labels, value }
    }

    #[test]
    fn increases_over_all_servers() {
        let mut samples = Vec::new();
        for (t_s, factor) in [(0, 1.0), (10, 3.0)] {
            samples.push(sample(t_s, "n/decode-0", "vllm:nixl_xfer_time_seconds_count", 5.0 * factor));
            samples.push(sample(t_s, "n/decode-0", "vllm:nixl_xfer_time_seconds_sum", 0.5 * factor));
            samples.push(sample(t_s, "n/decode-0", "vllm:nixl_bytes_transferred_sum", 2e9 * factor));
            samples.push(sample(t_s, "n/decode-1", "vllm:nixl_xfer_time_seconds_count", factor));
            samples.push(sample(t_s, "n/prefill-0", "vllm:nixl_xfer_time_seconds_count", 0.0));
        }
        let found = kv_transfer(&samples, 1_000_000_000, 9_000_000_000).unwrap();
        assert_eq!((found.transfers, found.bytes, found.gb_per_s), (Some(12.0), Some(4e9), Some(4.0)));
        assert_eq!((found.external_hit_tokens, found.has_moved()), (None, Some(true)));
        let still: Vec<PromSample> = samples.iter().map(|s| PromSample { value: 1.0, ..s.clone() }).collect();
        assert_eq!(kv_transfer(&still, 1_000_000_000, 9_000_000_000).unwrap().has_moved(), Some(false));
        assert_eq!(kv_transfer(&samples[..1], 1_000_000_000, 9_000_000_000), None);
        let other = [sample(0, "n", "up", 1.0), sample(10, "n", "up", 1.0)];
        assert_eq!(kv_transfer(&other, 1_000_000_000, 9_000_000_000).unwrap().has_moved(), None);
    }
}
