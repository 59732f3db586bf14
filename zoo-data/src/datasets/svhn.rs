//! SVHN, the cropped digits: MAT-files with images `X` (32, 32, 3, N) and labels `y` (N, 1), in
//! which 10 stands for the digit 0.

use crate::checksum::Checksum;
use crate::description::{Description, Origin, PublishedFile, PublishedSizes};
use crate::error::DataError;
use crate::formats::{mat, records};
use crate::parts::{Part, Parts, SourceFile};
use crate::transform::{Image, TransformSection};

/// SVHN.
pub const SVHN: Description = Description {
    name: "svhn",
    origin: Origin::Files {
        files: &[
            PublishedFile::new(
                "train_32x32.mat",
                Checksum::sha256("435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8"),
            ),
            PublishedFile::new(
                "test_32x32.mat",
                Checksum::sha256("cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b"),
            ),
        ],
        mirrors: &["http://ufldl.stanford.edu/housenumbers/"],
        folders: &["data", ""],
        read,
    },
    shape: [3, 32, 32],
    sizes: PublishedSizes { train: 73_257, test: 26_032 },
    classes: 10,
    class_names: &super::DIGITS,
    transform: TransformSection { grayscale: true, center_crop: Some(28), ..TransformSection::NONE },
};

fn read(files: &[SourceFile], parts: &mut Parts) -> Result<(), DataError> {
    read_part(&files[0], &mut parts.train)?;
    read_part(&files[1], &mut parts.test)
}

fn read_part(file: &SourceFile, part: &mut Part) -> Result<(), DataError> {
    let variables = mat::read(file.open()?, &["X", "y"]).map_err(|m| file.wrong(m))?;
    let [images, labels] = &variables[..] else { unreachable!("two names") };
    let [channels, height, width] = SVHN.shape;
    // An array of one image has three dimensions: MATLAB drops a last dimension of 1.
    let n = match *images.shape.as_slice() {
        [h, w, c] if [c, h, w] == SVHN.shape => 1,
        [h, w, c, n] if [c, h, w] == SVHN.shape => n,
        _ => return Err(file.wrong(format!("holds `X` of shape {:?}, expected (32, 32, 3, N)", images.shape))),
    };
    if labels.shape != [n, 1] {
        return Err(file.wrong(format!("holds {n} images and `y` of shape {:?}, expected ({n}, 1)", labels.shape)));
    }
    for (columns, &label) in images.data.chunks_exact(channels * height * width).zip(&labels.data) {
        let label = super::class(label, 1, SVHN.classes).map_err(|m| file.wrong(m))?;
        let image = Image { channels, height, width, pixels: records::from_columns(columns, SVHN.shape) };
        // 1 to 9 are themselves and 10 is the digit 0.
        part.push(image, (label + 1) % 10).map_err(|fault| file.wrong(fault))?;
    }
    Ok(())
}
