//! One manifest of the paper for every dataset, cut down, on small files in the published formats.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::write::GzEncoder;
use flate2::Compression;
use zoo_test::reference::repository;
use zoo_test::{copy_folder, Outcome, Workspace};

/// Four IDX files of the given number of images of noise.
fn write_idx(folder: &Path, images: u32) {
    fs::create_dir_all(folder).unwrap();
    for part in ["train", "t10k"] {
        let pixels = (0..images * 784).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8);
        let write = |name: &str, header: &[u32], data: Vec<u8>| {
            let path = folder.join(format!("{part}-{name}-ubyte.gz"));
            let mut gz = GzEncoder::new(fs::File::create(path).unwrap(), Compression::fast());
            header.iter().for_each(|n| gz.write_all(&n.to_be_bytes()).unwrap());
            gz.write_all(&data).unwrap();
            gz.finish().unwrap();
        };
        write("images-idx3", &[0x0803, images, 28, 28], pixels.collect());
        write("labels-idx1", &[0x0801, images], (0..images).map(|i| (i % 10) as u8).collect());
    }
}

/// Runs a manifest with this cut and checks what it made.
fn run(manifest: &str, models: usize, epochs: usize, samples: usize) {
    let work = Workspace::new(env!("CARGO_BIN_EXE_zoo"));
    let dataset = manifest.split("-cnn-").next().unwrap().split("-resnet18-").next().unwrap();
    let data = work.path("data").join(dataset);
    if dataset.ends_with("mnist") {
        write_idx(&data, 40);
    } else {
        copy_folder(&repository().join("zoo-data/tests/data/published").join(dataset), &data);
    }
    let cut = [("--models", models), ("--epochs", epochs), ("--samples", samples)];
    let mut command = work.command("run -q");
    command.args(cut.iter().flat_map(|(flag, n)| [flag.to_string(), n.to_string()]));
    Outcome::of(command.arg(repository().join(format!("configs/paper/{manifest}.toml")))).ok();

    let zoo = work.json_file(format!("zoos/{manifest}/zoo.json"));
    let twin = work.json_file(format!("zoos/{manifest}-variational-dropout/zoo.json"));
    let first = usize::from(!manifest.contains("resnet18"));
    assert_eq!((&zoo["models"], &zoo["states"]), (&models.into(), &(models * (epochs + first)).into()), "{manifest}");
    assert_eq!((&twin["models"], &twin["states"]), (&models.into(), &(models * epochs).into()), "{manifest}");
    for (flag, n) in cut {
        assert_eq!(zoo["manifest"]["reduction"][flag.trim_start_matches("--")], n, "{manifest}");
    }
    assert_eq!(zoo["dataset"]["train"], samples, "{manifest}");
    for name in [manifest.to_owned(), format!("{manifest}-variational-dropout")] {
        assert!(work.path(format!("archives/{name}.tar.gz")).is_file());
    }
}

#[test]
fn cnn_zoos_of_every_dataset_can_be_tried() {
    for (manifest, samples) in [
        ("mnist-cnn-s-seed", 20),
        ("fashion-mnist-cnn-s-hyp-10-rand", 20),
        ("svhn-cnn-s-hyp-10-fix", 6),
        ("usps-cnn-s-seed", 6),
        ("cifar10-cnn-s-hyp-10-rand", 10),
        ("cifar10-cnn-m-seed", 10),
        ("stl10-cnn-m-hyp-10-fix", 1),
    ] {
        run(manifest, 16, 2, samples);
    }
}

#[test]
fn resnet_zoos_of_every_dataset_can_be_tried() {
    run("cifar10-resnet18-seed", 1, 1, 4);
    run("cifar100-resnet18-seed", 1, 1, 3);
    run("tiny-imagenet-resnet18-seed", 1, 1, 2);
}
