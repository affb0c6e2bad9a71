//! `servelab trace card`: writes a workload card from what was measured, or checks one.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use servelab_core::source::{Diagnostic, SourceMap};
use servelab_core::trace::card::{self, Card, Contradiction, Declared};
use servelab_core::yaml;

use super::measure::SourceOptions;
use crate::error::CommandError;
use crate::files::read_text;
use crate::ui::Ui;

/// Arguments of `servelab trace card`.
#[derive(Debug, Args)]
pub(crate) struct CardArgs {
    /// Trace files, or folders of them: one file per rank
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    options: SourceOptions,
    /// Write the card to this file instead of printing it
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    out: Option<PathBuf>,
    /// The configuration of the run (YAML or JSON): says what traces cannot, and is compared with them
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check this card against its format, the configuration and the traces instead of writing one; exit with 1 when
    /// something contradicts it
    #[arg(long, value_name = "CARD")]
    check: Option<PathBuf>,
    /// Print as JSON
    #[arg(long, requires = "check")]
    json: bool,
}

pub(crate) fn run(args: &CardArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let mut sources = SourceMap::default();
    let declared = args.config.as_deref().map(|path| read_config(path, &mut sources)).transpose()?;
    let given = args.check.as_deref().map(|path| read_card(path, &mut sources)).transpose()?;
    let report = args.options.report(&args.paths)?;
    let Some((card, node)) = given else {
        let found = card::check(None, declared.as_ref(), &report);
        let text = card::to_yaml(&card::fill(&report, declared.as_ref(), env!("CARGO_PKG_VERSION")));
        for contradiction in &found {
            ui.always(&format!("warning: {} ({})", contradiction.detail, contradiction.code));
        }
        match &args.out {
            Some(path) => {
                servelab_store::write_atomic(path, text.as_bytes())?;
                ui.say(&format!("wrote {}", path.display()));
            }
            None => ui.raw(&text),
        }
        return Ok(ExitCode::SUCCESS);
    };
    let found = card::check(Some(&card), declared.as_ref(), &report);
    if args.json {
        ui.data(&super::json(&serde_json::json!({"schema": 1, "contradictions": found}))?);
    } else if found.is_empty() {
        ui.data("the card agrees with the traces");
    } else {
        ui.raw(&found.iter().map(|contradiction| draw(contradiction, &node, &sources)).collect::<Vec<_>>().join("\n"));
    }
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The contradiction with the line of the card that is part of it.
fn draw(contradiction: &Contradiction, node: &yaml::Node, sources: &SourceMap) -> String {
    let message = format!("{} ({})", contradiction.detail, contradiction.code);
    let diagnostic = if contradiction.card_key.is_empty() {
        Diagnostic::new(message)
    } else {
        Diagnostic::at(node.span_at(&contradiction.card_key), message)
    };
    diagnostic.render(sources)
}

fn read_named(path: &Path) -> Result<(String, String), CommandError> {
    let name = path.to_string_lossy().into_owned();
    let text = read_text(&name).map_err(|reason| CommandError::usage(format!("cannot read `{name}`: {reason}")))?;
    Ok((name, text))
}

fn read_card(path: &Path, sources: &mut SourceMap) -> Result<(Card, yaml::Node), CommandError> {
    let (name, text) = read_named(path)?;
    let id = sources.add(name, text.clone());
    card::read(id, &text).map_err(|diagnostic| CommandError::diagnostic(&diagnostic, sources))
}

fn read_config(path: &Path, sources: &mut SourceMap) -> Result<Declared, CommandError> {
    let (name, text) = read_named(path)?;
    let id = sources.add(name, text.clone());
    let node = yaml::parse(id, &text).map_err(|diagnostic| CommandError::diagnostic(&diagnostic, sources))?;
    Ok(Declared::from_node(&node))
}
