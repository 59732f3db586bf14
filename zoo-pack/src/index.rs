//! `index.parquet`: one row per model and kept state.
//!
//! Columns: `id` and `epoch` (int32), every scalar key that a `params.json` of the zoo has under its own name
//! (lists as JSON text), in a zoo of twins `parent_zoo`, then every metric of `result.json`. What a model
//! lacks is null. Integers are int64, or uint64 where one of them needs it; beside other numbers they are
//! doubles.
//!
//! Its bytes are a function of the zoo, and part of the format: verification makes the index again
//! and compares.

use std::collections::HashMap;
use std::fmt;
use std::io::Write;
use std::sync::Arc;

use parquet::basic::{LogicalType, Repetition, Type as PhysicalType};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int32Type, Int64Type};
pub use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::Type;
use serde_json::Value;
use zoo_model::decoder::guarded;
use zoo_model::{ModelId, Params, ResultLine};

use crate::INDEX;

/// Models in a row group: bounds what is held while writing.
pub const MODELS_PER_GROUP: usize = 512;

/// Keys that the models of a zoo may have between them.
const KEYS_LIMIT: usize = 1024;

/// Largest footer that is read: a hundred bytes for each column of 512 models make up an honest one, and
/// decoding a hostile one may take a hundred times its length.
pub const FOOTER_LIMIT: usize = 2 << 20;

/// A column's values: null where `None`.
enum Values {
    Int32(Vec<Option<i32>>),
    Int64(Vec<Option<i64>>),
    Double(Vec<Option<f64>>),
    Bool(Vec<Option<bool>>),
    Text(Vec<Option<ByteArray>>),
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Int32,
    Int64,
    UInt64,
    Double,
    Bool,
    Text,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::UInt64 => "uint64",
            Self::Double => "double",
            Self::Bool => "boolean",
            Self::Text => "text",
        })
    }
}

impl Kind {
    fn parquet_type(self, name: &str) -> Result<Type, ParquetError> {
        let (physical, logical) = match self {
            Self::Int32 => (PhysicalType::INT32, None),
            Self::Int64 => (PhysicalType::INT64, None),
            Self::UInt64 => (PhysicalType::INT64, Some(LogicalType::integer(64, false))),
            Self::Double => (PhysicalType::DOUBLE, None),
            Self::Bool => (PhysicalType::BOOLEAN, None),
            Self::Text => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
        };
        let builder = Type::primitive_type_builder(name, physical).with_repetition(Repetition::OPTIONAL);
        builder.with_logical_type(logical).build()
    }

    fn of(column: &Type) -> Option<Self> {
        let logical = column.get_basic_info().logical_type_ref();
        Some(match (column.is_primitive().then(|| column.get_physical_type())?, logical) {
            (PhysicalType::INT32, None) => Self::Int32,
            (PhysicalType::INT64, None) => Self::Int64,
            (PhysicalType::INT64, Some(logical)) if *logical == LogicalType::integer(64, false) => Self::UInt64,
            (PhysicalType::DOUBLE, None) => Self::Double,
            (PhysicalType::BOOLEAN, None) => Self::Bool,
            (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)) => Self::Text,
            _ => return None,
        })
    }
}

/// What the values of a key in `params.json` may be written as, so that nothing of them is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Int64,
    UInt64,
    Double,
    Bool,
    Text,
    /// JSON text.
    List,
    /// No column.
    Object,
}

impl Form {
    /// The forms that keep this value as it is, the first the best; none for null.
    fn of(key: &str, value: &Value) -> Vec<Self> {
        let Value::Number(number) = value else {
            return match value {
                Value::Bool(_) => vec![Self::Bool],
                Value::String(_) => vec![Self::Text],
                Value::Array(_) => vec![Self::List],
                Value::Object(_) => vec![Self::Object],
                _ => vec![],
            };
        };
        let mut forms = Vec::new();
        if number.is_i64() && !DOUBLES.contains(&key) {
            forms.push(Self::Int64);
        }
        if number.is_u64() && !DOUBLES.contains(&key) {
            forms.push(Self::UInt64);
        }
        let exact = match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(n), _, Some(x)) => x as i128 == i128::from(n),
            (_, Some(n), Some(x)) => x as i128 == i128::from(n),
            _ => true,
        };
        if exact {
            forms.push(Self::Double);
        }
        forms
    }

    fn kind(self) -> Option<Kind> {
        match self {
            Self::Int64 => Some(Kind::Int64),
            Self::UInt64 => Some(Kind::UInt64),
            Self::Double => Some(Kind::Double),
            Self::Bool => Some(Kind::Bool),
            Self::Text | Self::List => Some(Kind::Text),
            Self::Object => None,
        }
    }
}

/// Keys whose values may look like integers but are not.
const DOUBLES: [&str; 6] =
    ["model::dropout", "optim::lr", "optim::wd", "optim::momentum", "sparsify::sparsity", "sparsify::lr"];

/// Columns before the keys of `params.json`.
const FIRST: [(&str, Kind); 2] = [("id", Kind::Int32), ("epoch", Kind::Int32)];

type Metric = fn(&ResultLine) -> Option<f64>;

/// Metrics after them.
const METRICS: [(&str, Metric); 6] = [
    ("train_loss", |l| l.train_loss),
    ("train_acc", |l| l.train_acc),
    ("val_loss", |l| l.val_loss),
    ("val_acc", |l| l.val_acc),
    ("test_loss", |l| l.test_loss),
    ("test_acc", |l| l.test_acc),
];

/// Further metrics in a zoo of twins.
const TWIN_METRICS: [(&str, Metric); 2] =
    [("sparsity_ratio", |l| l.sparsity_ratio), ("test_agreement", |l| l.test_agreement)];

const PARENT_ZOO: &str = "parent_zoo";
const DIVERGED: &str = "diverged";

/// The columns of an index: name and kind, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns(Vec<(String, Kind)>);

/// The keys of the `params.json` of a zoo, gathered model by model, and what their columns can hold.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    keys: Vec<Key>,
    places: HashMap<String, usize>,
    twins: bool,
}

#[derive(Debug, Clone)]
struct Key {
    name: String,
    forms: Vec<Form>,
    /// The values that left fewer forms than those before them, and their models.
    telling: Vec<(ModelId, String)>,
}

impl Schema {
    /// Adds a model.
    ///
    /// # Errors
    /// A sentence about its `params.json`: a value cannot stand in one column with those of the models
    /// before it, or a key has the name of a column that holds something else.
    pub fn add(&mut self, params: &Params) -> Result<(), String> {
        self.twins |= params.parent.is_some();
        for (name, value) in object(params) {
            if name == "zoo::id" || value.is_null() {
                continue;
            }
            if !value.is_object() && is_own(&name) {
                return Err(format!(
                    "`{name}` is the name of a column of {INDEX} that holds something else: rename the key"
                ));
            }
            let place = *self.places.entry(name).or_insert_with_key(|name| {
                self.keys.push(Key { name: name.clone(), forms: Vec::new(), telling: Vec::new() });
                self.keys.len() - 1
            });
            let key = &mut self.keys[place];
            let mut forms = Form::of(&key.name, &value);
            if !key.telling.is_empty() {
                forms.retain(|form| key.forms.contains(form));
            }
            if key.telling.is_empty() || forms.len() < key.forms.len() {
                key.telling.push((params.id, shown(&value)));
            }
            key.forms = forms;
            if key.forms.is_empty() {
                let values: Vec<String> =
                    key.telling.iter().map(|(id, value)| format!("{value} in model {id}")).collect();
                return Err(format!(
                    "`{}` is {}, which no column of {INDEX} can hold: give it one type in all models",
                    key.name,
                    values.join(", ")
                ));
            }
            if self.keys.len() > KEYS_LIMIT {
                return Err(format!("the models have more than {KEYS_LIMIT} different keys, the maximum for {INDEX}"));
            }
        }
        Ok(())
    }

    /// The columns of an index of the models so far.
    pub fn columns(&self) -> Columns {
        let keys = self.keys.iter().filter_map(|key| Some((key.name.clone(), key.forms.first()?.kind()?)));
        let own = |(name, kind): (&str, Kind)| (name.to_owned(), kind);
        let metric = |(name, _): (&str, Metric)| (name.to_owned(), Kind::Double);
        let mut columns: Vec<(String, Kind)> = FIRST.map(own).into_iter().chain(keys).collect();
        columns.extend(self.twins.then(|| own((PARENT_ZOO, Kind::Text))));
        columns.extend(METRICS.map(metric));
        columns.extend(TWIN_METRICS.map(metric).into_iter().filter(|_| self.twins));
        columns.push(own((DIVERGED, Kind::Bool)));
        Columns(columns)
    }
}

/// Whether a column of this name is the index's own, in a zoo of twins or in any.
fn is_own(name: &str) -> bool {
    let metrics = METRICS.iter().chain(&TWIN_METRICS).map(|(own, _)| *own);
    let others = FIRST.iter().map(|(own, _)| *own).chain([PARENT_ZOO, DIVERGED]);
    metrics.chain(others).any(|own| own == name)
}

fn object(params: &Params) -> serde_json::Map<String, Value> {
    match serde_json::to_value(params).expect("plain data serialises") {
        Value::Object(object) => object,
        _ => unreachable!("params are an object"),
    }
}

/// A value for a message.
fn shown(value: &Value) -> String {
    match value.to_string() {
        text if text.chars().count() > 40 => text.chars().take(37).chain("...".chars()).collect(),
        text => text,
    }
}

impl Columns {
    /// The columns of an index that is there, read off the last bytes of the file, at most
    /// [`FOOTER_LIMIT`] of them.
    ///
    /// # Errors
    /// A sentence that says why it is none.
    pub fn of_footer(end: &[u8]) -> Result<Self, String> {
        let cut = || "is no Parquet file, or damaged".to_owned();
        let (rest, tail) = end.split_last_chunk::<8>().ok_or_else(cut)?;
        let length = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]) as usize;
        if &tail[4..] != b"PAR1" {
            return Err(cut());
        }
        if length > FOOTER_LIMIT - 8 {
            return Err(format!("has a footer of {length} bytes, {} are allowed", FOOTER_LIMIT - 8));
        }
        if length > rest.len() {
            return Err(cut());
        }
        let footer = &rest[rest.len() - length..];
        let decoded = guarded(|| ParquetMetaDataReader::decode_metadata(footer)).map_err(|_| cut())?;
        let metadata = decoded.map_err(|e| format!("is damaged: {e}"))?;
        let fields = metadata.file_metadata().schema().get_fields();
        if fields.len() > KEYS_LIMIT + 16 {
            return Err(format!("has {} columns", fields.len()));
        }
        let column = |field: &Arc<Type>| Some((field.name().to_owned(), Kind::of(field)?));
        let columns = fields.iter().map(column).collect::<Option<_>>();
        columns.map(Self).ok_or_else(|| "has columns of unsupported types".to_owned())
    }

    /// How an index with these columns differs from one with the columns `right`.
    pub fn differences(&self, right: &Self) -> Option<String> {
        let kind = |columns: &Self, name: &str| columns.0.iter().find(|(n, _)| n == name).map(|(_, kind)| *kind);
        for (name, expected) in &right.0 {
            match kind(self, name) {
                None => return Some(format!("lacks the column `{name}`")),
                Some(found) if found != *expected => {
                    return Some(format!("has the column `{name}` as {found}, the models make it {expected}"));
                }
                _ => {}
            }
        }
        if let Some((name, _)) = self.0.iter().find(|(name, _)| kind(right, name).is_none()) {
            return Some(format!("has an unexpected column `{name}`"));
        }
        (self != right).then(|| "has its columns in a different order".to_owned())
    }

    fn parquet_type(&self) -> Result<Type, ParquetError> {
        let field = |(name, kind): &(String, Kind)| Ok(Arc::new(kind.parquet_type(name)?));
        let fields = self.0.iter().map(field).collect::<Result<_, ParquetError>>()?;
        Type::group_type_builder("index").with_fields(fields).build()
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;
    use serde_json::json;
    use zoo_model::{synthetic, ModelId};

    type Model = (Params, Vec<ResultLine>);

    fn models(count: u32, states: u32) -> Vec<Model> {
        let dir = tempfile::tempdir().unwrap();
        let zoo = synthetic::write(&dir.path().join("noise"), "noise", count, states).unwrap();
        (0..count).map(ModelId).map(|id| (zoo.params(id).unwrap(), zoo.results(id).unwrap())).collect()
    }

    /// Models that have these values under the key `x`; null is no value, and neither is a missing key.
    fn with(values: &[Value]) -> Vec<Model> {
        let mut models = models(values.len() as u32, 1);
        for ((params, _), value) in models.iter_mut().zip(values) {
            params.extra.insert("x".into(), value.clone());
        }
        models
    }

    fn schema(models: &[Model]) -> Result<Schema, String> {
        let mut schema = Schema::default();
        models.iter().try_for_each(|(params, _)| schema.add(params)).map(|()| schema)
    }

    fn index(models: &[Model]) -> Vec<u8> {
        let mut writer = IndexWriter::new(schema(models).unwrap().columns(), Vec::new()).unwrap();
        writer.add(models).unwrap();
        writer.finish().unwrap()
    }

    /// An upgrade of the Parquet writer that changes archives shows here.
    #[test]
    fn the_bytes_are_pinned() {
        assert_eq!(zoo_model::files::sha256(&index(&models(3, 4))).to_string()[..16], *"5f4fd6f098ce765a");
    }

    #[test]
    fn every_value_is_in_the_index_as_it_is_in_params() {
        let big = u64::MAX;
        let cases = [
            (vec![json!(1), json!(-2)], Kind::Int64, vec![Field::Long(1), Field::Long(-2)]),
            (vec![json!(1), json!(big)], Kind::UInt64, vec![Field::ULong(1), Field::ULong(big)]),
            (vec![json!(big), json!(i64::MAX)], Kind::UInt64, vec![Field::ULong(big), Field::ULong(i64::MAX as u64)]),
            (vec![json!(1), json!(0.5)], Kind::Double, vec![Field::Double(1.0), Field::Double(0.5)]),
            (vec![json!(0.5), json!(-1)], Kind::Double, vec![Field::Double(0.5), Field::Double(-1.0)]),
            (
                vec![json!(1u64 << 63), json!(-1)],
                Kind::Double,
                vec![Field::Double((1u64 << 63) as f64), Field::Double(-1.0)],
            ),
            (vec![json!(true), json!(false)], Kind::Bool, vec![Field::Bool(true), Field::Bool(false)]),
            (vec![json!("a"), json!("")], Kind::Text, vec![Field::Str("a".into()), Field::Str("".into())]),
            (vec![json!([1, 2]), json!([])], Kind::Text, vec![Field::Str("[1,2]".into()), Field::Str("[]".into())]),
        ];
        for (values, kind, fields) in cases {
            // Null before, between and after them.
            let spread = [json!(null), values[0].clone(), json!(null), values[1].clone(), json!(null)];
            let expected = [Field::Null, fields[0].clone(), Field::Null, fields[1].clone(), Field::Null];
            let models = with(&spread);
            let columns = schema(&models).unwrap().columns();
            assert!(columns.0.contains(&("x".to_owned(), kind)), "{spread:?}: {columns:?}");
            let bytes = index(&models);
            assert_eq!(Columns::of_footer(&bytes).unwrap(), columns);
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            let reader = SerializedFileReader::new(file).unwrap();
            let cell = |row: Result<parquet::record::Row, _>| {
                let row = row.unwrap();
                let found = row.get_column_iter().find(|(name, _)| *name == "x").unwrap().1.clone();
                found
            };
            assert_eq!(reader.get_row_iter(None).unwrap().map(cell).collect::<Vec<_>>(), expected);
        }
        let of = |models: &[Model]| schema(models).unwrap().columns();
        assert_eq!(of(&with(&[json!(null), json!({"a": 1})])), of(&models(2, 1)), "objects have no column");
    }

    #[test]
    fn what_no_column_can_hold_is_refused() {
        let past = (1u64 << 53) + 1;
        for values in [
            vec![json!(1), json!("1")],
            vec![json!(true), json!(1)],
            vec![json!("a"), json!(["a"])],
            vec![json!({"a": 1}), json!("a")],
            vec![json!("a"), json!(null), json!({"a": 1})],
            vec![json!(past), json!(0.5)],
            vec![json!(0.5), json!(past)],
            vec![json!(1), json!(-1), json!(u64::MAX)],
            vec![json!(past), json!(-1), json!(0.5)],
        ] {
            let error = schema(&with(&values)).unwrap_err();
            assert!(error.starts_with("`x` is ") && error.ends_with("give it one type in all models"), "{error}");
            for (id, value) in [(0, &values[0]), (values.len() - 1, values.last().unwrap())] {
                assert!(error.contains(&format!("{value} in model {id:06}")), "{error}");
            }
        }
        for name in ["id", "epoch", "train_loss", "test_acc", "diverged", "parent_zoo", "sparsity_ratio"] {
            let mut model = models(1, 1).remove(0);
            model.0.extra.insert(name.into(), json!(null));
            schema(std::slice::from_ref(&model)).unwrap();
            model.0.extra.insert(name.into(), json!(1));
            let error = schema(&[model]).unwrap_err();
            assert!(error.starts_with(&format!("`{name}` is the name of a column")), "{error}");
        }
        let mut models = models(2, 1);
        for ((params, _), keys) in models.iter_mut().zip([0..600, 600..1200]) {
            params.extra.extend(keys.map(|key| (format!("key{key}"), json!(1))));
        }
        assert!(schema(&models).unwrap_err().contains("more than 1024 different keys"));
    }

    #[test]
    fn indexes_with_other_columns_are_told_apart() {
        let of = |values: &[Value]| schema(&with(values)).unwrap().columns();
        let (without, int, double) = (of(&[json!(null)]), of(&[json!(1)]), of(&[json!(0.5)]));
        assert_eq!(int.differences(&int), None);
        assert_eq!(without.differences(&int).unwrap(), "lacks the column `x`");
        assert_eq!(int.differences(&without).unwrap(), "has an unexpected column `x`");
        assert_eq!(int.differences(&double).unwrap(), "has the column `x` as int64, the models make it double");
        let bytes = index(&models(2, 2));
        for cut in 0..bytes.len() {
            assert!(Columns::of_footer(&bytes[..cut]).is_err());
        }
        let long = [&[0; 100][..], &(FOOTER_LIMIT as u32).to_le_bytes(), b"PAR1"].concat();
        assert!(Columns::of_footer(&long).unwrap_err().contains("footer of 2097152 bytes"));
        for at in bytes.len() - 2000..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 0x55;
            let _ = Columns::of_footer(&other);
        }
    }
}
