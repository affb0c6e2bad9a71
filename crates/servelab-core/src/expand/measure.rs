//! Load levels and cell settings of one `load:` section. What a cell's identity is made of stands here in one place.

use serde_json::{Value, json};

use super::DatasetFacts;
use crate::identity::ID_SCHEME;
use crate::ids::PointId;
use crate::pacing::StartMode;
use crate::plan::{CellSettings, Load, StopAt};
use crate::study::{EndpointKind, LoadSection, Workload};

/// Name of the workload that offline loads bring along.
pub const OFFLINE_WORKLOAD: &str = "offline";

const DEFAULT_SEED: u64 = 42;
const DEFAULT_REQUEST_TIMEOUT_S: f64 = 600.0;
const LEAST_WARMUP: u32 = 8;

/// The levels of a load section: open, ramp, replay, closed, offline.
pub fn levels(load: &LoadSection) -> Vec<Load> {
    let mut out = Vec::new();
    if let Some(open) = &load.open {
        let arrival = open.arrival.clone().unwrap_or_else(|| "poisson".to_owned());
        out.extend(open.rate.iter().map(|rate| Load::Open {
            rate_per_s: *rate,
            arrival: arrival.clone(),
            max_concurrency: open.max_concurrency,
        }));
        out.extend(open.ramp.iter().map(|ramp| Load::Ramp {
            ramp: ramp.clone(),
            arrival: arrival.clone(),
            max_concurrency: open.max_concurrency,
        }));
    }
    if let Some(replay) = &load.replay {
        let speeds = if replay.speed.is_empty() { &[1.0] } else { replay.speed.0.as_slice() };
        out.extend(speeds.iter().map(|speed| Load::Replay { speed: *speed, max_concurrency: replay.max_concurrency }));
    }
    if let Some(closed) = &load.closed {
        // What is usual is left out, so that it reads and hashes like a study that does not mention it.
        let think_s = closed.think_s.filter(|think| think.mean_s() > 0.0);
        let start = closed.start.filter(|start| *start != StartMode::Spread);
        out.extend(closed.concurrency.iter().map(|n| Load::Closed { concurrency: *n, think_s, start }));
    }
    if let Some(offline) = &load.offline {
        for batch_size in offline.batch_size.iter() {
            for seq_len in offline.seq_len.iter() {
                for max_tokens in offline.max_tokens.iter() {
                    out.push(Load::Offline { batch_size: *batch_size, seq_len: *seq_len, max_tokens: *max_tokens });
                }
            }
        }
    }
    out
}

/// How a level of this section is measured for this workload.
pub fn settings(load: &LoadSection, level: &Load, workload: Option<&Workload>) -> CellSettings {
    let in_flight = match level {
        Load::Closed { concurrency, .. } => *concurrency,
        Load::Offline { batch_size, .. } => *batch_size,
        Load::Open { .. } | Load::Ramp { .. } | Load::Replay { .. } => LEAST_WARMUP,
    };
    let stop = match (load.stop.requests, load.stop.requests_per_slot, load.stop.duration_s, load.stop.steady) {
        (Some(requests), ..) => StopAt::Requests(requests),
        (_, Some(per_slot), ..) => StopAt::Requests(per_slot.saturating_mul(in_flight)),
        (_, _, Some(seconds), _) => StopAt::DurationS(seconds),
        (.., Some(steady)) => StopAt::Steady { min_s: steady.min_s, max_s: steady.max_s },
        _ => match level {
            Load::Ramp { ramp, .. } => StopAt::DurationS(ramp.duration_s()),
            Load::Replay { .. } => StopAt::TraceEnd,
            _ => StopAt::Requests(0),
        },
    };
    let output = workload.map(|workload| workload.output).unwrap_or_default();
    CellSettings {
        stop,
        warmup_requests: load.warmup.map_or(in_flight.max(LEAST_WARMUP), |warmup| warmup.requests),
        seed: load.seed.unwrap_or(DEFAULT_SEED),
        request_timeout_s: load.request_timeout_s.unwrap_or(DEFAULT_REQUEST_TIMEOUT_S),
        output_max: output.max,
        ignore_eos: output.ignore_eos.unwrap_or(true),
        endpoint: workload.and_then(|workload| workload.endpoint).map(|endpoint| {
            match endpoint {
                EndpointKind::Completions => "completions",
                EndpointKind::Chat => "chat",
            }
            .to_owned()
        }),
        temperature: workload.and_then(|workload| workload.temperature).unwrap_or(0.0),
        reuse_prompts: workload.is_some_and(|workload| workload.reuse),
    }
}

/// The content that a cell's id is the hash of.
pub fn cell_content(
    point: &PointId,
    hardware: &Value,
    dataset: Option<&DatasetFacts>,
    tokenizer: &str,
    load: &Load,
    settings: &CellSettings,
    repeat: u32,
) -> Value {
    json!({
        "scheme": ID_SCHEME,
        "point": point,
        "hardware": hardware,
        "dataset": dataset.map_or(Value::Null, |facts| facts.content.clone()),
        "tokenizer": tokenizer,
        "load": load,
        "settings": settings,
        "repeat": repeat,
    })
}
