//! A planned cell as simulated load: the very lengths and instants that a run of the cell would send. Replicas share a
//! load evenly.

use std::collections::HashMap;
use std::sync::Arc;

use servelab_core::pacing::StartMode;
use servelab_core::plan::{Load, Plan, PlannedCell, StopAt};
use servelab_sim::predict::{ArrivalKind, CellLoad};

use crate::error::CommandError;
use crate::requests::StudyRequests;
use crate::study_input::StudyInput;

/// Most requests of one simulated cell: longer runs change nothing but the tails.
const MOST_REQUESTS: usize = 20_000;

/// Makes loads, each distinct one once.
pub(crate) struct CellLoads<'a> {
    requests: StudyRequests<'a>,
    known: HashMap<String, CellLoad>,
}

impl<'a> CellLoads<'a> {
    pub(crate) fn new(input: &'a StudyInput, plan: &'a Plan) -> Result<Self, CommandError> {
        Ok(Self { requests: StudyRequests::new(input, plan)?, known: HashMap::new() })
    }

    /// The load of a cell on one of `replicas` servers.
    pub(crate) fn load_of(&mut self, cell: &PlannedCell, replicas: u32) -> Result<CellLoad, CommandError> {
        let settings = serde_json::to_string(&cell.settings).unwrap_or_default();
        let key = format!("{}|{}|{}|{replicas}|{settings}", cell.workload, cell.load.describe(), cell.repeat);
        if let Some(load) = self.known.get(&key) {
            return Ok(load.clone());
        }
        let drawn = self.requests.lengths_of(cell, MOST_REQUESTS).map_err(|error| {
            CommandError::usage(format!("cannot draw the requests of workload `{}`: {}", cell.workload, error.detail))
        })?;
        let load = one_of(cell, &drawn, replicas.max(1));
        self.known.insert(key, load.clone());
        Ok(load)
    }
}

/// What a cell sends, as lengths and instants.
pub(crate) struct DrawnLengths {
    /// Prompt and output tokens; warm-up first.
    pub(crate) lengths: Vec<(u32, u32)>,
    /// Nanoseconds from the first request, of an open loop.
    pub(crate) instants_ns: Option<Vec<u64>>,
    /// Prompt tokens that all share.
    pub(crate) shared_prefix_tokens: u32,
}

fn one_of(cell: &PlannedCell, drawn: &DrawnLengths, replicas: u32) -> CellLoad {
    let share = |n: u32| n.div_ceil(replicas).max(1);
    let every = replicas as usize;
    let lengths: Arc<[(u32, u32)]> = drawn.lengths.iter().step_by(every).copied().collect();
    let warmup = cell.settings.warmup_requests / replicas;
    let asked = match cell.settings.stop {
        StopAt::Requests(requests) => match &cell.load {
            Load::Offline { batch_size, .. } => requests.saturating_mul(*batch_size),
            _ => requests,
        },
        _ => u32::try_from(drawn.lengths.len()).unwrap_or(u32::MAX).saturating_sub(cell.settings.warmup_requests),
    };
    let duration_ns = match cell.settings.stop {
        StopAt::DurationS(seconds) | StopAt::Steady { max_s: seconds, .. } => Some((seconds * 1e9) as u64),
        StopAt::Requests(_) | StopAt::TraceEnd => None,
    };
    let arrivals = match (&cell.load, &drawn.instants_ns) {
        (Load::Closed { concurrency, think_s, start }, _) => ArrivalKind::Closed {
            concurrency: share(*concurrency),
            ramp_ns: match start {
                Some(StartMode::Burst) => 0,
                Some(StartMode::SpreadS(seconds)) => (seconds * 1e9) as u64,
                // The first sends are spread over about one request, whose time is not known yet: one second per hundred
                // output tokens stands for it.
                Some(StartMode::Spread) | None => {
                    let output = lengths.first().map_or(100, |(_, output)| u64::from(*output));
                    output.saturating_mul(10_000_000)
                }
            },
            think_ns: think_s.map_or(0, |think| (think.mean_s() * 1e9) as u64),
        },
        (Load::Offline { batch_size, .. }, _) => ArrivalKind::Batches { size: share(*batch_size) },
        (_, Some(instants)) => ArrivalKind::Open { instants_ns: instants.iter().step_by(every).copied().collect() },
        (_, None) => ArrivalKind::Batches { size: share(asked) },
    };
    CellLoad {
        arrivals,
        lengths,
        shared_prefix_tokens: drawn.shared_prefix_tokens,
        warmup_requests: warmup,
        requests: share(asked.min(MOST_REQUESTS as u32)),
        duration_ns,
    }
}
