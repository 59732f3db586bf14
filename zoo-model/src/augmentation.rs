//! Random changes of training images: crop, flip, rotation, as torchvision does them to Pillow
//! images, before normalisation.

use serde::{Deserialize, Serialize};

use crate::random::{Purpose, Stream};

/// Which random changes a training image undergoes, in this order, every time it is seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default, expecting = "a table")]
pub struct Augmentation {
    /// Pads with the given number of black pixels on every side, then crops to the old size at a random place:
    /// torchvision's `RandomCrop(side, padding)`.
    #[serde(skip_serializing_if = "is_zero")]
    pub crop_padding: u32,
    /// Mirrors left to right, every second time: `RandomHorizontalFlip()`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub flip: bool,
    /// Rotates about the centre by up to the given number of degrees either way, to the nearest pixel, with
    /// black beyond the border: `RandomRotation(degrees)`.
    #[serde(skip_serializing_if = "is_zero")]
    pub rotation: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl Augmentation {
    /// No change.
    pub const NONE: Self = Self { crop_padding: 0, flip: false, rotation: 0 };

    /// Whether images stay as they are.
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn check(&self) -> Result<(), String> {
        match (self.crop_padding, self.rotation) {
            (0..=64, 0..=180) => Ok(()),
            (65.., _) => Err(format!("crop-padding must be from 0 to 64 pixels, not {}", self.crop_padding)),
            _ => Err(format!("rotation must be from 0 to 180 degrees, not {}", self.rotation)),
        }
    }

    /// Changes a planar image of shape (C, `height`, `width`), as the model of this seed sees the
    /// sample in this epoch.
    pub fn apply(&self, image: &mut [u8], [height, width]: [usize; 2], seed: u64, epoch: u32, sample: u32) {
        let mut stream = Stream::new(seed, Purpose::Augment, epoch, sample);
        if self.crop_padding > 0 {
            let places = 2 * self.crop_padding + 1;
            let offset = |place: u32| i64::from(place) - i64::from(self.crop_padding);
            let (down, right) = (offset(stream.below(places)), offset(stream.below(places)));
            pick(image, [height, width], |y, x| (y as i64 + down, x as i64 + right));
        }
        if self.flip && stream.next_u32() >> 31 == 1 {
            image.chunks_exact_mut(width).for_each(<[u8]>::reverse);
        }
        if self.rotation > 0 {
            rotate(image, [height, width], f64::from(self.rotation) * (2.0 * stream.uniform() - 1.0));
        }
    }
}

/// Replaces every pixel by the one that `from` names, black outside.
fn pick(image: &mut [u8], [height, width]: [usize; 2], from: impl Fn(usize, usize) -> (i64, i64)) {
    for plane in image.chunks_exact_mut(height * width) {
        let old = plane.to_vec();
        for y in 0..height {
            for x in 0..width {
                let (from_y, from_x) = from(y, x);
                let inside = (0..height as i64).contains(&from_y) && (0..width as i64).contains(&from_x);
                plane[y * width + x] = if inside { old[from_y as usize * width + from_x as usize] } else { 0 };
            }
        }
    }
}

/// Rotates a planar image counterclockwise by `degrees` about its centre, bit-identical to Pillow's
/// `Image.rotate` gives with its defaults, which works in 16.16 fixed point.
pub fn rotate(image: &mut [u8], [height, width]: [usize; 2], degrees: f64) {
    let degrees = degrees.rem_euclid(360.0);
    let angle = -degrees.to_radians();
    let round = |v: f64| (v * 1e15).round() / 1e15;
    let (sin, cos) = (libm::sin(angle), libm::cos(angle));
    let [a, b, d, e] = [round(cos), round(sin), round(-sin), round(cos)];
    let (centre_x, centre_y) = (width as f64 / 2.0, height as f64 / 2.0);
    let c = a * -centre_x + b * -centre_y + centre_x;
    let f = d * -centre_x + e * -centre_y + centre_y;
    let fixed = |v: f64| (v * 65_536.0 + 0.5).floor() as i64;
    let start = (fixed(c + a * 0.5 + b * 0.5), fixed(f + d * 0.5 + e * 0.5));
    let (right, down) = ((fixed(a), fixed(d)), (fixed(b), fixed(e)));
    pick(image, [height, width], |y, x| {
        let (y, x) = (y as i64, x as i64);
        let at = (start.0 + y * down.0 + x * right.0, start.1 + y * down.1 + x * right.1);
        (at.1 >> 16, at.0 >> 16)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Vec<u8> {
        (0..2 * 5 * 5).map(|i| (i * 5 + 1) as u8).collect()
    }

    #[test]
    fn every_change_can_be_undone_where_nothing_left_the_image() {
        let mut flipped = image();
        let flip = Augmentation { flip: true, ..Augmentation::NONE };
        let seen: Vec<bool> = (0..64)
            .map(|sample| {
                let mut changed = image();
                flip.apply(&mut changed, [5, 5], 1, 1, sample);
                if changed != image() {
                    flipped.clone_from(&changed);
                }
                changed != image()
            })
            .collect();
        assert!((16..48).contains(&seen.iter().filter(|&&s| s).count()));
        assert_eq!(flipped[..5], [21, 16, 11, 6, 1]);

        let crop = Augmentation { crop_padding: 2, ..Augmentation::NONE };
        let mut offsets = std::collections::HashSet::new();
        for sample in 0..500 {
            let mut changed = image();
            crop.apply(&mut changed, [5, 5], 1, 1, sample);
            // The centre never leaves the image: it tells where the crop was taken.
            let centre = (i64::from(changed[12]) - 1) / 5;
            let (down, right) = (centre / 5 - 2, centre % 5 - 2);
            offsets.insert((down, right));
            let corner = (down >= 0 && right >= 0).then(|| image()[(down * 5 + right) as usize]);
            assert_eq!(changed[0], corner.unwrap_or(0));
        }
        assert_eq!(offsets.len(), 25);
    }

    #[test]
    fn a_quarter_turn_is_exact_and_draws_depend_on_seed_epoch_and_sample() {
        let mut turned = image();
        rotate(&mut turned, [5, 5], 90.0);
        let expected: Vec<u8> = (0..25).map(|i| image()[i % 5 * 5 + 4 - i / 5]).collect();
        assert_eq!(turned[..25], expected);

        let rotation = Augmentation { rotation: 20, ..Augmentation::NONE };
        let of = |seed, epoch, sample| {
            let mut large: Vec<u8> = (0..32 * 32).map(|i| (i % 251) as u8).collect();
            rotation.apply(&mut large, [32, 32], seed, epoch, sample);
            large
        };
        assert_eq!(of(1, 1, 1), of(1, 1, 1));
        assert!(of(1, 1, 1) != of(2, 1, 1) && of(1, 1, 1) != of(1, 2, 1) && of(1, 1, 1) != of(1, 1, 2));
    }

    /// `Image.rotate` of Pillow 13.0 gives these.
    #[test]
    fn other_turns_are_pillows() {
        const SQUARE: [(f64, [u8; 36]); 2] = [
            (
                30.0,
                [
                    0, 15, 22, 71, 78, 0, 8, 15, 64, 71, 120, 120, 50, 50, 99, 106, 155, 162, 85, 92, 141, 148, 197,
                    197, 127, 127, 176, 183, 232, 239, 0, 169, 176, 225, 232, 0,
                ],
            ),
            (
                200.0,
                [
                    0, 232, 225, 218, 169, 0, 239, 190, 183, 183, 134, 127, 204, 155, 148, 141, 92, 85, 162, 155, 106,
                    99, 92, 43, 120, 113, 64, 64, 57, 8, 0, 78, 29, 22, 15, 0,
                ],
            ),
        ];
        const WIDE: [(f64, [u8; 28]); 2] = [
            (
                30.0,
                [
                    0, 0, 22, 29, 85, 85, 141, 8, 15, 64, 71, 127, 134, 190, 1, 57, 64, 120, 127, 176, 183, 50, 106,
                    106, 162, 169, 0, 0,
                ],
            ),
            (
                -17.5,
                [
                    50, 57, 15, 22, 29, 0, 0, 99, 106, 64, 71, 78, 36, 43, 148, 155, 113, 120, 127, 85, 92, 0, 0, 162,
                    169, 176, 134, 141,
                ],
            ),
        ];
        let turned = |shape: [usize; 2], degrees| {
            let mut image: Vec<u8> = (0..shape[0] * shape[1]).map(|i| (7 * i + 1) as u8).collect();
            rotate(&mut image, shape, degrees);
            image
        };
        for (degrees, expected) in SQUARE {
            assert_eq!(turned([6, 6], degrees), expected, "{degrees}");
        }
        for (degrees, expected) in WIDE {
            assert_eq!(turned([4, 7], degrees), expected, "{degrees}");
        }
    }

    #[test]
    fn a_turn_is_drawn_from_both_directions() {
        let rotation = Augmentation { rotation: 90, ..Augmentation::NONE };
        let mut clockwise = 0;
        for sample in 0..20 {
            let degrees = 90.0 * (2.0 * Stream::new(3, Purpose::Augment, 2, sample).uniform() - 1.0);
            clockwise += u32::from(degrees < 0.0);
            let (mut found, mut expected) = (image(), image());
            rotation.apply(&mut found, [5, 5], 3, 2, sample);
            rotate(&mut expected, [5, 5], degrees);
            assert_eq!(found, expected);
        }
        assert!((1..20).contains(&clockwise));
    }

    #[test]
    fn a_crop_reaches_as_far_as_its_padding() {
        let crop = Augmentation { crop_padding: 1, ..Augmentation::NONE };
        let crops = (0..300).map(|sample| {
            let mut changed = image();
            crop.apply(&mut changed, [5, 5], 1, 1, sample);
            changed[12]
        });
        let centres: std::collections::BTreeSet<u8> = crops.collect();
        assert_eq!(centres, [6, 7, 8, 11, 12, 13, 16, 17, 18].map(|i| image()[i]).into());
    }

    #[test]
    fn ranges_are_checked_and_only_changes_are_written() {
        let of = |crop_padding, rotation| Augmentation { crop_padding, flip: false, rotation };
        assert_eq!((of(64, 180).check(), of(0, 0).check()), (Ok(()), Ok(())));
        assert_eq!(of(65, 0).check().unwrap_err(), "crop-padding must be from 0 to 64 pixels, not 65");
        assert_eq!(of(64, 181).check().unwrap_err(), "rotation must be from 0 to 180 degrees, not 181");
        assert!(Augmentation::NONE.is_none() && !of(1, 0).is_none());
        assert_eq!(serde_json::to_string(&of(4, 0)).unwrap(), r#"{"crop-padding":4}"#);
        let flip = Augmentation { flip: true, ..of(0, 9) };
        assert_eq!(serde_json::to_string(&flip).unwrap(), r#"{"flip":true,"rotation":9}"#);
    }
}
