//! Reader of the PyTorch profiler's Chrome-trace JSON: plain or gzip, whole or cut, from any PyTorch since 1.9 and from
//! ROCm. Files stream through one small buffer; only what metrics need is kept (see `fold`).
//!
//! Files are read, not mapped: a mapped file that shrinks while it is read kills the process, and reading costs a tenth of
//! scanning.

mod args;
mod fold;
mod header;
mod number;
mod pump;
mod scan;
mod skip;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Read;

use crate::error::TraceError;
use crate::gzip::GzipReader;
use crate::input::Input;
use crate::model::RankTrace;
use crate::taxonomy::Taxonomy;

use fold::Folder;
use pump::{Outcome, pump};

pub use scan::{Malformed, RawEvent, Visitor};

/// One rank's trace from a file.
pub fn read(input: &Input, taxonomy: &Taxonomy) -> Result<RankTrace, TraceError> {
    let io = |source| TraceError::Io { path: input.path.clone(), source };
    let file = File::open(&input.path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    let mut folder = Folder::new(taxonomy);
    let outcome = if input.is_gzip { pump(GzipReader::new(file), &mut folder) } else { pump(file, &mut folder) };
    finish(folder, outcome, &input.path.to_string_lossy(), bytes).map_err(|reason| match reason {
        Unusable::Io(source) => TraceError::Io { path: input.path.clone(), source },
        Unusable::Reason(reason) => TraceError::NotATrace { path: input.path.clone(), reason },
    })
}

/// One rank's trace from any stream of JSON text; for tests, fuzzing and tools. An error is a reason.
pub fn read_text(text: impl Read, taxonomy: &Taxonomy) -> Result<RankTrace, String> {
    let mut folder = Folder::new(taxonomy);
    let outcome = pump(text, &mut folder);
    finish(folder, outcome, "", 0).map_err(|reason| match reason {
        Unusable::Io(error) => error.to_string(),
        Unusable::Reason(reason) => reason,
    })
}

/// Every event of a stream, for tests and tools that need more than metrics.
pub fn visit(text: impl Read, visitor: &mut impl Visitor) -> Result<(), String> {
    let outcome = pump(text, visitor);
    match outcome.problem() {
        Some((_, problem)) => Err(problem),
        None => Ok(()),
    }
}

/// Every event of a file.
pub fn visit_input(input: &Input, visitor: &mut impl Visitor) -> Result<(), TraceError> {
    let io = |source| TraceError::Io { path: input.path.clone(), source };
    let file = File::open(&input.path).map_err(io)?;
    if input.is_gzip {
        pump(GzipReader::new(file), visitor);
    } else {
        pump(file, visitor);
    }
    Ok(())
}

enum Unusable {
    Io(std::io::Error),
    Reason(String),
}

fn finish(folder: Folder<'_>, outcome: Outcome, path: &str, bytes: u64) -> Result<RankTrace, Unusable> {
    let mut trace = folder.into_trace();
    let problem = outcome.problem();
    if let Some(error) = outcome.error
        && outcome.events == 0
        && error.kind() != std::io::ErrorKind::InvalidData
        && error.kind() != std::io::ErrorKind::InvalidInput
        && error.kind() != std::io::ErrorKind::UnexpectedEof
    {
        return Err(Unusable::Io(error));
    }
    if outcome.events == 0 {
        return Err(Unusable::Reason(match problem {
            Some((_, problem)) => format!("no event could be read: {problem}"),
            None if outcome.has_events => "its list of events is empty".to_owned(),
            None => "it has no `traceEvents`".to_owned(),
        }));
    }
    trace.meta.path = path.to_owned();
    trace.meta.format = "kineto";
    trace.meta.bytes = bytes;
    trace.meta.text_bytes = outcome.text_bytes;
    trace.totals.events = outcome.events;
    if let Some((code, problem)) = problem {
        trace.meta.is_truncated = true;
        trace.warn(code, format!("{problem}; the {} events before it were used", outcome.events));
    }
    trace.finish();
    Ok(trace)
}
