//! The published datasets: where their files are found, and what must be in them.
//!
//! A new dataset is a variant of [`DatasetName`] and its row in each `match` here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zoo_model::dataset::Samples;
use zoo_model::files::{read_limited, sha256, FileError};

use crate::section::TransformSection;
use crate::{digits, idx, Error};

/// The datasets that a manifest can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DatasetName {
    /// MNIST (LeCun, Cortes and Burges).
    Mnist,
    /// Fashion-MNIST (Xiao, Rasul and Vollgraf 2017).
    FashionMnist,
    /// UCI optical digits, 8x8, embedded in this program.
    Digits,
}

/// A dataset as published: before splits and transforms.
#[derive(Debug, Clone)]
pub struct Published {
    /// (channels, height, width) of an image.
    pub shape: [usize; 3],
    /// The published training part.
    pub train: Samples,
    /// The published test part.
    pub test: Samples,
    /// SHA-256 of every file that it was read from, by file name.
    pub sources: BTreeMap<String, String>,
}

/// A file as published.
#[derive(Debug, Clone, Copy)]
pub struct PublishedFile {
    /// Its name.
    pub name: &'static str,
    /// SHA-256 of its published form, which downloads must have.
    pub sha256: &'static str,
    /// SHA-256 of other known forms with the same content.
    pub repacked: &'static [&'static str],
}

const fn file(name: &'static str, sha256: &'static str, repacked: &'static [&'static str]) -> PublishedFile {
    PublishedFile { name, sha256, repacked }
}

const MNIST: [PublishedFile; 4] = [
    file("train-images-idx3-ubyte.gz", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", &[]),
    file("train-labels-idx1-ubyte.gz", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", &[]),
    file("t10k-images-idx3-ubyte.gz", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", &[]),
    file("t10k-labels-idx1-ubyte.gz", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", &[]),
];

/// The repacked forms are those of the Debian package `dataset-fashion-mnist`.
const FASHION_MNIST: [PublishedFile; 4] = [
    file(
        "train-images-idx3-ubyte.gz",
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        &["b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7"],
    ),
    file(
        "train-labels-idx1-ubyte.gz",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        &["0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056"],
    ),
    file(
        "t10k-images-idx3-ubyte.gz",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        &["cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa"],
    ),
    file(
        "t10k-labels-idx1-ubyte.gz",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        &["8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05"],
    ),
];

impl DatasetName {
    const ALL: [Self; 3] = [Self::Mnist, Self::FashionMnist, Self::Digits];

    /// The name in manifests and paths.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mnist => "mnist",
            Self::FashionMnist => "fashion-mnist",
            Self::Digits => "digits",
        }
    }

    /// Its files; none if it is embedded.
    pub fn files(self) -> &'static [PublishedFile] {
        match self {
            Self::Mnist => &MNIST,
            Self::FashionMnist => &FASHION_MNIST,
            Self::Digits => &[],
        }
    }

    /// Addresses of folders that hold its files, in the order in which they are asked.
    pub fn mirrors(self) -> &'static [&'static str] {
        match self {
            Self::Mnist => &[
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
            ],
            Self::FashionMnist => &[
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
                "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
            ],
            Self::Digits => &[],
        }
    }

    /// (channels, height, width) of a published image.
    pub fn shape(self) -> [usize; 3] {
        match self {
            Self::Mnist | Self::FashionMnist => [1, 28, 28],
            Self::Digits => [1, 8, 8],
        }
    }

    /// Sizes of the published training and test parts.
    pub fn sizes(self) -> [usize; 2] {
        match self {
            Self::Mnist | Self::FashionMnist => [60_000, 10_000],
            Self::Digits => [digits::TRAIN, digits::TEST],
        }
    }

    /// Names of the classes.
    pub fn class_names(self) -> Vec<String> {
        let names: &[&str] = match self {
            Self::Mnist | Self::Digits => &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
            Self::FashionMnist => &[
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ],
        };
        names.iter().map(|&n| n.to_owned()).collect()
    }

    /// The transform of a manifest that names none.
    pub fn default_transform(self) -> TransformSection {
        match self {
            Self::Mnist | Self::FashionMnist => TransformSection::default(),
            Self::Digits => TransformSection { resize: Some(28), ..TransformSection::default() },
        }
    }

    /// Where `zoo-data fetch` puts its files.
    pub fn folder(self, root: &Path) -> PathBuf {
        root.join("data").join(self.name())
    }

    /// Folders in which its files are looked for, in this order.
    fn folders(self, root: &Path) -> Vec<PathBuf> {
        let torchvision = match self {
            Self::Mnist => "MNIST/raw",
            Self::FashionMnist => "FashionMNIST/raw",
            Self::Digits => return Vec::new(),
        };
        let mut folders = vec![self.folder(root), root.join(self.name())];
        folders.extend([root.join("data").join(torchvision), root.join(torchvision)]);
        if self == Self::FashionMnist {
            folders.push("/usr/share/datasets/fashion-mnist".into());
        }
        folders
    }

    /// Reads the dataset as published.
    ///
    /// # Errors
    /// A file is not found (the message says where it was looked for and how to get it), is not
    /// what its name says, or is damaged.
    pub fn load(self, root: &Path) -> Result<Published, Error> {
        if self == Self::Digits {
            return Ok(digits::load());
        }
        let mut sources = BTreeMap::new();
        let mut parts = Vec::new();
        for file in self.files() {
            let path = self.find(root, file.name)?;
            let bytes = read_limited(&path, 1 << 30)?;
            let sum = sha256(&bytes);
            self.check_identity(file, &path, &sum)?;
            let remedy = format!("fetch it again with `zoo-data fetch {} --root {}`", self.name(), root.display());
            let wrong = |m: String| FileError::format(&path, format!("{m}; {remedy}"));
            parts.push((idx::parse(&bytes).map_err(wrong)?, path));
            sources.insert(file.name.to_owned(), sum);
        }
        let mut parts = parts.into_iter();
        let mut part = || {
            let (images, labels) = (parts.next().expect("four files"), parts.next().expect("four files"));
            self.samples(images, labels)
        };
        Ok(Published { shape: self.shape(), train: part()?, test: part()?, sources })
    }

    fn find(self, root: &Path, name: &str) -> Result<PathBuf, Error> {
        let plain = name.strip_suffix(".gz").unwrap_or(name);
        // Some copies are named train-images.idx3-ubyte.
        let dotted = plain.replacen("-idx", ".idx", 1);
        let folders = self.folders(root);
        let candidates = folders.iter().flat_map(|f| [name, plain, &dotted].map(|n| f.join(n)));
        candidates.into_iter().find(|path| path.is_file()).ok_or_else(|| Error::NotFound {
            dataset: self.name(),
            file: name.to_owned(),
            root: root.to_owned(),
            looked_in: folders.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", "),
        })
    }

    /// A file of another dataset under this one's name is refused; an unknown one is the user's
    /// own, and is taken with a warning.
    fn check_identity(self, file: &PublishedFile, path: &Path, sum: &str) -> Result<(), FileError> {
        for other in Self::ALL {
            for known in other.files() {
                if known.sha256 == sum || known.repacked.contains(&sum) {
                    if (other, known.name) == (self, file.name) {
                        return Ok(());
                    }
                    let message = format!("is {}'s {}, not {}'s {}", other.name(), known.name, self.name(), file.name);
                    return Err(FileError::format(path, message));
                }
            }
        }
        tracing::warn!("{} is not a published file of {} (SHA-256 {sum}); taken as it is", path.display(), self.name());
        Ok(())
    }

    fn samples(self, images: (idx::Idx, PathBuf), labels: (idx::Idx, PathBuf)) -> Result<Samples, FileError> {
        let ((images, images_path), (labels, labels_path)) = (images, labels);
        let [_, height, width] = self.shape();
        if images.shape.len() != 3 || images.shape[1..] != [height, width] {
            let message = format!("holds an array of shape {:?}, expected images (N, {height}, {width})", images.shape);
            return Err(FileError::format(images_path, message));
        }
        if labels.shape != [images.shape[0]] {
            let message = format!(
                "holds an array of shape {:?}, expected one label for each of the {} images of {}",
                labels.shape,
                images.shape[0],
                images_path.display()
            );
            return Err(FileError::format(labels_path, message));
        }
        let classes = self.class_names().len();
        if let Some(label) = labels.data.iter().find(|&&l| usize::from(l) >= classes) {
            return Err(FileError::format(
                labels_path,
                format!("holds the label {label}, there are {classes} classes"),
            ));
        }
        Ok(Samples { images: images.data, labels: labels.data.into_iter().map(u16::from).collect() })
    }

    /// SHA-256 of its files where they are found, by name, without parsing them.
    pub(crate) fn sources(self, root: &Path) -> Result<BTreeMap<String, String>, Error> {
        if self == Self::Digits {
            return Ok(digits::load().sources);
        }
        let sum = |file: &PublishedFile| {
            let path = self.find(root, file.name)?;
            Ok((file.name.to_owned(), zoo_model::files::sha256_file(&path)?))
        };
        self.files().iter().map(sum).collect()
    }
}
