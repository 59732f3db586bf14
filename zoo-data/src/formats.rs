//! Readers of the file formats in which datasets are published. Each takes any bytes, believes no
//! size before it is checked, and answers a fault with a sentence.

pub mod archive;
pub mod idx;
pub mod libsvm;
pub mod mat;
pub mod picture;
pub mod records;

use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use bzip2::bufread::BzDecoder;
use flate2::bufread::GzDecoder;
use zoo_model::decoder::guarded;

/// The content of a file that is plain, in gzip or in bzip2, told apart by its first bytes. Members
/// are read as one stream, and what follows the last one is ignored, as gunzip and bunzip2 do.
pub fn decompressed<'a>(stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut stream = BufReader::with_capacity(1 << 16, stream);
    Ok(match stream.fill_buf()? {
        [0x1f, 0x8b, ..] => Box::new(Guarded(Members::new(stream, 0x1f, GzDecoder::new, GzDecoder::into_inner))),
        [b'B', b'Z', b'h', ..] => Box::new(Guarded(Members::new(stream, b'B', BzDecoder::new, BzDecoder::into_inner))),
        _ => Box::new(stream),
    })
}

/// The members of a compressed file, one after the other.
struct Members<R, D> {
    decoder: Option<D>,
    magic: u8,
    open: fn(R) -> D,
    close: fn(D) -> R,
}

impl<R, D> Members<R, D> {
    /// `magic` is the first byte of a member.
    fn new(stream: R, magic: u8, open: fn(R) -> D, close: fn(D) -> R) -> Self {
        Self { decoder: Some(open(stream)), magic, open, close }
    }
}

impl<R: BufRead, D: Read> Read for Members<R, D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = &mut self.decoder {
            let read = decoder.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let mut rest = self.decoder.take().map(self.close).expect("it was there");
            if rest.fill_buf()?.first() == Some(&self.magic) {
                self.decoder = Some((self.open)(rest));
            }
        }
        Ok(0)
    }
}

/// A decoder as a stream, whose panics are errors.
struct Guarded<R>(R);

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        guarded(|| self.0.read(buffer)).map_err(io::Error::other)?
    }
}

/// A stream that fails after `limit` bytes: what a bomb decompresses to.
struct Limited<R> {
    stream: R,
    left: u64,
}

impl<R: Read> Limited<R> {
    fn new(stream: R, limit: u64) -> Self {
        Self { stream, left: limit }
    }
}

impl<R: Seek> Seek for Limited<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.stream.seek(to)
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| io::Error::other("more bytes than allowed"))?;
        Ok(read)
    }
}

/// Reads a stream of at most `limit` bytes to its end.
fn read_to_limit(stream: impl Read, limit: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    stream
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("is damaged after {} bytes ({e})", bytes.len()))?;
    if bytes.len() as u64 > limit {
        return Err(format!("is larger than the {limit} bytes allowed for it"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bzip2::write::BzEncoder;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn bzip2(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn members_are_read_as_one_stream() {
        let read = |bytes: &[u8]| {
            let mut content = Vec::new();
            decompressed(bytes)?.read_to_end(&mut content).map(|_| content)
        };
        for compress in [gzip, bzip2] {
            // An empty last member, as bgzip writes it, padding, and other bytes change nothing.
            let members = [compress(b"one, "), compress(b""), compress(b"two"), compress(b"")].concat();
            for rest in [&b""[..], &[0; 512], b"garbage"] {
                assert_eq!(read(&[&members[..], rest].concat()).unwrap(), b"one, two");
            }
            let many: Vec<u8> = (0..5000u32).flat_map(|i| compress(&i.to_le_bytes())).collect();
            assert_eq!(read(&many).unwrap().len(), 20_000);
            let last = compress(b"two");
            for cut in 1..last.len() {
                assert!(read(&[&compress(b"one, ")[..], &last[..cut]].concat()).is_err(), "cut at {cut}");
            }
        }
    }

    #[test]
    fn a_panic_is_an_error_of_the_bytes() {
        struct Panics;
        impl Read for Panics {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                panic!("not printed")
            }
        }
        assert!(Guarded(Panics).read(&mut [0]).unwrap_err().to_string().contains("decoder crashed"));
    }
}
