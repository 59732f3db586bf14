//! MAT-files of level 5, the format of SVHN: named arrays, each in a zlib stream of its own.
//!
//! After "MAT-File Format" (The MathWorks): a header of 128 bytes, then data elements, each a tag
//! (type and length) and its data. What is read here are numeric arrays stored as unsigned bytes,
//! of little-endian files; other variables are skipped.

use std::io::{self, Read};

use flate2::read::ZlibDecoder;

use super::Guarded;

/// Maximum number of bytes of one array: far above any published one, below any machine's memory.
const SIZE_LIMIT: usize = 1 << 30;
const HEADER: usize = 128;
const UINT8: u32 = 2;
const INT8: u32 = 1;
const INT32: u32 = 5;
const UINT32: u32 = 6;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;

/// An array of unsigned bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Two or more dimensions.
    pub shape: Vec<usize>,
    /// Column-major values: the first index varies fastest.
    pub data: Vec<u8>,
}

/// Reads the named variables, in the order of `names`.
///
/// # Errors
/// A sentence that says what is wrong: not a MAT-file, damaged, a variable missing, there twice, or
/// stored as anything but unsigned bytes.
pub fn read(stream: impl Read, names: &[&str]) -> Result<Vec<Variable>, String> {
    let mut stream = stream;
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).map_err(|e| format!("its header cannot be read ({e})"))?;
    match header[124..] {
        [_, 1, b'I', b'M'] => {}
        [1, _, b'M', b'I'] => return Err("it is a big-endian MAT-file, expected a little-endian one".into()),
        _ => return Err("it is not a MAT-file of level 5 (SVHN is published in that format)".into()),
    }
    let mut found: Vec<Option<Variable>> = vec![None; names.len()];
    while found.iter().any(Option::is_none) {
        let Some((kind, length)) = tag(&mut stream).map_err(damaged)? else { break };
        let mut element = (&mut stream).take(length.into());
        let variable = match kind {
            COMPRESSED => {
                let mut inflated = Guarded(ZlibDecoder::new(&mut element));
                match tag(&mut inflated).map_err(damaged)? {
                    Some((MATRIX, length)) => {
                        let variable = matrix(&mut (&mut inflated).take(length.into()), names)?;
                        variable.map(|v| end(&mut inflated).map(|()| v)).transpose()?
                    }
                    _ => None,
                }
            }
            MATRIX => matrix(&mut element, names)?,
            _ => None,
        };
        if let Some(variable) = variable {
            let slot = &mut found[names.iter().position(|n| *n == variable.name).expect("a wanted one")];
            if slot.is_some() {
                return Err(format!("it holds `{}` twice", variable.name));
            }
            *slot = Some(variable);
        }
        io::copy(&mut element, &mut io::sink()).map_err(damaged)?;
        if element.limit() > 0 {
            return Err("it is truncated".into());
        }
    }
    let missing =
        |(variable, name): (Option<Variable>, &&str)| variable.ok_or_else(|| format!("it has no variable `{name}`"));
    found.into_iter().zip(names).map(missing).collect()
}

fn damaged(error: io::Error) -> String {
    format!("it is damaged ({error})")
}

/// Reads the padding after an array to the end of its zlib stream, whose checksum is checked there.
fn end(inflated: &mut impl Read) -> Result<(), String> {
    let mut padding = Vec::new();
    inflated.take(8).read_to_end(&mut padding).map_err(damaged)?;
    match padding.len() {
        8 => Err("it is damaged: an array is longer than its dimensions".into()),
        _ => Ok(()),
    }
}

/// Type and length of the next element; `None` at the end of the file.
fn tag(stream: &mut impl Read) -> io::Result<Option<(u32, u32)>> {
    let mut bytes = Vec::with_capacity(8);
    stream.take(8).read_to_end(&mut bytes)?;
    match *bytes.as_slice() {
        [] => Ok(None),
        [a, b, c, d, e, f, g, h] => Ok(Some((u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])))),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// One array, if it is wanted.
fn matrix(stream: &mut impl Read, names: &[&str]) -> Result<Option<Variable>, String> {
    small(stream, UINT32, 8, "array flags")?;
    let dimensions = small(stream, INT32, 4 * 32, "dimensions")?;
    let name = small(stream, INT8, 64, "name")?;
    let Some(name) = names.iter().find(|n| n.as_bytes() == name) else { return Ok(None) };
    let wrong = |what: String| format!("its variable `{name}` {what}");
    let lengths = dimensions.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let shape: Option<Vec<usize>> = lengths.clone().map(|n| usize::try_from(n).ok()).collect();
    let size = |shape: &Vec<usize>| shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
    let Some((shape, size)) = shape.and_then(|s| size(&s).filter(|&n| n <= SIZE_LIMIT).map(|n| (s, n))) else {
        return Err(wrong(format!("has impossible dimensions {:?}", lengths.collect::<Vec<_>>())));
    };
    let data = match first_of_element(stream).map_err(damaged)? {
        (UINT8, length, Some(inline)) => inline[..length as usize].to_vec(),
        (UINT8, length, None) if length as usize == size => {
            let mut data = Vec::new();
            stream.take(length.into()).read_to_end(&mut data).map_err(|e| wrong(format!("is damaged ({e})")))?;
            data
        }
        (UINT8, length, None) => return Err(wrong(format!("has dimensions {shape:?}, but {length} bytes"))),
        (kind, ..) => return Err(wrong(format!("is stored as type {kind}, expected unsigned bytes ({UINT8})"))),
    };
    if data.len() != size {
        return Err(wrong(format!(
            "is truncated: its dimensions {shape:?} need {size} bytes, {} are there",
            data.len()
        )));
    }
    Ok(Some(Variable { name: (*name).to_owned(), shape, data }))
}

/// Type, length and, if they stand in the tag itself, the bytes of an element of up to four bytes.
fn first_of_element(stream: &mut impl Read) -> io::Result<(u32, u32, Option<[u8; 4]>)> {
    let (kind, length) = tag(stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    match kind >> 16 {
        0 => Ok((kind, length, None)),
        inline @ 1..=4 => Ok((kind & 0xffff, inline, Some(length.to_le_bytes()))),
        _ => Err(io::Error::other("an element in its tag has more than four bytes")),
    }
}

/// An element of at most `limit` bytes and its padding to a multiple of eight.
fn small(stream: &mut impl Read, expected: u32, limit: u32, what: &str) -> Result<Vec<u8>, String> {
    let (kind, length, inline) = first_of_element(stream).map_err(damaged)?;
    if kind != expected || length > limit {
        return Err(format!("it is damaged: an array's {what} are of type {kind} and {length} bytes"));
    }
    if let Some(inline) = inline {
        return Ok(inline[..length as usize].to_vec());
    }
    let mut bytes = vec![0; length.next_multiple_of(8) as usize];
    stream.read_exact(&mut bytes).map_err(damaged)?;
    bytes.truncate(length as usize);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{write::ZlibEncoder, Compression};
    use proptest::prelude::*;
    use std::io::Write;

    fn element(kind: u32, data: &[u8]) -> Vec<u8> {
        let mut out = [kind.to_le_bytes(), (data.len() as u32).to_le_bytes()].concat();
        out.extend(data);
        if kind != COMPRESSED {
            out.resize(out.len().next_multiple_of(8), 0);
        }
        out
    }

    fn array(name: &str, shape: &[i32], data: &[u8]) -> Vec<u8> {
        let dimensions: Vec<u8> = shape.iter().flat_map(|n| n.to_le_bytes()).collect();
        let parts = [
            element(UINT32, &[9, 0, 0, 0, 0, 0, 0, 0]),
            element(INT32, &dimensions),
            element(INT8, name.as_bytes()),
            element(UINT8, data),
        ];
        element(MATRIX, &parts.concat())
    }

    fn compressed(array: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(array).unwrap();
        element(COMPRESSED, &encoder.finish().unwrap())
    }

    fn file(elements: &[Vec<u8>]) -> Vec<u8> {
        let mut out = vec![b' '; HEADER - 4];
        out.extend([0, 1, b'I', b'M']);
        out.extend(elements.concat());
        out
    }

    fn sound() -> [Vec<u8>; 2] {
        [array("X", &[2, 3], &[1, 2, 3, 4, 5, 6]), array("y", &[1, 1], &[7])]
    }

    #[test]
    fn plain_and_compressed_arrays_are_the_same() {
        let [x, y] = sound();
        let plain = read(&file(&[y.clone(), x.clone()])[..], &["X", "y"]).unwrap();
        assert_eq!(plain[0], Variable { name: "X".into(), shape: vec![2, 3], data: vec![1, 2, 3, 4, 5, 6] });
        assert_eq!(plain[1].data, [7]);
        let other = compressed(&array("meta", &[1, 1], &[0]));
        assert_eq!(read(&file(&[other, compressed(&x), compressed(&y)])[..], &["X", "y"]).unwrap(), plain);
    }

    #[test]
    fn faults_are_named() {
        let [x, y] = sound();
        let message = |bytes: &[u8]| read(bytes, &["X", "y"]).unwrap_err();
        let whole = file(&[compressed(&x), compressed(&y)]);
        assert!(message(&whole[..100]).contains("header"));
        assert!(message(&whole[..HEADER + 4]).contains("damaged"));
        assert!(message(&whole[..HEADER + 20]).contains("damaged"));
        assert!(message(&file(&[x.clone(), y.clone()])[..HEADER + 67]).contains("truncated"));
        assert!(message(&[0; 200]).contains("not a MAT-file"));
        assert!(message(&file(std::slice::from_ref(&x))).contains("no variable `y`"));
        assert!(message(&file(&[x.clone(), x])).contains("`X` twice"));
        assert!(message(&file(&[array("X", &[-1, 3], &[])])).contains("impossible dimensions [-1, 3]"));
        assert!(message(&file(&[array("X", &[i32::MAX; 4], &[])])).contains("impossible dimensions"));
        assert!(message(&file(&[array("X", &[2, 2], &[1, 2, 3, 4, 5])])).contains("[2, 2], but 5 bytes"));
        let double = element(9, &[0; 8]);
        let mut typed = array("X", &[1, 1], &[]);
        typed.truncate(typed.len() - 8);
        typed.extend(&double);
        let length = typed.len() as u32 - 8;
        typed[4..8].copy_from_slice(&length.to_le_bytes());
        assert!(message(&file(&[typed])).contains("stored as type 9"));
    }

    #[test]
    fn a_bomb_stops_at_the_declared_size() {
        let mut lying = array("X", &[2, 3], &[1, 2, 3, 4, 5, 6]);
        lying.extend(vec![0; 50 << 20]);
        let [_, y] = sound();
        assert!(read(&file(&[compressed(&lying), y])[..], &["X", "y"]).unwrap_err().contains("longer than"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..150) {
            let _ = read(&file(std::slice::from_ref(&bytes))[..], &["X", "y"]);
            let _ = read(&file(&[compressed(&bytes)])[..], &["X", "y"]);
            // Damage within a sound file gets further.
            let [x, y] = sound();
            let mut whole = file(&[x, y]);
            let end = whole.len();
            for (i, b) in bytes.iter().take(4).enumerate() {
                whole[(HEADER + at + i) % end] = *b;
            }
            let _ = read(&whole[..], &["X", "y"]);
        }
    }
}
