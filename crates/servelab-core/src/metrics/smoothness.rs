//! How smooth streams are, which goodput cannot see: largest gaps, stalls, and the fluidity index of Etalon (arXiv
//! 2407.07000), which forgives a late token that earlier ones have made up for.

use super::quantile::Samples;
use super::records::gaps;
use super::summary::RequestSlo;
use crate::record::{EventRecord, RequestRecord};
use crate::result::StreamSmoothness;

/// Without a limit of the user's, a gap of this many median gaps is a stall.
const STALL_MEDIANS: f64 = 5.0;

/// Deadlines of tokens: the first `first_ns` after the send, each further one `step_ns` after the one before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deadlines {
    /// For the first token.
    pub first_ns: f64,
    /// Between tokens.
    pub step_ns: f64,
}

impl Deadlines {
    /// From a request SLO: `ttft_ms` and `tpot_ms` (else `itl_ms`). `None` unless both are there.
    pub fn of(slo: RequestSlo) -> Option<Self> {
        let step_ms = slo.tpot_ms.or(slo.itl_ms)?;
        Some(Self { first_ns: slo.ttft_ms? * 1e6, step_ns: step_ms * 1e6 }).filter(|deadlines| deadlines.step_ns > 0.0)
    }
}

/// Met deadlines / all deadlines of one stream. Each token has one; tokens that come early leave slack to later ones. A
/// late token misses its own and every further deadline that passed before it came, and the count starts anew from it.
/// `events` are (instant, tokens); `None` without tokens.
pub fn fluidity(send_ns: i64, events: impl Iterator<Item = (i64, u64)>, deadlines: Deadlines) -> Option<f64> {
    let mut due_ns = deadlines.first_ns;
    let (mut met, mut missed) = (0.0, 0.0);
    for (t_ns, n_tokens) in events {
        let at_ns = t_ns.saturating_sub(send_ns) as f64;
        for _ in 0..n_tokens {
            if at_ns <= due_ns {
                met += 1.0;
                due_ns += deadlines.step_ns;
            } else {
                missed += 1.0 + ((at_ns - due_ns) / deadlines.step_ns).floor();
                due_ns = at_ns + deadlines.step_ns;
            }
        }
    }
    (met + missed > 0.0).then(|| met / (met + missed))
}

/// Smoothness of successful streams.
#[derive(Debug)]
pub(super) struct SmoothnessSum {
    slo: RequestSlo,
    deadlines: Option<Deadlines>,
    largest_gap: Samples,
    fluidity: Samples,
}

impl SmoothnessSum {
    pub(super) fn new(slo: Option<RequestSlo>) -> Self {
        let slo = slo.unwrap_or_default();
        Self { slo, deadlines: Deadlines::of(slo), largest_gap: Samples::default(), fluidity: Samples::default() }
    }

    pub(super) fn add(&mut self, request: &RequestRecord, events: &[EventRecord]) {
        self.largest_gap.extend(gaps(events).map(|(gap_ns, _)| gap_ns).max().map(|gap_ns| gap_ns as f64 / 1e6));
        if let (Some(deadlines), Some(send_ns)) = (self.deadlines, request.t_send) {
            let tokens = events.iter().map(|event| (event.t_ns, u64::try_from(event.n_tokens).unwrap_or(0)));
            self.fluidity.extend(fluidity(send_ns, tokens, deadlines));
        }
    }

    /// `gaps_ms` are the gaps of the same streams. `None` without any.
    pub(super) fn summary(self, gaps_ms: &Samples) -> Option<StreamSmoothness> {
        let n = gaps_ms.count();
        let limit = self.slo.itl_ms.or(self.slo.tpot_ms);
        let stall_threshold_ms = match limit {
            Some(limit) if n > 0 => limit,
            _ => STALL_MEDIANS * gaps_ms.clone().quantiles().p50?,
        };
        Some(StreamSmoothness {
            max_gap_ms: self.largest_gap.quantiles(),
            stall_threshold_ms,
            stall_share: gaps_ms.count_above(stall_threshold_ms) as f64 / n as f64,
            fluidity: self.deadlines.map(|_| self.fluidity.quantiles()),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: i64 = 1_000_000;
    const DEADLINES: Deadlines = Deadlines { first_ns: 100e6, step_ns: 10e6 };

    fn check(events_ms: &[(i64, u64)], expected: Option<f64>) {
        let events = events_ms.iter().map(|(t, n)| ((5 + t) * MS, *n));
        assert_eq!(fluidity(5 * MS, events, DEADLINES), expected, "{events_ms:?}");
    }

    #[test]
    fn fluidity_by_hand() {
        check(&[], None);
        check(&[(100, 1), (110, 1), (120, 1)], Some(1.0));
        check(&[(101, 1)], Some(0.0));
        // The first two come early and lend the third 25 ms.
        check(&[(60, 1), (70, 1), (120, 1)], Some(1.0));
        // 121 ms: the third's deadline (120) is missed; the fourth is due 10 ms after it.
        check(&[(60, 1), (70, 1), (121, 1), (131, 1)], Some(3.0 / 4.0));
        // 145 ms: deadlines 120, 130 and 140 have passed.
        check(&[(60, 1), (70, 1), (145, 1), (155, 1)], Some(3.0 / 6.0));
        // Several tokens in one event: each has a deadline, all but the first are early.
        check(&[(100, 4), (140, 1)], Some(1.0));
        check(&[(105, 4)], Some(3.0 / 4.0));
    }

    #[test]
    fn deadlines_need_both_limits() {
        let slo = RequestSlo { ttft_ms: Some(100.0), ..RequestSlo::default() };
        assert_eq!(Deadlines::of(slo), None);
        assert_eq!(Deadlines::of(RequestSlo { itl_ms: Some(10.0), ..slo }), Some(DEADLINES));
        assert_eq!(Deadlines::of(RequestSlo { itl_ms: Some(99.0), tpot_ms: Some(10.0), ..slo }), Some(DEADLINES));
    }

    proptest! {
        #[test]
        fn fluidity_is_a_share_and_earlier_is_never_worse(gaps in prop::collection::vec(0..60_i64, 1..20), earlier in 0..50_i64) {
            let mut t = 80;
            let late: Vec<(i64, u64)> = gaps.iter().map(|gap| { t += gap; (t * MS, 1) }).collect();
            let early: Vec<(i64, u64)> = late.iter().map(|(t, n)| (t - earlier * MS, *n)).collect();
            let of = |events: &[(i64, u64)]| fluidity(0, events.iter().copied(), DEADLINES).unwrap();
            let (late_share, early_share) = (of(&late), of(&early));
            prop_assert!((0.0..=1.0).contains(&late_share));
            if late_share == 1.0 {
                prop_assert_eq!(early_share, 1.0);
            }
        }
    }
}
