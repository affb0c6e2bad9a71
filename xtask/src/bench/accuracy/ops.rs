//! Single kernels against the op tables of the same package, Hopper only: how far each family's formula is off, split
//! by the number of rows or tokens.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use servelab_sim::catalog::{GpuSpec, find_gpu};
use servelab_sim::step_time::{
    CollectiveFamily, CollectiveKernel, MoeLoad, Parameters, WeightFormat, collective_secs, decode_attention_secs,
    gemm_secs, moe_secs, prefill_attention_secs,
};
use servelab_store::{ForeignColumn, read_foreign_columns};

/// Devices whose tables are read.
const SYSTEMS: [(&str, &str); 2] = [("h100_sxm", "H100"), ("h200_sxm", "H200")];

/// (predicted, measured) seconds by family and size class.
type Found = BTreeMap<(String, String), Vec<(f64, f64)>>;

struct Table {
    columns: Vec<ForeignColumn>,
}

impl Table {
    fn read(path: &Path, names: &[&str]) -> Result<Self, Box<dyn Error>> {
        Ok(Self { columns: read_foreign_columns(path, names)? })
    }

    fn rows(&self) -> usize {
        self.columns.first().map_or(0, ForeignColumn::len)
    }

    fn number(&self, column: usize, row: usize) -> f64 {
        self.columns.get(column).map_or(f64::NAN, |column| column.number(row))
    }

    fn text(&self, column: usize, row: usize) -> &str {
        self.columns.get(column).map_or("", |column| column.text(row))
    }
}

/// Prints one line per family and size class.
pub(super) fn ops(data: &Path, overlay: Option<&str>) -> Result<(), Box<dyn Error>> {
    let mut found = Found::new();
    for (system, name) in SYSTEMS {
        let gpu = find_gpu(name)?;
        let parameters = Parameters::resolve(&gpu, overlay)?;
        let folder = data.join("systems/data").join(system);
        gemms(&folder, &gpu, &parameters, &mut found)?;
        attention(&folder, &gpu, &parameters, &mut found)?;
        experts(&folder, &gpu, &parameters, &mut found)?;
        collectives(&folder, &gpu, &parameters, &mut found)?;
    }
    println!("Kernels of vLLM 0.24 on H100 and H200 against the public op tables; percent.\n");
    println!("| family | size | n | MAPE | median | bias |\n|---|---|---|---|---|---|");
    for ((family, size), pairs) in &found {
        let mut absolute: Vec<f64> = pairs.iter().map(|(p, m)| (p / m - 1.0).abs()).collect();
        absolute.sort_by(f64::total_cmp);
        let n = pairs.len() as f64;
        println!(
            "| {family} | {size} | {} | {:.1} | {:.1} | {:+.1} |",
            pairs.len(),
            100.0 * absolute.iter().sum::<f64>() / n,
            100.0 * absolute.get(pairs.len() / 2).copied().unwrap_or(f64::NAN),
            100.0 * pairs.iter().map(|(p, m)| p / m - 1.0).sum::<f64>() / n,
        );
    }
    Ok(())
}

fn size_class(name: &str, size: f64) -> String {
    let class = match size {
        s if s <= 16.0 => "1–16",
        s if s <= 64.0 => "17–64",
        s if s <= 512.0 => "65–512",
        s if s <= 4096.0 => "513–4096",
        _ => "> 4096",
    };
    format!("{name} {class}")
}

fn add(found: &mut Found, family: &str, size: String, predicted_s: f64, measured_ms: f64) {
    if predicted_s > 0.0 && measured_ms > 0.0 {
        found.entry((family.to_owned(), size)).or_default().push((predicted_s, measured_ms / 1e3));
    }
}

fn format_of(name: &str) -> Option<(WeightFormat, f64)> {
    match name {
        "bfloat16" => Some((WeightFormat::Bf16, 2.0)),
        "fp8" => Some((WeightFormat::Fp8, 1.0)),
        "fp8_block" => Some((WeightFormat::Fp8Block, 1.0)),
        "int4_wo" | "w4a16_mxfp4" => Some((WeightFormat::WeightOnly, 4.25 / 8.0)),
        _ => None,
    }
}

fn peak(gpu: &GpuSpec, format: WeightFormat) -> f64 {
    1e12 * match format {
        WeightFormat::Fp8 | WeightFormat::Fp8Block => gpu.fp8_tflops.unwrap_or(gpu.bf16_tflops),
        _ => gpu.bf16_tflops,
    }
}

/// Several kernels may have been timed for one shape: an engine picks the fastest.
fn gemms(folder: &Path, gpu: &GpuSpec, p: &Parameters, found: &mut Found) -> Result<(), Box<dyn Error>> {
    let names = ["gemm_dtype", "m", "n", "k", "latency"];
    let table = Table::read(&folder.join("gemm/vllm/0.24.0/gemm_perf.parquet"), &names)?;
    let mut best: BTreeMap<(String, u64, u64, u64), f64> = BTreeMap::new();
    for row in 0..table.rows() {
        let key = (
            table.text(0, row).to_owned(),
            table.number(1, row) as u64,
            table.number(2, row) as u64,
            table.number(3, row) as u64,
        );
        let latency = table.number(4, row);
        best.entry(key).and_modify(|least| *least = least.min(latency)).or_insert(latency);
    }
    for ((dtype, m, n, k), latency) in best {
        let Some((format, bytes)) = format_of(&dtype) else { continue };
        let (m, n, k) = (m as f64, n as f64, k as f64);
        // Wider than any layer of a model that is served.
        if m > 16_384.0 || n > 32_768.0 || k > 32_768.0 {
            continue;
        }
        let predicted = gemm_secs(m, n, k, bytes, peak(gpu, format), gpu, p.gemm(format));
        add(found, &format!("GEMM {dtype}"), size_class("rows", m), predicted, latency);
    }
    Ok(())
}

fn attention(folder: &Path, gpu: &GpuSpec, p: &Parameters, found: &mut Found) -> Result<(), Box<dyn Error>> {
    let names = [
        "batch_size",
        "isl",
        "num_heads",
        "num_key_value_heads",
        "head_dim",
        "kv_cache_dtype",
        "step",
        "window_size",
        "latency",
    ];
    let path = folder.join("attention/vllm/0.24.0");
    let decode = Table::read(&path.join("generation_attention_perf.parquet"), &names)?;
    for row in 0..decode.rows() {
        let [batch, _, heads, kv_heads, head_dim] = [0, 1, 2, 3, 4].map(|column| decode.number(column, row));
        let window = decode.number(7, row);
        let context = decode.number(6, row) + 1.0;
        let read = batch * if window > 0.0 { context.min(window) } else { context };
        let bytes = if decode.text(5, row) == "fp8" { 1.0 } else { 2.0 };
        let predicted = decode_attention_secs(
            read,
            2.0 * kv_heads * head_dim * bytes,
            4.0 * kv_heads * head_dim,
            heads / kv_heads,
            gpu,
            &p.attention,
        );
        let family = format!("decode attention, KV {}", decode.text(5, row));
        let total = read * 2.0 * kv_heads * head_dim * bytes;
        let size = if total > 3e7 { "over 30 MB of KV" } else { "less" };
        add(found, &family, size.to_owned(), predicted, decode.number(8, row));
    }
    let prefill = Table::read(&path.join("context_attention_perf.parquet"), &names)?;
    for row in 0..prefill.rows() {
        let [batch, length, heads, kv_heads, head_dim] = [0, 1, 2, 3, 4].map(|column| prefill.number(column, row));
        let window = prefill.number(7, row);
        let pairs = if window > 0.0 && length > window {
            window * length - window * (window - 1.0) / 2.0
        } else {
            length * (length + 1.0) / 2.0
        };
        let io = 2.0 * (2.0 * heads + 2.0 * kv_heads) * head_dim;
        let predicted =
            prefill_attention_secs(batch * pairs, 4.0 * heads * head_dim, batch * length, io, gpu, &p.attention);
        add(found, "prefill attention", size_class("tokens", batch * length), predicted, prefill.number(8, row));
    }
    Ok(())
}

fn experts(folder: &Path, gpu: &GpuSpec, p: &Parameters, found: &mut Found) -> Result<(), Box<dyn Error>> {
    let names = [
        "moe_dtype",
        "num_tokens",
        "hidden_size",
        "inter_size",
        "topk",
        "num_experts",
        "moe_tp_size",
        "moe_ep_size",
        "distribution",
        "latency",
    ];
    let table = Table::read(&folder.join("moe/vllm/0.24.0/moe_perf.parquet"), &names)?;
    let mut best: BTreeMap<(String, [u64; 7]), f64> = BTreeMap::new();
    for row in 0..table.rows() {
        if table.text(8, row) != "power_law_1.01" {
            continue;
        }
        let shape = [1, 2, 3, 4, 5, 6, 7].map(|column| table.number(column, row) as u64);
        let latency = table.number(9, row);
        best.entry((table.text(0, row).to_owned(), shape))
            .and_modify(|least| *least = least.min(latency))
            .or_insert(latency);
    }
    for ((dtype, shape), latency) in best {
        let Some((format, bytes)) = format_of(&dtype) else { continue };
        let [tokens, hidden, inter, topk, experts, tp, ep] = shape.map(|size| size as f64);
        if tp > 16.0 || ep > 16.0 {
            continue;
        }
        let load = MoeLoad {
            tokens,
            experts,
            experts_here: experts / ep,
            per_token: topk,
            hidden,
            width: inter / tp,
            weight_bytes: bytes,
            imbalance: 1.0,
        };
        let predicted = moe_secs(&load, peak(gpu, format), gpu, p.moe(format));
        add(found, &format!("experts {dtype}"), size_class("tokens", tokens), predicted, latency);
    }
    Ok(())
}

fn collectives(folder: &Path, gpu: &GpuSpec, p: &Parameters, found: &mut Found) -> Result<(), Box<dyn Error>> {
    let names = ["backend", "num_gpus", "message_size", "latency"];
    let table = Table::read(&folder.join("comm/vllm/0.24.0/custom_allreduce_perf.parquet"), &names)?;
    let class = |bytes: f64| if bytes > 1e6 { "over 1 MB" } else { "less" }.to_owned();
    for row in 0..table.rows() {
        let bytes = 2.0 * table.number(2, row);
        let in_graph = table.text(0, row) == "vllm_graph";
        let kernel =
            CollectiveKernel { family: CollectiveFamily::AllReduce, ranks: table.number(1, row), bytes, in_graph };
        let family = if in_graph { "all-reduce in a graph" } else { "all-reduce, eager" };
        add(found, family, class(bytes), collective_secs(&kernel, gpu, p), table.number(3, row));
    }
    let nccl = folder.join("comm/nccl/2.29.2/nccl_perf.parquet");
    if !nccl.is_file() {
        return Ok(());
    }
    let table = Table::read(&nccl, &["op_name", "nccl_dtype", "num_gpus", "message_size", "latency"])?;
    for row in 0..table.rows() {
        let family = match table.text(0, row) {
            "all_gather" => CollectiveFamily::AllGather,
            "reduce_scatter" => CollectiveFamily::ReduceScatter,
            _ => continue,
        };
        if table.text(1, row) != "half" {
            continue;
        }
        let bytes = 2.0 * table.number(3, row);
        let kernel = CollectiveKernel { family, ranks: table.number(2, row), bytes, in_graph: true };
        let name = format!("NCCL {}", table.text(0, row));
        add(found, &name, class(bytes), collective_secs(&kernel, gpu, p), table.number(4, row));
    }
    Ok(())
}
