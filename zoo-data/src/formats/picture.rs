//! Pictures as (3, H, W) images.

use std::io::Cursor;

use image::{ColorType, ImageError, ImageFormat, ImageReader, Limits};
use zoo_model::decoder::guarded;

use crate::transform::Image;

/// Maximum number of bytes of a picture's file.
pub const FILE_LIMIT: u64 = 64 << 20;
/// Maximum number of bytes that decoding one may take.
const MEMORY_LIMIT: u64 = 256 << 20;

/// Suffixes of pictures' names, in lower case: those that torchvision's `ImageFolder` takes.
pub const SUFFIXES: [&str; 9] = ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp"];

/// Decodes a BMP, GIF, JPEG, PNG, PNM, TIFF or WebP file, told apart by its first bytes, to red,
/// green and blue.
///
/// Grey becomes three equal channels, palettes are looked up, transparency is dropped, 16 bits are
/// rounded to 8, as Pillow's `convert("RGB")` does but for the 16 bits; of several pages or frames,
/// the first counts. An orientation recorded in EXIF is not applied, nor is a colour profile.
///
/// # Errors
/// A sentence: another format, damaged, truncated, more than `side` columns or rows, or too large to
/// decode.
pub fn decode(bytes: &[u8], side: u32) -> Result<Image, String> {
    guarded(|| decode_unguarded(bytes, side)).map_err(|e| format!("cannot be decoded: {e}"))?
}

fn decode_unguarded(bytes: &[u8], side: u32) -> Result<Image, String> {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, Pnm, Tiff, WebP};
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
    match reader.format() {
        Some(Jpeg) if !is_whole_jpeg(bytes) => return Err(TRUNCATED.into()),
        Some(Gif) if !is_whole_gif(bytes) => return Err(TRUNCATED.into()),
        Some(Png) if !is_whole_png(bytes) => return Err(TRUNCATED.into()),
        Some(WebP) if !is_whole_webp(bytes) => return Err(TRUNCATED.into()),
        Some(Bmp | Gif | Jpeg | Png | Pnm | Tiff | WebP) => {}
        _ => return Err("is not an image in a supported format (BMP, GIF, JPEG, PNG, PNM, TIFF or WebP)".into()),
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(side);
    limits.max_image_height = Some(side);
    limits.max_alloc = Some(MEMORY_LIMIT);
    reader.limits(limits);
    let picture = reader.decode().map_err(|e| fault(&e, side))?;
    if matches!(picture.color(), ColorType::Rgb32F | ColorType::Rgba32F) {
        return Err("cannot be decoded: it holds floating-point numbers, expected 8 or 16 bits".into());
    }
    let picture = picture.into_rgb8();
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let interleaved = picture.into_raw();
    let plane = |c| interleaved.iter().skip(c).step_by(3).copied();
    Ok(Image { channels: 3, height, width, pixels: (0..3).flat_map(plane).collect() })
}

/// What is wrong, for the picture's owner. The decoders' own words are for their developers.
fn fault(error: &ImageError, side: u32) -> String {
    tracing::debug!("{error}");
    let what = match error {
        ImageError::Limits(_) => {
            let megabytes = MEMORY_LIMIT >> 20;
            return format!("cannot be decoded: the limit is {side} pixels per side and {megabytes} MiB of memory");
        }
        ImageError::Unsupported(_) => "uses an unsupported variant of its format: convert it to PNG",
        ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return TRUNCATED.into(),
        _ => "is damaged, or truncated",
    };
    format!("cannot be decoded: it {what}")
}

const TRUNCATED: &str = "cannot be decoded: it is truncated";

/// Whether a JPEG file continues to its end-of-image marker. The decoder fills what is missing with
/// grey; Pillow refuses such a file.
fn is_whole_jpeg(bytes: &[u8]) -> bool {
    const STANDALONE: [u8; 9] = [0x01, 0xd0, 0xd1, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7];
    const START_OF_IMAGE: u8 = 0xd8;
    const END_OF_IMAGE: u8 = 0xd9;
    let mut at = 2;
    loop {
        // A marker is 0xff and neither 0, which stands for a 0xff in the data, nor 0xff, which is padding.
        let marker = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff);
        let Some(next) = bytes.get(at..).and_then(|rest| rest.windows(2).position(marker)) else { return false };
        at += next + 2;
        match bytes[at - 1] {
            END_OF_IMAGE => return true,
            // Another file, which follows the remains of this one.
            START_OF_IMAGE => return false,
            marker if STANDALONE.contains(&marker) => {}
            _ => match bytes.get(at..at + 2) {
                Some(length) => at += usize::from(u16::from_be_bytes([length[0], length[1]])),
                None => return false,
            },
        }
    }
}

/// Whether a GIF file continues to the end of its first frame. The decoder may not need the last bytes.
fn is_whole_gif(bytes: &[u8]) -> bool {
    const HEADER: usize = 13;
    const EXTENSION: u8 = 0x21;
    const FRAME: u8 = 0x2c;
    // Bytes of a table of colours, by the flags before it.
    let table = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    // Where a list of blocks ends: each begins with its length, the last one is empty.
    let end_of_blocks = |mut at: usize| loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length => at += 1 + usize::from(length),
        }
    };
    let end_of_frame = || {
        let mut at = HEADER + table(*bytes.get(10)?);
        loop {
            at = match *bytes.get(at)? {
                EXTENSION => end_of_blocks(at + 2)?,
                FRAME => return end_of_blocks(at + 11 + table(*bytes.get(at + 9)?)),
                _ => return None,
            };
        }
    };
    end_of_frame().is_some()
}

/// Whether a PNG file continues to the end of its last chunk. The decoder does not need that chunk;
/// Pillow refuses a file that breaks off in it.
fn is_whole_png(bytes: &[u8]) -> bool {
    const SIGNATURE: usize = 8;
    // Length and type before a chunk's content, checksum after it.
    const AROUND: usize = 12;
    let mut rest = bytes.get(SIGNATURE..).unwrap_or_default();
    while let Some((head, _)) = rest.split_first_chunk::<8>() {
        let [a, b, c, d, kind @ ..] = *head;
        let length = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_add(AROUND);
        match rest.get(length..) {
            None => return false,
            Some(_) if kind == *b"IEND" => return true,
            Some(next) => rest = next,
        }
    }
    false
}

/// Whether a WebP file is as long as its header says. The decoder may not need the last bytes.
fn is_whole_webp(bytes: &[u8]) -> bool {
    let length = bytes.get(4..8).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    length.is_some_and(|length| bytes.len() as u64 >= 8 + u64::from(length))
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
        assert!(decode_any(b"").unwrap_err().contains("is not an image"));
        assert!(decode_any(b"%PDF-1.7").unwrap_err().contains("is not an image"));
        let mut damaged = png(RgbImage::from_fn(16, 16, |x, y| [x as u8, y as u8, 0].into()));
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        assert!(decode_any(&damaged).unwrap_err().contains("is damaged"), "its checksum is wrong");
        let float = DynamicImage::ImageRgb32F(image::Rgb32FImage::new(2, 2));
        assert!(decode_any(&encoded(float, ImageFormat::Tiff)).unwrap_err().contains("floating-point"));
    }

    const JPEGS: [&[u8]; 3] = [
        include_bytes!("../../tests/data/pictures/baseline.jpg"),
        include_bytes!("../../tests/data/pictures/grey.jpg"),
        include_bytes!("../../tests/data/pictures/progressive.jpg"),
    ];

    #[test]
    fn a_file_that_is_cut_short_is_refused() {
        use ImageFormat::{Bmp, Gif, Png, Pnm, Tiff, WebP};
        let picture = RgbImage::from_fn(9, 7, |x, y| [x as u8 * 20, y as u8 * 30, 99].into());
        let whole = [Bmp, Gif, Png, Pnm, Tiff, WebP].map(|format| encoded(picture.clone(), format));
        for whole in JPEGS.into_iter().chain(whole.iter().map(Vec::as_slice)) {
            let expected = decode_any(whole);
            assert_eq!(decode_any(&[whole, &[0; 100][..]].concat()), expected);
            for cut in 0..whole.len() {
                let found = decode_any(&whole[..cut]);
                assert!(found.is_err() || found == expected, "cut at {cut} of {}", whole.len());
                // The last byte of a GIF file says that no other frame follows.
                let is_gif = whole.starts_with(b"GIF") && cut + 1 < whole.len();
                let must_be_whole = is_gif || JPEGS.contains(&whole) || whole.starts_with(b"\x89PNG");
                assert!(found.is_err() || !must_be_whole, "cut at {cut} of {}", whole.len());
            }
        }
    }

    #[test]
    fn thumbnails_padding_and_restarts_do_not_hide_a_cut() {
        // A comment that holds an end-of-image marker, and padding before the next marker.
        let with_comment = [&JPEGS[0][..2], b"\xff\xfe\x00\x04\xff\xd9\xff\xff", &JPEGS[0][2..]].concat();
        assert_eq!(decode_any(&with_comment), decode_any(JPEGS[0]));
        assert!(decode_any(&with_comment[..with_comment.len() / 2]).unwrap_err().contains("truncated"));
        assert!(is_whole_jpeg(b"\xff\xd8\xff\xda\x00\x02\x01\xff\x00\xd9\xff\xd0\x02\xff\xd9"));
        assert!(!is_whole_jpeg(b"\xff\xd8\xff\xda\x00\x02\x01\xff\x00\xd9\xff\xd0\x02\xff"));
        // Another whole file behind the cut.
        for whole in JPEGS {
            let cut = whole.len() * 3 / 4;
            assert_eq!(decode_any(&[&whole[..cut], whole].concat()), Err(TRUNCATED.into()));
        }
    }

    #[test]
    fn a_panic_of_the_decoder_is_a_fault_of_the_file() {
        let panics = include_bytes!("../../tests/data/pictures/panic.jpg");
        // The last segment claims 2,056 bytes.
        let panics = [&panics[..], &[0; 2056], b"\xff\xd9"].concat();
        assert_eq!(decode_any(&panics).unwrap_err(), "cannot be decoded: the decoder crashed");
    }

    #[test]
    fn every_format_gives_the_same_pixels() {
        use ImageFormat::{Bmp, Gif, Png, Pnm, Tiff, WebP};
        let colours = RgbImage::from_fn(9, 7, |x, y| [x as u8 / 3 * 20, y as u8 / 3 * 30, 99].into());
        let grey = DynamicImage::from(colours.clone()).into_luma8();
        let expected = decode_any(&png(colours.clone())).unwrap();
        let expected_grey = decode_any(&png(grey.clone())).unwrap();
        for format in [Bmp, Pnm, Tiff, WebP] {
            assert_eq!(decode_any(&encoded(colours.clone(), format)).unwrap(), expected, "{format:?}");
            assert_eq!(decode_any(&encoded(grey.clone(), format)).unwrap(), expected_grey, "{format:?}");
        }
        assert_eq!(decode_any(&encoded(colours, Gif)).unwrap(), expected, "nine colours fit a palette");
        let deep = DynamicImage::from(grey).into_luma16();
        for format in [Png, Pnm, Tiff] {
            assert_eq!(decode_any(&encoded(deep.clone(), format)).unwrap(), expected_grey, "{format:?}");
        }
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
            use ImageFormat::{Bmp, Gif, Jpeg, Png, Pnm, Tiff, WebP};
            for format in [Bmp, Gif, Jpeg, Png, Pnm, Tiff, WebP] {
                let mut file = encoded(picture.clone(), format);
                let length = file.len();
                bytes.iter().enumerate().for_each(|(i, b)| file[(at + i) % length] = *b);
                let _ = decode_any(&file);
            }
        }
    }
}
