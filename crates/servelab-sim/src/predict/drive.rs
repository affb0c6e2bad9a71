//! Runs one cell on the virtual clock and turns its stamps into what a client would report. Clients and servers are
//! apart: a request reaches the engine after the ingress time, and its first byte returns after the response time.

use super::{ArrivalKind, CellLoad, LimitsTouched, Prediction, Quantiles};
use crate::SimError;
use crate::config::ServerConfig;
use crate::engine::{Content, EngineConfig};
use crate::simulate::{
    Arrivals, ClosedLoop, Deployment, GapHistogram, OpenLoop, Phase, PoolSummary, RunSummary, Served, Server,
    SimRequest, Window, simulate,
};
use crate::step_time::{Parameters, RooflineStepTime};

/// Steps after which a cell is cut off: a guard against loads that never end.
const MOST_STEPS: u64 = 100_000_000;

/// Predicts one cell of a server whose ranks are all alike.
pub fn predict_cell(config: &ServerConfig, load: &CellLoad) -> Result<Prediction, SimError> {
    let parameters = match &config.parameters {
        Some(parameters) => (**parameters).clone(),
        None => Parameters::builtin(&config.gpu)?,
    };
    let step_time = RooflineStepTime::with_parameters(config, parameters.clone());
    let server = Server {
        engine: EngineConfig {
            context_ranks: config.dcp,
            ..EngineConfig::of(config).with_async_scheduling(config.async_scheduling)
        },
        ranks: config.dp,
        lock_step: config.lock_step(),
        step_time: &step_time,
    };
    let deployment = Deployment::single(server);
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
    Ok(run.prediction(config))
}

/// What was seen of one run, or of several one after the other.
struct Run<'a> {
    parameters: &'a Parameters,
    deployment: &'a Deployment<'a>,
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
    saturated: bool,
}

impl<'a> Run<'a> {
    fn new(parameters: &'a Parameters, deployment: &'a Deployment<'a>) -> Self {
        let response_ns = (parameters.calibration.ingress * 1e3 * parameters.host.first_response_us) as u64;
        Self {
            parameters,
            deployment,
            response_ns,
            ttft_ms: Vec::new(),
            tpot_ms: Vec::new(),
            e2e_ms: Vec::new(),
            gaps: GapHistogram::default(),
            output_tokens: 0,
            completed: 0,
            refused: 0,
            window_s: 0.0,
            pool: PoolSummary::default(),
            saturated: false,
        }
    }

    fn ingress_ns(&self, prompt_tokens: u32) -> u64 {
        let host = &self.parameters.host;
        let us = host.ingress_us + host.ingress_per_token_us * f64::from(prompt_tokens);
        (self.parameters.calibration.ingress * 1e3 * us) as u64
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
        let (old, new) = (&self.pool, &summary.pool);
        self.gaps.merge(&summary.gaps);
        self.saturated |= summary.saturated;
        self.pool = PoolSummary {
            kv_max: old.kv_max.max(new.kv_max),
            max_batch: old.max_batch.max(new.max_batch),
            preemptions: old.preemptions + new.preemptions,
            seqs_limit_hit: old.seqs_limit_hit | new.seqs_limit_hit,
            token_limit_hit: old.token_limit_hit | new.token_limit_hit,
            kv_limit_hit: old.kv_limit_hit | new.kv_limit_hit,
            ..new.clone()
        };
    }

    fn prediction(mut self, config: &ServerConfig) -> Prediction {
        let rate = |count: u64| if self.window_s > 0.0 { count as f64 / self.window_s } else { 0.0 };
        let (output_tokens_per_s, requests_per_s) = (rate(self.output_tokens), rate(self.completed));
        let ms = |ns: Option<f64>| ns.map(|ns| ns / 1e6);
        let (label, label_reasons) = super::label::label(config, self.parameters);
        let ranks = f64::from(config.dp.max(1));
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
            preemptions: self.pool.preemptions,
            saturated: self.saturated,
            running_mean: self.pool.running_mean * ranks,
            waiting_mean: self.pool.waiting_mean * ranks,
            running_max: self.pool.max_batch,
            limits: LimitsTouched {
                max_num_seqs: self.pool.seqs_limit_hit,
                max_num_batched_tokens: self.pool.token_limit_hit,
                kv_cache: self.pool.kv_limit_hit,
            },
            window_s: self.window_s,
        }
    }
}
