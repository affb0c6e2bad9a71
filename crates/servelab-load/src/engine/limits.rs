//! What of a load's description the threads look at while it runs: everything but the source.

use std::net::IpAddr;

use servelab_core::record::ClockEpoch;

use crate::spec::{LoadSpec, Pacing, Spread, Stop};

/// Spread of the first sends where no request shows how long one takes.
const GUESSED_SPREAD_PER_SLOT_NS: i64 = 5_000_000;
const LONGEST_GUESSED_SPREAD_NS: i64 = 1_000_000_000;

/// Shared by the threads of a run.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) clock: ClockEpoch,
    pub(crate) warmup: u64,
    pub(crate) pacing: Pacing,
    pub(crate) stop: Stop,
    pub(crate) request_timeout_ns: i64,
    pub(crate) connect_timeout_ns: i64,
    pub(crate) drain_timeout_ns: i64,
    pub(crate) keep_text: bool,
    pub(crate) source_addresses: Vec<IpAddr>,
    pub(crate) request_ids: Option<String>,
}

impl Limits {
    pub(crate) fn of(spec: &LoadSpec) -> Self {
        Self {
            clock: spec.clock,
            warmup: spec.warmup,
            pacing: spec.pacing,
            stop: spec.stop,
            request_timeout_ns: spec.request_timeout_ns,
            connect_timeout_ns: spec.connect_timeout_ns,
            drain_timeout_ns: spec.drain_timeout_ns,
            keep_text: spec.keep_text,
            source_addresses: spec.source_addresses.clone(),
            request_ids: spec.request_ids.clone(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.pacing, Pacing::Open { .. })
    }

    /// Time over which the first sends of a closed loop are spread, when it is known beforehand.
    pub(crate) fn first_sends(&self) -> Option<i64> {
        let Pacing::Closed { concurrency, start, .. } = self.pacing else { return Some(0) };
        match start {
            Spread::Burst => Some(0),
            Spread::Over { ns } => Some(ns),
            Spread::OneRequest if concurrency == 1 => Some(0),
            Spread::OneRequest if self.warmup == 0 => {
                Some((GUESSED_SPREAD_PER_SLOT_NS * i64::from(concurrency)).min(LONGEST_GUESSED_SPREAD_NS))
            }
            Spread::OneRequest => None,
        }
    }
}
