//! Where requests come from. The run asks once per server start, for all cells of that start together, because prompts
//! must not repeat within it; how prompts are made and counted is the caller's business.

use servelab_core::plan::{PlannedCell, PlannedPoint};
use servelab_load::{Endpoint, Pacing, Stop};

/// Everything that one cell sends, ready to be written to a socket.
pub struct PreparedCell {
    /// Makes the requests, warm-up first.
    pub requests: Box<dyn servelab_load::RequestSource>,
    /// Arrivals of the source that belong to the warm-up.
    pub warmup: u64,
    /// Requests that will be sent, as far as that is known.
    pub planned: u64,
    /// How requests follow each other.
    pub pacing: Pacing,
    /// When the window ends.
    pub stop: Stop,
    /// Endpoint that the bodies are written for.
    pub endpoint: Endpoint,
    /// The slots of a closed loop pause between the turns of their conversations.
    pub slots_pause: bool,
    /// Prefix-cache hit rate (0–1) that the prompts imply; `None` when hits are wanted or unknown.
    pub expected_prefix_hit_rate: Option<f64>,
}

/// Why requests could not be prepared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("prepare requests: {detail}")]
pub struct PrepareError {
    /// A code that `servelab explain` knows, such as `dataset_too_small`.
    pub code: String,
    /// What is missing, with its numbers, and what to do.
    pub detail: String,
}

/// Makes requests.
pub trait RequestSource {
    /// Requests of all `cells` of one server start, in the same order; no prompt occurs twice among them unless a cell
    /// allows it. `served_model` is the name that bodies must carry.
    fn prepare(
        &mut self,
        point: &PlannedPoint,
        cells: &[&PlannedCell],
        served_model: &str,
    ) -> Result<Vec<PreparedCell>, PrepareError>;
}
