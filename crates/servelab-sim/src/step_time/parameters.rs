//! The constants of the step-time model as data: the built-in table, a user's file over it, a calibration over both.
//! `_us` are microseconds, `_bytes` bytes, efficiencies are shares of the data-sheet peak. Nothing is computed here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::SimError;
use crate::catalog::GpuSpec;

/// How weights are stored and multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightFormat {
    /// 16-bit (or 32-bit) weights and arithmetic.
    Bf16,
    /// 8-bit weights and arithmetic with one scale per tensor or channel.
    Fp8,
    /// 8-bit weights and arithmetic with a scale per block (DeepSeek's format).
    Fp8Block,
    /// Low-bit weights, expanded to 16 bits before the product (AWQ, GPTQ, int4, MXFP4 without FP4 hardware).
    WeightOnly,
    /// 4-bit floating-point weights and arithmetic, where the device has it.
    Fp4,
}

/// Matrix products of one weight format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GemmParameters {
    /// Share of the arithmetic peak.
    pub compute: f64,
    /// Share of the memory bandwidth.
    pub memory: f64,
    /// The same with few rows.
    pub memory_small: f64,
    /// What "few rows" are.
    pub small_rows: f64,
    /// Launch and drain.
    pub floor_us: f64,
    /// The same with few rows.
    pub floor_small_us: f64,
    /// No product is faster than this, however small: quantising and starting kernels that do not run back to back.
    #[serde(default)]
    pub least_us: f64,
    /// The same with few rows.
    #[serde(default)]
    pub least_small_us: f64,
    /// How hard the maximum of compute and memory is.
    pub exponent: f64,
    /// Rows of a tile.
    pub tile_rows: f64,
    /// Extra traffic per activation element (quantisation), bytes.
    pub activation_bytes: f64,
}

/// Attention kernels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionParameters {
    /// Decode: share of the memory bandwidth.
    pub decode_memory: f64,
    /// Decode: share of the BF16 peak.
    pub decode_compute: f64,
    /// Decode: rows to which a KV head's query heads are padded.
    pub decode_min_rows: f64,
    /// Decode: launch, split and combine.
    pub decode_floor_us: f64,
    /// Decode: how hard the maximum is.
    pub decode_exponent: f64,
    /// Prefill: share of the BF16 peak.
    pub prefill_compute: f64,
    /// Prefill: share of the memory bandwidth for queries, keys, values, outputs.
    pub prefill_memory: f64,
    /// Prefill: launch.
    pub prefill_floor_us: f64,
}

/// Routed experts of one weight format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoeParameters {
    /// Share of the arithmetic peak.
    pub compute: f64,
    /// Share of the memory bandwidth for expert weights.
    pub memory: f64,
    /// Share of the memory bandwidth for gathered and scattered tokens.
    pub traffic: f64,
    /// Routing, sorting, launches.
    pub floor_us: f64,
    /// Per expert whose weights are read.
    pub per_expert_us: f64,
    /// Rows to which an expert's tokens are padded.
    pub block_rows: f64,
    /// Exponent of tokens in the number of active experts; below 1 tokens favour some experts.
    pub skew: f64,
    /// How hard the maximum of compute and memory is.
    pub exponent: f64,
}

/// The collective operations that differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CollectiveFamily {
    /// Sum to all (tensor parallel).
    AllReduce,
    /// Everybody's part to all.
    AllGather,
    /// Sum, a part to each.
    ReduceScatter,
    /// A part from each to each (expert parallel).
    AllToAll,
}

/// One family of collectives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectiveParameters {
    /// Start inside a CUDA graph.
    pub graph_us: f64,
    /// The same, per rank.
    pub graph_per_rank_us: f64,
    /// Start without a graph.
    pub eager_us: f64,
    /// Second phase of larger messages.
    pub second_us: f64,
    /// Message at which half of it is paid, bytes.
    pub second_bytes: f64,
    /// Share of the scale-up link.
    pub efficiency: f64,
    /// Share of that lost with two ranks (half as much with four).
    pub small_group_loss: f64,
    /// Start over the network, per doubling of nodes.
    pub network_us: f64,
    /// Share of the network card.
    pub network_efficiency: f64,
}

/// Keys and values on their way from a prefill to a decode server, over the links of the devices that hold them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvTransferParameters {
    /// Time of a transfer besides its bytes: descriptors, the notice that it is over, the step that looks for it.
    pub alpha_us: f64,
    /// Share of the scale-up link, between servers of one node.
    pub link_efficiency: f64,
    /// Share of the network cards, between nodes.
    pub network_efficiency: f64,
}

/// Work of the host and of small kernels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostParameters {
    /// Per step: scheduling, input preparation, output.
    pub fixed_us: f64,
    /// Per request in a step.
    pub per_request_us: f64,
    /// Per layer when attention is launched outside graphs.
    pub per_layer_piecewise_us: f64,
    /// Per layer without graphs.
    pub per_layer_eager_us: f64,
    /// What asynchronous scheduling cannot hide, per step.
    pub async_rest_us: f64,
    /// Small kernels (norms, rotary embedding, activations, cache writes) per layer.
    pub small_kernels: f64,
    /// Each of them.
    pub small_kernel_us: f64,
    /// Their traffic per token and layer, in units of the hidden size.
    pub small_kernel_passes: f64,
    /// Sampling per step.
    pub sampling_us: f64,
    /// Passes over the 32-bit logits.
    pub sampling_passes: f64,
    /// Per request, before the engine sees it: HTTP, tokenising, queueing between processes.
    pub ingress_us: f64,
    /// The same, per prompt token.
    pub ingress_per_token_us: f64,
    /// From a first token to the client's first byte.
    pub first_response_us: f64,
}

/// Memory that is neither weights nor KV.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryParameters {
    /// Context, libraries and communication buffers, bytes.
    pub runtime_bytes: f64,
    /// CUDA graphs, bytes.
    pub graph_bytes: f64,
    /// Activations of the profiling step: bytes per token in units of (4·hidden + 3·width/tp)·2.
    pub activation_factor: f64,
}

/// All constants for one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// Matrix products by weight format.
    pub gemm: BTreeMap<WeightFormat, GemmParameters>,
    /// Attention with keys and values per head.
    pub attention: AttentionParameters,
    /// Latent attention.
    pub latent_attention: AttentionParameters,
    /// Routed experts by weight format.
    pub moe: BTreeMap<WeightFormat, MoeParameters>,
    /// Collectives by family.
    pub collectives: BTreeMap<CollectiveFamily, CollectiveParameters>,
    /// Busiest expert-parallel rank's tokens / mean.
    pub moe_imbalance: f64,
    /// The same with expert load balancing.
    pub moe_imbalance_eplb: f64,
    /// Mean extra time per step for moving balanced experts.
    pub eplb_transfer_us: f64,
    /// KV on its way from a prefill to a decode server.
    pub kv_transfer: KvTransferParameters,
    /// Host work and small kernels.
    pub host: HostParameters,
    /// Memory that is neither weights nor KV.
    pub memory: MemoryParameters,
    /// What was learnt from measurements; the neutral one when nothing was.
    #[serde(default)]
    pub calibration: Calibration,
    /// The constants were checked against measurements of this device (else results are `unvalidated`).
    #[serde(default)]
    pub is_validated: bool,
}

/// Factors that measurements put on groups of terms; 1 changes nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Kernels of steps that only decode.
    pub decode_kernels: f64,
    /// Kernels of prompt parts.
    pub prefill_kernels: f64,
    /// Collectives.
    pub collectives: f64,
    /// Host work.
    pub host: f64,
    /// Time before the engine and after it, per request.
    pub ingress: f64,
    /// Measured points behind these factors; 0: none.
    #[serde(default)]
    pub points: u32,
}

impl Default for Calibration {
    fn default() -> Self {
        Self { decode_kernels: 1.0, prefill_kernels: 1.0, collectives: 1.0, host: 1.0, ingress: 1.0, points: 0 }
    }
}

/// `data/step-time.json` and files of the user's in the same form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ParametersFile {
    #[serde(default, rename = "note")]
    _note: String,
    #[serde(default)]
    default: Map<String, Value>,
    #[serde(default)]
    families: BTreeMap<String, Map<String, Value>>,
    #[serde(default)]
    per_gpu: BTreeMap<String, Map<String, Value>>,
}

impl Parameters {
    /// The built-in constants of a device: the default, over it its family, over it the device itself.
    pub fn builtin(gpu: &GpuSpec) -> Result<Self, SimError> {
        Self::resolve(gpu, None)
    }

    /// The same with a user's file over it; `overlay` is that file's text, in the form of `data/step-time.json`.
    pub fn resolve(gpu: &GpuSpec, overlay: Option<&str>) -> Result<Self, SimError> {
        let broken =
            |error: serde_json::Error| SimError::BuiltinTable { table: "step-time.json", reason: error.to_string() };
        let builtin: ParametersFile =
            serde_json::from_str(include_str!("../../data/step-time.json")).map_err(broken)?;
        let mut merged = Map::new();
        apply(&mut merged, &builtin, gpu);
        if let Some(text) = overlay {
            let bad = |error: serde_json::Error| SimError::BadDataFile {
                what: "step-time parameters",
                reason: error.to_string(),
            };
            let file: ParametersFile = serde_json::from_str(text).map_err(bad)?;
            apply(&mut merged, &file, gpu);
            return serde_json::from_value(Value::Object(merged)).map_err(bad);
        }
        serde_json::from_value(Value::Object(merged)).map_err(broken)
    }

    /// The parameters of a collective; a table without the family falls back to the all-reduce.
    pub fn collective(&self, family: CollectiveFamily) -> &CollectiveParameters {
        self.collectives
            .get(&family)
            .or_else(|| self.collectives.get(&CollectiveFamily::AllReduce))
            .unwrap_or(&NO_COLLECTIVE)
    }

    /// The parameters of a matrix product; a format without its own uses BF16's.
    pub fn gemm(&self, format: WeightFormat) -> &GemmParameters {
        self.gemm.get(&format).or_else(|| self.gemm.get(&WeightFormat::Bf16)).unwrap_or(&PLAIN_GEMM)
    }

    /// The parameters of routed experts; a format without its own uses BF16's.
    pub fn moe(&self, format: WeightFormat) -> &MoeParameters {
        self.moe.get(&format).or_else(|| self.moe.get(&WeightFormat::Bf16)).unwrap_or(&PLAIN_MOE)
    }
}

/// Only reached when a user's file empties a table: the roofline itself.
static NO_COLLECTIVE: CollectiveParameters = CollectiveParameters {
    graph_us: 0.0,
    graph_per_rank_us: 0.0,
    eager_us: 0.0,
    second_us: 0.0,
    second_bytes: 1.0,
    efficiency: 1.0,
    small_group_loss: 0.0,
    network_us: 0.0,
    network_efficiency: 1.0,
};
static PLAIN_GEMM: GemmParameters = GemmParameters {
    compute: 1.0,
    memory: 1.0,
    memory_small: 1.0,
    small_rows: 0.0,
    floor_us: 0.0,
    floor_small_us: 0.0,
    least_us: 0.0,
    least_small_us: 0.0,
    exponent: 4.0,
    tile_rows: 1.0,
    activation_bytes: 0.0,
};
static PLAIN_MOE: MoeParameters = MoeParameters {
    compute: 1.0,
    memory: 1.0,
    traffic: 1.0,
    floor_us: 0.0,
    per_expert_us: 0.0,
    block_rows: 1.0,
    skew: 1.0,
    exponent: 4.0,
};

fn apply(merged: &mut Map<String, Value>, file: &ParametersFile, gpu: &GpuSpec) {
    let layers = [Some(&file.default), file.families.get(&gpu.family), file.per_gpu.get(&gpu.name)];
    for layer in layers.into_iter().flatten() {
        overlay_object(merged, layer);
    }
}

/// Objects merge key by key, everything else is replaced.
fn overlay_object(base: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(Value::Object(base)), Value::Object(over)) => overlay_object(base, over),
            _ => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}
