//! The parts of a dataset while it is read: images are transformed as they come, so that no more
//! than one batch is held in its published size.

use std::path::PathBuf;

use rayon::prelude::*;
use zoo_model::dataset::Samples;
use zoo_model::files::FileError;
use zoo_model::stage::{Interrupted, Progress, Stage};

use crate::error::DataError;
use crate::formats::picture;
use crate::transform::{self, Image, TransformSection};

/// Maximum number of bytes of pixels in one part; a prepared dataset may hold 16 GiB.
const SIZE_LIMIT: usize = 12 << 30;
/// Pictures that are decoded together, in parallel.
const BATCH: usize = 512;
/// Maximum number of bytes of their files.
const BATCH_BYTES: usize = 64 << 20;

/// Why a file cannot be taken.
#[derive(Debug)]
pub enum Fault {
    /// It is wrong: a sentence.
    Wrong(String),
    /// Asked to stop.
    Interrupted(Interrupted),
}

impl From<String> for Fault {
    fn from(message: String) -> Self {
        Self::Wrong(message)
    }
}

impl From<Interrupted> for Fault {
    fn from(interrupted: Interrupted) -> Self {
        Self::Interrupted(interrupted)
    }
}

/// A file that a dataset is read from.
#[derive(Debug)]
pub struct SourceFile {
    /// Where it is.
    pub path: PathBuf,
    /// What to do if it is wrong.
    pub remedy: String,
}

impl SourceFile {
    /// The error of a fault in this file.
    pub fn wrong(&self, fault: impl Into<Fault>) -> DataError {
        match fault.into() {
            Fault::Wrong(message) => FileError::format(&self.path, format!("{message}; {}", self.remedy)).into(),
            Fault::Interrupted(interrupted) => interrupted.into(),
        }
    }

    /// Opens it.
    pub fn open(&self) -> Result<std::fs::File, DataError> {
        Ok(std::fs::File::open(&self.path).map_err(FileError::io("read", &self.path))?)
    }
}

/// Both parts of a dataset that is being read.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The published training part.
    pub train: Part<'a>,
    /// The published test part.
    pub test: Part<'a>,
    /// Names of the classes.
    pub class_names: Vec<String>,
}

/// One of them.
#[derive(Debug)]
pub struct Part<'a> {
    transform: &'a TransformSection,
    shape: [usize; 3],
    stage: &'a Stage,
    pub(crate) samples: Samples,
}

/// A picture's file.
#[derive(Debug)]
pub struct Picture {
    /// What messages call it.
    pub name: String,
    /// Its class.
    pub label: u16,
    /// Its content.
    pub bytes: Vec<u8>,
}

impl<'a> Parts<'a> {
    /// Empty parts, whose images come to have `shape` by `transform`.
    pub fn new(transform: &'a TransformSection, shape: [usize; 3], class_names: Vec<String>, stage: &'a Stage) -> Self {
        let part = || Part { transform, shape, stage, samples: Samples::default() };
        Self { train: part(), test: part(), class_names }
    }
}

impl Part<'_> {
    /// Adds an image of a class.
    ///
    /// # Errors
    /// The image cannot be transformed to the dataset's shape.
    pub fn push(&mut self, image: Image, label: u16) -> Result<(), Fault> {
        self.stage.interrupt.check()?;
        let image = transformed(image, self.transform, self.shape)?;
        self.add(image, label)
    }

    fn add(&mut self, image: Image, label: u16) -> Result<(), Fault> {
        if self.samples.images.len() + image.pixels.len() > SIZE_LIMIT {
            return Err(format!("holds images of more than {SIZE_LIMIT} bytes in all").into());
        }
        self.samples.images.extend(image.pixels);
        self.samples.labels.push(label);
        Ok(())
    }

    /// Adds pictures of at most `side` columns and rows, decoded in parallel, in their order.
    ///
    /// # Errors
    /// The first picture that cannot be read or decoded; the message names it.
    pub fn push_pictures(
        &mut self,
        pictures: impl ExactSizeIterator<Item = Result<Picture, String>>,
        side: u32,
    ) -> Result<(), Fault> {
        let progress = self.stage.progress("decoding", pictures.len() as u64);
        let mut batch = Vec::new();
        let mut bytes = 0;
        for picture in pictures {
            let picture = picture?;
            bytes += picture.bytes.len();
            batch.push(picture);
            if batch.len() == BATCH || bytes > BATCH_BYTES {
                self.push_batch(&batch, side, &progress)?;
                batch.clear();
                bytes = 0;
            }
        }
        self.push_batch(&batch, side, &progress)
    }

    fn push_batch(&mut self, batch: &[Picture], side: u32, progress: &dyn Progress) -> Result<(), Fault> {
        self.stage.interrupt.check()?;
        let decode = |p: &Picture| {
            let image = picture::decode(&p.bytes, side).and_then(|i| transformed(i, self.transform, self.shape));
            image.map_err(|m| format!("{} {m}", p.name))
        };
        let images: Vec<Result<Image, String>> = batch.par_iter().map(decode).collect();
        for (image, picture) in images.into_iter().zip(batch) {
            self.add(image?, picture.label)?;
        }
        progress.advance(batch.len() as u64);
        Ok(())
    }
}

fn transformed(image: Image, transform: &TransformSection, shape: [usize; 3]) -> Result<Image, String> {
    let published = [image.height, image.width];
    let image = transform::apply(transform, image)?;
    let found = [image.channels, image.height, image.width];
    if found != shape {
        let [height, width] = published;
        return Err(format!(
            "is {height}x{width} pixels, which the transforms turn into {found:?} instead of {shape:?}"
        ));
    }
    Ok(image)
}
