//! What a plan costs before anything was measured: node-hours and wall hours from stop rules where they say how long a
//! level takes, from the study's estimates where they do not. Never a prediction of the server.

use crate::plan::{Load, NodeHours, PlannedCell, StopAt, WallHours};
use crate::study::{Budget, EngineKind};

const STARTUP_MINUTES: f64 = 10.0;
const CELL_MINUTES: f64 = 10.0;
const SIM_STARTUP_MINUTES: f64 = 0.02;
const SIM_CELL_MINUTES: f64 = 0.5;

/// One scheduler allocation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Job {
    /// Nodes it occupies.
    pub nodes: u32,
    /// Hours it takes.
    pub hours: f64,
}

/// Hours of one job: a server start and these cells.
pub fn job_hours<'a>(budget: &Budget, engine: EngineKind, cells: impl Iterator<Item = &'a PlannedCell>) -> f64 {
    if let Some(minutes) = budget.estimate.job_minutes {
        return minutes / 60.0;
    }
    let (startup, cell) = match engine {
        EngineKind::Sim => (SIM_STARTUP_MINUTES, SIM_CELL_MINUTES),
        EngineKind::External => (0.0, CELL_MINUTES),
        _ => (STARTUP_MINUTES, CELL_MINUTES),
    };
    let startup = budget.estimate.startup_minutes.unwrap_or(startup);
    let cell = budget.estimate.cell_minutes.unwrap_or(cell);
    let minutes: f64 = startup + cells.map(|planned| cell_minutes(planned).unwrap_or(cell)).sum::<f64>();
    minutes / 60.0
}

/// Minutes of a cell as its stop rule fixes them: an open loop's arrivals, a duration, or the middle of a steady range.
fn cell_minutes(cell: &PlannedCell) -> Option<f64> {
    match (cell.settings.stop, &cell.load) {
        (StopAt::DurationS(seconds), _) => Some(seconds / 60.0),
        (StopAt::Steady { min_s, max_s }, _) => Some(f64::midpoint(min_s, max_s) / 60.0),
        (StopAt::Requests(requests), Load::Open { rate_per_s, .. }) => {
            let all = f64::from(requests.saturating_add(cell.settings.warmup_requests));
            Some(all / rate_per_s / 60.0)
        }
        (StopAt::Requests(requests), Load::Ramp { ramp, .. }) => {
            let mean_per_s = ramp.expected_arrivals(ramp.duration_s()) / ramp.duration_s();
            Some(f64::from(requests.saturating_add(cell.settings.warmup_requests)) / mean_per_s / 60.0)
        }
        (StopAt::Requests(_) | StopAt::TraceEnd, _) => None,
    }
}

/// Sums and the makespan with at most `max_jobs` jobs at a time, each started as soon as a place is free.
pub fn totals(jobs: &[Job], max_jobs: Option<u32>) -> (NodeHours, WallHours) {
    // `sum` of nothing is −0.0, which people read as a mistake.
    let node_hours = 0.0 + jobs.iter().map(|job| f64::from(job.nodes) * job.hours).sum::<f64>();
    let sequential = 0.0 + jobs.iter().map(|job| job.hours).sum::<f64>();
    let places = max_jobs.map_or(jobs.len(), |max| max as usize).clamp(1, jobs.len().max(1));
    let mut free_at = vec![0.0f64; places];
    for job in jobs {
        if let Some(earliest) = free_at.iter_mut().min_by(|a, b| a.total_cmp(b)) {
            *earliest += job.hours;
        }
    }
    let parallel = free_at.into_iter().fold(0.0, f64::max);
    (NodeHours { sequential: node_hours }, WallHours { sequential, parallel })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makespan_with_and_without_a_limit() {
        let jobs = vec![Job { nodes: 8, hours: 1.0 }; 15];
        let (node_hours, wall) = totals(&jobs, None);
        assert_eq!((node_hours.sequential, wall.sequential, wall.parallel), (120.0, 15.0, 1.0));
        let (_, wall) = totals(&jobs, Some(4));
        assert_eq!(wall.parallel, 4.0);
        let (node_hours, wall) = totals(&[], Some(4));
        assert!(
            [node_hours.sequential, wall.sequential, wall.parallel].iter().all(|x| *x == 0.0 && x.is_sign_positive())
        );
    }
}
