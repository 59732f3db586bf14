//! Anyone's own pictures in a folder for each class, taken as torchvision's `ImageFolder` takes them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use zoo_model::files::{is_system_file, read_limited, sha256, sha256_file, FileError, Sha256};
use zoo_model::text::escaped;

use crate::description::{Description, Origin, PublishedSizes};
use crate::error::DataError;
use crate::formats::picture;
use crate::parts::{Part, Parts, Picture, SourceFile};
use crate::transform::TransformSection;

/// Pictures of any size; a manifest gives the rest.
pub const IMAGE_FOLDER: Description = Description {
    name: "image-folder",
    origin: Origin::Folder,
    shape: [3, 0, 0],
    sizes: PublishedSizes { train: 0, test: 0 },
    classes: 0,
    class_names: &[],
    transform: TransformSection::NONE,
};

/// Maximum number of columns or rows of a picture.
const SIDE_LIMIT: u32 = 16_384;

/// A picture's path below the dataset's folder, with `/`, and its class.
type Entry = (String, u16);

/// Reads the training and test pictures, by class and name.
///
/// # Errors
/// A class has no folder or no pictures, or a picture cannot be read.
pub fn read(folder: &Path, parts: &mut Parts) -> Result<(), DataError> {
    let classes = &parts.class_names;
    let Listing { parts: [train, test], left_out } = list(folder, classes)?;
    for part in ["train", "test", ""].iter().take(if folder.join("train").is_dir() { 2 } else { 3 }) {
        warn_of_others(&folder.join(part), classes);
    }
    if !left_out.0.is_empty() {
        tracing::warn!("{}: left out {left_out}", folder.display());
    }
    read_part(folder, train, &mut parts.train)?;
    read_part(folder, test, &mut parts.test)
}

fn read_part(folder: &Path, entries: Vec<Entry>, part: &mut Part) -> Result<(), DataError> {
    let source = SourceFile { path: folder.to_owned(), remedy: "replace or remove it".into() };
    let pictures = entries.into_iter().map(|(name, label)| {
        let bytes = read_limited(&folder.join(&name), picture::FILE_LIMIT).map_err(|e| e.to_string())?;
        Ok(Picture { name: format!("its file {name}"), label, bytes })
    });
    part.push_pictures(pictures, SIDE_LIMIT).map_err(|fault| source.wrong(fault))
}

/// SHA-256 of the list that `sha256sum` makes of the pictures, sorted by path.
///
/// # Errors
/// As of [`read`].
pub fn checksum(folder: &Path, classes: &[String]) -> Result<Sha256, DataError> {
    let mut entries = list(folder, classes)?.parts.concat();
    entries.sort_unstable();
    let mut list = String::new();
    for (name, _) in entries {
        list += &format!("{}  {name}\n", sha256_file(&folder.join(&name))?);
    }
    Ok(sha256(list.as_bytes()))
}

/// What is below a dataset's folder.
struct Listing {
    /// The training and test pictures.
    parts: [Vec<Entry>; 2],
    left_out: LeftOut,
}

/// Files that are not taken: how many, by what tells them from pictures.
#[derive(Default)]
struct LeftOut(BTreeMap<String, usize>);

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        const SHOWN: usize = 5;
        let mut kinds: Vec<_> = self.0.iter().collect();
        kinds.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
        let total: usize = self.0.values().sum();
        let what = if total == 1 { "file that is not an image" } else { "files that are not images" };
        write!(f, "{total} {what}: ")?;
        for (i, (kind, n)) in kinds.iter().take(SHOWN).enumerate() {
            write!(f, "{}{kind} ({n})", if i == 0 { "" } else { ", " })?;
        }
        match kinds.iter().skip(SHOWN).map(|(_, n)| **n).sum::<usize>() {
            0 => Ok(()),
            others => write!(f, ", others ({others})"),
        }
    }
}

/// The training and test pictures: those of the folders `train` and `test`, or, if these are not
/// there, all but every fifth and every fifth of a class.
fn list(folder: &Path, classes: &[String]) -> Result<Listing, DataError> {
    if folder.is_file() {
        return Err(FileError::format(folder, "is a file, expected a folder of images").into());
    }
    let mut left_out = LeftOut::default();
    let mut listed = |part: &str| list_part(folder, part, classes, &mut left_out);
    let parts = match ["train", "test"].map(|part| folder.join(part).is_dir()) {
        [true, true] => [listed("train/")?, listed("test/")?],
        [false, false] => super::test_part(listed("")?),
        [train, _] => {
            let [there, missing] = if train { ["train", "test"] } else { ["test", "train"] };
            let message = format!("has a folder {there} but no folder {missing}: it needs both, or class folders only");
            return Err(FileError::format(folder, message).into());
        }
    };
    Ok(Listing { parts, left_out })
}

/// The pictures of every class below `folder/part`, by class and name.
fn list_part(folder: &Path, part: &str, classes: &[String], left_out: &mut LeftOut) -> Result<Vec<Entry>, DataError> {
    let mut entries = Vec::new();
    for (label, class) in (0..).zip(classes) {
        let place = folder.join(format!("{part}{class}"));
        let mut walk = Walk { pictures: Vec::new(), left_out: LeftOut::default(), above: Vec::new() };
        walk.folder(&place, "")?;
        if walk.pictures.is_empty() {
            let others = if walk.left_out.0.is_empty() { String::new() } else { format!(", only {}", walk.left_out) };
            let message = format!("has no images (.{}){others}", picture::SUFFIXES.join(", ."));
            return Err(FileError::format(place, message).into());
        }
        // By folder, then by name: the order of `os.walk`, sorted.
        walk.pictures.sort_unstable();
        for (below, name) in walk.pictures {
            let below = if below.is_empty() { below } else { below + "/" };
            entries.push((format!("{part}{class}/{below}{name}"), label));
        }
        for (kind, n) in walk.left_out.0 {
            *left_out.0.entry(kind).or_default() += n;
        }
    }
    Ok(entries)
}

/// A walk through a class's folder and those below it; links are followed.
struct Walk {
    /// Folder below the class's, with `/`, and name.
    pictures: Vec<(String, String)>,
    left_out: LeftOut,
    /// The folders that it is in.
    above: Vec<PathBuf>,
}

impl Walk {
    fn folder(&mut self, place: &Path, below: &str) -> Result<(), FileError> {
        let unread = |e: io::Error| match e.kind() {
            io::ErrorKind::NotADirectory => FileError::format(place, "is a file, expected a folder of images"),
            io::ErrorKind::NotFound => FileError::format(place, "does not exist, expected a folder of images"),
            _ => FileError::io("read the folder", place)(e),
        };
        let itself = place.canonicalize().map_err(unread)?;
        // A link to a folder above has nothing that is not listed.
        if self.above.contains(&itself) {
            return Ok(());
        }
        self.above.push(itself);
        for entry in fs::read_dir(place).map_err(unread)? {
            let path = entry.map_err(unread)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| FileError::format(&path, "has a name that is not UTF-8: rename it"))?;
            if is_system_file(name) {
                continue;
            }
            let suffix = name.rsplit_once('.').map(|(_, suffix)| suffix.to_ascii_lowercase());
            let is_picture = suffix.as_deref().is_some_and(|suffix| picture::SUFFIXES.contains(&suffix));
            match fs::metadata(&path) {
                _ if name.starts_with('.') => self.leave_out("hidden"),
                Ok(metadata) if metadata.is_dir() && below.is_empty() => self.folder(&path, name)?,
                Ok(metadata) if metadata.is_dir() => self.folder(&path, &format!("{below}/{name}"))?,
                Ok(metadata) if !metadata.is_file() => self.leave_out("not a regular file"),
                // A link that leads nowhere is missed when it is read.
                _ if is_picture => self.pictures.push((below.to_owned(), name.to_owned())),
                _ => self.leave_out(&suffix.map_or("without a suffix".into(), |s| format!(".{}", escaped(&s)))),
            }
        }
        self.above.pop();
        Ok(())
    }

    fn leave_out(&mut self, kind: &str) {
        *self.left_out.0.entry(kind.to_owned()).or_default() += 1;
    }
}

fn warn_of_others(folder: &Path, classes: &[String]) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|e| e.path().is_dir()).map(|e| e.file_name().to_string_lossy().into_owned());
    let hidden = |name: &str| name.starts_with('.') || is_system_file(name);
    let mut others: Vec<String> = folders.filter(|f| !hidden(f) && !classes.contains(f)).collect();
    others.sort_unstable();
    if !others.is_empty() {
        tracing::warn!("{}: data.classes leaves out {}", folder.display(), others.join(", "));
    }
}
