//! Traces of real traffic in: Mooncake JSONL, Azure's and BurstGPT's CSV. One request at a time, in the order of time,
//! in constant memory. Malformed input is an error that names line and column. Text for the requests is made in
//! `prompts`; when to send is scaled by whoever replays.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use servelab_core::workload::{TraceFormat, TraceSpec};

use crate::error::DataError;

mod csv;
mod lines;
mod mooncake;
mod prompts;
#[cfg(test)]
mod tests;
mod time;

use csv::Columns;
use lines::Lines;
pub use prompts::{TracePrompt, TracePrompts};

/// Requests that are held back to put a trace into the order of time. One that is out of place by more is an error.
pub const REORDER_REQUESTS: usize = 4096;

/// One request of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceRecord {
    /// Nanoseconds after the slice's start (`from_s`, else the first request), as recorded.
    pub at_ns: i64,
    /// Prompt tokens.
    pub input_tokens: u32,
    /// Output tokens.
    pub output_tokens: u32,
    /// Names of the prompt's blocks: the same number stands for the same tokens. Empty where the trace has none.
    pub hash_ids: Vec<u64>,
    /// Line in the file, from 1.
    pub line: usize,
}

/// What a reader saw so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TraceCounts {
    /// Requests handed out.
    pub used: u64,
    /// Left out: no prompt or no output token, as failed requests are recorded.
    pub without_tokens: u64,
    /// Left out: longer than `max_input_tokens`.
    pub too_long: u64,
    /// Left out: before `from_s`. The file is not read beyond `to_s`.
    pub outside: u64,
}

/// A whole trace, read once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceSummary {
    /// The format it was read as; never `Auto`.
    pub format: TraceFormat,
    /// Requests used and left out.
    pub counts: TraceCounts,
    /// Instant of the last used request after the slice's start, as recorded.
    pub last_ns: i64,
    /// Longest prompt used.
    pub max_input_tokens: u32,
    /// Longest output used.
    pub max_output_tokens: u32,
}

/// Reads a trace in the order of time.
#[derive(Debug)]
pub struct TraceReader<R> {
    lines: Lines<R>,
    path: PathBuf,
    spec: TraceSpec,
    parser: Parser,
    /// The first line, when it was needed to recognise the format.
    pending: Option<(usize, String)>,
    held: BinaryHeap<Reverse<Held>>,
    is_read: bool,
    is_over: bool,
    /// Instant of the trace's first request, as in the file.
    origin_ns: Option<i64>,
    last_ns: i64,
    counts: TraceCounts,
}

#[derive(Debug)]
enum Parser {
    Mooncake,
    Csv(Columns),
}

/// Ordered by instant, then line.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    at_ns: i64,
    line: usize,
    raw: Raw,
}

/// One line, before slice and order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Raw {
    input_tokens: u32,
    output_tokens: u32,
    hash_ids: Vec<u64>,
}

/// What is wrong with a line; the place is added by the reader.
type LineError = String;

/// Opens a trace file; a relative path starts at `base_dir`.
///
/// # Errors
/// A file that cannot be read or whose format is not recognised.
pub fn open_trace(spec: &TraceSpec, base_dir: &Path) -> Result<TraceReader<BufReader<File>>, DataError> {
    spec.validate()?;
    let path = base_dir.join(&spec.path);
    let file = File::open(&path).map_err(|source| DataError::Read { path: path.clone(), source })?;
    TraceReader::new(BufReader::with_capacity(1 << 16, file), &path, spec)
}

/// Reads a trace file to its end, without making text.
///
/// # Errors
/// The first problem in the file, or that nothing of it is used.
pub fn summarise_trace(spec: &TraceSpec, base_dir: &Path) -> Result<TraceSummary, DataError> {
    open_trace(spec, base_dir)?.summarise()
}

impl<R: BufRead> TraceReader<R> {
    /// Reads from anything; `path` is only named in errors.
    ///
    /// # Errors
    /// A format that is not recognised.
    pub fn new(input: R, path: &Path, spec: &TraceSpec) -> Result<Self, DataError> {
        let mut lines = Lines::new(input);
        let fail = |line: usize, reason: String| DataError::Entry { path: path.to_path_buf(), line, reason };
        let Some((number, first)) = lines.next_line(path)? else {
            return Err(DataError::NoPrompts { path: path.to_path_buf(), reason: "it is empty".to_owned() });
        };
        let format = match spec.format {
            TraceFormat::Auto if first.trim_start().starts_with('{') => TraceFormat::Mooncake,
            TraceFormat::Auto => csv::detect(&first).map_err(|reason| fail(number, reason))?,
            stated => stated,
        };
        let (parser, pending) = match format {
            TraceFormat::Mooncake | TraceFormat::Auto => (Parser::Mooncake, Some((number, first))),
            TraceFormat::Azure | TraceFormat::Burstgpt => {
                let columns = Columns::from_header(&first, format).map_err(|reason| fail(number, reason))?;
                (Parser::Csv(columns), None)
            }
        };
        Ok(Self {
            lines,
            path: path.to_path_buf(),
            spec: spec.clone(),
            parser,
            pending,
            held: BinaryHeap::new(),
            is_read: false,
            is_over: false,
            origin_ns: None,
            last_ns: i64::MIN,
            counts: TraceCounts::default(),
        })
    }

    /// The format that it is read as; never `Auto`.
    pub fn format(&self) -> TraceFormat {
        match &self.parser {
            Parser::Mooncake => TraceFormat::Mooncake,
            Parser::Csv(columns) => columns.format(),
        }
    }

    /// What was seen so far.
    pub fn counts(&self) -> TraceCounts {
        self.counts
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// The first problem, or that nothing is used.
    pub fn summarise(mut self) -> Result<TraceSummary, DataError> {
        let (mut last_ns, mut max_input_tokens, mut max_output_tokens) = (0, 0, 0);
        for record in self.by_ref() {
            let record = record?;
            last_ns = record.at_ns;
            max_input_tokens = record.input_tokens.max(max_input_tokens);
            max_output_tokens = record.output_tokens.max(max_output_tokens);
        }
        let counts = self.counts;
        if counts.used == 0 {
            let reason = format!(
                "no request is left between `from_s` and `to_s`: {} lie before, {} have no tokens, {} are longer than `max_input_tokens`",
                counts.outside, counts.without_tokens, counts.too_long
            );
            return Err(DataError::NoPrompts { path: self.path, reason });
        }
        Ok(TraceSummary { format: self.format(), counts, last_ns, max_input_tokens, max_output_tokens })
    }

    fn read_one(&mut self) -> Result<(), DataError> {
        let next = match self.pending.take() {
            Some(first) => Some(first),
            None => self.lines.next_line(&self.path)?,
        };
        let Some((line, text)) = next else {
            self.is_read = true;
            return Ok(());
        };
        let parsed = match &self.parser {
            Parser::Mooncake => mooncake::parse(&text, self.spec.block_tokens()),
            Parser::Csv(columns) => columns.parse(&text),
        };
        let (at_ns, raw) = parsed.map_err(|reason| self.fail(line, reason))?;
        if at_ns < self.last_ns {
            let reason = format!(
                "was sent {:.3} s before an earlier line's request, more than {REORDER_REQUESTS} lines away; sort the file by time",
                (self.last_ns - at_ns) as f64 / 1e9
            );
            return Err(self.fail(line, reason));
        }
        self.held.push(Reverse(Held { at_ns, line, raw }));
        Ok(())
    }

    fn fail(&self, line: usize, reason: String) -> DataError {
        DataError::Entry { path: self.path.clone(), line, reason }
    }

    /// The next request of the slice.
    fn advance(&mut self) -> Result<Option<TraceRecord>, DataError> {
        let most = self.spec.max_requests.map_or(u64::MAX, u64::from);
        while self.counts.used < most {
            while !self.is_read && self.held.len() <= REORDER_REQUESTS {
                self.read_one()?;
            }
            let Some(Reverse(Held { at_ns, line, raw })) = self.held.pop() else { break };
            self.last_ns = at_ns;
            let since_first = at_ns.saturating_sub(*self.origin_ns.get_or_insert(at_ns));
            let from_ns = nanos(self.spec.from_s.unwrap_or(0.0));
            if self.spec.to_s.is_some_and(|to| since_first >= nanos(to)) {
                // Everything after is later still.
                break;
            }
            if since_first < from_ns {
                self.counts.outside += 1;
            } else if raw.output_tokens == 0 || raw.input_tokens == 0 {
                self.counts.without_tokens += 1;
            } else if self.spec.max_input_tokens.is_some_and(|most| raw.input_tokens > most) {
                self.counts.too_long += 1;
            } else {
                self.counts.used += 1;
                return Ok(Some(TraceRecord {
                    at_ns: since_first - from_ns,
                    input_tokens: raw.input_tokens,
                    output_tokens: raw.output_tokens,
                    hash_ids: raw.hash_ids,
                    line,
                }));
            }
        }
        Ok(None)
    }
}

impl<R: BufRead> Iterator for TraceReader<R> {
    type Item = Result<TraceRecord, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let next = self.advance().transpose();
        self.is_over = !matches!(next, Some(Ok(_)));
        next
    }
}

fn nanos(seconds: f64) -> i64 {
    (seconds * 1e9) as i64
}

/// A whole number of tokens that an engine could be asked for.
fn tokens(value: u64) -> Option<u32> {
    u32::try_from(value).ok().filter(|tokens| *tokens <= servelab_core::workload::MAX_TOKENS)
}
