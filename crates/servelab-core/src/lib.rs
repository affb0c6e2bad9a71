//! Pure data and arithmetic of Servelab: studies and their expansion, identity, rules, flag tables, metric definitions,
//! verdicts. No file, clock, thread, socket or random source is touched here; time and seeds arrive as arguments.

pub mod event;
pub mod expr;
pub mod ids;
pub mod plan;
pub mod record;
pub mod result;
pub mod state;
pub mod version;
pub mod workload;
