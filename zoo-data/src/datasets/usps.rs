//! USPS: LIBSVM text in bzip2, labels 1 to 10 for the digits 0 to 9, pixels from -1 to 1.

use crate::checksum::Checksum;
use crate::description::{Description, Origin, PublishedFile, PublishedSizes};
use crate::error::DataError;
use crate::formats::{decompressed, libsvm};
use crate::parts::{Fault, Part, Parts, SourceFile};
use crate::transform::{Image, TransformSection};

/// USPS.
pub const USPS: Description = Description {
    name: "usps",
    origin: Origin::Files {
        files: &[
            PublishedFile::new("usps.bz2", Checksum::Md5("ec16c51db3855ca6c91edd34d0e9b197")),
            PublishedFile::new("usps.t.bz2", Checksum::Md5("8ea070ee2aca1ac39742fdd1ef5ed118")),
        ],
        mirrors: &["https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/"],
        folders: &["data", ""],
        read,
    },
    shape: [1, 16, 16],
    sizes: PublishedSizes { train: 7_291, test: 2_007 },
    classes: 10,
    class_names: &super::DIGITS,
    transform: TransformSection { resize: Some(28), ..TransformSection::NONE },
};

fn read(files: &[SourceFile], parts: &mut Parts) -> Result<(), DataError> {
    read_part(&files[0], &mut parts.train)?;
    read_part(&files[1], &mut parts.test)
}

fn read_part(file: &SourceFile, part: &mut Part) -> Result<(), DataError> {
    let text = decompressed(file.open()?).map_err(|e| file.wrong(format!("cannot be decompressed ({e})")))?;
    let [channels, height, width] = USPS.shape;
    let read = libsvm::read(text, height * width, |line, label, values| {
        let wrong = |m: String| format!("line {line} {m}");
        let label = u8::try_from(label).map_err(|_| wrong(format!("contains the label {label}")))?;
        let label = super::class(label, 1, USPS.classes).map_err(wrong)?;
        let pixels = values.iter().map(|&value| pixel(value)).collect::<Result<_, _>>().map_err(wrong)?;
        part.push(Image { channels, height, width, pixels }, label)
    });
    read.map_err(|fault: Fault| file.wrong(fault))
}

/// From -1..1 to 0..255 in 32-bit floating point, cut off, as torchvision does it.
fn pixel(value: f64) -> Result<u8, String> {
    if !(-1.0..=1.0).contains(&value) {
        return Err(format!("holds the pixel {value}, expected -1 to 1"));
    }
    Ok(((value as f32 + 1.0) / 2.0 * 255.0) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_cut_off_not_rounded() {
        let pixels = [-1.0, -0.999, 0.0, 0.5, 0.999, 1.0].map(|v| pixel(v).unwrap());
        assert_eq!(pixels, [0, 0, 127, 191, 254, 255]);
        assert!(pixel(1.001).is_err() && pixel(f64::NAN).is_err());
    }
}
