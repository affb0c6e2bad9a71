//! When is a mean known well enough? Batch means of a running series, which are honest about samples that resemble their
//! neighbours, and a rule that stops when the relative half-width of the 95 % interval is small enough. The rule's real
//! coverage is measured in its tests. Pure: observations come in, a decision comes out.

mod batch_means;
mod rule;
#[cfg(test)]
mod tests;

pub use batch_means::{BatchMeans, MeanEstimate};
pub use rule::{PrecisionError, PrecisionMetric, PrecisionReport, PrecisionRule, PrecisionWatch, UntilSpec};
