//! The engine on a real clock: one thread that sleeps until the next simulated step ends and then hands out tokens, and
//! the per-request feeds that answers read from. Absolute instants: a late wake-up never delays the steps after it.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::SimError;
use crate::cluster::Cluster;
use crate::config::ServerConfig;
use crate::engine::{FinishReason, RequestSpec};
use crate::metrics::{ServerFacts, render};

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

    fn wall_until(self, sim_ns: u64) -> Duration {
        self.wall_of(sim_ns).saturating_sub(self.origin.elapsed())
    }
}

#[derive(Debug, Default)]
struct FeedState {
    n_output: u32,
    finish: Option<FinishReason>,
    closed: bool,
    waker: Option<Waker>,
}

/// What a reader of a feed finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedView {
    /// Tokens generated so far.
    pub n_output: u32,
    /// Set when there will be no more.
    pub finish: Option<FinishReason>,
}

/// The server ended before the request did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedClosed;

/// The reading end of one request's tokens. Dropping it before the end aborts the request.
pub struct TokenFeed {
    id: u64,
    feed: Arc<Mutex<FeedState>>,
    live: Arc<Live>,
}

impl TokenFeed {
    /// Ready when there are more than `seen` tokens or the request has ended. Tokens that piled up are seen together, as
    /// in vLLM's output collector.
    pub fn poll_beyond(&self, seen: u32, ctx: &mut Context<'_>) -> Poll<Result<FeedView, FeedClosed>> {
        let mut state = lock(&self.feed);
        if state.n_output > seen || state.finish.is_some() {
            return Poll::Ready(Ok(FeedView { n_output: state.n_output, finish: state.finish }));
        }
        if state.closed {
            return Poll::Ready(Err(FeedClosed));
        }
        state.waker = Some(ctx.waker().clone());
        Poll::Pending
    }

    /// Waits for the end of the request.
    pub async fn finished(&self) -> Result<FeedView, FeedClosed> {
        let mut seen = 0;
        loop {
            let view = poll_fn(|ctx| self.poll_beyond(seen, ctx)).await?;
            if view.finish.is_some() {
                return Ok(view);
            }
            seen = view.n_output;
        }
    }
}

impl Drop for TokenFeed {
    fn drop(&mut self) {
        if lock(&self.feed).finish.is_none() {
            self.live.abort(self.id);
        }
    }
}

struct State {
    cluster: Cluster,
    feeds: HashMap<u64, Arc<Mutex<FeedState>>>,
    stopped: bool,
    hung: bool,
    idle: bool,
    rejected: u64,
    worst_lateness: Duration,
}

/// A running simulated engine, shared by all requests.
pub struct Live {
    state: Mutex<State>,
    wake: Condvar,
    clock: SimClock,
    config: ServerConfig,
    started_unix_s: f64,
}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubmitError {
    /// The admission limit is reached.
    QueueFull {
        /// The limit.
        limit: u64,
    },
    /// It does not fit into this server at all.
    TooLarge,
    /// The engine has stopped.
    Stopped,
}

impl Live {
    /// Starts the engine thread.
    pub fn start(config: ServerConfig, speedup: f64, slow_factor: f64) -> Result<(Arc<Self>, EngineThread), SimError> {
        let mut cluster = Cluster::new(&config)?;
        cluster.set_slow_factor(slow_factor);
        let started_unix_s = crate::startup::unix_seconds();
        let live = Arc::new(Self {
            state: Mutex::new(State {
                cluster,
                feeds: HashMap::new(),
                stopped: false,
                hung: false,
                idle: true,
                rejected: 0,
                worst_lateness: Duration::ZERO,
            }),
            wake: Condvar::new(),
            clock: SimClock { origin: Instant::now(), speedup },
            config,
            started_unix_s,
        });
        let engine = Arc::clone(&live);
        let handle = std::thread::Builder::new()
            .name("servelab-sim-engine".to_owned())
            .spawn(move || engine.run())
            .map_err(SimError::Start)?;
        Ok((Arc::clone(&live), EngineThread { live, handle: Some(handle) }))
    }

    /// Effective configuration.
    pub fn config(&self) -> &ServerConfig {
        &self.config
    }

    /// Simulated nanoseconds since the start.
    pub fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    /// Queues requests together (all choices of one call): all of them or none.
    pub fn submit(self: &Arc<Self>, specs: Vec<RequestSpec>) -> Result<Vec<TokenFeed>, SubmitError> {
        let mut state = lock(&self.state);
        if state.stopped {
            return Err(SubmitError::Stopped);
        }
        if let Some(limit) = self.config.max_num_queued_reqs
            && state.cluster.n_requests() as u64 + specs.len() as u64 > limit
        {
            state.rejected += 1;
            return Err(SubmitError::QueueFull { limit });
        }
        let mut feeds = Vec::with_capacity(specs.len());
        let mut refused = false;
        for spec in specs {
            let id = spec.id;
            if !state.cluster.submit(spec) {
                refused = true;
                break;
            }
            let feed = Arc::new(Mutex::new(FeedState::default()));
            state.feeds.insert(id, Arc::clone(&feed));
            feeds.push(TokenFeed { id, feed, live: Arc::clone(self) });
        }
        let idle = state.idle;
        drop(state);
        if refused {
            return Err(SubmitError::TooLarge); // dropping the feeds aborts what was queued
        }
        if idle {
            self.wake.notify_one();
        }
        Ok(feeds)
    }

    /// Stops making steps for good; requests stay queued.
    pub fn hang(&self) {
        lock(&self.state).hung = true;
    }

    /// Requests waiting or running.
    pub fn n_requests(&self) -> usize {
        lock(&self.state).cluster.n_requests()
    }

    /// Empties the prefix caches; false while requests hold blocks.
    pub fn reset_prefix_cache(&self) -> bool {
        lock(&self.state).cluster.reset_prefix_cache()
    }

    /// The /metrics page.
    pub fn metrics_page(&self) -> String {
        let state = lock(&self.state);
        render(ServerFacts {
            config: &self.config,
            engines: state.cluster.engines(),
            rejected: state.rejected,
            started_unix_s: self.started_unix_s,
            worst_lateness_s: state.worst_lateness.as_secs_f64(),
        })
    }

    fn abort(&self, id: u64) {
        let mut state = lock(&self.state);
        state.cluster.abort(id);
        state.feeds.remove(&id);
    }

    fn run(&self) {
        let mut state = lock(&self.state);
        while !state.stopped {
            let timeout = if state.hung { None } else { self.step(&mut state) };
            state = match timeout {
                None => {
                    state.idle = true;
                    self.wake.wait(state).unwrap_or_else(PoisonError::into_inner)
                }
                Some(timeout) if timeout.is_zero() => {
                    // Behind the simulated clock: let request handlers take the lock before going on.
                    drop(state);
                    std::thread::yield_now();
                    lock(&self.state)
                }
                Some(timeout) => self.wake.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0,
            };
            state.idle = false;
        }
        for feed in std::mem::take(&mut state.feeds).into_values() {
            let mut feed = lock(&feed);
            feed.closed = true;
            if let Some(waker) = feed.waker.take() {
                waker.wake();
            }
        }
    }

    /// Delivers what is due and says how long to sleep; `None` when there is nothing to wait for.
    fn step(&self, state: &mut State) -> Option<Duration> {
        let State { cluster, feeds, worst_lateness, .. } = state;
        let wall_now = self.clock.origin.elapsed();
        cluster.advance_to(self.clock.now_ns(), &mut |at_ns, progress| {
            *worst_lateness = (*worst_lateness).max(wall_now.saturating_sub(self.clock.wall_of(at_ns)));
            let feed =
                if progress.finish.is_some() { feeds.remove(&progress.id) } else { feeds.get(&progress.id).cloned() };
            let Some(feed) = feed else { return };
            let mut feed = lock(&feed);
            feed.n_output = progress.n_output;
            feed.finish = progress.finish;
            if let Some(waker) = feed.waker.take() {
                waker.wake();
            }
        });
        cluster.next_step_end_ns().map(|end| self.clock.wall_until(end))
    }
}

/// Owns the engine thread: dropping it stops the engine and closes all feeds.
pub struct EngineThread {
    live: Arc<Live>,
    handle: Option<JoinHandle<()>>,
}

impl Drop for EngineThread {
    fn drop(&mut self) {
        lock(&self.live.state).stopped = true;
        self.live.wake.notify_one();
        if let Some(handle) = self.handle.take() {
            // A panic there has already been printed by the runtime; there is nobody left to tell.
            let _ = handle.join();
        }
    }
}

/// A panicking holder leaves consistent data here (counters at worst), so poisoning is not passed on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
