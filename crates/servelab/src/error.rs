//! Errors as a person sees them, and the exit codes they end with: 1 the work failed, 2 usage or a bad file.

use std::process::ExitCode;

use servelab_core::source::{Diagnostic, SourceMap};

/// Why a command ended.
#[derive(Debug)]
pub(crate) struct CommandError {
    kind: ErrorKind,
    message: String,
    hints: Vec<String>,
}

/// What kind of end it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// The work failed, or a verdict failed under `--strict`: exit code 1.
    Failed,
    /// Wrong usage or a bad file: exit code 2, nothing on disk changed.
    Usage,
}

impl CommandError {
    /// The work failed.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Failed, message: format!("error: {}", message.into()), hints: Vec::new() }
    }

    /// Wrong usage or a bad file.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Usage, message: format!("error: {}", message.into()), hints: Vec::new() }
    }

    /// A problem in a file, drawn with its line.
    pub(crate) fn diagnostic(diagnostic: &Diagnostic, sources: &SourceMap) -> Self {
        let message = diagnostic.render(sources).trim_end().to_owned();
        Self { kind: ErrorKind::Usage, message, hints: Vec::new() }
    }

    /// Adds what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The whole text for stderr.
    pub(crate) fn text(&self) -> String {
        let mut out = self.message.clone();
        for hint in &self.hints {
            out.push_str("\n  = help: ");
            out.push_str(hint);
        }
        out
    }

    /// The exit code.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self.kind {
            ErrorKind::Failed => ExitCode::from(1),
            ErrorKind::Usage => ExitCode::from(2),
        }
    }
}

// Messages of the crates are fragments that follow "cannot".
impl From<servelab_store::StoreError> for CommandError {
    fn from(error: servelab_store::StoreError) -> Self {
        Self::failed(format!("cannot {error}"))
    }
}

impl From<servelab_data::DataError> for CommandError {
    fn from(error: servelab_data::DataError) -> Self {
        Self::usage(format!("cannot {error}"))
    }
}
