//! Checksums of published files.

use std::fmt;
use std::path::Path;

use md5::Md5;
use zoo_model::files::{digest_file, sha256_file, FileError, Sha256};

/// A checksum, as its publisher gives it, in lower-case hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// SHA-256.
    Sha256(Sha256),
    /// MD5: it finds damage, but no forgery.
    Md5(&'static str),
}

impl Checksum {
    /// The SHA-256 that is written so, for constants.
    ///
    /// # Panics
    /// `hex` is not 64 hexadecimal digits in lower case.
    pub const fn sha256(hex: &str) -> Self {
        Self::Sha256(Sha256::literal(hex))
    }

    /// The same kind of checksum of a file.
    pub fn of(self, path: &Path) -> Result<String, FileError> {
        match self {
            Self::Sha256(_) => Ok(sha256_file(path)?.to_string()),
            Self::Md5(_) => Ok(hex::encode(digest_file::<Md5>(path)?)),
        }
    }

    /// Whether a file has it.
    pub fn matches(self, path: &Path) -> Result<bool, FileError> {
        Ok(self.of(path)? == self.to_string())
    }

    /// The name of its kind.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Sha256(_) => "SHA-256",
            Self::Md5(_) => "MD5",
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Sha256(sum) => sum.fmt(f),
            Self::Md5(sum) => f.write_str(sum),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_abc() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"abc").unwrap();
        let sha256 = Checksum::sha256("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let md5 = Checksum::Md5("900150983cd24fb0d6963f7d28e17f72");
        assert!(sha256.matches(&path).unwrap() && md5.matches(&path).unwrap());
        std::fs::write(&path, b"abd").unwrap();
        assert!(!sha256.matches(&path).unwrap() && !md5.matches(&path).unwrap());
    }
}
