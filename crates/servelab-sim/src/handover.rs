//! Prefill and decode apart: what a prefill server says about the KV it holds, what a decode server is told about it, and
//! how long fetching it takes. The fields are those of vLLM's NixlConnector; nothing is really transferred.

use serde_json::{Map, Value, json};

use crate::config::ServerConfig;
use crate::engine::RequestSpec;
use crate::flags::version_key;
use crate::random::mix;

/// A fetch costs this much before its first byte: notification, descriptors, posting.
const LATENCY_NS: u64 = 2_000_000;
/// One 400 Gbit/s port for each GPU at the efficiency that NIXL reports for large transfers.
const LINK_BYTES_PER_S: f64 = 40e9;

/// `kv_transfer_params` of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct KvParams {
    /// This server computes the prompt for another one.
    pub(crate) do_remote_decode: bool,
    /// The prompt was computed elsewhere.
    pub(crate) do_remote_prefill: bool,
    /// The elsewhere is fully named.
    pub(crate) is_complete: bool,
    /// Blocks offered.
    pub(crate) n_blocks: u64,
    /// Tokens offered; `None` where the version does not say.
    pub(crate) n_tokens: Option<u64>,
}

impl KvParams {
    pub(crate) fn read(params: &Map<String, Value>) -> Self {
        let is_set = |name: &str| params.get(name).and_then(Value::as_bool).unwrap_or(false);
        let has = |name: &str| params.get(name).is_some_and(|value| !value.is_null());
        let blocks = params.get("remote_block_ids").and_then(Value::as_array);
        let n_blocks = blocks.map_or(0, |list| {
            // One list for each KV cache group in current versions, one flat list in older ones.
            list.iter()
                .map(|item| item.as_array().map_or(1, Vec::len) as u64)
                .max()
                .map_or(0, |most| if list.iter().all(Value::is_array) { most } else { list.len() as u64 })
        });
        Self {
            do_remote_decode: is_set("do_remote_decode"),
            do_remote_prefill: is_set("do_remote_prefill"),
            is_complete: ["remote_engine_id", "remote_host", "remote_port"].into_iter().all(has),
            n_blocks,
            n_tokens: params.get("remote_num_tokens").and_then(Value::as_u64),
        }
    }
}

/// What this server is called by others, and how it handles a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connector {
    /// `kv_connector` of `--kv-transfer-config`.
    pub(crate) name: String,
    engine_id: String,
    side_channel: (String, u16),
    /// Fetches that fail end their request; otherwise the prompt is computed again.
    pub(crate) fails_requests: bool,
    /// The link is busy until then, simulated nanoseconds.
    free_at_ns: u64,
}

impl Connector {
    /// From `--kv-transfer-config`; `None` when there is none.
    pub(crate) fn of(transfer: Option<&Value>, side_channel: (String, u16), seed: u64, version: &str) -> Option<Self> {
        let transfer = transfer?;
        let text = |name: &str| transfer.get(name).and_then(Value::as_str);
        let hash = (mix(seed, u64::from(side_channel.1)), mix(seed, 2 + u64::from(side_channel.1)));
        let drawn = format!(
            "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
            hash.0 >> 32,
            hash.0 & 0xFFFF,
            hash.0 >> 16 & 0xFFF,
            hash.1 >> 52,
            hash.1 & 0xFFFF_FFFF_FFFF
        );
        // Computing again was the only way before there was a policy.
        let policy = if version_key(version) < (0, 12) { "recompute" } else { "fail" };
        Some(Self {
            name: text("kv_connector").unwrap_or("NixlConnector").to_owned(),
            engine_id: text("engine_id").map_or(drawn, str::to_owned),
            side_channel,
            fails_requests: text("kv_load_failure_policy").unwrap_or(policy) == "fail",
            free_at_ns: 0,
        })
    }

    /// What the answer to a `do_remote_decode` request says: where the decode server finds the prompt's KV.
    pub(crate) fn offer(&self, config: &ServerConfig, request_id: &str, number: u64, n_computed: u64) -> Value {
        let n_blocks = n_computed.div_ceil(u64::from(config.block_size));
        // Ids are made up, but in range and, as in an idle server, ascending.
        let usable = config.num_gpu_blocks.saturating_sub(1).max(1);
        let ids: Vec<u64> = (0..n_blocks).map(|at| 1 + (number * 7 + at) % usable).collect();
        let (host, port) = &self.side_channel;
        if version_key(&config.version) < (0, 12) {
            return json!({
                "do_remote_prefill": true, "do_remote_decode": false, "remote_block_ids": ids,
                "remote_engine_id": self.engine_id, "remote_host": host, "remote_port": port, "tp_size": config.tp,
            });
        }
        json!({
            "do_remote_prefill": true, "do_remote_decode": false, "remote_block_ids": [ids],
            "remote_engine_id": self.engine_id, "remote_request_id": request_id, "remote_host": host,
            "remote_port": port, "tp_size": config.tp, "dcp_size": 1, "pp_size": config.pp,
            "remote_num_tokens": n_computed, "remote_blocks_expiry_time": null, "transfer_mode": "pull",
        })
    }

    /// Reserves the link for a fetch that starts at `now_ns`: what it moves and when it is over.
    pub(crate) fn fetch(&mut self, config: &ServerConfig, n_tokens: u64, now_ns: u64) -> Fetch {
        let bytes = n_tokens as f64 * config.kv_bytes_per_token;
        let busy_ns = (bytes / LINK_BYTES_PER_S * 1e9) as u64;
        let start_ns = now_ns.max(self.free_at_ns);
        self.free_at_ns = start_ns + busy_ns;
        Fetch {
            end_ns: self.free_at_ns + LATENCY_NS,
            seconds: (self.free_at_ns + LATENCY_NS - now_ns) as f64 / 1e9,
            bytes: bytes as u64,
            // One descriptor for each layer's keys and values of each block.
            descriptors: n_tokens.div_ceil(u64::from(config.block_size)) * u64::from(config.model.layers) * 2,
        }
    }
}

/// Marks a request whose prompt arrives computed.
pub(crate) fn mark_fetched(spec: &mut RequestSpec) {
    spec.remote_prompt = true;
}

/// One fetch of KV.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Fetch {
    pub(crate) end_ns: u64,
    pub(crate) seconds: f64,
    pub(crate) bytes: u64,
    pub(crate) descriptors: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(value: Value) -> KvParams {
        KvParams::read(value.as_object().expect("an object"))
    }

    #[test]
    fn params_of_both_sides() {
        let prefill = params(json!({
            "do_remote_decode": true, "do_remote_prefill": false, "remote_engine_id": null, "remote_block_ids": null,
            "remote_host": null, "remote_port": null,
        }));
        assert_eq!(prefill, KvParams { do_remote_decode: true, ..KvParams::default() });
        let decode = |ids: Value| {
            params(json!({
                "do_remote_prefill": true, "remote_engine_id": "x", "remote_host": "h", "remote_port": 5600,
                "remote_block_ids": ids, "remote_num_tokens": 33,
            }))
        };
        assert_eq!((decode(json!([[1, 2, 3]])).n_blocks, decode(json!([1, 2])).n_blocks), (3, 2));
        assert!(decode(json!([])).is_complete);
        assert_eq!(decode(json!([[], []])).n_blocks, 0);
        assert_eq!(params(json!({"do_remote_prefill": "yes", "remote_block_ids": 3})), KvParams::default());
    }
}
