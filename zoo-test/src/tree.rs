//! Folders and what is in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Every file below a folder, by its path from there.
#[track_caller]
pub fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.expect("an entry of a folder").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                // A link to nowhere is an empty file.
                let content = fs::read(&path).unwrap_or_default();
                found.insert(path.strip_prefix(root).expect("a path below the root").to_owned(), content);
            }
        }
    }
    found
}

/// Two folders hold the same files, and not too few for a zoo.
#[track_caller]
pub fn assert_same_files(a: &Path, b: &Path) {
    let (a, b) = (files(a), files(b));
    assert!(a.keys().eq(b.keys()), "{:?} and {:?}", a.keys(), b.keys());
    for (path, content) in &a {
        assert!(*content == b[path], "{} differs", path.display());
    }
    assert!(a.len() > 20, "only {:?}", a.keys());
}

/// Copies a folder with all that is below it.
#[track_caller]
pub fn copy_folder(from: &Path, to: &Path) {
    for (path, content) in files(from) {
        let target = to.join(path);
        fs::create_dir_all(target.parent().expect("a folder")).expect("a writable folder");
        fs::write(target, content).expect("a writable file");
    }
}
