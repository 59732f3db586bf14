//! IDX, the format of MNIST and Fashion-MNIST: a magic number, big-endian dimensions, bytes.

use std::io::Read;

use super::decompressed;

/// Maximum number of bytes of data in one file: far above any published one, below any machine's memory.
const SIZE_LIMIT: usize = 1 << 30;

/// An array of unsigned bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idx {
    /// One to three dimensions.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub data: Vec<u8>,
}

/// Parses an IDX file, plain or compressed (told apart by its first bytes).
///
/// # Errors
/// A sentence that says what is wrong. No more is inflated than the header declares.
///
/// ```
/// let file = [0, 0, 8, 1, 0, 0, 0, 2, 7, 9];
/// assert_eq!(zoo_data::formats::idx::parse(&file).unwrap().data, [7, 9]);
/// ```
pub fn parse(bytes: &[u8]) -> Result<Idx, String> {
    read(&mut decompressed(bytes).map_err(|e| format!("its header cannot be read ({e})"))?)
}

fn read(stream: &mut impl Read) -> Result<Idx, String> {
    let mut word = || {
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).map(|()| bytes).map_err(|e| format!("its header cannot be read ({e})"))
    };
    let [zero0, zero1, kind, dimensions] = word()?;
    if (zero0, zero1) != (0, 0) {
        return Err("it is not an IDX file: that begins with two zero bytes".into());
    }
    if kind != 8 || !(1..=3).contains(&dimensions) {
        return Err(format!("it holds type {kind} in {dimensions} dimensions, expected unsigned bytes (8) in 1 to 3"));
    }
    let shape: Vec<usize> =
        (0..dimensions).map(|_| word().map(|b| u32::from_be_bytes(b) as usize)).collect::<Result<_, _>>()?;
    let length = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n)).filter(|&n| n <= SIZE_LIMIT);
    let length = length.ok_or_else(|| format!("its dimensions {shape:?} are impossibly large"))?;
    let mut data = Vec::new();
    let taken = stream.take(length as u64 + 1).read_to_end(&mut data);
    taken.map_err(|e| format!("it is damaged after {} of {length} bytes ({e})", data.len()))?;
    match data.len() {
        n if n < length => Err(format!("it is truncated: its dimensions {shape:?} need {length} bytes, {n} are there")),
        n if n > length => Err(format!("it is longer than the {length} bytes of its dimensions {shape:?}")),
        _ => Ok(Idx { shape, data }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{write::GzEncoder, Compression};
    use proptest::prelude::*;
    use std::io::Write;

    fn file(shape: &[u32], data: &[u8]) -> Vec<u8> {
        let mut out = vec![0, 0, 8, shape.len() as u8];
        out.extend(shape.iter().flat_map(|n| n.to_be_bytes()));
        out.extend(data);
        out
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn faults_are_named() {
        let whole = file(&[2, 3], &[1, 2, 3, 4, 5, 6]);
        assert_eq!(parse(&whole).unwrap(), parse(&gzip(&whole)).unwrap());
        let message = |bytes: &[u8]| parse(bytes).unwrap_err();
        assert!(message(&whole[..9]).contains("header"));
        assert!(message(&whole[..15]).contains("truncated"));
        assert!(message(&gzip(&whole)[..20]).contains("header") || message(&gzip(&whole)[..20]).contains("damaged"));
        assert!(message(&file(&[2], &[1, 2, 3])).contains("longer"));
        assert!(message(b"PK\x03\x04").contains("not an IDX file"));
        assert!(message(&[0, 0, 13, 1, 0, 0, 0, 1]).contains("type 13"));
        assert!(message(&file(&[u32::MAX, u32::MAX, u32::MAX], &[])).contains("impossibly large"));
        assert!(message(b"").contains("header"));
    }

    #[test]
    fn files_in_several_members_are_whole() {
        let whole = file(&[2, 3], &[1, 2, 3, 4, 5, 6]);
        for cut in 0..=whole.len() {
            let (a, b) = whole.split_at(cut);
            assert_eq!(parse(&[gzip(a), gzip(b)].concat()), parse(&whole), "cut at {cut}");
        }
        let longer = [gzip(&whole), gzip(&[7])].concat();
        assert!(parse(&longer).unwrap_err().contains("longer"));
    }

    #[test]
    fn a_gzip_bomb_stops_at_the_declared_size() {
        let bomb = gzip(&file(&[10], &vec![0; 50 << 20]));
        assert!(parse(&bomb).unwrap_err().contains("longer"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&bytes);
            let _ = parse(&gzip(&bytes));
        }
    }
}
