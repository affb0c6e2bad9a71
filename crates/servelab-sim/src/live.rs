//! The engine on a real clock, for one thread that also serves: what is due by now, how long to sleep, and what a server
//! counts around its engines. Absolute instants: a late wake-up never delays the steps after it.

use std::time::{Duration, Instant};

use crate::SimError;
use crate::cluster::{Cluster, StepRecord};
use crate::config::ServerConfig;
use crate::engine::{Progress, RequestSpec};
use crate::metrics::{ServerCounts, ServerFacts, render};

/// Maps the wall to simulated time.
#[derive(Debug, Clone, Copy)]
struct SimClock {
    origin: Instant,
    speedup: f64,
}

impl SimClock {
    fn now_ns(self) -> u64 {
        (self.origin.elapsed().as_nanos() as f64 * self.speedup) as u64
    }

    fn wall_of(self, sim_ns: u64) -> Duration {
        Duration::from_nanos((sim_ns as f64 / self.speedup) as u64)
    }
}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubmitError {
    /// The limit on unfinished requests is reached.
    QueueFull,
    /// The limit on prompt tokens that wait for their first token is reached.
    TokenBacklog,
    /// It does not fit into this server at all.
    TooLarge,
}

/// A running simulated engine.
pub struct Live {
    cluster: Cluster,
    clock: SimClock,
    config: ServerConfig,
    is_hung: bool,
    worst_lateness: Duration,
    /// What the server counts itself, next to its engines.
    pub counts: ServerCounts,
}

impl Live {
    /// Starts the clock.
    pub fn start(config: ServerConfig, speedup: f64, slow_factor: f64) -> Result<Self, SimError> {
        let mut cluster = Cluster::new(&config)?;
        cluster.set_slow_factor(slow_factor);
        let counts = ServerCounts::new(config.dp as usize, crate::startup::unix_seconds());
        Ok(Self {
            cluster,
            clock: SimClock { origin: Instant::now(), speedup },
            config,
            is_hung: false,
            worst_lateness: Duration::ZERO,
            counts,
        })
    }

    /// Effective configuration.
    pub fn config(&self) -> &ServerConfig {
        &self.config
    }

    /// Simulated nanoseconds since the start.
    pub fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    /// How long until a simulated instant, on the wall.
    pub fn wall_until(&self, sim_ns: u64) -> Duration {
        self.clock.wall_of(sim_ns).saturating_sub(self.clock.origin.elapsed())
    }

    /// Queues requests together (all choices of one call): all of them or none. `queued_tokens` are the prompt tokens
    /// of all requests that have no token yet.
    pub fn submit(&mut self, specs: Vec<RequestSpec>, queued_tokens: u64) -> Result<(), SubmitError> {
        let config = &self.config;
        if let Some(limit) = config.max_num_queued_reqs
            && self.cluster.n_requests() as u64 + specs.len() as u64 > limit
        {
            self.counts.rejected_requests += 1;
            return Err(SubmitError::QueueFull);
        }
        if config.max_num_queued_tokens.is_some_and(|limit| queued_tokens >= limit) {
            self.counts.rejected_tokens += 1;
            return Err(SubmitError::TokenBacklog);
        }
        let ids: Vec<u64> = specs.iter().map(|spec| spec.id).collect();
        for (at, spec) in specs.into_iter().enumerate() {
            if !self.cluster.submit(spec) {
                for id in ids.iter().take(at) {
                    self.cluster.abort(*id);
                }
                return Err(SubmitError::TooLarge);
            }
        }
        Ok(())
    }

    /// Ends a request whose client went away.
    pub fn abort(&mut self, id: u64) {
        self.cluster.abort(id);
    }

    /// Stops making steps for good; requests stay queued.
    pub fn hang(&mut self) {
        self.is_hung = true;
    }

    /// Makes every later step take this many times longer than the model says.
    pub fn slow_down(&mut self, factor: f64) {
        self.cluster.set_slow_factor(factor);
    }

    /// Requests waiting or running.
    pub fn n_requests(&self) -> usize {
        self.cluster.n_requests()
    }

    /// Empties the prefix caches; false while requests hold blocks.
    pub fn reset_prefix_cache(&mut self) -> bool {
        self.cluster.reset_prefix_cache()
    }

    /// Keeps a record of every step from now on, or no longer.
    pub(crate) fn record_steps(&mut self, keeps: bool) {
        self.cluster.record_steps(keeps);
    }

    /// Hands out the steps recorded so far, in order of their start.
    pub(crate) fn take_steps(&mut self) -> Vec<StepRecord> {
        self.cluster.take_steps()
    }

    /// The ranks' engines.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The /metrics page; `n_fetching` requests wait for KV from elsewhere.
    pub fn metrics_page(&self, n_fetching: usize, is_sleeping: bool) -> String {
        render(ServerFacts {
            config: &self.config,
            engines: self.cluster.engines(),
            counts: &self.counts,
            n_fetching,
            has_connector: self.config.has_kv_connector,
            is_sleeping,
            worst_lateness_s: self.worst_lateness.as_secs_f64(),
        })
    }

    /// Completes every step that is due and starts what can start.
    pub fn advance(&mut self, sink: &mut dyn FnMut(u64, Progress)) {
        if self.is_hung {
            return;
        }
        let wall_now = self.clock.origin.elapsed();
        let Self { cluster, clock, worst_lateness, .. } = self;
        cluster.advance_to(clock.now_ns(), &mut |at_ns, progress| {
            *worst_lateness = (*worst_lateness).max(wall_now.saturating_sub(clock.wall_of(at_ns)));
            sink(at_ns, progress);
        });
    }

    /// How long to sleep until the next step ends; `None` when there is nothing to wait for.
    pub fn next_wake(&self) -> Option<Duration> {
        if self.is_hung {
            return None;
        }
        self.cluster.next_step_end_ns().map(|end| self.wall_until(end))
    }
}
