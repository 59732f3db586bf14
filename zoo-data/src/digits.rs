//! The embedded digits dataset: real, and there without a download.

use std::io::Read;

use flate2::read::GzDecoder;
use zoo_model::dataset::Samples;

use crate::Published;

const FILE: &[u8] = include_bytes!("../assets/digits.csv.gz");

/// The published file has one part; its first 1,297 rows are taken for training, the last 500 for
/// testing.
pub const TRAIN: usize = 1297;
/// See [`TRAIN`].
pub const TEST: usize = 500;

/// Reads the embedded file: 1,797 rows of 64 pixels (8x8, 0..16, stretched here to 0..255) and
/// the label.
pub fn load() -> Published {
    let mut text = String::new();
    GzDecoder::new(FILE).read_to_string(&mut text).expect("the embedded file is sound");
    let mut all = Samples::default();
    for row in text.lines() {
        let values: Vec<u16> = row.split(',').map(|v| v.parse().expect("a number")).collect();
        let (label, pixels) = values.split_last().expect("a label");
        all.images.extend(pixels.iter().map(|&v| ((v * 255 + 8) / 16) as u8));
        all.labels.push(*label);
    }
    let test = Samples { images: all.images.split_off(TRAIN * 64), labels: all.labels.split_off(TRAIN) };
    let sources = [("digits.csv.gz".to_owned(), zoo_model::files::sha256(FILE))].into();
    Published { shape: [1, 8, 8], train: all, test, sources }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_digits_are_whole() {
        let digits = load();
        assert_eq!((digits.train.labels.len(), digits.test.labels.len()), (TRAIN, TEST));
        assert_eq!(digits.train.images.len(), TRAIN * 64);
        assert_eq!(digits.train.labels[..4], [0, 1, 2, 3]);
        assert_eq!(digits.train.images[..5], [0, 0, 80, 207, 143]);
        assert!(digits.test.labels.iter().all(|&l| l < 10));
    }
}
