//! Models whose keys have any types, as `params.json` and `result.json` in turn with a NUL between them: their index
//! is refused, or holds every value as written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::Value;
use zoo_model::{result, ModelId, Params};
use zoo_pack::index::{Columns, IndexWriter, Schema};

fn is_written(cell: &Field, value: &Value) -> bool {
    match (cell, value) {
        (Field::Null, value) => matches!(value, Value::Null | Value::Object(_)),
        (Field::Bool(b), Value::Bool(value)) => b == value,
        (Field::Long(n), value) => value.as_i64() == Some(*n),
        (Field::ULong(n), value) => value.as_u64() == Some(*n),
        (Field::Double(x), Value::Number(n)) => {
            n.as_f64() == Some(*x) && (!n.is_i64() || n.as_i64() == Some(*x as i64)) && (!n.is_u64() || n.as_u64() == Some(*x as u64))
        }
        (Field::Str(text), Value::String(value)) => text == value,
        (Field::Str(text), value @ Value::Array(_)) => *text == value.to_string(),
        _ => false,
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.split(|&b| b == 0);
    let mut models = Vec::new();
    while let (Some(params), Some(lines)) = (parts.next(), parts.next()) {
        let (Ok(mut params), Ok(lines)) = (Params::from_json(params), result::from_json_lines(lines)) else { return };
        params.id = ModelId(models.len() as u32);
        models.push((params, lines));
    }
    let mut schema = Schema::default();
    if models.is_empty() || models.iter().any(|(params, _)| schema.add(params).is_err()) {
        return;
    }
    let mut writer = IndexWriter::new(schema.columns(), Vec::new()).expect("columns that were accepted");
    writer.add(&models).expect("models that were accepted");
    let file = writer.finish().expect("memory does not fail");
    assert_eq!(Columns::of_footer(&file).as_ref(), Ok(&schema.columns()));
    let reader = SerializedFileReader::new(bytes::Bytes::from(file)).expect("an index");
    let mut rows = reader.get_row_iter(None).expect("an index");
    for (params, lines) in &models {
        let keys = serde_json::to_value(params).expect("plain data serialises");
        for line in lines {
            let row = rows.next().expect("one row per state").expect("an index");
            let cell = |name: &str| row.get_column_iter().find(|(n, _)| *n == name).map(|(_, cell)| cell);
            assert!(matches!(cell("epoch"), Some(Field::Int(epoch)) if *epoch == line.training_iteration as i32));
            for (name, value) in keys.as_object().expect("params are an object").iter().filter(|(name, _)| *name != "zoo::id") {
                let found = cell(name).unwrap_or(&Field::Null);
                assert!(is_written(found, value), "`{name}` is {value}, and {found:?} in the index");
            }
        }
    }
    assert!(rows.next().is_none());
});
