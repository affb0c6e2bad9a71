//! Columns of a Parquet file of somebody else's, by name: numbers as floats, everything else as text. For comparisons
//! with published tables; our own records have their own types.

use std::fs::File;
use std::path::Path;

use parquet::basic::Type;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::file::read_column;
use super::{ColumnData, ColumnSpec, Physical};
use crate::error::StoreError;

/// Values of one column; absent ones are NaN or empty.
#[derive(Debug, Clone, PartialEq)]
pub enum ForeignColumn {
    /// Integers, floats and truth values.
    Numbers(Vec<f64>),
    /// Text.
    Texts(Vec<String>),
}

impl ForeignColumn {
    /// The number in a row; NaN for text, absent values and rows past the end.
    pub fn number(&self, row: usize) -> f64 {
        match self {
            Self::Numbers(values) => values.get(row).copied().unwrap_or(f64::NAN),
            Self::Texts(_) => f64::NAN,
        }
    }

    /// The text in a row; empty for numbers, absent values and rows past the end.
    pub fn text(&self, row: usize) -> &str {
        match self {
            Self::Texts(values) => values.get(row).map_or("", String::as_str),
            Self::Numbers(_) => "",
        }
    }

    /// Rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Numbers(values) => values.len(),
            Self::Texts(values) => values.len(),
        }
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Reads the named columns of a flat table.
pub fn read_foreign_columns(path: &Path, names: &[&str]) -> Result<Vec<ForeignColumn>, StoreError> {
    let malformed = |detail: String| StoreError::malformed(path, detail);
    let file = File::open(path).map_err(|source| StoreError::read(path, source))?;
    let reader = SerializedFileReader::new(file).map_err(|error| malformed(error.to_string()))?;
    let columns = reader.metadata().file_metadata().schema_descr().columns().to_vec();
    let mut out = Vec::with_capacity(names.len());
    for name in names {
        let place = columns
            .iter()
            .position(|column| column.path().string() == *name)
            .ok_or_else(|| malformed(format!("column `{name}` is missing")))?;
        let physical = match columns.get(place).map(|column| column.physical_type()) {
            Some(Type::INT64) => Physical::Int64,
            Some(Type::INT32) => Physical::Int32,
            Some(Type::DOUBLE) => Physical::Double,
            Some(Type::BOOLEAN) => Physical::Bool,
            Some(Type::BYTE_ARRAY) => Physical::Text,
            _ => return Err(malformed(format!("column `{name}` has a type that is not read"))),
        };
        let spec = ColumnSpec::optional(*name, physical);
        let mut column = match physical {
            Physical::Text => ForeignColumn::Texts(Vec::new()),
            _ => ForeignColumn::Numbers(Vec::new()),
        };
        for group in 0..reader.num_row_groups() {
            let group = reader.get_row_group(group).map_err(|error| malformed(error.to_string()))?;
            let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
            append(&mut column, read_column(group.as_ref(), place, &spec, rows).map_err(malformed)?);
        }
        out.push(column);
    }
    Ok(out)
}

fn append(column: &mut ForeignColumn, data: ColumnData) {
    fn extend<T>(values: Vec<Option<T>>, out: &mut Vec<f64>, number: impl Fn(T) -> f64) {
        out.extend(values.into_iter().map(|value| value.map_or(f64::NAN, &number)));
    }
    match (column, data) {
        (ForeignColumn::Numbers(out), ColumnData::Int64(values)) => extend(values, out, |value| value as f64),
        (ForeignColumn::Numbers(out), ColumnData::Int32(values)) => extend(values, out, f64::from),
        (ForeignColumn::Numbers(out), ColumnData::Double(values)) => extend(values, out, |value| value),
        (ForeignColumn::Numbers(out), ColumnData::Bool(values)) => {
            extend(values, out, |value| if value { 1.0 } else { 0.0 });
        }
        (ForeignColumn::Texts(out), ColumnData::Text(values)) => {
            out.extend(values.into_iter().map(Option::unwrap_or_default));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use servelab_core::record::EventRecord;

    use super::*;

    #[test]
    fn columns_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.parquet");
        crate::write_events(&path, &[EventRecord { request_idx: 3, t_ns: 70, n_tokens: 2 }]).unwrap();
        let columns = read_foreign_columns(&path, &["t_ns", "request_idx"]).unwrap();
        assert_eq!((columns[0].number(0), columns[1].number(0), columns[0].len()), (70.0, 3.0, 1));
        assert!(columns[0].number(9).is_nan() && columns[0].text(0).is_empty() && !columns[0].is_empty());
        let error = read_foreign_columns(&path, &["absent"]).unwrap_err().to_string();
        assert!(error.contains("absent"), "{error}");
        std::fs::write(&path, b"PAR1 no").unwrap();
        assert!(read_foreign_columns(&path, &["t_ns"]).is_err());
    }
}
