//! What can go wrong while reading traces. Messages are fragments that follow "cannot".

use std::path::PathBuf;

use thiserror::Error;

/// Why traces could not be read.
#[derive(Debug, Error)]
pub enum TraceError {
    /// A file or folder could not be read.
    #[error("read `{}`: {source}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is no trace that we know.
    #[error("read `{}` as a trace: {reason}", path.display())]
    NotATrace {
        /// Which one.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A folder holds no trace.
    #[error("find a trace in `{}`: {reason}", path.display())]
    Empty {
        /// Which folder.
        path: PathBuf,
        /// What was looked for.
        reason: String,
    },
    /// The user's taxonomy is wrong.
    #[error("use the taxonomy `{name}`: {reason}")]
    Taxonomy {
        /// Which one.
        name: String,
        /// Why not.
        reason: String,
    },
}
