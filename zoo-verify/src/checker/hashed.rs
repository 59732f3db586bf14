//! The content of an entry, hashed while it is read.

use std::io::{self, Read};

use zoo_model::files::{Sha256, Sha256Hasher};

/// A reader that hashes what passes and remembers what went wrong.
pub(super) struct Hashed<'a> {
    content: &'a mut dyn Read,
    hasher: Sha256Hasher,
    /// Bytes read so far.
    pub length: u64,
    pub error: Option<io::Error>,
}

impl<'a> Hashed<'a> {
    pub fn new(content: &'a mut dyn Read) -> Self {
        Self { content, hasher: Sha256Hasher::default(), length: 0, error: None }
    }

    /// All of an entry whose size was checked.
    pub fn read_small(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = self.read_to_end(&mut bytes);
        bytes
    }

    /// SHA-256 of what was read.
    pub fn finish(self) -> Sha256 {
        self.hasher.finish()
    }
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.content.read(buffer) {
            Ok(n) => {
                self.hasher.update(&buffer[..n]);
                self.length += n as u64;
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => {
                let kind = e.kind();
                self.error.get_or_insert(e);
                Err(kind.into())
            }
        }
    }
}
