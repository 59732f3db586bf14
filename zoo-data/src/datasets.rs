//! The datasets: what is known of each, and how its files are read. One dataset is one file here,
//! one variant of [`DatasetName`], and its line in `DatasetName::description`.

pub mod cifar;
pub mod digits;
pub mod eurosat;
pub mod image_folder;
pub mod mnist;
pub mod stl10;
pub mod svhn;
pub mod tiny_imagenet;
pub mod usps;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::description::{Description, Origin, PublishedFile};

/// The datasets that a manifest can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
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
    #[cfg_attr(feature = "cli", value(name = "cifar10"))]
    Cifar10,
    /// CIFAR-100 with its fine labels (Krizhevsky 2009).
    #[serde(rename = "cifar100")]
    #[cfg_attr(feature = "cli", value(name = "cifar100"))]
    Cifar100,
    /// STL-10, the labelled part (Coates, Lee and Ng 2011).
    #[serde(rename = "stl10")]
    #[cfg_attr(feature = "cli", value(name = "stl10"))]
    Stl10,
    /// Tiny ImageNet (Le and Yang 2015).
    #[serde(rename = "tiny-imagenet")]
    #[cfg_attr(feature = "cli", value(name = "tiny-imagenet"))]
    TinyImagenet,
    /// EuroSAT, red, green and blue (Helber et al. 2019).
    #[serde(rename = "eurosat")]
    #[cfg_attr(feature = "cli", value(name = "eurosat"))]
    EuroSat,
    /// UCI optical digits, 8x8, embedded in this program.
    Digits,
    /// Your own pictures, in a folder for each class.
    ImageFolder,
}

impl DatasetName {
    pub(crate) const ALL: [Self; 11] = [
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
}

/// Classes of the datasets of digits.
const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

/// The class, from 0, of a label that is counted from `first`.
fn class(label: u8, first: u8, classes: usize) -> Result<u16, String> {
    let class = label.checked_sub(first).map(u16::from).filter(|&c| usize::from(c) < classes);
    class.ok_or_else(|| {
        let last = usize::from(first) + classes - 1;
        format!("contains the label {label}; labels range from {first} to {last} ({classes} classes)")
    })
}

/// Splits the pictures of a dataset that has one part, sorted by class and name, into a training
/// part and a test part: every fifth picture of a class (the 5th, the 10th, ...) is for testing.
fn test_part(pictures: Vec<(String, u16)>) -> [Vec<(String, u16)>; 2] {
    let mut parts = [Vec::new(), Vec::new()];
    let mut seen = std::collections::HashMap::new();
    for (name, label) in pictures {
        let count = seen.entry(label).or_insert(0);
        *count += 1;
        parts[usize::from(*count % 5 == 0)].push((name, label));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dataset_has_one_name_everywhere() {
        #[cfg(feature = "cli")]
        assert_eq!(<DatasetName as clap::ValueEnum>::value_variants(), DatasetName::ALL);
        for name in DatasetName::ALL {
            #[cfg(feature = "cli")]
            assert_eq!(clap::ValueEnum::to_possible_value(&name).unwrap().get_name(), name.name());
            assert_eq!(serde_json::to_value(name).unwrap(), name.name());
            let description = name.description();
            let names = description.class_names.len();
            assert!(names == 0 || names == description.classes);
        }
    }

    #[test]
    fn every_fifth_of_a_class_is_for_testing() {
        let pictures = (0..12).map(|i| (format!("{i:02}"), u16::from(i > 5))).collect();
        let [train, test] = test_part(pictures);
        assert_eq!(test, [("04".into(), 0), ("10".into(), 1)]);
        assert_eq!(train.len(), 10);
    }

    #[test]
    fn labels_out_of_range_are_named() {
        assert_eq!([class(0, 0, 10), class(9, 0, 10), class(10, 1, 10)], [Ok(0), Ok(9), Ok(9)]);
        assert!(class(0, 1, 10).unwrap_err().contains("the label 0; labels range from 1 to 10 (10 classes)"));
        assert!(class(10, 0, 10).is_err() && class(11, 1, 10).is_err());
    }
}
