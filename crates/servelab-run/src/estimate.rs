//! How long the rest of a run will take, from what was measured in it. Honest: nothing is said before something is known,
//! and cells are compared with cells of the same load first.

use std::collections::BTreeMap;

use servelab_core::ids::CellId;
use servelab_core::plan::{Load, PlannedCell, StopAt};

/// Durations seen so far and work still ahead.
#[derive(Debug, Default)]
pub(crate) struct Estimate {
    starts_s: Vec<f64>,
    cells_s: BTreeMap<String, Vec<f64>>,
    pending: BTreeMap<CellId, Pending>,
    pending_starts: u64,
}

#[derive(Debug)]
struct Pending {
    kind: String,
    /// Length that follows from the plan alone.
    planned_s: Option<f64>,
}

impl Estimate {
    pub(crate) fn new<'a>(cells: impl Iterator<Item = &'a PlannedCell>, starts: u64) -> Self {
        let pending = cells.map(|cell| {
            let kind = format!("{} {}", cell.workload, cell.load.describe());
            (cell.id.clone(), Pending { kind, planned_s: planned_s(cell) })
        });
        Self { pending: pending.collect(), pending_starts: starts, ..Self::default() }
    }

    /// A server start is over: preparation, start and stop took so long; `None` when it failed.
    pub(crate) fn start_ended(&mut self, seconds: Option<f64>) {
        self.pending_starts = self.pending_starts.saturating_sub(1);
        self.starts_s.extend(seconds);
    }

    /// A cell is over; `None` when it was not measured.
    pub(crate) fn cell_ended(&mut self, cell: &CellId, seconds: Option<f64>) {
        if let (Some(pending), Some(seconds)) = (self.pending.remove(cell), seconds) {
            self.cells_s.entry(pending.kind).or_default().push(seconds);
        }
    }

    /// How long a cell that is still to come would take, where anything is known.
    pub(crate) fn expected_s(&self, cell: &CellId) -> Option<f64> {
        let pending = self.pending.get(cell)?;
        let same_load = self.cells_s.get(&pending.kind).and_then(|seconds| mean(seconds));
        let all: Vec<f64> = self.cells_s.values().flatten().copied().collect();
        same_load.or(pending.planned_s).or_else(|| mean(&all))
    }

    pub(crate) fn remaining_s(&self) -> Option<f64> {
        let all: Vec<f64> = self.cells_s.values().flatten().copied().collect();
        let mut total = 0.0;
        for pending in self.pending.values() {
            let same_load = self.cells_s.get(&pending.kind).and_then(|seconds| mean(seconds));
            total += same_load.or(pending.planned_s).or_else(|| mean(&all))?;
        }
        let starts = if self.pending_starts == 0 { 0.0 } else { mean(&self.starts_s)? * self.pending_starts as f64 };
        Some(total + starts)
    }
}

fn mean(seconds: &[f64]) -> Option<f64> {
    (!seconds.is_empty()).then(|| seconds.iter().sum::<f64>() / seconds.len() as f64)
}

fn planned_s(cell: &PlannedCell) -> Option<f64> {
    match (cell.settings.stop, &cell.load) {
        (StopAt::DurationS(seconds), _) => Some(seconds),
        (StopAt::Steady { min_s, max_s }, _) => Some((min_s + max_s) / 2.0),
        (StopAt::Requests(n), Load::Open { rate_per_s, .. }) if *rate_per_s > 0.0 => {
            Some(f64::from(n + cell.settings.warmup_requests) / rate_per_s)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{cell, point};

    #[test]
    fn nothing_is_said_before_something_is_known() {
        let point = point("p", &[]);
        let cells = [cell(&point, 1, 0), cell(&point, 1, 1), cell(&point, 8, 0)];
        let mut estimate = Estimate::new(cells.iter(), 2);
        assert_eq!(estimate.remaining_s(), None);
        estimate.cell_ended(&cells[0].id, Some(10.0));
        assert_eq!(estimate.remaining_s(), None, "a start is still ahead and none was seen");
        estimate.start_ended(Some(5.0));
        assert_eq!(estimate.remaining_s(), Some(10.0 + 10.0 + 5.0));
        estimate.cell_ended(&cells[1].id, Some(20.0));
        assert_eq!(estimate.remaining_s(), Some(15.0 + 5.0), "other loads are guessed from all");
        estimate.cell_ended(&cells[2].id, None);
        estimate.start_ended(None);
        assert_eq!(estimate.remaining_s(), Some(0.0));
    }

    #[test]
    fn plans_that_name_their_length() {
        let mut cell = cell(&point("p", &[]), 1, 0);
        cell.settings.stop = StopAt::DurationS(60.0);
        assert_eq!(planned_s(&cell), Some(60.0));
        cell.settings.stop = StopAt::Requests(98);
        assert_eq!(planned_s(&cell), None);
        cell.load = Load::Open { rate_per_s: 2.0, arrival: "poisson".to_owned(), max_concurrency: None };
        assert_eq!(planned_s(&cell), Some(50.0));
    }
}
