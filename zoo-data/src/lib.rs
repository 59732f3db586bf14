//! Loads image datasets in their published forms and prepares them for training: splits,
//! transforms to the bit as Pillow does them, one file for every later stage.
//!
//! ```no_run
//! use std::path::Path;
//! use zoo_model::{Dataset, Manifest};
//!
//! let manifest = Manifest::load(Path::new("configs/quickstart.toml"))?;
//! let output = Path::new("data/quickstart.safetensors");
//! zoo_data::prepare(&manifest, Path::new("."), output, &Default::default())?;
//! println!("{:?}", Dataset::read(output)?.shape);
//! # Ok::<(), zoo_data::Error>(())
//! ```

pub mod checksum;
mod client;
pub mod datasets;
pub mod fetch;
pub mod formats;
pub mod parts;
mod published;
mod section;
pub mod transform;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use zoo_cli::ReductionArgs;
use zoo_model::dataset::{is_prepared, read_info, DatasetInfo, Samples};
use zoo_model::files::{fingerprint, parent_of, remove_abandoned, touch, FileError};
use zoo_model::lock::OutputLock;
use zoo_model::random::{Purpose, Stream};
use zoo_model::stage::{check_outside_zoos, Interrupted, Stage, UsageError};
use zoo_model::{Dataset, Manifest, ManifestError, Split, FORMAT_VERSION};

pub use published::{DatasetName, Description, Origin, Published, PublishedFile};
pub use section::{DataSection, NormalizeSection, TransformSection};

/// Why a dataset could not be prepared or fetched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A mistake in the manifest.
    #[error("{0}")]
    Manifest(#[from] ManifestError),
    /// A file could not be read, written or understood.
    #[error("{0}")]
    File(#[from] FileError),
    /// The command line cannot be carried out.
    #[error("{0}")]
    Usage(#[from] UsageError),
    /// Asked to stop.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
    /// A published file is nowhere to be found.
    #[error(
        "{dataset}'s {file} is in none of {looked_in}: get it with `{}`{}",
        fetch_command(dataset, root),
        debian_hint(dataset)
    )]
    NotFound {
        /// The dataset.
        dataset: &'static str,
        /// The file.
        file: String,
        /// The root that was searched.
        root: PathBuf,
        /// The folders that were searched.
        looked_in: String,
    },
    /// No mirror gave the file.
    #[error("cannot download {file}: {attempts}")]
    Download {
        /// The file.
        file: String,
        /// What each mirror did.
        attempts: String,
    },
}

/// The command that downloads a dataset, as a shell takes it.
fn fetch_command(dataset: &str, root: &Path) -> String {
    let root = root.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    let root = if root.chars().all(plain) { root } else { format!("'{}'", root.replace('\'', r"'\''")) };
    format!("zoo-data fetch {dataset} --root {root}")
}

fn debian_hint(dataset: &str) -> &'static str {
    match dataset {
        "fashion-mnist" => ", or install the Debian package dataset-fashion-mnist",
        _ => "",
    }
}

/// Command line of `zoo-data`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Manifest (TOML)
    #[arg(value_name = "MANIFEST", required = true)]
    manifest: Option<PathBuf>,
    #[command(flatten)]
    reduction: ReductionArgs,
    /// Folder under which published files are looked for
    #[arg(long, value_name = "DIR", default_value = ".")]
    root: PathBuf,
    /// Prepared dataset file to make
    #[arg(short, long, value_name = "FILE", required = true)]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// Download a published dataset
    Fetch {
        /// The dataset
        dataset: DatasetName,
        /// Folder that gets it, in data/DATASET
        #[arg(long, value_name = "DIR", default_value = ".")]
        root: PathBuf,
        /// Ask this address instead of the known ones; may be given several times
        #[arg(long, value_name = "URL")]
        mirror: Vec<String>,
    },
}

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  zoo-data configs/quickstart.toml -o data/quickstart.safetensors
  zoo-data fetch cifar10 --root .
  zoo-data configs/fashion-mnist-small.toml --root . -o data/fashion-mnist-small.safetensors

Exit codes: 0 done, 1 failed, 2 wrong usage or manifest, 130 interrupted.";

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Name of the dataset.
    pub dataset: &'static str,
    /// The file, or folder, that was made.
    pub output: PathBuf,
    /// Whether there was nothing to do.
    pub up_to_date: bool,
    /// Samples in the train, validation and test splits; absent after a fetch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<[usize; 3]>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let state = if self.up_to_date { "up to date" } else { "made" };
        write!(f, "{}: {} {state}", self.output.display(), self.dataset)?;
        match self.samples {
            Some([train, val, test]) => write!(f, " ({train} train, {val} validation, {test} test)"),
            None => Ok(()),
        }
    }
}

/// `zoo-data`.
pub fn run(args: &Args, stage: &Stage) -> Result<Summary, Error> {
    let root = match &args.command {
        Some(Command::Fetch { root, .. }) => root,
        None => &args.root,
    };
    if root.is_file() {
        return Err(UsageError(format!("--root: {} is a file, expected a folder", root.display())).into());
    }
    if let Some(Command::Fetch { dataset, root, mirror }) = &args.command {
        return fetch_dataset(*dataset, root, mirror, stage);
    }
    let (Some(manifest), Some(output)) = (&args.manifest, &args.output) else {
        return Err(UsageError("MANIFEST and --output are needed".into()).into());
    };
    prepare(&args.reduction.load(manifest)?, &args.root, output, stage)
}

/// Downloads the files of a published dataset to `root/data/NAME`, from the known mirrors or from
/// those given.
pub fn fetch_dataset(dataset: DatasetName, root: &Path, mirrors: &[String], stage: &Stage) -> Result<Summary, Error> {
    let folder = dataset.folder(root);
    let summary = |up_to_date, output| Summary { dataset: dataset.name(), output, up_to_date, samples: None };
    match &dataset.description().origin {
        Origin::Embedded { .. } => {
            stage.say(format!("{} is embedded in this program: there is nothing to download", dataset.name()));
            Ok(summary(true, folder))
        }
        Origin::Folder => {
            let message = format!("{} is made of your own pictures: there is nothing to download", dataset.name());
            Err(UsageError(message).into())
        }
        Origin::Files { files, mirrors: known, .. } => {
            let known = || known.iter().map(|&m| m.to_owned()).collect();
            let mirrors = if mirrors.is_empty() { known() } else { mirrors.to_vec() };
            let downloaded = fetch::fetch(files, &mirrors, &folder, fetch::SILENCE, stage)?;
            Ok(summary(downloaded == 0, folder))
        }
    }
}

/// What a manifest's prepared dataset will be like; known without reading any data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// (channels, height, width) of an image after the transforms.
    pub shape: [usize; 3],
    /// Number of classes.
    pub classes: usize,
    /// Samples in the train, validation and test splits, of the dataset as published.
    pub samples: [usize; 3],
}

/// See [`Expected`].
///
/// # Errors
/// The section asks for the impossible.
pub fn expected(manifest: &Manifest) -> Result<Expected, ManifestError> {
    let section = DataSection::of(manifest)?;
    let [available, test] = section.dataset.description().sizes;
    let test = manifest.reduction.samples(section.test.map_or(test, |n| n as usize));
    if section.folder.is_none() {
        check_split(manifest, &section, available)?;
    }
    let shape = transformed_shape(manifest, &section)?;
    per_channel(manifest, "data.normalize", &section.normalize.mean, shape[0])?;
    per_channel(manifest, "data.normalize", &section.normalize.std, shape[0])?;
    let samples = [section.train as usize, section.val as usize, test];
    Ok(Expected { shape, classes: section.class_count(), samples })
}

/// Prepares the dataset of a manifest, from files under `root`, as `output`.
///
/// Does nothing if the output is up to date, and replaces no file that is not a prepared dataset.
pub fn prepare(manifest: &Manifest, root: &Path, output: &Path, stage: &Stage) -> Result<Summary, Error> {
    let section = DataSection::of(manifest)?;
    let expected = expected(manifest)?;
    let summary = |up_to_date, samples| Summary {
        dataset: section.dataset.name(),
        output: output.to_owned(),
        up_to_date,
        samples: Some(samples),
    };
    remove_abandoned(parent_of(output));
    if is_up_to_date(manifest, root, output)? {
        touch(output)?;
        return Ok(summary(true, expected.samples));
    }
    check_replaces(output)?;
    let _lock = OutputLock::beside(output)?;
    stage.interrupt.check()?;
    let published = published::load(&section, expected.shape, root, stage)?;
    check_split(manifest, &section, published.train.labels.len())?;
    if section.test.is_some_and(|n| n as usize != published.test.labels.len()) {
        let message = format!("is not the number of pictures for testing, {}", published.test.labels.len());
        return Err(manifest.error("data.test", message).into());
    }
    let [train, val] = split(&section, published.train.labels.len());
    let val = selected(&published.train, &val);
    let test = spread(published.test.labels.len(), manifest.reduction.samples(published.test.labels.len()));
    let splits = [all_or_selected(published.train, &train), val, all_or_selected(published.test, &test)];
    let channels = expected.shape[0];
    let info = DatasetInfo {
        dataset: section.dataset.name().to_owned(),
        class_names: published.class_names,
        mean: per_channel(manifest, "data.normalize", &section.normalize.mean, channels)?,
        std: per_channel(manifest, "data.normalize", &section.normalize.std, channels)?,
        fingerprint: inputs_fingerprint(&section, &published.sources),
        sources: published.sources,
    };
    let wrong = |m| FileError::format(output, m);
    let dataset = Dataset::new(info, expected.shape, splits).map_err(wrong)?;
    dataset.write(output)?;
    Ok(summary(false, Split::ALL.map(|s| dataset.len(s))))
}

/// Checks that preparing a dataset as `output` replaces nothing that cannot be prepared again.
///
/// # Errors
/// It would.
pub fn check_replaces(output: &Path) -> Result<(), UsageError> {
    if output.is_dir() {
        return Err(UsageError(format!("{} is a folder, expected the name of a file to make", output.display())));
    }
    check_outside_zoos(output)?;
    if !output.is_file() || is_prepared(output) {
        return Ok(());
    }
    let message = "is there and is not a dataset prepared by zoo-data: choose another output, or remove it";
    Err(UsageError(format!("{} {message}", output.display())))
}

/// Whether `output` is there and made of today's section and files.
pub fn is_up_to_date(manifest: &Manifest, root: &Path, output: &Path) -> Result<bool, Error> {
    let section = DataSection::of(manifest)?;
    // A damaged output is not up to date.
    let Some(info) = output.is_file().then(|| read_info(output).ok()).flatten() else { return Ok(false) };
    Ok(info.fingerprint == inputs_fingerprint(&section, &published::sources(&section, root)?))
}

fn inputs_fingerprint(section: &DataSection, sources: &std::collections::BTreeMap<String, String>) -> String {
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

/// Indices of the train and validation samples in the published training part, ascending.
fn split(section: &DataSection, available: usize) -> [Vec<usize>; 2] {
    let mut order: Vec<usize> = (0..available).collect();
    Stream::new(section.split_seed, Purpose::Split, 0, 0).shuffle(&mut order);
    order.truncate(section.train as usize + section.val as usize);
    let mut val = order.split_off(section.train as usize);
    order.sort_unstable();
    val.sort_unstable();
    [order, val]
}

/// So many indices below `available`, at equal distances, ascending.
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

    fn manifest(data: &str) -> Manifest {
        Manifest::parse("m.toml", format!("[data]\n{data}")).unwrap()
    }

    #[test]
    fn commands_in_messages_quote_what_a_shell_would_split() {
        assert_eq!(fetch_command("usps", Path::new("/a/b")), "zoo-data fetch usps --root /a/b");
        assert_eq!(fetch_command("usps", Path::new("it's my dir")), r"zoo-data fetch usps --root 'it'\''s my dir'");
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
        assert_eq!(expected(&manifest).unwrap().samples, [50, 20, 50]);
        assert!(!is_up_to_date(&manifest, dir.path(), &output).unwrap(), "a cut is another dataset");
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
        let [train, val] = split(&section(1), 100);
        assert!(train.iter().all(|i| !val.contains(i)));
        assert_ne!(train, split(&section(2), 100)[0]);
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
        assert_eq!((fine.shape, fine.classes, fine.samples), ([1, 32, 32], 10, [1000, 0, 500]));
    }
}
