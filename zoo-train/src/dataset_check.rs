//! Whether a dataset is the one that a manifest describes.

use std::path::Path;

use serde::Deserialize;
use zoo_model::deserialize::{list, name};
use zoo_model::stage::UsageError;
use zoo_model::{Dataset, Manifest, Split};

use crate::TrainError;

/// What `[data]` says that a dataset's file says too. The section is zoo-data's, which knows all of it.
#[derive(Debug, Deserialize)]
#[serde(expecting = "a table")]
struct Described {
    #[serde(deserialize_with = "name")]
    dataset: String,
    train: usize,
    #[serde(default)]
    val: usize,
    test: Option<usize>,
    #[serde(default, deserialize_with = "list")]
    classes: Vec<String>,
}

/// Checks that the dataset read from `path` is that of the manifest's `[data]`, if it has one.
///
/// # Errors
/// Name, classes or sizes of the splits differ: both are named.
pub(crate) fn check_is_described(manifest: &Manifest, dataset: &Dataset, path: &Path) -> Result<(), TrainError> {
    let Some(described) = manifest.section::<Described>("data")? else { return Ok(()) };
    let mut differences = Vec::new();
    let mut compare = |key: &str, found: String, wanted: String| {
        if found != wanted {
            differences.push(format!("`{key}` ({found} and {wanted})"));
        }
    };
    compare("dataset", format!("{:?}", dataset.info.dataset), format!("{:?}", described.dataset));
    // A published test part is as large as it is, but reduced like the others.
    let test = described.test.unwrap_or(dataset.len(Split::Test));
    for (key, split, size) in
        [("train", Split::Train, described.train), ("val", Split::Val, described.val), ("test", Split::Test, test)]
    {
        compare(key, dataset.len(split).to_string(), manifest.reduction.samples(size).to_string());
    }
    if !described.classes.is_empty() {
        compare("classes", format!("{:?}", dataset.info.class_names), format!("{:?}", described.classes));
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(UsageError(format!(
        "{} is not the dataset that [data] of {} describes; differing fields (there and here): {}; prepare it with zoo-data, or use it anyway with --any-data",
        path.display(),
        manifest.path().display(),
        differences.join(", ")
    ))
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with this `[data]` for 30 images of noise in each split, of 2 classes.
    fn fault(section: &str, samples: Option<u32>) -> String {
        let mut manifest = Manifest::parse("m.toml", section.to_owned()).unwrap();
        manifest.reduction.samples = samples;
        let dataset = zoo_model::synthetic::noise_dataset([1, 4, 4], 2, 30);
        check_is_described(&manifest, &dataset, Path::new("d")).map_or_else(|e| e.to_string(), |()| String::new())
    }

    #[test]
    fn a_dataset_must_be_the_described_one() {
        let dataset = zoo_model::synthetic::noise_dataset([1, 4, 4], 2, 30);
        let sizes = Split::ALL.map(|split| dataset.len(split));
        let name = dataset.info.dataset.clone();
        let section = |name: &str, [train, val, test]: [usize; 3]| {
            format!("[data]\ndataset = \"{name}\"\ntrain = {train}\nval = {val}\ntest = {test}\n")
        };
        let sound = section(&name, sizes);
        assert_eq!(fault("[zoo]\nname = \"z\"\n", None), "");
        assert_eq!(fault(&sound, None), "");
        assert_eq!(
            fault(&format!("[data]\ndataset = \"{name}\"\ntrain = {}\nval = {}\n", sizes[0], sizes[1]), None),
            ""
        );
        // A reduction that changes nothing, and one that does.
        assert_eq!(fault(&sound, Some(1_000)), "");
        assert!(fault(&sound, Some(3)).contains(&format!("`train` ({} and 3)", sizes[0])));

        let other = fault(&section("digits", sizes), None);
        assert!(other.contains("d is not the dataset that [data] of m.toml describes"), "{other}");
        assert!(other.contains(&format!("`dataset` ({name:?} and \"digits\")")) && other.contains("--any-data"));
        for (i, split) in ["train", "val", "test"].into_iter().enumerate() {
            let mut sizes = sizes;
            sizes[i] += 1;
            let expected = format!("`{split}` ({} and {})", sizes[i] - 1, sizes[i]);
            assert!(fault(&section(&name, sizes), None).contains(&expected));
        }
        let names = &dataset.info.class_names;
        assert_eq!(fault(&format!("{sound}classes = {names:?}\n"), None), "");
        assert!(fault(&format!("{sound}classes = [\"x\", \"y\"]\n"), None).contains("`classes`"));
    }
}
