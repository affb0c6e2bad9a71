//! The search for the highest load that meets an SLO: what the SLO says ([`SearchSlo`]), what one trial shows
//! ([`TrialEvidence`]), how sure a level passes ([`LevelTable`]), and which trial comes next ([`Search`]). Pure: whoever
//! runs the trials hands in records and is told the next level. [`trial`] plans how long a trial is and when it is lost.

mod certainty;
mod evidence;
mod machine;
mod report;
mod slo;
#[cfg(test)]
pub(crate) mod tests;
pub mod trial;

pub use certainty::{LevelTable, LevelView, beta_at_least};
pub use evidence::{Batch, TermEvidence, TrialEvidence, collect};
pub use machine::{Answer, Axis, Ending, Search, SearchError, SearchSettings, Step};
pub use report::{ReportEnd, ReportLevel, ReportTrial, SEARCH_SCHEMA_VERSION, SearchReport};
pub use slo::{SearchSlo, SloError, Term, TermKind};
