//! Anyone's own pictures: PNG and JPEG files in a folder for each class.

use std::collections::BTreeMap;
use std::path::Path;

use zoo_model::files::{read_limited, sha256, sha256_file, FileError};

use crate::formats::picture;
use crate::parts::{Part, Parts, Picture, Source};
use crate::published::{Description, Origin};
use crate::section::{DataSection, TransformSection};
use crate::Error;

/// Pictures of any size; a manifest gives the rest.
pub const IMAGE_FOLDER: Description = Description {
    name: "image-folder",
    origin: Origin::Folder,
    shape: [3, 0, 0],
    sizes: [0, 0],
    classes: 0,
    class_names: &[],
    transform: TransformSection::NONE,
};

/// Most columns or rows of a picture.
const SIDE_LIMIT: u32 = 16_384;

/// A picture's path below the dataset's folder, with `/`, and its class.
type Entry = (String, u16);

/// Reads the training and test pictures, by class and name.
pub fn read(section: &DataSection, root: &Path, parts: &mut Parts) -> Result<(), Error> {
    let folder = root.join(section.folder());
    let [train, test] = entries(section, &folder)?;
    for part in ["train", "test", ""].iter().take(if folder.join("train").is_dir() { 2 } else { 3 }) {
        warn_of_others(&folder.join(part), &section.class_names());
    }
    read_part(&folder, train, &mut parts.train)?;
    read_part(&folder, test, &mut parts.test)
}

fn read_part(folder: &Path, entries: Vec<Entry>, part: &mut Part) -> Result<(), Error> {
    let source = Source { path: folder.to_owned(), remedy: "replace it or take it out".into() };
    let pictures = entries.into_iter().map(|(name, label)| {
        let bytes = read_limited(&folder.join(&name), picture::FILE_LIMIT).map_err(|e| e.to_string())?;
        Ok(Picture { name: format!("its file {name}"), label, bytes })
    });
    part.push_pictures(pictures, SIDE_LIMIT).map_err(|fault| source.wrong(fault))
}

/// SHA-256 of the list that `sha256sum` makes of the pictures, sorted by path.
pub fn sources(section: &DataSection, root: &Path) -> Result<BTreeMap<String, String>, Error> {
    let folder = root.join(section.folder());
    let mut entries = entries(section, &folder)?.concat();
    entries.sort_unstable();
    let mut list = String::new();
    for (name, _) in entries {
        list += &format!("{}  {name}\n", sha256_file(&folder.join(&name))?);
    }
    Ok([(section.folder().to_owned(), sha256(list.as_bytes()))].into())
}

/// The training and test pictures: those of the folders `train` and `test`, or, if these are not
/// there, all but every fifth and every fifth of a class.
fn entries(section: &DataSection, folder: &Path) -> Result<[Vec<Entry>; 2], Error> {
    let classes = section.class_names();
    match ["train", "test"].map(|part| folder.join(part).is_dir()) {
        [true, true] => Ok([listed(folder, "train/", &classes)?, listed(folder, "test/", &classes)?]),
        [false, false] => Ok(super::test_part(listed(folder, "", &classes)?)),
        [train, _] => {
            let [there, missing] = if train { ["train", "test"] } else { ["test", "train"] };
            let message = format!("has a folder {there} and no folder {missing}: it must have both, or classes alone");
            Err(FileError::format(folder, message).into())
        }
    }
}

/// The pictures of every class below `folder/part`, by class and name.
fn listed(folder: &Path, part: &str, classes: &[String]) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    for (label, class) in (0..).zip(classes) {
        let place = folder.join(format!("{part}{class}"));
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&place).map_err(FileError::io("read the folder", &place))? {
            let name = entry.map_err(FileError::io("read the folder", &place))?.file_name();
            if let Some(name) = name.to_str().filter(|name| is_picture(name)) {
                names.push(name.to_owned());
            } else if name.to_str().is_none() {
                return Err(FileError::format(place.join(&name), "has a name that is not UTF-8").into());
            }
        }
        if names.is_empty() {
            return Err(FileError::format(place, "has no PNG or JPEG file (.png, .jpg, .jpeg)").into());
        }
        names.sort_unstable();
        entries.extend(names.into_iter().map(|name| (format!("{part}{class}/{name}"), label)));
    }
    Ok(entries)
}

fn is_picture(name: &str) -> bool {
    let suffix = name.rsplit_once('.').map(|(_, suffix)| suffix.to_ascii_lowercase());
    !name.starts_with('.') && matches!(suffix.as_deref(), Some("png" | "jpg" | "jpeg"))
}

fn warn_of_others(folder: &Path, classes: &[String]) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|e| e.path().is_dir()).map(|e| e.file_name().to_string_lossy().into_owned());
    let mut others: Vec<String> = folders.filter(|f| !f.starts_with('.') && !classes.contains(f)).collect();
    others.sort_unstable();
    if !others.is_empty() {
        tracing::warn!("{}: data.classes leaves out {}", folder.display(), others.join(", "));
    }
}
