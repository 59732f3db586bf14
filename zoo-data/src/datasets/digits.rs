//! The embedded digits dataset: real, and there without a download.

use std::io::Read;

use flate2::read::GzDecoder;

use crate::description::{Description, Origin, PublishedSizes};
use crate::error::DataError;
use crate::parts::{Fault, Parts};
use crate::transform::{Image, TransformSection};

/// The published file has one part; its first 1,297 rows are taken for training, the last 500 for
/// testing.
pub const TRAIN: usize = 1297;
/// See [`TRAIN`].
pub const TEST: usize = 500;

/// UCI optical digits.
pub const DIGITS: Description = Description {
    name: "digits",
    origin: Origin::Embedded { name: "digits.csv.gz", bytes: include_bytes!("../../assets/digits.csv.gz"), read },
    shape: [1, 8, 8],
    sizes: PublishedSizes { train: TRAIN, test: TEST },
    classes: 10,
    class_names: &super::DIGITS,
    transform: TransformSection { resize: Some(28), ..TransformSection::NONE },
};

/// Reads the embedded file: 1,797 rows of 64 pixels (8x8, 0..16, stretched here to 0..255) and
/// the label.
fn read(bytes: &[u8], parts: &mut Parts) -> Result<(), DataError> {
    let mut text = String::new();
    GzDecoder::new(bytes).read_to_string(&mut text).expect("the embedded file is sound");
    for (number, row) in text.lines().enumerate() {
        let values: Vec<u16> = row.split(',').map(|v| v.parse().expect("a number")).collect();
        let (label, pixels) = values.split_last().expect("a label");
        let pixels = pixels.iter().map(|&v| ((v * 255 + 8) / 16) as u8).collect();
        let part = if number < TRAIN { &mut parts.train } else { &mut parts.test };
        part.push(Image { channels: 1, height: 8, width: 8, pixels }, *label).map_err(|fault| match fault {
            Fault::Interrupted(interrupted) => DataError::from(interrupted),
            Fault::Wrong(message) => unreachable!("the embedded file is sound: {message}"),
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoo_model::stage::Stage;

    #[test]
    fn the_embedded_digits_are_whole() {
        let Origin::Embedded { bytes, .. } = DIGITS.origin else { unreachable!() };
        let stage = Stage::silent();
        let mut parts = Parts::new(&TransformSection::NONE, [1, 8, 8], Vec::new(), &stage);
        read(bytes, &mut parts).unwrap();
        let (train, test) = (parts.train.samples, parts.test.samples);
        assert_eq!((train.labels.len(), test.labels.len()), (TRAIN, TEST));
        assert_eq!(train.images.len(), TRAIN * 64);
        assert_eq!(train.labels[..4], [0, 1, 2, 3]);
        assert_eq!(train.images[..5], [0, 0, 80, 207, 143]);
        assert!(test.labels.iter().all(|&l| l < 10));
    }
}
