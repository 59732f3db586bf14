//! STL-10, the labelled part: images of 3 x 96 x 96 bytes, column by column, and labels 1 to 10.

use crate::checksum::Checksum;
use crate::description::{Description, Origin, PublishedFile, PublishedSizes};
use crate::error::DataError;
use crate::formats::{archive, records};
use crate::parts::{Fault, Part, Parts, SourceFile};
use crate::transform::{Image, TransformSection};

/// STL-10.
pub const STL10: Description = Description {
    name: "stl10",
    origin: Origin::Files {
        files: &[PublishedFile::new(
            "stl10_binary.tar.gz",
            Checksum::sha256("f31fd99273a1acb8609c8db427cebb1de3f71de77758cdc0e22956e1289b9866"),
        )],
        mirrors: &["http://ai.stanford.edu/~acoates/stl10/"],
        folders: &["data", ""],
        read,
    },
    shape: [3, 96, 96],
    sizes: PublishedSizes { train: 5_000, test: 8_000 },
    classes: 10,
    class_names: &["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"],
    transform: TransformSection { resize: Some(32), ..TransformSection::NONE },
};

/// Maximum number of bytes of a file in the archive that is read; published are 221 MB.
const FILE_LIMIT: u64 = 1 << 30;

fn read(files: &[SourceFile], parts: &mut Parts) -> Result<(), DataError> {
    let names =
        ["stl10_binary/train_X.bin", "stl10_binary/train_y.bin", "stl10_binary/test_X.bin", "stl10_binary/test_y.bin"];
    let file = &files[0];
    let contents = archive::tar_files(file.open()?, &names, FILE_LIMIT).map_err(|m| file.wrong(m))?;
    for (part, at) in [(&mut parts.train, 0), (&mut parts.test, 2)] {
        read_part(&contents[at], &contents[at + 1], [names[at], names[at + 1]], part).map_err(|f| file.wrong(f))?;
    }
    Ok(())
}

fn read_part(
    images: &[u8],
    labels: &[u8],
    [images_name, labels_name]: [&str; 2],
    part: &mut Part,
) -> Result<(), Fault> {
    let [channels, height, width] = STL10.shape;
    let images =
        records::records(images, channels * height * width).map_err(|m| format!("its file {images_name} {m}"))?;
    if images.len() != labels.len() {
        let [n, m] = [images.len(), labels.len()];
        return Err(format!("its file {images_name} has {n} images, its file {labels_name} {m} labels").into());
    }
    for (columns, &label) in images.zip(labels) {
        let label = super::class(label, 1, STL10.classes).map_err(|m| format!("its file {labels_name} {m}"))?;
        let image = Image { channels, height, width, pixels: records::from_columns(columns, STL10.shape) };
        part.push(image, label)?;
    }
    Ok(())
}
