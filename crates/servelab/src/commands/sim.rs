//! `servelab sim`: the simulated vLLM server as a process. Its own options and vLLM's flags may come in any order, so
//! they are taken apart by hand and everything that is not ours is read as vLLM reads it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use servelab_data::{Tokenizer, TokenizerSource};
use servelab_sim::{FailSpec, PromptTokenizer, SimEnv, SimError, SimSettings, parse_serving_flags, rendezvous};

use super::calibrate::CalibrationFile;
use crate::error::CommandError;
use crate::predict::Hardware;
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
      --hardware FILE          devices and step-time constants of your own
      --calibration FILE       factors that `servelab calibrate` learnt, for this model, GPU and engine version
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
    hardware: Option<String>,
    calibration: Option<String>,
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
            "--hardware" => &mut own.hardware,
            "--calibration" => &mut own.calibration,
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
    if own.hardware.is_some() || own.calibration.is_some() {
        constants(&mut settings, own.hardware.as_deref(), own.calibration.as_deref())?;
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
    let ranks = Ranks::of(&rest);
    let log = Arc::clone(&settings.log);
    if ranks.is_headless {
        let limit = rendezvous::LIMIT;
        let outcome = rendezvous::follow(&ranks.address, ranks.port, ranks.rank, limit, &stop, &log);
        return match outcome {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(_) if stop.load(Ordering::SeqCst) => Ok(ExitCode::SUCCESS),
            Err(error) => Err(sim_error(error)),
        };
    }
    let _others = match ranks.n_nodes {
        0 | 1 => None,
        n_nodes if ranks.port > 0 => {
            Some(rendezvous::gather(ranks.port, n_nodes, rendezvous::LIMIT, &stop, &log).map_err(sim_error)?)
        }
        // Nobody says where to meet: one process stands for all.
        _ => None,
    };
    let outcome = servelab_sim::run_blocking(
        settings,
        move |address, label| ui.say(&format!("servelab sim listens on http://{address} ({})", label.name())),
        &stop,
    );
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(_) if stop.load(Ordering::SeqCst) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(sim_error(error)),
    }
}

/// What vLLM's flags say about other nodes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ranks {
    is_headless: bool,
    n_nodes: u32,
    rank: u32,
    address: String,
    port: u16,
}

impl Ranks {
    fn of(flags: &[String]) -> Self {
        let text = |name: &str| {
            let inline = format!("{name}=");
            let at = flags.iter().position(|flag| flag == name || flag.starts_with(&inline))?;
            let flag = flags.get(at)?;
            flag.strip_prefix(&inline).or_else(|| flags.get(at + 1).map(String::as_str))
        };
        let number = |name: &str| text(name).and_then(|text| text.parse::<u32>().ok());
        let all = number("--data-parallel-size").unwrap_or(1);
        let local = number("--data-parallel-size-local").unwrap_or(all).max(1);
        let by_rpc = text("--data-parallel-address").is_some();
        Self {
            is_headless: flags.iter().any(|flag| flag == "--headless"),
            n_nodes: if by_rpc { all.div_ceil(local) } else { number("--nnodes").unwrap_or(1) },
            rank: match number("--data-parallel-start-rank") {
                Some(start) => start / local,
                None => number("--node-rank").unwrap_or(0),
            },
            address: text("--data-parallel-address")
                .or_else(|| text("--master-addr"))
                .unwrap_or("127.0.0.1")
                .to_owned(),
            port: number("--data-parallel-rpc-port")
                .or_else(|| number("--master-port"))
                .and_then(|port| u16::try_from(port).ok())
                .unwrap_or(0),
        }
    }
}

/// Devices and constants of the user's, and what was learnt from measurements; a calibration made for another kind of
/// server is refused, since nobody would see that it was left out.
fn constants(
    settings: &mut SimSettings,
    hardware: Option<&str>,
    calibration: Option<&str>,
) -> Result<(), CommandError> {
    let hardware = Hardware::read(hardware.map(Path::new))?;
    let gpu = hardware.gpu(&settings.gpu).map_err(sim_error)?;
    let mut parameters = hardware.parameters(&gpu).map_err(sim_error)?;
    if let Some(path) = calibration {
        let file = CalibrationFile::read(Path::new(path))?;
        file.applies_to(&settings.model, &gpu.name, &settings.declared_version)
            .map_err(|why| CommandError::usage(format!("cannot use the calibration `{path}`: {why}")))?;
        parameters.calibration = file.calibration;
    }
    settings.gpu_spec = Some(gpu);
    settings.parameters = Some(Arc::new(parameters));
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_by_vllms_flags() {
        let of = |line: &str| Ranks::of(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(of("--max-num-seqs 4"), Ranks { n_nodes: 1, address: "127.0.0.1".to_owned(), ..Ranks::default() });
        let mp = of("--nnodes 2 --node-rank=1 --master-addr 10.0.0.1 --master-port 29500 --headless");
        let expected = Ranks { is_headless: true, n_nodes: 2, rank: 1, address: "10.0.0.1".to_owned(), port: 29_500 };
        assert_eq!(mp, expected);
        let dp = of("--data-parallel-size 16 --data-parallel-size-local 8 --data-parallel-address 10.0.0.1 \
                     --data-parallel-rpc-port 29500 --data-parallel-start-rank 8 --headless");
        assert_eq!(dp, expected);
    }
}
