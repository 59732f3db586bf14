//! Deserialisers of values in manifests, with messages for those who write them.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, value, Deserializer, IntoDeserializer, SeqAccess, Visitor};
use serde::Deserialize;

/// One of the names that the enum `T` has; the error for anything else lists them.
pub fn name<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct NameVisitor<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for NameVisitor<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            // The enum itself says what it expects when it is given no name at all.
            let none: value::StrDeserializer<value::Error> = "".into_deserializer();
            let refusal = T::deserialize(none).err().map(|e| e.to_string()).unwrap_or_default();
            write!(f, "a name: {}", refusal.split_once("expected ").map_or("see docs/manifest.md", |(_, names)| names))
        }
        fn visit_str<E: de::Error>(self, v: &str) -> Result<T, E> {
            T::deserialize(v.into_deserializer())
        }
    }
    deserializer.deserialize_any(NameVisitor(PhantomData))
}

/// A [`list`] of different [`name`]s.
pub fn names<'de, D: Deserializer<'de>, T: Deserialize<'de> + PartialEq>(d: D) -> Result<Vec<T>, D::Error> {
    #[derive(PartialEq)]
    struct Named<T>(T);
    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
        fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
            name(d).map(Self)
        }
    }
    Ok(distinct(list(d)?)?.into_iter().map(|Named(value)| value).collect())
}

/// A list, or a scalar as a list of one: so every list of a manifest may be written.
pub fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct ListVisitor<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            write!(f, "a value or a list of values")
        }
        fn visit_bool<E: de::Error>(self, v: bool) -> Result<Vec<T>, E> {
            Ok(vec![T::deserialize(v.into_deserializer())?])
        }
        fn visit_str<E: de::Error>(self, v: &str) -> Result<Vec<T>, E> {
            Ok(vec![T::deserialize(v.into_deserializer())?])
        }
        fn visit_f64<E: de::Error>(self, v: f64) -> Result<Vec<T>, E> {
            Ok(vec![T::deserialize(v.into_deserializer())?])
        }
        fn visit_i64<E: de::Error>(self, v: i64) -> Result<Vec<T>, E> {
            Ok(vec![T::deserialize(v.into_deserializer())?])
        }
        fn visit_u64<E: de::Error>(self, v: u64) -> Result<Vec<T>, E> {
            Ok(vec![T::deserialize(v.into_deserializer())?])
        }
        fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Vec<T>, A::Error> {
            Vec::deserialize(value::SeqAccessDeserializer::new(seq))
        }
    }
    deserializer.deserialize_any(ListVisitor(PhantomData))
}

/// Values neither none nor repeated.
pub fn distinct<T: PartialEq, E: de::Error>(values: Vec<T>) -> Result<Vec<T>, E> {
    if values.is_empty() {
        return Err(E::custom("the list is empty; name at least one value"));
    }
    // Lists of seeds can be long; a repeat is searched for only in those of human length.
    if values.len() <= 4096 && values.iter().enumerate().any(|(i, v)| values[..i].contains(v)) {
        return Err(E::custom("the list contains a value twice"));
    }
    Ok(values)
}

/// A [`list`] of different numbers that all lie in a range; `range` says which, for the message.
pub fn numbers<'de, D: Deserializer<'de>>(d: D, ok: impl Fn(f64) -> bool, range: &str) -> Result<Vec<f64>, D::Error> {
    let values: Vec<f64> = distinct(list(d)?)?;
    match values.iter().find(|&&v| !ok(v)) {
        Some(bad) => Err(de::Error::custom(format!("must be {range}, not {bad}"))),
        None => Ok(values),
    }
}

/// Fractions in (0, 1), such as target sparsities.
pub fn fractions<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<f64>, D::Error> {
    numbers(d, |v| v > 0.0 && v < 1.0, "between 0 and 1, both excluded")
}

/// A count of at least one.
pub fn count<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    match i64::deserialize(d)? {
        n @ 1..=1_000_000 => Ok(n as u32),
        n => Err(de::Error::custom(format!("must be from 1 to 1000000, not {n}"))),
    }
}
