//! Reads a table from its first row to its last: which of the wanted columns exist, rows whose values have another type
//! than the format promises, and the place where a damaged file ends. One statement, no sorting, no row kept.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

/// A column that is wanted, under the names that it has had.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    names: &'static [&'static str],
    required: bool,
}

pub(super) const fn must(names: &'static [&'static str]) -> Column {
    Column { names, required: true }
}

pub(super) const fn may(names: &'static [&'static str]) -> Column {
    Column { names, required: false }
}

/// How reading one table went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The table.
    pub table: &'static str,
    /// Rows that were used.
    pub n_rows: u64,
    /// Rows that were left out: a value of another type, an end before its start.
    pub n_bad_rows: u64,
    /// Columns that the table should have and does not: nothing was read from it.
    pub missing_columns: Vec<&'static str>,
    /// Why reading stopped before the end.
    pub broke_off: Option<String>,
}

impl Scan {
    /// What a reader of the numbers must know, if anything.
    pub fn note(&self) -> Option<String> {
        let Self { table, n_rows, n_bad_rows, missing_columns, broke_off } = self;
        if !missing_columns.is_empty() {
            return Some(format!("table {table} has no column {}: not read", missing_columns.join(", ")));
        }
        if let Some(reason) = broke_off {
            return Some(format!("table {table} breaks off after {n_rows} rows: {reason}"));
        }
        (*n_bad_rows > 0).then(|| {
            format!("table {table}: {n_bad_rows} of {} rows make no sense and were left out", n_rows + n_bad_rows)
        })
    }
}

/// The wanted values of one row, in the order of the columns.
pub(super) struct Cells<'a, 'stmt> {
    row: &'a Row<'stmt>,
}

impl Cells<'_, '_> {
    fn value(&self, position: usize) -> ValueRef<'_> {
        self.row.get_ref(position).unwrap_or(ValueRef::Null)
    }

    /// A whole number; `None` when it is anything else.
    pub(super) fn int(&self, position: usize) -> Option<i64> {
        match self.value(position) {
            ValueRef::Integer(value) => Some(value),
            _ => None,
        }
    }

    /// A whole number or nothing; `None` when it is anything else.
    pub(super) fn maybe_int(&self, position: usize) -> Option<Option<i64>> {
        match self.value(position) {
            ValueRef::Integer(value) => Some(Some(value)),
            ValueRef::Null => Some(None),
            _ => None,
        }
    }

    /// A number that may have a fraction.
    pub(super) fn number(&self, position: usize) -> Option<f64> {
        match self.value(position) {
            #[expect(clippy::cast_precision_loss, reason = "counters of a profiler stay far below 2^53")]
            ValueRef::Integer(value) => Some(value as f64),
            ValueRef::Real(value) if value.is_finite() => Some(value),
            _ => None,
        }
    }

    /// Text.
    pub(super) fn text(&self, position: usize) -> Option<&str> {
        match self.value(position) {
            ValueRef::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// Bytes, also those of a text; nothing when it is a number.
    pub(super) fn bytes(&self, position: usize) -> &[u8] {
        match self.value(position) {
            ValueRef::Blob(bytes) | ValueRef::Text(bytes) => bytes,
            _ => &[],
        }
    }

    /// Start and end in nanoseconds, where they make sense together.
    pub(super) fn span(&self, start: usize, end: usize) -> Option<(i64, i64)> {
        const FAR: i64 = 1 << 62;
        let (start, end) = (self.int(start)?, self.int(end)?);
        (-FAR < start && start <= end && end < FAR).then_some((start, end))
    }
}

/// Which columns a table has; empty when there is no such table.
fn columns_of(connection: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let is_real: i64 = connection.query_row(
        "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND rootpage > 0 AND name = ?1",
        [table],
        |row| row.get(0),
    )?;
    if is_real == 0 {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare("SELECT name FROM pragma_table_info(?1)")?;
    let names = statement.query_map([table], |row| row.get::<_, String>(0))?;
    names.collect()
}

/// Calls `each` for every row; a row for which it gives `None` counts as bad. `None` when there is no such table: lazily
/// created tables are absent when nothing was recorded.
pub(super) fn scan(
    connection: &Connection,
    table: &'static str,
    columns: &[Column],
    mut each: impl FnMut(&Cells<'_, '_>) -> Option<()>,
) -> Option<Scan> {
    let mut outcome = Scan { table, n_rows: 0, n_bad_rows: 0, missing_columns: Vec::new(), broke_off: None };
    let present = match columns_of(connection, table) {
        Ok(present) if present.is_empty() => return None,
        Ok(present) => present,
        Err(error) => {
            outcome.broke_off = Some(error.to_string());
            return Some(outcome);
        }
    };
    let mut picked = Vec::with_capacity(columns.len());
    for column in columns {
        match column.names.iter().find(|name| present.iter().any(|has| has == *name)) {
            Some(name) => picked.push(format!("\"{name}\"")),
            None if column.required => outcome.missing_columns.extend(column.names.first()),
            None => picked.push("NULL".to_owned()),
        }
    }
    if !outcome.missing_columns.is_empty() {
        return Some(outcome);
    }
    // NOT INDEXED: an index somebody added must not change the order, and rows come in the order of the file.
    let sql = format!("SELECT {} FROM \"{table}\" NOT INDEXED", picked.join(", "));
    let broke_off = (|| -> rusqlite::Result<()> {
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            match each(&Cells { row }) {
                Some(()) => outcome.n_rows += 1,
                None => outcome.n_bad_rows += 1,
            }
        }
        Ok(())
    })();
    outcome.broke_off = broke_off.err().map(|error| error.to_string());
    Some(outcome)
}
