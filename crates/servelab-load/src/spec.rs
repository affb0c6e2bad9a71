//! What to send, when, and when to stop: the input of `run_load`, and its output. Plain data with its validation;
//! prompts, seeds and rates were turned into bodies and instants before.

use std::collections::HashSet;

use servelab_core::record::{ClockEpoch, EventRecord, RequestRecord};

use crate::error::LoadError;
use crate::target::Target;

/// One request, serialised and counted before the clock starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedRequest {
    /// Unique within the attempt, over warm-up and window together.
    pub request_idx: i64,
    /// JSON body.
    pub body: Vec<u8>,
    /// Prompt tokens as counted beforehand; the server's count replaces it.
    pub input_tokens: Option<i64>,
    /// Output tokens asked for.
    pub requested_output_tokens: Option<i64>,
    /// The server was told to ignore end-of-sequence tokens: fewer tokens than asked for are a failure.
    pub ignore_eos: bool,
}

/// How requests follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pacing {
    /// A fixed number in flight; a slot that is freed sends the next request at once.
    Closed {
        /// Requests in flight, exact over all threads.
        concurrency: u32,
        /// The first sends are spread evenly over this time; 0 sends them all at once.
        stagger_ns: i64,
    },
    /// Absolute instants, whatever the server does.
    Open {
        /// One per window request, ascending, relative to the window's start.
        arrivals_ns: Vec<i64>,
        /// Most requests in flight; later arrivals wait, and the wait shows in `t_slot`. Runs on one thread.
        max_concurrency: Option<u32>,
    },
    /// So many at once, then wait for all of them. Runs on one thread.
    Batches {
        /// Requests per batch.
        size: u32,
    },
}

/// When the window ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// When the last window request is complete.
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
}

/// Everything that one call of `run_load` does.
#[derive(Debug, Clone)]
pub struct LoadSpec {
    /// Where to.
    pub target: Target,
    /// The clock of the run; scrapers and launchers share it.
    pub clock: ClockEpoch,
    /// Sent first, recorded with phase `warmup`, never drained: window requests take over its slots (closed loop) or
    /// follow in the same arrival process (open loop: the window's gaps, mirrored before its start).
    pub warmup: Vec<PreparedRequest>,
    /// The measured requests.
    pub window: Vec<PreparedRequest>,
    /// Arrival process.
    pub pacing: Pacing,
    /// End of the window.
    pub stop: Stop,
    /// From the slot to the end of the response.
    pub request_timeout_ns: i64,
    /// For establishing a connection; part of the request timeout.
    pub connect_timeout_ns: i64,
    /// After a timed window, for requests in flight; then they are `censored`.
    pub drain_timeout_ns: i64,
    /// Record every token-bearing event.
    pub keep_events: bool,
    /// Keep the output text (accuracy guard, exactness tests). Costs a JSON decode per event.
    pub keep_text: bool,
    /// Load threads; fewer are used where the pacing needs one global queue.
    pub threads: u32,
}

impl LoadSpec {
    /// A load with usual limits: 10 min per request, 10 s per connect, 60 s drain, events kept, one thread.
    pub fn new(target: Target, clock: ClockEpoch, window: Vec<PreparedRequest>, pacing: Pacing, stop: Stop) -> Self {
        Self {
            target,
            clock,
            warmup: Vec::new(),
            window,
            pacing,
            stop,
            request_timeout_ns: 600_000_000_000,
            connect_timeout_ns: 10_000_000_000,
            drain_timeout_ns: 60_000_000_000,
            keep_events: true,
            keep_text: false,
            threads: 1,
        }
    }

    /// Threads that will really run.
    pub fn effective_threads(&self) -> u32 {
        let most = match &self.pacing {
            Pacing::Closed { concurrency, .. } => *concurrency,
            Pacing::Open { max_concurrency: None, .. } => u32::MAX,
            Pacing::Open { max_concurrency: Some(_), .. } | Pacing::Batches { .. } => 1,
        };
        self.threads.clamp(1, most.max(1))
    }

    /// The request at a position in the order of sending: warm-up first.
    pub(crate) fn request(&self, seq: usize) -> Option<&PreparedRequest> {
        match seq.checked_sub(self.warmup.len()) {
            None => self.warmup.get(seq),
            Some(at) => self.window.get(at),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), LoadError> {
        let invalid = |problem: String| Err(LoadError::Spec { problem });
        if self.window.is_empty() {
            return invalid("there is no request to measure".to_owned());
        }
        for (name, ns) in [
            ("request timeout", self.request_timeout_ns),
            ("connect timeout", self.connect_timeout_ns),
            ("drain timeout", self.drain_timeout_ns + 1),
        ] {
            if ns <= 0 {
                return invalid(format!("the {name} must be positive"));
            }
        }
        match &self.pacing {
            Pacing::Closed { concurrency: 0, .. } => return invalid("concurrency must be at least 1".to_owned()),
            Pacing::Closed { stagger_ns, .. } if *stagger_ns < 0 => {
                return invalid(format!("stagger of {stagger_ns} ns is negative"));
            }
            Pacing::Batches { size: 0 } => return invalid("batch size must be at least 1".to_owned()),
            Pacing::Open { max_concurrency: Some(0), .. } => {
                return invalid("max concurrency must be at least 1".to_owned());
            }
            Pacing::Open { arrivals_ns, .. } => {
                if arrivals_ns.len() != self.window.len() {
                    return invalid(format!(
                        "{} arrivals for {} window requests; each request needs one",
                        arrivals_ns.len(),
                        self.window.len()
                    ));
                }
                if !arrivals_ns.is_sorted() || arrivals_ns.first().is_some_and(|t| *t < 0) {
                    return invalid("arrivals must be ascending and not negative".to_owned());
                }
            }
            _ => {}
        }
        match self.stop {
            Stop::Duration { ns } if ns <= 0 => return invalid(format!("a window of {ns} ns is empty")),
            Stop::Steady { min_ns, max_ns } if min_ns <= 0 || max_ns < min_ns => {
                return invalid(format!("steady bounds {min_ns}..{max_ns} ns are empty"));
            }
            _ => {}
        }
        let mut seen = HashSet::with_capacity(self.warmup.len() + self.window.len());
        for request in self.warmup.iter().chain(&self.window) {
            if !seen.insert(request.request_idx) {
                return invalid(format!("request index {} occurs twice", request.request_idx));
            }
        }
        Ok(())
    }
}

/// What a request produced, when `keep_text` was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedOutput {
    /// The request.
    pub request_idx: i64,
    /// Reasoning and content in the order of arrival.
    pub text: String,
    /// Token ids where the server sent them.
    pub token_ids: Vec<i64>,
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

/// Everything that one run measured.
#[derive(Debug, Clone)]
pub struct LoadOutcome {
    /// The clock that all stamps refer to.
    pub clock: ClockEpoch,
    /// Start of the window: the open loop's time zero, else the slot of the first window request.
    pub window_start_ns: i64,
    /// End of the window: the timed end; with [`Stop::AllRequests`], or when the requests ran out before the time did,
    /// the end of the last window request.
    pub window_end_ns: i64,
    /// One record per scheduled request, ordered by phase, then index.
    pub requests: Vec<RequestRecord>,
    /// Token-bearing events, ordered by request index, then time. Empty without `keep_events`.
    pub events: Vec<EventRecord>,
    /// Output, with `keep_text`, ordered by request index.
    pub outputs: Vec<CapturedOutput>,
    /// Up to five examples per failure code and thread.
    pub failure_samples: Vec<FailureSample>,
    /// CPU seconds (user and system) of the load threads during the run.
    pub cpu_s: f64,
    /// Load threads that ran.
    pub threads: u32,
    /// The run was cancelled.
    pub interrupted: bool,
    /// A timed closed loop or batch run had no request left before its end.
    pub ran_out: bool,
    /// With [`Stop::Steady`]: did it become steady before the upper bound?
    pub is_steady: Option<bool>,
}
