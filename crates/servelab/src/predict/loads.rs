//! A planned cell as simulated load: the very lengths and instants that a run of the cell would send. Replicas share a
//! load evenly.

use std::collections::HashMap;
use std::sync::Arc;

use servelab_core::pacing::StartMode;
use servelab_core::plan::{Load, Plan, PlannedCell, StopAt};
use servelab_core::record::RequestRecord;
use servelab_load::arrivals::{Arrival, Extent, schedule};
use servelab_sim::predict::{ArrivalKind, CellLoad};
use servelab_store::import::{Arrivals, ImportedResult};

use crate::error::CommandError;
use crate::requests::StudyRequests;
use crate::study_input::StudyInput;

/// Most requests of one simulated cell: longer runs change nothing but the tails.
const MOST_REQUESTS: usize = 20_000;

/// Arrivals of another tool whose file has no send times.
const IMPORT_SEED: u64 = 1;

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

/// The load of another tool's run, as far as its file tells: its own lengths and send times where they are there, means
/// and arrivals drawn from a fixed seed where not.
///
/// # Errors
/// In words, what is missing.
pub(crate) fn load_of_import(imported: &ImportedResult, replicas: u32) -> Result<CellLoad, String> {
    let replicas = replicas.max(1);
    let mut sent: Vec<&RequestRecord> = imported.run.requests.iter().filter(|request| request.is_success()).collect();
    sent.sort_by_key(|request| request.t_send);
    let lengths_of = |request: &RequestRecord| {
        Some((u32::try_from(request.input_tokens?).ok()?, u32::try_from(request.output_tokens?).ok()?))
    };
    let mut lengths: Vec<(u32, u32)> = sent.iter().filter_map(|request| lengths_of(request)).collect();
    let result = &imported.result;
    let n = result.requests.completed;
    if n == 0 {
        return Err("no request succeeded".to_owned());
    }
    if lengths.is_empty() {
        if result.input_tokens == 0 || result.output_tokens == 0 {
            return Err("the file does not say how many tokens prompts and answers had".to_owned());
        }
        let mean = |tokens: u64| u32::try_from((tokens + n / 2) / n).unwrap_or(u32::MAX).max(1);
        lengths.push((mean(result.input_tokens), mean(result.output_tokens)));
    }
    let requests = u32::try_from(n.min(MOST_REQUESTS as u64)).unwrap_or(u32::MAX);
    let share = |n: u32| n.div_ceil(replicas).max(1);
    let arrivals = match &imported.run.load {
        Some(Load::Closed { concurrency, .. }) => {
            // Other tools start all clients at once.
            ArrivalKind::Closed { concurrency: share(*concurrency), ramp_ns: 0, think_ns: 0 }
        }
        Some(Load::Open { max_concurrency: Some(_), .. }) => {
            return Err("an open loop with a cap on requests in flight is neither open nor closed".to_owned());
        }
        Some(Load::Open { rate_per_s, arrival, .. }) => {
            let own: Vec<i64> = sent.iter().filter_map(|request| request.t_send).collect();
            let is_known = imported.run.arrivals == Arrivals::Measured && own.len() == sent.len() && !own.is_empty();
            let instants = if is_known {
                own
            } else {
                let arrival: Arrival = arrival.parse().map_err(|error| format!("{error}"))?;
                let extent = Extent::Count(requests as usize);
                schedule(&arrival, *rate_per_s, extent, IMPORT_SEED).map_err(|error| error.to_string())?
            };
            let first = instants.first().copied().unwrap_or(0);
            let from_first = |at: &i64| u64::try_from(at - first).unwrap_or(0);
            ArrivalKind::Open { instants_ns: instants.iter().step_by(replicas as usize).map(from_first).collect() }
        }
        Some(Load::Offline { batch_size, .. }) => ArrivalKind::Batches { size: share(*batch_size) },
        Some(other) => return Err(format!("a load of the kind \"{}\" cannot be repeated here", other.describe())),
        None => return Err("the file does not say at which concurrency or rate it was measured".to_owned()),
    };
    Ok(CellLoad {
        arrivals,
        lengths: lengths.iter().step_by(replicas as usize).copied().collect(),
        shared_prefix_tokens: 0,
        warmup_requests: 0,
        requests: share(requests),
        duration_ns: None,
    })
}
