//! The tar stream inside an archive: written in one way, read without trust.

use std::io::{self, Read};
use std::path::Path;

use tar::{EntryType, Header};
use zoo_model::files::FileError;

use crate::members::Decoded;

/// Modification time of every entry: 1980-01-01 00:00:00 UTC.
pub const MTIME: u64 = 315_532_800;

const BLOCK: u64 = 512;

/// The header that packing writes: a plain ustar file of mode 0644, owner 0 and fixed time.
///
/// # Errors
/// The path is too long for ustar's prefix and name.
pub fn header(path: &str, size: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_path(path)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(MTIME);
    header.set_cksum();
    Ok(header)
}

/// Zeros that fill an entry of this size up to whole blocks.
pub fn padding(size: u64) -> usize {
    (size.next_multiple_of(BLOCK) - size) as usize
}

/// A regular file in an archive, in order, its path harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The one folder that everything lies in.
    pub folder: String,
    /// Path below it.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Where its header begins in the decoded stream.
    pub start: u64,
}

/// Something that packing would not have written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The path as it stands there, or what is known of it.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// Whether nothing after it can be read.
    pub fatal: bool,
}

impl Fault {
    /// As an error about the archive file at `path`.
    pub fn in_archive(&self, path: &Path) -> FileError {
        let entry = if self.path.is_empty() { String::new() } else { format!("{}: ", self.path) };
        FileError::format(path, format!("{entry}{}; verify the archive", self.message))
    }
}

/// Walks a tar stream entry by entry. Where a damaged member swallowed headers, it resumes at the
/// next sound one.
///
/// ```no_run
/// use std::io::Read;
/// use zoo_pack::{entries::Entries, members::decode};
///
/// let file = std::fs::File::open("quickstart.tar.gz")?;
/// decode(file, 2, |decoded| {
///     let mut entries = Entries::new(decoded);
///     while let Some(entry) = entries.next_entry() {
///         let entry = entry.expect("a sound archive");
///         let mut content = Vec::new();
///         entries.content().read_to_end(&mut content).expect("a sound archive");
///         println!("{} {}", entry.path, content.len());
///     }
/// });
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Entries<'a> {
    stream: &'a mut Decoded,
    folder: Option<String>,
    /// Bytes of the current entry's content that were not read, and its padding.
    left: u64,
    padding: u64,
    current: String,
    ended: bool,
    /// A header was lost to damage: blocks are skipped until the next sound one.
    lost: bool,
}

impl<'a> Entries<'a> {
    /// The entries of a decoded stream.
    pub fn new(stream: &'a mut Decoded) -> Self {
        Self { stream, folder: None, left: 0, padding: 0, current: String::new(), ended: false, lost: false }
    }

    /// The decoded stream, for its damage and position.
    pub fn stream(&self) -> &Decoded {
        self.stream
    }

    /// The content of the entry that [`next_entry`](Self::next_entry) returned last.
    pub fn content(&mut self) -> Content<'_, 'a> {
        Content(self)
    }

    /// The next entry; `None` after the end of the archive, or after a fatal fault.
    pub fn next_entry(&mut self) -> Option<Result<Entry, Fault>> {
        if self.ended {
            return None;
        }
        let outcome = self.step();
        match &outcome {
            Some(Err(fault)) if fault.fatal => self.ended = true,
            None => self.ended = true,
            _ => {}
        }
        outcome
    }

    fn step(&mut self) -> Option<Result<Entry, Fault>> {
        if let Err(message) = self.leave() {
            return Some(Err(self.fatal(message)));
        }
        loop {
            let start = self.stream.position();
            let block = match self.block() {
                Ok(block) => block,
                Err(message) => return Some(Err(after_all(message))),
            };
            let damaged = self.stream.is_damaged(start);
            if block.iter().all(|&b| b == 0) {
                if damaged {
                    continue;
                }
                return self.end().err().map(|message| Err(after_all(message)));
            }
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(&block);
            if is_sound(&header) {
                self.lost = false;
                return Some(self.entry(&header, start));
            }
            if !damaged && !self.lost {
                let message = format!("a tar header's checksum is wrong at byte {start} of the unpacked archive");
                return Some(Err(self.fatal(message)));
            }
            self.lost = true;
        }
    }

    fn entry(&mut self, header: &Header, start: u64) -> Result<Entry, Fault> {
        let path = String::from_utf8_lossy(&header.path_bytes()).into_owned();
        self.current.clone_from(&path);
        let size = match header.entry_size() {
            Ok(size) if size < 1 << 48 => size,
            _ => return Err(self.fatal("its size is impossible".into())),
        };
        (self.left, self.padding) = (size, padding(size) as u64);
        let fault = |message: &str| Fault { path: path.clone(), message: message.into(), fatal: false };
        let kind = header.entry_type();
        if kind != EntryType::Regular {
            return Err(fault(&format!("is a {}; only regular files are allowed", kind_name(kind))));
        }
        let bytes = header.path_bytes();
        let text = std::str::from_utf8(&bytes).map_err(|_| fault("its path is not UTF-8"))?;
        check_path(text).map_err(fault)?;
        let (folder, inner) = text.split_once('/').ok_or_else(|| fault("lies outside the zoo's folder"))?;
        if *self.folder.get_or_insert_with(|| folder.to_owned()) != folder {
            return Err(fault("lies in another folder than the entries before it"));
        }
        Ok(Entry { folder: folder.to_owned(), path: inner.to_owned(), size, start })
    }

    /// Skips what is left of the current entry.
    fn leave(&mut self) -> Result<(), String> {
        let left = std::mem::take(&mut self.left);
        let skipped = io::copy(&mut self.stream.take(left), &mut io::sink()).map_err(|e| e.to_string())?;
        let mut padding = Vec::new();
        let expected = std::mem::take(&mut self.padding);
        self.stream.take(expected).read_to_end(&mut padding).map_err(|e| e.to_string())?;
        if skipped < left || (padding.len() as u64) < expected {
            return Err("the archive ends in the middle of it".into());
        }
        if padding.iter().any(|&b| b != 0) && !self.stream.is_damaged(self.stream.position() - expected) {
            return Err("the padding of its last block is not zero".into());
        }
        Ok(())
    }

    fn block(&mut self) -> Result<[u8; BLOCK as usize], String> {
        let mut block = [0; BLOCK as usize];
        let short = |_| "the archive ends without its end mark, or within a tar header".to_owned();
        self.stream.read_exact(&mut block).map_err(short).map(|()| block)
    }

    /// After the first zero block: a second one, and nothing but zeros.
    fn end(&mut self) -> Result<(), String> {
        if self.block()?.iter().any(|&b| b != 0) {
            return Err("the end mark has one zero block instead of two".into());
        }
        let mut rest = [0; 1 << 12];
        for _ in 0..256 {
            match self.stream.read(&mut rest) {
                Ok(0) => return Ok(()),
                Ok(n) if rest[..n].iter().all(|&b| b == 0) => {}
                Ok(_) => return Err("unexpected data follows the end of the archive".into()),
                Err(e) => return Err(e.to_string()),
            }
        }
        Err("more than a megabyte of zeros follows the end of the archive".into())
    }

    fn fatal(&self, message: String) -> Fault {
        Fault { path: self.current.clone(), message, fatal: true }
    }
}

/// A fault after the current entry, which is sound.
fn after_all(message: String) -> Fault {
    Fault { path: String::new(), message, fatal: true }
}

/// Reads the content of an entry; see [`Entries::content`].
pub struct Content<'b, 'a>(&'b mut Entries<'a>);

impl Read for Content<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let max = self.0.left.min(buffer.len() as u64) as usize;
        let n = self.0.stream.read(&mut buffer[..max])?;
        self.0.left -= n as u64;
        Ok(n)
    }
}

/// Whether a header's checksum is that of its bytes.
fn is_sound(header: &Header) -> bool {
    let byte = |i: usize, &b: &u8| u32::from(if (148..156).contains(&i) { b' ' } else { b });
    let expected: u32 = header.as_bytes().iter().enumerate().map(|(i, b)| byte(i, b)).sum();
    header.cksum().is_ok_and(|found| found == expected)
}

/// A path must stay below the folder that an archive is unpacked in, on every system.
fn check_path(path: &str) -> Result<(), &'static str> {
    if path.starts_with('/') {
        return Err("its path is absolute");
    }
    if path.contains(['\\', '\0', ':']) || path.chars().any(char::is_control) {
        return Err("its path holds a backslash, colon or control character");
    }
    if path.split('/').any(|part| part == "..") {
        return Err("its path contains `..`");
    }
    if path.split('/').any(|part| part.is_empty() || part == ".") {
        return Err("its path has an empty part");
    }
    Ok(())
}

fn kind_name(kind: EntryType) -> String {
    let name = match kind {
        EntryType::Link => "hard link",
        EntryType::Symlink => "symbolic link",
        EntryType::Char | EntryType::Block => "device",
        EntryType::Directory => "folder entry",
        EntryType::Fifo => "named pipe",
        EntryType::GNULongName | EntryType::GNULongLink | EntryType::GNUSparse => "GNU extension",
        EntryType::XGlobalHeader | EntryType::XHeader => "pax extension",
        other => return format!("tar entry of type {:#04x}", other.as_byte()),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::{compress_stream, decode};
    use std::io::Write;

    fn walk(tar: &[u8]) -> (Vec<Entry>, Vec<Fault>) {
        let mut archive = Vec::new();
        compress_stream(&mut archive, 1, 1, |p| p.write_all(tar)).unwrap();
        let walked = decode(&archive[..], 1, |decoded| {
            let mut entries = Entries::new(decoded);
            let (mut sound, mut faults) = (Vec::new(), Vec::new());
            while let Some(entry) = entries.next_entry() {
                match entry {
                    Ok(entry) => sound.push(entry),
                    Err(fault) => faults.push(fault),
                }
            }
            (sound, faults)
        });
        walked.0
    }

    fn file(path: &str, content: &[u8]) -> Vec<u8> {
        let mut out = header(path, content.len() as u64).unwrap().as_bytes().to_vec();
        out.extend(content);
        out.resize(out.len() + padding(content.len() as u64), 0);
        out
    }

    /// A header whose path is set byte by byte, as an attacker would.
    fn raw(path: &[u8], kind: EntryType) -> Vec<u8> {
        let mut header = header("z/x", 0).unwrap();
        header.set_entry_type(kind);
        let field = &mut header.as_mut_bytes()[..100];
        field.fill(0);
        field[..path.len()].copy_from_slice(path);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    fn ended(parts: &[Vec<u8>]) -> Vec<u8> {
        [parts.concat(), vec![0; 1024]].concat()
    }

    #[test]
    fn sound_entries_are_listed() {
        let long = format!("{}/models/000000/params.json", "n".repeat(90));
        for folder in ["z", long.split('/').next().unwrap()] {
            let path = |p: &str| format!("{folder}/{p}");
            let (sound, faults) =
                walk(&ended(&[file(&path("zoo.json"), b"{}"), file(&path("models/000000/params.json"), &[7; 600])]));
            assert_eq!(faults, []);
            assert_eq!(
                (sound[1].path.as_str(), sound[1].size, sound[1].start),
                ("models/000000/params.json", 600, 1024)
            );
        }
    }

    #[test]
    fn hostile_entries_are_refused() {
        for (path, kind, message) in [
            (&b"/etc/passwd"[..], EntryType::Regular, "absolute"),
            (b"z/../../x", EntryType::Regular, "contains `..`"),
            (b"../x", EntryType::Regular, "contains `..`"),
            (b"z//x", EntryType::Regular, "empty part"),
            (b"z/./x", EntryType::Regular, "empty part"),
            (b"z\\..\\x", EntryType::Regular, "backslash"),
            (b"C:/x", EntryType::Regular, "colon"),
            (b"x", EntryType::Regular, "outside"),
            (b"y/x", EntryType::Regular, "another folder"),
            (b"z/\xff", EntryType::Regular, "UTF-8"),
            (b"z/x", EntryType::Symlink, "symbolic link"),
            (b"z/x", EntryType::Link, "hard link"),
            (b"z/x", EntryType::Char, "device"),
            (b"z/x", EntryType::Fifo, "named pipe"),
            (b"z/x", EntryType::Directory, "folder"),
            (b"z/x", EntryType::XHeader, "pax"),
            (b"z/x", EntryType::GNULongName, "GNU"),
        ] {
            let (sound, faults) = walk(&ended(&[file("z/a", b""), raw(path, kind), file("z/b", b"")]));
            assert_eq!(sound.len(), 2, "{message}");
            assert!(faults.len() == 1 && faults[0].message.contains(message), "{message}: {faults:?}");
        }
    }

    #[test]
    fn broken_streams_are_fatal() {
        let whole = ended(&[file("z/a", &[1; 700])]);
        let message = |tar: &[u8]| {
            let (_, faults) = walk(tar);
            assert!(faults.last().unwrap().fatal);
            faults.last().unwrap().message.clone()
        };
        assert!(message(&whole[..1000]).contains("middle"));
        assert!(message(&whole[..1536]).contains("end mark"));
        assert!(message(&whole[..2048]).contains("end mark"));
        for cut in 1536..2560 {
            assert_eq!(walk(&whole[..cut]).1.last().unwrap().path, "", "the entry before the cut is sound");
        }
        let mut wrong = whole.clone();
        wrong[0] ^= 1;
        assert!(message(&wrong).contains("checksum"));
        let mut padded = whole.clone();
        padded[1300] = 1;
        assert!(message(&padded).contains("last block"));
        assert!(message(&[whole.clone(), vec![1; 10]].concat()).contains("follows"));
        let mut huge = header("z/a", 0).unwrap();
        huge.set_size((1 << 48) + 1);
        huge.set_cksum();
        assert!(message(huge.as_bytes()).contains("impossible"));
    }

    #[test]
    fn paths_stay_below_the_folder_on_every_system() {
        for right in ["z", "z/a", "z/.hidden", "z/..a", "z/a b/é"] {
            assert_eq!(check_path(right), Ok(()), "{right}");
        }
        for (wrong, message) in [
            ("/z", "absolute"),
            ("z\\a", "backslash"),
            ("z:a", "colon"),
            ("z/a\nb", "control character"),
            ("z/a\0b", "control character"),
            ("z/..", "`..`"),
            ("..", "`..`"),
            ("z/", "empty part"),
            ("z/./a", "empty part"),
            ("", "empty part"),
        ] {
            assert!(check_path(wrong).unwrap_err().contains(message), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_read_of_an_entry_does_not_move_the_next() {
        let content: Vec<u8> = (0..700).map(|i| i as u8).collect();
        let tar = ended(&[file("z/a", &content), file("z/b", b"two"), file("z/c", &[3; 512])]);
        let mut archive = Vec::new();
        compress_stream(&mut archive, 1, 1, |p| p.write_all(&tar)).unwrap();
        for most in [0, 1, 511, 699, 700, 10_000] {
            let (read, _) = decode(&archive[..], 1, |decoded| {
                let mut entries = Entries::new(decoded);
                let mut read = Vec::new();
                while let Some(entry) = entries.next_entry() {
                    let mut bytes = Vec::new();
                    entries.content().take(most).read_to_end(&mut bytes).unwrap();
                    read.push((entry.unwrap(), bytes));
                }
                read
            });
            let starts: Vec<(&str, u64, u64)> = read.iter().map(|(e, _)| (&e.path[..], e.size, e.start)).collect();
            assert_eq!(starts, [("a", 700, 0), ("b", 3, 1536), ("c", 512, 2560)]);
            let expected = [&content[..], b"two", &[3; 512]].map(|bytes| &bytes[..bytes.len().min(most as usize)]);
            assert_eq!(read.iter().map(|(_, bytes)| &bytes[..]).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn headers_are_plain_and_entries_fill_whole_blocks() {
        let header = header("z/a", 513).unwrap();
        assert_eq!((header.mode().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (0o644, 0, 0));
        assert_eq!((header.size().unwrap(), header.mtime().unwrap()), (513, 315_532_800));
        assert_eq!([0, 1, 511, 512, 513].map(padding), [0, 511, 1, 0, 511]);
        assert!(super::header(&format!("z/{}", "n".repeat(300)), 0).is_err());
    }

    #[test]
    fn zeros_after_the_end_are_few() {
        let whole = ended(&[file("z/a", b"")]);
        let with = |zeros: usize| walk(&[whole.clone(), vec![0; zeros]].concat()).1;
        assert_eq!(with(10_240 - 1536), []);
        assert!(with(2 << 20)[0].message.contains("more than a megabyte of zeros"));
        let mut one = whole.clone();
        one[1024 + 7] = 1;
        let faults = walk(&one).1;
        assert!(faults[0].message.contains("one zero block instead of two") && faults[0].path.is_empty(), "{faults:?}");
    }

    #[test]
    fn a_fault_is_told_of_its_archive() {
        let fault = |path: &str| Fault { path: path.into(), message: "is odd".into(), fatal: false };
        let of = |path| fault(path).in_archive(Path::new("a.tar.gz")).to_string();
        assert_eq!(
            [of(""), of("z/b")],
            ["a.tar.gz: is odd; verify the archive", "a.tar.gz: z/b: is odd; verify the archive"]
        );
    }

    #[test]
    fn other_types_of_entries_are_named() {
        for (kind, name) in [
            (EntryType::Block, "device"),
            (EntryType::GNULongLink, "GNU extension"),
            (EntryType::GNUSparse, "GNU extension"),
            (EntryType::XGlobalHeader, "pax extension"),
            (EntryType::Continuous, "tar entry of type 0x37"),
        ] {
            assert_eq!(kind_name(kind), name);
        }
    }
}
