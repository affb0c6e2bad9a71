//! Which files there are and what they hold: files as given, folders walked, formats told by content (a name only breaks
//! ties). Reading itself is the readers' business.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::error::TraceError;

/// Folders below a given one that are looked into.
const MAX_DEPTH: u32 = 6;
/// Bytes that decide what a file is.
const HEAD_BYTES: u64 = 256 * 1024;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// Chrome-trace JSON of the PyTorch profiler.
    Kineto,
    /// SQLite export of Nsight Systems.
    Nsys,
    /// PyTorch execution trace.
    ExecutionTrace,
    /// `timing_stats_<rank>.json`.
    TimingStats,
}

impl Format {
    /// As it stands in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kineto => "kineto",
            Self::Nsys => "nsys",
            Self::ExecutionTrace => "execution_trace",
            Self::TimingStats => "timing_stats",
        }
    }
}

/// One file to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Where it is.
    pub path: PathBuf,
    /// What it holds.
    pub format: Format,
    /// True when it is compressed.
    pub is_gzip: bool,
}

/// Files of the given paths, folders walked, in a stable order; files of a folder that are no trace are left out.
pub fn discover(paths: &[PathBuf]) -> Result<Vec<Input>, TraceError> {
    let mut found = Vec::new();
    for path in paths {
        let meta = fs::metadata(path).map_err(|source| TraceError::Io { path: path.clone(), source })?;
        if !meta.is_dir() {
            found.push(identify(path)?);
            continue;
        }
        let mut files = Vec::new();
        walk(path, 0, &mut files)?;
        files.sort();
        let before = found.len();
        for file in &files {
            if has_trace_name(file)
                && let Ok(input) = identify(file)
            {
                found.push(input);
            }
        }
        if found.len() == before {
            let reports = files.iter().filter(|file| extension(file) == "nsys-rep").count();
            let reason = if reports > 0 {
                format!(
                    "it holds {reports} .nsys-rep file(s), which only Nsight Systems reads: run `nsys export --type sqlite FILE.nsys-rep` first"
                )
            } else {
                format!("none of its {} file(s) is a trace (.json, .json.gz, .sqlite)", files.len())
            };
            return Err(TraceError::Empty { path: path.clone(), reason });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found.dedup_by(|a, b| a.path == b.path);
    Ok(found)
}

fn walk(folder: &Path, depth: u32, files: &mut Vec<PathBuf>) -> Result<(), TraceError> {
    let io = |source| TraceError::Io { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let path = entry.path();
        let kind = fs::metadata(&path);
        match kind {
            Ok(meta) if meta.is_dir() && depth < MAX_DEPTH => walk(&path, depth + 1, files)?,
            Ok(meta) if meta.is_file() => files.push(path),
            _ => {}
        }
    }
    Ok(())
}

fn extension(path: &Path) -> String {
    path.extension().map(|ext| ext.to_string_lossy().to_ascii_lowercase()).unwrap_or_default()
}

fn has_trace_name(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    [".json", ".json.gz", ".trace", ".gz", ".sqlite", ".db"].iter().any(|end| name.ends_with(end))
}

/// What one file holds.
pub fn identify(path: &Path) -> Result<Input, TraceError> {
    let io = |source| TraceError::Io { path: path.to_owned(), source };
    let not = |reason: &str| TraceError::NotATrace { path: path.to_owned(), reason: reason.to_owned() };
    let mut head = Vec::new();
    File::open(path).map_err(io)?.take(HEAD_BYTES).read_to_end(&mut head).map_err(io)?;
    let is_gzip = head.starts_with(&[0x1f, 0x8b]);
    if is_gzip {
        let mut text = Vec::new();
        // A damaged member gives what came before it; the reader says more.
        let _ = MultiGzDecoder::new(head.as_slice()).take(HEAD_BYTES).read_to_end(&mut text);
        head = text;
    }
    if head.is_empty() {
        return Err(not("it is empty"));
    }
    if extension(path) == "nsys-rep" {
        return Err(not("only Nsight Systems reads .nsys-rep: run `nsys export --type sqlite FILE.nsys-rep` first"));
    }
    if head.starts_with(b"SQLite format 3\0") {
        return Ok(Input { path: path.to_owned(), format: Format::Nsys, is_gzip });
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let format = json_format(&head, &name)
        .ok_or_else(|| not("expected Kineto JSON, a PyTorch execution trace, timing_stats or an nsys SQLite export"))?;
    Ok(Input { path: path.to_owned(), format, is_gzip })
}

fn json_format(head: &[u8], name: &str) -> Option<Format> {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let first = head.iter().find(|b| !b.is_ascii_whitespace())?;
    let holds = |key: &str| memchr::memmem::find(head, key.as_bytes()).is_some();
    match first {
        b'[' if holds("\"ph\"") => Some(Format::Kineto),
        b'{' if holds("\"traceEvents\"") => Some(Format::Kineto),
        b'{' if holds("\"iteration_times") || name.starts_with("timing_stats") => Some(Format::TimingStats),
        b'{' if holds("\"nodes\"") && holds("\"schema\"") => Some(Format::ExecutionTrace),
        b'{' if holds("\"schemaVersion\"") || holds("\"distributedInfo\"") || holds("\"deviceProperties\"") => {
            Some(Format::Kineto)
        }
        _ => None,
    }
}

/// Rank by the name of a file: `rank0`, `rank-3`, `rank_12`, `kineto_trace_5`, `…_7.json`. Used only when the content does
/// not say.
pub fn rank_by_name(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    let number = |text: &str| {
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().ok()
    };
    for (at, found) in name.match_indices("rank") {
        let rest = name.get(at + found.len()..).unwrap_or_default().trim_start_matches(['-', '_', '.', '=']);
        if let Some(rank) = number(rest) {
            return Some(rank);
        }
    }
    let stem = name.split('.').next()?;
    let (_, last) = stem.rsplit_once(['_', '-'])?;
    // A long number is a time stamp or a process.
    (last.len() <= 5 && last.bytes().all(|b| b.is_ascii_digit())).then(|| number(last)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_ranks() {
        let check = |name: &str, rank: Option<u32>| assert_eq!(rank_by_name(Path::new(name)), rank, "{name}");
        check("vllm032_cpu_tp2_rank1.pt.trace.json.gz", Some(1));
        check("x/rank-3.json", Some(3));
        check("hta_rank_12.json", Some(12));
        check("kineto_trace_5.json", Some(5));
        check("hta_rank_not_found.json.gz", None);
        check("host_26861.1790857026000000000.pt.trace.json", Some(26861));
        check("dp0_pp0_tp0_rank7.123.pt.trace.json", Some(7));
        check("trace.json", None);
    }

    #[test]
    fn content_decides_what_a_file_is() {
        let check = |text: &str, name: &str, format: Option<Format>| {
            assert_eq!(json_format(text.as_bytes(), name), format, "{text}");
        };
        check(" [{\"ph\": \"X\"}", "a.json", Some(Format::Kineto));
        check("{\"schemaVersion\": 1, \"deviceProperties\": [", "a.json", Some(Format::Kineto));
        check("\u{feff}{\"traceEvents\": [", "a.json", Some(Format::Kineto));
        check("{\"schema\": \"1.1.1-chakra.0.0.4\", \"nodes\": [", "a.json", Some(Format::ExecutionTrace));
        check("{\"iteration_times\": [1.0]}", "a.json", Some(Format::TimingStats));
        check("{\"x\": 1}", "timing_stats_0.json", Some(Format::TimingStats));
        check("{\"x\": 1}", "a.json", None);
        check("hello", "a.json", None);
        check("", "a.json", None);
    }

    #[test]
    fn folders_are_walked_and_say_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let error = discover(&[folder.path().to_owned()]).unwrap_err().to_string();
        assert!(error.contains("none of its 0 file(s) is a trace"), "{error}");
        fs::write(folder.path().join("a.nsys-rep"), "x").unwrap();
        let error = discover(&[folder.path().to_owned()]).unwrap_err().to_string();
        assert!(error.contains("nsys export --type sqlite"), "{error}");
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("sub/t.json"), "{\"traceEvents\": []}").unwrap();
        fs::write(folder.path().join("notes.json"), "{}").unwrap();
        let found = discover(&[folder.path().to_owned(), folder.path().join("sub")]).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].format, Format::Kineto);
        let error = discover(&[folder.path().join("none")]).unwrap_err().to_string();
        assert!(error.starts_with("read `"), "{error}");
    }
}
