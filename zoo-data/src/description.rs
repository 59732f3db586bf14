//! What is known of a dataset without reading it.

use std::path::Path;

use zoo_model::files::{FileError, Sha256};

use crate::checksum::Checksum;
use crate::error::DataError;
use crate::parts::{Parts, SourceFile};
use crate::transform::TransformSection;

/// What is known of a dataset without reading it.
#[derive(Debug)]
pub struct Description {
    /// The name in manifests and paths.
    pub name: &'static str,
    /// Where its images come from.
    pub origin: Origin,
    /// (channels, height, width) of an image.
    pub shape: [usize; 3],
    /// How many images it has.
    pub sizes: PublishedSizes,
    /// Number of classes.
    pub classes: usize,
    /// Their names; empty if its files name them.
    pub class_names: &'static [&'static str],
    /// The transform of a manifest that names none.
    pub transform: TransformSection,
}

/// Number of images of each published part.
#[derive(Debug, Clone, Copy)]
pub struct PublishedSizes {
    /// Of the training part.
    pub train: usize,
    /// Of the test part.
    pub test: usize,
}

/// Where a dataset's images come from.
#[derive(Debug)]
pub enum Origin {
    /// This program.
    Embedded {
        /// The file that is embedded.
        name: &'static str,
        /// Its content.
        bytes: &'static [u8],
        /// Reads it.
        read: fn(&[u8], &mut Parts) -> Result<(), DataError>,
    },
    /// Published files.
    Files {
        /// The files.
        files: &'static [PublishedFile],
        /// Addresses of folders that hold them, in the order in which they are asked.
        mirrors: &'static [&'static str],
        /// Other folders, absolute or below the root, in which they are looked for.
        folders: &'static [&'static str],
        /// Reads them, in the order of `files`.
        read: fn(&[SourceFile], &mut Parts) -> Result<(), DataError>,
    },
    /// The user's folders.
    Folder,
}

/// A file as published.
#[derive(Debug, Clone, Copy)]
pub struct PublishedFile {
    /// Its name.
    pub name: &'static str,
    /// Checksum of its published form, which downloads must have.
    pub checksum: Checksum,
    /// Other names under which it is found.
    pub aliases: &'static [&'static str],
    /// SHA-256 of other known forms with the same content.
    pub repacked: &'static [Sha256],
}

impl PublishedFile {
    /// A file of one name and form.
    pub const fn new(name: &'static str, checksum: Checksum) -> Self {
        Self { name, checksum, aliases: &[], repacked: &[] }
    }

    /// Whether a file with this SHA-256 is it. Its MD5, where only that was published, is computed.
    pub(crate) fn is(&self, path: &Path, sha256: Sha256) -> Result<bool, FileError> {
        Ok(self.repacked.contains(&sha256)
            || match self.checksum {
                Checksum::Sha256(sum) => sum == sha256,
                Checksum::Md5(_) => self.checksum.matches(path)?,
            })
    }
}
