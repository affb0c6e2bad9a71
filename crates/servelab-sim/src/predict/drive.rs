//! Runs one cell on the virtual clock and turns its stamps into what a client would report. Clients and servers are
//! apart: a request reaches the engine after the ingress time, and its first byte returns after the response time.

use super::{ArrivalKind, CellLoad, Label, LimitsTouched, Prediction, Quantiles};
use crate::SimError;
use crate::config::ServerConfig;
use crate::engine::Content;
use crate::simulate::{
    Arrivals, ClosedLoop, Deployment, GapHistogram, OpenLoop, Phase, PoolSummary, Router, RunSummary, Served, Server,
    SimRequest, Transfer, Window, simulate,
};
use crate::step_time::{Parameters, RooflineStepTime};

/// Steps after which a cell is cut off: a guard against loads that never end.
const MOST_STEPS: u64 = 100_000_000;

/// Predicts one cell of a server whose ranks are all alike.
pub fn predict_cell(config: &ServerConfig, load: &CellLoad) -> Result<Prediction, SimError> {
    predict_fleet(config, 1, None, load)
}

/// Predicts one cell of several equal servers, or of some behind servers that compute the prompts.
pub fn predict_fleet(
    config: &ServerConfig,
    n_servers: u32,
    prefill: Option<&PrefillServers>,
    load: &CellLoad,
) -> Result<Prediction, SimError> {
    let parameters = config.constants()?;
    let step_time = RooflineStepTime::with_parameters(config, (*parameters).clone());
    let mut deployment = Deployment::replicas(Server::of(config, &step_time), n_servers, Router::RoundRobin);
    let prefill_step_time;
    if let Some(prefill) = prefill {
        let constants = prefill.config.constants()?;
        prefill_step_time = RooflineStepTime::with_parameters(&prefill.config, (*constants).clone());
        deployment.prefill = vec![Server::of(&prefill.config, &prefill_step_time); prefill.n_servers.max(1) as usize];
        let transfer = Transfer::between(&prefill.config, config, prefill.same_node, &parameters.kv_transfer);
        deployment.transfer = Some(transfer);
    }
    let mut run = Run::new(&parameters, &deployment);
    let total = u64::from(load.warmup_requests) + u64::from(load.requests);
    let request = |index: u64| {
        let at = (index % load.lengths.len().max(1) as u64) as usize;
        let (prompt, output) = load.lengths.get(at).copied().unwrap_or((1, 1));
        let mut request = SimRequest::new(prompt.max(1), output.max(1));
        if load.shared_prefix_tokens > 0 {
            request.content = Content::SharedPrefix { family: 1, tokens: load.shared_prefix_tokens.min(prompt) };
        }
        request
    };
    let window = Window {
        warmup_requests: load.warmup_requests.into(),
        requests: Some(load.requests.into()),
        duration_ns: load.duration_ns,
        max_steps: MOST_STEPS,
        ..Window::default()
    };
    match &load.arrivals {
        ArrivalKind::Closed { concurrency, ramp_ns, think_ns } => {
            let mut next = 0;
            let source = |_slot: u32| {
                let index = next;
                next += 1;
                (index < total).then(|| request(index))
            };
            // A client that was answered is heard of again after response, pause and ingress.
            let (first, _) = load.lengths.first().copied().unwrap_or((1, 1));
            let between = run.response_ns + think_ns + run.ingress_ns(first);
            let slots = u64::from(*concurrency).min(total);
            let clients = ClosedLoop::new(u32::try_from(slots).unwrap_or(u32::MAX), between, source);
            run.go(clients.with_ramp_ns(*ramp_ns), window)?;
        }
        ArrivalKind::Open { instants_ns } => {
            let arrivals = instants_ns.iter().take(total as usize).enumerate();
            run.go(OpenLoop::new(arrivals.map(|(index, at)| (*at, request(index as u64)))), window)?;
        }
        ArrivalKind::Batches { size } => {
            let size = u64::from((*size).max(1));
            let warmup = u64::from(load.warmup_requests).div_ceil(size);
            // Every batch starts on an idle server; batches of the warm-up leave nothing behind that is modelled.
            for batch in warmup..total.div_ceil(size).max(warmup + 1) {
                let indices = batch * size..((batch + 1) * size).min(total.max(batch * size + 1));
                let source = OpenLoop::new(indices.map(|index| (0, request(index))));
                run.go(source, Window { max_steps: MOST_STEPS, ..Window::default() })?;
            }
        }
    }
    Ok(run.prediction(config, prefill.map(|prefill| &prefill.config)))
}

/// Servers that compute the prompts for those that generate.
#[derive(Debug, Clone, PartialEq)]
pub struct PrefillServers {
    /// Each of them.
    pub config: ServerConfig,
    /// How many.
    pub n_servers: u32,
    /// On the node of the servers that generate: KV travels over the scale-up link, not the network.
    pub same_node: bool,
}

/// Of two runs one after the other: extremes and counts of both, means of the last.
fn together(old: &PoolSummary, new: &PoolSummary) -> PoolSummary {
    PoolSummary {
        kv_max: old.kv_max.max(new.kv_max),
        max_batch: old.max_batch.max(new.max_batch),
        preemptions: old.preemptions + new.preemptions,
        seqs_limit_hit: old.seqs_limit_hit | new.seqs_limit_hit,
        token_limit_hit: old.token_limit_hit | new.token_limit_hit,
        kv_limit_hit: old.kv_limit_hit | new.kv_limit_hit,
        ..new.clone()
    }
}

/// What was seen of one run, or of several one after the other.
struct Run<'a> {
    parameters: &'a Parameters,
    deployment: &'a Deployment<'a>,
    /// Servers that a request goes through, one after the other.
    legs: u64,
    response_ns: u64,
    ttft_ms: Vec<f64>,
    tpot_ms: Vec<f64>,
    e2e_ms: Vec<f64>,
    gaps: GapHistogram,
    output_tokens: u64,
    completed: u64,
    refused: u64,
    window_s: f64,
    pool: PoolSummary,
    prefill_pool: Option<PoolSummary>,
    transfer_mean_ns: f64,
    saturated: bool,
}

impl<'a> Run<'a> {
    fn new(parameters: &'a Parameters, deployment: &'a Deployment<'a>) -> Self {
        // A split request is answered twice: by the prefill server, then by the one that generates.
        let legs = if deployment.prefill.is_empty() { 1 } else { 2 };
        let response_ns = (parameters.calibration.ingress * 1e3 * parameters.host.first_response_us) as u64;
        Self {
            parameters,
            deployment,
            legs,
            response_ns: legs * response_ns,
            ttft_ms: Vec::new(),
            tpot_ms: Vec::new(),
            e2e_ms: Vec::new(),
            gaps: GapHistogram::default(),
            output_tokens: 0,
            completed: 0,
            refused: 0,
            window_s: 0.0,
            pool: PoolSummary::default(),
            prefill_pool: None,
            transfer_mean_ns: 0.0,
            saturated: false,
        }
    }

    fn ingress_ns(&self, prompt_tokens: u32) -> u64 {
        let host = &self.parameters.host;
        let us = host.ingress_us + host.ingress_per_token_us * f64::from(prompt_tokens);
        self.legs * (self.parameters.calibration.ingress * 1e3 * us) as u64
    }

    fn go(&mut self, arrivals: impl Arrivals, window: Window) -> Result<(), SimError> {
        let (mut first_sent, mut last_done) = (u64::MAX, 0_u64);
        let deployment = self.deployment;
        let mut sink = |served: &Served| {
            if served.phase != Phase::Measured {
                return;
            }
            if served.refused() {
                self.refused += 1;
                return;
            }
            let outside = self.ingress_ns(served.prompt_tokens) + self.response_ns;
            self.completed += 1;
            self.output_tokens += u64::from(served.output_tokens);
            self.ttft_ms.push((served.ttft_ns() + outside) as f64 / 1e6);
            self.e2e_ms.push((served.e2e_ns() + outside) as f64 / 1e6);
            self.tpot_ms.extend(served.tpot_ns().map(|ns| ns / 1e6));
            first_sent = first_sent.min(served.arrival_ns);
            last_done = last_done.max(served.done_ns);
        };
        let summary = simulate(deployment, arrivals, window, &mut sink)?;
        self.window_s += last_done.saturating_sub(first_sent) as f64 / 1e9;
        self.add(&summary);
        Ok(())
    }

    fn add(&mut self, summary: &RunSummary) {
        self.gaps.merge(&summary.gaps);
        self.saturated |= summary.saturated;
        self.pool = together(&self.pool, &summary.pool);
        if let Some(of_prefill) = &summary.prefill_pool {
            self.prefill_pool = Some(together(&self.prefill_pool.take().unwrap_or_default(), of_prefill));
        }
        self.transfer_mean_ns = summary.transfer_mean_ns;
    }

    fn prediction(mut self, config: &ServerConfig, prefill: Option<&ServerConfig>) -> Prediction {
        let rate = |count: u64| if self.window_s > 0.0 { count as f64 / self.window_s } else { 0.0 };
        let (output_tokens_per_s, requests_per_s) = (rate(self.output_tokens), rate(self.completed));
        let ms = |ns: Option<f64>| ns.map(|ns| ns / 1e6);
        let (mut label, mut label_reasons) = super::label::label(config, self.parameters);
        if prefill.is_some() {
            label = Label::Unvalidated;
            label_reasons.push("splitting prefill and decode was never compared with a measurement".to_owned());
        }
        let ranks = f64::from(config.dp.max(1)) * self.deployment.servers.len() as f64;
        let of_prefill = self.prefill_pool.unwrap_or_default();
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
            output_tokens_per_s,
            requests_per_s,
            completed: self.completed,
            refused: self.refused,
            kv_capacity_tokens: config.num_gpu_blocks.saturating_sub(1) * u64::from(config.block_size),
            kv_peak: self.pool.kv_max,
            kv_mean: self.pool.kv_mean,
            preemptions: self.pool.preemptions + of_prefill.preemptions,
            saturated: self.saturated,
            running_mean: self.pool.running_mean * ranks,
            waiting_mean: self.pool.waiting_mean * ranks,
            running_max: self.pool.max_batch,
            limits: LimitsTouched {
                max_num_seqs: self.pool.seqs_limit_hit | of_prefill.seqs_limit_hit,
                max_num_batched_tokens: self.pool.token_limit_hit | of_prefill.token_limit_hit,
                kv_cache: self.pool.kv_limit_hit | of_prefill.kv_limit_hit,
            },
            window_s: self.window_s,
            transfer_mean_ms: prefill.is_some().then(|| self.transfer_mean_ns / 1e6),
        }
    }
}
