//! LIBSVM's text format, that of USPS: one sample per line, `label index:value index:value ...`.

use std::io::{BufRead, BufReader, Read};

/// Maximum number of bytes in a line.
const LINE_LIMIT: u64 = 1 << 16;

/// Reads samples of `features` values and hands each on: the number of its line, its label, and its
/// values in the order of their indices, which count from 1. As the format wants it, a value that is not listed is 0.
///
/// # Errors
/// A sentence with the number of the line; or what `each` answers.
///
/// ```
/// let text = "2 1:0.5 3:-1\n";
/// zoo_data::formats::libsvm::read(text.as_bytes(), 3, |_line, label, values| {
///     assert_eq!((label, values), (2, &[0.5, 0.0, -1.0][..]));
///     Ok::<(), String>(())
/// });
/// ```
pub fn read<E: From<String>>(
    stream: impl Read,
    features: usize,
    mut each: impl FnMut(usize, i64, &[f64]) -> Result<(), E>,
) -> Result<(), E> {
    let mut stream = BufReader::new(stream);
    let mut values = vec![0.0; features];
    for number in 1.. {
        let wrong = |what: &str| E::from(format!("line {number} {what}"));
        let mut line = Vec::new();
        (&mut stream)
            .take(LINE_LIMIT)
            .read_until(b'\n', &mut line)
            .map_err(|e| wrong(&format!("cannot be decompressed ({e})")))?;
        if line.is_empty() {
            break;
        }
        if line.len() as u64 == LINE_LIMIT {
            return Err(wrong("is longer than 65536 bytes"));
        }
        let line = std::str::from_utf8(&line).map_err(|_| wrong("is not text"))?;
        let label = sample(line, &mut values).map_err(|m| wrong(&m))?;
        if let Some(label) = label {
            each(number, label, &values)?;
        }
    }
    Ok(())
}

/// One line: its label, and its values in `values`; no label if it is blank.
fn sample(line: &str, values: &mut [f64]) -> Result<Option<i64>, String> {
    let mut words = line.split_ascii_whitespace();
    let Some(label) = words.next() else { return Ok(None) };
    let label = label.parse().map_err(|_| format!("begins with {label:?}, expected a class number"))?;
    values.fill(0.0);
    let mut last = 0;
    for word in words {
        let pair = word.split_once(':').and_then(|(i, v)| Some((i.parse::<usize>().ok()?, v.parse::<f64>().ok()?)));
        let Some((index, value)) = pair else { return Err(format!("holds {word:?}, expected index:value")) };
        if index <= last || index > values.len() {
            return Err(format!(
                "has the index {index} after {last}, expected ascending ones from 1 to {}",
                values.len()
            ));
        }
        values[index - 1] = value;
        last = index;
    }
    Ok(Some(label))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(text: &[u8]) -> Result<Vec<(i64, Vec<f64>)>, String> {
        let mut samples = Vec::new();
        read(text, 3, |_line, label, values| {
            samples.push((label, values.to_vec()));
            Ok(())
        })
        .map(|()| samples)
    }

    #[test]
    fn samples_are_read_and_faults_named() {
        let samples = all(b"10 1:-1 2:.5 3:1e-1 \r\n\n3 2:0.25").unwrap();
        assert_eq!(samples, [(10, vec![-1.0, 0.5, 0.1]), (3, vec![0.0, 0.25, 0.0])]);
        assert_eq!(all(b""), Ok(Vec::new()));
        let message = |text: &[u8]| all(text).unwrap_err();
        assert!(message(b"1 1:0\nx 1:0\n").contains("line 2 begins with \"x\""));
        assert!(message(b"1 1=0").contains("\"1=0\", expected index:value"));
        assert!(message(b"1 2:0 2:0").contains("index 2 after 2"));
        assert!(message(b"1 0:0").contains("index 0"));
        assert!(message(b"1 4:0").contains("from 1 to 3"));
        assert!(message(b"\xff\xfe").contains("not text"));
        assert!(message(&vec![b' '; 1 << 17]).contains("longer than"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[0-9:. eE+\\-\\n]{0,80}") {
            let _ = all(text.as_bytes());
        }
    }
}
