//! `servelab schema`: the JSON Schema of study and site files, for editors. It comes from the types that read the files.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use schemars::schema_for;

use crate::error::CommandError;
use crate::ui::Ui;

/// Arguments of `servelab schema`.
#[derive(Debug, Args)]
pub(crate) struct SchemaArgs {
    /// Which kind of file
    #[arg(value_enum, default_value = "study")]
    kind: Kind,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Study,
    Site,
}

pub(crate) fn schema(args: &SchemaArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let schema = match args.kind {
        Kind::Study => schema_for!(servelab_core::study::Study),
        Kind::Site => schema_for!(servelab_core::site::Site),
    };
    let text = serde_json::to_string_pretty(&schema).map_err(|error| CommandError::failed(error.to_string()))?;
    ui.data(&text);
    Ok(ExitCode::SUCCESS)
}
