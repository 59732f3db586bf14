//! From the published files to a prepared dataset: splits, transforms, one file.

use std::collections::BTreeMap;
use std::path::Path;

use zoo_model::dataset::{is_prepared, read_info, DatasetInfo, PerSplit, Samples};
use zoo_model::files::{fingerprint, parent_of, remove_stale_temporaries, touch, FileError, Sha256};
use zoo_model::lock::OutputLock;
use zoo_model::random::{Purpose, Stream};
use zoo_model::stage::{check_outside_zoos, Stage, UsageError};
use zoo_model::{Dataset, Manifest, ManifestError, FORMAT_VERSION};

use crate::description::PublishedSizes;
use crate::error::DataError;
use crate::published::{load, sources};
use crate::section::DataSection;
use crate::summary::DataSummary;

/// What a manifest's prepared dataset will be like; known without reading any data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// (channels, height, width) of an image after the transforms.
    pub shape: [usize; 3],
    /// Number of classes.
    pub classes: usize,
    /// Samples in the train, validation and test splits, of the dataset as published.
    pub samples: PerSplit<usize>,
}

/// See [`Expected`].
///
/// # Errors
/// The section asks for the impossible.
pub fn expected(manifest: &Manifest) -> Result<Expected, ManifestError> {
    let section = DataSection::of(manifest)?;
    let PublishedSizes { train: available, test } = section.dataset.description().sizes;
    let test = manifest.reduction.samples(section.test.map_or(test, |n| n as usize));
    if section.folder.is_none() {
        check_split(manifest, &section, available)?;
    }
    let shape = transformed_shape(manifest, &section)?;
    per_channel(manifest, "data.normalize", &section.normalize.mean, shape[0])?;
    per_channel(manifest, "data.normalize", &section.normalize.std, shape[0])?;
    let samples = PerSplit { train: section.train as usize, val: section.val as usize, test };
    Ok(Expected { shape, classes: section.class_count(), samples })
}

/// Prepares the dataset of a manifest, from files under `root`, as `output`.
///
/// Does nothing if the output is up to date, and replaces no file that is not a prepared dataset.
pub fn prepare(manifest: &Manifest, root: &Path, output: &Path, stage: &Stage) -> Result<DataSummary, DataError> {
    let section = DataSection::of(manifest)?;
    let expected = expected(manifest)?;
    let summary = |up_to_date, samples| DataSummary {
        dataset: section.dataset.name(),
        output: output.to_owned(),
        up_to_date,
        samples: Some(samples),
    };
    remove_stale_temporaries(parent_of(output));
    if is_up_to_date(manifest, root, output)? {
        touch(output)?;
        return Ok(summary(true, expected.samples));
    }
    check_replaces(output)?;
    let _lock = OutputLock::beside(output)?;
    stage.interrupt.check()?;
    let published = load(&section, expected.shape, root, stage)?;
    check_split(manifest, &section, published.train.labels.len())?;
    if section.test.is_some_and(|n| n as usize != published.test.labels.len()) {
        let message = format!("must be {}, the number of test images", published.test.labels.len());
        return Err(manifest.error("data.test", message).into());
    }
    let HeldOut { rest, val } = hold_out(&section, published.train.labels.len());
    let val = selected(&published.train, &val);
    let test = spread(published.test.labels.len(), manifest.reduction.samples(published.test.labels.len()));
    let (train, test) = (all_or_selected(published.train, &rest), all_or_selected(published.test, &test));
    let channels = expected.shape[0];
    let info = DatasetInfo {
        dataset: section.dataset.name().to_owned(),
        class_names: published.class_names,
        mean: per_channel(manifest, "data.normalize", &section.normalize.mean, channels)?,
        std: per_channel(manifest, "data.normalize", &section.normalize.std, channels)?,
        fingerprint: inputs_fingerprint(&section, &published.sources),
        sources: published.sources.iter().map(|(name, sum)| (name.clone(), sum.to_string())).collect(),
    };
    let wrong = |m| FileError::format(output, m);
    let dataset = Dataset::new(info, expected.shape, PerSplit { train, val, test }).map_err(wrong)?;
    dataset.write(output)?;
    Ok(summary(false, PerSplit::from_fn(|s| dataset.len(s))))
}

/// Checks that preparing a dataset as `output` replaces nothing that cannot be prepared again.
///
/// # Errors
/// It would.
pub fn check_replaces(output: &Path) -> Result<(), UsageError> {
    if output.is_dir() {
        return Err(UsageError(format!("{} is a folder, expected the path of the file to write", output.display())));
    }
    check_outside_zoos(output)?;
    if !output.is_file() || is_prepared(output) {
        return Ok(());
    }
    let message = "exists and was not prepared by zoo-data: choose another --output, or remove it";
    Err(UsageError(format!("{} {message}", output.display())))
}

/// Whether `output` is there and made of today's section and files.
pub fn is_up_to_date(manifest: &Manifest, root: &Path, output: &Path) -> Result<bool, DataError> {
    let section = DataSection::of(manifest)?;
    // A damaged output is not up to date.
    let Some(info) = output.is_file().then(|| read_info(output).ok()).flatten() else { return Ok(false) };
    Ok(info.fingerprint == inputs_fingerprint(&section, &sources(&section, root)?))
}

fn inputs_fingerprint(section: &DataSection, sources: &BTreeMap<String, Sha256>) -> String {
    fingerprint(&(FORMAT_VERSION, section, sources))
}

fn check_split(manifest: &Manifest, section: &DataSection, available: usize) -> Result<(), ManifestError> {
    let asked = section.train as usize + section.val as usize;
    if asked > available {
        let message = format!(
            "train = {} and val = {} ask for {asked} samples, the training part of {} has {available}",
            section.train,
            section.val,
            section.dataset.name()
        );
        return Err(manifest.error("data.train", message));
    }
    Ok(())
}

fn per_channel(manifest: &Manifest, key: &str, values: &[f64], channels: usize) -> Result<Vec<f64>, ManifestError> {
    match values {
        [one] => Ok(vec![*one; channels]),
        many if many.len() == channels => Ok(many.to_vec()),
        many => Err(manifest.error(key, format!("has {} values, the images have {channels} channels", many.len()))),
    }
}

fn transformed_shape(manifest: &Manifest, section: &DataSection) -> Result<[usize; 3], ManifestError> {
    let [mut channels, mut height, mut width] = section.dataset.description().shape;
    let transform = section.transforms();
    if transform.grayscale {
        channels = 1;
    }
    if let Some(side) = transform.center_crop {
        if side > height.min(width) && section.folder.is_none() {
            let message = format!("is {side}, but the images have {height}x{width} pixels");
            return Err(manifest.error("data.transform.center-crop", message));
        }
        (height, width) = (side, side);
    }
    if let Some(side) = transform.resize {
        (height, width) = (side, side);
    }
    Ok([channels, height, width])
}

/// Indices in the published training part, ascending.
struct HeldOut {
    /// Of the train split.
    rest: Vec<usize>,
    /// Of the validation split.
    val: Vec<usize>,
}

/// Draws which samples of the published training part are trained on, and which are held out.
fn hold_out(section: &DataSection, available: usize) -> HeldOut {
    let mut order: Vec<usize> = (0..available).collect();
    Stream::new(section.split_seed, Purpose::Split, 0, 0).shuffle(&mut order);
    order.truncate(section.train as usize + section.val as usize);
    let mut val = order.split_off(section.train as usize);
    order.sort_unstable();
    val.sort_unstable();
    HeldOut { rest: order, val }
}

/// The given number of indices below `available`, at equal distances, ascending.
fn spread(available: usize, wanted: usize) -> Vec<usize> {
    (0..wanted).map(|i| i * available / wanted).collect()
}

fn selected(samples: &Samples, indices: &[usize]) -> Samples {
    let length = samples.images.len() / samples.labels.len().max(1);
    let mut images = Vec::with_capacity(indices.len() * length);
    for index in indices {
        images.extend_from_slice(&samples.images[index * length..][..length]);
    }
    Samples { images, labels: indices.iter().map(|&i| samples.labels[i]).collect() }
}

/// Ascending indices of all samples select the samples as they are.
fn all_or_selected(samples: Samples, indices: &[usize]) -> Samples {
    if indices.len() == samples.labels.len() {
        return samples;
    }
    selected(&samples, indices)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoo_model::Split;

    fn manifest(data: &str) -> Manifest {
        Manifest::parse("m.toml", format!("[data]\n{data}")).unwrap()
    }

    #[test]
    fn digits_are_prepared_at_28_pixels_without_any_file() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("a folder/d.safetensors");
        let manifest = manifest("dataset = \"digits\"\ntrain = 1000\nval = 297\n");
        let stage = Stage::silent();
        assert!(!prepare(&manifest, dir.path(), &output, &stage).unwrap().up_to_date);
        let first = std::fs::read(&output).unwrap();
        assert!(prepare(&manifest, dir.path(), &output, &stage).unwrap().up_to_date);
        assert_eq!(std::fs::read(&output).unwrap(), first);
        let mut damaged = first.clone();
        damaged[100_000] ^= 1;
        for damaged in [&damaged[..], &first[..100_000]] {
            std::fs::write(&output, damaged).unwrap();
            assert!(!prepare(&manifest, dir.path(), &output, &stage).unwrap().up_to_date);
            assert!(std::fs::read(&output).unwrap() == first, "a damaged file is made again");
        }
        let dataset = Dataset::read(&output).unwrap();
        assert_eq!(dataset.shape, [1, 28, 28]);
        assert_eq!(Split::ALL.map(|s| dataset.len(s)), [1000, 297, 500]);
        let counts = |split| (0..10).map(|c| dataset.split(split).labels.iter().filter(|&&l| l == c).count()).min();
        assert!(counts(Split::Train).unwrap() > 70, "the split is random");
    }

    #[test]
    fn a_cut_limits_every_split() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("d.safetensors");
        let mut manifest = manifest("dataset = \"digits\"\ntrain = 1000\nval = 20\n");
        let stage = Stage::silent();
        prepare(&manifest, dir.path(), &output, &stage).unwrap();
        manifest.reduction.samples = Some(50);
        assert_eq!(expected(&manifest).unwrap().samples, PerSplit { train: 50, val: 20, test: 50 });
        assert!(!is_up_to_date(&manifest, dir.path(), &output).unwrap(), "a reduction is another dataset");
        prepare(&manifest, dir.path(), &output, &stage).unwrap();
        let dataset = Dataset::read(&output).unwrap();
        assert_eq!(Split::ALL.map(|s| dataset.len(s)), [50, 20, 50]);
        assert_eq!(spread(7, 3), [0, 2, 4]);
    }

    #[test]
    fn another_seed_draws_another_split() {
        let section = |seed| -> DataSection {
            manifest(&format!("dataset = \"digits\"\ntrain = 10\nval = 5\nsplit-seed = {seed}\n"))
                .required("data")
                .unwrap()
        };
        let HeldOut { rest, val } = hold_out(&section(1), 100);
        assert!(rest.iter().all(|i| !val.contains(i)));
        assert_ne!(rest, hold_out(&section(2), 100).rest);
    }

    #[test]
    fn impossible_sections_are_refused() {
        let error = |text: &str| expected(&manifest(text)).unwrap_err().to_string();
        let base = "dataset = \"digits\"\ntrain = 1000\n";
        assert!(
            error("dataset = \"digits\"\ntrain = 1000\nval = 298\n").starts_with("m.toml:3: data.train: train = 1000")
        );
        assert!(error("dataset = \"digits\"\ntrain = 0\n").contains("must be from 1"));
        assert!(error("dataset = \"minst\"\ntrain = 1\n").contains("did you mean `mnist`?"));
        assert!(error(&format!("{base}transform = {{ center-crop = 9 }}\n")).contains("8x8"));
        assert!(error(&format!("{base}transform = {{ resize = 0 }}\n")).contains("from 1 to 4096"));
        assert!(error(&format!("{base}normalize = {{ mean = [0.1, 0.2], std = [1.0] }}\n")).contains("1 channels"));
        assert!(error(&format!("{base}normalize = {{ mean = [0.1], std = [0.0] }}\n")).contains("above 0"));
        assert!(error(&format!("{base}transfrom = {{}}\n")).contains("did you mean `transform`?"));
        let fine = expected(&manifest(&format!("{base}transform = {{ resize = 32 }}\n"))).unwrap();
        assert_eq!(
            (fine.shape, fine.classes, fine.samples),
            ([1, 32, 32], 10, PerSplit { train: 1000, val: 0, test: 500 })
        );
    }
}
