//! All data-parallel ranks of one server and their steps in simulated time: which rank gets a request, who steps with
//! whom, when the next tokens are there. Driven by a real clock in `live`, or by [`Cluster::run`] in virtual time.

use std::collections::HashMap;

use crate::SimError;
use crate::config::ServerConfig;
use crate::engine::{Engine, EngineConfig, Progress, RequestSpec};
use crate::step_time::{Regime, RooflineStepTime, StepShape, StepTime};
use crate::timeline::Timeline;

/// Ranks that step together, and their steps under way.
#[derive(Debug)]
struct Group {
    ranks: std::ops::Range<usize>,
    line: Timeline,
    n_steps: u64,
}

/// One step of one rank, for profilers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepRecord {
    /// Data-parallel rank.
    pub rank: usize,
    /// Simulated nanoseconds.
    pub start_ns: u64,
    /// Until its tokens were there.
    pub duration_ns: u64,
    /// What it computed.
    pub shape: StepShape,
}

/// The engines of one server.
pub struct Cluster {
    records: Option<Vec<StepRecord>>,
    engines: Vec<Engine>,
    groups: Vec<Group>,
    owner: HashMap<u64, usize>,
    step_time: Box<dyn StepTime>,
    slow_factor: f64,
    next_rank: usize,
    shapes: Vec<Option<StepShape>>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("engines", &self.engines).field("groups", &self.groups).finish_non_exhaustive()
    }
}

impl Cluster {
    /// The ranks of a resolved configuration, timed by the roofline model.
    pub fn new(config: &ServerConfig) -> Result<Self, SimError> {
        let step_time = Box::new(RooflineStepTime::new(config)?);
        Ok(Self::with_step_time(&EngineConfig::of(config), config.dp as usize, config.lock_step(), step_time))
    }

    /// `n_ranks` equal ranks with another timing model; `lock_step` makes all of them wait for the slowest.
    pub fn with_step_time(
        config: &EngineConfig,
        n_ranks: usize,
        lock_step: bool,
        step_time: Box<dyn StepTime>,
    ) -> Self {
        let n_ranks = n_ranks.max(1);
        let span = if lock_step { n_ranks } else { 1 };
        Self {
            records: None,
            engines: (0..n_ranks).map(|_| Engine::new(config.clone())).collect(),
            groups: (0..n_ranks / span)
                .map(|index| Group {
                    ranks: index * span..(index + 1) * span,
                    line: Timeline::new(config.concurrent_batches, config.pipeline_stages),
                    n_steps: 0,
                })
                .collect(),
            owner: HashMap::new(),
            step_time,
            slow_factor: 1.0,
            next_rank: 0,
            shapes: Vec::new(),
        }
    }

    /// Makes every later step take this many times longer.
    pub fn set_slow_factor(&mut self, factor: f64) {
        self.slow_factor = factor;
    }

    /// Keeps a record of every step from now on, or no longer.
    pub fn record_steps(&mut self, keeps: bool) {
        self.records = keeps.then(Vec::new);
    }

    /// Hands out the records so far.
    pub fn take_steps(&mut self) -> Vec<StepRecord> {
        self.records.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Queues a request on the rank with the least load (waiting counts four times, as in vLLM's balancer). False when
    /// it could never run.
    pub fn submit(&mut self, spec: RequestSpec) -> bool {
        let n_ranks = self.engines.len();
        let first = self.next_rank;
        let rank = (0..n_ranks)
            .map(|offset| (first + offset) % n_ranks)
            .min_by_key(|rank| self.engines.get(*rank).map_or(usize::MAX, |e| 4 * e.n_waiting() + e.n_running()))
            .unwrap_or(0);
        self.next_rank = (rank + 1) % n_ranks;
        let id = spec.id;
        let taken = self.engines.get_mut(rank).is_some_and(|engine| engine.add(spec));
        if taken {
            self.owner.insert(id, rank);
        }
        taken
    }

    /// The rank that a request is on; `None` when there is none of that id.
    pub fn rank_of(&self, id: u64) -> Option<usize> {
        self.owner.get(&id).copied()
    }

    /// Ends a request whose client went away.
    pub fn abort(&mut self, id: u64) -> bool {
        let rank = self.owner.remove(&id);
        rank.and_then(|rank| self.engines.get_mut(rank)).is_some_and(|engine| engine.abort(id))
    }

    /// Completes every step that ends by `now_ns`, each followed by the next one without a gap, then starts idle ranks.
    pub fn advance_to(&mut self, now_ns: u64, sink: &mut dyn FnMut(u64, Progress)) {
        loop {
            let due = self
                .groups
                .iter()
                .enumerate()
                .filter_map(|(index, group)| group.line.next_end_ns().map(|end| (end, index)))
                .filter(|(end, _)| *end <= now_ns)
                .min();
            let Some((end, index)) = due else { break };
            self.complete(index, end, sink);
            self.start(index, end);
        }
        for index in 0..self.groups.len() {
            if self.groups.get(index).is_some_and(|group| group.line.is_idle()) {
                self.start(index, now_ns);
            }
        }
    }

    /// When the next step ends; `None` when nothing runs.
    pub fn next_step_end_ns(&self) -> Option<u64> {
        self.groups.iter().filter_map(|group| group.line.next_end_ns()).min()
    }

    /// The ranks.
    pub fn engines(&self) -> &[Engine] {
        &self.engines
    }

    /// Requests waiting or running on any rank.
    pub fn n_requests(&self) -> usize {
        self.owner.len()
    }

    /// Empties all prefix caches; false when a rank refused because requests hold blocks.
    pub fn reset_prefix_cache(&mut self) -> bool {
        let n_refused = self.engines.iter_mut().map(Engine::reset_prefix_cache).filter(|emptied| !emptied).count();
        n_refused == 0
    }

    /// Virtual time: feeds `arrivals` (sorted by arrival) and runs until everything is finished. The sink gets each
    /// token with its instant. Returns the end in simulated nanoseconds, and the ids of requests that could never run.
    pub fn run(
        &mut self,
        arrivals: impl IntoIterator<Item = RequestSpec>,
        sink: &mut dyn FnMut(u64, Progress),
    ) -> (u64, Vec<u64>) {
        let mut arrivals = arrivals.into_iter().peekable();
        let mut refused = Vec::new();
        let mut now_ns = 0;
        loop {
            let arrival = arrivals.peek().map(|spec| spec.arrival_ns);
            let step_end = self.next_step_end_ns();
            now_ns = match (arrival, step_end) {
                (Some(arrival), Some(end)) => arrival.min(end),
                (Some(only), None) | (None, Some(only)) => only,
                (None, None) => return (now_ns, refused),
            };
            while let Some(spec) = arrivals.next_if(|spec| spec.arrival_ns <= now_ns) {
                let id = spec.id;
                if !self.submit(spec) {
                    refused.push(id);
                }
            }
            self.advance_to(now_ns, sink);
        }
    }

    fn complete(&mut self, group: usize, end_ns: u64, sink: &mut dyn FnMut(u64, Progress)) {
        let Some(group) = self.groups.get_mut(group) else { return };
        group.line.pop();
        let owner = &mut self.owner;
        for engine in self.engines.get_mut(group.ranks.clone()).unwrap_or_default() {
            engine.complete(end_ns, &mut |progress| {
                if progress.finish.is_some() {
                    owner.remove(&progress.id);
                }
                sink(end_ns, progress);
            });
        }
    }

    /// Plans steps until as many are under way as may be, or nothing is left to plan.
    fn start(&mut self, group: usize, now_ns: u64) {
        let Some(group) = self.groups.get_mut(group) else { return };
        while !group.line.is_full() {
            let engines = self.engines.get_mut(group.ranks.clone()).unwrap_or_default();
            let interval = engines.first().map_or(1, |engine| u64::from(engine.config().prefill_schedule_interval));
            let throttled = interval > 1 && !group.n_steps.is_multiple_of(interval);
            self.shapes.clear();
            self.shapes.extend(engines.iter_mut().map(|engine| engine.schedule_throttled(now_ns, throttled)));
            if self.shapes.iter().all(Option::is_none) {
                return;
            }
            for (engine, shape) in engines.iter_mut().zip(&self.shapes) {
                if shape.is_none() {
                    engine.push_dummy();
                }
            }
            join_ranks(&mut self.shapes);
            let slowest = self.shapes.iter().flatten().map(|shape| self.step_time.step_nanos(shape)).max().unwrap_or(1);
            let duration_ns = ((slowest as f64 * self.slow_factor) as u64).max(1);
            group.line.push(now_ns, duration_ns);
            group.n_steps += 1;
            if let Some(records) = &mut self.records {
                // With asynchronous scheduling a step is planned while the one before it runs.
                let end_ns = group.line.last_end_ns().unwrap_or(now_ns);
                let start_ns = end_ns.saturating_sub(duration_ns).max(now_ns);
                let ranks = group.ranks.clone().zip(&self.shapes);
                records.extend(ranks.filter_map(|(rank, shape)| {
                    let shape = (*shape)?;
                    Some(StepRecord { rank, start_ns, duration_ns, shape })
                }));
            }
        }
    }
}

/// Ranks in lock step exchange experts: each sees the tokens of all, and all run at the width of the largest.
pub(crate) fn join_ranks(shapes: &mut [Option<StepShape>]) {
    if shapes.len() < 2 {
        return;
    }
    let widest = shapes.iter().flatten().map(|shape| shape.padded_tokens).max().unwrap_or(0);
    let slowest_regime = shapes.iter().flatten().map(|shape| shape.regime).max().unwrap_or_default();
    let group_tokens = if slowest_regime == Regime::Eager {
        // Without graphs every rank sends what it has; an idle one computes a dummy token.
        shapes.iter().map(|shape| shape.map_or(1, |shape| shape.padded_tokens)).sum()
    } else {
        widest * shapes.len() as u32
    };
    for shape in shapes.iter_mut().flatten() {
        shape.group_tokens = group_tokens;
        shape.regime = slowest_regime;
        if slowest_regime != Regime::Eager {
            shape.padded_tokens = widest;
        }
    }
}
