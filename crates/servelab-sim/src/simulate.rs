//! Runs of simulated servers on a virtual clock: deterministic, without wall time, with memory that does not grow with
//! the number of requests. The same scheduler as in the live server. [`simulate`] is the entry: what is simulated
//! ([`Deployment`]), which requests come ([`Arrivals`]), what is measured ([`Window`]), and where the stamps go.

use crate::SimError;
use crate::engine::EngineConfig;

mod fleet;
mod load;
mod observe;
mod run;
mod watch;

pub use fleet::{Deployment, Router, Server, Transfer};
pub use load::{Arrival, Arrivals, ClosedLoop, OpenLoop, SimRequest, Window};
pub use observe::{GapHistogram, Phase, PoolSummary, RunSummary, Served};

/// Simulates a load on a deployment. `sink` gets every request once, when it is over (or refused); the order is that of
/// the ends on each rank, and deterministic.
///
/// ```text
/// let step_time = RooflineStepTime::new(&config)?;
/// let deployment = Deployment::single(Server::of(&config, &step_time));
/// let requests = (0..4000).map(|at| (at * 125_000_000, SimRequest::new(1024, 128)));
/// let summary = simulate(&deployment, OpenLoop::new(requests), Window::default(), &mut |served| …)?;
/// ```
pub fn simulate(
    deployment: &Deployment<'_>,
    arrivals: impl Arrivals,
    window: Window,
    sink: &mut dyn FnMut(&Served),
) -> Result<RunSummary, SimError> {
    deployment.check()?;
    for EngineConfig { block_size, num_blocks, max_num_seqs, max_num_batched_tokens, .. } in
        deployment.servers.iter().chain(&deployment.prefill).map(|server| &server.engine)
    {
        for (name, value) in [
            ("block_size", u64::from(*block_size)),
            ("num_gpu_blocks", num_blocks.saturating_sub(1)),
            ("max_num_seqs", u64::from(*max_num_seqs)),
            ("max_num_batched_tokens", u64::from(*max_num_batched_tokens)),
        ] {
            if value == 0 {
                return Err(SimError::BadSetting { name, value: "0".to_owned(), rule: "at least 1 (blocks: 2)" });
            }
        }
    }
    Ok(run::Run::new(deployment, arrivals, window, sink).go())
}

#[cfg(test)]
mod tests;
