//! Published datasets: what is known of them, where their files are found, and whether those are
//! what they should be.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zoo_model::dataset::Samples;
use zoo_model::files::{sha256, sha256_file, FileError};
use zoo_model::stage::Stage;

use crate::checksum::Checksum;
use crate::datasets::{cifar, digits, eurosat, image_folder, mnist, stl10, svhn, tiny_imagenet, usps};
use crate::parts::{Parts, Source};
use crate::section::{DataSection, TransformSection};
use crate::Error;

/// The datasets that a manifest can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DatasetName {
    /// MNIST (LeCun, Cortes and Burges).
    Mnist,
    /// Fashion-MNIST (Xiao, Rasul and Vollgraf 2017).
    FashionMnist,
    /// SVHN, cropped digits (Netzer et al. 2011).
    Svhn,
    /// USPS (Hull 1994).
    Usps,
    /// CIFAR-10 (Krizhevsky 2009).
    #[serde(rename = "cifar10")]
    #[value(name = "cifar10")]
    Cifar10,
    /// CIFAR-100 with its fine labels (Krizhevsky 2009).
    #[serde(rename = "cifar100")]
    #[value(name = "cifar100")]
    Cifar100,
    /// STL-10, the labelled part (Coates, Lee and Ng 2011).
    #[serde(rename = "stl10")]
    #[value(name = "stl10")]
    Stl10,
    /// Tiny ImageNet (Le and Yang 2015).
    #[serde(rename = "tiny-imagenet")]
    #[value(name = "tiny-imagenet")]
    TinyImagenet,
    /// EuroSAT, red, green and blue (Helber et al. 2019).
    #[serde(rename = "eurosat")]
    #[value(name = "eurosat")]
    EuroSat,
    /// UCI optical digits, 8x8, embedded in this program.
    Digits,
    /// Your own pictures, in a folder for each class.
    ImageFolder,
}

/// What is known of a dataset without reading it.
#[derive(Debug)]
pub struct Description {
    /// The name in manifests and paths.
    pub name: &'static str,
    /// Where its images come from.
    pub origin: Origin,
    /// (channels, height, width) of an image.
    pub shape: [usize; 3],
    /// Sizes of the training and test parts.
    pub sizes: [usize; 2],
    /// Number of classes.
    pub classes: usize,
    /// Their names; empty if its files name them.
    pub class_names: &'static [&'static str],
    /// The transform of a manifest that names none.
    pub transform: TransformSection,
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
        read: fn(&[u8], &mut Parts) -> Result<(), Error>,
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
        read: fn(&[Source], &mut Parts) -> Result<(), Error>,
    },
    /// The user's folders.
    Folder,
}

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
    pub sources: BTreeMap<String, String>,
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
    pub repacked: &'static [&'static str],
}

impl PublishedFile {
    /// A file of one name and form.
    pub const fn new(name: &'static str, checksum: Checksum) -> Self {
        Self { name, checksum, aliases: &[], repacked: &[] }
    }

    /// Whether a file with this SHA-256 is it. Its MD5, where only that was published, is computed.
    fn is(&self, path: &Path, sha256: &str) -> Result<bool, FileError> {
        Ok(self.repacked.contains(&sha256)
            || match self.checksum {
                Checksum::Sha256(sum) => sum == sha256,
                Checksum::Md5(_) => self.checksum.matches(path)?,
            })
    }
}

impl DatasetName {
    const ALL: [Self; 11] = [
        Self::Mnist,
        Self::FashionMnist,
        Self::Svhn,
        Self::Usps,
        Self::Cifar10,
        Self::Cifar100,
        Self::Stl10,
        Self::TinyImagenet,
        Self::EuroSat,
        Self::Digits,
        Self::ImageFolder,
    ];

    /// What is known of it.
    pub fn description(self) -> &'static Description {
        match self {
            Self::Mnist => &mnist::MNIST,
            Self::FashionMnist => &mnist::FASHION_MNIST,
            Self::Svhn => &svhn::SVHN,
            Self::Usps => &usps::USPS,
            Self::Cifar10 => &cifar::CIFAR10,
            Self::Cifar100 => &cifar::CIFAR100,
            Self::Stl10 => &stl10::STL10,
            Self::TinyImagenet => &tiny_imagenet::TINY_IMAGENET,
            Self::EuroSat => &eurosat::EUROSAT,
            Self::Digits => &digits::DIGITS,
            Self::ImageFolder => &image_folder::IMAGE_FOLDER,
        }
    }

    /// The name in manifests and paths.
    pub fn name(self) -> &'static str {
        self.description().name
    }

    /// Its published files; none if it has none.
    pub fn files(self) -> &'static [PublishedFile] {
        match self.description().origin {
            Origin::Files { files, .. } => files,
            Origin::Embedded { .. } | Origin::Folder => &[],
        }
    }

    /// Where `zoo-data fetch` puts its files.
    pub fn folder(self, root: &Path) -> PathBuf {
        root.join("data").join(self.name())
    }

    fn find(self, root: &Path, file: &PublishedFile, folders: &[&str]) -> Result<PathBuf, Error> {
        let plain = [".gz", ".bz2"].iter().find_map(|suffix| file.name.strip_suffix(suffix));
        let names: Vec<&str> = [file.name].into_iter().chain(plain).chain(file.aliases.iter().copied()).collect();
        let mut places = vec![self.folder(root), root.join(self.name())];
        places.extend(folders.iter().map(|f| root.join(f)));
        let mut candidates = places.iter().flat_map(|f| names.iter().map(|n| f.join(n)));
        candidates.find(|path| path.is_file()).ok_or_else(|| Error::NotFound {
            dataset: self.name(),
            file: file.name.to_owned(),
            root: root.to_owned(),
            looked_in: places.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", "),
        })
    }

    /// A file of another dataset under this one's name is refused; an unknown one is the user's
    /// own, and is taken with a warning.
    fn check_identity(self, file: &PublishedFile, path: &Path, sum: &str) -> Result<(), FileError> {
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

/// Reads the dataset of a section as published, its images transformed to `shape`.
///
/// # Errors
/// A file is not found (the message says where it was looked for and how to get it), is not what
/// its name says, or is damaged.
pub fn load(section: &DataSection, shape: [usize; 3], root: &Path, stage: &Stage) -> Result<Published, Error> {
    let name = section.dataset;
    let transform = section.transforms();
    let mut parts = Parts::new(&transform, shape, section.class_names(), stage);
    let sources = sources(section, root)?;
    match &name.description().origin {
        Origin::Embedded { bytes, read, .. } => read(bytes, &mut parts)?,
        Origin::Folder => image_folder::read(section, root, &mut parts)?,
        Origin::Files { files, folders, read, .. } => {
            let mut found = Vec::new();
            for file in *files {
                let path = name.find(root, file, folders)?;
                name.check_identity(file, &path, &sources[file.name])?;
                let remedy = format!("fetch it again with `{}`", crate::fetch_command(name.name(), root));
                found.push(Source { path, remedy });
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
pub fn sources(section: &DataSection, root: &Path) -> Result<BTreeMap<String, String>, Error> {
    match &section.dataset.description().origin {
        Origin::Embedded { name, bytes, .. } => Ok([((*name).to_owned(), sha256(bytes))].into()),
        Origin::Folder => image_folder::sources(section, root),
        Origin::Files { files, folders, .. } => {
            let sum = |file: &PublishedFile| {
                let path = section.dataset.find(root, file, folders)?;
                Ok((file.name.to_owned(), sha256_file(&path)?))
            };
            files.iter().map(sum).collect()
        }
    }
}
