//! The columns that hold the keys of all models of a zoo.

use std::collections::HashMap;

use serde_json::Value;
use zoo_model::{ModelId, Params};

use super::columns::{Columns, Kind, Metric, DIVERGED, FIRST, KEYS_LIMIT, METRICS, PARENT_ZOO, TWIN_METRICS};
use super::object;
use crate::INDEX;

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

/// A value for a message.
fn shown(value: &Value) -> String {
    match value.to_string() {
        text if text.chars().count() > 40 => text.chars().take(37).chain("...".chars()).collect(),
        text => text,
    }
}
