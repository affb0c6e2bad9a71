//! May these numbers be believed? Small pure rules over the evidence of one cell; each says what it saw, with the numbers.
//! Codes, severities and thresholds stand in [`VERDICTS`] and [`Thresholds`]. Evidence is gathered elsewhere, except what
//! follows from the request records alone ([`RequestEvidence`]).

mod advice;
mod backlog;
mod catalogue;
mod comparison;
mod evidence;
mod hypothesis;
mod imported;
mod rules;
#[cfg(test)]
mod saturation_tests;
#[cfg(test)]
mod tests;

pub use advice::{Advice, AdviceEvidence, Complaint, advise};
pub use backlog::{Backlog, Growth, Shortfall};
pub use catalogue::{Thresholds, VERDICTS, VerdictDoc, verdict_doc};
pub use comparison::{Call, ComparisonEvidence, judge_comparison};
pub use evidence::{CellEvidence, EffectiveDifference, FactorLimit, RequestEvidence, ServerShare, TokenCounts};
pub use hypothesis::{Judgement, judge_claim};
pub use imported::{Disagreement, ImportEvidence, judge_import};

use crate::result::{Severity, Verdict, VerdictReason};

/// Judges one cell: reasons worst first, `ok` exactly when none of them is `invalid`.
pub fn judge(evidence: &CellEvidence<'_>) -> Verdict {
    of_reasons(rules::ALL.iter().filter_map(|rule| rule(evidence)).collect())
}

fn of_reasons(mut reasons: Vec<VerdictReason>) -> Verdict {
    reasons.sort_by_key(|reason| reason.severity);
    Verdict { ok: reasons.iter().all(|reason| reason.severity != Severity::Invalid), reasons }
}
