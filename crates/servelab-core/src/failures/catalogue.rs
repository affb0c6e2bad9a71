//! The embedded failure taxonomy.

use std::sync::OnceLock;

use serde::Deserialize;

use super::{Domain, RetryOutlook, Role};

/// One kind of failure.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// Code in files and on the command line.
    pub code: String,
    /// Cause or consequence.
    pub role: Role,
    /// Whose problem.
    pub domain: Domain,
    /// Worth another try?
    pub retry: RetryOutlook,
    /// It proves that the configuration cannot be served: a result, not an error.
    pub infeasible: bool,
    /// What happened, in a few words.
    pub title: String,
    /// What it means.
    pub meaning: String,
    /// What to do.
    pub advice: String,
    /// Regular expressions that recognise a log line.
    pub(super) signatures: Vec<String>,
    /// Regular expressions whose named groups are numbers.
    pub(super) numbers: Vec<String>,
    /// Believed also in lines of level INFO and WARNING.
    pub(super) any_level: bool,
}

/// What the engine is busy with, by its own log.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PhaseMark {
    pub(super) phase: String,
    pub(super) signature: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Taxonomy {
    pub(super) failures: Vec<Failure>,
    pub(super) teardown: Vec<String>,
    pub(super) benign: Vec<String>,
    pub(super) phases: Vec<PhaseMark>,
}

/// The embedded text is parsed by a test, so the empty fallback is never seen.
pub(super) fn taxonomy() -> &'static Taxonomy {
    static TAXONOMY: OnceLock<Taxonomy> = OnceLock::new();
    TAXONOMY.get_or_init(|| serde_json::from_str(include_str!("../../data/failures.json")).unwrap_or_default())
}

/// Every known failure.
pub fn failures() -> &'static [Failure] {
    &taxonomy().failures
}

/// The failure of this code.
pub fn failure(code: &str) -> Option<&'static Failure> {
    failures().iter().find(|failure| failure.code == code)
}
