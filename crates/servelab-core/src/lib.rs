//! Pure data and arithmetic of Servelab: studies and their expansion, identity, rules, flag tables, metric definitions,
//! verdicts. No file, clock, thread, socket or random source is touched here; time and seeds arrive as arguments.

pub mod accuracy;
pub mod codes;
pub mod engine_facts;
pub mod event;
pub mod expand;
pub mod expr;
pub mod failures;
pub mod feasibility;
pub mod finding;
pub mod flags;
pub mod identity;
pub mod ids;
pub mod metrics;
pub mod model;
pub mod ordered;
pub mod pacing;
pub mod plan;
pub mod precision;
pub mod probe;
pub mod record;
pub mod result;
pub mod search;
pub mod shard;
pub mod site;
pub mod source;
pub mod state;
pub mod stats;
pub mod study;
pub mod trace;
pub mod units;
pub mod verdict;
pub mod version;
pub mod workload;
pub mod yaml;
