//! What need not be tried any more: higher loads of a ladder whose lower one was too much already.

use super::*;

impl Run<'_> {
    /// What need not be tried any more after a cell that was too much for the server.
    pub(super) fn skip_higher(
        &mut self,
        held: &Held<'_>,
        after: &AfterCell,
        queue: &mut Vec<Held<'_>>,
    ) -> Result<(), RunError> {
        let load = &held.cell.load;
        let is_on = self.input.options.stop_early.contains(&StopRule::SaturatedAtLowerRate);
        let (code, why) = match (&after.stopped_by, load) {
            (Some(rule), _) => ("stopped_at_lower_load", format!("{} already: {rule}", load.describe())),
            (None, Load::Open { rate_per_s, .. }) if is_on && after.is_saturated => {
                ("saturated_at_lower_rate", format!("the server was saturated at {rate_per_s} requests/s already"))
            }
            _ => return Ok(()),
        };
        let is_higher = |other: &Held<'_>| other.cell.workload == held.cell.workload && is_more(&other.cell.load, load);
        let (higher, rest): (Vec<Held<'_>>, Vec<Held<'_>>) = std::mem::take(queue).into_iter().partition(is_higher);
        *queue = rest;
        for held in &higher {
            self.summary.saved_s += self.estimate.expected_s(&held.cell.id).unwrap_or(0.0);
            self.end(held, CellState::Skipped, Some(code), Some(&why), None)?;
        }
        Ok(())
    }
}

/// More of the same kind of load.
fn is_more(load: &Load, than: &Load) -> bool {
    match (load, than) {
        (Load::Open { rate_per_s, .. }, Load::Open { rate_per_s: than, .. }) => rate_per_s > than,
        (Load::Closed { concurrency, .. }, Load::Closed { concurrency: than, .. }) => concurrency > than,
        _ => false,
    }
}
