//! How to send and when to stop: the input of `run_load`, and what it says at the end. What is sent comes from a
//! `source`, what was measured goes to a `sink`.

use std::net::IpAddr;

use servelab_core::pacing::Think;
use servelab_core::record::ClockEpoch;

use crate::error::LoadError;
use crate::source::RequestSource;
use crate::target::Target;

/// How requests follow each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pacing {
    /// A fixed number in flight; a slot that is freed sends the next request at once, or after a pause.
    Closed {
        /// Requests in flight, exact over all threads.
        concurrency: u32,
        /// How the first sends are spread.
        start: Spread,
        /// Pause of a slot between the end of one request and the next.
        think: Option<Pauses>,
    },
    /// At the source's instants, whatever the server does.
    Open {
        /// Most requests in flight; later arrivals wait, and the wait shows in `t_slot`. Runs on one thread.
        max_concurrency: Option<u32>,
    },
    /// So many at once, then wait for all of them. Runs on one thread.
    Batches {
        /// Requests per batch.
        size: u32,
    },
}

impl Pacing {
    /// A closed loop whose slots all start at once and never pause.
    pub fn closed(concurrency: u32) -> Self {
        Self::Closed { concurrency, start: Spread::Burst, think: None }
    }
}

/// How the first requests of a closed loop are spread over time. All at once, they would meet in the server's accept and
/// admission queues, and that one herd would dominate the tail of the TTFT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// Evenly over the duration of one request: the first warm-up request is sent alone, timed, and the others follow.
    /// Without a warm-up request, 5 ms per slot and at most 1 s.
    OneRequest,
    /// Evenly over this time.
    Over {
        /// The time.
        ns: i64,
    },
    /// All at once.
    Burst,
}

/// Pauses of a closed loop's slots.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pauses {
    /// How long.
    pub think: Think,
    /// Seed of the draws.
    pub seed: u64,
}

/// When the window ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// When the last request of the source is complete.
    AllRequests,
    /// After a fixed time. Nothing is sent afterwards; what is in flight may finish within the drain timeout.
    Duration {
        /// Length of the window.
        ns: i64,
    },
    /// When token rate and requests in flight no longer change (see `steady`), between two bounds.
    Steady {
        /// Not before.
        min_ns: i64,
        /// Not after.
        max_ns: i64,
    },
    /// When the sink says that it has seen enough, between two bounds.
    WhenEnough {
        /// Not before.
        min_ns: i64,
        /// Not after.
        max_ns: i64,
    },
}

impl Stop {
    /// Latest end of a timed window.
    pub fn longest_ns(self) -> Option<i64> {
        match self {
            Self::AllRequests => None,
            Self::Duration { ns } => Some(ns),
            Self::Steady { max_ns, .. } | Self::WhenEnough { max_ns, .. } => Some(max_ns),
        }
    }
}

/// Waits until a load may start and says when that is; `Err` ends the run with that sentence.
pub type StartHook = Box<dyn FnOnce() -> Result<i64, String> + Send>;

/// Everything that one call of `run_load` does.
pub struct LoadSpec {
    /// Where to.
    pub target: Target,
    /// The clock of the run; scrapers and launchers share it.
    pub clock: ClockEpoch,
    /// Arrivals that come first and are recorded with phase `warmup`. They are never drained: window requests take over
    /// their slots (closed loop) or follow in the same arrival process (open loop).
    pub warmup: u64,
    /// What to send.
    pub source: Box<dyn RequestSource>,
    /// Arrival process.
    pub pacing: Pacing,
    /// End of the window.
    pub stop: Stop,
    /// Asked for the instant of the first send, on the run's clock, when everything is ready for it; for runs that start
    /// together. `None` starts at once. An instant that has passed is kept: what was due before now is sent late, and its
    /// record says so.
    pub start: Option<StartHook>,
    /// From the slot to the end of the response.
    pub request_timeout_ns: i64,
    /// For establishing a connection; part of the request timeout.
    pub connect_timeout_ns: i64,
    /// After a timed window, for requests in flight; then they are `censored`.
    pub drain_timeout_ns: i64,
    /// Keep the output text (accuracy guard, exactness tests). Costs a JSON decode per event.
    pub keep_text: bool,
    /// Load threads; fewer are used where the pacing needs one global queue.
    pub threads: u32,
    /// Source addresses that connections are spread over; empty leaves the choice to the kernel.
    pub source_addresses: Vec<IpAddr>,
    /// Measure the client's own error on a stream of a server inside this process.
    pub canary: bool,
    /// Seconds of the server's time that pass in one of ours (see `simtime`); 1 for every real server. Everything else
    /// here, and all results, are in the server's time.
    pub speedup: f64,
    /// Each request carries `X-Request-Id: <this><request_idx>`, so that records made on its way can be joined with this
    /// client's.
    pub request_ids: Option<String>,
}

impl LoadSpec {
    /// A load with usual limits: 10 min per request, 10 s per connect, 60 s drain, one thread, no warm-up, with canary.
    pub fn new(
        target: Target,
        clock: ClockEpoch,
        source: impl RequestSource + 'static,
        pacing: Pacing,
        stop: Stop,
    ) -> Self {
        Self {
            target,
            clock,
            warmup: 0,
            source: Box::new(source),
            pacing,
            stop,
            start: None,
            request_timeout_ns: 600_000_000_000,
            connect_timeout_ns: 10_000_000_000,
            drain_timeout_ns: 60_000_000_000,
            keep_text: false,
            threads: 1,
            source_addresses: Vec::new(),
            canary: true,
            speedup: 1.0,
            request_ids: None,
        }
    }

    /// Threads that will really run.
    pub fn effective_threads(&self) -> u32 {
        let most = match self.pacing {
            Pacing::Closed { concurrency, .. } => concurrency,
            Pacing::Open { max_concurrency: None } => u32::MAX,
            Pacing::Open { max_concurrency: Some(_) } | Pacing::Batches { .. } => 1,
        };
        self.threads.clamp(1, most.max(1))
    }

    pub(crate) fn validate(&self) -> Result<(), LoadError> {
        let invalid = |problem: String| Err(LoadError::Spec { problem });
        for (name, ns) in [
            ("request timeout", self.request_timeout_ns),
            ("connect timeout", self.connect_timeout_ns),
            ("drain timeout", self.drain_timeout_ns + 1),
        ] {
            if ns <= 0 {
                return invalid(format!("the {name} must be positive"));
            }
        }
        if !(self.speedup.is_finite() && self.speedup > 0.0) {
            return invalid(format!("a speed-up of {} is no number above 0", self.speedup));
        }
        match self.pacing {
            Pacing::Closed { concurrency: 0, .. } => return invalid("concurrency must be at least 1".to_owned()),
            Pacing::Closed { start: Spread::Over { ns }, .. } if ns < 0 => {
                return invalid(format!("a start spread over {ns} ns is negative"));
            }
            Pacing::Closed { think: Some(pauses), .. } => {
                if let Err(problem) = pauses.think.validate() {
                    return invalid(format!("think time: {problem}"));
                }
            }
            Pacing::Batches { size: 0 } => return invalid("batch size must be at least 1".to_owned()),
            Pacing::Open { max_concurrency: Some(0) } => {
                return invalid("max concurrency must be at least 1".to_owned());
            }
            _ => {}
        }
        match self.stop {
            Stop::Duration { ns } if ns <= 0 => invalid(format!("a window of {ns} ns is empty")),
            Stop::Steady { min_ns, max_ns } | Stop::WhenEnough { min_ns, max_ns } if min_ns <= 0 || max_ns < min_ns => {
                invalid(format!("window bounds {min_ns}..{max_ns} ns are empty"))
            }
            _ => Ok(()),
        }
    }
}

/// The server's or the kernel's words for one failure, kept for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureSample {
    /// The request.
    pub request_idx: i64,
    /// Its failure code.
    pub code: String,
    /// The words.
    pub detail: String,
}

/// What the client measured about itself on its canary stream, nanoseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CanaryErrors {
    /// TTFT as this client saw it, minus what the canary server did.
    pub ttft_ns: Vec<i64>,
    /// Gaps between tokens as this client saw them, minus what the canary server did.
    pub itl_ns: Vec<i64>,
    /// From the server's write to this client's stamp.
    pub receive_ns: Vec<i64>,
}

/// How a run went; what it measured is with the sink.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadOutcome {
    /// The clock that all stamps refer to.
    pub clock: ClockEpoch,
    /// Start of the window: the open loop's time zero, else the slot of the first window request.
    pub window_start_ns: i64,
    /// End of the window: the timed end; with [`Stop::AllRequests`], or when the requests ran out before the time did,
    /// the end of the last window request.
    pub window_end_ns: i64,
    /// Requests recorded, over all phases.
    pub recorded: u64,
    /// Up to five examples per failure code.
    pub failure_samples: Vec<FailureSample>,
    /// CPU seconds (user and system) of the load threads from the first send to the end.
    pub cpu_s: f64,
    /// From the first send to the end, seconds: what `cpu_s` is a share of, per thread.
    pub busy_s: f64,
    /// Load threads that ran.
    pub threads: u32,
    /// The run was cancelled.
    pub interrupted: bool,
    /// A timed closed loop or batch run had no request left before its end.
    pub ran_out: bool,
    /// With [`Stop::Steady`] and [`Stop::WhenEnough`]: did that happen before the upper bound?
    pub is_satisfied: Option<bool>,
    /// Time over which the first sends of a closed loop were spread.
    pub spread_ns: Option<i64>,
    /// The client's own error; `None` without a canary.
    pub canary: Option<CanaryErrors>,
}
