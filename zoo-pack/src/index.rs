//! `index.parquet`: one row per model and kept state.
//!
//! Columns: `id` and `epoch` (int32), every scalar key that a `params.json` of the zoo has under its own name
//! (lists as JSON text), in a zoo of twins `parent_zoo`, then every metric of `result.json`. What a model
//! lacks is null. Integers are int64, or uint64 where one of them needs it; beside other numbers they are
//! doubles.
//!
//! Its bytes are a function of the zoo, and part of the format: verification makes the index again
//! and compares.

mod columns;
mod schema;
mod writer;

use serde_json::Value;
use zoo_model::Params;

pub use columns::{Columns, FOOTER_LIMIT};
pub use parquet::errors::ParquetError;
pub use schema::Schema;
pub use writer::IndexWriter;

/// Models in a row group: bounds what is held while writing.
pub const MODELS_PER_GROUP: usize = 512;

/// A model's `params.json` as an object.
fn object(params: &Params) -> serde_json::Map<String, Value> {
    match serde_json::to_value(params).expect("plain data serialises") {
        Value::Object(object) => object,
        _ => unreachable!("params are an object"),
    }
}

#[cfg(test)]
mod tests {
    use super::columns::Kind;
    use super::*;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;
    use serde_json::json;
    use std::io::Write;
    use zoo_model::ResultLine;
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
