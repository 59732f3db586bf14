//! `SHA256SUMS`, and other files that `sha256sum -c` takes.

use crate::files::Sha256;

/// Parses a checksum file: path and checksum of each line, in the order of the file.
///
/// # Errors
/// A sentence that names the line.
pub fn parse_checksums(text: &[u8]) -> Result<Vec<(String, Sha256)>, String> {
    checksum_lines(text).collect()
}

/// [`parse_checksums`] line by line, holding nothing. What `sha256sum -c` takes is taken: text and binary
/// mode, BSD's two formats, escaped names, upper case, comments, blank lines, and either end of line.
/// Paths lose what leads nowhere (`./`).
pub fn checksum_lines(text: &[u8]) -> impl Iterator<Item = Result<(String, Sha256), String>> + '_ {
    let mut reversed = None;
    text.split(|&b| b == b'\n').zip(1..).filter_map(move |(line, number)| {
        let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
        if line.trim().is_empty() || line.starts_with('#') {
            return None;
        }
        let parsed = checksum_line(&line, &mut reversed);
        Some(parsed.ok_or_else(|| format!("line {number}: is not `<64 hexadecimal digits>  <path>`")))
    })
}

/// One line, as coreutils reads it. `reversed` is whether the lines so far were of BSD's format with a
/// single space, which cannot be mixed with the usual one: a name may begin with a space.
fn checksum_line(line: &str, reversed: &mut Option<bool>) -> Option<(String, Sha256)> {
    const WHITE: [char; 2] = [' ', '\t'];
    let line = line.trim_start_matches(WHITE);
    let (escaped, line) = line.strip_prefix('\\').map_or((false, line), |line| (true, line));
    let (path, sum) = if let Some(tagged) = line.strip_prefix("SHA256") {
        let tagged = tagged.strip_prefix(' ').unwrap_or(tagged).strip_prefix('(')?;
        let (path, sum) = tagged.rsplit_once(')')?;
        (path, sum.trim_start_matches(WHITE).strip_prefix('=')?.trim_start_matches(WHITE))
    } else {
        let (sum, rest) = line.split_at_checked(64)?;
        let rest = rest.strip_prefix(WHITE)?;
        let path = rest.strip_prefix([' ', '*']).filter(|path| !path.is_empty());
        match *reversed.get_or_insert(path.is_none()) {
            true => (rest, sum),
            false => (path?, sum),
        }
    };
    let sum = sum.to_ascii_lowercase().parse().ok()?;
    let path = if escaped { unescaped(path)? } else { path.to_owned() };
    let (root, below) = path.strip_prefix('/').map_or(("", path.as_str()), |below| ("/", below));
    let parts: Vec<&str> = below.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    (!parts.is_empty()).then(|| (format!("{root}{}", parts.join("/")), sum))
}

/// A file name of a line that begins with a backslash.
fn unescaped(name: &str) -> Option<String> {
    let mut characters = name.chars();
    let mut out = String::with_capacity(name.len());
    while let Some(c) = characters.next() {
        out.push(match c {
            '\\' => match characters.next()? {
                '\\' => '\\',
                'n' => '\n',
                'r' => '\r',
                _ => return None,
            },
            c => c,
        });
    }
    Some(out)
}

/// The content of a checksum file; a name that would break its line is escaped, as by `sha256sum`.
pub fn format_checksums(sums: &[(String, Sha256)]) -> String {
    let line = |(path, sum): &(String, Sha256)| match path.contains(['\n', '\r']) {
        true => format!("\\{sum}  {}\n", path.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r")),
        false => format!("{sum}  {path}\n"),
    };
    sums.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::sha256;
    use std::fs;

    #[test]
    fn checksum_lines_round_trip_and_others_are_refused() {
        let sum = sha256(b"");
        let sums: Vec<(String, Sha256)> = ["models/000000/params.json", "a b", " c", "*d", "e\\f\ng\rh", "/i", "../j"]
            .map(|path| (path.to_owned(), sum))
            .into();
        assert_eq!(parse_checksums(format_checksums(&sums).as_bytes()).unwrap(), sums);
        assert!(parse_checksums(b"\nabc  file\n").unwrap_err().starts_with("line 2"));
        for line in [
            format!("{sum}file"),
            format!("{sum} "),
            format!("{sum}  ./"),
            format!("{}  file", "g".repeat(64)),
            format!("{}  file", "é".repeat(32)),
            format!("0{sum}  file"),
            format!("\\{sum}  fi\\le"),
            format!("SHA256 (file) {sum}"),
            format!("SHA256 file = {sum}"),
            format!("SHA512 (file) = {sum}"),
            format!("SHA256 (file) = {sum} "),
            format!("{sum}  file\n{sum} other"),
            "<html>".into(),
        ] {
            assert!(parse_checksums(line.as_bytes()).is_err(), "{line}");
        }
    }

    /// Every form is held against coreutils where that is installed.
    #[test]
    fn what_sha256sum_takes_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a b", "back\\slash", "new\nline"] {
            fs::write(dir.path().join(name), "abc").unwrap();
        }
        fs::create_dir(dir.path().join("folder")).unwrap();
        fs::write(dir.path().join("folder/c"), "abc").unwrap();
        let sum = sha256(b"abc").to_string();
        let upper = sum.to_uppercase();
        let mixed = format!("{}{}", &upper[..32], &sum[32..]);
        for (text, path) in [
            (format!("{sum}  a b\n"), "a b"),
            (format!("{sum}  a b"), "a b"),
            (format!("{sum} *a b\n"), "a b"),
            (format!("{sum}\t a b\n"), "a b"),
            (format!("{sum} a b\n"), "a b"),
            (format!("{upper}  a b\n"), "a b"),
            (format!("{mixed} *a b\n"), "a b"),
            (format!("  \t{sum}  a b\n"), "a b"),
            (format!("{sum}  a b\r\n"), "a b"),
            (format!("# made by hand\r\n\r\n{sum}  a b\r\n\r\n\n#\n"), "a b"),
            (format!("{sum}  ./a b\n"), "a b"),
            (format!("{sum} *.//folder/./c\n"), "folder/c"),
            (format!("SHA256 (a b) = {sum}\n"), "a b"),
            (format!("SHA256 (./folder/c) = {upper}\r\n"), "folder/c"),
            (format!("SHA256(a b)= {sum}\n"), "a b"),
            (format!("SHA256 (a b)={sum}"), "a b"),
            (format!("\\SHA256 (new\\nline) = {sum}\n"), "new\nline"),
            (format!("\\{sum}  new\\nline\n"), "new\nline"),
            (format!("\\{sum} *back\\\\slash\n"), "back\\slash"),
            (format!("{sum}  back\\slash\n"), "back\\slash"),
        ] {
            assert_eq!(parse_checksums(text.as_bytes()).unwrap(), [(path.to_owned(), sha256(b"abc"))], "{text:?}");
            fs::write(dir.path().join("sums"), &text).unwrap();
            let arguments = ["--strict", "-c", "sums"];
            let program = std::process::Command::new("sha256sum").args(arguments).current_dir(dir.path()).output();
            let checked = program.expect("this test needs the program `sha256sum`: install GNU coreutils");
            assert!(checked.status.success(), "{text:?}: {}", String::from_utf8_lossy(&checked.stderr));
        }
    }
}
