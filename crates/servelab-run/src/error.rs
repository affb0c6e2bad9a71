//! What stops a whole run. What goes wrong with one cell or one server is recorded with that cell and never ends the run.

use std::path::PathBuf;

use servelab_core::ids::CellId;
use servelab_store::StoreError;

/// Why a run could not go on. What was finished before is safe; the same command resumes.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Results cannot be written or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine is not installed here.
    #[error(
        "start the engine: `{}` was not found; install it, name it with --engine-bin PATH, \
         or try the study without it: --engine sim",
        program.display()
    )]
    EngineNotFound {
        /// The program.
        program: PathBuf,
    },
    /// No port left for the server.
    #[error("find a free port for the server: {base} to {} are all taken; set `port_base` in the site file", base.saturating_add(1000))]
    NoPort {
        /// First port tried.
        base: u16,
    },
    /// A cell that the plan does not have.
    #[error("run cell `{cell}`: the plan has no such cell")]
    UnknownCell {
        /// The cell.
        cell: CellId,
    },
    /// The operating system refused something basic.
    #[error("{action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

impl RunError {
    /// Failure code for the cells that were being worked on.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Store(StoreError::DiskFull { .. }) => "disk_full",
            Self::Store(StoreError::ReadOnly { .. }) => "permission",
            Self::EngineNotFound { .. } => "engine_not_found",
            Self::NoPort { .. } => "port_in_use",
            Self::Store(_) | Self::UnknownCell { .. } | Self::System { .. } => "interrupted",
        }
    }
}
