//! Finds candidate files below paths and reads them, gzip included. Which of them are results is decided by content.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::error::StoreError;

/// Endings of files that are looked at below a folder.
const ENDINGS: [&str; 8] = [".json", ".jsonl", ".json.gz", ".jsonl.gz", ".yaml", ".yml", ".csv", ".txt"];
/// Larger files are not results of a run but something else.
const MAX_BYTES: u64 = 4 << 30;

/// A candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// Named by the user, not found below a folder.
    pub(super) is_named: bool,
}

/// Every candidate, folders in name order; links to folders are not followed, so that no loop is endless.
pub(super) fn files(paths: &[PathBuf]) -> Result<Vec<Found>, StoreError> {
    let mut found = Vec::new();
    for path in paths {
        let meta = std::fs::metadata(path).map_err(|source| StoreError::read(path, source))?;
        if meta.is_dir() {
            below(path, &mut found)?;
        } else {
            found.push(Found { path: path.clone(), is_named: true });
        }
    }
    Ok(found)
}

fn below(folder: &Path, found: &mut Vec<Found>) -> Result<(), StoreError> {
    let entries = std::fs::read_dir(folder).map_err(|source| StoreError::read(folder, source))?;
    let mut entries: Vec<_> = entries.collect::<Result<_, _>>().map_err(|source| StoreError::read(folder, source))?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let kind = entry.file_type().map_err(|source| StoreError::read(&path, source))?;
        let name = entry.file_name().to_string_lossy().to_lowercase();
        if kind.is_dir() {
            if !name.starts_with('.') {
                below(&path, found)?;
            }
        } else if ENDINGS.iter().any(|ending| name.ends_with(ending)) && path.is_file() {
            found.push(Found { path, is_named: false });
        }
    }
    Ok(())
}

/// The text of a file; `.gz` is unpacked.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let size = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > MAX_BYTES {
        return Err("larger than 4 GiB".to_owned());
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let bytes = if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut unpacked = Vec::new();
        let limited = flate2::read::MultiGzDecoder::new(bytes.as_slice());
        limited.take(MAX_BYTES).read_to_end(&mut unpacked).map_err(|error| format!("unpacking it: {error}"))?;
        unpacked
    } else {
        bytes
    };
    String::from_utf8(bytes).map_err(|error| format!("byte {} is not UTF-8", error.utf8_error().valid_up_to()))
}
