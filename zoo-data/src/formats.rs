//! Readers of the file formats in which datasets are published. Each takes any bytes, believes no
//! size before it is checked, and answers a fault with a sentence.

pub mod archive;
pub mod idx;
pub mod libsvm;
pub mod mat;
pub mod picture;
pub mod records;

use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;

/// The content of a file that is plain, in gzip or in bzip2, told apart by its first bytes.
pub fn decompressed<'a>(stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut stream = BufReader::with_capacity(1 << 16, stream);
    Ok(match stream.fill_buf()? {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(stream)),
        [b'B', b'Z', b'h', ..] => Box::new(MultiBzDecoder::new(stream)),
        _ => Box::new(stream),
    })
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
