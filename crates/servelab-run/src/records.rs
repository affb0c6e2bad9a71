//! The load generator's sink as files: `requests.parquet` and `events.parquet`, written while the load runs, and the
//! numbers computed from them afterwards. Both `run` and `bench` measure through here, so that they agree.

use std::path::{Path, PathBuf};

use servelab_core::metrics::{ClientUsage, MetricsInput, RequestSlo, summarise};
use servelab_core::record::{EventRecord, PromSample, RequestRecord};
use servelab_core::result::BenchResult;
use servelab_core::verdict::RequestEvidence;
use servelab_load::{FinishedRequest, LoadOutcome, RecordSink};
use servelab_store::{RecordFiles, RecordWriter, StoreError};

/// Writes records as requests finish.
pub struct FileSink {
    requests: RecordWriter<RequestRecord>,
    events: RecordWriter<EventRecord>,
    requests_path: PathBuf,
    events_path: PathBuf,
    keep_events: bool,
    problem: Option<StoreError>,
}

impl FileSink {
    /// Starts both files in `folder`. The events are needed for the numbers in any case; without `keep_events` they are
    /// removed when these have been computed.
    pub fn create(folder: &Path, keep_events: bool) -> Result<Self, StoreError> {
        let StoredRecords { requests_path, events_path, keep_events } = StoredRecords::at(folder, keep_events);
        Ok(Self {
            requests: RecordWriter::create(&requests_path)?,
            events: RecordWriter::create(&events_path)?,
            requests_path,
            events_path,
            keep_events,
            problem: None,
        })
    }

    /// Ends both files.
    pub fn finish(self) -> Result<StoredRecords, StoreError> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        self.requests.finish()?;
        self.events.finish()?;
        Ok(StoredRecords {
            requests_path: self.requests_path,
            events_path: self.events_path,
            keep_events: self.keep_events,
        })
    }

    /// Why writing failed, if it did.
    pub fn into_problem(self) -> Option<StoreError> {
        self.problem
    }

    fn write(&mut self, request: &FinishedRequest) -> Result<(), StoreError> {
        for event in request.events.records(request.record.request_idx) {
            self.events.push(&event)?;
        }
        self.requests.push(&request.record)
    }
}

impl RecordSink for FileSink {
    fn finished(&mut self, request: &FinishedRequest) -> Result<(), String> {
        self.write(request).map_err(|error| {
            let words = error.to_string();
            self.problem = Some(error);
            words
        })
    }
}

/// Record files that are complete.
#[derive(Debug)]
pub struct StoredRecords {
    requests_path: PathBuf,
    events_path: PathBuf,
    keep_events: bool,
}

/// What the records are summarised with.
#[derive(Debug, Clone, Copy)]
pub struct SummaryOptions<'a> {
    /// Scrapes of the server.
    pub prom: &'a [PromSample],
    /// Request SLO.
    pub slo: Option<RequestSlo>,
    /// Slots of a closed loop.
    pub closed_loop_slots: Option<u32>,
}

impl StoredRecords {
    /// The files of `folder`, which somebody else writes.
    pub fn at(folder: &Path, keep_events: bool) -> Self {
        Self {
            requests_path: folder.join("requests.parquet"),
            events_path: folder.join(if keep_events { "events.parquet" } else { ".events.parquet" }),
            keep_events,
        }
    }

    /// `requests.parquet`.
    pub fn requests_path(&self) -> &Path {
        &self.requests_path
    }

    /// The events, until they are dropped.
    pub fn events_path(&self) -> &Path {
        &self.events_path
    }

    /// The numbers, not judged yet, and what the records say to those who judge them.
    pub fn summarise(
        &self,
        outcome: &LoadOutcome,
        options: SummaryOptions<'_>,
    ) -> Result<(BenchResult, RequestEvidence), StoreError> {
        let files = RecordFiles::new(self.requests_path.clone(), Some(self.events_path.clone()));
        let computed = {
            let input = MetricsInput {
                clock: outcome.clock,
                records: Box::new(&files),
                prom: options.prom,
                window_start_ns: outcome.window_start_ns,
                window_end_ns: outcome.window_end_ns,
                slo: options.slo,
                closed_loop_slots: options.closed_loop_slots,
                client: client_usage(outcome),
            };
            (summarise(&input), RequestEvidence::collect(&input))
        };
        files.check()?;
        Ok(computed)
    }

    /// Removes what was only needed for the numbers.
    pub fn drop_unwanted(&self) -> Result<(), StoreError> {
        if self.keep_events {
            return Ok(());
        }
        std::fs::remove_file(&self.events_path).map_err(|source| StoreError::Io {
            action: "remove",
            path: self.events_path.clone(),
            source,
        })
    }
}

/// What the load generator knows about itself, in the units of results.
fn client_usage(outcome: &LoadOutcome) -> ClientUsage {
    let millis = |errors: &[i64]| errors.iter().map(|ns| *ns as f64 / 1e6).collect();
    let canary = outcome.canary.as_ref();
    ClientUsage {
        cpu_s: outcome.cpu_s,
        threads: outcome.threads,
        canary_ttft_error_ms: canary.map(|canary| millis(&canary.ttft_ns)),
        canary_itl_error_ms: canary.map(|canary| millis(&canary.itl_ns)),
        canary_receive_error_ms: canary.map(|canary| millis(&canary.receive_ns)),
        busy_s: Some(outcome.busy_s),
        spread_s: outcome.spread_ns.map(|ns| ns as f64 / 1e9),
    }
}
