//! PNG and JPEG pictures as (3, H, W) images.

use std::io::Cursor;

use image::{ImageFormat, ImageReader, Limits};

use crate::transform::Image;

/// Most bytes of a picture's file.
pub const FILE_LIMIT: u64 = 64 << 20;
/// Most bytes that decoding one may take.
const MEMORY_LIMIT: u64 = 256 << 20;

/// Decodes a PNG or JPEG file, told apart by its first bytes, to red, green and blue.
///
/// Grey becomes three equal channels, palettes are looked up, transparency is dropped, 16 bits are
/// rounded to 8, as Pillow's `convert("RGB")` does but for the 16 bits. An orientation recorded in
/// EXIF is not applied, nor is a colour profile.
///
/// # Errors
/// A sentence: another format, damaged, more than `side` columns or rows, or too large to decode.
pub fn decode(bytes: &[u8], side: u32) -> Result<Image, String> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
    if !matches!(reader.format(), Some(ImageFormat::Png | ImageFormat::Jpeg)) {
        return Err("is neither PNG nor JPEG".into());
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(side);
    limits.max_image_height = Some(side);
    limits.max_alloc = Some(MEMORY_LIMIT);
    reader.limits(limits);
    let picture = reader.decode().map_err(|e| format!("cannot be decoded ({e})"))?.into_rgb8();
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let interleaved = picture.into_raw();
    let plane = |c| interleaved.iter().skip(c).step_by(3).copied();
    Ok(Image { channels: 3, height, width, pixels: (0..3).flat_map(plane).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{DynamicImage, GrayImage, RgbImage, RgbaImage};
    use proptest::prelude::*;

    fn decode_any(bytes: &[u8]) -> Result<Image, String> {
        decode(bytes, 16_384)
    }

    fn png(picture: impl Into<DynamicImage>) -> Vec<u8> {
        encoded(picture, ImageFormat::Png)
    }

    fn encoded(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.into().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn pixels_come_by_channel() {
        let image = decode_any(&png(RgbImage::from_raw(2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap())).unwrap();
        assert_eq!(image, Image { channels: 3, height: 1, width: 2, pixels: vec![1, 4, 2, 5, 3, 6] });
        let grey = decode_any(&png(GrayImage::from_raw(1, 2, vec![7, 9]).unwrap())).unwrap();
        assert_eq!((grey.height, &grey.pixels[..]), (2, &[7, 9, 7, 9, 7, 9][..]));
        let clear = decode_any(&png(RgbaImage::from_raw(1, 1, vec![1, 2, 3, 0]).unwrap())).unwrap();
        assert_eq!(clear.pixels, [1, 2, 3]);
        let jpeg = decode_any(&encoded(GrayImage::from_pixel(16, 8, [100].into()), ImageFormat::Jpeg)).unwrap();
        assert_eq!((jpeg.height, jpeg.width, jpeg.pixels), (8, 16, vec![100; 3 * 128]));
    }

    #[test]
    fn faults_are_named() {
        assert!(decode_any(b"").unwrap_err().contains("neither PNG nor JPEG"));
        assert!(decode_any(b"GIF89a").unwrap_err().contains("neither PNG nor JPEG"));
        let sound = encoded(RgbImage::new(16, 16), ImageFormat::Jpeg);
        assert!(decode_any(&sound[..sound.len() / 4]).unwrap_err().contains("cannot be decoded"));
        let sound = png(RgbImage::new(16, 16));
        assert!(decode_any(&sound[..sound.len() / 2]).unwrap_err().contains("cannot be decoded"));
    }

    #[test]
    fn pictures_of_absurd_size_are_refused_before_they_are_decoded() {
        // Width and height of a PNG stand at 16, with a checksum at 29; of a JPEG, after its SOF0 marker.
        let mut large = png(RgbImage::new(16, 16));
        large[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
        let mut crc = flate2::Crc::new();
        crc.update(&large[12..29]);
        large[29..33].copy_from_slice(&crc.sum().to_be_bytes());
        assert!(decode_any(&large).unwrap_err().to_lowercase().contains("limit"), "{:?}", decode_any(&large));
        let sound = encoded(RgbImage::new(16, 16), ImageFormat::Jpeg);
        assert!(decode(&sound, 16).is_ok() && decode(&sound, 15).unwrap_err().to_lowercase().contains("limit"));
        let mut large = sound;
        let frame = large.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
        large[frame + 5..frame + 9].fill(0xff);
        assert!(decode_any(&large).is_err());
    }

    proptest! {
        #[test]
        fn no_damage_makes_the_decoder_panic(at in 0usize..2000, bytes in proptest::collection::vec(any::<u8>(), 1..8)) {
            let picture = RgbImage::from_fn(16, 16, |x, y| [x as u8 * 16, y as u8 * 16, 99].into());
            for format in [ImageFormat::Png, ImageFormat::Jpeg] {
                let mut file = encoded(picture.clone(), format);
                let length = file.len();
                bytes.iter().enumerate().for_each(|(i, b)| file[(at + i) % length] = *b);
                let _ = decode_any(&file);
            }
        }
    }
}
