//! Failure injections (`--fail`): their syntax, and the seeded decision which request they hit. Carrying a decision out
//! (closing a socket, stopping the engine) is the server's business.

use std::str::FromStr;

use crate::SimError;
use crate::random::{hash_bytes, mix, unit};

/// The accepted forms, for error messages and help.
pub const KNOWN_SPECS: &str = "crash:N, kill_rank:N[@RANK], oom:N, hang:N, slow:FACTOR[@N], 503:FRACTION, \
                               inband:FRACTION[@TOKENS], truncate:FRACTION[@TOKENS], reset:FRACTION[@TOKENS], \
                               zero:FRACTION, kv_transfer:FRACTION, oom_start, start_delay:SECONDS";

/// One injected failure. Fractions are 0–1 of generation requests; N counts them from 1. Failures in the middle of an
/// answer come after a number of tokens; without one, after half of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FailSpec {
    /// The process ends when request N arrives; all connections close.
    Crash(u64),
    /// The worker process of a rank is killed at the step that computes request N: the engine dies.
    KillRank {
        /// The request.
        request: u64,
        /// The worker.
        rank: u32,
    },
    /// A CUDA allocation fails at the step that computes request N: the engine dies.
    OutOfMemory(u64),
    /// From request N on the engine makes no step; the API still answers.
    Hang(u64),
    /// Every step takes this many times longer, from request N on.
    Slow {
        /// How many times.
        factor: f64,
        /// From which request; 0: from the start.
        from: u64,
    },
    /// This share is refused with 503.
    Unavailable(f64),
    /// This share gets status 200 and an error event inside the stream.
    InBand(Partway),
    /// This share's answer stops and the connection closes.
    Truncate(Partway),
    /// This share's connection is reset.
    Reset(Partway),
    /// This share is answered 200 without a single token.
    Zero(f64),
    /// This share's KV cannot be fetched from the prefill server.
    KvTransfer(f64),
    /// The server dies of CUDA out-of-memory while loading.
    OutOfMemoryAtStart,
    /// The start takes this many (simulated) seconds longer.
    StartDelaySecs(f64),
}

/// A failure in the middle of answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Partway {
    /// Share of requests, 0–1.
    pub fraction: f64,
    /// Tokens before it; `None`: half of the answer.
    pub after_tokens: Option<u32>,
}

impl FromStr for FailSpec {
    type Err = SimError;

    fn from_str(spec: &str) -> Result<Self, SimError> {
        let bad = |reason: &str| SimError::BadFailSpec { spec: spec.to_owned(), reason: reason.to_owned() };
        let (kind, value) = spec.split_once(':').unwrap_or((spec, ""));
        let (main, at) = match value.split_once('@') {
            Some((main, at)) => (main, Some(at)),
            None => (value, None),
        };
        let count = |text: &str| match text.parse::<u64>() {
            Ok(count) if count > 0 => Ok(count),
            _ => Err(bad("expected a request number from 1")),
        };
        let fraction = |text: &str| match text.parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
            _ => Err(bad("expected a fraction from 0 to 1")),
        };
        let positive = |text: &str| match text.parse::<f64>() {
            Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
            _ => Err(bad("expected a number above 0")),
        };
        let partway = || -> Result<Partway, SimError> {
            let tokens = |text: &str| text.parse::<u32>().map_err(|_| bad("expected a number of tokens after the @"));
            Ok(Partway { fraction: fraction(main)?, after_tokens: at.map(tokens).transpose()? })
        };
        match kind {
            "crash" => count(value).map(Self::Crash),
            "kill_rank" => {
                let rank = |text: &str| text.parse::<u32>().map_err(|_| bad("expected a rank after the @"));
                Ok(Self::KillRank { request: count(main)?, rank: at.map(rank).transpose()?.unwrap_or(0) })
            }
            "oom" => count(value).map(Self::OutOfMemory),
            "hang" => count(value).map(Self::Hang),
            "slow" => Ok(Self::Slow { factor: positive(main)?, from: at.map(count).transpose()?.unwrap_or(0) }),
            "503" => fraction(value).map(Self::Unavailable),
            "inband" => partway().map(Self::InBand),
            "truncate" => partway().map(Self::Truncate),
            "reset" => partway().map(Self::Reset),
            "zero" => fraction(value).map(Self::Zero),
            "kv_transfer" => fraction(value).map(Self::KvTransfer),
            "oom_start" if value.is_empty() => Ok(Self::OutOfMemoryAtStart),
            "start_delay" => positive(value).map(Self::StartDelaySecs),
            _ => Err(bad("unknown kind")),
        }
    }
}

/// What kills the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// A worker process is gone.
    Rank(u32),
    /// CUDA out of memory.
    OutOfMemory,
}

/// What is to happen to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Served normally.
    Serve,
    /// The process ends.
    Crash,
    /// The engine dies in the step that computes it.
    Dies(Death),
    /// The engine stops first, then the request is queued.
    Hang,
    /// 503.
    Unavailable,
    /// 200 with an error inside, after so many tokens.
    InBand(Option<u32>),
    /// Cut after so many tokens.
    Truncate(Option<u32>),
    /// Reset after so many tokens.
    Reset(Option<u32>),
    /// 200 without tokens.
    Zero,
    /// Its KV does not arrive.
    KvTransfer,
}

/// All injections of a server.
#[derive(Debug, Clone, Default)]
pub(crate) struct FailPlan {
    specs: Vec<FailSpec>,
    seed: u64,
}

impl FailPlan {
    pub(crate) fn new(specs: &[FailSpec], seed: u64) -> Self {
        Self { specs: specs.to_vec(), seed }
    }

    /// The fate of the `request`-th generation request (from 1). The first matching injection wins.
    pub(crate) fn fate(&self, request: u64) -> Fate {
        for spec in &self.specs {
            let drawn =
                |name: &str, share: f64| unit(mix(mix(self.seed, hash_bytes(name.as_bytes())), request)) < share;
            match *spec {
                FailSpec::Crash(n) if n == request => return Fate::Crash,
                FailSpec::KillRank { request: n, rank } if n == request => return Fate::Dies(Death::Rank(rank)),
                FailSpec::OutOfMemory(n) if n == request => return Fate::Dies(Death::OutOfMemory),
                FailSpec::Hang(n) if n == request => return Fate::Hang,
                FailSpec::Unavailable(share) if drawn("503", share) => return Fate::Unavailable,
                FailSpec::InBand(part) if drawn("inband", part.fraction) => return Fate::InBand(part.after_tokens),
                FailSpec::Truncate(part) if drawn("truncate", part.fraction) => {
                    return Fate::Truncate(part.after_tokens);
                }
                FailSpec::Reset(part) if drawn("reset", part.fraction) => return Fate::Reset(part.after_tokens),
                FailSpec::Zero(share) if drawn("zero", share) => return Fate::Zero,
                FailSpec::KvTransfer(share) if drawn("kv_transfer", share) => return Fate::KvTransfer,
                _ => {}
            }
        }
        Fate::Serve
    }

    /// Product of all slow-downs that hold at the `request`-th request; 0 is the start.
    pub(crate) fn slow_factor(&self, request: u64) -> f64 {
        let factor = |spec: &FailSpec| match spec {
            FailSpec::Slow { factor, from } if *from <= request => *factor,
            _ => 1.0,
        };
        self.specs.iter().map(factor).product()
    }

    /// Sum of all start delays, simulated seconds.
    pub(crate) fn start_delay_secs(&self) -> f64 {
        self.specs.iter().map(|spec| if let FailSpec::StartDelaySecs(secs) = spec { *secs } else { 0.0 }).sum()
    }

    pub(crate) fn out_of_memory_at_start(&self) -> bool {
        self.specs.contains(&FailSpec::OutOfMemoryAtStart)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_parse() {
        let check = |text: &str, expected: Option<FailSpec>| assert_eq!(text.parse().ok(), expected, "{text}");
        check("crash:3", Some(FailSpec::Crash(3)));
        check("hang:1", Some(FailSpec::Hang(1)));
        check("kill_rank:2", Some(FailSpec::KillRank { request: 2, rank: 0 }));
        check("kill_rank:2@5", Some(FailSpec::KillRank { request: 2, rank: 5 }));
        check("oom:4", Some(FailSpec::OutOfMemory(4)));
        check("slow:2.5", Some(FailSpec::Slow { factor: 2.5, from: 0 }));
        check("slow:2.5@7", Some(FailSpec::Slow { factor: 2.5, from: 7 }));
        check("503:0.25", Some(FailSpec::Unavailable(0.25)));
        let part = |fraction, after_tokens| Partway { fraction, after_tokens };
        check("inband:1", Some(FailSpec::InBand(part(1.0, None))));
        check("inband:1@3", Some(FailSpec::InBand(part(1.0, Some(3)))));
        check("truncate:0", Some(FailSpec::Truncate(part(0.0, None))));
        check("reset:0.5@0", Some(FailSpec::Reset(part(0.5, Some(0)))));
        check("kv_transfer:1", Some(FailSpec::KvTransfer(1.0)));
        check("zero:0.5", Some(FailSpec::Zero(0.5)));
        check("oom_start", Some(FailSpec::OutOfMemoryAtStart));
        check("start_delay:3", Some(FailSpec::StartDelaySecs(3.0)));
        for text in [
            "",
            "crash",
            "crash:0",
            "crash:x",
            "503:1.5",
            "slow:0",
            "slow:inf",
            "oom_start:1",
            "boom:1",
            "reset:1@",
            "slow:2@0",
            "kill_rank:1@x",
            "503:0.5@3",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn fractions_hit_their_share_and_are_seeded() {
        let plan = FailPlan::new(&[FailSpec::Unavailable(0.3)], 5);
        let hits = (1..=10_000).filter(|n| plan.fate(*n) == Fate::Unavailable).count();
        assert!((2_800..3_200).contains(&hits), "{hits}");
        let again = FailPlan::new(&[FailSpec::Unavailable(0.3)], 5);
        assert!((1..=100).all(|n| plan.fate(n) == again.fate(n)));
        let other = FailPlan::new(&[FailSpec::Unavailable(0.3)], 6);
        assert!((1..=100).any(|n| plan.fate(n) != other.fate(n)));
    }

    #[test]
    fn counted_injections_hit_exactly_once() {
        let plan = FailPlan::new(
            &[FailSpec::Crash(3), FailSpec::Slow { factor: 2.0, from: 0 }, FailSpec::Slow { factor: 1.5, from: 4 }],
            0,
        );
        assert_eq!((1..=5).map(|n| plan.fate(n)).filter(|fate| *fate == Fate::Crash).count(), 1);
        assert_eq!(plan.fate(3), Fate::Crash);
        assert_eq!([plan.slow_factor(0), plan.slow_factor(3), plan.slow_factor(4)], [2.0, 2.0, 3.0]);
    }
}
