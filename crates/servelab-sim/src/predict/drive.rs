//! Runs one cell on the virtual clock and turns its stamps into what a client would report. Clients and servers are
//! apart: a request reaches the engine after the ingress time, and its first byte returns after the response time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use super::{ArrivalKind, CellLoad, LimitsTouched, Prediction, Quantiles};
use crate::SimError;
use crate::cluster::Cluster;
use crate::config::ServerConfig;
use crate::engine::{FinishReason, RequestSpec};
use crate::simulate::GapHistogram;
use crate::step_time::{Parameters, RooflineStepTime};
use crate::text::OutputText;

/// Steps after which a cell is cut off: a guard against loads that never end.
const MAX_EVENTS: u64 = 200_000_000;

struct Open {
    sent_ns: u64,
    first_ns: u64,
    last_ns: u64,
    n_output: u32,
    is_measured: bool,
}

#[derive(Default)]
struct Stamps {
    ttft_ms: Vec<f64>,
    tpot_ms: Vec<f64>,
    e2e_ms: Vec<f64>,
    gaps: GapHistogram,
    output_tokens: u64,
    completed: u64,
    first_sent_ns: Option<u64>,
    last_done_ns: u64,
}

/// Predicts one cell of a server whose ranks are all alike.
pub fn predict_cell(config: &ServerConfig, load: &CellLoad) -> Result<Prediction, SimError> {
    let parameters = match &config.parameters {
        Some(parameters) => (**parameters).clone(),
        None => Parameters::builtin(&config.gpu)?,
    };
    let scale = parameters.calibration.ingress * 1e3;
    let ingress = |prompt: u32| {
        (scale * (parameters.host.ingress_us + parameters.host.ingress_per_token_us * f64::from(prompt))) as u64
    };
    let response_ns = (scale * parameters.host.first_response_us) as u64;
    let total = u64::from(load.warmup_requests) + u64::from(load.requests);
    let lengths =
        |index: u64| load.lengths.get((index % load.lengths.len().max(1) as u64) as usize).copied().unwrap_or((1, 1));
    let step_time = Box::new(RooflineStepTime::with_parameters(config, parameters.clone()));
    let mut cluster = Cluster::with_step_time(
        &crate::engine::EngineConfig::of(config),
        config.dp as usize,
        config.lock_step(),
        step_time,
    );
    // (instant at the engine, request index), earliest first.
    let mut arrivals: BinaryHeap<Reverse<(u64, u64)>> = BinaryHeap::new();
    let mut sent: HashMap<u64, u64> = HashMap::new();
    let mut next_index = 0_u64;
    let mut limit_ns = u64::MAX;
    let send =
        |index: u64, at_ns: u64, arrivals: &mut BinaryHeap<Reverse<(u64, u64)>>, sent: &mut HashMap<u64, u64>| {
            sent.insert(index, at_ns);
            arrivals.push(Reverse((at_ns + ingress(lengths(index).0), index)));
        };
    let (slots, think_ns) = match &load.arrivals {
        ArrivalKind::Closed { concurrency, ramp_ns, think_ns } => {
            let slots = u64::from(*concurrency).min(total);
            for slot in 0..slots {
                send(next_index, ramp_ns * slot / slots.max(1), &mut arrivals, &mut sent);
                next_index += 1;
            }
            (slots, *think_ns)
        }
        ArrivalKind::Batches { size } => {
            let slots = u64::from(*size).min(total);
            for _ in 0..slots {
                send(next_index, 0, &mut arrivals, &mut sent);
                next_index += 1;
            }
            (slots, 0)
        }
        ArrivalKind::Open { instants_ns, .. } => {
            for at_ns in instants_ns.iter().take(total as usize) {
                send(next_index, *at_ns, &mut arrivals, &mut sent);
                next_index += 1;
            }
            (0, 0)
        }
    };
    let is_batched = matches!(load.arrivals, ArrivalKind::Batches { .. });
    if let (Some(duration), ArrivalKind::Closed { .. }) = (load.duration_ns, &load.arrivals) {
        limit_ns = duration;
    }
    let mut open: HashMap<u64, Open> = HashMap::new();
    let mut stamps = Stamps::default();
    let mut finished: Vec<(u64, u64)> = Vec::new();
    let (mut refused, mut in_batch, mut events) = (0_u64, slots, 0_u64);
    let mut seen = Seen::default();
    let mut now_ns;
    loop {
        let arrival = arrivals.peek().map(|Reverse((at, _))| *at);
        now_ns = match (arrival, cluster.next_step_end_ns()) {
            (Some(arrival), Some(end)) => arrival.min(end),
            (Some(only), None) | (None, Some(only)) => only,
            (None, None) => break,
        };
        events += 1;
        if events > MAX_EVENTS {
            break;
        }
        while let Some(Reverse((at, index))) = arrivals.peek().copied() {
            if at > now_ns {
                break;
            }
            arrivals.pop();
            let (prompt, output) = lengths(index);
            let spec = request(index, prompt, output, load.shared_prefix_tokens, at);
            let sent_ns = sent.remove(&index).unwrap_or(at);
            if cluster.submit(spec) {
                let is_measured = index >= u64::from(load.warmup_requests);
                open.insert(index, Open { sent_ns, first_ns: 0, last_ns: 0, n_output: 0, is_measured });
            } else {
                refused += 1;
                finished.push((at, index));
            }
        }
        cluster.advance_to(now_ns, &mut |at, progress| {
            let Some(entry) = open.get_mut(&progress.id) else { return };
            let n_new = progress.n_output.saturating_sub(entry.n_output);
            if entry.n_output == 0 {
                entry.first_ns = at;
            } else if entry.is_measured {
                stamps.gaps.add(at - entry.last_ns, 1);
                if n_new > 1 {
                    stamps.gaps.add(0, u64::from(n_new - 1));
                }
            }
            entry.n_output = progress.n_output;
            entry.last_ns = at;
            if progress.finish.is_some() {
                finished.push((at, progress.id));
            }
        });
        seen.look(&cluster, now_ns);
        for (at, index) in finished.drain(..) {
            let answered = at + response_ns;
            if let Some(entry) = open.remove(&index) {
                stamps.take(&entry, response_ns);
            }
            let next_at = answered + think_ns;
            if slots == 0 {
                continue;
            }
            if is_batched {
                in_batch -= 1;
                if in_batch > 0 {
                    continue;
                }
                in_batch = slots.min(total - next_index);
                for _ in 0..in_batch {
                    send(next_index, next_at, &mut arrivals, &mut sent);
                    next_index += 1;
                }
            } else if next_index < total && next_at < limit_ns {
                send(next_index, next_at, &mut arrivals, &mut sent);
                next_index += 1;
            }
        }
    }
    Ok(stamps.prediction(config, &parameters, &cluster, &seen, refused))
}

/// Time-weighted observations of all ranks.
#[derive(Default)]
struct Seen {
    last_ns: u64,
    kv_area: f64,
    running_area: f64,
    waiting_area: f64,
    kv_peak: f64,
    running_max: u32,
    waiting_early: f64,
    waiting_late: f64,
    seqs_limit: bool,
    kv_limit: bool,
}

impl Seen {
    fn look(&mut self, cluster: &Cluster, now_ns: u64) {
        let span = now_ns.saturating_sub(self.last_ns) as f64;
        self.last_ns = now_ns;
        let ranks = cluster.engines().len().max(1) as f64;
        for engine in cluster.engines() {
            let usage = engine.kv_usage();
            self.kv_peak = self.kv_peak.max(usage);
            self.kv_area += usage * span / ranks;
            self.running_area += engine.n_running() as f64 * span;
            self.waiting_area += engine.n_waiting() as f64 * span;
            self.running_max = self.running_max.max(engine.n_running() as u32);
            if engine.n_waiting() > 0 {
                let full = engine.n_running() >= engine.max_num_seqs() as usize;
                self.seqs_limit |= full;
                self.kv_limit |= !full && usage > 0.9;
            }
        }
        self.waiting_early = self.waiting_area;
    }
}

impl Stamps {
    fn take(&mut self, entry: &Open, response_ns: u64) {
        if !entry.is_measured {
            return;
        }
        let ms = |ns: u64| ns as f64 / 1e6;
        self.completed += 1;
        self.output_tokens += u64::from(entry.n_output);
        self.ttft_ms.push(ms(entry.first_ns + response_ns - entry.sent_ns));
        self.e2e_ms.push(ms(entry.last_ns + response_ns - entry.sent_ns));
        if entry.n_output > 1 {
            self.tpot_ms.push(ms(entry.last_ns - entry.first_ns) / f64::from(entry.n_output - 1));
        }
        self.first_sent_ns = Some(self.first_sent_ns.map_or(entry.sent_ns, |first| first.min(entry.sent_ns)));
        self.last_done_ns = self.last_done_ns.max(entry.last_ns + response_ns);
    }

    fn prediction(
        mut self,
        config: &ServerConfig,
        parameters: &Parameters,
        cluster: &Cluster,
        seen: &Seen,
        refused: u64,
    ) -> Prediction {
        let window_s = self.last_done_ns.saturating_sub(self.first_sent_ns.unwrap_or(0)) as f64 / 1e9;
        let rate = |count: u64| if window_s > 0.0 { count as f64 / window_s } else { 0.0 };
        let span = (seen.last_ns as f64).max(1.0);
        let ms = |ns: Option<f64>| ns.map(|ns| ns / 1e6);
        let (label, label_reasons) = super::label::label(config, parameters);
        Prediction {
            label,
            label_reasons,
            ttft_ms: Quantiles::of(&mut self.ttft_ms),
            tpot_ms: Quantiles::of(&mut self.tpot_ms),
            itl_ms: Quantiles {
                mean: ms(self.gaps.mean_ns()),
                p50: ms(self.gaps.quantile_ns(0.5)),
                p90: ms(self.gaps.quantile_ns(0.9)),
                p95: ms(self.gaps.quantile_ns(0.95)),
                p99: ms(self.gaps.quantile_ns(0.99)),
                max: (self.gaps.count() > 0).then(|| self.gaps.max_ns() as f64 / 1e6),
                n: self.gaps.count(),
            },
            e2e_ms: Quantiles::of(&mut self.e2e_ms),
            output_tokens_per_s: rate(self.output_tokens),
            requests_per_s: rate(self.completed),
            completed: self.completed,
            refused,
            kv_capacity_tokens: config.num_gpu_blocks.saturating_sub(1) * u64::from(config.block_size),
            kv_peak: seen.kv_peak,
            kv_mean: seen.kv_area / span,
            preemptions: cluster.engines().iter().map(|engine| engine.metrics().preemptions).sum(),
            saturated: seen.waiting_late > 2.0 * seen.waiting_early,
            running_mean: seen.running_area / span,
            waiting_mean: seen.waiting_area / span,
            running_max: seen.running_max,
            limits: LimitsTouched {
                max_num_seqs: seen.seqs_limit,
                kv_cache: seen.kv_limit,
                ..LimitsTouched::default()
            },
            window_s,
        }
    }
}

fn request(index: u64, prompt: u32, output: u32, shared: u32, arrival_ns: u64) -> RequestSpec {
    // Token ids only matter to the prefix cache: a common beginning, then ids that no other request has.
    let prompt = prompt.max(1);
    let own = (index as u32).wrapping_mul(0x9E37_79B9);
    let ids: Arc<[u32]> = (0..prompt).map(|at| if at < shared { at } else { own ^ at }).collect();
    RequestSpec {
        id: index,
        output: OutputText::new(index, &ids),
        prompt: ids,
        output_tokens: output.max(1),
        max_tokens: output.max(1),
        finish: FinishReason::Length,
        arrival_ns,
    }
}
