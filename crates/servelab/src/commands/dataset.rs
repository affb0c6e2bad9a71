//! `servelab dataset`: makes prompt sets with real token counts, and looks at existing ones.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use servelab_core::workload::{FileFormat, FileSpec, Mix, SharedPrefix, SynthSpec};
use servelab_data::{Tokenizer, TokenizerSource, Written};

use crate::error::CommandError;
use crate::ui::Ui;

/// Arguments of `servelab dataset`.
#[derive(Debug, Args)]
pub(crate) struct DatasetArgs {
    #[command(subcommand)]
    command: DatasetCommand,
}

#[derive(Debug, Subcommand)]
enum DatasetCommand {
    /// Make one set, or the suite of five
    Create(CreateArgs),
    /// Lengths, histograms and lints of a set
    Stats(StatsArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Make quick_test, medium_balanced, large_throughput, short_latency and long_context
    #[arg(long, conflicts_with_all = ["name", "prompts", "mix", "max_output", "input_tokens", "output_tokens"])]
    suite: bool,
    /// Name of the set (and of its file)
    #[arg(long, required_unless_present = "suite", value_name = "NAME")]
    name: Option<String>,
    /// Number of prompts
    #[arg(long, default_value_t = 100, value_name = "K")]
    prompts: u32,
    /// Shares of length classes, e.g. short=.3,medium=.5,long=.2
    #[arg(long, value_name = "SHARES", conflicts_with_all = ["input_tokens", "output_tokens"])]
    mix: Option<String>,
    /// Cap on output tokens
    #[arg(long, value_name = "T")]
    max_output: Option<u32>,
    /// Exact prompt length in tokens
    #[arg(long, value_name = "I", requires = "output_tokens")]
    input_tokens: Option<u32>,
    /// Exact output length in tokens
    #[arg(long, value_name = "O", requires = "input_tokens")]
    output_tokens: Option<u32>,
    /// Tokens that prompts of a group share at their start
    #[arg(long, value_name = "TOKENS")]
    shared_prefix: Option<u32>,
    /// Groups of prompts with a shared prefix
    #[arg(long, value_name = "N", default_value_t = 1, requires = "shared_prefix")]
    prefix_groups: u32,
    /// Tokenizer: a folder with tokenizer.json, or `builtin`
    #[arg(long, default_value = "builtin", value_name = "DIR|builtin")]
    tokenizer: String,
    /// Seed: the same seed gives the same bytes
    #[arg(long, default_value_t = 42, value_name = "S")]
    seed: u64,
    /// Folder to write to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct StatsArgs {
    /// The set: legacy or messages JSONL, ShareGPT, OpenAI batch
    file: PathBuf,
    /// Tokenizer: a folder with tokenizer.json, or `builtin`
    #[arg(long, default_value = "builtin", value_name = "DIR|builtin")]
    tokenizer: String,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn dataset(args: DatasetArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    match args.command {
        DatasetCommand::Create(args) => create(&args, ui),
        DatasetCommand::Stats(args) => stats(&args, ui),
    }
}

fn load_tokenizer(text: &str) -> Result<Tokenizer, CommandError> {
    let source: TokenizerSource = text.parse().unwrap_or(TokenizerSource::Builtin);
    Ok(Tokenizer::load(&source)?)
}

fn create(args: &CreateArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let spec = if args.suite { None } else { Some(spec(args)?) };
    let tokenizer = load_tokenizer(&args.tokenizer)?;
    let written = match (&spec, &args.name) {
        (Some(spec), Some(name)) => vec![servelab_data::create(name, spec, &tokenizer, &args.out)?],
        _ => servelab_data::create_suite(args.seed, &tokenizer, &args.out)?,
    };
    if args.json {
        let text = serde_json::to_string_pretty(&written).map_err(|error| CommandError::failed(error.to_string()))?;
        ui.data(&text);
    } else {
        ui.data(&written.iter().map(describe).collect::<Vec<_>>().join("\n"));
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(written: &Written) -> String {
    format!(
        "{}: {} prompts, {} prompt tokens, {} output tokens asked for, sha256 {}",
        written.path.display(),
        written.n,
        written.input_tokens,
        written.output_tokens,
        written.sha256.get(..12).unwrap_or(&written.sha256),
    )
}

fn spec(args: &CreateArgs) -> Result<SynthSpec, CommandError> {
    let mut spec = match (args.input_tokens, args.output_tokens, &args.mix) {
        (Some(input), Some(output), _) => SynthSpec::exact(args.prompts, input, output),
        (_, _, Some(mix)) => SynthSpec::mixed(args.prompts, parse_mix(mix)?, args.max_output),
        _ => {
            return Err(CommandError::usage("the lengths of the prompts are missing")
                .hint("give `--mix short=.3,medium=.5,long=.2` or `--input-tokens 6000 --output-tokens 800`"));
        }
    };
    spec.seed = args.seed;
    spec.max_output = args.max_output;
    if let Some(tokens) = args.shared_prefix {
        spec.shared_prefix = Some(SharedPrefix { tokens: Some(tokens), groups: args.prefix_groups, hit_rate: None });
    }
    spec.validate().map_err(|problem| CommandError::usage(problem.to_string()))?;
    Ok(spec)
}

fn parse_mix(text: &str) -> Result<Mix, CommandError> {
    let bad =
        |why: String| CommandError::usage(format!("`--mix {text}`: {why}")).hint("write `short=.3,medium=.5,long=.2`");
    let mut mix = Mix::default();
    for part in text.split(',') {
        let (name, share) = part.split_once('=').ok_or_else(|| bad(format!("`{part}` has no `=`")))?;
        let share: f64 = share.trim().parse().map_err(|_| bad(format!("`{share}` is no number")))?;
        match name.trim() {
            "short" => mix.short = share,
            "medium" => mix.medium = share,
            "long" => mix.long = share,
            other => return Err(bad(format!("there is no length class `{other}`"))),
        }
    }
    Ok(mix)
}

fn stats(args: &StatsArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let tokenizer = load_tokenizer(&args.tokenizer)?;
    let file =
        FileSpec { path: args.file.to_string_lossy().into_owned(), format: FileFormat::default(), output_tokens: None };
    let dataset = servelab_data::read_dataset(&file, std::path::Path::new(""), &tokenizer)?;
    let stats = servelab_data::stats(&dataset.prompts, &tokenizer)?;
    if args.json {
        let text = serde_json::to_string_pretty(&stats).map_err(|error| CommandError::failed(error.to_string()))?;
        ui.data(&text);
    } else {
        ui.data(&servelab_data::render_stats(&stats));
    }
    Ok(ExitCode::SUCCESS)
}
