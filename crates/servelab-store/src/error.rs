//! Everything that can go wrong with files, with the path in every message.

use std::io;
use std::path::{Path, PathBuf};

/// An error of the store. Messages are fragments that follow "failed to" or "error: ".
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system is full (or the quota is used up).
    #[error("write `{}`: no space left on the device; free some or choose another --root, then run the same command again", path.display())]
    DiskFull {
        /// What was being written.
        path: PathBuf,
    },
    /// No permission, or a read-only file system.
    #[error("write `{}`: not permitted ({source}); choose another --root", path.display())]
    ReadOnly {
        /// What was being written.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another input/output error.
    #[error("{action} `{}`: {source}", path.display())]
    Io {
        /// `read`, `write`, …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file that does not hold what its name says.
    #[error("read `{}`: {detail}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Written by a newer version.
    #[error("read `{}`: its format {found} is newer than {known}, the newest that this version knows; use a newer servelab", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// Not a results root.
    #[error("open `{}`: not a servelab root (no servelab-root.json) and not empty; choose another --root", path.display())]
    NotARoot {
        /// The folder.
        path: PathBuf,
    },
    /// An identifier that cannot be a folder name.
    #[error("use `{id}` as a folder name: only letters, digits, `-`, `_` and `.` are allowed, and no leading `.`")]
    BadName {
        /// The identifier.
        id: String,
    },
}

impl StoreError {
    /// An error while writing, sorted into full disk, missing permission and the rest.
    pub(crate) fn write(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path, source },
            _ => Self::Io { action: "write", path, source },
        }
    }

    /// An error while reading.
    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        Self::Io { action: "read", path: path.to_owned(), source }
    }

    /// A file with wrong contents.
    pub(crate) fn malformed(path: &Path, detail: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_owned(), detail: detail.into() }
    }

    /// True when the file is simply not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}
