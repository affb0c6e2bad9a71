//! A small ordered table and its three forms on disk: CSV, Parquet, JSON rows. What stands in it is decided by `results`.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::StoreError;
use crate::files::{write_atomic, write_json};
use crate::records::{ColumnData, ColumnFile, ColumnSpec, Physical};

const RESULTS_SCHEMA: u32 = 1;
const VIZ_SCHEMA: u32 = 1;

/// Type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// UTF-8 text.
    Text,
    /// 64-bit integer.
    Int,
    /// 64-bit float.
    Float,
    /// Truth value.
    Bool,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Header.
    pub name: String,
    /// Type of its values.
    pub kind: ColumnKind,
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub enum CellValue {
    /// Not known or not applicable; never zero.
    Null,
    /// Text.
    Text(String),
    /// Integer.
    Int(i64),
    /// Float. NaN is written as null everywhere; infinities survive except in JSON.
    Float(f64),
    /// Truth value.
    Bool(bool),
}

impl CellValue {
    /// The number in it, if it is one and finite.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Int(value) => Some(*value as f64),
            Self::Float(value) => Some(*value).filter(|value| value.is_finite()),
            _ => None,
        }
    }

    /// As in CSV: empty for null and NaN, shortest form that reads back for numbers.
    pub fn to_csv(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Text(text) => text.clone(),
            Self::Int(value) => value.to_string(),
            Self::Float(value) if value.is_nan() => String::new(),
            Self::Float(value) => value.to_string(),
            Self::Bool(value) => value.to_string(),
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Text(text) => Value::from(text.as_str()),
            Self::Int(value) => Value::from(*value),
            Self::Float(value) => serde_json::Number::from_f64(*value).map_or(Value::Null, Value::Number),
            Self::Bool(value) => Value::from(*value),
        }
    }
}

impl<T: Into<CellValue>> From<Option<T>> for CellValue {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl From<f64> for CellValue {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<i64> for CellValue {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<u64> for CellValue {
    fn from(value: u64) -> Self {
        i64::try_from(value).map_or(Self::Float(value as f64), Self::Int)
    }
}

impl From<u32> for CellValue {
    fn from(value: u32) -> Self {
        Self::Int(value.into())
    }
}

impl From<bool> for CellValue {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<&str> for CellValue {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for CellValue {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

/// Rows under ordered, typed columns.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows, each as long as `columns`.
    pub rows: Vec<Vec<CellValue>>,
}

impl Table {
    /// The values of one column, top to bottom; `None` when there is no such column.
    pub fn column(&self, name: &str) -> Option<impl Iterator<Item = &CellValue>> {
        let idx = self.columns.iter().position(|column| column.name == name)?;
        Some(self.rows.iter().map(move |row| row.get(idx).unwrap_or(&CellValue::Null)))
    }

    /// As RFC 4180 CSV with a header line. Null and NaN are empty.
    pub fn to_csv(&self) -> Vec<u8> {
        let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
        // Writing to memory fails only on rows of unequal length, which are padded here.
        let _ = writer.write_record(self.columns.iter().map(|column| column.name.as_str()));
        for row in &self.rows {
            let cell = |idx: usize| row.get(idx).map(CellValue::to_csv).unwrap_or_default();
            let _ = writer.write_record((0..self.columns.len()).map(cell));
        }
        writer.into_inner().unwrap_or_default()
    }

    /// Writes [`Table::to_csv`] atomically.
    pub fn write_csv(&self, path: &Path) -> Result<(), StoreError> {
        write_atomic(path, &self.to_csv())
    }

    /// Writes the table as Parquet with nullable columns of the table's types.
    pub fn write_parquet(&self, path: &Path) -> Result<(), StoreError> {
        let spec = |column: &Column| {
            let physical = match column.kind {
                ColumnKind::Text => Physical::Text,
                ColumnKind::Int => Physical::Int64,
                ColumnKind::Float => Physical::Double,
                ColumnKind::Bool => Physical::Bool,
            };
            ColumnSpec::optional(&column.name, physical)
        };
        let specs: Vec<ColumnSpec> = self.columns.iter().map(spec).collect();
        let mut file = ColumnFile::create(path, "results", RESULTS_SCHEMA, &specs)?;
        let columns: Vec<ColumnData> =
            self.columns.iter().enumerate().map(|(idx, column)| self.column_data(idx, column.kind)).collect();
        if !self.rows.is_empty() {
            file.write_group(&columns)?;
        }
        file.finish()
    }

    /// One JSON object per row, every column present; null for null, NaN and infinities.
    pub fn to_json_rows(&self) -> Vec<Value> {
        let object = |row: &Vec<CellValue>| {
            let pairs = self.columns.iter().zip(row).map(|(column, value)| (column.name.clone(), value.to_json()));
            Value::Object(pairs.collect::<Map<_, _>>())
        };
        self.rows.iter().map(object).collect()
    }

    fn column_data(&self, idx: usize, kind: ColumnKind) -> ColumnData {
        let values = || self.rows.iter().map(|row| row.get(idx).unwrap_or(&CellValue::Null));
        match kind {
            ColumnKind::Text => {
                ColumnData::Text(values().map(|value| (*value != CellValue::Null).then(|| value.to_csv())).collect())
            }
            ColumnKind::Int => ColumnData::Int64(
                values().map(|value| if let CellValue::Int(v) = value { Some(*v) } else { None }).collect(),
            ),
            ColumnKind::Float => ColumnData::Double(
                values()
                    .map(|value| match value {
                        CellValue::Int(v) => Some(*v as f64),
                        CellValue::Float(v) if !v.is_nan() => Some(*v),
                        _ => None,
                    })
                    .collect(),
            ),
            ColumnKind::Bool => ColumnData::Bool(
                values().map(|value| if let CellValue::Bool(v) = value { Some(*v) } else { None }).collect(),
            ),
        }
    }
}

/// `viz_data.json`: the rows of the results table and named curves for plots.
pub fn viz_data(results: &Table, curves: Value) -> Value {
    json!({"schema": VIZ_SCHEMA, "rows": results.to_json_rows(), "curves": curves})
}

impl Table {
    /// Writes [`viz_data`] atomically.
    pub fn write_viz_data(&self, path: &Path, curves: Value) -> Result<(), StoreError> {
        write_json(path, &viz_data(self, curves))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let column = |name: &str, kind| Column { name: name.to_owned(), kind };
        Table {
            columns: vec![
                column("label, quoted", ColumnKind::Text),
                column("n", ColumnKind::Int),
                column("x", ColumnKind::Float),
                column("ok", ColumnKind::Bool),
            ],
            rows: vec![
                vec!["a \"b\", c\nd".into(), 3_i64.into(), 0.1.into(), true.into()],
                vec![CellValue::Null, CellValue::Null, f64::NAN.into(), CellValue::Null],
                vec!["".into(), (-1_i64).into(), f64::INFINITY.into(), false.into()],
            ],
        }
    }

    #[test]
    fn csv_quotes_and_leaves_nulls_empty() {
        let text = String::from_utf8(table().to_csv()).unwrap();
        let expected = "\"label, quoted\",n,x,ok\r\n\"a \"\"b\"\", c\nd\",3,0.1,true\r\n,,,\r\n,-1,inf,false\r\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn json_rows_keep_every_column() {
        let viz = viz_data(&table(), json!({}));
        assert_eq!(viz["rows"][1], json!({"label, quoted": null, "n": null, "x": null, "ok": null}));
        assert_eq!(viz["rows"][0]["x"], 0.1);
        assert_eq!((&viz["schema"], &viz["curves"]), (&json!(1), &json!({})));
    }

    #[test]
    fn parquet_has_the_columns_types_and_values() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results.parquet");
        table().write_parquet(&path).unwrap();
        let specs = [
            ColumnSpec::optional("n", Physical::Int64),
            ColumnSpec::optional("label, quoted", Physical::Text),
            ColumnSpec::optional("x", Physical::Double),
            ColumnSpec::optional("ok", Physical::Bool),
            ColumnSpec::optional("later", Physical::Text),
        ];
        let mut seen = Vec::new();
        crate::records::read_columns(&path, "results", 1, &specs, |columns, rows| {
            seen.push((columns.to_vec(), rows));
            Ok(())
        })
        .unwrap();
        let (columns, rows) = &seen[0];
        assert_eq!((seen.len(), *rows), (1, 3));
        assert_eq!(columns[0], ColumnData::Int64(vec![Some(3), None, Some(-1)]));
        assert_eq!(columns[1], ColumnData::Text(vec![Some("a \"b\", c\nd".into()), None, Some(String::new())]));
        assert_eq!(columns[2], ColumnData::Double(vec![Some(0.1), None, Some(f64::INFINITY)]));
        assert_eq!(columns[3], ColumnData::Bool(vec![Some(true), None, Some(false)]));
        assert_eq!(columns[4], ColumnData::Text(vec![None; 3]));
        Table::default().to_csv();
    }
}
