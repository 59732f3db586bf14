//! Writes an index.

use std::io::Write;
use std::sync::Arc;

use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use serde_json::Value;
use zoo_model::{Params, ResultLine};

use super::columns::{Columns, Kind, DIVERGED, METRICS, PARENT_ZOO, TWIN_METRICS};
use super::object;

/// A column's values: null where `None`.
enum Values {
    Int32(Vec<Option<i32>>),
    Int64(Vec<Option<i64>>),
    Double(Vec<Option<f64>>),
    Bool(Vec<Option<bool>>),
    Text(Vec<Option<ByteArray>>),
}

/// A model's keys and one of its lines: what a row of the index is made of.
struct Row<'a> {
    params: &'a Params,
    keys: &'a serde_json::Map<String, Value>,
    line: &'a ResultLine,
}

/// The values of one column. What does not fit its kind is null.
fn values((name, kind): &(String, Kind), rows: &[Row]) -> Values {
    let text = |s: &str| ByteArray::from(s.as_bytes().to_vec());
    let cells = || rows.iter().map(|row| row.keys.get(name).unwrap_or(&Value::Null));
    let metric = METRICS.iter().chain(&TWIN_METRICS).find(|(own, _)| own == name);
    match (name.as_str(), kind) {
        ("id", Kind::Int32) => Values::Int32(rows.iter().map(|row| Some(row.params.id.0 as i32)).collect()),
        (_, Kind::Int32) => Values::Int32(rows.iter().map(|row| Some(row.line.training_iteration as i32)).collect()),
        (_, Kind::Int64) => Values::Int64(cells().map(Value::as_i64).collect()),
        // Parquet has no unsigned type of its own: the bits are the same.
        (_, Kind::UInt64) => Values::Int64(cells().map(|v| v.as_u64().map(|n| n as i64)).collect()),
        (_, Kind::Double) => Values::Double(match metric {
            Some((_, metric)) => rows.iter().map(|row| metric(row.line)).collect(),
            None => cells().map(Value::as_f64).collect(),
        }),
        (DIVERGED, Kind::Bool) => Values::Bool(rows.iter().map(|row| Some(row.line.diverged)).collect()),
        (_, Kind::Bool) => Values::Bool(cells().map(Value::as_bool).collect()),
        (PARENT_ZOO, Kind::Text) => {
            let zoo = |row: &Row| row.params.parent.as_ref().map(|parent| text(&parent.zoo));
            Values::Text(rows.iter().map(zoo).collect())
        }
        (_, Kind::Text) => {
            let cell = |value: &Value| match value {
                Value::String(s) => Some(text(s)),
                Value::Array(_) => Some(text(&value.to_string())),
                _ => None,
            };
            Values::Text(cells().map(cell).collect())
        }
    }
}

/// Writes an index group by group; the bytes depend on the zoo alone.
pub struct IndexWriter<W: Write + Send> {
    columns: Columns,
    writer: SerializedFileWriter<W>,
}

impl<W: Write + Send> IndexWriter<W> {
    /// An index with these columns, written to `out`.
    pub fn new(columns: Columns, out: W) -> Result<Self, ParquetError> {
        let properties = WriterProperties::builder().set_created_by("zoo-pack".into()).build();
        let writer = SerializedFileWriter::new(out, Arc::new(columns.parquet_type()?), Arc::new(properties))?;
        Ok(Self { columns, writer })
    }

    /// Adds the rows of some models.
    pub fn add(&mut self, models: &[(Params, Vec<ResultLine>)]) -> Result<(), ParquetError> {
        let keys: Vec<_> = models.iter().map(|(params, _)| object(params)).collect();
        let of_models = models.iter().zip(&keys);
        let rows: Vec<Row> = of_models
            .flat_map(|((params, lines), keys)| lines.iter().map(move |line| Row { params, keys, line }))
            .collect();
        let mut group = self.writer.next_row_group()?;
        for column in &self.columns.0 {
            match values(column, &rows) {
                Values::Int32(values) => write::<Int32Type, W>(&mut group, values)?,
                Values::Int64(values) => write::<Int64Type, W>(&mut group, values)?,
                Values::Double(values) => write::<DoubleType, W>(&mut group, values)?,
                Values::Bool(values) => write::<BoolType, W>(&mut group, values)?,
                Values::Text(values) => write::<ByteArrayType, W>(&mut group, values)?,
            }
        }
        group.close().map(|_| ())
    }

    /// What the index was written to.
    pub fn finish(self) -> Result<W, ParquetError> {
        self.writer.into_inner()
    }
}

fn write<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: Vec<Option<T::T>>,
) -> Result<(), ParquetError> {
    let levels: Vec<i16> = values.iter().map(|v| i16::from(v.is_some())).collect();
    let present: Vec<T::T> = values.into_iter().flatten().collect();
    let mut column = group.next_column()?.expect("as many columns as the schema has");
    column.typed::<T>().write_batch(&present, Some(&levels), None)?;
    column.close()
}
