//! What may be typed after `servelab bench`, and the checks that need no file.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use servelab_core::metrics::RequestSlo;
use servelab_core::pacing::{Ramp, StartMode, Think};
use servelab_core::plan::{Load, StopAt};
use servelab_core::search::{SearchSlo, TermKind};
use servelab_load::{ApiKey, Endpoint};

use super::search::SearchArgs;
use super::shard::ShardArgs;
use super::until::UntilArgs;
use crate::error::CommandError;

/// Arguments of `servelab bench`.
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchArgs {
    /// Address of the server, `http://host:port`
    #[arg(long, default_value = "", hide_default_value = true, required_unless_present = "merge")]
    pub(super) url: String,
    /// Name of the served model
    #[arg(long, default_value = "", hide_default_value = true, required_unless_present = "merge")]
    pub(super) model: String,
    /// Endpoint to drive; default: completions, chat for datasets of messages
    #[arg(long, value_enum)]
    pub(super) endpoint: Option<EndpointArg>,
    /// Closed loop: so many requests in flight
    #[arg(long, value_name = "N", conflicts_with = "open_loop", required_unless_present_any = ["open_loop", "search", "merge"], value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) concurrency: Option<u32>,
    /// Open loop: requests per second
    #[arg(long, value_name = "R", groups = ["open_loop", "arrivals"], conflicts_with_all = ["ramp", "replay"])]
    pub(super) rate: Option<f64>,
    /// Open loop whose rate changes: `1..50/60s` (linear), or `1x30s,5x30s` (steps); the last rate is held
    #[arg(long, value_name = "RAMP", groups = ["open_loop", "arrivals"], conflicts_with = "replay")]
    pub(super) ramp: Option<Ramp>,
    /// Arrival process of an open loop: poisson, constant or gamma:SHAPE
    #[arg(long, default_value = "poisson", requires = "arrivals")]
    pub(super) arrival: String,
    /// Send the requests of a recorded trace at its instants (Mooncake JSONL, Azure or BurstGPT CSV)
    #[arg(long, value_name = "FILE", group = "open_loop", conflicts_with_all = ["input_tokens", "dataset", "conversations"])]
    pub(super) replay: Option<PathBuf>,
    /// Replay so many times as fast as recorded
    #[arg(long, value_name = "X", default_value_t = 1.0, requires = "replay")]
    pub(super) speed: f64,
    /// Replay only what was recorded from so many seconds on
    #[arg(long, value_name = "SECONDS", requires = "replay")]
    pub(super) from: Option<f64>,
    /// Replay only what was recorded before so many seconds
    #[arg(long, value_name = "SECONDS", requires = "replay")]
    pub(super) to: Option<f64>,
    /// Leave out recorded requests with longer prompts
    #[arg(long, value_name = "TOKENS", requires = "replay", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) max_input_tokens: Option<u32>,
    /// Cap on requests in flight of an open loop
    #[arg(long, value_name = "N", requires = "open_loop", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) max_concurrency: Option<u32>,
    /// End after so many requests
    #[arg(long, value_name = "K", conflicts_with = "duration", required_unless_present_any = ["duration", "ramp", "replay", "until", "search", "merge"], value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) requests: Option<u32>,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub(super) duration: Option<f64>,
    /// Exact prompt length in tokens
    #[arg(long, value_name = "I", requires = "output_tokens", required_unless_present_any = ["dataset", "replay", "conversations", "merge"])]
    pub(super) input_tokens: Option<u32>,
    /// Exact output length in tokens
    #[arg(long, value_name = "O")]
    pub(super) output_tokens: Option<u32>,
    /// Prompts from a file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["input_tokens"])]
    pub(super) dataset: Option<PathBuf>,
    /// Conversations whose turns carry the server's earlier answers: a FILE (ShareGPT, OpenAI messages), or
    /// turns=4,user=100,output=200[,system=500][,prompts=3]; counts may be ranges such as 2-8
    #[arg(long, value_name = "WHAT", conflicts_with_all = ["input_tokens", "dataset"])]
    pub(super) conversations: Option<String>,
    /// Pause between an answer and the next turn of its conversation: `2s`, or `exp:2s` (exponential)
    #[arg(long, value_name = "PAUSE", requires = "conversations")]
    pub(super) turn_think: Option<Think>,
    /// Ask for exactly the wanted number of output tokens
    #[arg(long)]
    pub(super) ignore_eos: bool,
    /// Tokenizer that counts prompts: a folder with tokenizer.json, or `builtin`
    #[arg(long, default_value = "builtin", value_name = "DIR|builtin")]
    pub(super) tokenizer: String,
    /// Requests before the measured window
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(super) warmup: u32,
    /// Seed of prompts and arrivals
    #[arg(long, default_value_t = 42)]
    pub(super) seed: u64,
    /// Limits on single requests, for goodput: ttft_ms=2000,tpot_ms=50; a search also takes ttft_p95_ms=2000, success=0.99
    #[arg(long, value_name = "LIMITS")]
    pub(super) slo: Option<String>,
    /// First sends of a closed loop: spread over one request's time, `spread:5s`, or `burst` for all at once
    #[arg(long, value_name = "HOW", requires = "concurrency", default_value = "spread")]
    pub(super) start: StartMode,
    /// Pause of a closed loop's slot between one request and the next: `2s`, or `exp:2s` (exponential)
    #[arg(long, value_name = "PAUSE", requires = "concurrency")]
    pub(super) think: Option<Think>,
    /// Name of the environment variable that holds the API key
    #[arg(long, value_name = "NAME")]
    pub(super) api_key_env: Option<String>,
    /// PEM file of certificate authorities to trust for https, besides the public ones
    #[arg(long, value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
    /// Addresses of this machine to send from, comma-separated; each has some 28,000 ports
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',')]
    pub(super) source_ip: Vec<IpAddr>,
    /// Leave out the canary, which measures this client's own error during the run
    #[arg(long)]
    pub(super) no_canary: bool,
    /// Seconds after which a request counts as failed
    #[arg(long, default_value_t = 600.0, value_name = "SECONDS")]
    pub(super) timeout: f64,
    /// Load threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) threads: u32,
    /// Folder for result.json, requests.parquet, prom.parquet, vllm_bench.json
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Also write events.parquet (one row per token-bearing event)
    #[arg(long, requires = "out")]
    pub(super) events: bool,
    /// Also keep the answers' texts, in vllm_bench.json
    #[arg(long, requires = "out")]
    pub(super) keep_text: bool,
    /// Print result.json (a search: search.json)
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) until: UntilArgs,
    #[command(flatten)]
    pub(super) search: SearchArgs,
    #[command(flatten)]
    pub(super) shards: ShardArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum EndpointArg {
    /// OpenAI's /v1/completions
    Completions,
    /// OpenAI's /v1/chat/completions
    Chat,
    /// SGLang's own /generate
    SglangGenerate,
    /// llama.cpp's own /completion
    #[value(name = "llamacpp-completion")]
    LlamaCppCompletion,
}

impl EndpointArg {
    pub(super) fn endpoint(self) -> Endpoint {
        match self {
            Self::Completions => Endpoint::Completions,
            Self::Chat => Endpoint::Chat,
            Self::SglangGenerate => Endpoint::SglangGenerate,
            Self::LlamaCppCompletion => Endpoint::LlamaCppCompletion,
        }
    }
}

/// What is offered.
pub(super) fn load(args: &BenchArgs) -> Result<Load, CommandError> {
    servelab_core::study::check::check_arrival(&args.arrival)
        .map_err(|message| CommandError::usage(format!("`--arrival`: {message}")))?;
    let (arrival, max_concurrency) = (args.arrival.clone(), args.max_concurrency);
    let is_positive = |number: f64| number.is_finite() && number > 0.0;
    if let Some(concurrency) = args.concurrency {
        let think_s = args.think.filter(|think| think.mean_s() > 0.0);
        let start = Some(args.start).filter(|start| *start != StartMode::Spread);
        return Ok(Load::Closed { concurrency, think_s, start });
    }
    if let Some(ramp) = &args.ramp {
        return Ok(Load::Ramp { ramp: ramp.clone(), arrival, max_concurrency });
    }
    match args.rate {
        Some(rate_per_s) if is_positive(rate_per_s) => Ok(Load::Open { rate_per_s, arrival, max_concurrency }),
        Some(_) => Err(CommandError::usage("`--rate` must be greater than 0 requests per second")),
        None if is_positive(args.speed) => Ok(Load::Replay { speed: args.speed, max_concurrency }),
        None => Err(CommandError::usage("`--speed` must be greater than 0").hint("1 is as recorded, 2 twice as fast")),
    }
}

/// When it ends.
pub(super) fn stop(args: &BenchArgs) -> Result<StopAt, CommandError> {
    Ok(match (args.requests, args.duration, &args.ramp) {
        (Some(requests), ..) => StopAt::Requests(requests),
        (None, Some(seconds), _) => {
            nanos(seconds, "--duration")?;
            StopAt::DurationS(seconds)
        }
        (None, None, Some(ramp)) => StopAt::DurationS(ramp.duration_s()),
        (None, None, None) => StopAt::TraceEnd,
    })
}

pub(super) fn parse_slo(text: &str) -> Result<SearchSlo, CommandError> {
    SearchSlo::parse(text).map_err(|error| {
        CommandError::usage(format!("`--slo {text}`: {error}")).hint("write `ttft_ms=2000,tpot_ms=50`")
    })
}

/// Limits on single requests, for one load; the limits on a whole cell are a search's.
pub(super) fn request_slo(text: &str) -> Result<RequestSlo, CommandError> {
    let slo = parse_slo(text)?;
    match slo.terms.iter().find(|term| term.kind != TermKind::Request) {
        Some(term) => Err(CommandError::usage(format!("`--slo {text}`: `{}` limits a whole load", term.name))
            .hint("give limits on requests such as ttft_ms=2000, or search a load with `--search`")),
        None => Ok(slo.request.unwrap_or_default()),
    }
}

pub(super) fn api_key(args: &BenchArgs) -> Result<Option<ApiKey>, CommandError> {
    let Some(name) = &args.api_key_env else { return Ok(None) };
    let key = std::env::var(name).map_err(|_| {
        CommandError::usage(format!("the environment variable `{name}` is not set")).hint(format!("export {name}=…"))
    })?;
    ApiKey::new(key).map(Some).map_err(|error| CommandError::usage(error.to_string()))
}

/// A time on the command line, in nanoseconds.
pub(super) fn nanos(seconds: f64, name: &str) -> Result<i64, CommandError> {
    #[expect(clippy::cast_possible_truncation, reason = "checked to be positive and far below 2^63 ns")]
    let ns = (seconds * 1e9) as i64;
    if seconds > 0.0 && seconds < 1e8 {
        Ok(ns)
    } else {
        Err(CommandError::usage(format!("`{name}` must be a positive number of seconds")))
    }
}
