//! The datasets: what is known of each, and how its files are read. One dataset is one file here,
//! one variant of [`DatasetName`](crate::DatasetName), and its line in `DatasetName::description`.

pub mod cifar;
pub mod digits;
pub mod eurosat;
pub mod image_folder;
pub mod mnist;
pub mod stl10;
pub mod svhn;
pub mod tiny_imagenet;
pub mod usps;

/// Classes of the datasets of digits.
const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

/// The class, from 0, of a label that is counted from `first`.
fn class(label: u8, first: u8, classes: usize) -> Result<u16, String> {
    let class = label.checked_sub(first).map(u16::from).filter(|&c| usize::from(c) < classes);
    class.ok_or_else(|| {
        let last = usize::from(first) + classes - 1;
        format!("holds the label {label}, there are {classes} classes ({first} to {last})")
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
    use crate::DatasetName;
    use clap::ValueEnum;

    #[test]
    fn every_dataset_has_one_name_everywhere() {
        for name in DatasetName::value_variants() {
            assert_eq!(name.to_possible_value().unwrap().get_name(), name.name());
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
        assert!(class(0, 1, 10).unwrap_err().contains("the label 0, there are 10 classes (1 to 10)"));
        assert!(class(10, 0, 10).is_err() && class(11, 1, 10).is_err());
    }
}
