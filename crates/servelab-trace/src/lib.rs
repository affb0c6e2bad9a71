//! Profiler traces in, numbers out: readers of trace formats make a [`RankTrace`] per rank, the taxonomy says what each
//! kernel is for, `metrics` turns both into a [`servelab_core::trace::TraceReport`]. Files are read here; nothing is printed.

pub mod companions;
pub mod error;
pub mod et;
pub mod gzip;
pub mod input;
pub mod kineto;
pub mod load;
pub mod metrics;
pub mod model;
pub mod names;
pub mod nsys;
pub mod overview;
pub mod perfetto;
pub mod steps;
pub mod taxonomy;

pub use error::TraceError;
pub use model::RankTrace;
pub use taxonomy::Taxonomy;
