//! Atomic writes, locks and checksums.

mod checksum;
mod error;
pub mod lock;
mod temporary;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

pub use checksum::{digest_file, fingerprint, sha256, sha256_file, Hashing, Sha256, Sha256Hasher};
pub use error::FileError;
pub use temporary::{
    exchange_dirs, persist, persist_dir, remove_stale_temporaries, sync_dir, temporary_dir_in, temporary_file_in,
    write_atomic, write_bytes, TemporaryDir,
};

/// The folder that holds `path`, `.` for a bare name.
pub fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// Whether operating systems, file managers and network file systems leave a file or folder of this
/// name in any folder: it belongs to no data, and every reader of a folder or zip ignores it.
pub fn is_system_file(name: &str) -> bool {
    const NAMES: [&str; 14] = [
        ".AppleDouble",
        ".DS_Store",
        ".Spotlight-V100",
        ".TemporaryItems",
        ".Trashes",
        ".directory",
        ".fseventsd",
        ".localized",
        "@eaDir",
        "Icon\r",
        "__MACOSX",
        "desktop.ini",
        "ehthumbs.db",
        "lost+found",
    ];
    NAMES.contains(&name)
        || name.eq_ignore_ascii_case("Thumbs.db")
        || ["._", ".nfs", ".fuse_hidden"].iter().any(|prefix| name.starts_with(prefix))
}

/// Reads a file of at most `limit` bytes; a larger one is refused before it is read.
pub fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(FileError::io("read", path))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(FileError::io("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(FileError::format(path, format!("is larger than the {limit} bytes allowed for it")));
    }
    Ok(bytes)
}

/// Whether an error says that there is nothing of that name; below a file there is nothing.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// [`read_limited`] of a file that need not be there.
pub fn read_if_exists(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
    match read_limited(path, limit) {
        Err(FileError::Io { source, .. }) if is_absent(&source) => Ok(None),
        other => other.map(Some),
    }
}

/// Marks an up-to-date output as newer than its inputs, for make. What may not be written, being a
/// colleague's or on a read-only file system, stays as it is.
pub fn touch(path: &Path) -> Result<(), FileError> {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    match File::options().append(true).open(path).and_then(|f| stamp(&f)) {
        Err(e) if matches!(e.kind(), PermissionDenied | ReadOnlyFilesystem) => Ok(()),
        other => other.map_err(FileError::io("touch", path)),
    }
}

/// Sets a file's time to the system's, as writing does. That clock ticks in milliseconds: the time of
/// day would be ahead of it, and of what is written next.
#[cfg(unix)]
fn stamp(file: &File) -> std::io::Result<()> {
    use rustix::fs::{futimens, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
    let [now, as_it_is] = [UTIME_NOW, UTIME_OMIT].map(|tv_nsec| Timespec { tv_sec: 0, tv_nsec });
    Ok(futimens(file, &Timestamps { last_access: as_it_is, last_modification: now })?)
}

#[cfg(not(unix))]
fn stamp(file: &File) -> std::io::Result<()> {
    file.set_modified(std::time::SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_touched_is_not_newer_than_what_is_written_next() {
        let dir = tempfile::tempdir().unwrap();
        let (touched, written) = (dir.path().join("touched"), dir.path().join("written"));
        std::fs::write(&touched, "old").unwrap();
        let time = |path: &Path| path.metadata().unwrap().modified().unwrap();
        let before = time(&touched);
        std::thread::sleep(std::time::Duration::from_millis(30));
        for _ in 0..50 {
            touch(&touched).unwrap();
            std::fs::write(&written, "new").unwrap();
            assert!(before < time(&touched) && time(&touched) <= time(&written));
        }
    }

    #[test]
    fn what_file_managers_leave_is_told_from_data() {
        for name in [".DS_Store", "._params.json", "Thumbs.db", "thumbs.db", ".nfs0000000000a1b2c3", "__MACOSX"] {
            assert!(is_system_file(name), "{name}");
        }
        for name in ["params.json", "_.json", ".hidden", ".zoo-x", "DS_Store", "000001", "", ".", ".."] {
            assert!(!is_system_file(name), "{name}");
        }
    }

    #[test]
    fn files_over_the_limit_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_bytes(&path, &[0; 10]).unwrap();
        assert_eq!(read_limited(&path, 10).unwrap().len(), 10);
        assert!(read_limited(&path, 9).unwrap_err().to_string().contains("larger than"));
    }
}
