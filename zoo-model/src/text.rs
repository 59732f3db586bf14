//! Text that strangers wrote, made fit to be shown.

use std::borrow::Cow;

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
