//! MNIST and Fashion-MNIST: IDX files of images and labels.

use zoo_model::files::{read_limited, Sha256};

use crate::checksum::Checksum;
use crate::description::{Description, Origin, PublishedFile, PublishedSizes};
use crate::error::DataError;
use crate::formats::idx::{self, Idx};
use crate::parts::{Part, Parts, SourceFile};
use crate::transform::{Image, TransformSection};

/// MNIST.
pub const MNIST: Description = Description {
    name: "mnist",
    origin: Origin::Files {
        files: &[
            file(0, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", &[]),
            file(1, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", &[]),
            file(2, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", &[]),
            file(3, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", &[]),
        ],
        mirrors: &[
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ],
        folders: &["data/MNIST/raw", "MNIST/raw"],
        read,
    },
    shape: [1, 28, 28],
    sizes: PublishedSizes { train: 60_000, test: 10_000 },
    classes: 10,
    class_names: &super::DIGITS,
    transform: TransformSection::NONE,
};

/// Fashion-MNIST. The repacked forms are those of the Debian package `dataset-fashion-mnist`.
pub const FASHION_MNIST: Description = Description {
    name: "fashion-mnist",
    origin: Origin::Files {
        files: &[
            file(
                0,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                &[Sha256::literal("b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7")],
            ),
            file(
                1,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                &[Sha256::literal("0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056")],
            ),
            file(
                2,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                &[Sha256::literal("cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa")],
            ),
            file(
                3,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                &[Sha256::literal("8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05")],
            ),
        ],
        mirrors: &[
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ],
        folders: &["data/FashionMNIST/raw", "FashionMNIST/raw", "/usr/share/datasets/fashion-mnist"],
        read,
    },
    class_names: &[
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ],
    ..MNIST
};

/// Both datasets have files of the same names; some copies are named train-images.idx3-ubyte.
const NAMES: [[&str; 2]; 4] = [
    ["train-images-idx3-ubyte.gz", "train-images.idx3-ubyte"],
    ["train-labels-idx1-ubyte.gz", "train-labels.idx1-ubyte"],
    ["t10k-images-idx3-ubyte.gz", "t10k-images.idx3-ubyte"],
    ["t10k-labels-idx1-ubyte.gz", "t10k-labels.idx1-ubyte"],
];

const fn file(index: usize, sha256: &'static str, repacked: &'static [Sha256]) -> PublishedFile {
    let [name, alias] = &NAMES[index];
    PublishedFile { name, checksum: Checksum::sha256(sha256), aliases: std::slice::from_ref(alias), repacked }
}

fn read(files: &[SourceFile], parts: &mut Parts) -> Result<(), DataError> {
    read_part(&files[..2], &mut parts.train)?;
    read_part(&files[2..], &mut parts.test)
}

fn read_part(files: &[SourceFile], part: &mut Part) -> Result<(), DataError> {
    let array = |file: &SourceFile| -> Result<Idx, DataError> {
        idx::parse(&read_limited(&file.path, 1 << 30)?).map_err(|m| file.wrong(m))
    };
    let (images, labels) = (array(&files[0])?, array(&files[1])?);
    let [_, height, width] = MNIST.shape;
    if images.shape.len() != 3 || images.shape[1..] != [height, width] {
        let message = format!("holds an array of shape {:?}, expected images (N, {height}, {width})", images.shape);
        return Err(files[0].wrong(message));
    }
    if labels.shape != [images.shape[0]] {
        let message = format!(
            "holds an array of shape {:?}, expected one label for each of the {} images of {}",
            labels.shape,
            images.shape[0],
            files[0].path.display()
        );
        return Err(files[1].wrong(message));
    }
    for (pixels, &label) in images.data.chunks_exact(height * width).zip(&labels.data) {
        let label = super::class(label, 0, MNIST.classes).map_err(|m| files[1].wrong(m))?;
        let image = Image { channels: 1, height, width, pixels: pixels.to_vec() };
        part.push(image, label).map_err(|fault| files[0].wrong(fault))?;
    }
    Ok(())
}
