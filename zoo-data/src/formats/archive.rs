//! Archives, read where they lie: nothing is unpacked, so that no path in them can do harm.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek};
use std::sync::Arc;

use zip::read::{ZipArchive, ZipArchiveMetadata, ZipReadOptions};
use zoo_model::decoder::guarded;
use zoo_model::files::is_system_file;

use super::{decompressed, read_to_limit, Limited};

/// Maximum number of bytes that a tar archive may decompress to (STL-10 takes 3.2 GB).
const TAR_LIMIT: u64 = 8 << 30;
/// Maximum number of bytes that are read for a zip archive's list of files (Tiny ImageNet's 120,609 take 13 MB).
const ZIP_LIST_LIMIT: u64 = 64 << 20;

/// The content of the named files of a tar archive, plain or compressed, in the order of `wanted`.
///
/// # Errors
/// A sentence: the archive is damaged or too large, a file is not in it, occurs twice, or is
/// larger than `limit` bytes.
pub fn tar_files(stream: impl Read, wanted: &[&str], limit: u64) -> Result<Vec<Vec<u8>>, String> {
    guarded(|| tar_files_unguarded(stream, wanted, limit)).map_err(|e| format!("it is damaged ({e})"))?
}

fn tar_files_unguarded(stream: impl Read, wanted: &[&str], limit: u64) -> Result<Vec<Vec<u8>>, String> {
    let damaged = |e: io::Error| format!("it is damaged, or not a tar archive ({e})");
    let stream = Limited::new(decompressed(stream).map_err(damaged)?, TAR_LIMIT);
    let mut archive = tar::Archive::new(stream);
    let mut found: Vec<Option<Vec<u8>>> = vec![None; wanted.len()];
    // Raw: long names, which nothing wanted has, would be read into memory whatever their length.
    for entry in archive.entries().map_err(damaged)?.raw(true) {
        let entry = entry.map_err(damaged)?;
        let path = entry.path_bytes();
        let path = path.strip_prefix(b"./").unwrap_or(&path);
        let Some(at) = wanted.iter().position(|w| w.as_bytes() == path) else { continue };
        let wrong = |what: String| format!("its file {} {what}", wanted[at]);
        if !entry.header().entry_type().is_file() {
            return Err(wrong("is not a regular file".into()));
        }
        if found[at].is_some() {
            return Err(wrong("occurs twice".into()));
        }
        let size = entry.header().size().map_err(damaged)?;
        let content = read_to_limit(entry, limit).map_err(wrong)?;
        if content.len() as u64 != size {
            return Err(wrong(format!("is truncated: {} of {size} bytes are there", content.len())));
        }
        found[at] = Some(content);
    }
    // The checksum of a compressed file is at its end.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(damaged)?;
    let missing = |(content, name): (Option<Vec<u8>>, &&str)| content.ok_or_else(|| format!("it has no file {name}"));
    found.into_iter().zip(wanted).map(missing).collect()
}

/// A zip archive: its files by path, without those that file managers add.
pub struct Zip<R> {
    stream: R,
    list: Arc<ZipArchiveMetadata>,
    files: BTreeMap<String, usize>,
}

impl<R: Read + Seek> Zip<R> {
    /// Reads the list of files.
    ///
    /// # Errors
    /// A sentence: the archive is damaged, its list is too long, or names a file twice.
    pub fn open(mut stream: R) -> Result<Self, String> {
        let damaged = |e: zip::result::ZipError| format!("it is damaged, or not a zip archive ({e})");
        let list = guarded(|| ZipArchive::new(Limited::new(&mut stream, ZIP_LIST_LIMIT)).map(|zip| zip.metadata()));
        let list = list.map_err(|e| format!("it is damaged ({e})"))?.map_err(damaged)?;
        if list.has_duplicate_names() {
            return Err("it lists a file twice".into());
        }
        let mut files = BTreeMap::new();
        for index in 0..list.len() {
            let entry = list.entry(index).map_err(damaged)?;
            let path = entry.name().map_err(damaged)?;
            if entry.is_file() && !path.split('/').any(is_system_file) {
                files.insert(path.into_owned(), index);
            }
        }
        Ok(Self { stream, list, files })
    }

    /// Paths of the files, sorted.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The content of a file of at most `limit` bytes.
    ///
    /// # Errors
    /// A sentence: there is no such file, it is damaged, too large, or encrypted.
    pub fn read(&mut self, path: &str, limit: u64) -> Result<Vec<u8>, String> {
        let index = *self.files.get(path).ok_or_else(|| format!("it has no file {path}"))?;
        let wrong = |what: String| format!("its file {path} {what}");
        let content = guarded(|| {
            let entry = self.list.entry(index).and_then(|e| e.with_reader(&mut self.stream, ZipReadOptions::new()));
            read_to_limit(entry.map_err(|e| format!("cannot be read ({e})"))?, limit)
        });
        content.map_err(|e| format!("is damaged ({e})")).flatten().map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{write::GzEncoder, Compression};
    use proptest::prelude::*;
    use std::io::{Cursor, Write};
    use zip::write::SimpleFileOptions;

    fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, path, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (path, content) in files {
            writer.start_file(*path, SimpleFileOptions::default()).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    #[test]
    fn files_of_a_tar_are_found_in_any_order() {
        let tar = tar_of(&[("d/b", b"bb"), ("d/a", b"a"), ("d/c", b"")]);
        for bytes in [tar.clone(), gzip(&tar)] {
            assert_eq!(tar_files(&bytes[..], &["d/a", "d/b"], 2).unwrap(), [b"a".to_vec(), b"bb".to_vec()]);
        }
        let message = |bytes: &[u8], wanted: &str| tar_files(bytes, &[wanted], 2).unwrap_err();
        assert!(message(&tar, "d/x").contains("no file d/x"));
        assert!(message(&gzip(&tar)[..40], "d/c").contains("damaged"));
        assert!(message(&tar_of(&[("d/a", b"aaa")]), "d/a").contains("larger than the 2 bytes"));
        assert!(message(b"not a tar, not at all", "d/a").contains("damaged"));
        assert!(
            message(&tar[..513], "d/b").contains("d/b is damaged") || message(&tar[..513], "d/b").contains("truncated")
        );
        let twice = tar_of(&[("a", b"1"), ("a", b"2"), ("b", b"3")]);
        assert!(tar_files(&twice[..], &["a", "b"], 2).unwrap_err().contains("occurs twice"));
    }

    #[test]
    fn files_of_a_zip_are_read_within_their_limit() {
        let bytes = zip_of(&[("d/b.txt", b"bb"), ("../a.txt", b"a"), ("c.bin", &vec![0; 1 << 20])]);
        let mut zip = Zip::open(Cursor::new(&bytes)).unwrap();
        assert_eq!(zip.paths().collect::<Vec<_>>(), ["../a.txt", "c.bin", "d/b.txt"]);
        assert_eq!(zip.read("../a.txt", 9).unwrap(), b"a");
        assert!(zip.read("c.bin", 1000).unwrap_err().contains("c.bin is larger than the 1000 bytes"));
        assert!(zip.read("d/x.txt", 9).unwrap_err().contains("no file"));
        let open = |bytes: &[u8]| Zip::open(Cursor::new(bytes.to_vec())).map(|_| ()).unwrap_err();
        assert!(open(&bytes[..bytes.len() - 30]).contains("not a zip archive"));
        assert!(open(b"").contains("not a zip archive"));
        let mut damaged = bytes.clone();
        damaged[40] ^= 0xff;
        let mut zip = Zip::open(Cursor::new(damaged)).unwrap();
        assert!(zip.read("d/b.txt", 9).is_err());
    }

    #[test]
    fn what_file_managers_add_is_passed_over() {
        let added = ["__MACOSX/._d", "__MACOSX/d/._a", "d/.DS_Store", "d/._a", "d/Thumbs.db", "d/.AppleDouble/a"];
        let mut files: Vec<(&str, &[u8])> = added.iter().map(|&path| (path, &b"x"[..])).collect();
        files.push(("d/a", b"a"));
        let bytes = zip_of(&files);
        let mut zip = Zip::open(Cursor::new(&bytes)).unwrap();
        assert_eq!(zip.paths().collect::<Vec<_>>(), ["d/a"]);
        assert_eq!(zip.read("d/a", 9).unwrap(), b"a");
        assert_eq!(tar_files(&tar_of(&files)[..], &["d/a"], 9).unwrap(), [b"a"]);
    }

    #[test]
    fn a_zip_that_lists_a_file_twice_is_refused() {
        let mut bytes = zip_of(&[("a", b"1"), ("b", b"2")]);
        let at: Vec<usize> = (0..bytes.len()).filter(|&i| bytes[i] == b'b').collect();
        at.into_iter().for_each(|i| bytes[i] = b'a');
        assert!(Zip::open(Cursor::new(bytes)).map(|_| ()).unwrap_err().contains("a file twice"));
    }

    proptest! {
        #[test]
        fn no_damage_makes_the_readers_panic(at in 0usize..4000, bytes in proptest::collection::vec(any::<u8>(), 1..8)) {
            let mut tar = tar_of(&[("d/b", b"bb"), ("d/a", b"a")]);
            let mut zip = zip_of(&[("d/b", b"bb"), ("d/a", b"a")]);
            for archive in [&mut tar, &mut zip] {
                let length = archive.len();
                bytes.iter().enumerate().for_each(|(i, b)| archive[(at + i) % length] = *b);
            }
            let _ = tar_files(&tar[..], &["d/a", "d/b"], 100);
            if let Ok(mut zip) = Zip::open(Cursor::new(zip)) {
                for path in zip.paths().map(str::to_owned).collect::<Vec<_>>() {
                    let _ = zip.read(&path, 100);
                }
            }
        }
    }
}
