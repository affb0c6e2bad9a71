//! The only ways in which this crate touches a file: whole files are replaced atomically (temporary file in the same
//! folder, fsync, rename, fsync of the folder), logs grow by single appends, and a line torn by a kill is skipped and
//! reported, never fatal. No file locks: they hang on network file systems.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::StoreError;

/// Whether an append waits until the disk has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Survives a power failure: state changes.
    Synced,
    /// Survives a kill of this process: heartbeats, progress.
    Buffered,
}

/// Replaces `path` by `bytes`: readers see the old file or the new one, nothing in between.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let temporary = TemporaryFile::create(path)?;
    let mut file = temporary.file()?;
    file.write_all(bytes).map_err(|source| StoreError::write(path, source))?;
    temporary.commit(&file)
}

/// Writes a value as indented JSON, atomically.
pub fn write_json<T: Serialize + ?Sized>(path: &Path, value: &T) -> Result<(), StoreError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| StoreError::malformed(path, error.to_string()))?;
    bytes.push(b'\n');
    write_atomic(path, &bytes)
}

/// Reads a JSON file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, StoreError> {
    let bytes = fs::read(path).map_err(|source| StoreError::read(path, source))?;
    serde_json::from_slice(&bytes).map_err(|error| StoreError::malformed(path, error.to_string()))
}

/// Like [`read_json`], with `None` for a file that is not there.
pub(crate) fn read_json_if_there<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    match read_json(path) {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Appends one value as one line with a single write, so that lines of several writers never mix. A line that an earlier
/// kill left without its end is ended first.
pub fn append_line<T: Serialize + ?Sized>(path: &Path, value: &T, durability: Durability) -> Result<(), StoreError> {
    let json = serde_json::to_vec(value).map_err(|error| StoreError::malformed(path, error.to_string()))?;
    let failed = |source| StoreError::write(path, source);
    let mut file = OpenOptions::new().create(true).append(true).read(true).open(path).map_err(failed)?;
    let mut line = Vec::with_capacity(json.len() + 2);
    if !ends_a_line(&mut file).map_err(failed)? {
        line.push(b'\n');
    }
    line.extend_from_slice(&json);
    line.push(b'\n');
    file.write_all(&line).map_err(failed)?;
    if durability == Durability::Synced {
        file.sync_data().map_err(failed)?;
    }
    Ok(())
}

fn ends_a_line(file: &mut File) -> std::io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// What a log holds.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonLines<T> {
    /// The values of all whole lines.
    pub values: Vec<T>,
    /// Line numbers (from 1) that could not be read: torn by a kill, or written by something else.
    pub skipped_lines: Vec<u64>,
}

/// Reads a log of JSON lines; unreadable lines are skipped and reported. A file that is not there is an empty log.
pub fn read_json_lines<T: DeserializeOwned>(path: &Path) -> Result<JsonLines<T>, StoreError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(StoreError::read(path, error)),
    };
    let mut lines = JsonLines { values: Vec::new(), skipped_lines: Vec::new() };
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice(line) {
            Ok(value) => lines.values.push(value),
            Err(_) => lines.skipped_lines.push(number),
        }
    }
    Ok(lines)
}

/// Creates a folder and its parents.
pub(crate) fn create_dir_all(path: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(path).map_err(|source| StoreError::write(path, source))
}

/// Makes names in a folder durable. Some network file systems refuse to sync a folder; their renames are synchronous.
fn sync_dir(path: &Path) {
    if let Ok(dir) = File::open(path) {
        let _ = dir.sync_all();
    }
}

/// A hidden name beside `target` that no other process or thread uses.
pub(crate) fn unique_beside(target: &Path) -> PathBuf {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    // Equal PIDs on two hosts of a shared file system: the nanoseconds keep them apart.
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.subsec_nanos());
    target.with_file_name(format!(".{name}.{}-{serial}-{nanos:x}.tmp", std::process::id()))
}

/// A file that takes its name only when it is complete; dropped before that, it disappears.
#[derive(Debug)]
pub(crate) struct TemporaryFile {
    target: PathBuf,
    temporary: PathBuf,
    is_committed: bool,
}

impl TemporaryFile {
    /// Reserves a name beside `target`, creating the folder if need be.
    pub(crate) fn create(target: &Path) -> Result<Self, StoreError> {
        create_dir_all(target.parent().unwrap_or(Path::new(".")))?;
        let temporary = unique_beside(target);
        Ok(Self { target: target.to_owned(), temporary, is_committed: false })
    }

    /// Opens it for writing. Errors name the target: nobody knows the temporary name.
    pub(crate) fn file(&self) -> Result<File, StoreError> {
        File::create(&self.temporary).map_err(|source| StoreError::write(&self.target, source))
    }

    /// The name it will take.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Syncs and renames.
    pub(crate) fn commit(mut self, file: &File) -> Result<(), StoreError> {
        let renamed = file.sync_all().and_then(|()| fs::rename(&self.temporary, &self.target));
        renamed.map_err(|source| StoreError::write(&self.target, source))?;
        self.is_committed = true;
        sync_dir(self.target.parent().unwrap_or(Path::new(".")));
        Ok(())
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.is_committed {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn replaces_whole_files_and_leaves_no_temporary_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.json");
        write_json(&path, &json!({"x": 1})).unwrap();
        write_json(&path, &json!({"x": 2})).unwrap();
        assert_eq!(read_json::<Value>(&path).unwrap(), json!({"x": 2}));
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn a_torn_line_is_skipped_and_does_not_swallow_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        append_line(&path, &json!({"n": 1}), Durability::Synced).unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"n\": 2, \"ki").unwrap();
        append_line(&path, &json!({"n": 3}), Durability::Buffered).unwrap();
        let lines: JsonLines<Value> = read_json_lines(&path).unwrap();
        assert_eq!(lines.values, [json!({"n": 1}), json!({"n": 3})]);
        assert_eq!(lines.skipped_lines, [2]);
        let none: JsonLines<Value> = read_json_lines(&dir.path().join("none.jsonl")).unwrap();
        assert!(none.values.is_empty());
    }

    #[test]
    fn a_full_disk_and_a_wrong_folder_are_clean_errors_with_the_path() {
        // Every write to /dev/full fails with ENOSPC.
        let full = Path::new("/dev/full");
        let error = append_line(full, &json!(1), Durability::Buffered).unwrap_err();
        assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
        assert!(error.to_string().contains("/dev/full"), "{error}");
        let under_a_file = Path::new("/dev/null/x/y.json");
        let error = write_atomic(under_a_file, b"x").unwrap_err();
        assert!(error.to_string().contains("/dev/null"), "{error}");
        let read_only = write_atomic(Path::new("/proc/servelab/x"), b"x").unwrap_err();
        assert!(read_only.to_string().contains("/proc/servelab"), "{read_only}");
        let denied = StoreError::write(Path::new("/r/x"), std::io::Error::from(std::io::ErrorKind::ReadOnlyFilesystem));
        assert!(matches!(denied, StoreError::ReadOnly { .. }));
    }

    #[test]
    fn an_unfinished_file_disappears() {
        let dir = tempfile::tempdir().unwrap();
        let temporary = TemporaryFile::create(&dir.path().join("x")).unwrap();
        temporary.file().unwrap().write_all(b"half").unwrap();
        drop(temporary);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
