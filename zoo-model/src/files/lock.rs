//! Advisory locks, which end with the process that took them: which process is writing an output.
//!
//! They are best effort. A file system without locks lets everyone through, and NFS is never asked: it
//! may keep the locks of a machine that crashed.

use std::fs::{self, File, TryLockError};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{parent_of, read_limited, FileError};

/// What names of hidden lock files end with.
const EXTENSION: &str = ".lock";

/// What a lock file says first.
const PROCESS: &str = "process ";

/// What became of a lock that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locked {
    /// It is held until the file is closed.
    Held,
    /// Another process holds it.
    ByAnother,
    /// There are no locks here.
    Unavailable,
}

/// Locks a file or folder without waiting.
pub(crate) fn try_lock(file: &File, shared: bool) -> Locked {
    if is_on_nfs(file) {
        return Locked::Unavailable;
    }
    match if shared { file.try_lock_shared() } else { file.try_lock() } {
        Ok(()) => Locked::Held,
        Err(TryLockError::WouldBlock) => Locked::ByAnother,
        Err(TryLockError::Error(_)) => Locked::Unavailable,
    }
}

#[cfg(target_os = "linux")]
fn is_on_nfs(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|system| system.f_type == rustix::fs::NFS_SUPER_MAGIC)
}

#[cfg(not(target_os = "linux"))]
fn is_on_nfs(_: &File) -> bool {
    false
}

/// Name of this machine.
pub(crate) fn host() -> String {
    #[cfg(unix)]
    return rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(not(unix))]
    return std::env::var("COMPUTERNAME").unwrap_or_default();
}

/// The right to work on an output, until dropped. Its hidden lock file names the process.
#[derive(Debug)]
pub struct OutputLock {
    path: PathBuf,
    file: Option<File>,
    shared: bool,
}

impl OutputLock {
    /// Locks `output` by a hidden file beside it, in a folder that is made if need be.
    ///
    /// # Errors
    /// [`FileError::Busy`].
    pub fn beside(output: &Path) -> Result<Self, FileError> {
        let mut name = std::ffi::OsString::from(".");
        name.push(output.file_name().unwrap_or_default());
        name.push(EXTENSION);
        Self::exclusive(parent_of(output).join(name), output)
    }

    /// [`beside`](Self::beside), after waiting for whoever holds it.
    ///
    /// # Errors
    /// What `while_waiting` returns.
    pub fn wait_beside<E>(output: &Path, while_waiting: impl Fn() -> Result<(), E>) -> Result<Self, E> {
        loop {
            match Self::beside(output) {
                Ok(lock) => return Ok(lock),
                Err(_) => while_waiting()?,
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Locks `output` by the lock file `path`, against everyone.
    ///
    /// # Errors
    /// [`FileError::Busy`].
    pub fn exclusive(path: PathBuf, output: &Path) -> Result<Self, FileError> {
        Self::acquire(path, output, false)
    }

    /// Locks `output` by the lock file `path`, against [`exclusive`](Self::exclusive) alone.
    ///
    /// # Errors
    /// [`FileError::Busy`].
    pub fn shared(path: PathBuf, output: &Path) -> Result<Self, FileError> {
        Self::acquire(path, output, true)
    }

    fn acquire(path: PathBuf, output: &Path, shared: bool) -> Result<Self, FileError> {
        loop {
            let Some(mut file) = open(&path) else { return Ok(Self { path, file: None, shared }) };
            match try_lock(&file, shared) {
                Locked::Held if !is_still_at(&file, &path) => continue,
                Locked::Held => {
                    let owner = format!("{PROCESS}{} on {}\n", std::process::id(), host());
                    let _ =
                        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(owner.as_bytes()));
                    return Ok(Self { path, file: Some(file), shared });
                }
                Locked::ByAnother => return Err(FileError::Busy { path: output.into(), owner: owner(&path) }),
                Locked::Unavailable => return Ok(Self { path, file: None, shared }),
            }
        }
    }
}

impl Drop for OutputLock {
    fn drop(&mut self) {
        let is_held = self.file.as_ref().is_some_and(|file| is_still_at(file, &self.path));
        if is_held && !self.shared {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Opens a lock file, which may be a colleague's. Where none can be, there are no locks.
fn open(path: &Path) -> Option<File> {
    fs::create_dir_all(parent_of(path)).ok()?;
    let opened = File::options().read(true).write(true).create(true).truncate(false).open(path);
    match opened {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => File::open(path).ok(),
        other => other.ok(),
    }
}

/// Whether an open file is still the one at `path`: who gives up a lock removes or renames its file.
pub fn is_still_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let place = |m: fs::Metadata| (m.dev(), m.ino());
        file.metadata().map(place).ok() == fs::symlink_metadata(path).map(place).ok()
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

/// Who holds a lock, as its file says.
fn owner(path: &Path) -> String {
    let text = read_limited(path, 256).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    match text.trim() {
        "" => "another process".into(),
        owner => format!("another process ({})", owner.trim_start_matches(PROCESS)),
    }
}

/// Whether the file of this name is the hidden lock file of an output.
pub(crate) fn is_lock(path: &Path, name: &str) -> bool {
    name.starts_with('.')
        && name.ends_with(EXTENSION)
        && path.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
        && read_limited(path, 256).is_ok_and(|text| text.starts_with(PROCESS.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_works_on_an_output_at_a_time_and_nothing_stays_behind() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("out/archive.tar.gz");
        let lock = OutputLock::beside(&output).unwrap();
        let refused = OutputLock::beside(&output).unwrap_err().to_string();
        let this = format!("{} is in use by another process ({} on {})", output.display(), std::process::id(), host());
        assert!(refused.starts_with(&this), "{refused}");
        OutputLock::beside(&output.with_file_name("other.tar.gz")).unwrap();
        drop(lock);
        assert_eq!(fs::read_dir(output.parent().unwrap()).unwrap().count(), 0);

        // A killed process leaves no lock.
        fs::write(output.with_file_name(".archive.tar.gz.lock"), "process 1 on gone\n").unwrap();
        drop(OutputLock::beside(&output).unwrap());
        assert_eq!(fs::read_dir(output.parent().unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn shared_locks_exclude_the_exclusive_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let exclusive = || OutputLock::exclusive(path.clone(), dir.path());
        let shared = || OutputLock::shared(path.clone(), dir.path());
        let both = (shared().unwrap(), shared().unwrap());
        assert!(matches!(exclusive(), Err(FileError::Busy { .. })));
        drop(both);
        let alone = exclusive().unwrap();
        assert!(shared().is_err());
        drop(alone);
        assert!(shared().is_ok());
    }

    #[test]
    fn a_lock_file_that_its_owner_removed_meanwhile_is_not_taken_for_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let file = open(&path).unwrap();
        assert!(is_still_at(&file, &path));
        fs::remove_file(&path).unwrap();
        assert!(!is_still_at(&file, &path));
        let _new = open(&path).unwrap();
        assert!(!is_still_at(&file, &path));
    }
}
