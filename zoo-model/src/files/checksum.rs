//! Checksums of bytes, files and streams.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::str::FromStr;

use serde::{de, Deserialize, Deserializer, Serialize, Serializer};
use sha2::digest::Output;
use sha2::Digest;

use super::FileError;

/// A SHA-256, written as 64 hexadecimal digits in lower case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// The SHA-256 that is written so, for constants.
    ///
    /// # Panics
    /// `hex` is not 64 hexadecimal digits in lower case.
    pub const fn literal(hex: &str) -> Self {
        match Self::parse(hex.as_bytes()) {
            Some(sum) => sum,
            None => panic!("not 64 hexadecimal digits in lower case"),
        }
    }

    const fn parse(hex: &[u8]) -> Option<Self> {
        if hex.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        let mut i = 0;
        while i < 64 {
            let digit = match hex[i] {
                digit @ b'0'..=b'9' => digit - b'0',
                digit @ b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            bytes[i / 2] = bytes[i / 2] << 4 | digit;
            i += 1;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Sha256({self})")
    }
}

impl FromStr for Sha256 {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::parse(s.as_bytes()).ok_or_else(|| format!("`{s}` is not a SHA-256: 64 hexadecimal digits in lower case"))
    }
}

impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

/// SHA-256 of a file, read in pieces.
///
/// # Errors
/// The file cannot be read.
pub fn sha256_file(path: &Path) -> Result<Sha256, FileError> {
    Ok(Sha256(digest_file::<sha2::Sha256>(path)?.into()))
}

/// Another digest of a file, read in pieces.
///
/// # Errors
/// The file cannot be read.
pub fn digest_file<D: Digest>(path: &Path) -> Result<Output<D>, FileError> {
    let mut file = File::open(path).map_err(FileError::io("read", path))?;
    let mut hasher = D::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let n = file.read(&mut buffer).map_err(FileError::io("read", path))?;
        if n == 0 {
            return Ok(hasher.finalize());
        }
        hasher.update(&buffer[..n]);
    }
}

/// Computes the SHA-256 of bytes that come in pieces.
#[derive(Debug, Clone, Default)]
pub struct Sha256Hasher(sha2::Sha256);

impl Sha256Hasher {
    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The SHA-256 of all of them.
    pub fn finish(self) -> Sha256 {
        Sha256(self.0.finalize().into())
    }
}

/// A reader or writer that passes bytes on, and computes their length and SHA-256.
#[derive(Debug)]
pub struct Hashing<T> {
    inner: T,
    hasher: Sha256Hasher,
    length: u64,
}

impl<T> Hashing<T> {
    /// Reads from or writes to `inner`.
    pub fn new(inner: T) -> Self {
        Self { inner, hasher: Sha256Hasher::default(), length: 0 }
    }

    /// Number of bytes so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The inner reader or writer, the number of bytes, and their SHA-256.
    pub fn finish(self) -> (T, u64, Sha256) {
        (self.inner, self.length, self.hasher.finish())
    }

    fn add(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.add(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.add(&buffer[..n]);
        Ok(n)
    }
}

/// Fingerprint of any serialisable value: SHA-256 of its JSON.
pub fn fingerprint(value: &impl Serialize) -> String {
    sha256(&serde_json::to_vec(value).expect("plain data serialises")).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn sha256_of_abc() {
        assert_eq!(sha256(b"abc").to_string(), ABC);
        assert_eq!(sha256(b"abc"), const { Sha256::literal(ABC) });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(sha256_file(&path).unwrap(), sha256(b"abc"));
        let mut hashing = Hashing::new(&b"abc"[..]);
        assert_eq!(io::copy(&mut hashing, &mut io::sink()).unwrap(), 3);
        let (_, length, sum) = hashing.finish();
        assert_eq!((length, sum), (3, sha256(b"abc")));
    }

    #[test]
    fn a_sha256_is_64_lower_case_digits() {
        let sum: Sha256 = ABC.parse().unwrap();
        assert_eq!((sum.to_string(), serde_json::to_value(sum).unwrap()), (ABC.to_owned(), ABC.into()));
        assert_eq!(serde_json::from_value::<Sha256>(ABC.into()).unwrap(), sum);
        for wrong in ["", &ABC[1..], &format!("{ABC}0"), &ABC.to_uppercase(), &ABC.replace('b', "g")] {
            assert!(wrong.parse::<Sha256>().unwrap_err().contains("is not a SHA-256"), "{wrong}");
        }
    }
}
