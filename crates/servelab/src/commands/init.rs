//! `servelab init`: a commented study and site to start from, or a study made from older configuration files.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::convert;
use crate::error::CommandError;
use crate::study_input::{Overrides, StudyInput};
use crate::ui::Ui;

const STUDY_TEMPLATE: &str = include_str!("../templates/study.yaml");
const SITE_TEMPLATE: &str = include_str!("../templates/site.yaml");

/// Arguments of `servelab init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Folder to write to
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Older configuration files (JSON of document 001, YAML of document 004) to turn into a study
    #[arg(long, num_args = 1.., value_name = "OLD")]
    from: Vec<PathBuf>,
}

/// What the questions decide.
struct Answers {
    engine: String,
    model: String,
    scheduler: String,
}

pub(crate) fn init(args: InitArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let study_path = args.dir.join("study.yaml");
    let files = if args.from.is_empty() {
        let answers = ask(ui)?;
        let site = if answers.scheduler == "local" { "here" } else { "cluster" };
        let name = folder_name(&args.dir);
        let directives = match answers.scheduler.as_str() {
            "slurm" => "account: my-account\npartition: gpu\nwalltime: \"04:00:00\"",
            "pbs" => "account: my-account\nqueue: gpu\nwalltime: \"04:00:00\"",
            _ => "# account, partition or queue, walltime, modules …: for slurm and pbs",
        };
        let study = STUDY_TEMPLATE
            .replace("@STUDY@", &name)
            .replace("@SITE@", site)
            .replace("@ENGINE@", &engine_text(&answers.engine))
            .replace("@MODEL@", &yaml_text(&answers.model));
        let site_text = SITE_TEMPLATE
            .replace("@SITE@", site)
            .replace("@SCHEDULER@", &answers.scheduler)
            .replace("@DIRECTIVES@", directives);
        vec![(study_path.clone(), study), (args.dir.join("sites").join(format!("{site}.yaml")), site_text)]
    } else {
        vec![(study_path.clone(), convert::study_from(&args.from, &folder_name(&args.dir))?)]
    };
    write_new(&files)?;
    // What was just written must be what the rest of the program reads.
    let plan = StudyInput::load(&study_path, &Overrides::default())?.plan(&|_| None)?;
    for (path, _) in &files {
        ui.say(&format!("wrote {}", path.display()));
    }
    ui.say(&format!(
        "{} points, {} cells. Next: servelab plan {}",
        plan.counts.points,
        plan.counts.cells,
        study_path.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// Writes all files or none; never over an existing one.
fn write_new(files: &[(PathBuf, String)]) -> Result<(), CommandError> {
    if let Some((path, _)) = files.iter().find(|(path, _)| path.exists()) {
        return Err(CommandError::usage(format!("`{}` exists already", path.display()))
            .hint("choose another folder: `servelab init DIR`"));
    }
    for (path, text) in files {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|error| CommandError::failed(format!("cannot make `{}`: {error}", folder.display())))?;
        }
        servelab_store::write_atomic(path, text.as_bytes())?;
    }
    Ok(())
}

fn ask(ui: Ui) -> Result<Answers, CommandError> {
    let interactive = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    let mut lines = std::io::stdin().lock().lines();
    let mut question = |text: &str, choices: &[&str], default: &str| -> Result<String, CommandError> {
        if !interactive {
            return Ok(default.to_owned());
        }
        loop {
            ui.always(&format!("{text} [{default}]"));
            let answer = match lines.next() {
                Some(Ok(line)) => line.trim().to_owned(),
                Some(Err(error)) => return Err(CommandError::failed(format!("cannot read the answer: {error}"))),
                None => String::new(),
            };
            if answer.is_empty() {
                return Ok(default.to_owned());
            }
            if choices.is_empty() || choices.contains(&answer.as_str()) {
                return Ok(answer);
            }
            ui.always(&format!("  one of: {}", choices.join(", ")));
        }
    };
    Ok(Answers {
        engine: question(
            "Which engine: sim, vllm, sglang or external (a server that runs)?",
            &["sim", "vllm", "sglang", "external"],
            "sim",
        )?,
        model: question("Which model (its public id)?", &[], "meta-llama/Llama-3.1-8B")?,
        scheduler: question("What starts jobs: local, slurm or pbs?", &["local", "slurm", "pbs"], "local")?,
    })
}

fn engine_text(kind: &str) -> String {
    match kind {
        "vllm" | "sim" => format!("{{kind: {kind}, version: \"0.32.*\"}}"),
        "external" => "{kind: external, url: \"http://127.0.0.1:8000\"}".to_owned(),
        other => format!("{{kind: {other}}}"),
    }
}

/// A scalar that YAML reads back as this text.
pub(crate) fn yaml_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A study name from the folder's name.
fn folder_name(dir: &Path) -> String {
    let full = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    let name = full.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let clean: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' }).collect();
    let clean = clean.trim_matches(['.', '-']).to_owned();
    if clean.is_empty() { "my-study".to_owned() } else { clean }
}
