//! Data sheets of GPUs.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// Data sheet of one GPU model. Peaks are dense.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuFacts {
    /// Name.
    pub name: String,
    /// Other names.
    pub aliases: Vec<String>,
    /// Memory in the unit that vendors call GB and tools report as GiB.
    pub memory_gib: f64,
    /// Memory bandwidth, GB/s.
    pub bandwidth_gb_per_s: f64,
    /// BF16 peak, TFLOP/s.
    pub bf16_tflops: f64,
    /// FP8 peak, TFLOP/s; `None` where the hardware has no FP8.
    pub fp8_tflops: Option<f64>,
    /// FP4 peak, TFLOP/s.
    pub fp4_tflops: Option<f64>,
    /// Scale-up link, GB/s in one direction.
    pub scaleup_gb_per_s: f64,
    /// Network card, Gbit/s.
    pub nic_gbit_per_s: f64,
    /// Where the figures come from.
    pub cite: String,
}

/// Share of the nominal memory that a driver shows: 139.8 of 141 GiB on H200, 79.2 of 80 on H100.
const VISIBLE_SHARE: f64 = 0.99;

impl GpuFacts {
    /// Bytes that an engine can see.
    pub fn visible_bytes(&self) -> f64 {
        self.memory_gib * VISIBLE_SHARE * f64::from(1 << 30)
    }
}

/// All GPUs with checked figures.
pub fn builtin_gpus() -> &'static [GpuFacts] {
    static GPUS: OnceLock<Vec<GpuFacts>> = OnceLock::new();
    GPUS.get_or_init(|| serde_json::from_str(include_str!("../../data/gpus.json")).unwrap_or_default())
}

/// The GPU of this name, however it is spelled: `H200`, `NVIDIA H200`, `h200-sxm-141gb`. A name that may mean several
/// memory sizes (`A100`) finds nothing.
pub fn builtin_gpu(name: &str) -> Option<&'static GpuFacts> {
    let wanted = normal(name);
    builtin_gpus()
        .iter()
        .find(|gpu| std::iter::once(&gpu.name).chain(&gpu.aliases).any(|candidate| normal(candidate) == wanted))
}

fn normal(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let plain = ["nvidia", "amd", "instinct"].iter().fold(lower, |text, vendor| text.replace(vendor, ""));
    plain.chars().filter(char::is_ascii_alphanumeric).collect()
}
