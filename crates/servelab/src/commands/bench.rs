//! `servelab bench`: one load against any OpenAI-compatible endpoint, measured by the same client, definitions and
//! verdicts as a study's cells.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use servelab_core::metrics::{ClientUsage, MetricsInput, RequestSlo, counter_resets, summarise};
use servelab_core::plan::Load;
use servelab_core::result::BenchResult;
use servelab_core::verdict::{CellEvidence, RequestEvidence, judge};
use servelab_core::workload::{DatasetSpec, FileFormat, FileSpec, SynthSpec};
use servelab_data::{Prompt, PromptBody, PromptSource, StreamRequest, Tokenizer, TokenizerSource};
use servelab_load::arrivals::{Arrival, Extent, schedule};
use servelab_load::prometheus::{ScrapeOptions, ScrapeOutcome, ScrapeTarget, Scraper};
use servelab_load::{
    ApiKey, BodyOptions, Endpoint, LoadControl, LoadOutcome, LoadSpec, Pacing, PreparedRequest, Stop, Target, clock,
    http, request_body, run_load,
};
use servelab_run::{RunControl, SignalGuard};
use servelab_store::{VllmBenchInfo, vllm_bench, write_events, write_json, write_prom, write_requests};

use crate::error::CommandError;
use crate::requests::{STAGGER_PER_SLOT_NS, timed_window_size, wire};
use crate::ui::Ui;

const SCRAPE_INTERVAL_NS: i64 = 200_000_000;
const METRICS_TIMEOUT: Duration = Duration::from_secs(5);
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// Arguments of `servelab bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Address of the server, `http://host:port`
    #[arg(long)]
    url: String,
    /// Name of the served model
    #[arg(long)]
    model: String,
    /// Endpoint to drive; default: completions, chat for datasets of messages
    #[arg(long, value_enum)]
    endpoint: Option<EndpointArg>,
    /// Closed loop: so many requests in flight
    #[arg(long, value_name = "N", conflicts_with = "rate", required_unless_present = "rate", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Option<u32>,
    /// Open loop: requests per second
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// Arrival process of an open loop: poisson, constant or gamma:SHAPE
    #[arg(long, default_value = "poisson", requires = "rate")]
    arrival: String,
    /// Cap on requests in flight of an open loop
    #[arg(long, value_name = "N", requires = "rate", value_parser = clap::value_parser!(u32).range(1..))]
    max_concurrency: Option<u32>,
    /// End after so many requests
    #[arg(long, value_name = "K", conflicts_with = "duration", required_unless_present = "duration", value_parser = clap::value_parser!(u32).range(1..))]
    requests: Option<u32>,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS")]
    duration: Option<f64>,
    /// Exact prompt length in tokens
    #[arg(long, value_name = "I", requires = "output_tokens", required_unless_present = "dataset")]
    input_tokens: Option<u32>,
    /// Exact output length in tokens
    #[arg(long, value_name = "O")]
    output_tokens: Option<u32>,
    /// Prompts from a file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["input_tokens"])]
    dataset: Option<PathBuf>,
    /// Ask for exactly the wanted number of output tokens
    #[arg(long)]
    ignore_eos: bool,
    /// Tokenizer that counts prompts: a folder with tokenizer.json, or `builtin`
    #[arg(long, default_value = "builtin", value_name = "DIR|builtin")]
    tokenizer: String,
    /// Requests before the measured window
    #[arg(long, default_value_t = 0, value_name = "N")]
    warmup: u32,
    /// Seed of prompts and arrivals
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Limits on single requests, for goodput: ttft_ms=2000,tpot_ms=50
    #[arg(long, value_name = "LIMITS")]
    slo: Option<String>,
    /// Name of the environment variable that holds the API key
    #[arg(long, value_name = "NAME")]
    api_key_env: Option<String>,
    /// Seconds after which a request counts as failed
    #[arg(long, default_value_t = 600.0, value_name = "SECONDS")]
    timeout: f64,
    /// Load threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// Folder for result.json, requests.parquet, prom.parquet, vllm_bench.json
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Also write events.parquet (one row per token-bearing event)
    #[arg(long, requires = "out")]
    events: bool,
    /// Print result.json
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum EndpointArg {
    Completions,
    Chat,
}

pub(crate) fn bench(args: &BenchArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let slo = args.slo.as_deref().map(parse_slo).transpose()?;
    let load = load(args)?;
    let api_key = api_key(args)?;
    let (spec, clock) = load_spec(args, api_key.clone())?;
    let metrics_url = format!("{}/metrics", root_url(&args.url));
    let has_metrics =
        http::get_text(&metrics_url, METRICS_TIMEOUT, api_key.as_ref()).is_ok_and(|reply| reply.is_success());
    let scraper = if has_metrics {
        let target = ScrapeTarget { node: "server".to_owned(), url: metrics_url };
        let options = ScrapeOptions { interval_ns: SCRAPE_INTERVAL_NS, api_key, ..ScrapeOptions::default() };
        let scraper = Scraper::start(vec![target], &options, clock);
        Some(scraper.map_err(|error| CommandError::failed(format!("cannot start the metrics scraper: {error}")))?)
    } else {
        None
    };
    let outcome = drive(spec, ui)?;
    let scraped = scraper.map(Scraper::stop);
    let result = judged(args, &load, &outcome, scraped.as_ref(), slo);
    if let Some(folder) = &args.out {
        write(args, folder, &result, &outcome, scraped.as_ref())?;
        ui.say(&format!("wrote {}", folder.display()));
    }
    if args.json {
        ui.data(&serde_json::to_string_pretty(&result).map_err(|error| CommandError::failed(error.to_string()))?);
    } else {
        ui.data(&servelab_view::bench_text(&result, ui.width()));
    }
    for sample in &outcome.failure_samples {
        ui.say(&format!("request {} failed ({}): {}", sample.request_idx, sample.code, sample.detail));
    }
    Ok(if outcome.interrupted || result.requests.completed == 0 { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn load(args: &BenchArgs) -> Result<Load, CommandError> {
    match (args.concurrency, args.rate) {
        (Some(concurrency), None) => Ok(Load::Closed { concurrency }),
        (None, Some(rate)) if rate > 0.0 && rate.is_finite() => {
            servelab_core::study::check::check_arrival(&args.arrival)
                .map_err(|message| CommandError::usage(format!("`--arrival`: {message}")))?;
            Ok(Load::Open { rate_per_s: rate, arrival: args.arrival.clone(), max_concurrency: args.max_concurrency })
        }
        _ => Err(CommandError::usage("`--rate` must be greater than 0 requests per second")),
    }
}

fn parse_slo(text: &str) -> Result<RequestSlo, CommandError> {
    let bad =
        |why: String| CommandError::usage(format!("`--slo {text}`: {why}")).hint("write `ttft_ms=2000,tpot_ms=50`");
    let mut slo = RequestSlo::default();
    for part in text.split(',') {
        let (name, limit) = part.split_once('=').ok_or_else(|| bad(format!("`{part}` has no `=`")))?;
        let limit = limit.trim().parse::<f64>().ok().filter(|limit| *limit > 0.0);
        let limit = limit.ok_or_else(|| bad(format!("`{part}` is no positive number of milliseconds")))?;
        match name.trim() {
            "ttft_ms" => slo.ttft_ms = Some(limit),
            "tpot_ms" => slo.tpot_ms = Some(limit),
            "itl_ms" => slo.itl_ms = Some(limit),
            "e2e_ms" => slo.e2e_ms = Some(limit),
            other => return Err(bad(format!("there is no limit `{other}`"))),
        }
    }
    Ok(slo)
}

fn api_key(args: &BenchArgs) -> Result<Option<ApiKey>, CommandError> {
    let Some(name) = &args.api_key_env else { return Ok(None) };
    let key = std::env::var(name).map_err(|_| {
        CommandError::usage(format!("the environment variable `{name}` is not set")).hint(format!("export {name}=…"))
    })?;
    ApiKey::new(key).map(Some).map_err(|error| CommandError::usage(error.to_string()))
}

/// The server's address without the API prefix.
fn root_url(url: &str) -> &str {
    url.trim_end_matches('/').trim_end_matches("/v1")
}

fn load_spec(
    args: &BenchArgs,
    api_key: Option<ApiKey>,
) -> Result<(LoadSpec, servelab_core::record::ClockEpoch), CommandError> {
    let seconds = |value: f64, name: &str| -> Result<i64, CommandError> {
        #[expect(clippy::cast_possible_truncation, reason = "checked to be positive and far below 2^63 ns")]
        let ns = (value * 1e9) as i64;
        if value > 0.0 && value < 1e8 {
            Ok(ns)
        } else {
            Err(CommandError::usage(format!("`{name}` must be a positive number of seconds")))
        }
    };
    let tokenizer = Tokenizer::load(&args.tokenizer.parse().unwrap_or(TokenizerSource::Builtin))?;
    let spec = dataset(args);
    spec.validate().map_err(|problem| CommandError::usage(problem.to_string()))?;
    let duration_ns = args.duration.map(|duration| seconds(duration, "--duration")).transpose()?;
    let longest = spec.synth().map_or(256, |synth| synth.length_bounds().output.max);
    let arrivals = match args.rate {
        None => None,
        Some(rate) => {
            let process: Arrival =
                args.arrival.parse().map_err(|error| CommandError::usage(format!("`--arrival`: {error}")))?;
            let extent = match (args.requests, duration_ns) {
                (Some(n), _) => Extent::Count(n as usize),
                (None, Some(ns)) => Extent::DurationNs(ns),
                (None, None) => Extent::Count(1),
            };
            Some(schedule(&process, rate, extent, args.seed).map_err(|error| CommandError::usage(error.to_string()))?)
        }
    };
    let n = match (&arrivals, args.requests, args.duration, args.concurrency) {
        (Some(arrivals), ..) => arrivals.len(),
        (None, Some(n), ..) => n as usize,
        (None, None, Some(duration), Some(in_flight)) => timed_window_size(duration, in_flight, longest),
        _ => 1,
    };
    let mut source = PromptSource::open(&spec, std::path::Path::new(""), Arc::new(tokenizer), args.seed)?;
    let streams = [
        StreamRequest { name: "bench/warmup".to_owned(), n: args.warmup as usize },
        StreamRequest { name: "bench/window".to_owned(), n },
    ];
    let drawn = source.draw(&streams)?;
    let [warmup, window] = <[Vec<Prompt>; 2]>::try_from(drawn).unwrap_or_default();
    let endpoint = match (args.endpoint, window.first().map(|prompt| &prompt.body)) {
        (Some(EndpointArg::Chat), _) | (None, Some(PromptBody::Messages(_))) => Endpoint::Chat,
        _ => Endpoint::Completions,
    };
    let n_warmup = warmup.len();
    let request = |(position, prompt): (usize, &Prompt)| {
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
    };
    let pacing = match (arrivals, args.concurrency) {
        (Some(arrivals_ns), _) => Pacing::Open { arrivals_ns, max_concurrency: args.max_concurrency },
        (None, concurrency) => {
            let concurrency = concurrency.unwrap_or(1);
            let stagger_ns = (i64::from(concurrency) * STAGGER_PER_SLOT_NS).min(1_000_000_000);
            Pacing::Closed { concurrency, stagger_ns }
        }
    };
    let stop = duration_ns.map_or(Stop::AllRequests, |ns| Stop::Duration { ns });
    let clock = clock::new_epoch();
    let target = Target { base_url: args.url.clone(), endpoint, api_key };
    let requests: Vec<PreparedRequest> =
        window.iter().enumerate().map(|(i, prompt)| request((n_warmup + i, prompt))).collect();
    let mut spec = LoadSpec::new(target, clock, requests, pacing, stop);
    spec.warmup = warmup.iter().enumerate().map(request).collect();
    spec.request_timeout_ns = seconds(args.timeout, "--timeout")?;
    spec.drain_timeout_ns = spec.drain_timeout_ns.min(spec.request_timeout_ns);
    spec.threads = args.threads;
    Ok((spec, clock))
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

/// Runs the load; a signal ends it in order, with what was measured.
fn drive(spec: LoadSpec, ui: Ui) -> Result<LoadOutcome, CommandError> {
    let planned = spec.warmup.len() + spec.window.len();
    let switch = Arc::new(RunControl::new());
    let _signals = SignalGuard::install(Arc::clone(&switch))
        .map_err(|error| CommandError::failed(format!("cannot watch for signals: {error}")))?;
    let control = LoadControl::new();
    let bar = ui.live().then(indicatif::ProgressBar::new_spinner);
    let outcome = std::thread::scope(|scope| {
        let load = scope.spawn(|| run_load(spec, &control));
        while !load.is_finished() {
            if switch.is_stopping() {
                control.cancel();
            }
            if let Some(bar) = &bar {
                let counts = control.counts();
                bar.set_message(format!(
                    "{}/{planned} requests, {} in flight, {} failed, {} tokens",
                    counts.done, counts.in_flight, counts.failed, counts.tokens
                ));
                bar.tick();
            }
            std::thread::sleep(WATCH_INTERVAL);
        }
        load.join()
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let outcome = outcome.map_err(|_| CommandError::failed("the load thread ended unexpectedly"))?;
    outcome.map_err(|error| CommandError::failed(error.to_string()))
}

fn judged(
    args: &BenchArgs,
    load: &Load,
    outcome: &LoadOutcome,
    scraped: Option<&ScrapeOutcome>,
    slo: Option<RequestSlo>,
) -> BenchResult {
    let prom = scraped.map(|scraped| scraped.samples.as_slice()).unwrap_or_default();
    let input = MetricsInput {
        clock: outcome.clock,
        requests: &outcome.requests,
        events: &outcome.events,
        prom,
        window_start_ns: outcome.window_start_ns,
        window_end_ns: outcome.window_end_ns,
        slo,
        closed_loop_slots: args.concurrency,
        client: ClientUsage { cpu_s: outcome.cpu_s, threads: outcome.threads, ..ClientUsage::default() },
    };
    let mut result = summarise(&input);
    let mut evidence = CellEvidence::new(&result, load, RequestEvidence::collect(&input));
    evidence.metrics_expected = scraped.is_some();
    evidence.ignore_eos = args.ignore_eos;
    evidence.server_resets = counter_resets(prom, outcome.window_start_ns, outcome.window_end_ns);
    let verdict = judge(&evidence);
    result.verdict = verdict;
    result
}

fn write(
    args: &BenchArgs,
    folder: &std::path::Path,
    result: &BenchResult,
    outcome: &LoadOutcome,
    scraped: Option<&ScrapeOutcome>,
) -> Result<(), CommandError> {
    std::fs::create_dir_all(folder)
        .map_err(|error| CommandError::failed(format!("cannot make `{}`: {error}", folder.display())))?;
    write_requests(&folder.join("requests.parquet"), &outcome.requests)?;
    if args.events {
        write_events(&folder.join("events.parquet"), &outcome.events)?;
    }
    if let Some(scraped) = scraped {
        write_prom(&folder.join("prom.parquet"), &scraped.samples)?;
    }
    let info = VllmBenchInfo {
        date: servelab_core::units::utc_stamp(outcome.clock.epoch_unix_ns),
        backend: match args.endpoint {
            Some(EndpointArg::Chat) => "openai-chat".to_owned(),
            _ => "openai".to_owned(),
        },
        model: args.model.clone(),
        tokenizer: args.tokenizer.clone(),
        request_rate: args.rate,
        burstiness: args.arrival.strip_prefix("gamma:").and_then(|shape| shape.parse().ok()).unwrap_or(1.0),
        max_concurrency: args.concurrency.or(args.max_concurrency),
        duration_s: result.duration_s,
        goodput_requests_per_s: result.goodput_requests_per_s,
    };
    write_json(&folder.join("vllm_bench.json"), &vllm_bench(&info, &outcome.requests, &outcome.events))?;
    write_json(&folder.join("result.json"), result)?;
    Ok(())
}
