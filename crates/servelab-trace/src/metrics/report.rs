//! All ranks together: one number a metric, families and kernels summed, warnings collected.

#![expect(clippy::cast_precision_loss, reason = "integers of nanoseconds become milliseconds and shares here")]

use std::collections::{BTreeMap, BTreeSet};

use servelab_core::trace::catalogue::{OverRanks, TRACE_DEFINITIONS, TRACE_METRICS, TraceMetricDoc};
use servelab_core::trace::{
    CollectiveStats, CommFamily, KernelFamily, KernelTime, Metric, Place, RankSummary, StepKind, TRACE_SCHEMA_VERSION,
    TraceInput, TraceReport, TraceWarning,
};

use super::cross::{self, Matched};
use super::rank::{CommCall, RankAnalysis};
use super::values::{Value, Values, bus_factor, no_device, opaque, precisions, values};
use crate::taxonomy::Taxonomy;

/// Kernels that are listed by name.
const TOP_KERNELS: usize = 20;

/// The report of all ranks. They must be in ascending order of their numbers.
pub fn report(ranks: &[RankAnalysis], taxonomy: &Taxonomy) -> TraceReport {
    let numbers: Vec<u32> = ranks.iter().map(|rank| rank.meta.rank.unwrap_or_default()).collect();
    let by_rank: Vec<Values> = ranks.iter().map(values).collect();
    let matched = cross::matched(ranks);
    let joint = joint(ranks, &numbers, &matched);
    let mut metrics = BTreeMap::new();
    for doc in TRACE_METRICS {
        metrics.insert(doc.name.to_owned(), metric(doc, &by_rank, &joint));
    }
    if let Ok(matched) = &matched {
        let wait: Vec<Option<f64>> = matched.wait_ns.iter().map(|ns| Some(*ns as f64 / 1e6)).collect();
        metrics.insert("comm_wait".to_owned(), over_ranks(OverRanks::Mean, "ms", wait, None));
    }
    notes(ranks, &matched, &mut metrics);
    let longest = ranks.iter().max_by_key(|rank| rank.steps.len());
    let mut out = TraceReport {
        schema: TRACE_SCHEMA_VERSION,
        definitions: TRACE_DEFINITIONS,
        taxonomy: taxonomy.version().to_owned(),
        world_size: ranks.iter().filter_map(|rank| rank.meta.world_size).max(),
        steps: longest.map_or(0, |rank| rank.steps.len() as u64),
        steps_used: longest.map_or(0, |rank| rank.steps.iter().filter(|step| step.is_used).count() as u64),
        metrics,
        comm: families(ranks),
        suspects: ranks.iter().flat_map(|rank| &rank.suspects).cloned().collect::<BTreeSet<_>>().into_iter().collect(),
        collectives: collectives(ranks),
        step_kinds: step_kinds(ranks),
        per_rank: ranks.iter().enumerate().map(|(place, rank)| summary(rank, place, &matched)).collect(),
        inputs: ranks.iter().map(input).collect(),
        warnings: warnings(ranks, &numbers),
        ranks: numbers,
        ..TraceReport::default()
    };
    kernels(ranks, &mut out);
    out
}

fn metric(doc: &TraceMetricDoc, by_rank: &[Values], joint: &BTreeMap<&'static str, Value>) -> Metric {
    if let Some(value) = joint.get(doc.name) {
        return match value {
            Ok(value) => Metric::of(*value, doc.unit),
            Err(reason) => Metric::absent(doc.unit, reason.clone()),
        };
    }
    let found: Vec<Option<&Value>> = by_rank.iter().map(|values| values.get(doc.name)).collect();
    let numbers = found.iter().map(|value| value.and_then(|value| value.as_ref().ok().copied())).collect();
    let reason = found.iter().flatten().find_map(|value| value.as_ref().err().cloned());
    over_ranks(doc.over_ranks, doc.unit, numbers, reason)
}

fn over_ranks(how: OverRanks, unit: &str, numbers: Vec<Option<f64>>, reason: Option<String>) -> Metric {
    let known: Vec<f64> = numbers.iter().flatten().copied().filter(|number| number.is_finite()).collect();
    if known.is_empty() {
        return Metric::absent(unit, reason.unwrap_or_else(|| "no rank has it".to_owned()));
    }
    let value = match how {
        OverRanks::Max => known.iter().copied().fold(f64::MIN, f64::max),
        OverRanks::Mean | OverRanks::Joint => known.iter().sum::<f64>() / known.len() as f64,
    };
    let note = (known.len() < numbers.len()).then(|| format!("{} of {} ranks have it", known.len(), numbers.len()));
    Metric { per_rank: Some(numbers), note, ..Metric::of(value, unit) }
}

/// Metrics that need all ranks at once.
fn joint(ranks: &[RankAnalysis], numbers: &[u32], matched: &Result<Matched, String>) -> BTreeMap<&'static str, Value> {
    let mut out: BTreeMap<&'static str, Value> = BTreeMap::new();
    let opaque = ranks.iter().find_map(opaque);
    // By library of each kernel, not of its family: DeepEP uses NVLink inside a node and NVSHMEM between nodes.
    let mut libraries: BTreeMap<&str, i64> = BTreeMap::new();
    for call in ranks.iter().flat_map(|rank| &rank.calls).filter(|call| call.place == Place::Device) {
        let sum = libraries.entry(call.library.as_ref()).or_default();
        *sum = sum.saturating_add(call.dur_ns);
    }
    let total = libraries.values().copied().fold(0, i64::saturating_add);
    let share = |wanted: &dyn Fn(&str) -> bool| -> Value {
        if let Some(reason) = &opaque {
            return Err(reason.clone());
        }
        if total <= 0 {
            let hollow = ranks.iter().find(|rank| rank.device.is_none()).map(no_device);
            return Err(hollow.unwrap_or_else(|| "no communication kernel in the traces".to_owned()));
        }
        let part =
            libraries.iter().filter(|(library, _)| wanted(library)).map(|(_, ns)| *ns).fold(0, i64::saturating_add);
        Ok(part as f64 / total as f64)
    };
    let is_nccl = |library: &str| matches!(library, "nccl" | "rccl");
    let is_shmem = |library: &str| matches!(library, "nvshmem" | "rocshmem");
    out.insert("comm_share_nccl", share(&is_nccl));
    out.insert("comm_share_nvshmem", share(&is_shmem));
    out.insert("comm_share_custom", share(&|library| !is_nccl(library) && !is_shmem(library)));
    let mut kinds: BTreeMap<(&str, &str, Option<&str>), i64> = BTreeMap::new();
    for call in ranks.iter().flat_map(|rank| &rank.calls) {
        let sum = kinds.entry((call.family.as_ref(), call.kind.as_ref(), call.group.as_deref())).or_default();
        *sum = sum.saturating_add(call.dur_ns);
    }
    let (all, most) =
        (kinds.values().copied().fold(0, i64::saturating_add), kinds.values().copied().max().unwrap_or(0));
    let distribution = match &opaque {
        Some(reason) => Err(reason.clone()),
        None if all > 0 => Ok(most as f64 / all as f64),
        None => Err("no communication in the traces".to_owned()),
    };
    out.insert("traffic_distribution", distribution);
    out.insert(
        "token_to_expert_assignment",
        Err("a profiler's trace does not hold what the router decided: see the engine's own log".to_owned()),
    );
    out.insert("ranks_seen", Ok(ranks.len() as f64));
    let world = ranks.iter().filter_map(|rank| rank.meta.world_size).max();
    out.insert(
        "world_size",
        world.map(f64::from).ok_or_else(|| "the traces do not say how many ranks there were".to_owned()),
    );
    let hosts: BTreeSet<&String> = ranks.iter().filter_map(|rank| rank.meta.host.as_ref()).collect();
    let nodes = if hosts.is_empty() { Err("the traces name no host".to_owned()) } else { Ok(hosts.len() as f64) };
    out.insert("nodes", nodes);
    match matched {
        Err(reason) => {
            for name in ["comm_transfer", "comm_wait", "straggler_rank", "straggler_score"] {
                out.insert(name, Err(reason.clone()));
            }
        }
        Ok(matched) => {
            out.insert("comm_transfer", Ok(matched.transfer_ns as f64 / 1e6));
            let nobody = || {
                format!(
                    "no rank arrives last at more than its share of the {} matched collectives",
                    matched.collectives
                )
            };
            let straggler = matched.straggler();
            let number = straggler.and_then(|(place, _)| numbers.get(place)).map(|rank| f64::from(*rank));
            out.insert("straggler_rank", number.ok_or_else(nobody));
            out.insert("straggler_score", straggler.map(|(_, share)| share).ok_or_else(nobody));
        }
    }
    spread(ranks, &mut out);
    out
}

/// Differences between ranks.
fn spread(ranks: &[RankAnalysis], out: &mut BTreeMap<&'static str, Value>) {
    if ranks.len() < 2 {
        for name in ["straggler_delay", "straggler_slowdown", "load_imbalance"] {
            out.insert(name, Err("one rank cannot be compared with others: give the traces of all ranks".to_owned()));
        }
        return;
    }
    let ends = |values: &[i64]| values.iter().min().copied().zip(values.iter().max().copied());
    let comm: Vec<i64> =
        ranks.iter().map(|rank| rank.calls.iter().map(|call| call.dur_ns).fold(0, i64::saturating_add)).collect();
    match ends(&comm) {
        Some((min, max)) if min > 0 => {
            out.insert("straggler_delay", Ok((max - min) as f64 / max as f64));
            out.insert("straggler_slowdown", Ok(max as f64 / min as f64));
        }
        _ => {
            for name in ["straggler_delay", "straggler_slowdown"] {
                out.insert(name, Err("not every rank shows communication".to_owned()));
            }
        }
    }
    let compute: Vec<i64> = ranks
        .iter()
        .map(|rank| match &rank.device {
            Some(device) => device.compute_ns,
            None => {
                let used = rank.steps.iter().filter(|step| step.is_used);
                used.map(|step| step.time_ns - step.load.host_comm_ns).fold(0, i64::saturating_add)
            }
        })
        .collect();
    let imbalance = match ends(&compute) {
        Some((min, max)) if min > 0 => Ok(max as f64 / min as f64),
        _ => Err("not every rank shows computation".to_owned()),
    };
    out.insert("load_imbalance", imbalance);
}

/// Remarks that belong to single metrics.
fn notes(ranks: &[RankAnalysis], matched: &Result<Matched, String>, metrics: &mut BTreeMap<String, Metric>) {
    let mut note = |names: &[&str], text: &str| {
        for name in names {
            if let Some(metric) = metrics.get_mut(*name).filter(|metric| metric.value.is_some()) {
                metric.note = Some(match metric.note.take() {
                    Some(before) => format!("{before}; {text}"),
                    None => text.to_owned(),
                });
            }
        }
    };
    if ranks.iter().any(|rank| rank.device.is_some() && rank.steps.is_empty()) {
        let names = ["comm_overhead", "comm_overhead_sum", "comm_overhead_exposed"];
        note(&names, "no step marker: share of the device span");
    }
    let unowned = |rank: &RankAnalysis| {
        rank.device.as_ref().is_some_and(|device| device.kernel_count > 0)
            && !rank.steps.is_empty()
            && rank.steps.iter().all(|step| step.load.kernels == 0)
    };
    if ranks.iter().any(unowned) {
        let names = ["comm_overhead", "comm_overhead_sum", "comm_overhead_exposed"];
        note(&names, "no kernel can be given to a step: share of the device span");
    }
    if ranks.iter().any(|rank| rank.device.is_none() && !rank.host.is_empty()) {
        let names = [
            "coll_call_num",
            "coll_call_num_per_step",
            "comm_transfer",
            "comm_wait",
            "straggler_rank",
            "straggler_score",
            "straggler_delay",
            "straggler_slowdown",
        ];
        note(&names, "CPU-side calls");
    }
    if matched.as_ref().is_ok_and(|matched| matched.is_assumed) && ranks.len() > 2 {
        let names = ["comm_transfer", "comm_wait", "straggler_rank", "straggler_score"];
        note(&names, "some calls name no group and were taken as those of all ranks");
    }
    if let Some(text) = ranks.iter().find_map(precisions) {
        note(&["mfu"], &text);
    }
    note(&["compute_bound_fraction", "memory_bound_fraction"], "by kernel family, not by counters");
    let outlasts = ranks.iter().any(|rank| {
        let used = || rank.steps.iter().filter(|step| step.is_used);
        let (times, markers): (i64, i64) = (
            used().map(|step| step.time_ns).fold(0, i64::saturating_add),
            used().map(|step| step.marker_ns).fold(0, i64::saturating_add),
        );
        times > markers.saturating_add(markers / 10)
    });
    if outlasts {
        note(&["iteration_wall_clock"], "device work outlasts the markers: step_time is the longer truth");
    }
}

fn families(ranks: &[RankAnalysis]) -> BTreeMap<String, CommFamily> {
    let mut out: BTreeMap<String, CommFamily> = BTreeMap::new();
    for rank in ranks {
        let device = rank.device.as_ref().map(|device| device.comm.iter());
        for (name, family) in device.into_iter().flatten().chain(&rank.host) {
            match out.get_mut(name) {
                None => {
                    out.insert(name.clone(), family.clone());
                }
                Some(sum) => {
                    sum.calls += family.calls;
                    sum.sum_ns = sum.sum_ns.saturating_add(family.sum_ns);
                    sum.union_ns = sum.union_ns.saturating_add(family.union_ns);
                    sum.exposed_ns = sum.exposed_ns.saturating_add(family.exposed_ns);
                    for (kind, time) in &family.kinds {
                        let total = sum.kinds.entry(kind.clone()).or_default();
                        total.calls += time.calls;
                        total.sum_ns = total.sum_ns.saturating_add(time.sum_ns);
                    }
                }
            }
        }
    }
    out
}

fn kernels(ranks: &[RankAnalysis], out: &mut TraceReport) {
    let mut names: BTreeMap<&str, (&str, u64, i64)> = BTreeMap::new();
    let mut families: BTreeMap<&str, (u64, i64)> = BTreeMap::new();
    let mut total = 0_i64;
    for device in ranks.iter().filter_map(|rank| rank.device.as_ref()) {
        for (name, kernel) in &device.kernels {
            let entry = names.entry(name).or_insert((&kernel.family, 0, 0));
            entry.1 += kernel.calls;
            entry.2 = entry.2.saturating_add(kernel.sum_ns);
            let family = families.entry(&kernel.family).or_default();
            family.0 += kernel.calls;
            family.1 = family.1.saturating_add(kernel.sum_ns);
            total = total.saturating_add(kernel.sum_ns);
        }
    }
    let share = |sum_ns: i64| if total > 0 { sum_ns as f64 / total as f64 } else { 0.0 };
    out.kernels = families
        .into_iter()
        .map(|(family, (calls, sum_ns))| KernelFamily {
            family: family.to_owned(),
            calls,
            sum_ns,
            share: share(sum_ns),
        })
        .collect();
    out.kernels.sort_by_key(|entry| std::cmp::Reverse(entry.sum_ns));
    let mut top: Vec<KernelTime> = names
        .into_iter()
        .map(|(name, (family, calls, sum_ns))| KernelTime {
            name: name.to_owned(),
            family: family.to_owned(),
            calls,
            sum_ns,
            share: share(sum_ns),
        })
        .collect();
    top.sort_by_key(|entry| std::cmp::Reverse(entry.sum_ns));
    top.truncate(TOP_KERNELS);
    out.top_kernels = top;
}

fn collectives(ranks: &[RankAnalysis]) -> Vec<CollectiveStats> {
    type Key<'a> = (&'a str, &'a str, Option<&'a str>, Option<u32>, Option<u64>);
    let mut groups: BTreeMap<Key<'_>, Vec<&CommCall>> = BTreeMap::new();
    for call in ranks.iter().flat_map(|rank| &rank.calls) {
        let key = (call.family.as_ref(), call.kind.as_ref(), call.group.as_deref(), call.group_size, call.bytes);
        groups.entry(key).or_default().push(call);
    }
    let mut out: Vec<CollectiveStats> = groups
        .into_iter()
        .map(|((family, kind, group, group_size, message_bytes), calls)| {
            let sum_ns = calls.iter().map(|call| call.dur_ns).fold(0, i64::saturating_add);
            let algorithm =
                message_bytes.filter(|_| sum_ns > 0).map(|bytes| bytes as f64 * calls.len() as f64 / sum_ns as f64);
            let min_ns = calls.iter().map(|call| call.dur_ns).min().unwrap_or_default();
            let fastest = message_bytes.filter(|_| min_ns > 0).map(|bytes| bytes as f64 / min_ns as f64);
            CollectiveStats {
                family: family.to_owned(),
                kind: if kind.is_empty() { "unknown".to_owned() } else { kind.to_owned() },
                group: group.map(str::to_owned),
                group_size,
                calls: calls.len() as u64,
                message_bytes,
                sum_ns,
                min_ns,
                max_ns: calls.iter().map(|call| call.dur_ns).max().unwrap_or_default(),
                algorithm_gb_per_s: algorithm,
                bus_gb_per_s: algorithm.zip(group_size).map(|(speed, size)| speed * bus_factor(kind, size)),
                fastest_bus_gb_per_s: fastest.zip(group_size).map(|(speed, size)| speed * bus_factor(kind, size)),
            }
        })
        .collect();
    out.sort_by_key(|entry| std::cmp::Reverse(entry.sum_ns));
    out
}

fn step_kinds(ranks: &[RankAnalysis]) -> Vec<StepKind> {
    let mut kinds: BTreeMap<crate::steps::Phase, StepKind> = BTreeMap::new();
    for step in ranks.iter().flat_map(|rank| &rank.steps).filter(|step| step.is_used) {
        let phase = step.name.phase();
        let kind = kinds.entry(phase).or_default();
        phase.name().clone_into(&mut kind.kind);
        kind.steps += 1;
        kind.sum_ns = kind.sum_ns.saturating_add(step.time_ns);
        for (total, tokens) in [
            (&mut kind.context_tokens, step.name.context_tokens),
            (&mut kind.generation_tokens, step.name.generation_tokens.or(step.name.generation_requests)),
        ] {
            if let Some(tokens) = tokens {
                *total = Some(total.unwrap_or(0).saturating_add(tokens));
            }
        }
    }
    kinds.into_values().collect()
}

fn summary(rank: &RankAnalysis, place: usize, matched: &Result<Matched, String>) -> RankSummary {
    let mut out = RankSummary {
        rank: rank.meta.rank.unwrap_or_default(),
        host: rank.meta.host.clone(),
        steps: rank.steps.len() as u64,
        comm_wait_ns: matched.as_ref().ok().and_then(|matched| matched.wait_ns.get(place).copied()),
        ..RankSummary::default()
    };
    match &rank.device {
        Some(device) => {
            out.span_ns = device.span_ns;
            out.busy_ns = device.busy_ns;
            out.compute_ns = device.compute_ns;
            out.comm_ns = device.comm_ns;
            out.exposed_comm_ns = device.exposed_comm_ns;
            out.memcpy_ns = device.copy_ns;
            out.exposed_memcpy_ns = device.exposed_copy_ns;
            out.idle_ns = device.span_ns.saturating_sub(device.busy_ns);
            out.kernels = device.kernel_count;
            out.copies = device.copies;
            out.streams.clone_from(&device.streams);
        }
        None => {
            let totals = &rank.totals;
            out.span_ns = totals.first_ns.zip(totals.last_ns).map_or(0, |(first, last)| last.saturating_sub(first));
        }
    }
    out
}

fn input(rank: &RankAnalysis) -> TraceInput {
    let mut facts = rank.meta.facts.clone();
    if let Some(gpu) = rank.device.as_ref().and_then(|device| device.gpu.clone()) {
        facts.insert("gpu".to_owned(), gpu);
    }
    if let Some(backend) = &rank.meta.backend {
        facts.insert("backend".to_owned(), backend.clone());
    }
    TraceInput {
        path: rank.meta.path.clone(),
        format: rank.meta.format.to_owned(),
        rank: rank.meta.rank,
        rank_source: rank.meta.rank_source.map(str::to_owned),
        bytes: rank.meta.bytes,
        text_bytes: rank.meta.text_bytes,
        events: rank.totals.events,
        is_truncated: rank.meta.is_truncated,
        facts,
    }
}

fn warnings(ranks: &[RankAnalysis], numbers: &[u32]) -> Vec<TraceWarning> {
    let mut out = Vec::new();
    let mut warn = |code: &str, detail: String| {
        out.push(TraceWarning { code: code.to_owned(), detail });
    };
    for (rank, number) in ranks.iter().zip(numbers) {
        for warning in &rank.warnings {
            warn(&warning.code, format!("rank {number}: {}", warning.detail));
        }
    }
    let without: Vec<&RankAnalysis> = ranks.iter().filter(|rank| rank.device.is_none()).collect();
    if let Some(first) = without.first() {
        let reason = no_device(first);
        let code = if reason.contains("hollow") {
            "hollow"
        } else if reason.contains("CPU backend") {
            "cpu_backend"
        } else {
            "no_device"
        };
        warn(code, format!("{} of {} ranks: {reason}", without.len(), ranks.len()));
    }
    if let Some(reason) = ranks.iter().find_map(opaque) {
        warn("graph_mode", reason);
    }
    if let Some(world) = ranks.iter().filter_map(|rank| rank.meta.world_size).max()
        && (ranks.len() as u64) < u64::from(world)
    {
        warn(
            "missing_ranks",
            format!(
                "traces of {} of {world} ranks: waiting, stragglers and imbalance are only among these",
                ranks.len()
            ),
        );
    }
    let steps: BTreeSet<usize> = ranks.iter().map(|rank| rank.steps.len()).collect();
    if steps.len() > 1 {
        let shown: Vec<String> = steps.iter().map(usize::to_string).collect();
        warn("uneven_steps", format!("the ranks have different numbers of step markers: {}", shown.join(", ")));
    }
    if let Some(few) = steps.iter().find(|count| (1..3).contains(*count)) {
        warn(
            "few_steps",
            format!(
                "only {few} step marker(s): the first and the last could not be dropped, so start-up and cut-off are in the numbers"
            ),
        );
    }
    out
}
