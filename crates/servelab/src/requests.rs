//! Prompts into requests: what `servelab-run` asks for before each server start. Every stream of prompts is named after
//! its load level and repeat, so that points are paired (same prompts, same arrivals) and levels of one start are not.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};
use servelab_core::plan::{Load, Plan, PlannedCell, PlannedPoint, StopAt};
use servelab_core::workload::{DEFAULT_BLOCK_SIZE, DatasetSpec, SynthSpec};
use servelab_data::{DataError, Prompt, PromptBody, PromptSource, StreamRequest, Tokenizer};
use servelab_load::arrivals::{self, Arrival, Extent};
use servelab_load::{
    BodyOptions, Endpoint, Pacing, Prepared, PreparedRequest, Prompt as WirePrompt, Spread, Stop, request_body,
};
use servelab_run::{PrepareError, PreparedCell, RequestSource};

use crate::study_input::StudyInput;

/// Fastest request that a timed closed loop is prepared for: this long, plus [`FASTEST_TOKEN_S`] per output token.
const FASTEST_REQUEST_S: f64 = 0.02;
/// See [`FASTEST_REQUEST_S`].
const FASTEST_TOKEN_S: f64 = 0.002;
/// Most requests prepared for one timed level; a run that uses them up says so.
const MOST_PREPARED: usize = 200_000;
/// Warm-up and window prompts of one cell.
type Drawn = (Vec<Prompt>, Vec<Prompt>);

/// Makes requests out of a study's workloads.
pub(crate) struct StudyRequests<'a> {
    input: &'a StudyInput,
    plan: &'a Plan,
    tokenizer: Arc<Tokenizer>,
}

impl<'a> StudyRequests<'a> {
    pub(crate) fn new(input: &'a StudyInput, plan: &'a Plan) -> Result<Self, DataError> {
        Ok(Self { input, plan, tokenizer: Arc::new(Tokenizer::load(&input.tokenizer)?) })
    }

    /// The dataset of a cell; offline levels are exact lengths.
    fn dataset(&self, cell: &PlannedCell) -> Result<DatasetSpec, PrepareError> {
        if let Load::Offline { batch_size, seq_len, max_tokens } = &cell.load {
            return Ok(DatasetSpec::Synth(SynthSpec::exact(*batch_size, *seq_len, *max_tokens)));
        }
        self.input.study.workloads.get(&cell.workload).map(|workload| workload.dataset.clone()).ok_or_else(|| {
            PrepareError {
                code: "workload_missing".to_owned(),
                detail: format!("the study has no workload `{}` any more", cell.workload),
            }
        })
    }

    /// Prompts of every cell of one server start. All cells of the start take part, finished ones too: a file is cut
    /// into the same slices whatever was measured before.
    fn draw(&self, start: &[&PlannedCell]) -> Result<BTreeMap<String, Drawn>, PrepareError> {
        let mut out = BTreeMap::new();
        let mut groups: Vec<(DatasetSpec, u64, bool, Vec<&PlannedCell>)> = Vec::new();
        for cell in start {
            let spec = self.dataset(cell)?;
            let (seed, reuse) = (cell.settings.seed, cell.settings.reuse_prompts);
            match groups.iter_mut().find(|group| (&group.0, group.1, group.2) == (&spec, seed, reuse)) {
                Some(group) => group.3.push(cell),
                None => groups.push((spec, seed, reuse, vec![cell])),
            }
        }
        for (spec, seed, reuse, cells) in groups {
            let failed =
                |error: DataError| PrepareError { code: data_code(&error).to_owned(), detail: error.to_string() };
            let mut source = PromptSource::open(&spec, &self.input.folder, Arc::clone(&self.tokenizer), seed)
                .map_err(failed)?
                .with_reuse(reuse);
            let mut streams = Vec::new();
            for cell in &cells {
                let stream = stream_name(cell);
                let longest = self.longest_output(&spec, cell);
                streams.push(StreamRequest {
                    name: format!("{stream}/warmup"),
                    n: cell.settings.warmup_requests as usize,
                });
                streams.push(StreamRequest { name: format!("{stream}/window"), n: window_size(cell, longest) });
            }
            let mut drawn = source.draw(&streams).map_err(failed)?.into_iter();
            for cell in &cells {
                if let (Some(warmup), Some(window)) = (drawn.next(), drawn.next()) {
                    out.insert(cell.id.as_str().to_owned(), (warmup, window));
                }
            }
        }
        Ok(out)
    }

    fn longest_output(&self, spec: &DatasetSpec, cell: &PlannedCell) -> u32 {
        let longest = spec.synth().map_or(256, |synth| synth.length_bounds().output.max);
        cell.settings.output_max.map_or(longest, |max| max.min(longest))
    }

    fn prepared(
        &self,
        cell: &PlannedCell,
        warmup: Vec<Prompt>,
        window: Vec<Prompt>,
        served_model: &str,
    ) -> Result<PreparedCell, PrepareError> {
        let endpoint = match cell.settings.endpoint.as_deref() {
            Some("chat") => Endpoint::Chat,
            Some(_) => Endpoint::Completions,
            None => match window.first().map(|prompt| &prompt.body) {
                Some(PromptBody::Messages(_)) => Endpoint::Chat,
                _ => Endpoint::Completions,
            },
        };
        let n_warmup = warmup.len();
        let request = |position: usize, prompt: &Prompt| {
            let output = cell.settings.output_max.map_or(prompt.output_tokens, |max| max.min(prompt.output_tokens));
            let options = BodyOptions {
                model: served_model.to_owned(),
                max_tokens: Some(i64::from(output)),
                ignore_eos: cell.settings.ignore_eos,
                temperature: Some(prompt.temperature.unwrap_or(cell.settings.temperature)),
                stream: true,
                extra: Map::new(),
            };
            PreparedRequest {
                request_idx: i64::try_from(position).unwrap_or(i64::MAX),
                body: request_body(endpoint, &wire(&prompt.body), &options),
                input_tokens: Some(i64::from(prompt.input_tokens)),
                requested_output_tokens: Some(i64::from(output)),
                ignore_eos: cell.settings.ignore_eos,
            }
        };
        let warmup: Vec<PreparedRequest> = warmup.iter().enumerate().map(|(i, prompt)| request(i, prompt)).collect();
        let mut window: Vec<PreparedRequest> =
            window.iter().enumerate().map(|(i, prompt)| request(n_warmup + i, prompt)).collect();
        let stop = match cell.settings.stop {
            StopAt::Requests(_) => Stop::AllRequests,
            StopAt::DurationS(seconds) => Stop::Duration { ns: nanos(seconds) },
            StopAt::Steady { min_s, max_s } => Stop::Steady { min_ns: nanos(min_s), max_ns: nanos(max_s) },
        };
        let (pacing, arrivals_ns) = match &cell.load {
            Load::Closed { concurrency } => {
                (Pacing::Closed { concurrency: *concurrency, start: Spread::OneRequest, think: None }, None)
            }
            Load::Offline { batch_size, .. } => (Pacing::Batches { size: *batch_size }, None),
            Load::Open { rate_per_s, max_concurrency, .. } => {
                let arrivals_ns = arrivals_of(cell, *rate_per_s)?;
                window.truncate(arrivals_ns.len());
                (Pacing::Open { max_concurrency: *max_concurrency }, Some(arrivals_ns))
            }
        };
        let expected_prefix_hit_rate = self
            .dataset(cell)?
            .synth()
            .map(|synth| synth.expected_hit_rate(u32::try_from(window.len()).unwrap_or(u32::MAX), DEFAULT_BLOCK_SIZE));
        let (n_warmup, planned) = (warmup.len() as u64, (warmup.len() + window.len()) as u64);
        let requests = match arrivals_ns {
            Some(arrivals_ns) => Prepared::open(warmup, window, &arrivals_ns),
            None => Prepared::new(warmup, window),
        };
        Ok(PreparedCell {
            requests: Box::new(requests),
            warmup: n_warmup,
            planned,
            pacing,
            stop,
            endpoint,
            expected_prefix_hit_rate,
        })
    }
}

impl RequestSource for StudyRequests<'_> {
    fn prepare(
        &mut self,
        point: &PlannedPoint,
        cells: &[&PlannedCell],
        served_model: &str,
    ) -> Result<Vec<PreparedCell>, PrepareError> {
        let repeats: Vec<u32> = cells.iter().map(|cell| cell.repeat).collect();
        let start: Vec<&PlannedCell> =
            self.plan.cells.iter().filter(|cell| cell.point == point.id && repeats.contains(&cell.repeat)).collect();
        let mut drawn = self.draw(&start)?;
        cells
            .iter()
            .map(|cell| {
                let (warmup, window) = drawn.remove(cell.id.as_str()).ok_or_else(|| PrepareError {
                    code: "workload_missing".to_owned(),
                    detail: format!("cell {} is not in the plan", cell.id.short()),
                })?;
                self.prepared(cell, warmup, window, served_model)
            })
            .collect()
    }
}

fn data_code(error: &DataError) -> &'static str {
    match error {
        DataError::TooFewPrompts { .. } => "dataset_too_small",
        _ => "dataset_unusable",
    }
}

/// Paired across points, disjoint across levels and repeats.
fn stream_name(cell: &PlannedCell) -> String {
    format!("{}/{}/repeat-{}", cell.workload, cell.load.describe(), cell.repeat)
}

fn nanos(seconds: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "float casts saturate; durations are checked when read")]
    let ns = (seconds * 1e9) as i64;
    ns
}

/// Requests that a level can use at most.
fn window_size(cell: &PlannedCell, longest_output: u32) -> usize {
    let seconds = match cell.settings.stop {
        StopAt::Requests(requests) => {
            let requests = requests as usize;
            return match &cell.load {
                // `requests` counts batches of an offline level.
                Load::Offline { batch_size, .. } => requests.saturating_mul(*batch_size as usize).min(MOST_PREPARED),
                _ => requests,
            };
        }
        StopAt::DurationS(seconds) => seconds,
        StopAt::Steady { max_s, .. } => max_s,
    };
    match &cell.load {
        Load::Open { rate_per_s, .. } => {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; both positive")]
            let size = (seconds * rate_per_s * 1.5) as usize + 64;
            size.min(MOST_PREPARED)
        }
        Load::Closed { concurrency: in_flight } | Load::Offline { batch_size: in_flight, .. } => {
            timed_window_size(seconds, *in_flight, longest_output)
        }
    }
}

/// Requests that a timed closed loop can use at most, if the server is as fast as any.
pub(crate) fn timed_window_size(seconds: f64, in_flight: u32, longest_output: u32) -> usize {
    let fastest = FASTEST_REQUEST_S + f64::from(longest_output) * FASTEST_TOKEN_S;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; both positive")]
    let size = (f64::from(in_flight) * seconds / fastest) as usize + in_flight as usize;
    size.clamp(1, MOST_PREPARED)
}

/// Arrivals depend on level, seed and repeat, never on the point: points are compared on the same instants.
fn arrivals_of(cell: &PlannedCell, rate_per_s: f64) -> Result<Vec<i64>, PrepareError> {
    let Load::Open { arrival, .. } = &cell.load else { return Ok(Vec::new()) };
    let bad = |detail: String| PrepareError { code: "arrivals_unusable".to_owned(), detail };
    let process: Arrival = arrival.parse().map_err(|error: arrivals::ArrivalError| bad(error.to_string()))?;
    let extent = match cell.settings.stop {
        StopAt::Requests(requests) => Extent::Count(requests as usize),
        StopAt::DurationS(seconds) => Extent::DurationNs(nanos(seconds)),
        StopAt::Steady { max_s, .. } => Extent::DurationNs(nanos(max_s)),
    };
    let text = format!("{}|{}", cell.settings.seed, stream_name(cell));
    let digest = servelab_core::identity::sha256_hex(text.as_bytes());
    let seed = u64::from_str_radix(digest.get(..16).unwrap_or("0"), 16).unwrap_or(0);
    arrivals::schedule(&process, rate_per_s, extent, seed).map_err(|error| bad(error.to_string()))
}

/// A prompt as the load generator writes it.
pub(crate) fn wire(body: &PromptBody) -> WirePrompt {
    match body {
        PromptBody::Text(text) => WirePrompt::Text(text.clone()),
        PromptBody::Messages(messages) => WirePrompt::Messages(
            messages.iter().map(|message| serde_json::to_value(message).unwrap_or(Value::Null)).collect(),
        ),
    }
}
