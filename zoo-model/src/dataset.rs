//! Prepared dataset files: what every stage after `zoo-data` works on.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize, Serializer};

use crate::files::{write_atomic, FileError, Sha256Hasher};
use crate::safetensors_file::{self, Dtype, Header, TensorFile, TensorSpec};
use crate::text::counted;
use crate::FORMAT_VERSION;

/// Maximum number of bytes that a prepared dataset may hold in memory (Tiny ImageNet takes 1.4 GB).
const SIZE_LIMIT: u64 = 16 << 30;

/// Key of the header under which the checksum of everything after the header stands.
const DATA_SHA256: &str = "data_sha256";

/// The three parts of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Trained on.
    Train,
    /// Held out of the published training part.
    Val,
    /// The published test part.
    Test,
}

impl Split {
    /// All three, in the order of the file.
    pub const ALL: [Self; 3] = [Self::Train, Self::Val, Self::Test];

    fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }
}

/// A value for each split; in JSON a list of three, in the order of [`Split::ALL`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PerSplit<T> {
    /// Of the train split.
    pub train: T,
    /// Of the validation split.
    pub val: T,
    /// Of the test split.
    pub test: T,
}

impl<T> PerSplit<T> {
    /// What `of` gives for each split, in order.
    pub fn from_fn(mut of: impl FnMut(Split) -> T) -> Self {
        Self { train: of(Split::Train), val: of(Split::Val), test: of(Split::Test) }
    }

    /// What belongs to a split.
    pub fn get(&self, split: Split) -> &T {
        match split {
            Split::Train => &self.train,
            Split::Val => &self.val,
            Split::Test => &self.test,
        }
    }

    /// What belongs to a split.
    pub fn get_mut(&mut self, split: Split) -> &mut T {
        match split {
            Split::Train => &mut self.train,
            Split::Val => &mut self.val,
            Split::Test => &mut self.test,
        }
    }

    /// What `of` makes of each value.
    pub fn map<U>(&self, of: impl Fn(&T) -> U) -> PerSplit<U> {
        PerSplit::from_fn(|split| of(self.get(split)))
    }

    /// All three, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        Split::ALL.into_iter().map(|split| self.get(split))
    }
}

impl<T: Serialize> Serialize for PerSplit<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.train, &self.val, &self.test).serialize(serializer)
    }
}

/// Images and labels of one split.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Samples {
    /// Pixels, (N, C, H, W), row-major.
    pub images: Vec<u8>,
    /// Class of each image, (N).
    pub labels: Vec<u16>,
}

/// What a prepared dataset says of itself, in its safetensors header.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatasetInfo {
    /// Name of the published dataset.
    pub dataset: String,
    /// Name of each class; their number is the number of classes.
    pub class_names: Vec<String>,
    /// Mean per channel, subtracted from pixel / 255.
    pub mean: Vec<f64>,
    /// Standard deviation per channel, dividing after that.
    pub std: Vec<f64>,
    /// SHA-256 of every source file, by name; of a folder of pictures, by its path below the root.
    #[serde(default)]
    pub sources: BTreeMap<String, String>,
    /// Fingerprint of the `[data]` section that it was made from.
    #[serde(default)]
    pub fingerprint: String,
}

/// A prepared dataset in memory: pixels stay u8, (C, H, W) is the same for all images.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Header.
    pub info: DatasetInfo,
    /// (channels, height, width).
    pub shape: [usize; 3],
    splits: PerSplit<Samples>,
    sha256: String,
}

impl Dataset {
    /// Puts a dataset together.
    ///
    /// # Errors
    /// A sentence that says which part does not fit.
    pub fn new(info: DatasetInfo, shape: [usize; 3], splits: PerSplit<Samples>) -> Result<Self, String> {
        let pixels: usize = shape.iter().product();
        if pixels == 0 {
            return Err(format!("images of shape {shape:?} have no pixels"));
        }
        if info.class_names.is_empty() || info.class_names.len() > 65_536 {
            return Err("`class_names` must name 1 to 65536 classes".into());
        }
        let names = info.class_names.iter().map(|name| ("class_names", name)).chain([("dataset", &info.dataset)]);
        if let Some((key, name)) = names.into_iter().find(|(_, name)| name.contains(char::is_control)) {
            return Err(format!("`{key}` names {name:?}; a name must not hold control characters"));
        }
        for (name, values) in [("mean", &info.mean), ("std", &info.std)] {
            if values.len() != shape[0] || values.iter().any(|v| !v.is_finite()) {
                return Err(format!("`{name}` must hold one finite number for each of the {} channels", shape[0]));
            }
        }
        if info.std.iter().any(|&s| s <= 0.0) {
            return Err("`std` must be above 0".into());
        }
        for split in Split::ALL {
            let (name, samples) = (split.name(), splits.get(split));
            if samples.images.len() != samples.labels.len() * pixels {
                let images = samples.images.len() / pixels;
                let (images, labels) = (counted(images, "image"), counted(samples.labels.len(), "label"));
                return Err(format!("`{name}_images` has {images}, `{name}_labels` {labels}"));
            }
            if let Some(label) = samples.labels.iter().find(|&&l| usize::from(l) >= info.class_names.len()) {
                return Err(format!(
                    "`{name}_labels` holds {label}, the classes are 0 to {}",
                    info.class_names.len() - 1
                ));
            }
        }
        if splits.train.labels.is_empty() {
            return Err("the train split is empty".into());
        }
        Ok(Self { info, shape, splits, sha256: String::new() })
    }

    /// Reads a prepared dataset file.
    ///
    /// # Errors
    /// The file cannot be read, or is not a prepared dataset; the message names tensor and fault.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        if path.is_dir() {
            return Err(FileError::format(path, "is a folder, expected a prepared dataset: a file that zoo-data made"));
        }
        let wrong = |m: String| {
            FileError::format(path, format!("is not a prepared dataset: {m}; docs/format.md describes the file"))
        };
        let mut file = TensorFile::open(path)?;
        if file.header().file_length() > SIZE_LIMIT {
            return Err(wrong(format!("larger than {SIZE_LIMIT} bytes")));
        }
        let info = info_from_metadata(&file.header().metadata).map_err(wrong)?;
        let sha256 = check_data(path, file.header())?;
        let mut shape = None;
        let mut splits = PerSplit::<Samples>::default();
        for split in Split::ALL {
            let samples = splits.get_mut(split);
            let images = format!("{}_images", split.name());
            let labels = format!("{}_labels", split.name());
            let &[_, c, h, w] = file.tensor(&images, Dtype::U8)?.spec.shape.as_slice() else {
                return Err(wrong(format!("`{images}` must have shape (N, C, H, W)")));
            };
            if *shape.get_or_insert([c, h, w]) != [c, h, w] {
                return Err(wrong(format!("`{images}` has images of another shape than `train_images`")));
            }
            samples.images = file.read(&images, Dtype::U8)?;
            samples.labels = match file.header().tensor(&labels).map(|t| t.spec.dtype) {
                Some(Dtype::U16) => {
                    let bytes = file.read(&labels, Dtype::U16)?;
                    bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect()
                }
                _ => file.read(&labels, Dtype::U8)?.into_iter().map(u16::from).collect(),
            };
        }
        let mut dataset = Self::new(info, shape.expect("three splits"), splits).map_err(wrong)?;
        dataset.sha256 = sha256;
        Ok(dataset)
    }

    /// Writes a prepared dataset file: the same bytes for the same dataset.
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        let [c, h, w] = self.shape;
        let wide = self.classes() > 256;
        let mut specs = Vec::new();
        let mut labels: Vec<Vec<u8>> = Vec::new();
        for split in Split::ALL {
            let samples = self.split(split);
            let n = samples.labels.len();
            let dtype = if wide { Dtype::U16 } else { Dtype::U8 };
            let spec = |suffix, dtype, shape| TensorSpec { name: format!("{}_{suffix}", split.name()), dtype, shape };
            specs.push(spec("images", Dtype::U8, vec![n, c, h, w]));
            specs.push(spec("labels", dtype, vec![n]));
            labels.push(match wide {
                true => samples.labels.iter().flat_map(|l| l.to_le_bytes()).collect(),
                false => samples.labels.iter().map(|&l| l as u8).collect(),
            });
        }
        let bytes: Vec<&[u8]> =
            self.splits.iter().zip(&labels).flat_map(|(samples, labels)| [&samples.images[..], labels]).collect();
        let mut hasher = Sha256Hasher::default();
        bytes.iter().for_each(|tensor| hasher.update(tensor));
        let mut metadata = info_to_metadata(&self.info);
        metadata.insert(DATA_SHA256.into(), hasher.finish().to_string());
        write_atomic(path, |out| safetensors_file::write(out, &specs, &metadata, bytes))
    }

    /// One split.
    pub fn split(&self, split: Split) -> &Samples {
        self.splits.get(split)
    }

    /// Number of samples of a split.
    pub fn len(&self, split: Split) -> usize {
        self.split(split).labels.len()
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.info.class_names.len()
    }

    /// Bytes of one image, C * H * W.
    pub fn image_len(&self) -> usize {
        self.shape.iter().product()
    }

    /// SHA-256 of the file that it was read from: its fingerprint. Empty if it was not read.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Per channel, the network's input for every pixel value: (p / 255 - mean) / std, in f64.
    pub fn normalization(&self) -> Vec<[f64; 256]> {
        let table = |(mean, std): (&f64, &f64)| std::array::from_fn(|p| (p as f64 / 255.0 - mean) / std);
        self.info.mean.iter().zip(&self.info.std).map(table).collect()
    }

    /// [`normalization`](Self::normalization) rounded to f32, the input of networks in f32.
    pub fn normalization_f32(&self) -> Vec<[f32; 256]> {
        self.normalization().iter().map(|table| table.map(|x| x as f32)).collect()
    }
}

/// Makes an image a network's input: pixels of (C, H, W) to values of (H, W, C), each from its channel's
/// table, which [`Dataset::normalization`] or [`Dataset::normalization_f32`] gives. What `input` has beyond
/// the image is left as it is.
pub fn normalize_image<T: Copy>(pixels: &[u8], tables: &[[T; 256]], input: &mut [T]) {
    let channels = tables.len();
    for (channel, (plane, table)) in pixels.chunks_exact(pixels.len() / channels).zip(tables).enumerate() {
        for (value, &pixel) in input[channel..].iter_mut().step_by(channels).zip(plane) {
            *value = table[usize::from(pixel)];
        }
    }
}

/// Whether the file is a dataset that zoo-data prepared, though perhaps a damaged one: then it may be
/// rebuilt.
pub fn is_prepared(path: &Path) -> bool {
    let header = File::open(path).ok().and_then(|mut file| Header::read(&mut file).ok());
    let is_ours = |h: &Header| h.metadata.get("fingerprint").is_some_and(|fingerprint| !fingerprint.is_empty());
    header.is_some_and(|h| is_ours(&h) && h.tensor("train_images").is_some())
}

/// Checks the data against the checksum that the header records, if it does; the SHA-256 of the
/// whole file.
fn check_data(path: &Path, header: &Header) -> Result<String, FileError> {
    let read_error = |e| FileError::io("read", path)(e);
    let mut file = File::open(path).map_err(read_error)?;
    let (mut whole, mut data) = (Sha256Hasher::default(), Sha256Hasher::default());
    let mut head = vec![0; header.length as usize];
    file.read_exact(&mut head).map_err(read_error)?;
    whole.update(&head);
    let mut buffer = vec![0; 1 << 18];
    loop {
        let n = file.read(&mut buffer).map_err(read_error)?;
        if n == 0 {
            break;
        }
        whole.update(&buffer[..n]);
        data.update(&buffer[..n]);
    }
    let found = data.finish().to_string();
    match header.metadata.get(DATA_SHA256) {
        Some(recorded) if *recorded != found => {
            let message = format!(
                "is damaged: its data have SHA-256 {found}, its header says {recorded}; make it again with zoo-data"
            );
            Err(FileError::format(path, message))
        }
        _ => Ok(whole.finish().to_string()),
    }
}

/// Header of a prepared dataset whose data are sound, for up-to-date checks.
pub fn read_info(path: &Path) -> Result<DatasetInfo, FileError> {
    let file = TensorFile::open(path)?;
    check_data(path, file.header())?;
    info_from_metadata(&file.header().metadata).map_err(|m| FileError::format(path, m))
}

/// Header values are strings; all but the name are JSON.
fn info_to_metadata(info: &DatasetInfo) -> BTreeMap<String, String> {
    let json = |v: serde_json::Value| v.to_string();
    BTreeMap::from([
        ("format_version".into(), FORMAT_VERSION.to_string()),
        ("dataset".into(), info.dataset.clone()),
        ("class_names".into(), json(info.class_names.clone().into())),
        ("mean".into(), json(info.mean.clone().into())),
        ("std".into(), json(info.std.clone().into())),
        ("sources".into(), serde_json::to_string(&info.sources).expect("strings")),
        ("fingerprint".into(), info.fingerprint.clone()),
    ])
}

fn info_from_metadata(metadata: &BTreeMap<String, String>) -> Result<DatasetInfo, String> {
    let text = |key: &str| metadata.get(key).ok_or_else(|| format!("its header has no `{key}`"));
    fn json<T: serde::de::DeserializeOwned>(key: &str, text: &str) -> Result<T, String> {
        serde_json::from_str(text).map_err(|e| format!("`{key}` of its header is malformed: {e}"))
    }
    let version: u32 = json("format_version", text("format_version")?)?;
    if version > FORMAT_VERSION {
        return Err(format!("format version {version} is newer than this program's {FORMAT_VERSION}"));
    }
    Ok(DatasetInfo {
        dataset: text("dataset")?.clone(),
        class_names: json("class_names", text("class_names")?)?,
        mean: json("mean", text("mean")?)?,
        std: json("std", text("std")?)?,
        sources: metadata.get("sources").map_or(Ok(BTreeMap::new()), |s| json("sources", s))?,
        fingerprint: metadata.get("fingerprint").cloned().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::sha256_file;

    fn info() -> DatasetInfo {
        DatasetInfo {
            dataset: "toy".into(),
            class_names: vec!["a".into(), "b".into()],
            mean: vec![0.5],
            std: vec![0.25],
            sources: BTreeMap::from([("f".into(), "00".into())]),
            fingerprint: "x".into(),
        }
    }

    fn splits() -> PerSplit<Samples> {
        PerSplit { train: samples(3), val: samples(2), test: samples(1) }
    }

    fn samples(n: usize) -> Samples {
        Samples { images: (0..n * 4).map(|i| i as u8).collect(), labels: (0..n).map(|i| (i % 2) as u16).collect() }
    }

    #[test]
    fn a_dataset_survives_a_round_trip() {
        let dataset = Dataset::new(info(), [1, 2, 2], splits()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.safetensors");
        dataset.write(&path).unwrap();
        let back = Dataset::read(&path).unwrap();
        assert_eq!((&back.info, back.shape, &back.splits), (&dataset.info, dataset.shape, &dataset.splits));
        assert_eq!(back.sha256(), sha256_file(&path).unwrap().to_string());
        assert_eq!(read_info(&path).unwrap(), dataset.info);
        assert_eq!((back.normalization()[0][255], back.normalization_f32()[0][255]), (2.0, 2.0));
    }

    #[test]
    fn an_image_becomes_an_input_with_the_channels_last() {
        let tables = [std::array::from_fn(|p| p as i32), std::array::from_fn(|p| 1000 + p as i32)];
        let mut input = [0; 7];
        normalize_image(&[1, 2, 3, 4, 5, 6], &tables, &mut input);
        assert_eq!(input, [1, 1004, 2, 1005, 3, 1006, 0]);
    }

    #[test]
    fn a_changed_byte_of_the_data_is_damage() {
        let dataset = Dataset::new(info(), [1, 2, 2], splits()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.safetensors");
        dataset.write(&path).unwrap();
        let sound = std::fs::read(&path).unwrap();
        let mut damaged = sound.clone();
        let last = damaged.len() - 2;
        damaged[last] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        let error = Dataset::read(&path).unwrap_err().to_string();
        assert!(error.contains("is damaged") && error.contains("make it again with zoo-data"), "{error}");
        assert!(read_info(&path).is_err() && is_prepared(&path));

        // A file of another program need not have the checksum.
        let header = Header::read(&mut &sound[..]).unwrap();
        let mut metadata = header.metadata.clone();
        metadata.remove(DATA_SHA256).unwrap();
        let specs: Vec<TensorSpec> = header.tensors.iter().map(|t| t.spec.clone()).collect();
        let mut other = Vec::new();
        safetensors_file::write(&mut other, &specs, &metadata, [&sound[header.length as usize..]]).unwrap();
        std::fs::write(&path, other).unwrap();
        assert_eq!(Dataset::read(&path).unwrap().splits, dataset.splits);
        std::fs::write(&path, "[zoo]").unwrap();
        assert!(!is_prepared(&path));
    }

    #[test]
    fn parts_that_do_not_fit_are_named() {
        let with = |change: &dyn Fn(&mut DatasetInfo, &mut PerSplit<Samples>)| {
            let (mut info, mut splits) = (info(), splits());
            change(&mut info, &mut splits);
            Dataset::new(info, [1, 2, 2], splits).unwrap_err()
        };
        assert!(with(&|_, s| s.val.labels[0] = 2).contains("`val_labels` holds 2"));
        assert!(with(&|_, s| s.test.labels.push(0)).contains("`test_images` has 1 image, `test_labels` 2 labels"));
        assert!(with(&|i, _| i.std[0] = 0.0).contains("`std` must be above 0"));
        assert!(with(&|i, _| i.mean.push(0.1)).contains("`mean`"));
        assert!(with(&|i, _| i.class_names[1] = "b\u{1b}[2J".into()).contains("control characters"));
        assert!(with(&|i, _| i.dataset = "x\nverified".into()).contains("`dataset`"));
        assert!(with(&|_, s| s.train = Samples::default()).contains("train split is empty"));
    }
}
