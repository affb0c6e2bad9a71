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

pub use crate::model::Marker as StepMarker;
pub use rank::{CommCall, DeviceAnalysis, RankAnalysis, analyse};
pub use report::report;
pub use window::{Step, StepLoad};

/// The markers of a trace that stand for its steps.
pub fn step_markers(trace: &crate::model::RankTrace) -> Vec<StepMarker> {
    window::choose(&trace.markers)
}
