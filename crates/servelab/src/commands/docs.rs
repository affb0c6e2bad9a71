//! `servelab completions` and `servelab man`: both are generated from the command line's own definition.

use std::process::ExitCode;

use clap::Args;

use crate::error::CommandError;
use crate::ui::Ui;

/// Arguments of `servelab completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Arguments of `servelab man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// A command, for its own page
    command: Option<String>,
}

pub(crate) fn completions(
    args: &CompletionsArgs,
    command: &mut clap::Command,
    ui: Ui,
) -> Result<ExitCode, CommandError> {
    let mut out = Vec::new();
    clap_complete::generate(args.shell, command, "servelab", &mut out);
    ui.data(&String::from_utf8_lossy(&out));
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn man(args: &ManArgs, mut command: clap::Command, ui: Ui) -> Result<ExitCode, CommandError> {
    command.build();
    let page = match &args.command {
        None => command,
        Some(name) => {
            let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
            command.find_subcommand(name).cloned().ok_or_else(|| {
                CommandError::usage(format!("there is no command `{name}`"))
                    .hint(format!("known: {}", names.join(", ")))
            })?
        }
    };
    let mut out = Vec::new();
    clap_mangen::Man::new(page).render(&mut out).map_err(|error| CommandError::failed(error.to_string()))?;
    ui.data(&String::from_utf8_lossy(&out));
    Ok(ExitCode::SUCCESS)
}
