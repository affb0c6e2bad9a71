//! Nsight Systems exports (SQLite). Tables are created only when something was recorded, columns come and go between
//! versions, there are no indexes: so this reads whole tables in storage order, asks which columns exist first, and
//! keeps no row. A file that lies is read as far as it goes, and what was wrong is said. The meaning of rows (kernel
//! families, steps) is decided elsewhere.

#[cfg(test)]
pub(crate) mod fixture;
mod info;
mod names;
mod payload;
mod ranks;
#[cfg(test)]
mod ranks_tests;
mod rows;
mod scan;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

pub use info::{Gpu, Info, pid_of};
pub use ranks::{read, read_file};
pub use rows::{Copy, GpuSample, GraphRun, Kernel, Launch, Range, Rows, Set};
pub use scan::Scan;

/// What a SQLite file begins with.
pub const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Why an export could not be read at all.
#[derive(Debug, thiserror::Error)]
pub enum NsysError {
    /// The report of the profiler itself, in its own format.
    #[error("read `{path}`: it is a report in Nsight Systems' own format")]
    Report {
        /// The file.
        path: PathBuf,
    },
    /// The file is not a database or cannot be opened.
    #[error("read `{path}`: {reason}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite or the system said.
        reason: String,
    },
    /// A database, but not one of ours.
    #[error("read `{path}`: it is a SQLite database, but none of the tables of an Nsight Systems export is in it")]
    NotAnExport {
        /// The file.
        path: PathBuf,
    },
}

impl NsysError {
    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Report { path } => Some(format!(
                "export it first, where Nsight Systems is installed: nsys export --type sqlite --output {}.sqlite {}",
                path.with_extension("").display(),
                path.display()
            )),
            Self::Open { .. } => None,
            Self::NotAnExport { .. } => {
                Some("Nsight Systems writes them with: nsys export --type sqlite REPORT.nsys-rep".to_owned())
            }
        }
    }
}

/// An export that is open for reading. Nothing is ever written: not even a lock or a journal beside the file.
#[derive(Debug)]
pub struct NsysFile {
    connection: Connection,
    path: PathBuf,
}

impl NsysFile {
    /// Opens an export.
    ///
    /// # Errors
    /// Where the file cannot be read as an export; a damaged one is opened as long as its list of tables can be read.
    pub fn open(path: &Path) -> Result<Self, NsysError> {
        if path.extension().is_some_and(|ending| ending == "nsys-rep" || ending == "qdrep") {
            return Err(NsysError::Report { path: path.to_owned() });
        }
        let failed = |reason: String| NsysError::Open { path: path.to_owned(), reason };
        let absolute = std::path::absolute(path).map_err(|error| failed(error.to_string()))?;
        // Immutable: no locks, which hang on some network filesystems, and no journal beside a file that is not ours.
        let uri = format!("file:{}?mode=ro&immutable=1", percent_encode(&absolute));
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(uri, flags).map_err(|error| failed(error.to_string()))?;
        let file = Self::from_connection(connection, path)?;
        if file.tables().map_err(|error| failed(error.to_string()))?.iter().any(|table| is_of_an_export(table)) {
            Ok(file)
        } else {
            Err(NsysError::NotAnExport { path: path.to_owned() })
        }
    }

    fn from_connection(connection: Connection, path: &Path) -> Result<Self, NsysError> {
        // A schema from outside must not run functions; pages are kept to 8 MiB whatever the file's size.
        connection
            .execute_batch(
                "PRAGMA trusted_schema = OFF; PRAGMA query_only = ON; PRAGMA cell_size_check = ON; PRAGMA cache_size = -8192;",
            )
            .map_err(|error| NsysError::Open { path: path.to_owned(), reason: error.to_string() })?;
        Ok(Self { connection, path: path.to_owned() })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the real tables. Views and virtual tables are left out: theirs is the schema's word, not a recording.
    fn tables(&self) -> rusqlite::Result<Vec<String>> {
        let mut statement = self.connection.prepare(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 AND typeof(name) = 'text'",
        )?;
        let names = statement.query_map([], |row| row.get::<_, String>(0))?;
        names.collect()
    }

    /// What stands beside the file and would change it: recordings that were never folded in.
    fn unmerged_journal(&self) -> Option<String> {
        ["-wal", "-journal"].into_iter().find_map(|ending| {
            let mut name = self.path.as_os_str().to_owned();
            name.push(ending);
            let beside = PathBuf::from(name);
            let length = std::fs::metadata(&beside).ok()?.len();
            (length > 0).then(|| {
                format!(
                    "`{}` was not folded into the file (its writer is still running or was killed): its rows are missing here",
                    beside.display()
                )
            })
        })
    }
}

fn is_of_an_export(table: &str) -> bool {
    table.starts_with("CUPTI_ACTIVITY_KIND_")
        || table == "META_DATA_EXPORT"
        || table == "NVTX_EVENTS"
        || table == "GPU_METRICS"
        || table == "StringIds"
        || table == "TARGET_INFO_SESSION_START_TIME"
}

/// A path inside a `file:` address.
fn percent_encode(path: &Path) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(*byte)),
            other => {
                // Writing to a String cannot fail.
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
    out
}

/// Opens what is already in memory; for the fuzz target.
///
/// # Errors
/// As [`NsysFile::open`].
pub fn open_bytes(bytes: &[u8]) -> Result<NsysFile, NsysError> {
    let path = Path::new("memory");
    let failed = |reason: String| NsysError::Open { path: path.to_owned(), reason };
    let mut connection = Connection::open_in_memory().map_err(|error| failed(error.to_string()))?;
    connection.deserialize_read_exact("main", bytes, bytes.len(), true).map_err(|error| failed(error.to_string()))?;
    let file = NsysFile::from_connection(connection, path)?;
    file.tables().map_err(|error| failed(error.to_string()))?;
    Ok(file)
}
