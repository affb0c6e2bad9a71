//! The metrics of one rank: a number, or the reason why there is none. Definitions are in
//! `servelab_core::trace::catalogue`.

#![expect(
    clippy::cast_precision_loss,
    reason = "integers of nanoseconds become milliseconds and shares here, and only here"
)]

use std::collections::BTreeMap;

use servelab_core::model::builtin_gpu;
use servelab_core::trace::Place;

use super::rank::{CommCall, DeviceAnalysis, RankAnalysis};
use super::window::Step;
use crate::model::Precision;
use crate::steps::Phase;

/// A number or a reason.
pub type Value = Result<f64, String>;

/// Numbers by name.
pub type Values = BTreeMap<&'static str, Value>;

const NO_STEPS: &str =
    "no step marker in the trace: profile with a schedule, or an engine that writes execute_… or step[…] marks";

fn ms(ns: i64) -> f64 {
    ns as f64 / 1e6
}

fn ratio(a: i64, b: i64) -> Option<f64> {
    (b > 0).then(|| a as f64 / b as f64)
}

/// Σ of something over steps.
fn sum(steps: &[&Step], of: impl Fn(&Step) -> i64) -> i64 {
    steps.iter().map(|step| of(step)).fold(0, i64::saturating_add)
}

/// All metrics of one rank that need no other rank.
pub fn values(rank: &RankAnalysis) -> Values {
    let mut out = Values::new();
    steps(rank, &mut out);
    communication(rank, &mut out);
    device(rank, &mut out);
    bandwidth(rank, &mut out);
    host(rank, &mut out);
    out
}

/// Why a rank has no device numbers.
pub fn no_device(rank: &RankAnalysis) -> String {
    let totals = &rank.totals;
    let cut = if rank.meta.is_truncated { "; the file is truncated, so they may have been lost" } else { "" };
    let backend = rank.meta.backend.as_deref();
    if rank.host.values().any(|family| family.calls > 0) || matches!(backend, Some("gloo" | "mpi" | "ccl")) {
        let families: Vec<&str> = rank.host.keys().map(String::as_str).collect();
        let seen = if families.is_empty() { backend.unwrap_or("cpu").to_owned() } else { families.join(", ") };
        return format!(
            "not measured (CPU backend): the trace has no GPU event{cut}; communication by {seen} runs on the CPU, see cpu_comm and cpu_comm_overhead"
        );
    }
    let launches = totals.categories.iter().filter(|(name, _)| name.contains("runtime") || name.contains("driver"));
    let launches: u64 = launches.map(|(_, count)| count).sum();
    if launches > 0 || totals.comm_operators > 0 || backend == Some("nccl") {
        let comm = match totals.comm_operators {
            0 => String::new(),
            n => format!(", {n} communication operators"),
        };
        return format!(
            "not measured (hollow trace): no GPU event although the run used one ({launches} runtime calls{comm}, backend {}): the profiler saw no device, or recorded CPU activity only{cut}",
            backend.unwrap_or("unknown")
        );
    }
    format!("not measured: the trace has no GPU event and no communication{cut}")
}

fn steps(rank: &RankAnalysis, out: &mut Values) {
    let used: Vec<&Step> = rank.steps.iter().filter(|step| step.is_used).collect();
    let of_phase = |wanted: &[Phase]| -> Vec<&Step> {
        used.iter().copied().filter(|step| wanted.contains(&step.name.phase())).collect()
    };
    let names = [
        "iteration_wall_clock",
        "step_time",
        "step_interval",
        "ttft",
        "tpot",
        "tpot_with_mixed",
        "throughput_tokens_sec",
        "output_tokens_sec",
        "prefill_time_share",
    ];
    if used.is_empty() {
        for name in names {
            out.insert(name, Err(NO_STEPS.to_owned()));
        }
        return;
    }
    let count = used.len() as f64;
    let total = sum(&used, |step| step.time_ns);
    out.insert("iteration_wall_clock", Ok(ms(sum(&used, |step| step.marker_ns)) / count));
    out.insert("step_time", Ok(ms(total) / count));
    let starts: Vec<i64> = used.iter().map(|step| step.start_ns).collect();
    let interval = match (starts.first(), starts.last()) {
        (Some(first), Some(last)) if starts.len() > 1 => Ok(ms(last - first) / (starts.len() - 1) as f64),
        _ => Err("only one step is used: there is no distance between starts".to_owned()),
    };
    out.insert("step_interval", interval);
    let counted = of_phase(&[Phase::Prefill, Phase::Decode, Phase::Mixed]);
    if counted.is_empty() {
        for name in names.get(3..).unwrap_or_default() {
            let reason = "the step markers name no request or token counts (ProfilerStep, run_batch): prefill cannot be told from decode";
            out.insert(name, Err(reason.to_owned()));
        }
        return;
    }
    let mean_of = |steps: &[&Step], what: &str| {
        if steps.is_empty() {
            Err(format!("none of the {} steps used is {what}", used.len()))
        } else {
            Ok(ms(sum(steps, |step| step.time_ns)) / steps.len() as f64)
        }
    };
    let prompt = of_phase(&[Phase::Prefill, Phase::Mixed]);
    out.insert("ttft", mean_of(&prompt, "a prefill or mixed step"));
    out.insert("tpot", mean_of(&of_phase(&[Phase::Decode]), "a pure decode step"));
    let decoding = of_phase(&[Phase::Decode, Phase::Mixed]);
    let requests = |step: &Step| step.name.generation_requests.unwrap_or(0) as f64;
    let all: f64 = decoding.iter().map(|step| requests(step)).sum();
    let waited: f64 = decoding.iter().map(|step| requests(step) * ms(step.time_ns)).sum();
    out.insert("tpot_with_mixed", if all > 0.0 { Ok(waited / all) } else { Err("no used step decodes".to_owned()) });
    let tokens = |step: &Step| {
        let name = &step.name;
        // Where tokens are not named, a decode step computes one for each request; a prefill step cannot be guessed.
        let generated = name.generation_tokens.or(name.generation_requests);
        match (name.context_tokens, name.context_requests.unwrap_or(0)) {
            (Some(context), _) => Some(context + generated.unwrap_or(0)),
            (None, 0) => generated,
            (None, _) => None,
        }
    };
    let seconds = total as f64 / 1e9;
    let computed: Option<u64> = counted.iter().map(|step| tokens(step)).sum();
    let throughput = match computed {
        Some(tokens) if total > 0 => Ok(tokens as f64 / seconds),
        Some(_) => Err("the steps take no time".to_owned()),
        None => Err("the markers of prefill steps name no token counts".to_owned()),
    };
    out.insert("throughput_tokens_sec", throughput);
    out.insert(
        "output_tokens_sec",
        if total > 0 { Ok(all / seconds) } else { Err("the steps take no time".to_owned()) },
    );
    let share = ratio(sum(&prompt, |step| step.time_ns), total);
    out.insert("prefill_time_share", share.ok_or_else(|| "the steps take no time".to_owned()));
}

fn communication(rank: &RankAnalysis, out: &mut Values) {
    let used: Vec<&Step> = rank.steps.iter().filter(|step| step.is_used).collect();
    let calls = if rank.device.is_some() || !rank.calls.is_empty() {
        Ok(rank.calls.len() as f64)
    } else {
        Err(no_device(rank))
    };
    let in_steps = sum(&used, |step| i64::try_from(step.load.comm_calls).unwrap_or(i64::MAX));
    let per_step = match &calls {
        Ok(_) if used.is_empty() => Err(NO_STEPS.to_owned()),
        Ok(_) => Ok(in_steps as f64 / used.len() as f64),
        Err(reason) => Err(reason.clone()),
    };
    out.insert("coll_call_num", calls);
    out.insert("coll_call_num_per_step", per_step);
    let shares = ["comm_overhead", "comm_overhead_sum", "comm_overhead_exposed"];
    let names =
        ["comm_sum", "comm_union", "comm_exposed", "comm_share_of_kernels", "compute_comm_overlap", "traffic_window"];
    let Some(device) = &rank.device else {
        for name in shares.iter().chain(&names) {
            out.insert(name, Err(no_device(rank)));
        }
        return;
    };
    if let Some(reason) = opaque(rank) {
        for name in shares.iter().chain(&names).chain(&["coll_call_num", "coll_call_num_per_step"]) {
            out.insert(name, Err(reason.clone()));
        }
        return;
    }
    let comm_sum = device.comm.values().map(|family| family.sum_ns).fold(0, i64::saturating_add);
    let total = sum(&used, |step| step.time_ns);
    let has_steps = total > 0 && sum(&used, |step| i64::try_from(step.load.kernels).unwrap_or(i64::MAX)) > 0;
    let (parts, whole) = if has_steps {
        let parts = [
            sum(&used, |step| step.load.comm_union_ns),
            sum(&used, |step| step.load.comm_sum_ns),
            sum(&used, |step| step.load.comm_exposed_ns),
        ];
        (parts, total)
    } else {
        ([device.comm_ns, comm_sum, device.exposed_comm_ns], device.span_ns)
    };
    for (name, part) in shares.iter().zip(parts) {
        out.insert(name, ratio(part, whole).ok_or_else(|| "the device span has no length".to_owned()));
    }
    out.insert("comm_sum", Ok(ms(comm_sum)));
    out.insert("comm_union", Ok(ms(device.comm_ns)));
    out.insert("comm_exposed", Ok(ms(device.exposed_comm_ns)));
    let share = ratio(comm_sum, device.kernel_ns).ok_or_else(|| "the trace has no kernel".to_owned());
    out.insert("comm_share_of_kernels", share);
    let none = || "no communication kernel: nothing that could overlap".to_owned();
    out.insert("compute_comm_overlap", ratio(device.hidden_comm_ns, device.comm_ns).ok_or_else(none));
    let (gaps, gap_ns) = device.comm_gaps;
    let window = if gaps > 0 {
        Ok(ms(gap_ns) / gaps as f64)
    } else {
        Err("fewer than two stretches of communication".to_owned())
    };
    out.insert("traffic_window", window);
}

/// Why kernels cannot be seen although the device worked.
pub fn opaque(rank: &RankAnalysis) -> Option<String> {
    rank.meta.are_graphs_opaque.then(|| {
        "not measured (graph mode): kernels inside CUDA graphs are not in this trace; profile with --cuda-graph-trace=node".to_owned()
    })
}

fn device(rank: &RankAnalysis, out: &mut Values) {
    let Some(device) = &rank.device else {
        for name in DEVICE_NAMES {
            out.insert(name, Err(no_device(rank)));
        }
        return;
    };
    let span = |part: i64| ratio(part, device.span_ns).ok_or_else(|| "the device span has no length".to_owned());
    let busy = span(device.busy_ns);
    out.insert("idle", busy.clone().map(|busy| 1.0 - busy));
    out.insert("gpu_busy", busy);
    out.insert("idle_host", Ok(ms(device.idle.host_ns)));
    out.insert("idle_launch", Ok(ms(device.idle.launch_ns)));
    out.insert("idle_dependency", Ok(ms(device.idle.dependency_ns)));
    out.insert("idle_unknown", Ok(ms(device.idle.unknown_ns)));
    out.insert("compute_union", Ok(ms(device.compute_ns)));
    out.insert("memcpy_union", Ok(ms(device.copy_ns)));
    out.insert("exposed_memcpy", Ok(ms(device.exposed_copy_ns)));
    out.insert("memory_transfer_overhead", span(device.copy_ns));
    let (bytes, sized_ns) = device.copied;
    let no_bytes = || "no copy in the trace says how many bytes it moved".to_owned();
    out.insert("memcpy_bytes", if sized_ns > 0 { Ok(bytes as f64) } else { Err(no_bytes()) });
    out.insert(
        "average_memory_bandwidth",
        if sized_ns > 0 { Ok(bytes as f64 / sized_ns as f64) } else { Err(no_bytes()) },
    );
    launches(rank, device, out);
    kernels(rank, device, out);
    out.insert("mfu", mfu(rank, device));
}

const DEVICE_NAMES: &[&str] = &[
    "gpu_busy",
    "idle",
    "idle_host",
    "idle_launch",
    "idle_dependency",
    "idle_unknown",
    "compute_union",
    "total_kernel_time",
    "mean_sm_coverage",
    "memcpy_union",
    "exposed_memcpy",
    "memory_transfer_overhead",
    "memcpy_bytes",
    "average_memory_bandwidth",
    "launch_delay",
    "queue_length",
    "queue_length_max",
    "kernels_per_step",
    "graph_kernel_share",
    "host_sync",
    "gemm_fraction",
    "attention_fraction",
    "moe_fraction",
    "compute_bound_fraction",
    "memory_bound_fraction",
    "dominant_kernel_concentration",
    "mfu",
];

fn launches(rank: &RankAnalysis, device: &DeviceAnalysis, out: &mut Values) {
    match &device.queue {
        Some(queue) => {
            out.insert("launch_delay", Ok(queue.delay_ns as f64 / 1e3 / queue.launches as f64));
            out.insert("queue_length", Ok(queue.mean));
            out.insert("queue_length_max", Ok(queue.max as f64));
            let share = (device.kernel_count > 0).then(|| queue.graph_kernels as f64 / device.kernel_count as f64);
            out.insert("graph_kernel_share", share.ok_or_else(|| "the trace has no kernel".to_owned()));
        }
        None => {
            for name in ["launch_delay", "queue_length", "queue_length_max", "graph_kernel_share"] {
                out.insert(name, Err("no launch call in the trace belongs to a device event".to_owned()));
            }
        }
    }
    let has_calls = rank.totals.categories.iter().any(|(name, _)| name.contains("untime") || name.contains("driver"));
    let sync = if has_calls || rank.totals.sync_calls > 0 {
        Ok(ms(rank.totals.sync_ns))
    } else {
        Err("the trace has no runtime calls".to_owned())
    };
    out.insert("host_sync", sync);
}

fn kernels(rank: &RankAnalysis, device: &DeviceAnalysis, out: &mut Values) {
    let names = [
        "total_kernel_time",
        "kernels_per_step",
        "mean_sm_coverage",
        "gemm_fraction",
        "attention_fraction",
        "moe_fraction",
        "compute_bound_fraction",
        "memory_bound_fraction",
        "dominant_kernel_concentration",
    ];
    if device.kernel_ns <= 0 {
        let reason = opaque(rank).unwrap_or_else(|| "the trace has no kernel".to_owned());
        for name in names {
            out.insert(name, Err(reason.clone()));
        }
        return;
    }
    out.insert("total_kernel_time", Ok(ms(device.kernel_ns)));
    let share = |families: &dyn Fn(&str) -> bool| {
        let kernels = device.kernels.values().filter(|kernel| families(&kernel.family));
        kernels.map(|kernel| kernel.sum_ns).fold(0, i64::saturating_add) as f64 / device.kernel_ns as f64
    };
    out.insert("gemm_fraction", Ok(share(&|family| family == "gemm")));
    out.insert("attention_fraction", Ok(share(&|family| family == "attention")));
    out.insert("moe_fraction", Ok(share(&|family| family == "moe")));
    let computes = |family: &str| matches!(family, "gemm" | "attention" | "moe" | "convolution");
    out.insert("compute_bound_fraction", Ok(share(&computes)));
    out.insert("memory_bound_fraction", Ok(share(&|family| family != "comm" && !computes(family))));
    let largest = device.kernels.values().map(|kernel| kernel.sum_ns).max().unwrap_or(0);
    out.insert("dominant_kernel_concentration", Ok(largest as f64 / device.kernel_ns as f64));
    let coverage = match device.coverage {
        Some((covered, ns)) => Ok(covered / ns as f64),
        None => Err("the trace names no grid of its kernels (graph mode on ROCm), or not how many SMs the device has"
            .to_owned()),
    };
    out.insert("mean_sm_coverage", coverage);
    let used: Vec<&Step> = rank.steps.iter().filter(|step| step.is_used).collect();
    let in_steps = sum(&used, |step| i64::try_from(step.load.kernels).unwrap_or(i64::MAX));
    let per_step = if used.is_empty() { Err(NO_STEPS.to_owned()) } else { Ok(in_steps as f64 / used.len() as f64) };
    out.insert("kernels_per_step", per_step);
}

fn mfu(rank: &RankAnalysis, device: &DeviceAnalysis) -> Value {
    if rank.totals.flop_operators == 0 {
        return Err(
            "no matrix product with its shapes in the trace: profile with record_shapes, without graphs".to_owned()
        );
    }
    let name = device.gpu.as_deref().ok_or("the trace does not name its GPU")?;
    let known = gpu(name).ok_or_else(|| format!("the peak of `{name}` is not known"))?;
    let seconds = device.span_ns as f64 / 1e9;
    if seconds <= 0.0 {
        return Err("the device span has no length".to_owned());
    }
    let peak = |precision: Precision| match precision {
        Precision::Fp8 => known.fp8_tflops.unwrap_or(known.bf16_tflops),
        Precision::Half | Precision::Unknown => known.bf16_tflops,
        // Matrix units take 32-bit operands as TF32, at half the rate, on all GPUs that we know.
        Precision::Single => known.bf16_tflops / 2.0,
    };
    let needed: f64 =
        Precision::ALL.into_iter().zip(rank.totals.flops).map(|(own, flops)| flops / (peak(own) * 1e12)).sum();
    Ok(needed / seconds)
}

/// What the operands of matrix products were, as `97 % of 16 bits, 3 % of 32 bits`.
pub fn precisions(rank: &RankAnalysis) -> Option<String> {
    let total: f64 = rank.totals.flops.iter().sum();
    let parts = Precision::ALL.into_iter().zip(rank.totals.flops).filter(|(_, flops)| *flops > 0.0);
    let words = parts.map(|(precision, flops)| {
        let name = match precision {
            Precision::Fp8 => "of 8 bits",
            Precision::Half => "of 16 bits",
            Precision::Single => "of 32 bits (taken as TF32)",
            Precision::Unknown => "of unknown type (taken as BF16)",
        };
        format!("{:.0} % {name}", 100.0 * flops / total)
    });
    (total > 0.0).then(|| format!("operations {}", words.collect::<Vec<_>>().join(", ")))
}

/// The data sheet of a GPU as drivers name it.
fn gpu(name: &str) -> Option<&'static servelab_core::model::GpuFacts> {
    builtin_gpu(name).or_else(|| {
        // `NVIDIA H100 80GB HBM3`: the words after the model are its memory.
        let words: Vec<&str> =
            name.split_whitespace().filter(|word| *word != "NVIDIA" && *word != "AMD" && *word != "Instinct").collect();
        (1..=words.len()).rev().find_map(|count| builtin_gpu(&words.get(..count)?.join("-")))
    })
}

const KINDS: [(&str, &str, &str, &str); 5] = [
    ("all_reduce", "algorithm_bandwidth_all_reduce", "bus_bandwidth_all_reduce", "bandwidth_utilization_allreduce"),
    ("all_gather", "algorithm_bandwidth_all_gather", "bus_bandwidth_all_gather", "bandwidth_utilization_allgather"),
    (
        "reduce_scatter",
        "algorithm_bandwidth_reduce_scatter",
        "bus_bandwidth_reduce_scatter",
        "bandwidth_utilization_reducescatter",
    ),
    ("all_to_all", "algorithm_bandwidth_all_to_all", "bus_bandwidth_all_to_all", "bandwidth_utilization_alltoall"),
    ("send_recv", "algorithm_bandwidth_send_recv", "bus_bandwidth_send_recv", "bandwidth_utilization_peertopeer"),
];

/// What the busiest link carries for one byte of the message (as nccl-tests define it).
pub fn bus_factor(kind: &str, group_size: u32) -> f64 {
    let n = f64::from(group_size.max(1));
    match kind {
        "all_reduce" => 2.0 * (n - 1.0) / n,
        "all_gather" | "reduce_scatter" | "all_to_all" => (n - 1.0) / n,
        _ => 1.0,
    }
}

fn bandwidth(rank: &RankAnalysis, out: &mut Values) {
    let sized = |call: &&CommCall| call.bytes.is_some() && call.place == Place::Device;
    let volume: u64 = rank.calls.iter().filter(sized).filter_map(|call| call.bytes).fold(0, u64::saturating_add);
    let no_sizes = || {
        if rank.device.is_none() {
            no_device(rank)
        } else if rank.calls.is_empty() {
            opaque(rank).unwrap_or_else(|| "no communication kernel in the trace".to_owned())
        } else {
            "no collective in the trace says its size: only kernels of record_param_comms do, and not under CUDA graphs or in custom kernels".to_owned()
        }
    };
    out.insert("collective_data_volume", if volume > 0 { Ok(volume as f64) } else { Err(no_sizes()) });
    let gpu_name = rank.device.as_ref().and_then(|device| device.gpu.clone());
    for (kind, algorithm, bus, utilization) in KINDS {
        let calls: Vec<&CommCall> = rank.calls.iter().filter(sized).filter(|call| call.kind.as_ref() == kind).collect();
        let bytes: f64 = calls.iter().filter_map(|call| call.bytes).map(|bytes| bytes as f64).sum();
        let ns = calls.iter().map(|call| call.dur_ns).fold(0, i64::saturating_add);
        if ns <= 0 {
            let reason = if volume > 0 { format!("no {kind} with a size in the trace") } else { no_sizes() };
            for name in [algorithm, bus, utilization] {
                out.insert(name, Err(reason.clone()));
            }
            continue;
        }
        out.insert(algorithm, Ok(bytes / ns as f64));
        let scaled: Option<f64> = calls
            .iter()
            .map(|call| {
                Some(call.bytes? as f64 * if kind == "send_recv" { 1.0 } else { bus_factor(kind, call.group_size?) })
            })
            .sum();
        let on_bus =
            scaled.map(|bytes| bytes / ns as f64).ok_or("the size of the group is not in the trace".to_owned());
        let link = match &gpu_name {
            Some(name) => {
                gpu(name).map(|gpu| gpu.scaleup_gb_per_s).ok_or(format!("the links of `{name}` are not known"))
            }
            None => Err("the trace does not name its GPU, so its links are not known".to_owned()),
        };
        out.insert(utilization, on_bus.clone().and_then(|bus| link.map(|link| bus / link)));
        out.insert(bus, on_bus);
    }
}

fn host(rank: &RankAnalysis, out: &mut Values) {
    let used: Vec<&Step> = rank.steps.iter().filter(|step| step.is_used).collect();
    let total = match (rank.totals.first_ns, rank.totals.last_ns) {
        (Some(first), Some(last)) => Ok(ms(last.saturating_sub(first))),
        _ => Err("no event in the trace has a time".to_owned()),
    };
    out.insert("total_trace_time", total);
    let sm = rank.totals.sm_active;
    out.insert("sm_active", sm.ok_or_else(|| "hardware counters are only in nsys traces taken with --gpu-metrics-devices; gpu_busy and mean_sm_coverage are other things".to_owned()));
    if rank.host.is_empty() {
        let reason = "no CPU-side communication in the trace";
        out.insert("cpu_comm", Err(reason.to_owned()));
        out.insert("cpu_comm_overhead", Err(reason.to_owned()));
        return;
    }
    let all = rank.host.values().map(|family| family.sum_ns).fold(0, i64::saturating_add);
    out.insert("cpu_comm", Ok(ms(all)));
    let time = sum(&used, |step| step.time_ns);
    let share = ratio(sum(&used, |step| step.load.host_comm_ns), time).ok_or_else(|| NO_STEPS.to_owned());
    out.insert("cpu_comm_overhead", share);
}
