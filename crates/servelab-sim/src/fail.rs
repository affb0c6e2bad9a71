//! Failure injections (`--fail`): their syntax, and the seeded decision which request they hit. Carrying a decision out
//! (closing a socket, stopping the engine) is the server's business.

use std::str::FromStr;

use crate::SimError;
use crate::random::{hash_bytes, mix, unit};

/// The accepted forms, for error messages and help.
pub const KNOWN_SPECS: &str = "crash:N, hang:N, slow:FACTOR, 503:FRACTION, inband:FRACTION, truncate:FRACTION, \
                               zero:FRACTION, oom_start, start_delay:SECONDS";

/// One injected failure. Fractions are 0–1 of generation requests; N counts them from 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FailSpec {
    /// The process ends when request N arrives; all connections close.
    Crash(u64),
    /// From request N on the engine makes no step; the API still answers.
    Hang(u64),
    /// Every step takes this many times longer.
    Slow(f64),
    /// This share is refused with 503.
    Unavailable(f64),
    /// This share gets status 200 and an error event inside the stream.
    InBand(f64),
    /// This share's answer stops half-way and the connection closes.
    Truncate(f64),
    /// This share is answered 200 without a single token.
    Zero(f64),
    /// The server dies of CUDA out-of-memory while loading.
    OutOfMemoryAtStart,
    /// The start takes this many (simulated) seconds longer.
    StartDelaySecs(f64),
}

impl FromStr for FailSpec {
    type Err = SimError;

    fn from_str(spec: &str) -> Result<Self, SimError> {
        let bad = |reason: &str| SimError::BadFailSpec { spec: spec.to_owned(), reason: reason.to_owned() };
        let (kind, value) = spec.split_once(':').unwrap_or((spec, ""));
        let count = || match value.parse::<u64>() {
            Ok(count) if count > 0 => Ok(count),
            _ => Err(bad("expected a request number from 1")),
        };
        let fraction = || match value.parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
            _ => Err(bad("expected a fraction from 0 to 1")),
        };
        let positive = || match value.parse::<f64>() {
            Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
            _ => Err(bad("expected a number above 0")),
        };
        match kind {
            "crash" => count().map(Self::Crash),
            "hang" => count().map(Self::Hang),
            "slow" => positive().map(Self::Slow),
            "503" => fraction().map(Self::Unavailable),
            "inband" => fraction().map(Self::InBand),
            "truncate" => fraction().map(Self::Truncate),
            "zero" => fraction().map(Self::Zero),
            "oom_start" if value.is_empty() => Ok(Self::OutOfMemoryAtStart),
            "start_delay" => positive().map(Self::StartDelaySecs),
            _ => Err(bad("unknown kind")),
        }
    }
}

/// What is to happen to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Served normally.
    Serve,
    /// The process ends.
    Crash,
    /// The engine stops first, then the request is queued.
    Hang,
    /// 503.
    Unavailable,
    /// 200 with an error inside.
    InBand,
    /// Cut half-way.
    Truncate,
    /// 200 without tokens.
    Zero,
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
                FailSpec::Hang(n) if n == request => return Fate::Hang,
                FailSpec::Unavailable(share) if drawn("503", share) => return Fate::Unavailable,
                FailSpec::InBand(share) if drawn("inband", share) => return Fate::InBand,
                FailSpec::Truncate(share) if drawn("truncate", share) => return Fate::Truncate,
                FailSpec::Zero(share) if drawn("zero", share) => return Fate::Zero,
                _ => {}
            }
        }
        Fate::Serve
    }

    /// Product of all slow-downs.
    pub(crate) fn slow_factor(&self) -> f64 {
        self.specs.iter().map(|spec| if let FailSpec::Slow(factor) = spec { *factor } else { 1.0 }).product()
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
        check("slow:2.5", Some(FailSpec::Slow(2.5)));
        check("503:0.25", Some(FailSpec::Unavailable(0.25)));
        check("inband:1", Some(FailSpec::InBand(1.0)));
        check("truncate:0", Some(FailSpec::Truncate(0.0)));
        check("zero:0.5", Some(FailSpec::Zero(0.5)));
        check("oom_start", Some(FailSpec::OutOfMemoryAtStart));
        check("start_delay:3", Some(FailSpec::StartDelaySecs(3.0)));
        for text in ["", "crash", "crash:0", "crash:x", "503:1.5", "slow:0", "slow:inf", "oom_start:1", "boom:1"] {
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
        let plan = FailPlan::new(&[FailSpec::Crash(3), FailSpec::Slow(2.0), FailSpec::Slow(1.5)], 0);
        assert_eq!((1..=5).map(|n| plan.fate(n)).filter(|fate| *fate == Fate::Crash).count(), 1);
        assert_eq!(plan.fate(3), Fate::Crash);
        assert!((plan.slow_factor() - 3.0).abs() < 1e-12);
    }
}
