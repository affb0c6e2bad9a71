//! Typed columns in memory, and cursors that fill and read them row by row. No Parquet here.

/// Type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Physical {
    /// 64-bit integer.
    Int64,
    /// 32-bit integer.
    Int32,
    /// 64-bit float.
    Double,
    /// Truth value.
    Bool,
    /// UTF-8 text.
    Text,
}

/// Name and type of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnSpec {
    pub(crate) name: String,
    pub(crate) physical: Physical,
    pub(crate) is_required: bool,
}

impl ColumnSpec {
    pub(crate) fn required(name: impl Into<String>, physical: Physical) -> Self {
        Self { name: name.into(), physical, is_required: true }
    }

    pub(crate) fn optional(name: impl Into<String>, physical: Physical) -> Self {
        Self { name: name.into(), physical, is_required: false }
    }
}

/// The values of a column.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ColumnData {
    Int64(Vec<Option<i64>>),
    Int32(Vec<Option<i32>>),
    Double(Vec<Option<f64>>),
    Bool(Vec<Option<bool>>),
    Text(Vec<Option<String>>),
}

impl ColumnData {
    pub(crate) fn empty(spec: &ColumnSpec) -> Self {
        match spec.physical {
            Physical::Int64 => Self::Int64(Vec::new()),
            Physical::Int32 => Self::Int32(Vec::new()),
            Physical::Double => Self::Double(Vec::new()),
            Physical::Bool => Self::Bool(Vec::new()),
            Physical::Text => Self::Text(Vec::new()),
        }
    }

    pub(crate) fn nulls(spec: &ColumnSpec, rows: usize) -> Self {
        match spec.physical {
            Physical::Int64 => Self::Int64(vec![None; rows]),
            Physical::Int32 => Self::Int32(vec![None; rows]),
            Physical::Double => Self::Double(vec![None; rows]),
            Physical::Bool => Self::Bool(vec![None; rows]),
            Physical::Text => Self::Text(vec![None; rows]),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Int64(values) => values.len(),
            Self::Int32(values) => values.len(),
            Self::Double(values) => values.len(),
            Self::Bool(values) => values.len(),
            Self::Text(values) => values.len(),
        }
    }

    pub(crate) fn clear(&mut self) {
        match self {
            Self::Int64(values) => values.clear(),
            Self::Int32(values) => values.clear(),
            Self::Double(values) => values.clear(),
            Self::Bool(values) => values.clear(),
            Self::Text(values) => values.clear(),
        }
    }
}

/// Appends one row, column after column. A value of the wrong type is ignored; the round-trip tests would see it.
#[derive(Debug)]
pub struct RowWriter<'a> {
    columns: std::slice::IterMut<'a, ColumnData>,
}

macro_rules! put {
    ($name:ident, $variant:ident, $type:ty) => {
        pub(crate) fn $name(&mut self, value: Option<$type>) {
            if let Some(ColumnData::$variant(values)) = self.columns.next() {
                values.push(value);
            }
        }
    };
}

impl<'a> RowWriter<'a> {
    pub(crate) fn new(columns: &'a mut [ColumnData]) -> Self {
        Self { columns: columns.iter_mut() }
    }

    put!(int64, Int64, i64);
    put!(int32, Int32, i32);
    put!(double, Double, f64);

    pub(crate) fn text(&mut self, value: Option<&str>) {
        if let Some(ColumnData::Text(values)) = self.columns.next() {
            values.push(value.map(str::to_owned));
        }
    }
}

/// Reads rows, column after column.
#[derive(Debug)]
pub struct RowReader<'a> {
    columns: &'a mut [ColumnData],
    column: usize,
    row: usize,
}

macro_rules! take {
    ($name:ident, $variant:ident, $type:ty) => {
        pub(crate) fn $name(&mut self) -> Option<$type> {
            let column = self.columns.get_mut(self.column);
            self.column += 1;
            match column {
                Some(ColumnData::$variant(values)) => values.get_mut(self.row)?.take(),
                _ => None,
            }
        }
    };
}

impl<'a> RowReader<'a> {
    pub(crate) fn new(columns: &'a mut [ColumnData]) -> Self {
        Self { columns, column: 0, row: 0 }
    }

    pub(crate) fn next_row(&mut self) {
        self.column = 0;
        self.row += 1;
    }

    take!(int64, Int64, i64);
    take!(int32, Int32, i32);
    take!(double, Double, f64);
    take!(text, Text, String);
}
