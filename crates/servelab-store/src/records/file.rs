//! Columns to Parquet files and back: Snappy, one row group at a time, the schema's name and version in the key-value
//! metadata. A reader matches columns by name, ignores unknown ones, and turns every damage into an error.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType, Encoding, LogicalType, Repetition, Type as ParquetType};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{ColumnPath, Type, TypePtr};

use super::columns::{ColumnData, ColumnSpec, Physical};
use crate::error::StoreError;
use crate::files::TemporaryFile;

const KIND_KEY: &str = "servelab.kind";
const SCHEMA_KEY: &str = "servelab.schema";
const MAGIC: &[u8; 4] = b"PAR1";
/// Magic, footer length, magic: nothing shorter is a Parquet file.
const MIN_FILE_BYTES: u64 = 12;
/// More rows per byte than any real table has; a damaged row count must not become an allocation.
const MAX_ROWS_PER_BYTE: u64 = 10_000;
/// Rows decoded at a time.
const BATCH_ROWS: usize = 8_192;

/// A Parquet file being written.
pub(crate) struct ColumnFile {
    temporary: TemporaryFile,
    writer: SerializedFileWriter<File>,
}

impl ColumnFile {
    pub(crate) fn create(path: &Path, kind: &str, version: u32, specs: &[ColumnSpec]) -> Result<Self, StoreError> {
        let temporary = TemporaryFile::create(path)?;
        let file = temporary.file()?;
        let metadata = [(KIND_KEY, kind.to_owned()), (SCHEMA_KEY, version.to_string())];
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_created_by("servelab".to_owned())
            .set_key_value_metadata(Some(metadata.map(|(key, value)| KeyValue::new(key.to_owned(), value)).into()));
        for spec in specs.iter().filter(|spec| spec.physical == Physical::Int64) {
            // Stamps rarely repeat but grow evenly: deltas take a third of the space of plain values.
            let column = ColumnPath::from(spec.name.as_str());
            properties = properties
                .set_column_dictionary_enabled(column.clone(), false)
                .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
        }
        let schema = schema(kind, specs).map_err(|error| write_error(path, error))?;
        let writer = SerializedFileWriter::new(file, schema, Arc::new(properties.build()))
            .map_err(|error| write_error(path, error))?;
        Ok(Self { temporary, writer })
    }

    pub(crate) fn write_group(&mut self, columns: &[ColumnData]) -> Result<(), StoreError> {
        let Self { temporary, writer } = self;
        let mut write = || -> Result<(), ParquetError> {
            let mut group = writer.next_row_group()?;
            for column in columns {
                write_column(&mut group, column)?;
            }
            group.close()?;
            Ok(())
        };
        write().map_err(|error| write_error(temporary.target(), error))
    }

    pub(crate) fn finish(mut self) -> Result<(), StoreError> {
        self.writer.finish().map_err(|error| write_error(self.temporary.target(), error))?;
        self.temporary.commit(self.writer.inner())
    }
}

fn schema(kind: &str, specs: &[ColumnSpec]) -> Result<TypePtr, ParquetError> {
    let field = |spec: &ColumnSpec| {
        let physical = match spec.physical {
            Physical::Int64 => ParquetType::INT64,
            Physical::Int32 => ParquetType::INT32,
            Physical::Double => ParquetType::DOUBLE,
            Physical::Bool => ParquetType::BOOLEAN,
            Physical::Text => ParquetType::BYTE_ARRAY,
        };
        let repetition = if spec.is_required { Repetition::REQUIRED } else { Repetition::OPTIONAL };
        let mut builder = Type::primitive_type_builder(&spec.name, physical).with_repetition(repetition);
        if spec.physical == Physical::Text {
            builder = builder.with_logical_type(Some(LogicalType::String)).with_converted_type(ConvertedType::UTF8);
        }
        builder.build().map(Arc::new)
    };
    let fields = specs.iter().map(field).collect::<Result<_, _>>()?;
    Type::group_type_builder(kind).with_fields(fields).build().map(Arc::new)
}

fn write_column(group: &mut SerializedRowGroupWriter<'_, File>, column: &ColumnData) -> Result<(), ParquetError> {
    match column {
        ColumnData::Int64(values) => write_values::<Int64Type>(group, values.iter().copied()),
        ColumnData::Int32(values) => write_values::<Int32Type>(group, values.iter().copied()),
        ColumnData::Double(values) => write_values::<DoubleType>(group, values.iter().copied()),
        ColumnData::Bool(values) => write_values::<BoolType>(group, values.iter().copied()),
        ColumnData::Text(values) => {
            write_values::<ByteArrayType>(group, values.iter().map(|text| text.as_deref().map(ByteArray::from)))
        }
    }
}

fn write_values<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, File>,
    values: impl Iterator<Item = Option<T::T>>,
) -> Result<(), ParquetError> {
    let Some(mut writer) = group.next_column()? else {
        return Err(ParquetError::General("more columns than the schema has".to_owned()));
    };
    let mut levels = Vec::new();
    let mut present = Vec::new();
    for value in values {
        levels.push(i16::from(value.is_some()));
        present.extend(value);
    }
    writer.typed::<T>().write_batch(&present, Some(&levels), None)?;
    writer.close()
}

fn write_error(path: &Path, error: ParquetError) -> StoreError {
    match error {
        ParquetError::External(inner) => match inner.downcast::<std::io::Error>() {
            Ok(source) => StoreError::write(path, *source),
            Err(other) => StoreError::malformed(path, other.to_string()),
        },
        other => StoreError::malformed(path, other.to_string()),
    }
}

/// Reads a file group by group and hands the columns, in the order of `specs`, to `consume` with their row count.
#[cfg(test)]
pub(crate) fn read_columns(
    path: &Path,
    kind: &str,
    version: u32,
    specs: &[ColumnSpec],
    mut consume: impl FnMut(&mut [ColumnData], usize) -> Result<(), String>,
) -> Result<(), StoreError> {
    let mut reader = GroupReader::open(path, kind, version, specs)?;
    while let Some((mut columns, rows)) = reader.next()? {
        consume(&mut columns, rows).map_err(|detail| StoreError::malformed(path, detail))?;
    }
    Ok(())
}

/// A Parquet file being read, one row group in memory at a time.
pub(crate) struct GroupReader {
    path: PathBuf,
    reader: SerializedFileReader<File>,
    specs: Vec<ColumnSpec>,
    places: Vec<Option<usize>>,
    length: u64,
    next: usize,
}

impl GroupReader {
    pub(crate) fn open(path: &Path, kind: &str, version: u32, specs: &[ColumnSpec]) -> Result<Self, StoreError> {
        let mut file = File::open(path).map_err(|source| StoreError::read(path, source))?;
        let length = check_frame(&mut file).map_err(|detail| StoreError::malformed(path, detail))?;
        guarded(path, || {
            let malformed = |detail: String| StoreError::malformed(path, detail);
            let reader = SerializedFileReader::new(file).map_err(|error| malformed(error.to_string()))?;
            check_kind(path, &reader, kind, version)?;
            let places = locate(&reader, specs).map_err(malformed)?;
            Ok(Self { path: path.to_owned(), reader, specs: specs.to_vec(), places, length, next: 0 })
        })
    }

    /// The columns of the next row group, in the order of the specs, and their row count.
    pub(crate) fn next(&mut self) -> Result<Option<(Vec<ColumnData>, usize)>, StoreError> {
        if self.next >= self.reader.num_row_groups() {
            return Ok(None);
        }
        let group_idx = self.next;
        self.next += 1;
        guarded(&self.path, || self.group(group_idx).map_err(|detail| StoreError::malformed(&self.path, detail)))
            .map(Some)
    }

    fn group(&self, group_idx: usize) -> Result<(Vec<ColumnData>, usize), String> {
        let group = self.reader.get_row_group(group_idx).map_err(|error| error.to_string())?;
        let rows = u64::try_from(group.metadata().num_rows()).unwrap_or(u64::MAX);
        if rows > self.length.saturating_mul(MAX_ROWS_PER_BYTE) {
            return Err(format!("claims {rows} rows in {} bytes", self.length));
        }
        let rows = usize::try_from(rows).unwrap_or(usize::MAX);
        let mut columns = Vec::with_capacity(self.specs.len());
        for (spec, place) in self.specs.iter().zip(&self.places) {
            columns.push(match place {
                Some(idx) => read_column(group.as_ref(), *idx, spec, rows)?,
                None => ColumnData::nulls(spec, rows),
            });
        }
        Ok((columns, rows))
    }
}

/// The library checks much but not all of what a damaged file may hold; its panics must not become ours.
fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err(StoreError::malformed(path, "damaged Parquet data")))
}

fn check_frame(file: &mut File) -> Result<u64, String> {
    let describe = |error: std::io::Error| error.to_string();
    let length = file.metadata().map_err(describe)?.len();
    let mut ends = [0; 8];
    if length >= MIN_FILE_BYTES {
        file.read_exact(&mut ends[..4]).map_err(describe)?;
        file.seek(SeekFrom::End(-4)).map_err(describe)?;
        file.read_exact(&mut ends[4..]).map_err(describe)?;
        file.rewind().map_err(describe)?;
    }
    if ends[..4] != *MAGIC || ends[4..] != *MAGIC {
        return Err("not a complete Parquet file (truncated, or something else)".to_owned());
    }
    Ok(length)
}

fn check_kind(path: &Path, reader: &SerializedFileReader<File>, kind: &str, version: u32) -> Result<(), StoreError> {
    let malformed = |detail: String| StoreError::malformed(path, detail);
    let metadata = reader.metadata().file_metadata();
    let value_of = |key: &str| {
        metadata.key_value_metadata()?.iter().find(|pair| pair.key == key).and_then(|pair| pair.value.clone())
    };
    if value_of(KIND_KEY).as_deref() != Some(kind) {
        return Err(malformed(format!("not a servelab `{kind}` table")));
    }
    let found: u64 = value_of(SCHEMA_KEY)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| malformed("no schema version".to_owned()))?;
    if found > u64::from(version) {
        return Err(StoreError::TooNew { path: path.to_owned(), found, known: version.into() });
    }
    Ok(())
}

/// Where each column stands in the file; `None` for an optional one that is missing.
fn locate(reader: &SerializedFileReader<File>, specs: &[ColumnSpec]) -> Result<Vec<Option<usize>>, String> {
    let schema = reader.metadata().file_metadata().schema_descr();
    let find = |spec: &ColumnSpec| {
        let place = schema.columns().iter().position(|column| column.path().string() == spec.name);
        match place {
            None if spec.is_required => Err(format!("column `{}` is missing", spec.name)),
            place => Ok(place),
        }
    };
    specs.iter().map(find).collect()
}

pub(super) fn read_column(
    group: &dyn RowGroupReader,
    idx: usize,
    spec: &ColumnSpec,
    rows: usize,
) -> Result<ColumnData, String> {
    let reader = group.get_column_reader(idx).map_err(|error| error.to_string())?;
    let column = match (reader, spec.physical) {
        (ColumnReader::Int64ColumnReader(r), Physical::Int64) => ColumnData::Int64(read_values(r, rows)?),
        (ColumnReader::Int32ColumnReader(r), Physical::Int32) => ColumnData::Int32(read_values(r, rows)?),
        (ColumnReader::DoubleColumnReader(r), Physical::Double) => ColumnData::Double(read_values(r, rows)?),
        (ColumnReader::BoolColumnReader(r), Physical::Bool) => ColumnData::Bool(read_values(r, rows)?),
        (ColumnReader::ByteArrayColumnReader(r), Physical::Text) => {
            let bytes = read_values(r, rows)?;
            let text = |value: Option<ByteArray>| {
                value.map(|bytes| bytes.as_utf8().map(str::to_owned).map_err(|error| error.to_string())).transpose()
            };
            ColumnData::Text(bytes.into_iter().map(text).collect::<Result<_, _>>()?)
        }
        _ => return Err(format!("column `{}` has another type", spec.name)),
    };
    if column.len() == rows {
        Ok(column)
    } else {
        Err(format!("column `{}` holds {} of {rows} rows", spec.name, column.len()))
    }
}

fn read_values<T: DataType>(mut reader: ColumnReaderImpl<T>, rows: usize) -> Result<Vec<Option<T::T>>, String> {
    let mut all = Vec::new();
    let mut levels = Vec::new();
    let mut present = Vec::new();
    while all.len() < rows {
        levels.clear();
        present.clear();
        let wanted = BATCH_ROWS.min(rows - all.len());
        let (records, values, _) =
            reader.read_records(wanted, Some(&mut levels), None, &mut present).map_err(|error| error.to_string())?;
        if records == 0 {
            break;
        }
        let mut present = present.drain(..).take(values);
        if levels.is_empty() {
            all.extend(present.map(Some));
        } else {
            all.extend(levels.iter().map(|level| if *level > 0 { present.next() } else { None }));
        }
    }
    Ok(all)
}

/// Reads every column of a table whose columns are not known beforehand: (name, values).
#[cfg(test)]
pub(crate) fn column_names(path: &Path) -> Result<Vec<(String, String)>, StoreError> {
    let file = File::open(path).map_err(|source| StoreError::read(path, source))?;
    let reader = SerializedFileReader::new(file).map_err(|error| StoreError::malformed(path, error.to_string()))?;
    let columns = reader.metadata().file_metadata().schema_descr().columns().to_vec();
    Ok(columns.iter().map(|c| (c.path().string(), c.physical_type().to_string())).collect())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_full_disk_is_recognised_through_the_library() {
        let error =
            write_error(Path::new("/r/x.parquet"), ParquetError::from(io::Error::from(io::ErrorKind::StorageFull)));
        assert!(matches!(&error, StoreError::DiskFull { path } if path.ends_with("x.parquet")), "{error}");
        // The same from a real device.
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let specs = [ColumnSpec::required("t_ns", Physical::Int64)];
        let properties = Arc::new(WriterProperties::builder().build());
        let mut writer = SerializedFileWriter::new(full, schema("events", &specs).unwrap(), properties).unwrap();
        let error = writer.finish().map_err(|error| write_error(Path::new("/dev/full"), error)).unwrap_err();
        assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
    }
}
