//! Workloads and loads into requests: what `servelab-run` asks for before each server start. Every stream of prompts is
//! named after its load level and repeat, so that points are paired (same prompts, same arrivals) and levels of one start
//! are not. Bodies are made while the load runs, by `feed`.

use std::collections::BTreeMap;
use std::sync::Arc;

use servelab_core::pacing::{Ramp, StartMode};
use servelab_core::plan::{Load, Plan, PlannedCell, PlannedPoint, StopAt};
use servelab_core::workload::{DEFAULT_BLOCK_SIZE, DatasetSpec, SynthSpec};
use servelab_data::{DataError, Item, PromptSource, StreamRequest, Tokenizer};
use servelab_load::arrivals::{self, Arrival, Extent, Rate, Schedule};
use servelab_load::{Endpoint, Pacing, Pauses, Spread, Stop};
use servelab_run::{AccuracyPlan, HarnessPlan, PrepareError, PreparedCell, RequestSource};

use crate::error::CommandError;
use crate::feed::{Feed, Instants, Items, Wire};
use crate::predict::DrawnLengths;
use crate::study_input::StudyInput;

/// Fastest request that a timed closed loop is prepared for: this long, plus [`FASTEST_TOKEN_S`] per output token.
const FASTEST_REQUEST_S: f64 = 0.02;
/// See [`FASTEST_REQUEST_S`].
const FASTEST_TOKEN_S: f64 = 0.002;
/// Length of the accuracy guard's prompts: enough context for a model to say something, and short to read.
const ACCURACY_INPUT_TOKENS: u32 = 96;
/// Their seed.
const ACCURACY_SEED: u64 = 20_240_601;
/// Most prompts over which one timed level meets a mix of lengths, and most that it takes from a file.
const MOST_PREPARED: usize = 200_000;

/// Makes requests out of a study's workloads.
pub(crate) struct StudyRequests<'a> {
    input: &'a StudyInput,
    plan: &'a Plan,
    tokenizer: Arc<Tokenizer>,
}

/// What one cell sends, before its bodies are made.
struct Drawn {
    items: Items,
    /// Items in it, as far as that is known.
    n: usize,
    /// Of a replay: recorded instant of the first request after the warm-up.
    zero_ns: i64,
    /// The form of the prompts; `None` for conversations.
    has_messages: Option<bool>,
    spec: DatasetSpec,
}

impl<'a> StudyRequests<'a> {
    pub(crate) fn new(input: &'a StudyInput, plan: &'a Plan) -> Result<Self, DataError> {
        Ok(Self { input, plan, tokenizer: Arc::new(Tokenizer::load(&input.tokenizer)?) })
    }

    /// What the accuracy guard asks every point; `None` without the section. The prompts depend on nothing but the section
    /// and the tokenizer: studies of one model can be compared.
    pub(crate) fn accuracy_plan(&self) -> Result<Option<AccuracyPlan>, CommandError> {
        let Some(accuracy) = &self.input.study.accuracy else { return Ok(None) };
        let failed = |error: DataError| CommandError::failed(format!("cannot make the prompts of `accuracy`: {error}"));
        let n = accuracy.prompts as usize;
        let spec = DatasetSpec::Synth(SynthSpec::exact(accuracy.prompts, ACCURACY_INPUT_TOKENS, accuracy.max_tokens));
        let tokenizer = Arc::clone(&self.tokenizer);
        let mut source = PromptSource::open(&spec, &self.input.folder, tokenizer, ACCURACY_SEED).map_err(failed)?;
        let streams = source.streams(&[StreamRequest::items("accuracy".to_owned(), n)]).map_err(failed)?;
        let mut prompts = Vec::with_capacity(n);
        for item in streams.into_iter().flatten().take(n) {
            if let Item::Prompt(prompt) = item.map_err(failed)? {
                prompts.push(prompt.body.text().into_owned());
            }
        }
        let lm_eval = accuracy
            .lm_eval
            .as_ref()
            .map(|lm_eval| HarnessPlan { tasks: lm_eval.tasks.iter().cloned().collect(), limit: lm_eval.limit });
        Ok(Some(AccuracyPlan { prompts, max_tokens: accuracy.max_tokens, lm_eval }))
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
            let tokenizer = Arc::clone(&self.tokenizer);
            let mut source =
                PromptSource::open(&spec, &self.input.folder, tokenizer, seed).map_err(unusable)?.with_reuse(reuse);
            let requests: Vec<StreamRequest> = cells
                .iter()
                .flat_map(|cell| {
                    let stream = stream_name(cell);
                    let longest = longest_output(&spec, cell.settings.output_max);
                    let warmup = cell.settings.warmup_requests as usize;
                    [
                        StreamRequest::items(format!("{stream}/warmup"), warmup),
                        StreamRequest::requests(format!("{stream}/window"), window_size(cell, longest)),
                    ]
                })
                .collect();
            let mut streams = source.streams(&requests).map_err(unusable)?.into_iter();
            for cell in &cells {
                let (Some(warmup), Some(window)) = (streams.next(), streams.next()) else { continue };
                out.insert(cell.id.as_str().to_owned(), drawn(&source, &spec, cell, warmup, window)?);
            }
        }
        Ok(out)
    }

    /// Lengths and instants of what a cell sends, at most `most` requests of it: what a run would send, without bodies.
    pub(crate) fn lengths_of(&self, cell: &PlannedCell, most: usize) -> Result<DrawnLengths, PrepareError> {
        let mut drawn = self.draw(&[cell])?;
        let drawn = drawn.remove(cell.id.as_str()).ok_or_else(|| PrepareError {
            code: "workload_missing".to_owned(),
            detail: format!("cell {} is not in the plan", cell.id.short()),
        })?;
        let warmup = cell.settings.warmup_requests as usize;
        let n = warmup.saturating_add(drawn.n).min(most);
        let shared_prefix_tokens = drawn.spec.synth().map_or(0, |synth| synth.shared_prefix_tokens());
        let cap = |tokens: u32| cell.settings.output_max.map_or(tokens, |most| most.min(tokens)).max(1);
        let mut lengths = Vec::with_capacity(n.min(4096));
        let mut recorded = Vec::new();
        for item in drawn.items {
            if lengths.len() >= n {
                break;
            }
            match item.map_err(unusable)? {
                Item::Prompt(prompt) => lengths.push((prompt.input_tokens, cap(prompt.output_tokens))),
                Item::Traced(traced) => {
                    recorded.push(traced.at_ns);
                    lengths.push((traced.prompt.input_tokens, cap(traced.prompt.output_tokens)));
                }
                // Every turn sends what was said before.
                Item::Conversation(talk) => {
                    for (turn, said) in talk.turns.iter().enumerate() {
                        lengths.push((talk.expected_input_tokens(turn), cap(said.output_tokens)));
                    }
                }
            }
        }
        let seed = stream_seed(cell.settings.seed, &stream_name(cell));
        let instants = match &cell.load {
            Load::Open { rate_per_s, arrival, .. } => {
                Some(scheduled(arrival, &Rate::Constant(*rate_per_s), cell.settings.stop, warmup as u64, seed))
            }
            Load::Ramp { ramp, arrival, .. } => {
                Some(scheduled(arrival, &Rate::Ramp(ramp.clone()), cell.settings.stop, warmup as u64, seed))
            }
            Load::Closed { .. } | Load::Offline { .. } | Load::Replay { .. } => None,
        };
        let instants: Option<Vec<i64>> = match (instants.transpose().map_err(no_arrivals)?, &cell.load) {
            (Some(Instants::At(instants)), _) => Some(instants.take(n).collect()),
            (_, Load::Replay { speed, .. }) => Some(recorded.iter().map(|at| (*at as f64 / speed) as i64).collect()),
            _ => None,
        };
        let first = instants.as_ref().and_then(|instants| instants.first().copied()).unwrap_or(0);
        Ok(DrawnLengths {
            lengths,
            instants_ns: instants
                .map(|instants| instants.iter().map(|at| u64::try_from(at - first).unwrap_or(0)).collect()),
            shared_prefix_tokens,
        })
    }

    fn prepared(&self, cell: &PlannedCell, drawn: Drawn, served_model: &str) -> Result<PreparedCell, PrepareError> {
        let settings = &cell.settings;
        let endpoint = match (settings.endpoint.as_deref(), drawn.has_messages) {
            (Some("chat"), _) | (None, Some(true) | None) => Endpoint::Chat,
            _ => Endpoint::Completions,
        };
        let stop = match settings.stop {
            StopAt::Requests(_) | StopAt::TraceEnd => Stop::AllRequests,
            StopAt::DurationS(seconds) => Stop::Duration { ns: nanos(seconds) },
            StopAt::Steady { min_s, max_s } => Stop::Steady { min_ns: nanos(min_s), max_ns: nanos(max_s) },
        };
        let warmup = u64::from(settings.warmup_requests);
        let requests = match settings.stop {
            StopAt::Requests(_) => Some(drawn.n as u64),
            StopAt::DurationS(_) | StopAt::Steady { .. } | StopAt::TraceEnd => None,
        };
        let seed = |purpose: &str| stream_seed(settings.seed, &format!("{purpose}{}", stream_name(cell)));
        let (pacing, instants) = match &cell.load {
            Load::Closed { concurrency, think_s, start } => {
                let think = think_s.map(|think| Pauses { think, seed: seed("slot pauses|") });
                let start = spread(start.unwrap_or_default());
                (Pacing::Closed { concurrency: *concurrency, start, think }, Instants::Now)
            }
            Load::Offline { batch_size, .. } => (Pacing::Batches { size: *batch_size }, Instants::Now),
            Load::Open { rate_per_s, arrival, max_concurrency } => {
                let instants = scheduled(arrival, &Rate::Constant(*rate_per_s), settings.stop, warmup, seed(""));
                (Pacing::Open { max_concurrency: *max_concurrency }, instants.map_err(no_arrivals)?)
            }
            Load::Ramp { ramp, arrival, max_concurrency } => {
                let instants = scheduled(arrival, &Rate::Ramp(ramp.clone()), settings.stop, warmup, seed(""));
                (Pacing::Open { max_concurrency: *max_concurrency }, instants.map_err(no_arrivals)?)
            }
            Load::Replay { speed, max_concurrency } => (
                Pacing::Open { max_concurrency: *max_concurrency },
                Instants::Recorded { speed: *speed, zero_ns: drawn.zero_ns },
            ),
        };
        let planned = drawn.n.min(expected_arrivals(cell).unwrap_or(usize::MAX));
        let expected_prefix_hit_rate = drawn
            .spec
            .synth()
            .map(|synth| synth.expected_hit_rate(u32::try_from(planned).unwrap_or(u32::MAX), DEFAULT_BLOCK_SIZE));
        let wire = Wire {
            model: served_model.to_owned(),
            endpoint,
            ignore_eos: settings.ignore_eos,
            temperature: settings.temperature,
            max_output: settings.output_max,
        };
        let think = match &drawn.spec {
            DatasetSpec::Conversations(talks) => talks.think_s,
            _ => None,
        };
        let feed = Feed::new(drawn.items, instants, wire, warmup, requests).with_think(think, seed("turn pauses|"));
        Ok(PreparedCell {
            requests: Box::new(feed),
            warmup,
            planned: warmup + planned as u64,
            slots_pause: think.is_some_and(|think| think.mean_s() > 0.0),
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
        let is_planned = |cell: &PlannedCell| self.plan.cells.iter().any(|planned| planned.id == cell.id);
        let planned = self.plan.cells.iter().filter(|cell| cell.point == point.id && repeats.contains(&cell.repeat));
        // A profiling run brings cells of its own.
        let start: Vec<&PlannedCell> = planned.chain(cells.iter().copied().filter(|cell| !is_planned(cell))).collect();
        let mut drawn = self.draw(&start)?;
        cells
            .iter()
            .map(|cell| {
                let drawn = drawn.remove(cell.id.as_str()).ok_or_else(|| PrepareError {
                    code: "workload_missing".to_owned(),
                    detail: format!("cell {} is not in the plan", cell.id.short()),
                })?;
                self.prepared(cell, drawn, served_model)
            })
            .collect()
    }
}

/// The items of one cell. A replay goes through its trace once, warm-up and all; other loads have a stream for each.
fn drawn(
    source: &PromptSource,
    spec: &DatasetSpec,
    cell: &PlannedCell,
    warmup: servelab_data::ItemStream,
    window: servelab_data::ItemStream,
) -> Result<Drawn, PrepareError> {
    let n_warmup = cell.settings.warmup_requests as usize;
    let longest = longest_output(spec, cell.settings.output_max);
    let mut n = window_size(cell, longest);
    let mut zero_ns = 0;
    let is_replay = matches!(cell.load, Load::Replay { .. });
    if let (DatasetSpec::Trace(trace), Some(available)) = (spec, source.remaining()) {
        let asked = match cell.settings.stop {
            StopAt::Requests(requests) => requests as usize,
            _ => 1,
        };
        trace_suffices(&trace.path, available, asked, if is_replay { n_warmup } else { 0 })
            .map_err(|detail| PrepareError { code: "dataset_too_small".to_owned(), detail })?;
        if is_replay {
            zero_ns = source.trace_instant_ns(n_warmup).map_err(unusable)?.unwrap_or(0);
        }
        n = match cell.settings.stop {
            StopAt::Requests(_) => n,
            _ if is_replay => available - n_warmup,
            _ => n.min(available),
        };
    }
    let items: Items = if is_replay { Box::new(window) } else { Box::new(warmup.take(n_warmup).chain(window)) };
    Ok(Drawn { items, n, zero_ns, has_messages: source.has_messages(), spec: spec.clone() })
}

/// Has a trace enough requests? The sentence says what is missing.
pub(crate) fn trace_suffices(path: &str, available: usize, asked: usize, warmup: usize) -> Result<(), String> {
    if asked.saturating_add(warmup) <= available {
        return Ok(());
    }
    let warmup = if warmup > 0 { format!(" behind {warmup} of warm-up") } else { String::new() };
    Err(format!(
        "the trace `{path}` holds {available} usable requests, but {asked}{warmup} are asked for; ask for fewer"
    ))
}

fn unusable(error: DataError) -> PrepareError {
    let code = match &error {
        DataError::TooFewPrompts { .. } => "dataset_too_small",
        _ => "dataset_unusable",
    };
    PrepareError { code: code.to_owned(), detail: error.to_string() }
}

fn no_arrivals(error: arrivals::ArrivalError) -> PrepareError {
    PrepareError { code: "arrivals_unusable".to_owned(), detail: error.to_string() }
}

/// Instants of an open loop, warm-up first. They depend on level, seed and repeat, never on the point: points are
/// compared on the same instants.
pub(crate) fn scheduled(
    arrival: &str,
    rate: &Rate,
    stop: StopAt,
    warmup: u64,
    seed: u64,
) -> Result<Instants, arrivals::ArrivalError> {
    let process: Arrival = arrival.parse()?;
    let extent = match stop {
        StopAt::Requests(requests) => Extent::Count(requests as usize),
        StopAt::DurationS(seconds) | StopAt::Steady { max_s: seconds, .. } => Extent::DurationNs(nanos(seconds)),
        StopAt::TraceEnd => Extent::Count(0),
    };
    let before = arrivals::warmup_instants(&process, rate, usize::try_from(warmup).unwrap_or(usize::MAX), seed)?;
    let schedule = Schedule::new(&process, rate, extent, seed)?;
    Ok(Instants::At(Box::new(before.into_iter().chain(schedule))))
}

/// How the first sends of a closed loop are spread.
pub(crate) fn spread(start: StartMode) -> Spread {
    match start {
        StartMode::Spread => Spread::OneRequest,
        StartMode::Burst => Spread::Burst,
        StartMode::SpreadS(seconds) => Spread::Over { ns: nanos(seconds) },
    }
}

/// Paired across points, disjoint across levels and repeats.
fn stream_name(cell: &PlannedCell) -> String {
    format!("{}/{}/repeat-{}", cell.workload, cell.load.describe(), cell.repeat)
}

fn stream_seed(seed: u64, name: &str) -> u64 {
    let digest = servelab_core::identity::sha256_hex(format!("{seed}|{name}").as_bytes());
    u64::from_str_radix(digest.get(..16).unwrap_or("0"), 16).unwrap_or(0)
}

fn nanos(seconds: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "float casts saturate; durations are checked when read")]
    let ns = (seconds * 1e9) as i64;
    ns
}

/// Longest answer of a dataset under a cap, or a usual one where nothing is known.
pub(crate) fn longest_output(spec: &DatasetSpec, cap: Option<u32>) -> u32 {
    let longest = spec.length_bounds().map_or(256, |bounds| bounds.output.max);
    cap.map_or(longest, |cap| cap.min(longest))
}

/// Arrivals that a timed open level brings on average, with room for chance; `None` where requests are counted, or
/// follow answers.
fn expected_arrivals(cell: &PlannedCell) -> Option<usize> {
    let seconds = match cell.settings.stop {
        StopAt::Requests(_) | StopAt::TraceEnd => return None,
        StopAt::DurationS(seconds) | StopAt::Steady { max_s: seconds, .. } => seconds,
    };
    let mean = match &cell.load {
        Load::Open { rate_per_s, .. } => seconds * rate_per_s,
        Load::Ramp { ramp, .. } => Ramp::expected_arrivals(ramp, seconds),
        Load::Closed { .. } | Load::Replay { .. } | Load::Offline { .. } => return None,
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; both positive")]
    let mean = mean as usize;
    Some(mean)
}

/// Requests that a level can use at most: how many a file must hold, and over how many a mix of lengths is met.
fn window_size(cell: &PlannedCell, longest_output: u32) -> usize {
    let seconds = match cell.settings.stop {
        StopAt::Requests(requests) => {
            let requests = requests as usize;
            return match &cell.load {
                // `requests` counts batches of an offline level.
                Load::Offline { batch_size, .. } => requests.saturating_mul(*batch_size as usize),
                _ => requests,
            };
        }
        // A trace is as long as it is.
        StopAt::TraceEnd => return MOST_PREPARED,
        StopAt::DurationS(seconds) | StopAt::Steady { max_s: seconds, .. } => seconds,
    };
    let most_arrivals = |mean: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; both positive")]
        let size = (mean * 1.5) as usize + 64;
        size.min(MOST_PREPARED)
    };
    match &cell.load {
        Load::Open { rate_per_s, .. } => most_arrivals(seconds * rate_per_s),
        Load::Ramp { ramp, .. } => most_arrivals(ramp.expected_arrivals(seconds)),
        Load::Replay { .. } => MOST_PREPARED,
        Load::Closed { concurrency: in_flight, .. } | Load::Offline { batch_size: in_flight, .. } => {
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
