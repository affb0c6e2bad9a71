//! Was the author of a design right? A claim names a change against the baseline in percent; the comparison's interval
//! says whether that is supported, contradicted or undecided.

use crate::stats::Comparison;

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// The change seen lies within what was claimed, and what was claimed not to be (no change) is ruled out; or the
    /// whole interval lies within the claim.
    Supported,
    /// The whole interval lies outside the claim.
    Contradicted,
    /// Neither: more repeats are needed.
    Undecided,
}

impl Judgement {
    /// In files and texts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Supported => "supported",
            Self::Contradicted => "contradicted",
            Self::Undecided => "undecided",
        }
    }
}

/// Judges a claimed change `[from, to]` in percent of the baseline.
pub fn judge_claim(comparison: &Comparison, claimed_percent: [f64; 2]) -> Judgement {
    let [a, b] = claimed_percent;
    let (from, to) = (a.min(b) / 100.0, a.max(b) / 100.0);
    let scale = comparison.baseline.abs();
    let interval = comparison.difference;
    if scale == 0.0 || !interval.low.is_finite() || !interval.high.is_finite() {
        return Judgement::Undecided;
    }
    let (low, high, seen) = (interval.low / scale, interval.high / scale, interval.estimate / scale);
    if high < from || low > to {
        return Judgement::Contradicted;
    }
    let within = from <= low && high <= to;
    let claims_change = from > 0.0 || to < 0.0;
    let rules_out_none = low > 0.0 || high < 0.0;
    if within || (claims_change && rules_out_none && from <= seen && seen <= to) {
        Judgement::Supported
    } else {
        Judgement::Undecided
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::compare_independent;

    #[test]
    fn claims() {
        let check = |a: &[f64], b: &[f64], claim, expected| {
            assert_eq!(judge_claim(&compare_independent(a, b, 1).unwrap(), claim), expected, "{a:?} {b:?} {claim:?}");
        };
        let base = [100.0, 101.0, 99.0];
        check(&base, &[118.0, 121.0, 120.0], [10.0, 30.0], Judgement::Supported);
        check(&base, &[102.0, 101.0, 103.0], [10.0, 30.0], Judgement::Contradicted);
        check(&base, &[90.0, 135.0, 120.0], [10.0, 30.0], Judgement::Undecided);
        check(&base, &[120.0], [10.0, 30.0], Judgement::Undecided);
        check(&base, &[80.0, 81.0, 79.5], [-30.0, -10.0], Judgement::Supported);
        check(&base, &[100.2, 99.8, 100.1], [-5.0, 5.0], Judgement::Supported);
        check(&base, &[100.2, 99.8, 100.1], [-5.0, -3.0], Judgement::Contradicted);
        check(&[0.0, 0.0], &[1.0, 1.0], [1.0, 2.0], Judgement::Undecided);
    }
}
