//! Text that strangers wrote, made fit to be shown.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// `text` with its control characters escaped (`\u{1b}`, `\n`): what is shown can neither steer a
/// terminal nor forge a line.
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c.is_control() {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out.into()
}

/// `1 model`, `2 models`: a count of things, whose plural has an s.
pub fn counted(count: usize, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

/// A number with so many digits after the point; what rounds to zero has no sign.
pub fn fixed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    match text.strip_prefix('-') {
        Some(magnitude) if magnitude.bytes().all(|b| matches!(b, b'0' | b'.')) => magnitude.to_owned(),
        _ => text,
    }
}

/// Why a JSON object is no `T`, by the key at fault, which serde does not name in structs that keep unknown
/// keys: the values are tried one by one in `sound`, an object that is a `T`.
pub(crate) fn json_fault<T: DeserializeOwned>(json: &[u8], sound: &Value, error: &serde_json::Error) -> String {
    let tried = |(key, value): (String, Value)| {
        let mut probe = sound.clone();
        probe[&key] = value;
        serde_json::from_value::<T>(probe).err().map(|e| format!("`{key}`: {e}"))
    };
    let fault = match serde_json::from_slice(json) {
        Ok(Value::Object(object)) => object.into_iter().find_map(tried),
        _ => None,
    };
    fault.unwrap_or_else(|| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_numbers_read_well() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "model")), ["0 models", "1 model", "2 models"]);
        let round = [-0.001, -0.0, 0.001, -0.005001, -1.0, f64::NAN].map(|v| fixed(v, 2));
        assert_eq!(round, ["0.00", "0.00", "0.00", "-0.01", "-1.00", "NaN"]);
        assert_eq!(fixed(-0.4, 0), "0");
    }

    #[test]
    fn control_characters_are_escaped_and_nothing_else() {
        assert_eq!(escaped("Schürholt \\ \"x\""), "Schürholt \\ \"x\"");
        assert_eq!(escaped("a\u{1b}[2J\nb\u{9b}"), "a\\u{1b}[2J\\nb\\u{9b}");
    }
}
