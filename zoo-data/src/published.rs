//! The published files: where they are found, and whether those are what they should be.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use zoo_model::dataset::Samples;
use zoo_model::files::{sha256, sha256_file, FileError, Sha256};
use zoo_model::stage::Stage;

use crate::datasets::{image_folder, DatasetName};
use crate::description::{Origin, PublishedFile};
use crate::error::{fetch_command, DataError};
use crate::parts::{Parts, SourceFile};
use crate::section::DataSection;

/// A dataset as published, but for the transforms: before the splits.
#[derive(Debug, Clone)]
pub struct Published {
    /// The training part.
    pub train: Samples,
    /// The test part.
    pub test: Samples,
    /// Names of the classes.
    pub class_names: Vec<String>,
    /// SHA-256 of every file that it was read from, by file name.
    pub sources: BTreeMap<String, Sha256>,
}

impl DatasetName {
    fn find(self, root: &Path, file: &PublishedFile, folders: &[&str]) -> Result<PathBuf, DataError> {
        let plain = [".gz", ".bz2"].iter().find_map(|suffix| file.name.strip_suffix(suffix));
        let names: Vec<&str> = [file.name].into_iter().chain(plain).chain(file.aliases.iter().copied()).collect();
        let mut places = vec![self.folder(root), root.join(self.name())];
        places.extend(folders.iter().map(|f| root.join(f)));
        let mut candidates = places.iter().flat_map(|f| names.iter().map(|n| f.join(n)));
        candidates.find(|path| path.is_file()).ok_or_else(|| DataError::NotFound {
            dataset: self.name(),
            file: file.name.to_owned(),
            root: root.to_owned(),
            looked_in: places.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", "),
        })
    }

    /// A file of another dataset under this one's name is refused; an unknown one is the user's
    /// own, and is taken with a warning.
    fn check_identity(self, file: &PublishedFile, path: &Path, sum: Sha256) -> Result<(), FileError> {
        if file.is(path, sum)? {
            return Ok(());
        }
        for other in Self::ALL {
            for known in other.files() {
                if known.is(path, sum)? {
                    let message = format!("is {}'s {}, not {}'s {}", other.name(), known.name, self.name(), file.name);
                    return Err(FileError::format(path, message));
                }
            }
        }
        tracing::warn!("{} is not a published file of {} (SHA-256 {sum}); taken as it is", path.display(), self.name());
        Ok(())
    }
}

/// The folder of an `image-folder` dataset.
fn folder(section: &DataSection, root: &Path) -> PathBuf {
    root.join(section.folder())
}

/// Reads the dataset of a section as published, its images transformed to `shape`.
///
/// # Errors
/// A file is not found (the message says where it was looked for and how to get it), is not what
/// its name says, or is damaged.
pub fn load(section: &DataSection, shape: [usize; 3], root: &Path, stage: &Stage) -> Result<Published, DataError> {
    let name = section.dataset;
    let transform = section.transforms();
    let mut parts = Parts::new(&transform, shape, section.class_names(), stage);
    let sources = sources(section, root)?;
    match &name.description().origin {
        Origin::Embedded { bytes, read, .. } => read(bytes, &mut parts)?,
        Origin::Folder => image_folder::read(&folder(section, root), &mut parts)?,
        Origin::Files { files, folders, read, .. } => {
            let mut found = Vec::new();
            for file in *files {
                let path = name.find(root, file, folders)?;
                name.check_identity(file, &path, sources[file.name])?;
                let remedy = format!("fetch it again with `{}`", fetch_command(name.name(), root));
                found.push(SourceFile { path, remedy });
            }
            read(&found, &mut parts)?;
            for (part, what, file) in [(&parts.train, "training", found.first()), (&parts.test, "test", found.last())] {
                if part.samples.labels.is_empty() {
                    return Err(file.expect("it has files").wrong(format!("holds no {what} images")));
                }
            }
        }
    }
    let Parts { train, test, class_names } = parts;
    Ok(Published { train: train.samples, test: test.samples, class_names, sources })
}

/// SHA-256 of the files of a section's dataset where they are found, by name, without parsing them.
pub fn sources(section: &DataSection, root: &Path) -> Result<BTreeMap<String, Sha256>, DataError> {
    match &section.dataset.description().origin {
        Origin::Embedded { name, bytes, .. } => Ok([((*name).to_owned(), sha256(bytes))].into()),
        Origin::Folder => {
            let sum = image_folder::checksum(&folder(section, root), &section.class_names())?;
            Ok([(section.folder().to_owned(), sum)].into())
        }
        Origin::Files { files, folders, .. } => {
            let sum = |file: &PublishedFile| {
                let path = section.dataset.find(root, file, folders)?;
                Ok((file.name.to_owned(), sha256_file(&path)?))
            };
            files.iter().map(sum).collect()
        }
    }
}
