//! `servelab explain`: what a verdict, failure or plan code means and what to do about it.

use std::process::ExitCode;

use clap::Args;
use servelab_core::codes::{Explanation, all_codes, explain as look_up, similar_codes};

use crate::error::CommandError;
use crate::ui::Ui;

/// Arguments of `servelab explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The code; without one, all codes are listed
    code: Option<String>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn explain(args: &ExplainArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let Some(code) = &args.code else {
        let all: Vec<&Explanation> = all_codes().collect();
        if args.json {
            ui.data(&json(&all)?);
        } else {
            let width = all.iter().map(|explanation| explanation.code.len()).max().unwrap_or(0);
            let lines: Vec<String> =
                all.iter().map(|explanation| format!("{:width$}  {}", explanation.code, explanation.title)).collect();
            ui.data(&lines.join("\n"));
        }
        return Ok(ExitCode::SUCCESS);
    };
    let Some(explanation) = look_up(code) else {
        let near = similar_codes(code);
        let hint = if near.is_empty() {
            "`servelab explain` lists all codes".to_owned()
        } else {
            format!("did you mean {}?", near.iter().map(|code| format!("`{code}`")).collect::<Vec<_>>().join(" or "))
        };
        return Err(CommandError::usage(format!("there is no code `{code}`")).hint(hint));
    };
    if args.json {
        ui.data(&json(explanation)?);
    } else {
        ui.data(&format!(
            "{} — {}\n\n{}\n\nWhat to do: {}\n",
            explanation.code, explanation.title, explanation.meaning, explanation.advice
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String, CommandError> {
    serde_json::to_string_pretty(value).map_err(|error| CommandError::failed(error.to_string()))
}
