//! Where simulated requests come from: open loops with absolute arrivals, closed loops of clients that wait for their
//! answers, and which part of a run is measured. Requests are drawn one at a time, so that a run of any length needs no
//! memory for those that have not arrived yet.

use crate::engine::Content;

/// A request of a simulated client.
#[derive(Debug, Clone, Default)]
pub struct SimRequest {
    /// Prompt tokens, at least 1.
    pub prompt_tokens: u32,
    /// Tokens that will be generated, at least 1.
    pub output_tokens: u32,
    /// The client's limit; above `output_tokens` the model ends by itself, which a scheduler cannot foresee. 0: equal.
    pub max_tokens: u32,
    /// What the tokens are, for the prefix cache.
    pub content: Content,
    /// Smaller runs first, where the server schedules by priority.
    pub priority: i32,
    /// Requests with the same session go to the same replica, where the router has session affinity.
    pub session: u64,
}

impl SimRequest {
    /// A request of given lengths whose tokens nobody shares.
    pub fn new(prompt_tokens: u32, output_tokens: u32) -> Self {
        Self { prompt_tokens, output_tokens, ..Self::default() }
    }
}

/// A request and when it reaches the server.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Simulated nanoseconds since the start of the run.
    pub at_ns: u64,
    /// What arrives.
    pub request: SimRequest,
    /// The closed-loop client that waits for it; handed back to [`Arrivals::after`].
    pub slot: Option<u32>,
}

/// A source of requests.
pub trait Arrivals {
    /// The next request that comes whatever happens to the others, in order of time; `None` when there is no more.
    fn next(&mut self) -> Option<Arrival>;

    /// The next request of a client whose last one ended (or was refused) at `done_ns`: not before that instant.
    fn after(&mut self, slot: u32, done_ns: u64) -> Option<Arrival>;
}

/// Requests at absolute instants, whatever becomes of them.
#[derive(Debug)]
pub struct OpenLoop<I> {
    requests: I,
}

impl<I: Iterator<Item = (u64, SimRequest)>> OpenLoop<I> {
    /// `requests` gives simulated nanoseconds since the start of the run, never decreasing, and what arrives then.
    pub fn new(requests: I) -> Self {
        Self { requests }
    }
}

impl<I: Iterator<Item = (u64, SimRequest)>> Arrivals for OpenLoop<I> {
    fn next(&mut self) -> Option<Arrival> {
        self.requests.next().map(|(at_ns, request)| Arrival { at_ns, request, slot: None })
    }

    fn after(&mut self, _slot: u32, _done_ns: u64) -> Option<Arrival> {
        None
    }
}

/// Clients that send their next request when the last one is answered and `think_ns` have passed.
#[derive(Debug)]
pub struct ClosedLoop<F> {
    n_slots: u32,
    started: u32,
    think_ns: u64,
    ramp_ns: u64,
    next: F,
}

impl<F: FnMut(u32) -> Option<SimRequest>> ClosedLoop<F> {
    /// `next` gives the next request of a client (0..`n_slots`), `None` when that client has no more.
    pub fn new(n_slots: u32, think_ns: u64, next: F) -> Self {
        Self { n_slots, started: 0, think_ns, ramp_ns: 0, next }
    }

    /// Spreads the first requests of all clients evenly over this time instead of sending all of them at once.
    #[must_use]
    pub fn with_ramp_ns(mut self, ramp_ns: u64) -> Self {
        self.ramp_ns = ramp_ns;
        self
    }
}

impl<F: FnMut(u32) -> Option<SimRequest>> Arrivals for ClosedLoop<F> {
    fn next(&mut self) -> Option<Arrival> {
        while self.started < self.n_slots {
            let slot = self.started;
            self.started += 1;
            if let Some(request) = (self.next)(slot) {
                let at_ns = (u128::from(self.ramp_ns) * u128::from(slot) / u128::from(self.n_slots)) as u64;
                return Some(Arrival { at_ns, request, slot: Some(slot) });
            }
        }
        None
    }

    fn after(&mut self, slot: u32, done_ns: u64) -> Option<Arrival> {
        let request = (self.next)(slot)?;
        Some(Arrival { at_ns: done_ns.saturating_add(self.think_ns), request, slot: Some(slot) })
    }
}

/// Which arrivals are measured, and when a run ends. The default measures everything and drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Arrivals before the first measured one.
    pub warmup_requests: u64,
    /// No arrival before this instant is measured.
    pub warmup_ns: u64,
    /// Arrivals measured; later ones do not happen.
    pub requests: Option<u64>,
    /// How long arrivals are measured, from the end of the warm-up; later ones do not happen.
    pub duration_ns: Option<u64>,
    /// Requests in flight at the end are served to their end (else the run stops there).
    pub drain: bool,
    /// The run stops after this many steps of all ranks together: a guard against loads that never end.
    pub max_steps: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            warmup_requests: 0,
            warmup_ns: 0,
            requests: None,
            duration_ns: None,
            drain: true,
            max_steps: 1_000_000_000,
        }
    }
}
