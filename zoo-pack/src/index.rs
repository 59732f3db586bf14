//! `index.parquet`: one row per model and kept state.
//!
//! Columns: `id` and `epoch` (int32), every key of `params.json` under its own name (lists as JSON text), in a twin
//! also `parent_zoo` and its `sparsify::*` keys, then every metric of `result.json`. What a model
//! lacks is null.
//!
//! Its bytes are a function of the zoo, and part of the format: verification makes the index again
//! and compares.

use std::io::Write;
use std::sync::Arc;

use parquet::basic::{LogicalType, Repetition, Type as PhysicalType};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int32Type, Int64Type};
pub use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::Type;
use serde_json::Value;
use zoo_model::{Params, ResultLine};

/// Models in a row group: bounds what is held while writing.
pub const MODELS_PER_GROUP: usize = 512;

/// A column's values: null where `None`.
enum Values {
    Int32(Vec<Option<i32>>),
    Int64(Vec<Option<i64>>),
    Double(Vec<Option<f64>>),
    Bool(Vec<Option<bool>>),
    Text(Vec<Option<ByteArray>>),
}

struct Column {
    name: String,
    values: Values,
}

/// The keys of `params.json` that become columns, and their kind, read off one model.
#[derive(Debug, Clone)]
pub struct Schema {
    keys: Vec<(String, Kind)>,
    twin: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Int,
    Double,
    Bool,
    Text,
    Json,
}

/// Keys whose values may look like integers but are not.
const DOUBLES: [&str; 6] =
    ["model::dropout", "optim::lr", "optim::wd", "optim::momentum", "sparsify::sparsity", "sparsify::lr"];

impl Schema {
    /// The schema of a zoo of models like this one.
    pub fn of(params: &Params) -> Self {
        let Value::Object(object) = serde_json::to_value(params).expect("plain data serialises") else {
            unreachable!("params are an object")
        };
        let kind = |key: &str, value: &Value| match value {
            Value::Number(_) if DOUBLES.contains(&key) => Some(Kind::Double),
            Value::Number(n) if n.is_i64() || n.is_u64() => Some(Kind::Int),
            Value::Number(_) => Some(Kind::Double),
            Value::Bool(_) => Some(Kind::Bool),
            Value::String(_) => Some(Kind::Text),
            Value::Array(_) => Some(Kind::Json),
            _ => None,
        };
        let columns = object.iter().filter(|(key, _)| *key != "zoo::id");
        let keys = columns.filter_map(|(key, value)| Some((key.clone(), kind(key, value)?))).collect();
        Self { keys, twin: params.parent.is_some() }
    }

    fn columns(&self, models: &[(Params, Vec<ResultLine>)]) -> Vec<Column> {
        let rows: Vec<(&Params, &ResultLine)> =
            models.iter().flat_map(|(params, lines)| lines.iter().map(move |line| (params, line))).collect();
        let objects: Vec<Value> =
            models.iter().map(|(p, _)| serde_json::to_value(p).expect("plain data serialises")).collect();
        let objects: Vec<&Value> =
            objects.iter().zip(models).flat_map(|(o, (_, lines))| lines.iter().map(move |_| o)).collect();
        let text = |s: &str| ByteArray::from(s.as_bytes().to_vec());

        let column = |name: &str, values: Values| Column { name: name.to_owned(), values };
        let mut columns = vec![
            column("id", Values::Int32(rows.iter().map(|(p, _)| Some(p.id.0 as i32)).collect())),
            column("epoch", Values::Int32(rows.iter().map(|(_, l)| Some(l.training_iteration as i32)).collect())),
        ];
        for (key, kind) in &self.keys {
            let cells = objects.iter().map(|o| &o[key]);
            let values = match kind {
                Kind::Int => Values::Int64(cells.map(Value::as_i64).collect()),
                Kind::Double => Values::Double(cells.map(Value::as_f64).collect()),
                Kind::Bool => Values::Bool(cells.map(Value::as_bool).collect()),
                Kind::Text => Values::Text(cells.map(|v| v.as_str().map(text)).collect()),
                Kind::Json => Values::Text(cells.map(|v| v.is_array().then(|| text(&v.to_string()))).collect()),
            };
            columns.push(column(key, values));
        }
        if self.twin {
            let zoos = rows.iter().map(|(p, _)| p.parent.as_ref().map(|parent| text(&parent.zoo)));
            columns.push(column("parent_zoo", Values::Text(zoos.collect())));
        }
        let mut metric = |name: &str, value: fn(&ResultLine) -> Option<f64>| {
            columns.push(column(name, Values::Double(rows.iter().map(|(_, l)| value(l)).collect())));
        };
        metric("train_loss", |l| l.train_loss);
        metric("train_acc", |l| l.train_acc);
        metric("val_loss", |l| l.val_loss);
        metric("val_acc", |l| l.val_acc);
        metric("test_loss", |l| l.test_loss);
        metric("test_acc", |l| l.test_acc);
        if self.twin {
            metric("sparsity_ratio", |l| l.sparsity_ratio);
            metric("test_agreement", |l| l.test_agreement);
        }
        columns.push(column("diverged", Values::Bool(rows.iter().map(|(_, l)| Some(l.diverged)).collect())));
        columns
    }

    fn parquet_type(&self) -> Result<Type, ParquetError> {
        let fields = self.columns(&[]).into_iter().map(|column| {
            let (physical, logical) = match column.values {
                Values::Int32(_) => (PhysicalType::INT32, None),
                Values::Int64(_) => (PhysicalType::INT64, None),
                Values::Double(_) => (PhysicalType::DOUBLE, None),
                Values::Bool(_) => (PhysicalType::BOOLEAN, None),
                Values::Text(_) => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
            };
            let field = Type::primitive_type_builder(&column.name, physical)
                .with_repetition(Repetition::OPTIONAL)
                .with_logical_type(logical)
                .build()?;
            Ok(Arc::new(field))
        });
        Type::group_type_builder("index").with_fields(fields.collect::<Result<_, ParquetError>>()?).build()
    }
}

/// Writes an index group by group; the bytes depend on the zoo alone.
pub struct IndexWriter<W: Write + Send> {
    schema: Schema,
    writer: SerializedFileWriter<W>,
}

impl<W: Write + Send> IndexWriter<W> {
    /// An index of models like `params`, written to `out`.
    pub fn new(params: &Params, out: W) -> Result<Self, ParquetError> {
        let schema = Schema::of(params);
        let properties = WriterProperties::builder().set_created_by("zoo-pack".into()).build();
        let writer = SerializedFileWriter::new(out, Arc::new(schema.parquet_type()?), Arc::new(properties))?;
        Ok(Self { schema, writer })
    }

    /// Adds the rows of some models.
    pub fn add(&mut self, models: &[(Params, Vec<ResultLine>)]) -> Result<(), ParquetError> {
        let mut group = self.writer.next_row_group()?;
        for column in self.schema.columns(models) {
            match column.values {
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

#[cfg(test)]
mod tests {
    use super::*;
    use zoo_model::{synthetic, ModelId};

    /// An upgrade of the Parquet writer that changes archives shows here.
    #[test]
    fn the_bytes_are_pinned() {
        let dir = tempfile::tempdir().unwrap();
        let zoo = synthetic::write(&dir.path().join("noise"), "noise", 3, 4).unwrap();
        let models: Vec<_> =
            (0..3).map(ModelId).map(|id| (zoo.params(id).unwrap(), zoo.results(id).unwrap())).collect();
        let mut writer = IndexWriter::new(&models[0].0, Vec::new()).unwrap();
        writer.add(&models).unwrap();
        assert_eq!(zoo_model::files::sha256(&writer.finish().unwrap())[..16], *"5f4fd6f098ce765a");
    }
}
