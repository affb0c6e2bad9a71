//! From the arguments of `servelab bench` to a load: prompts, bodies, arrivals, limits.

use std::path::Path;
use std::sync::Arc;

use servelab_core::metrics::RequestSlo;
use servelab_core::pacing::StartMode;
use servelab_core::plan::Load;
use servelab_core::workload::{DatasetSpec, FileFormat, FileSpec, SynthSpec};
use servelab_data::{Prompt, PromptBody, PromptSource, StreamRequest, Tokenizer, TokenizerSource};
use servelab_load::arrivals::{Arrival, Extent, Rate, Schedule};
use servelab_load::{
    ApiKey, BodyOptions, Endpoint, LoadSpec, Pacing, Prepared, PreparedRequest, Spread, Stop, Target, TlsTrust, clock,
    request_body,
};

use super::args::{BenchArgs, EndpointArg, api_key, load, nanos, parse_slo};
use crate::error::CommandError;
use crate::requests::{timed_window_size, wire};

/// One load that can be measured.
pub(super) struct Trial {
    pub(super) spec: LoadSpec,
    /// What is offered, for those who judge.
    pub(super) load: Load,
    pub(super) slo: Option<RequestSlo>,
    pub(super) ignore_eos: bool,
    /// Requests that will be sent, if that is known.
    pub(super) planned: Option<u64>,
    pub(super) api_key: Option<ApiKey>,
}

/// Makes the load that was asked for.
pub(super) fn trial(args: &BenchArgs) -> Result<Trial, CommandError> {
    let slo = args.slo.as_deref().map(parse_slo).transpose()?;
    let load = load(args)?;
    let api_key = api_key(args)?;
    let duration_ns = args.duration.map(|duration| nanos(duration, "--duration")).transpose()?;
    let arrivals_ns = arrivals(args, duration_ns)?;
    let dataset = dataset(args);
    dataset.validate().map_err(|problem| CommandError::usage(problem.to_string()))?;
    let longest = dataset.synth().map_or(256, |synth| synth.length_bounds().output.max);
    let n = match (&arrivals_ns, args.requests, args.duration, args.concurrency) {
        (Some(arrivals), ..) => arrivals.len(),
        (None, Some(n), ..) => n as usize,
        (None, None, Some(duration), Some(in_flight)) => timed_window_size(duration, in_flight, longest),
        _ => 1,
    };
    let start = spread(args.start);
    // One request more, sent alone beforehand, shows over what time to spread the others.
    let needs_pilot = start == Spread::OneRequest && args.concurrency.is_some_and(|slots| slots > 1);
    let n_warmup = args.warmup.max(u32::from(needs_pilot));
    let tokenizer = Tokenizer::load(&args.tokenizer.parse().unwrap_or(TokenizerSource::Builtin))?;
    let mut source = PromptSource::open(&dataset, Path::new(""), Arc::new(tokenizer), args.seed)?;
    let streams = [
        StreamRequest { name: "bench/warmup".to_owned(), n: n_warmup as usize },
        StreamRequest { name: "bench/window".to_owned(), n },
    ];
    let drawn = source.draw(&streams)?;
    let [warmup, window] = <[Vec<Prompt>; 2]>::try_from(drawn).unwrap_or_default();
    let endpoint = match (args.endpoint, window.first().map(|prompt| &prompt.body)) {
        (Some(EndpointArg::Chat), _) | (None, Some(PromptBody::Messages(_))) => Endpoint::Chat,
        _ => Endpoint::Completions,
    };
    let prepare = |first: usize, prompts: &[Prompt]| -> Vec<PreparedRequest> {
        prompts.iter().enumerate().map(|(i, prompt)| prepared(args, endpoint, first + i, prompt)).collect()
    };
    let (warmup, window) = (prepare(0, &warmup), prepare(warmup.len(), &window));
    let planned = (args.duration.is_none() || arrivals_ns.is_some()).then_some((warmup.len() + window.len()) as u64);
    let warmup_len = warmup.len() as u64;
    let (pacing, requests) = match (arrivals_ns, args.concurrency) {
        (Some(arrivals_ns), _) => {
            (Pacing::Open { max_concurrency: args.max_concurrency }, Prepared::open(warmup, window, &arrivals_ns))
        }
        (None, concurrency) => (
            Pacing::Closed { concurrency: concurrency.unwrap_or(1), start, think: None },
            Prepared::new(warmup, window),
        ),
    };
    let trust = TlsTrust { ca_file: args.ca_file.clone() };
    let target = Target { base_url: args.url.clone(), endpoint, api_key: api_key.clone(), trust };
    let stop = duration_ns.map_or(Stop::AllRequests, |ns| Stop::Duration { ns });
    let mut spec = LoadSpec::new(target, clock::new_epoch(), requests, pacing, stop);
    spec.warmup = warmup_len;
    spec.request_timeout_ns = nanos(args.timeout, "--timeout")?;
    spec.drain_timeout_ns = spec.drain_timeout_ns.min(spec.request_timeout_ns);
    spec.threads = args.threads;
    spec.source_addresses = args.source_ip.clone();
    spec.canary = !args.no_canary;
    Ok(Trial { spec, load, slo, ignore_eos: args.ignore_eos, planned, api_key })
}

fn arrivals(args: &BenchArgs, duration_ns: Option<i64>) -> Result<Option<Vec<i64>>, CommandError> {
    let Some(rate) = args.rate else { return Ok(None) };
    let process: Arrival =
        args.arrival.parse().map_err(|error| CommandError::usage(format!("`--arrival`: {error}")))?;
    let extent = match (args.requests, duration_ns) {
        (Some(n), _) => Extent::Count(n as usize),
        (None, Some(ns)) => Extent::DurationNs(ns),
        (None, None) => Extent::Count(1),
    };
    let schedule = Schedule::new(&process, &Rate::Constant(rate), extent, args.seed);
    Ok(Some(schedule.map_err(|error| CommandError::usage(error.to_string()))?.collect()))
}

fn spread(start: StartMode) -> Spread {
    match start {
        StartMode::Spread => Spread::OneRequest,
        StartMode::Burst => Spread::Burst,
        #[expect(clippy::cast_possible_truncation, reason = "checked when it was read")]
        StartMode::SpreadS(seconds) => Spread::Over { ns: (seconds * 1e9) as i64 },
    }
}

fn prepared(args: &BenchArgs, endpoint: Endpoint, position: usize, prompt: &Prompt) -> PreparedRequest {
    let options = BodyOptions {
        model: args.model.clone(),
        max_tokens: Some(i64::from(prompt.output_tokens)),
        ignore_eos: args.ignore_eos,
        temperature: Some(prompt.temperature.unwrap_or(0.0)),
        stream: true,
        extra: serde_json::Map::new(),
    };
    PreparedRequest {
        request_idx: i64::try_from(position).unwrap_or(i64::MAX),
        body: request_body(endpoint, &wire(&prompt.body), &options),
        input_tokens: Some(i64::from(prompt.input_tokens)),
        requested_output_tokens: Some(i64::from(prompt.output_tokens)),
        ignore_eos: args.ignore_eos,
    }
}

fn dataset(args: &BenchArgs) -> DatasetSpec {
    match &args.dataset {
        Some(path) => DatasetSpec::File(FileSpec {
            path: path.to_string_lossy().into_owned(),
            format: FileFormat::default(),
            output_tokens: args.output_tokens,
        }),
        None => {
            let (input, output) = (args.input_tokens.unwrap_or(1), args.output_tokens.unwrap_or(1));
            let mut synth = SynthSpec::exact(args.requests.unwrap_or(100), input, output);
            synth.seed = args.seed;
            DatasetSpec::Synth(synth)
        }
    }
}
