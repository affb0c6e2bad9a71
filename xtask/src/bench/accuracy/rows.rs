//! The public table of measured results (`systems/silicon_sample.csv` of the PyPI package aiconfigurator-core): which of
//! its rows are read, and what server and client each describes. Rows that were not asked for are skipped by their first
//! columns; nothing looks at their measurements.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use clap::ValueEnum;
use servelab_core::model::from_hf_config;
use servelab_sim::catalog::{ModelArch, find_gpu};
use servelab_sim::config::ServerConfig;
use servelab_sim::predict::{ArrivalKind, CellLoad};
use servelab_sim::step_time::Parameters;
use servelab_sim::{SimSettings, parse_serving_flags};

/// Which rows are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rows {
    /// Hopper without MiniMax: the rows that the model was developed on
    Development,
    /// All other rows
    HeldOut,
    /// Every row
    All,
}

impl Rows {
    fn takes(self, system: &str, model: &str) -> bool {
        let is_development =
            matches!(system, "h100_sxm" | "h200_sxm") && !model.to_ascii_lowercase().contains("minimax");
        match self {
            Self::Development => is_development,
            Self::HeldOut => !is_development,
            Self::All => true,
        }
    }
}

/// One measured row of a collocated vLLM server.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) model: String,
    pub(crate) system: String,
    pub(crate) version: String,
    pub(crate) input: u32,
    pub(crate) output: u32,
    pub(crate) concurrency: u32,
    pub(crate) tp: u32,
    pub(crate) dp: u32,
    pub(crate) ep: bool,
    pub(crate) gemm_format: String,
    /// The client's program and its arguments are public, so that its load can be copied exactly.
    pub(crate) has_full_workload: bool,
    pub(crate) ttft_ms: f64,
    pub(crate) tpot_ms: f64,
}

impl Row {
    /// Model × GPU.
    pub(crate) fn group(&self) -> String {
        format!("{} · {}", self.model.rsplit('/').next().unwrap_or(&self.model), self.system)
    }

    /// Rows that differ only in degree of parallelism and concurrency.
    pub(crate) fn sweep(&self) -> String {
        format!("{} · {}/{}", self.group(), self.input, self.output)
    }

    pub(crate) fn gpus(&self) -> f64 {
        f64::from(self.tp * self.dp)
    }

    /// Output tokens per second and GPU that a closed loop reaches with these latencies (the table has no throughput
    /// column): concurrency · output / (TTFT + TPOT · (output − 1)) / GPUs.
    pub(crate) fn throughput(&self, ttft_ms: f64, tpot_ms: f64) -> f64 {
        let output = f64::from(self.output);
        f64::from(self.concurrency) * output * 1e3 / (ttft_ms + tpot_ms * (output - 1.0)) / self.gpus()
    }
}

/// Rows of collocated vLLM servers.
pub(crate) fn read(data: &Path, which: Rows) -> Result<Vec<Row>, Box<dyn Error>> {
    let path = data.join("systems/silicon_sample.csv");
    let mut reader = csv::Reader::from_path(&path).map_err(|error| format!("read {}: {error}", path.display()))?;
    let columns: BTreeMap<String, usize> =
        reader.headers()?.iter().enumerate().map(|(index, name)| (name.to_owned(), index)).collect();
    let column =
        |name: &str| columns.get(name).copied().ok_or_else(|| format!("{} has no column {name}", path.display()));
    let (system, model) = (column("system")?, column("model_path")?);
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record?;
        let at = |index: usize| record.get(index).unwrap_or("");
        if !which.takes(at(system), at(model)) || at(column("backend")?) != "vllm" || at(column("mode")?) != "agg" {
            continue;
        }
        let number = |name: &str| -> Result<Option<f64>, Box<dyn Error>> { Ok(at(column(name)?).parse::<f64>().ok()) };
        let whole = |name: &str| -> Result<u32, Box<dyn Error>> { Ok(number(name)?.unwrap_or(0.0) as u32) };
        let source = at(column("silicon_data_source")?);
        let (tp, moe_tp, moe_ep) = (whole("tp_size")?.max(1), whole("moe_tp_size")?, whole("moe_ep_size")?);
        // Experts are spread over tp × dp ranks, whether as slices or whole.
        let dp = whole("attention_dp_size")?.max(((moe_tp.max(1) * moe_ep.max(1)) / tp).max(1));
        let concurrency = whole("batch_size")?;
        let (Some(ttft_ms), Some(tpot_ms)) = (number("silicon_ttft_ms")?, number("silicon_tpot_ms")?) else { continue };
        rows.push(Row {
            id: at(column("id")?).to_owned(),
            model: at(model).to_owned(),
            system: at(system).to_owned(),
            version: at(column("backend_version")?).to_owned(),
            input: whole("isl")?,
            output: whole("osl")?,
            concurrency,
            tp,
            dp,
            ep: moe_ep > 1,
            gemm_format: at(column("gemm_quant_mode")?).to_owned(),
            // Files of the public benchmark, whose scripts are public; at 512 clients the scripts of the time did not
            // say how many sequences the server took.
            has_full_workload: source.contains("silicon_concurrency=")
                && !source.contains("/vllm/")
                && concurrency < 512,
            ttft_ms,
            tpot_ms,
        });
    }
    Ok(rows)
}

/// The server that a row describes.
pub(crate) fn server(row: &Row, data: &Path, overlay: Option<&str>) -> Result<ServerConfig, Box<dyn Error>> {
    let gpu = find_gpu(gpu_name(&row.system))?;
    let mut settings = SimSettings::new(([127, 0, 0, 1], 0).into(), row.model.clone(), gpu.name.clone());
    let (arch, has_fp8_kv) = architecture(row, data)?;
    settings.model_arch = Some(arch);
    settings.parameters = Some(Arc::new(Parameters::resolve(&gpu, overlay)?));
    // Development builds carry no version number.
    settings.declared_version =
        if row.version.starts_with(|c: char| c.is_ascii_digit()) { row.version.clone() } else { "0.18.0".to_owned() };
    let longest = row.input + row.output + 256;
    let mut flags = format!(
        "--max-model-len {longest} --max-num-batched-tokens 8192 --tensor-parallel-size {} --data-parallel-size {} \
         --no-enable-prefix-caching --gpu-memory-utilization {}",
        row.tp,
        row.dp,
        if row.model.contains("Kimi") { 0.95 } else { 0.9 },
    );
    if row.has_full_workload {
        flags += &format!(" --max-num-seqs {}", row.concurrency.div_ceil(row.dp).max(1));
    }
    if row.ep {
        flags += " --enable-expert-parallel";
    }
    if has_fp8_kv {
        flags += " --kv-cache-dtype fp8";
    }
    let flags: Vec<String> = flags.split_whitespace().map(str::to_owned).collect();
    settings.serving = parse_serving_flags(&flags, &settings.declared_version)?;
    Ok(ServerConfig::resolve(&settings)?)
}

/// What its client sent: the public benchmark draws lengths uniformly from 80 to 100 % of the nominal ones and sends ten
/// requests per client, all clients at once; other clients are taken to send exact lengths.
pub(crate) fn load(row: &Row) -> CellLoad {
    let requests = row.concurrency * 10;
    let mut state = 0x5EED_u64;
    let mut draw = |nominal: u32| {
        if !row.has_full_workload {
            return nominal;
        }
        let low = (f64::from(nominal) * 0.8) as u32;
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        low + ((state >> 33) % u64::from(nominal - low + 1)) as u32
    };
    let lengths: Arc<[(u32, u32)]> = (0..requests).map(|_| (draw(row.input), draw(row.output))).collect();
    CellLoad {
        arrivals: ArrivalKind::Closed { concurrency: row.concurrency, ramp_ns: 0, think_ns: 0 },
        lengths,
        shared_prefix_tokens: 0,
        warmup_requests: 0,
        requests,
        duration_ns: None,
    }
}

fn gpu_name(system: &str) -> &str {
    match system {
        "h100_sxm" => "H100",
        "h200_sxm" => "H200",
        "h100_pcie" => "H100-PCIe-80GB",
        "a100_sxm" => "A100",
        "a100_pcie" => "A100-PCIe-80GB",
        "b200_sxm" => "B200",
        "b300_sxm" => "B300",
        "gb200" | "gb200_sxm" => "GB200",
        "gb300" => "GB300",
        "rtx_pro_6000_server" => "RTX-PRO-6000-Server",
        other => other,
    }
}

/// Names under which the table and the folder of configs know the same model.
const SAME: [(&str, &str); 5] = [
    ("meta-llama/Llama-3.1-70B", "nvidia/Llama-3.1-70B-Instruct-FP8"),
    ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Meta-Llama-3.1-8B"),
    ("nvidia/Llama-3.1-8B-Instruct-FP8", "meta-llama/Meta-Llama-3.1-8B"),
    ("meta-llama/Llama-3.1-405B", "meta-llama/Meta-Llama-3.1-405B"),
    ("zhipuai/GLM-5", "zai-org/GLM-5"),
];

/// Architecture and whether the checkpoint asks for an FP8 cache.
fn architecture(row: &Row, data: &Path) -> Result<(ModelArch, bool), Box<dyn Error>> {
    let name = SAME.iter().find(|(table, _)| *table == row.model).map_or(row.model.as_str(), |(_, folder)| folder);
    let stem = name.replace('/', "--");
    let path = data.join(format!("model_configs/{stem}_config.json"));
    let text = std::fs::read_to_string(&path).map_err(|error| format!("read {}: {error}", path.display()))?;
    let config: serde_json::Value = serde_json::from_str(&text)?;
    let mut arch = ModelArch::from_facts(&from_hf_config(&row.model, &config)?);
    let quant = data.join(format!("model_configs/{stem}_hf_quant_config.json"));
    let has_fp8_kv = std::fs::read_to_string(quant)
        .ok()
        .and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok())
        .and_then(|quant| quant.pointer("/quantization/kv_cache_quant_algo")?.as_str().map(|algo| algo == "FP8"))
        .unwrap_or(false);
    // What the table says of a checkpoint whose config says nothing.
    if arch.weight_bits > 8.5 && arch.expert_bits.is_none_or(|bits| bits > 8.5) {
        match row.gemm_format.as_str() {
            "fp8" | "fp8_static" | "fp8_ootb" => arch.weight_bits = 8.0,
            "fp8_block" => (arch.weight_bits, arch.block_scaled) = (8.0, true),
            "int4_wo" => arch.weight_bits = 4.25,
            "nvfp4" => (arch.weight_bits, arch.fp4) = (4.5, true),
            _ => {}
        }
        arch.expert_bits = arch.expert_bits.map(|_| arch.weight_bits);
    }
    Ok((arch, has_fp8_kv))
}
