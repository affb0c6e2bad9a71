//! From the arguments of `servelab bench` to a load: what is sent, when, to whom, within which limits.

use std::path::Path;
use std::sync::Arc;

use servelab_core::metrics::RequestSlo;
use servelab_core::pacing::Think;
use servelab_core::plan::{Load, StopAt};
use servelab_core::workload::DatasetSpec;
use servelab_data::{PromptSource, StreamRequest, Tokenizer, TokenizerSource};
use servelab_load::arrivals::{ArrivalError, Extent, Rate, Schedule};
use servelab_load::{ApiKey, Endpoint, LoadSpec, Pacing, Pauses, Spread, Stop, Target, TlsTrust, clock};

use super::args::{BenchArgs, api_key, load, nanos, parse_slo, request_slo, stop};
use super::content::dataset;
use crate::error::CommandError;
use crate::feed::{Feed, Instants, Items, Wire};
use crate::requests::{longest_output, scheduled, spread, timed_window_size, trace_suffices};

/// One load that can be measured.
pub(super) struct Trial {
    pub(super) spec: LoadSpec,
    /// What is offered, for those who judge.
    pub(super) load: Load,
    pub(super) slo: Option<RequestSlo>,
    pub(super) ignore_eos: bool,
    /// Slots of a closed loop pause between the turns of their conversations.
    pub(super) slots_pause: bool,
    /// Requests that will be sent, if that is known.
    pub(super) planned: Option<u64>,
    pub(super) api_key: Option<ApiKey>,
}

/// Makes the load that was asked for.
pub(super) fn trial(args: &BenchArgs) -> Result<Trial, CommandError> {
    let slo = args.slo.as_deref().map(request_slo).transpose()?;
    // Mistakes in the arguments are told before any file is read.
    load(args)?;
    stop(args)?;
    api_key(args)?;
    trial_from(args, &mut open(args)?, "bench", slo)
}

/// One trial of a search: its prompts are those of no other.
pub(super) fn search_trial(args: &BenchArgs, source: &mut PromptSource, name: &str) -> Result<Trial, CommandError> {
    let slo = args.slo.as_deref().map(parse_slo).transpose()?;
    trial_from(args, source, name, slo.and_then(|slo| slo.request))
}

/// What the prompts are drawn from.
pub(super) fn open(args: &BenchArgs) -> Result<PromptSource, CommandError> {
    let tokenizer = Tokenizer::load(&args.tokenizer.parse().unwrap_or(TokenizerSource::Builtin))?;
    Ok(PromptSource::open(&dataset(args)?, Path::new(""), Arc::new(tokenizer), args.seed)?)
}

fn trial_from(
    args: &BenchArgs,
    source: &mut PromptSource,
    name: &str,
    slo: Option<RequestSlo>,
) -> Result<Trial, CommandError> {
    let (load, stop_at, api_key) = (load(args)?, stop(args)?, api_key(args)?);
    let dataset = dataset(args)?;
    let start = spread(args.start);
    let n = most_requests(args, &load, stop_at, &dataset)?;
    // One request more, sent alone beforehand, shows over what time to spread the others. Where a file has no prompt to
    // spare, the first measured one is sent alone.
    let needs_pilot = start == Spread::OneRequest
        && args.concurrency.is_some_and(|slots| slots > 1)
        && (matches!(dataset, DatasetSpec::Conversations(_)) || source.remaining().is_none_or(|left| left > n));
    let warmup = u64::from(args.warmup.max(u32::from(needs_pilot)));
    let endpoint = match (args.endpoint, source.has_messages()) {
        (Some(endpoint), _) => endpoint.endpoint(),
        (None, Some(true) | None) => Endpoint::Chat,
        (None, Some(false)) => Endpoint::Completions,
    };
    let content = content(source, &dataset, name, n, stop_at, warmup as usize)?;
    let unusable = |error: ArrivalError| CommandError::usage(error.to_string());
    let at = |arrival: &str, rate: &Rate| scheduled(arrival, rate, stop_at, warmup, args.seed).map_err(unusable);
    let (pacing, instants) = match &load {
        Load::Closed { concurrency, think_s, .. } => {
            let think = think_s.map(|think| Pauses { think, seed: args.seed });
            (Pacing::Closed { concurrency: *concurrency, start, think }, Instants::Now)
        }
        Load::Offline { batch_size, .. } => (Pacing::Batches { size: *batch_size }, Instants::Now),
        Load::Open { rate_per_s, arrival, max_concurrency } => {
            (Pacing::Open { max_concurrency: *max_concurrency }, at(arrival, &Rate::Constant(*rate_per_s))?)
        }
        Load::Ramp { ramp, arrival, max_concurrency } => {
            (Pacing::Open { max_concurrency: *max_concurrency }, at(arrival, &Rate::Ramp(ramp.clone()))?)
        }
        Load::Replay { speed, max_concurrency } => (
            Pacing::Open { max_concurrency: *max_concurrency },
            Instants::Recorded { speed: *speed, zero_ns: content.zero_ns },
        ),
    };
    let wire =
        Wire { model: args.model.clone(), endpoint, ignore_eos: args.ignore_eos, temperature: 0.0, max_output: None };
    let requests = match stop_at {
        StopAt::Requests(requests) => Some(u64::from(requests)),
        _ => None,
    };
    let think: Option<Think> = match &dataset {
        DatasetSpec::Conversations(talks) => talks.think_s,
        _ => None,
    };
    let feed = Feed::new(content.items, instants, wire, warmup, requests).with_think(think, args.seed);
    let stop = match stop_at {
        StopAt::DurationS(seconds) => Stop::Duration { ns: nanos(seconds, "--duration")? },
        StopAt::Steady { min_s, max_s } => {
            Stop::Steady { min_ns: nanos(min_s, "min_s")?, max_ns: nanos(max_s, "max_s")? }
        }
        StopAt::Requests(_) | StopAt::TraceEnd => Stop::AllRequests,
    };
    let trust = TlsTrust { ca_file: args.ca_file.clone() };
    let target = Target { base_url: args.url.clone(), endpoint, api_key: api_key.clone(), trust };
    let mut spec = LoadSpec::new(target, clock::new_epoch(), feed, pacing, stop);
    spec.warmup = warmup;
    spec.request_timeout_ns = nanos(args.timeout, "--timeout")?;
    spec.drain_timeout_ns = spec.drain_timeout_ns.min(spec.request_timeout_ns);
    spec.threads = args.threads;
    spec.keep_text = args.keep_text;
    spec.source_addresses = args.source_ip.clone();
    spec.canary = !args.no_canary;
    let planned = requests.or(content.n).map(|n| n + warmup);
    Ok(Trial { spec, load, slo, ignore_eos: args.ignore_eos, slots_pause: think.is_some(), planned, api_key })
}

/// What is sent, before its bodies are made.
struct Content {
    items: Items,
    /// Requests of the window, where the trace says it.
    n: Option<u64>,
    /// Of a replay: recorded instant of the first request after the warm-up.
    zero_ns: i64,
}

/// Opens the streams. A replay goes through its trace once, warm-up and all; other loads have a stream for each.
fn content(
    source: &mut PromptSource,
    dataset: &DatasetSpec,
    name: &str,
    n: usize,
    stop: StopAt,
    warmup: usize,
) -> Result<Content, CommandError> {
    if let (DatasetSpec::Trace(trace), Some(available)) = (dataset, source.remaining()) {
        let asked = match stop {
            StopAt::Requests(requests) => requests as usize,
            _ => 1,
        };
        trace_suffices(&trace.path, available, asked, warmup).map_err(CommandError::usage)?;
        let zero_ns = source.trace_instant_ns(warmup)?.unwrap_or(0);
        let mut streams = source.streams(&[StreamRequest::items(format!("{name}/window"), available)])?;
        let items: Items = match streams.pop() {
            Some(stream) => Box::new(stream),
            None => Box::new(std::iter::empty()),
        };
        return Ok(Content { items, n: Some((available - warmup) as u64), zero_ns });
    }
    let requests =
        [StreamRequest::items(format!("{name}/warmup"), warmup), StreamRequest::requests(format!("{name}/window"), n)];
    let mut streams = source.streams(&requests)?.into_iter();
    let before = streams.next().into_iter().flatten().take(warmup);
    let items: Items = Box::new(before.chain(streams.next().into_iter().flatten()));
    Ok(Content { items, n: None, zero_ns: 0 })
}

/// Requests of the window at most: how many a file must hold.
fn most_requests(args: &BenchArgs, load: &Load, stop: StopAt, dataset: &DatasetSpec) -> Result<usize, CommandError> {
    let seconds = match stop {
        StopAt::Requests(requests) => return Ok(requests as usize),
        StopAt::DurationS(seconds) | StopAt::Steady { max_s: seconds, .. } => seconds,
        StopAt::TraceEnd => return Ok(1),
    };
    let (arrival, rate) = match load {
        Load::Closed { concurrency, .. } => {
            return Ok(timed_window_size(seconds, *concurrency, longest_output(dataset, None)));
        }
        Load::Open { rate_per_s, arrival, .. } => (arrival, Rate::Constant(*rate_per_s)),
        Load::Ramp { ramp, arrival, .. } => (arrival, Rate::Ramp(ramp.clone())),
        Load::Replay { .. } | Load::Offline { .. } => return Ok(1),
    };
    // What is generated needs no number.
    if dataset.file().is_none() {
        return Ok(1);
    }
    let unusable = |error: ArrivalError| CommandError::usage(error.to_string());
    let process = arrival.parse().map_err(unusable)?;
    let extent = Extent::DurationNs(nanos(seconds, "--duration")?);
    Ok(Schedule::new(&process, &rate, extent, args.seed).map_err(unusable)?.count())
}
