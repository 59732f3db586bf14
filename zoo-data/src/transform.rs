//! Transforms of 8-bit images, bit-identical to those of Pillow and torchvision.

use serde::{Deserialize, Deserializer, Serialize};

/// Transforms in the order in which they are applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct TransformSection {
    /// To one channel of luma.
    #[serde(default)]
    pub grayscale: bool,
    /// To the central square of this side.
    #[serde(default, deserialize_with = "side")]
    pub center_crop: Option<usize>,
    /// To a square of this side.
    #[serde(default, deserialize_with = "side")]
    pub resize: Option<usize>,
}

impl TransformSection {
    /// None at all.
    pub const NONE: Self = Self { grayscale: false, center_crop: None, resize: None };
}

fn side<'de, D: Deserializer<'de>>(d: D) -> Result<Option<usize>, D::Error> {
    match i64::deserialize(d)? {
        n @ 1..=4096 => Ok(Some(n as usize)),
        n => Err(serde::de::Error::custom(format!("must be from 1 to 4096 pixels, not {n}"))),
    }
}

/// An 8-bit image, channels first: (C, H, W), row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Channels: 1 (luma) or 3 (red, green, blue).
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `channels * height * width` values.
    pub pixels: Vec<u8>,
}

/// Applies the transforms that a manifest asks for, in their order.
///
/// # Errors
/// The image is smaller than the central square; a sentence.
pub fn apply(transform: &TransformSection, mut image: Image) -> Result<Image, String> {
    if transform.grayscale {
        image = grayscale(image);
    }
    if let Some(side) = transform.center_crop {
        let [height, width] = [image.height, image.width];
        image = center_crop(&image, side)
            .ok_or_else(|| format!("has {height}x{width} pixels, too few for center-crop = {side}"))?;
    }
    if let Some(side) = transform.resize {
        image = resize(image, side);
    }
    Ok(image)
}

/// To one channel: ITU-R 601-2 luma in Pillow's 16-bit fixed point. One channel stays as it is.
pub fn grayscale(image: Image) -> Image {
    if image.channels == 1 {
        return image;
    }
    let plane = image.height * image.width;
    let [red, green, blue] = [0, 1, 2].map(|c| &image.pixels[c * plane..(c + 1) * plane]);
    let luma = |i: usize| {
        let sum = 19_595 * u32::from(red[i]) + 38_470 * u32::from(green[i]) + 7_471 * u32::from(blue[i]);
        ((sum + 0x8000) >> 16) as u8
    };
    Image { channels: 1, pixels: (0..plane).map(luma).collect(), ..image }
}

/// The central square, as torchvision's `CenterCrop`; `None` if it is larger than the image.
pub fn center_crop(image: &Image, side: usize) -> Option<Image> {
    // Python rounds halves to even.
    let offset = |length: usize| Some((length.checked_sub(side)? as f64 / 2.0).round_ties_even() as usize);
    let (top, left) = (offset(image.height)?, offset(image.width)?);
    let mut pixels = Vec::with_capacity(image.channels * side * side);
    for channel in 0..image.channels {
        for row in top..top + side {
            let start = (channel * image.height + row) * image.width + left;
            pixels.extend_from_slice(&image.pixels[start..start + side]);
        }
    }
    Some(Image { channels: image.channels, height: side, width: side, pixels })
}

/// To a square: bilinear with antialiasing, as Pillow's `resize(..., BILINEAR)` for 8-bit images.
///
/// Two passes, columns first, each in fixed point and rounded to 8 bits; a pass that would not
/// change the size is left out.
pub fn resize(image: Image, side: usize) -> Image {
    let image = match image.width {
        width if width == side => image,
        width => {
            let taps = taps(width, side);
            let rows = image.pixels.chunks_exact(width);
            let pixels = rows.flat_map(|row| taps.iter().map(|t| t.apply(|i| row[i]))).collect();
            Image { width: side, pixels, ..image }
        }
    };
    if image.height == side {
        return image;
    }
    let taps = taps(image.height, side);
    let width = image.width;
    let planes = image.pixels.chunks_exact(image.height * width);
    let resized = |plane| {
        let plane: &[u8] = plane;
        taps.iter().flat_map(move |t| (0..width).map(move |x| t.apply(|y| plane[y * width + x])))
    };
    let pixels = planes.flat_map(resized).collect();
    Image { height: side, pixels, ..image }
}

/// Bits after the binary point of a coefficient: 32 less 8 for the pixel and 2 of headroom.
const PRECISION: u32 = 32 - 8 - 2;

/// The input pixels that one output pixel is made of.
struct Taps {
    first: usize,
    coefficients: Vec<i32>,
}

impl Taps {
    fn apply(&self, pixel: impl Fn(usize) -> u8) -> u8 {
        let terms = self.coefficients.iter().enumerate();
        let sum: i32 = terms.map(|(i, c)| c * i32::from(pixel(self.first + i))).sum();
        ((sum + (1 << (PRECISION - 1))) >> PRECISION).clamp(0, 255) as u8
    }
}

/// The triangle filter, stretched when shrinking, for every output pixel.
fn taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let (support, shrink) = (stretch, 1.0 / stretch);
    let tap = |out: usize| {
        let center = (out as f64 + 0.5) * scale;
        let first = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(from);
        let triangle = |i: usize| (1.0 - ((i as f64 - center + 0.5) * shrink).abs()).max(0.0);
        let weights: Vec<f64> = (first..end).map(triangle).collect();
        let total: f64 = weights.iter().sum();
        let fixed = |w: &f64| (w / total * f64::from(1 << PRECISION) + 0.5) as i32;
        Taps { first, coefficients: weights.iter().map(fixed).collect() }
    };
    (0..to).map(tap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    #[test]
    fn pillow_is_matched_to_the_bit() {
        let mut compared = 0;
        for path in zoo_test::reference::copies("images-transforms.safetensors") {
            let bytes = std::fs::read(path).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            for name in file.names() {
                let Some(case) = name.strip_suffix(".input") else { continue };
                let input = file.tensor(name).unwrap();
                let output = file.tensor(&format!("{case}.output")).unwrap();
                let n = input.shape()[0];
                let (ins, outs) =
                    (input.data().chunks(input.data().len() / n), output.data().chunks(output.data().len() / n));
                for (source, expected) in ins.zip(outs) {
                    let found = if case == "luma" {
                        let plane = source.len() / 3;
                        let pixels = (0..3).flat_map(|c| (0..plane).map(move |i| source[3 * i + c])).collect();
                        grayscale(Image { channels: 3, height: 1, width: plane, pixels })
                    } else {
                        let (height, width) = (input.shape()[1], input.shape()[2]);
                        resize(Image { channels: 1, height, width, pixels: source.to_vec() }, output.shape()[1])
                    };
                    assert_eq!(found.pixels, expected, "{case}");
                    compared += 1;
                }
            }
        }
        assert!(compared >= 10, "only {compared} images compared");
    }

    #[test]
    fn the_crop_is_central_and_halves_round_to_even() {
        let row = |width| Image { channels: 1, height: 1, width, pixels: (0..width as u8).collect() };
        assert_eq!(center_crop(&row(6), 1).unwrap().pixels, [2]); // 2.5 rounds to 2
        assert_eq!(center_crop(&row(8), 1).unwrap().pixels, [4]); // 3.5 rounds to 4
        assert_eq!(center_crop(&row(6), 7), None);
    }
}
