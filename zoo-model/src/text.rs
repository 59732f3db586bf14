//! Untrusted text, made safe to print.

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

/// What a library says of an error, as part of a sentence: on one line, Rust's types in words, and of
/// a struct that was printed for programmers its first field. Control characters are [`escaped`].
pub fn readable(message: &str) -> String {
    const TYPE_NAMES: [(&str, &str); 14] = [
        ("i8", "an integer"),
        ("i16", "an integer"),
        ("i32", "an integer"),
        ("i64", "an integer"),
        ("isize", "an integer"),
        ("u8", "an integer, 0 or above"),
        ("u16", "an integer, 0 or above"),
        ("u32", "an integer, 0 or above"),
        ("u64", "an integer, 0 or above"),
        ("usize", "an integer, 0 or above"),
        ("f32", "a number"),
        ("f64", "a number"),
        ("a sequence", "a list"),
        ("a map", "an object"),
    ];
    let lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut text = first_fields(lines.collect::<Vec<_>>().join(" ")).replace(": : ", ": ");
    for (name, words) in TYPE_NAMES {
        text = text.replace(&format!("expected {name}"), &format!("expected {words}"));
    }
    escaped(&text).into_owned()
}

/// `the chunk ChunkType { type: IDAT, critical: true }` as `the chunk IDAT`.
fn first_fields(mut text: String) -> String {
    // The last opening brace is an innermost one.
    while let Some(open) = text.rfind(" { ") {
        let name = text[..open].trim_end_matches(|c: char| c.is_alphanumeric() || c == '_').len();
        let Some(close) = text[open + 3..].find(" }").map(|i| open + 3 + i) else { break };
        let field = text[open + 3..close].split(", ").next().and_then(|field| field.split_once(": "));
        let (Some((_, value)), true) = (field, text[name..open].starts_with(char::is_uppercase)) else { break };
        text = format!("{}{value}{}", &text[..name], &text[close + 2..]);
    }
    text
}

/// `1 model`, `2 models`: a count of things, whose plural has an s.
pub fn counted(count: usize, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

/// Names to choose from, as serde lists them: `` `a` ``, `` `a` or `b` ``, `` one of `a`, `b`, `c` ``.
pub fn alternatives(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.as_slice() {
        [a, b] => format!("{a} or {b}"),
        [_, _, _, ..] => format!("one of {}", quoted.join(", ")),
        _ => quoted.concat(),
    }
}

/// A fraction in percent, with one digit after the point.
pub fn percent(fraction: f64) -> String {
    format!("{} %", fixed(100.0 * fraction, 1))
}

/// A number with the given number of digits after the point; what rounds to zero has no sign.
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
        assert_eq!([0.125, 1.0, -0.0001].map(percent), ["12.5 %", "100.0 %", "0.0 %"]);
        assert_eq!(alternatives(&["a"]), "`a`");
        assert_eq!(alternatives(&["a", "b"]), "`a` or `b`");
        assert_eq!(alternatives(&["a", "b", "c"]), "one of `a`, `b`, `c`");
    }

    #[test]
    fn what_libraries_say_is_readable() {
        let chunk = "while decoding ChunkType { type: IDAT, critical: true, private: false } chunk.";
        assert_eq!(readable(chunk), "while decoding IDAT chunk.");
        assert_eq!(readable("Outer { inner: Inner { a: 1, b: 2 }, c: 3 } is wrong"), "1 is wrong");
        assert_eq!(
            readable("write { range = [1, 2] } or { per-model = 3 }"),
            "write { range = [1, 2] } or { per-model = 3 }"
        );
        assert_eq!(readable("cannot parse\n  |\n1 | x\n\n"), "cannot parse | 1 | x");
        assert_eq!(
            readable("invalid type: string \"a\", expected i64"),
            "invalid type: string \"a\", expected an integer"
        );
        assert_eq!(readable("a.tar.gz: : cut\u{1b}[2J"), "a.tar.gz: cut\\u{1b}[2J");
        for odd in [" { ", "A { ", "A { }", " { a: 1 }", "A { a: 1", "é { é: é }", "…É { é: é }…", "{ { } }"]
        {
            readable(odd);
        }
    }

    #[test]
    fn control_characters_are_escaped_and_nothing_else() {
        assert_eq!(escaped("Schürholt \\ \"x\""), "Schürholt \\ \"x\"");
        assert_eq!(escaped("a\u{1b}[2J\nb\u{9b}"), "a\\u{1b}[2J\\nb\\u{9b}");
    }
}
