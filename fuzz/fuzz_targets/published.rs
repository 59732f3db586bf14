//! Any bytes as the published files of a dataset: the first byte chooses it, the rest are the files,
//! in equal parts. Seeds: that byte before a file of `zoo-data/tests/data/published`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zoo_data::parts::{Parts, SourceFile};
use zoo_data::{DatasetName, Origin, TransformSection};
use zoo_model::stage::Stage;

const DATASETS: [DatasetName; 8] = [
    DatasetName::Mnist,
    DatasetName::Svhn,
    DatasetName::Usps,
    DatasetName::Cifar10,
    DatasetName::Cifar100,
    DatasetName::Stl10,
    DatasetName::TinyImagenet,
    DatasetName::EuroSat,
];

fuzz_target!(|bytes: &[u8]| {
    let [choice, bytes @ ..] = bytes else { return };
    let description = DATASETS[usize::from(*choice) % DATASETS.len()].description();
    let Origin::Files { files, read, .. } = &description.origin else { unreachable!("all have files") };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let sources: Vec<SourceFile> = (0..files.len())
        .map(|i| {
            let path = dir.path().join(i.to_string());
            let [start, end] = [i, i + 1].map(|i| bytes.len() * i / files.len());
            std::fs::write(&path, &bytes[start..end]).expect("a temporary file");
            SourceFile { path, remedy: String::new() }
        })
        .collect();
    let stage = Stage::silent();
    let mut parts = Parts::new(&TransformSection::NONE, description.shape, Vec::new(), &stage);
    let _ = read(&sources, &mut parts);
});
