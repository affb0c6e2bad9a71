//! What can be said against a comparison as a whole, and what its numbers come to: pure rules over facts that whoever
//! gathered the two sides fills in.

use super::of_reasons;
use crate::result::{Severity, Verdict, VerdictReason};
use crate::stats::Comparison;

/// What a comparison of one metric comes to, for the candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// It is better, by more than chance explains.
    Better,
    /// It is worse, by more than chance explains.
    Worse,
    /// Nothing can be told, and differences as small as the margin are not ruled out.
    WithinNoise,
    /// The two are the same to within the margin.
    Equivalent,
    /// One repeat on a side: the scatter is not known.
    Unknown,
}

impl Call {
    /// In files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::WithinNoise => "within_noise",
            Self::Equivalent => "equivalent",
            Self::Unknown => "unknown",
        }
    }

    /// Decides; `p_adjusted` allows for the other comparisons made at the same time, `margin` is relative.
    pub fn of(comparison: &Comparison, p_adjusted: Option<f64>, is_higher_better: bool, margin: f64) -> Self {
        let Some(p) = p_adjusted else { return Self::Unknown };
        if p <= 0.05 {
            let is_higher = comparison.difference.estimate > 0.0;
            return if is_higher == is_higher_better { Self::Better } else { Self::Worse };
        }
        if comparison.equivalence(margin).is_some_and(|found| found.is_equivalent) {
            Self::Equivalent
        } else {
            Self::WithinNoise
        }
    }
}

/// What the rules look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ComparisonEvidence {
    /// Conditions (workload and load) that both sides have.
    pub common_conditions: usize,
    /// Both sides have one condition each, and they differ.
    pub differing_condition: Option<(String, String)>,
    /// Results that were left out because they must not be believed, with why.
    pub left_out: Vec<String>,
    /// Engine versions, both sides together.
    pub engine_versions: Vec<String>,
    /// GPU models, both sides together.
    pub gpu_models: Vec<String>,
    /// One side is simulated, the other measured.
    pub mixes_simulated: bool,
    /// That was asked for.
    pub mix_allowed: bool,
    /// Fewest repeats of a side in any condition.
    pub fewest_repeats: u64,
    /// Both sides hold the same measurements.
    pub is_same_data: bool,
    /// Metrics compared, and how many of them cannot be told apart.
    pub metrics: usize,
    /// Of these, within noise or unknown.
    pub undecided: usize,
}

/// Judges a comparison.
pub fn judge_comparison(evidence: &ComparisonEvidence) -> Verdict {
    let mut reasons = Vec::new();
    let mut add = |severity: Severity, code: &str, detail: String| {
        reasons.push(VerdictReason { code: code.to_owned(), detail, severity });
    };
    if evidence.is_same_data {
        add(Severity::Invalid, "duplicate_data", "both sides hold the same measurements".to_owned());
    }
    if evidence.mixes_simulated && !evidence.mix_allowed {
        add(Severity::Invalid, "simulated_mix", "one side is simulated, the other measured".to_owned());
    }
    if evidence.common_conditions == 0 && evidence.differing_condition.is_none() {
        add(Severity::Invalid, "nothing_comparable", "no workload and load is there on both sides".to_owned());
    }
    if let Some((a, b)) = &evidence.differing_condition {
        add(Severity::Warning, "conditions_differ", format!("one side was measured under {a}, the other under {b}"));
    }
    for (code, what, values) in [
        ("version_mix", "engine versions", &evidence.engine_versions),
        ("hardware_mix", "GPU models", &evidence.gpu_models),
    ] {
        if values.len() > 1 {
            add(Severity::Warning, code, format!("{what} differ: {}", values.join(", ")));
        }
    }
    if !evidence.left_out.is_empty() {
        add(Severity::Warning, "results_left_out", evidence.left_out.join("; "));
    }
    if evidence.fewest_repeats == 1 {
        add(Severity::Warning, "one_repeat", "a side has one repeat: how much repeats scatter is not known".to_owned());
    } else if evidence.metrics > 0 && evidence.undecided == evidence.metrics {
        let detail = format!("none of {} metrics can be told apart", evidence.metrics);
        add(Severity::Warning, "within_noise", detail);
    }
    of_reasons(reasons)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::compare_independent;

    fn codes(spoil: impl FnOnce(&mut ComparisonEvidence)) -> Vec<String> {
        let mut evidence = ComparisonEvidence {
            common_conditions: 1,
            fewest_repeats: 3,
            metrics: 4,
            undecided: 1,
            engine_versions: vec!["0.11.0".into()],
            ..ComparisonEvidence::default()
        };
        spoil(&mut evidence);
        judge_comparison(&evidence).reasons.into_iter().map(|reason| reason.code).collect()
    }

    #[test]
    fn each_rule_speaks_and_keeps_silent() {
        assert_eq!(codes(|_| ()), Vec::<String>::new());
        assert_eq!(codes(|e| e.is_same_data = true), ["duplicate_data"]);
        assert_eq!(codes(|e| e.mixes_simulated = true), ["simulated_mix"]);
        assert_eq!(codes(|e| (e.mixes_simulated, e.mix_allowed) = (true, true)), Vec::<String>::new());
        assert_eq!(codes(|e| e.common_conditions = 0), ["nothing_comparable"]);
        let differing = |e: &mut ComparisonEvidence| {
            e.common_conditions = 0;
            e.differing_condition = Some(("a".into(), "b".into()));
        };
        assert_eq!(codes(differing), ["conditions_differ"]);
        assert_eq!(codes(|e| e.engine_versions.push("0.12.0".into())), ["version_mix"]);
        assert_eq!(codes(|e| e.gpu_models = vec!["H100".into(), "H200".into()]), ["hardware_mix"]);
        assert_eq!(codes(|e| e.left_out.push("x".into())), ["results_left_out"]);
        assert_eq!(codes(|e| e.fewest_repeats = 1), ["one_repeat"]);
        assert_eq!(codes(|e| e.undecided = 4), ["within_noise"]);
    }

    #[test]
    fn calls() {
        let check = |a: &[f64], b: &[f64], is_higher_better, expected| {
            let comparison = compare_independent(a, b, 1).unwrap();
            assert_eq!(Call::of(&comparison, comparison.p, is_higher_better, 0.02), expected);
        };
        let base = [100.0, 101.0, 99.0];
        check(&base, &[120.0, 121.0, 119.0], true, Call::Better);
        check(&base, &[120.0, 121.0, 119.0], false, Call::Worse);
        check(&base, &[100.1, 100.9, 99.2], true, Call::Equivalent);
        check(&base, &[95.0, 108.0, 101.0], true, Call::WithinNoise);
        check(&base, &[95.0], true, Call::Unknown);
    }
}
