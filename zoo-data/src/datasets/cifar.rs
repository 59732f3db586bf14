//! CIFAR-10 and CIFAR-100, the binary versions: records of one or two labels and 3,072 pixels.

use crate::checksum::Checksum;
use crate::description::{Description, Origin, PublishedFile, PublishedSizes};
use crate::error::DataError;
use crate::formats::{archive, records};
use crate::parts::{Fault, Part, Parts, SourceFile};
use crate::transform::{Image, TransformSection};

/// CIFAR-10.
pub const CIFAR10: Description = Description {
    name: "cifar10",
    origin: Origin::Files {
        files: &[PublishedFile::new(
            "cifar-10-binary.tar.gz",
            Checksum::sha256("c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
        )],
        mirrors: &["https://www.cs.toronto.edu/~kriz/"],
        folders: &["data", ""],
        read: read_10,
    },
    shape: [3, 32, 32],
    sizes: PublishedSizes { train: 50_000, test: 10_000 },
    classes: 10,
    class_names: &["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    transform: TransformSection::NONE,
};

/// CIFAR-100, with its fine labels.
pub const CIFAR100: Description = Description {
    name: "cifar100",
    origin: Origin::Files {
        files: &[PublishedFile::new(
            "cifar-100-binary.tar.gz",
            Checksum::sha256("58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"),
        )],
        mirrors: &["https://www.cs.toronto.edu/~kriz/"],
        folders: &["data", ""],
        read: read_100,
    },
    classes: 100,
    class_names: &[],
    ..CIFAR10
};

/// Maximum number of bytes of a file in the archives; published are 154 MB.
const FILE_LIMIT: u64 = 1 << 30;

fn read_10(files: &[SourceFile], parts: &mut Parts) -> Result<(), DataError> {
    let names = [
        "cifar-10-batches-bin/data_batch_1.bin",
        "cifar-10-batches-bin/data_batch_2.bin",
        "cifar-10-batches-bin/data_batch_3.bin",
        "cifar-10-batches-bin/data_batch_4.bin",
        "cifar-10-batches-bin/data_batch_5.bin",
        "cifar-10-batches-bin/test_batch.bin",
    ];
    let file = &files[0];
    let contents = archive::tar_files(file.open()?, &names, FILE_LIMIT).map_err(|m| file.wrong(m))?;
    for (name, content) in names.iter().zip(contents) {
        let part = if name.ends_with("test_batch.bin") { &mut parts.test } else { &mut parts.train };
        read_records(&content, 0, CIFAR10.classes, part).map_err(|fault| file.wrong(within(name, fault)))?;
    }
    Ok(())
}

fn read_100(files: &[SourceFile], parts: &mut Parts) -> Result<(), DataError> {
    let names = ["cifar-100-binary/train.bin", "cifar-100-binary/test.bin", "cifar-100-binary/fine_label_names.txt"];
    let file = &files[0];
    let contents = archive::tar_files(file.open()?, &names, FILE_LIMIT).map_err(|m| file.wrong(m))?;
    let text =
        std::str::from_utf8(&contents[2]).map_err(|_| file.wrong(format!("its file {} is not text", names[2])))?;
    parts.class_names = text.split_whitespace().map(str::to_owned).collect();
    if parts.class_names.len() != CIFAR100.classes {
        let message = format!("its file {} names {} classes, expected 100", names[2], parts.class_names.len());
        return Err(file.wrong(message));
    }
    for (part, at) in [(&mut parts.train, 0), (&mut parts.test, 1)] {
        // The coarse label comes first.
        let read = read_records(&contents[at], 1, CIFAR100.classes, part);
        read.map_err(|fault| file.wrong(within(names[at], fault)))?;
    }
    Ok(())
}

fn within(name: &str, fault: Fault) -> Fault {
    match fault {
        Fault::Wrong(message) => Fault::Wrong(format!("its file {name} {message}")),
        interrupted => interrupted,
    }
}

/// Reads records of labels, of which that at `label` counts, and an image.
fn read_records(bytes: &[u8], label: usize, classes: usize, part: &mut Part) -> Result<(), Fault> {
    let [channels, height, width] = CIFAR10.shape;
    for record in records::records(bytes, label + 1 + channels * height * width)? {
        let (labels, pixels) = record.split_at(label + 1);
        let class = super::class(labels[label], 0, classes)?;
        part.push(Image { channels, height, width, pixels: pixels.to_vec() }, class)?;
    }
    Ok(())
}
