//! Runs of simulated servers on a virtual clock: deterministic, without wall time, with memory that does not grow with
//! the number of requests. The same scheduler as in the live server; loads, windows and observations are here.

mod load;
mod observe;

pub use load::{Arrival, Arrivals, ClosedLoop, OpenLoop, SimRequest, Window};
pub use observe::{GapHistogram, Phase, PoolSummary, RunSummary, Served};
