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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_nothing_else() {
        assert_eq!(escaped("Schürholt \\ \"x\""), "Schürholt \\ \"x\"");
        assert_eq!(escaped("a\u{1b}[2J\nb\u{9b}"), "a\\u{1b}[2J\\nb\\u{9b}");
    }
}
