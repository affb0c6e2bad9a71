//! The raw records as Parquet files: requests, events, server metrics. Each record names its columns once, in the order in
//! which it writes and reads them. How columns become files is in `file`; what the fields mean is said in
//! `servelab_core::record`.

mod columns;
mod file;
mod foreign;
mod scan;
#[cfg(test)]
mod tests;

use std::path::Path;

use servelab_core::record::{EventRecord, Phase, PromSample, RECORD_SCHEMA_VERSION, RequestRecord, TokenSource};

pub(crate) use columns::{ColumnData, ColumnSpec, Physical};
use columns::{RowReader, RowWriter};
pub(crate) use file::ColumnFile;
#[cfg(test)]
pub(crate) use file::read_columns;
pub use foreign::{ForeignColumn, read_foreign_columns};
pub use scan::RecordFiles;

use crate::error::StoreError;

/// A row type with its columns.
pub trait Record: Sized {
    /// Name of the table, stored in the file.
    #[doc(hidden)]
    const KIND: &'static str;
    /// Rows per row group: bounds what a writer holds in memory.
    #[doc(hidden)]
    const GROUP_ROWS: usize;
    #[doc(hidden)]
    fn columns() -> Vec<ColumnSpec>;
    #[doc(hidden)]
    fn put(&self, row: &mut RowWriter<'_>);
    /// `None` when a required value is missing or unknown.
    #[doc(hidden)]
    fn take(row: &mut RowReader<'_>) -> Option<Self>;
}

impl Record for RequestRecord {
    const KIND: &'static str = "requests";
    const GROUP_ROWS: usize = 65_536;

    fn columns() -> Vec<ColumnSpec> {
        use Physical::{Double, Int32, Int64, Text};
        let required = ColumnSpec::required;
        let optional = ColumnSpec::optional;
        let mut columns = vec![
            required("request_idx", Int64),
            required("phase", Text),
            optional("response_id", Text),
            required("t_sched", Int64),
        ];
        let stamps =
            ["t_slot", "t_conn0", "t_conn1", "t_send", "t_hdr", "t_first", "t_out", "t_last", "t_usage", "t_done"];
        columns.extend(stamps.map(|name| optional(name, Int64)));
        let counts = ["input_tokens", "output_tokens", "requested_output_tokens", "n_first"];
        columns.extend(counts.map(|name| optional(name, Int64)));
        columns.extend([
            optional("token_source", Text),
            optional("finish_reason", Text),
            optional("failure_code", Text),
            optional("http_status", Int32),
            optional("server_queue_ms", Double),
            optional("server_ttft_ms", Double),
            required("bytes_received", Int64),
            optional("event_token_source", Text),
            optional("server_itl_ms", Double),
            optional("server_e2e_ms", Double),
        ]);
        columns
    }

    fn put(&self, row: &mut RowWriter<'_>) {
        row.int64(Some(self.request_idx));
        row.text(Some(self.phase.name()));
        row.text(self.response_id.as_deref());
        row.int64(Some(self.t_sched));
        for stamp in [
            self.t_slot,
            self.t_conn0,
            self.t_conn1,
            self.t_send,
            self.t_hdr,
            self.t_first,
            self.t_out,
            self.t_last,
            self.t_usage,
            self.t_done,
        ] {
            row.int64(stamp);
        }
        for count in [self.input_tokens, self.output_tokens, self.requested_output_tokens, self.n_first] {
            row.int64(count);
        }
        row.text(self.token_source.map(TokenSource::name));
        row.text(self.finish_reason.as_deref());
        row.text(self.failure_code.as_deref());
        row.int32(self.http_status);
        row.double(self.server_queue_ms);
        row.double(self.server_ttft_ms);
        row.int64(Some(self.bytes_received));
        row.text(self.event_token_source.map(TokenSource::name));
        row.double(self.server_itl_ms);
        row.double(self.server_e2e_ms);
    }

    fn take(row: &mut RowReader<'_>) -> Option<Self> {
        Some(Self {
            request_idx: row.int64()?,
            phase: Phase::from_name(&row.text()?)?,
            response_id: row.text(),
            t_sched: row.int64()?,
            t_slot: row.int64(),
            t_conn0: row.int64(),
            t_conn1: row.int64(),
            t_send: row.int64(),
            t_hdr: row.int64(),
            t_first: row.int64(),
            t_out: row.int64(),
            t_last: row.int64(),
            t_usage: row.int64(),
            t_done: row.int64(),
            input_tokens: row.int64(),
            output_tokens: row.int64(),
            requested_output_tokens: row.int64(),
            n_first: row.int64(),
            token_source: source(row)?,
            finish_reason: row.text(),
            failure_code: row.text(),
            http_status: row.int32(),
            server_queue_ms: row.double(),
            server_ttft_ms: row.double(),
            bytes_received: row.int64()?,
            event_token_source: source(row)?,
            server_itl_ms: row.double(),
            server_e2e_ms: row.double(),
        })
    }
}

/// The outer `None` is a name that nobody knows.
#[expect(clippy::option_option, reason = "an absent value and an unreadable one differ")]
fn source(row: &mut RowReader<'_>) -> Option<Option<TokenSource>> {
    match row.text() {
        Some(name) => TokenSource::from_name(&name).map(Some),
        None => Some(None),
    }
}

impl Record for EventRecord {
    const KIND: &'static str = "events";
    const GROUP_ROWS: usize = 262_144;

    fn columns() -> Vec<ColumnSpec> {
        vec![
            ColumnSpec::required("request_idx", Physical::Int64),
            ColumnSpec::required("t_ns", Physical::Int64),
            ColumnSpec::required("n_tokens", Physical::Int32),
        ]
    }

    fn put(&self, row: &mut RowWriter<'_>) {
        row.int64(Some(self.request_idx));
        row.int64(Some(self.t_ns));
        row.int32(Some(self.n_tokens));
    }

    fn take(row: &mut RowReader<'_>) -> Option<Self> {
        Some(Self { request_idx: row.int64()?, t_ns: row.int64()?, n_tokens: row.int32()? })
    }
}

impl Record for PromSample {
    const KIND: &'static str = "prom";
    const GROUP_ROWS: usize = 65_536;

    fn columns() -> Vec<ColumnSpec> {
        let mut columns = vec![ColumnSpec::required("t_ns", Physical::Int64)];
        columns.extend(["node", "engine", "metric", "labels"].map(|name| ColumnSpec::required(name, Physical::Text)));
        columns.push(ColumnSpec::required("value", Physical::Double));
        columns
    }

    fn put(&self, row: &mut RowWriter<'_>) {
        row.int64(Some(self.t_ns));
        for text in [&self.node, &self.engine, &self.metric, &self.labels] {
            row.text(Some(text));
        }
        row.double(Some(self.value));
    }

    fn take(row: &mut RowReader<'_>) -> Option<Self> {
        Some(Self {
            t_ns: row.int64()?,
            node: row.text()?,
            engine: row.text()?,
            metric: row.text()?,
            labels: row.text()?,
            value: row.double()?,
        })
    }
}

/// Writes records as they come, one row group at a time; the file appears under its name when it is finished.
pub struct RecordWriter<R: Record> {
    file: ColumnFile,
    columns: Vec<ColumnData>,
    rows: usize,
    record: std::marker::PhantomData<R>,
}

impl<R: Record> RecordWriter<R> {
    /// Starts a file.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        let specs = R::columns();
        let columns = specs.iter().map(ColumnData::empty).collect();
        let file = ColumnFile::create(path, R::KIND, RECORD_SCHEMA_VERSION, &specs)?;
        Ok(Self { file, columns, rows: 0, record: std::marker::PhantomData })
    }

    /// Adds one record.
    pub fn push(&mut self, record: &R) -> Result<(), StoreError> {
        record.put(&mut RowWriter::new(&mut self.columns));
        self.rows += 1;
        if self.rows >= R::GROUP_ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        if self.rows > 0 {
            self.file.write_group(&self.columns)?;
            self.columns.iter_mut().for_each(ColumnData::clear);
            self.rows = 0;
        }
        Ok(())
    }

    /// Ends the file, makes it durable and gives it its name.
    pub fn finish(mut self) -> Result<(), StoreError> {
        self.flush()?;
        self.file.finish()
    }
}

fn write_all<R: Record>(path: &Path, records: &[R]) -> Result<(), StoreError> {
    let mut writer = RecordWriter::create(path)?;
    for record in records {
        writer.push(record)?;
    }
    writer.finish()
}

/// Reads records one row group at a time.
pub(crate) struct RecordReader<R: Record> {
    groups: file::GroupReader,
    path: std::path::PathBuf,
    rows: usize,
    record: std::marker::PhantomData<R>,
}

impl<R: Record> RecordReader<R> {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let groups = file::GroupReader::open(path, R::KIND, RECORD_SCHEMA_VERSION, &R::columns())?;
        Ok(Self { groups, path: path.to_owned(), rows: 0, record: std::marker::PhantomData })
    }

    /// The records of the next row group; `None` after the last.
    pub(crate) fn next_group(&mut self) -> Result<Option<Vec<R>>, StoreError> {
        let Some((mut columns, rows)) = self.groups.next()? else { return Ok(None) };
        let mut reader = RowReader::new(&mut columns);
        let mut records = Vec::with_capacity(rows);
        for _ in 0..rows {
            let row = self.rows;
            self.rows += 1;
            let record = R::take(&mut reader).ok_or_else(|| {
                StoreError::malformed(&self.path, format!("row {row} lacks a required value or has an unknown one"))
            })?;
            records.push(record);
            reader.next_row();
        }
        Ok(Some(records))
    }
}

fn read_all<R: Record>(path: &Path) -> Result<Vec<R>, StoreError> {
    let mut reader = RecordReader::open(path)?;
    let mut records = Vec::new();
    while let Some(group) = reader.next_group()? {
        records.extend(group);
    }
    Ok(records)
}

/// Writes `requests.parquet`.
pub fn write_requests(path: &Path, requests: &[RequestRecord]) -> Result<(), StoreError> {
    write_all(path, requests)
}

/// Reads `requests.parquet`.
pub fn read_requests(path: &Path) -> Result<Vec<RequestRecord>, StoreError> {
    read_all(path)
}

/// Writes `events.parquet`.
pub fn write_events(path: &Path, events: &[EventRecord]) -> Result<(), StoreError> {
    write_all(path, events)
}

/// Reads `events.parquet`.
pub fn read_events(path: &Path) -> Result<Vec<EventRecord>, StoreError> {
    read_all(path)
}

/// Writes `prom.parquet`.
pub fn write_prom(path: &Path, samples: &[PromSample]) -> Result<(), StoreError> {
    write_all(path, samples)
}

/// Reads `prom.parquet`.
pub fn read_prom(path: &Path) -> Result<Vec<PromSample>, StoreError> {
    read_all(path)
}
