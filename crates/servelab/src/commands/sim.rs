//! `servelab sim`: the simulated vLLM server as a process. Its own options and vLLM's flags may come in any order, so
//! they are taken apart by hand and everything that is not ours is read as vLLM reads it.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use servelab_data::{Tokenizer, TokenizerSource};
use servelab_sim::{FailSpec, PromptTokenizer, SimEnv, SimError, SimSettings, parse_serving_flags};

use crate::error::CommandError;
use crate::study_input::BUILTIN_TOKENIZER;
use crate::ui::Ui;

/// Arguments of `servelab sim`.
#[derive(Debug, Args)]
#[command(after_long_help = "OPTIONS OF THE SIMULATOR:
      --listen ADDR            where to listen, e.g. 127.0.0.1:8000 (port 0 takes a free one) [default: 127.0.0.1:8000]
      --model NAME             model to simulate; its architecture is known or guessed from its name
      --gpu NAME               GPU to simulate [default: H100-SXM5-80GB]
      --tp N                   tensor parallel size
      --speedup X              simulated seconds per real second [default: 1]
      --fail SPEC              inject a failure (may be repeated): crash:N kill_rank:N[@RANK] oom:N hang:N
                               slow:FACTOR[@N] 503:FRACTION inband:FRACTION[@TOKENS] truncate:FRACTION[@TOKENS]
                               reset:FRACTION[@TOKENS] zero:FRACTION kv_transfer:FRACTION oom_start
                               start_delay:SECONDS
      --sim-seed N             seed of output texts and injected failures [default: 0]
      --engine-version V       the vLLM version to claim [default: 0.32.0]
      --tokenizer DIR|builtin  tokenizer that counts prompts [default: builtin]
Every other flag is read as `vllm serve` reads it: --max-num-seqs 64 --max-model-len 8k --no-enable-prefix-caching …
A flag or combination that vLLM refuses is refused in vLLM's words.")]
pub(crate) struct SimArgs {
    /// Options of the simulator and vLLM's serving flags, in any order
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

/// The simulator's own options.
#[derive(Debug, Default)]
struct Own {
    listen: Option<String>,
    model: Option<String>,
    gpu: Option<String>,
    tp: Option<String>,
    speedup: Option<String>,
    fail: Vec<String>,
    sim_seed: Option<String>,
    engine_version: Option<String>,
    tokenizer: Option<String>,
}

fn split(options: Vec<String>) -> Result<(Own, Vec<String>), CommandError> {
    let mut own = Own::default();
    let mut rest = Vec::new();
    let mut options = options.into_iter();
    while let Some(option) = options.next() {
        let (name, inline) = match option.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (option.clone(), None),
        };
        let slot = match name.as_str() {
            "--listen" => &mut own.listen,
            "--model" => &mut own.model,
            "--gpu" => &mut own.gpu,
            "--tp" => &mut own.tp,
            "--speedup" => &mut own.speedup,
            "--sim-seed" => &mut own.sim_seed,
            "--engine-version" => &mut own.engine_version,
            "--tokenizer" => &mut own.tokenizer,
            "--fail" => {
                own.fail.push(value_of(&name, inline, &mut options)?);
                continue;
            }
            _ => {
                rest.push(option);
                continue;
            }
        };
        *slot = Some(value_of(&name, inline, &mut options)?);
    }
    Ok((own, rest))
}

fn value_of(
    name: &str,
    inline: Option<String>,
    options: &mut impl Iterator<Item = String>,
) -> Result<String, CommandError> {
    inline
        .or_else(|| options.next())
        .ok_or_else(|| CommandError::usage(format!("`{name}` needs a value")).hint("see `servelab sim --help`"))
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, CommandError> {
    text.parse().map_err(|_| CommandError::usage(format!("`{name} {text}`: this is no usable number")))
}

pub(crate) fn sim(args: SimArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let (own, rest) = split(args.options)?;
    let listen = own.listen.unwrap_or_else(|| "127.0.0.1:8000".to_owned());
    let listen: SocketAddr = listen.parse().map_err(|_| {
        CommandError::usage(format!("`--listen {listen}`: this is no address"))
            .hint("write IP:PORT, e.g. `127.0.0.1:8000`")
    })?;
    let model = own.model.ok_or_else(|| {
        CommandError::usage("`--model` is missing").hint("e.g. `servelab sim --model meta-llama/Llama-3.1-8B`")
    })?;
    let gpu = own.gpu.unwrap_or_else(|| "H100-SXM5-80GB".to_owned());
    let mut settings = SimSettings::new(listen, model, gpu);
    if let Some(version) = own.engine_version {
        settings.declared_version = version;
    }
    settings.serving = parse_serving_flags(&rest, &settings.declared_version).map_err(sim_error)?;
    settings.tp = own.tp.map(|text| number("--tp", &text)).transpose()?;
    if let Some(text) = own.speedup {
        settings.speedup = number("--speedup", &text)?;
    }
    if let Some(text) = own.sim_seed {
        settings.seed = number("--sim-seed", &text)?;
    }
    for text in &own.fail {
        settings.fail.push(text.parse::<FailSpec>().map_err(sim_error)?);
    }
    let source = match own.tokenizer.as_deref() {
        None | Some(BUILTIN_TOKENIZER) => TokenizerSource::Builtin,
        Some(path) => TokenizerSource::Path(path.into()),
    };
    let tokenizer = Tokenizer::load(&source)?;
    let tokenizer = Arc::new(tokenizer);
    let decoder = Arc::clone(&tokenizer);
    settings.tokenizer =
        PromptTokenizer::Encode(Arc::new(move |text: &str| tokenizer.encode(text).unwrap_or_default()));
    settings.decode = Some(Arc::new(move |ids: &[u32]| decoder.decode(ids).ok()));
    settings.env = SimEnv::read(|name| std::env::var(name).ok());
    settings.log = Arc::new(move |line: &str| ui.always(line));
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| CommandError::failed(format!("cannot watch for signals: {error}")))?;
    }
    let outcome = servelab_sim::run_blocking(
        settings,
        move |address| ui.say(&format!("servelab sim listens on http://{address} ({})", servelab_sim::LABEL)),
        &stop,
    );
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(_) if stop.load(Ordering::SeqCst) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(sim_error(error)),
    }
}

fn sim_error(error: SimError) -> CommandError {
    match error {
        SimError::InjectedCrash { .. }
        | SimError::InjectedEngineDeath
        | SimError::Refused(_)
        | SimError::InjectedOutOfMemory(_) => CommandError::failed(error.to_string()),
        other => CommandError::usage(other.to_string()),
    }
}
