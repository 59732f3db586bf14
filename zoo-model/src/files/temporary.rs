//! Atomic writes, and the temporaries that they go through.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use super::checksum::sha256;
use super::lock::{host, is_lock, is_still_at, try_lock, Locked};
use super::{parent_of, FileError};

/// Writes `path` through a temporary file beside it: synced, then renamed, so that a reader sees
/// the old content or the whole new one and never a part.
pub fn write_atomic(
    path: &Path,
    write: impl FnOnce(&mut io::BufWriter<&mut File>) -> io::Result<()>,
) -> Result<(), FileError> {
    let parent = parent_of(path);
    fs::create_dir_all(parent).map_err(FileError::io("create the folder", parent))?;
    let mut temporary = temporary_file_in(parent).map_err(FileError::io("write in", parent))?;
    let mut buffered = io::BufWriter::with_capacity(1 << 20, temporary.as_file_mut());
    write(&mut buffered).and_then(|()| buffered.flush()).map_err(FileError::io("write", path))?;
    drop(buffered);
    persist(temporary, path)
}

/// [`write_atomic`] of bytes that are already at hand.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_atomic(path, |w| w.write_all(bytes))
}

/// What names of temporaries begin with; then follow the machine that they belong to, and six random
/// letters.
const TEMPORARY: &str = ".zoo-";

/// After this time another machine's temporary counts as abandoned: its locks cannot always be seen here.
const STALE_AFTER: Duration = Duration::from_secs(24 * 3600);

/// What names of this machine's temporaries begin with.
fn temporary_prefix() -> String {
    format!("{TEMPORARY}{}-", &sha256(host().as_bytes()).to_string()[..8])
}

/// Whether this is a temporary's name, whatever machine made it.
fn is_temporary(name: &str) -> bool {
    let parts = name.strip_prefix(TEMPORARY).and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(host, random)| {
        host.len() == 8 && random.len() == 6 && (host.bytes().chain(random.bytes())).all(|b| b.is_ascii_alphanumeric())
    })
}

/// A builder of temporaries that are as open to others as the umask allows.
fn temporary_builder<T>(mode: u32, make: impl Fn(&tempfile::Builder) -> io::Result<T>) -> io::Result<T> {
    let prefix = temporary_prefix();
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(mode));
    }
    let _ = mode;
    make(&builder).map_err(without_path)
}

/// Marks a temporary as this process's for as long as `file` is open. `false`: another process took it
/// for abandoned in the moment before.
fn claim(file: &File, path: &Path) -> bool {
    try_lock(file, false) != Locked::ByAnother && path.exists()
}

/// A temporary file in `parent`, deleted unless persisted.
pub fn temporary_file_in(parent: &Path) -> io::Result<tempfile::NamedTempFile> {
    loop {
        let temporary = temporary_builder(0o666, |builder| builder.tempfile_in(parent))?;
        if claim(temporary.as_file(), temporary.path()) {
            return Ok(temporary);
        }
    }
}

/// Removes the temporaries and lock files in `folder` that no living process owns: what was killed left
/// them. Temporaries of another machine are removed after a day. Best effort: what cannot be removed stays.
pub fn remove_stale_temporaries(folder: &Path) {
    let own = temporary_prefix();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let Some(name) = name.to_str() else { continue };
        if is_lock(&path, name) {
            // Who opens it meanwhile sees that it is gone, and makes another.
            let file =
                File::open(&path).ok().filter(|file| try_lock(file, false) == Locked::Held && is_still_at(file, &path));
            let _ = file.map(|_held| fs::remove_file(&path));
        }
        if !is_temporary(name) {
            continue;
        }
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if !metadata.is_file() && !metadata.is_dir() {
            continue;
        }
        let Ok(file) = File::open(&path) else { continue };
        let age = metadata.modified().ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
        let lock = try_lock(&file, false);
        if age > STALE_AFTER && lock != Locked::ByAnother || name.starts_with(&own) && lock == Locked::Held {
            let _ = if metadata.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}

/// The system's reason alone: tempfile's errors add the temporary's name, which does not matter.
pub(crate) fn without_path(error: io::Error) -> io::Error {
    match error.to_string().split_once(" at path ") {
        Some((reason, _)) => io::Error::new(error.kind(), reason),
        None => error,
    }
}

/// Syncs a temporary file and renames it to `path`.
pub fn persist(temporary: tempfile::NamedTempFile, path: &Path) -> Result<(), FileError> {
    temporary.as_file().sync_all().map_err(FileError::io("write", path))?;
    temporary.persist(path).map_err(|e| FileError::Io { action: "write", path: path.into(), source: e.error })?;
    sync_dir(parent_of(path));
    Ok(())
}

/// Makes a rename in `dir` durable. Best effort: some file systems refuse to sync a folder.
pub fn sync_dir(dir: &Path) {
    if let Ok(handle) = File::open(dir) {
        let _ = handle.sync_all();
    }
}

/// A temporary folder, deleted when dropped unless persisted.
#[derive(Debug)]
pub struct TemporaryDir {
    dir: tempfile::TempDir,
    /// Says that it is in use.
    _lock: Option<File>,
}

impl TemporaryDir {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// A temporary folder in `parent`, which is made if need be. Its name is the only one of its kind,
/// whatever machines share the disk.
pub fn temporary_dir_in(parent: &Path) -> Result<TemporaryDir, FileError> {
    fs::create_dir_all(parent).map_err(FileError::io("create the folder", parent))?;
    loop {
        let made = temporary_builder(0o777, |builder| builder.tempdir_in(parent));
        let dir = made.map_err(FileError::io("write in", parent))?;
        let lock = File::open(dir.path()).ok();
        if lock.as_ref().is_none_or(|file| claim(file, dir.path())) {
            return Ok(TemporaryDir { dir, _lock: lock });
        }
    }
}

/// Renames a temporary folder to `path`, where nothing, or an empty folder, may be.
pub fn persist_dir(temporary: TemporaryDir, path: &Path) -> Result<(), FileError> {
    let parent = parent_of(path);
    fs::create_dir_all(parent).map_err(FileError::io("create the folder", parent))?;
    fs::rename(temporary.path(), path).map_err(FileError::io("write", path))?;
    let _ = temporary.dir.keep();
    sync_dir(parent);
    Ok(())
}

/// Puts the folder `new` in the place of the folder `old`, and the other way round: in one step where
/// the file system can.
pub fn exchange_dirs(new: &Path, old: &Path) -> Result<(), FileError> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{renameat_with, RenameFlags, CWD};
        if renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE).is_ok() {
            sync_dir(parent_of(old));
            return Ok(());
        }
    }
    let TemporaryDir { dir, _lock } = temporary_dir_in(parent_of(old))?;
    // Whatever fails, it is not deleted here.
    let aside = dir.keep();
    let renamed = |from: &Path, to: &Path| fs::rename(from, to).map_err(FileError::io("rename", from));
    renamed(old, &aside)?;
    if let Err(error) = renamed(new, old) {
        renamed(&aside, old)?;
        return Err(error);
    }
    renamed(&aside, new)?;
    sync_dir(parent_of(old));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_content_and_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a b/file");
        write_bytes(&path, b"old").unwrap();
        let failed = write_atomic(&path, |w| {
            w.write_all(b"half")?;
            Err(io::Error::other("disk full"))
        });
        assert!(failed.unwrap_err().to_string().contains("disk full"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    /// Names in a folder, sorted.
    fn names_in(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn temporaries_without_a_living_owner_are_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let file = temporary_file_in(dir.path()).unwrap();
        let folder = temporary_dir_in(dir.path()).unwrap();
        // As SIGKILL leaves them: without a lock.
        let own = temporary_prefix();
        fs::write(at(&format!("{own}aaaaaa")), "x").unwrap();
        fs::create_dir(at(&format!("{own}bbbbbb"))).unwrap();
        fs::write(at(&format!("{own}bbbbbb/part")), "x").unwrap();
        // Of another machine, new and old.
        let old = at(".zoo-00000000-dddddd");
        for path in [&at(".zoo-00000000-cccccc"), &old] {
            fs::write(path, "x").unwrap();
        }
        let days_ago = std::time::SystemTime::now() - 2 * STALE_AFTER;
        File::options().append(true).open(&old).unwrap().set_modified(days_ago).unwrap();
        fs::write(at(".killed.lock"), "process 1 on this machine\n").unwrap();
        let held = crate::files::lock::OutputLock::beside(&at("held")).unwrap();
        // Not temporaries at all, however old.
        for name in [".zoo-notes", ".zoo", "zoo.json", ".own.lock"] {
            fs::write(at(name), "x").unwrap();
            File::options().append(true).open(at(name)).unwrap().set_modified(days_ago).unwrap();
        }
        remove_stale_temporaries(dir.path());
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut kept: Vec<String> =
            [".held.lock", ".own.lock", ".zoo", ".zoo-00000000-cccccc", ".zoo-notes", "zoo.json"]
                .map(String::from)
                .into();
        kept.extend([name(file.path()), name(folder.path())]);
        kept.sort();
        assert_eq!(names_in(dir.path()), kept);
        drop(held);
        remove_stale_temporaries(&at("no such folder"));
    }

    #[cfg(unix)]
    #[test]
    fn outputs_are_as_open_as_the_umask_allows() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let (file, folder) = (dir.path().join("file"), dir.path().join("folder"));
        fs::write(&file, "").unwrap();
        fs::create_dir(&folder).unwrap();
        let (written, persisted) = (dir.path().join("written"), dir.path().join("persisted"));
        write_bytes(&written, b"").unwrap();
        persist_dir(temporary_dir_in(dir.path()).unwrap(), &persisted).unwrap();
        assert_eq!((mode(&written), mode(&persisted)), (mode(&file), mode(&folder)));
    }

    #[test]
    fn folders_change_places() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for (folder, file) in [(&a, "of a"), (&b, "of b")] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join(file), "").unwrap();
        }
        exchange_dirs(&a, &b).unwrap();
        assert_eq!((names_in(&a), names_in(&b)), (vec!["of b".into()], vec!["of a".into()]));
        assert_eq!(names_in(dir.path()), ["a", "b"]);
    }

    #[test]
    fn temporary_names_are_not_in_errors() {
        let dir = tempfile::tempdir().unwrap();
        let error = temporary_file_in(&dir.path().join("no such folder")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(!error.to_string().contains("at path"), "{error}");
    }
}
