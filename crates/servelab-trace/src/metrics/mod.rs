//! From traces to numbers. `rank` makes integers of one trace, `cross` compares ranks, `report` applies the definitions of
//! `servelab_core::trace::catalogue`.

mod classes;
mod cross;
mod idle;
mod rank;
mod report;
mod sweep;
mod values;
mod window;

pub use rank::{CommCall, DeviceAnalysis, RankAnalysis, analyse};
pub use report::report;
pub use window::{Step, StepLoad};
