//! Every dataset in its published format: small files that the defining programs made
//! (`datasets.py`), read by the real binary as those programs read them, and spoilt in every way.

use std::collections::HashMap;
use std::fs;
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use safetensors::SafeTensors;
use zoo_data::parts::{Parts, SourceFile};
use zoo_data::{DatasetName, Origin, TransformSection};
use zoo_model::files::sha256;
use zoo_model::stage::Stage;
use zoo_model::{Dataset, Split};
use zoo_test::{copy_folder, Outcome, Program};

const PROGRAM: Program = Program::new(env!("CARGO_BIN_EXE_zoo-data"));
const BIRDS: &str = "folder = \"image-folder\"\nclasses = [\"wren\", \"crane\", \"owl\"]\ntest = 3\n";
/// Dataset, training images in its small files, further keys.
const DATASETS: [(&str, usize, &str); 8] = [
    ("svhn", 12, "transform = {}"),
    ("usps", 12, "transform = {}"),
    ("cifar10", 20, "transform = {}"),
    ("cifar100", 6, "transform = {}"),
    ("stl10", 3, "transform = {}"),
    ("tiny-imagenet", 5, "transform = {}"),
    ("eurosat", 7, "transform = {}"),
    ("image-folder", 18, "transform = { resize = 24 }"),
];

fn published() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/published")
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut out).unwrap();
    out
}

/// Runs zoo-data on `dataset`'s files below `root`; the output is `dir/d.safetensors`.
fn prepare(dir: &Path, root: &Path, dataset: &str, keys: &str) -> Outcome {
    let own = if dataset == "image-folder" { BIRDS } else { "" };
    fs::write(dir.join("m.toml"), format!("[data]\ndataset = \"{dataset}\"\n{own}{keys}\n")).unwrap();
    Outcome::of(PROGRAM.command(dir, "m.toml -o d.safetensors --root").arg(root))
}

fn prepared(dir: &Path, root: &Path, dataset: &str, keys: &str) -> Dataset {
    prepare(dir, root, dataset, keys).ok();
    Dataset::read(&dir.join("d.safetensors")).unwrap()
}

#[test]
fn every_dataset_is_read_as_the_programs_that_define_its_format_do() {
    let expected = gunzip(&fs::read(published().join("expected.safetensors.gz")).unwrap());
    let expected = SafeTensors::deserialize(&expected).unwrap();
    for (name, train, keys) in DATASETS {
        let dir = tempfile::tempdir().unwrap();
        let dataset = prepared(dir.path(), &published(), name, &format!("train = {train}\n{keys}"));
        for (split, part) in [(Split::Train, "train"), (Split::Test, "test")] {
            let labels = expected.tensor(&format!("{name}.{part}_labels")).unwrap();
            let found: Vec<u8> = dataset.split(split).labels.iter().map(|&l| l as u8).collect();
            assert_eq!(found, labels.data(), "{name}'s {part} labels");
            let images = expected.tensor(&format!("{name}.{part}_images")).unwrap();
            assert_eq!(images.shape()[1..], dataset.shape, "{name}");
            let pairs = dataset.split(split).images.iter().zip(images.data());
            let differences: Vec<u8> = pairs.map(|(a, b)| a.abs_diff(*b)).collect();
            assert_eq!(differences.len(), images.data().len());
            // JPEG decoders may differ by a few levels.
            let jpeg = ["tiny-imagenet", "eurosat", "image-folder"].contains(&name);
            let allowed = if jpeg { 4 } else { 0 };
            assert!(differences.iter().all(|&d| d <= allowed), "{name}'s {part} images");
            let sum: usize = differences.iter().map(|&d| usize::from(d)).sum();
            assert!(sum <= differences.len() / 2, "{name}'s {part} images differ by {sum} in all");
        }
    }
}

#[test]
fn jpeg_files_give_the_same_bits_on_every_machine() {
    let dir = tempfile::tempdir().unwrap();
    let bits = |name, train| {
        let dataset = prepared(dir.path(), &published(), name, &format!("train = {train}\ntransform = {{}}"));
        sha256(&dataset.split(Split::Train).images).to_string()
    };
    assert_eq!(bits("tiny-imagenet", 5), "b47600d0b994ae39f525dc1643552a689e1f7b15ad3aec0b363d3765ff9648c8");
    assert_eq!(bits("eurosat", 7), "9e5e2b23913b3d54ee51fbb4a4eb1964af8ffb04af7cbba20dd84d55ceac2d7d");
}

#[test]
fn transforms_of_the_zoos_are_the_default() {
    let shapes = [
        ("svhn", [1, 28, 28]),
        ("usps", [1, 28, 28]),
        ("cifar10", [3, 32, 32]),
        ("cifar100", [3, 32, 32]),
        ("stl10", [3, 32, 32]),
        ("tiny-imagenet", [3, 64, 64]),
        ("eurosat", [3, 64, 64]),
    ];
    for (name, shape) in shapes {
        let dir = tempfile::tempdir().unwrap();
        let dataset = prepared(dir.path(), &published(), name, "train = 2\nval = 1");
        assert_eq!(dataset.shape, shape, "{name}");
        assert_eq!((dataset.len(Split::Train), dataset.len(Split::Val)), (2, 1));
        let again = prepare(dir.path(), &published(), name, "train = 2\nval = 1");
        assert!(again.ok().contains("up to date"));
    }
}

/// A copy of one dataset's published files, to be spoilt.
struct Copy {
    dir: tempfile::TempDir,
    dataset: &'static str,
    keys: String,
}

impl Copy {
    fn of(dataset: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy_folder(&published().join(dataset), &dir.path().join(dataset));
        let (_, train, keys) = DATASETS.iter().find(|d| d.0 == dataset).unwrap();
        Self { dir, dataset, keys: format!("train = {train}\n{keys}") }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(self.dataset).join(file)
    }

    /// The message of a failure, which is one line, comes with exit code 1 and leaves no output.
    fn refused(&self, what: &[&str]) {
        let stderr = prepare(self.dir.path(), self.dir.path(), self.dataset, &self.keys).fails(1);
        let message =
            stderr.lines().filter(|l| !l.contains("WARN") && !l.contains("taken as it is")).collect::<Vec<_>>();
        assert_eq!(message.len(), 1, "{stderr}");
        what.iter().for_each(|w| assert!(message[0].contains(w), "{w}: {stderr}"));
        assert!(!self.dir.path().join("d.safetensors").exists());
    }

    /// Replaces a file by another content, and expects a failure that names the file.
    fn spoil(&self, file: &str, content: &[u8], what: &[&str]) {
        let path = self.path(file);
        let sound = fs::read(&path).unwrap();
        fs::write(&path, content).unwrap();
        self.refused(&[&[file, "fetch it again"], what].concat());
        fs::write(&path, sound).unwrap();
    }

    /// Cuts a file at many places; none may be taken.
    fn truncate(&self, file: &str) {
        let sound = fs::read(self.path(file)).unwrap();
        for length in [0, 1, 10, 100, 200, sound.len() / 3, sound.len() / 2, sound.len() - 30] {
            self.spoil(file, &sound[..length], &[]);
        }
        self.spoil(file, b"<html>not found</html>", &[]);
    }
}

type Files = Vec<(String, Vec<u8>)>;

fn tar_files(archive: &[u8]) -> Files {
    let mut archive = tar::Archive::new(GzDecoder::new(archive));
    let file = |entry: Result<tar::Entry<_>, _>| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        Read::read_to_end(&mut entry, &mut content).unwrap();
        (String::from_utf8(entry.path_bytes().into_owned()).unwrap(), content)
    };
    archive.entries().unwrap().map(file).collect()
}

fn tar_of(files: &Files) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, &content[..]).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

fn zip_files(archive: &[u8]) -> Files {
    let mut archive = zip::ZipArchive::new(Cursor::new(archive)).unwrap();
    let mut files = Files::new();
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).unwrap();
        let mut content = Vec::new();
        file.read_to_end(&mut content).unwrap();
        files.push((file.name().unwrap().into_owned(), content));
    }
    files
}

fn zip_of(files: &Files) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (path, content) in files {
        writer.start_file(path.as_str(), zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// The files with one of them changed.
fn changed(files: &Files, name: &str, change: impl Fn(&mut Vec<u8>)) -> Files {
    let mut files = files.clone();
    change(&mut files.iter_mut().find(|(n, _)| n.ends_with(name)).unwrap().1);
    files
}

fn without(files: &Files, name: &str) -> Files {
    files.iter().filter(|(n, _)| !n.ends_with(name)).cloned().collect()
}

#[test]
fn spoilt_svhn_is_refused() {
    let copy = Copy::of("svhn");
    copy.truncate("train_32x32.mat");
    let sound = fs::read(copy.path("train_32x32.mat")).unwrap();
    let other = fs::read(copy.path("test_32x32.mat")).unwrap();
    // X of one file and y of the other: an element begins at 128, its length stands at 132.
    let first = |bytes: &[u8]| 136 + u32::from_le_bytes(bytes[132..136].try_into().unwrap()) as usize;
    let mixed = [&sound[..first(&sound)], &other[first(&other)..]].concat();
    copy.spoil("train_32x32.mat", &mixed, &["12 images and `y` of shape [6, 1]"]);
    let twice = [&sound[..first(&sound)], &sound[128..first(&sound)]].concat();
    copy.spoil("train_32x32.mat", &twice, &["`X` twice"]);
    let mut damaged = sound.clone();
    damaged[first(&sound) / 2] ^= 0x55;
    copy.spoil("train_32x32.mat", &damaged, &["damaged"]);
}

#[test]
fn spoilt_usps_is_refused() {
    let copy = Copy::of("usps");
    copy.truncate("usps.t.bz2");
    let line = |label: &str, value: &str| {
        let values: String = (2..=256).map(|i| format!(" {i}:0")).collect();
        format!("1 1:0{values}\n{label} 1:{value}{values}\n").into_bytes()
    };
    copy.spoil(
        "usps.t.bz2",
        &line("11", "0"),
        &["line 2 contains the label 11; labels range from 1 to 10 (10 classes)"],
    );
    copy.spoil("usps.t.bz2", &line("0", "0"), &["line 2 contains the label 0"]);
    copy.spoil("usps.t.bz2", &line("-3", "0"), &["line 2 contains the label -3"]);
    copy.spoil("usps.t.bz2", &line("1", "1.5"), &["line 2 holds the pixel 1.5, expected -1 to 1"]);
    copy.spoil("usps.t.bz2", &line("1", "nan"), &["line 2 holds the pixel NaN"]);
    copy.spoil("usps.t.bz2", &line("1", "x"), &["line 2 holds \"1:x\""]);
    let mut bomb = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    bomb.write_all(&vec![b'1'; 50 << 20]).unwrap();
    copy.spoil("usps.t.bz2", &bomb.finish().unwrap(), &["line 1 is longer than 65536 bytes"]);
}

#[test]
fn spoilt_cifar_is_refused() {
    let copy = Copy::of("cifar10");
    let archive = "cifar-10-binary.tar.gz";
    copy.truncate(archive);
    let files = tar_files(&fs::read(copy.path(archive)).unwrap());
    let spoil = |files: &Files, what: &str| copy.spoil(archive, &tar_of(files), &[what]);
    spoil(
        &changed(&files, "data_batch_3.bin", |b| b[3073] = 10),
        "data_batch_3.bin contains the label 10; labels range from 0 to 9",
    );
    spoil(&changed(&files, "test_batch.bin", |b| b.truncate(5000)), "test_batch.bin holds 1 records of 3073 bytes");
    spoil(&without(&files, "data_batch_5.bin"), "no file cifar-10-batches-bin/data_batch_5.bin");

    let copy = Copy::of("cifar100");
    let archive = "cifar-100-binary.tar.gz";
    let files = tar_files(&fs::read(copy.path(archive)).unwrap());
    let spoil = |files: &Files, what: &str| copy.spoil(archive, &tar_of(files), &[what]);
    spoil(&changed(&files, "train.bin", |b| b[1] = 100), "train.bin contains the label 100; labels range from 0 to 99");
    spoil(&changed(&files, "names.txt", |b| b.truncate(99)), "names 13 classes, expected 100");
    copy.spoil(archive, &fs::read(published().join("cifar10/cifar-10-binary.tar.gz")).unwrap(), &["no file cifar-100"]);
}

#[test]
fn spoilt_stl10_is_refused() {
    let copy = Copy::of("stl10");
    let archive = "stl10_binary.tar.gz";
    copy.truncate(archive);
    let files = tar_files(&fs::read(copy.path(archive)).unwrap());
    let spoil = |files: &Files, what: &str| copy.spoil(archive, &tar_of(files), &[what]);
    spoil(
        &changed(&files, "train_y.bin", |b| b[1] = 0),
        "train_y.bin contains the label 0; labels range from 1 to 10 (10 classes)",
    );
    spoil(
        &changed(&files, "train_y.bin", |b| b.push(1)),
        "train_X.bin has 3 images, its file stl10_binary/train_y.bin 4",
    );
    spoil(
        &changed(&files, "test_X.bin", |b| b.truncate(27_649)),
        "test_X.bin holds 1 records of 27648 bytes and 1 bytes",
    );
    // A header that promises a terabyte.
    let mut header = tar::Header::new_ustar();
    header.set_path("stl10_binary/train_X.bin").unwrap();
    header.set_size(1 << 40);
    header.set_cksum();
    let lying = [header.as_bytes(), &[0; 4096][..]].concat();
    copy.spoil(archive, &lying, &["train_X.bin is truncated: 4096 of 1099511627776 bytes"]);
}

#[test]
fn spoilt_tiny_imagenet_is_refused() {
    let copy = Copy::of("tiny-imagenet");
    let archive = "tiny-imagenet-200.zip";
    copy.truncate(archive);
    let files = zip_files(&fs::read(copy.path(archive)).unwrap());
    let spoil = |files: &Files, what: &str| copy.spoil(archive, &zip_of(files), &[what]);
    let (picture, jpeg) = files.iter().find(|(n, _)| n.ends_with("_10.JPEG")).unwrap().clone();
    spoil(&without(&files, "wnids.txt"), "no file tiny-imagenet-200/wnids.txt");
    spoil(&changed(&files, "wnids.txt", |b| b.truncate(99)), "wnids.txt names 10 classes, expected 200");
    spoil(&without(&files, "val_3.JPEG"), "5 files val/images/*.JPEG, val_annotations.txt names 6");
    spoil(&changed(&files, "val_annotations.txt", |b| b.truncate(12)), "line 1 of val_annotations.txt");
    spoil(&changed(&files, "val_annotations.txt", |b| b[12] = b'x'), "line 1 of val_annotations.txt names the class");
    spoil(&changed(&files, "_10.JPEG", |b| b.truncate(100)), "_10.JPEG cannot be decoded");
    spoil(&changed(&files, "_10.JPEG", |b| b.resize(5 << 20, 0)), "_10.JPEG is larger than the 4194304 bytes");
    spoil(&changed(&files, "_10.JPEG", |b| *b = b"<html>".to_vec()), "_10.JPEG is not an image");
    let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    spoil(&changed(&files, "_10.JPEG", |b| b[frame + 5..frame + 9].fill(0xff)), "_10.JPEG cannot be decoded");
    spoil(&changed(&files, "_10.JPEG", |b| b[frame + 5..frame + 9].copy_from_slice(&[0, 32, 0, 32])), "32x32 pixels");
    let mut stray = files.clone();
    stray.push((picture.replace("/train/", "/train/n9"), jpeg.clone()));
    spoil(&stray, "of no class that wnids.txt names");
    let mut tricks = files.clone();
    tricks.push(("../../../tiny-imagenet-200/evil.JPEG".into(), jpeg.clone()));
    tricks.push(("/etc/evil".into(), Vec::new()));
    fs::write(copy.path(archive), zip_of(&tricks)).unwrap();
    prepared(copy.dir.path(), copy.dir.path(), "tiny-imagenet", &copy.keys);
    assert!(!copy.dir.path().parent().unwrap().join("tiny-imagenet-200").exists(), "nothing is unpacked");
}

#[test]
fn spoilt_eurosat_is_refused_and_its_other_form_taken() {
    let copy = Copy::of("eurosat");
    copy.truncate("EuroSAT.zip");
    let files = zip_files(&fs::read(copy.path("EuroSAT.zip")).unwrap());
    let spoil = |files: &Files, what: &str| copy.spoil("EuroSAT.zip", &zip_of(files), &[what]);
    let renamed = |from, to| files.iter().map(|(n, c)| (n.replacen(from, to, 1), c.clone())).collect::<Files>();
    spoil(&renamed("/Forest/", "/Wood/"), "2750/Wood/Forest_1.jpg is in no folder of a class");
    spoil(&renamed("2750/", ""), "is in no folder of a class");
    spoil(&changed(&files, "Forest_1.jpg", |b| b.truncate(50)), "Forest_1.jpg cannot be decoded");
    fs::remove_file(copy.path("EuroSAT.zip")).unwrap();
    fs::write(copy.path("EuroSAT_RGB.zip"), zip_of(&renamed("2750/", "EuroSAT_RGB/"))).unwrap();
    let other = prepared(copy.dir.path(), copy.dir.path(), "eurosat", &copy.keys);
    let dir = tempfile::tempdir().unwrap();
    let first = prepared(dir.path(), &published(), "eurosat", &copy.keys);
    assert_eq!(first.split(Split::Train), other.split(Split::Train));
}

#[test]
fn archives_made_again_on_a_mac_are_read_as_the_published_ones() {
    for (dataset, archive) in [("eurosat", "EuroSAT.zip"), ("tiny-imagenet", "tiny-imagenet-200.zip")] {
        let copy = Copy::of(dataset);
        let mut files = zip_files(&fs::read(copy.path(archive)).unwrap());
        for (name, _) in files.clone() {
            let (folder, file) = name.rsplit_once('/').unwrap();
            files.push((format!("__MACOSX/{folder}/._{file}"), b"\0\x05\x16\x07".to_vec()));
            files.push((format!("{folder}/._{file}"), b"\0\x05\x16\x07".to_vec()));
        }
        files.push((format!("{}/.DS_Store", files[0].0.split_once('/').unwrap().0), b"Bud1".to_vec()));
        fs::write(copy.path(archive), zip_of(&files)).unwrap();
        let found = prepared(copy.dir.path(), copy.dir.path(), dataset, &copy.keys);
        let dir = tempfile::tempdir().unwrap();
        let expected = prepared(dir.path(), &published(), dataset, &copy.keys);
        assert!(Split::ALL.iter().all(|&split| found.split(split) == expected.split(split)), "{dataset}");
    }
    let copy = Copy::of("cifar10");
    let archive = "cifar-10-binary.tar.gz";
    let mut files = Files::new();
    for (name, content) in tar_files(&fs::read(copy.path(archive)).unwrap()) {
        let (folder, file) = name.rsplit_once('/').unwrap();
        files.push((format!("{folder}/._{file}"), b"\0\x05\x16\x07".to_vec()));
        files.push((name, content));
    }
    fs::write(copy.path(archive), tar_of(&files)).unwrap();
    prepared(copy.dir.path(), copy.dir.path(), "cifar10", &copy.keys);
}

#[test]
fn files_compressed_in_members_are_read_whole() {
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let bzip2 = |bytes: &[u8]| {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let members = |content: &[u8], compress: &dyn Fn(&[u8]) -> Vec<u8>| {
        let members: Vec<u8> = content.chunks(1000).flat_map(compress).collect();
        // An empty last member, as bgzip writes it, and the padding of a tape.
        [members, compress(b""), vec![0; 512]].concat()
    };
    for dataset in ["cifar10", "usps"] {
        let copy = Copy::of(dataset);
        for file in fs::read_dir(copy.path("")).unwrap() {
            let path = file.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            let rewritten = match dataset {
                "usps" => {
                    let mut text = Vec::new();
                    bzip2::read::BzDecoder::new(&bytes[..]).read_to_end(&mut text).unwrap();
                    members(&text, &bzip2)
                }
                _ => members(&gunzip(&bytes), &gzip),
            };
            fs::write(&path, rewritten).unwrap();
        }
        let found = prepared(copy.dir.path(), copy.dir.path(), dataset, &copy.keys);
        let dir = tempfile::tempdir().unwrap();
        let expected = prepared(dir.path(), &published(), dataset, &copy.keys);
        assert!(Split::ALL.iter().all(|&split| found.split(split) == expected.split(split)), "{dataset}");
    }
}

#[test]
fn files_that_are_missing_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    for (name, file) in HashMap::from([("svhn", "train_32x32.mat"), ("eurosat", "EuroSAT.zip"), ("stl10", "stl10_bin")])
    {
        let message = prepare(dir.path(), dir.path(), name, "train = 2").fails(1);
        assert!(message.contains(file) && message.contains(&format!("zoo-data fetch {name} --root")), "{message}");
    }
}

#[test]
fn pictures_of_ones_own_come_from_class_folders() {
    let copy = Copy::of("image-folder");
    let dir = copy.dir.path();
    let dataset = prepared(dir, dir, "image-folder", "train = 15\nval = 3\ntransform = { center-crop = 8 }");
    assert_eq!(
        (dataset.shape, &dataset.info.class_names[..]),
        ([3, 8, 8], &["wren", "crane", "owl"].map(String::from)[..])
    );
    assert_eq!(Split::ALL.map(|s| dataset.len(s)), [15, 3, 3]);
    assert_eq!(dataset.info.dataset, "image-folder");

    // A changed picture is noticed, an unrelated file is not.
    let keys = "train = 15\nval = 3\ntransform = { center-crop = 8 }";
    fs::write(copy.path("wren/more.txt"), "text").unwrap();
    let before = fs::metadata(dir.join("d.safetensors")).unwrap().len();
    prepare(dir, dir, "image-folder", keys).ok();
    assert_eq!(fs::metadata(dir.join("d.safetensors")).unwrap().len(), before);
    fs::copy(copy.path("owl/0.PNG"), copy.path("owl/1.PNG")).unwrap();
    assert_ne!(prepared(dir, dir, "image-folder", keys).split(Split::Train), dataset.split(Split::Train));

    // The same classes in train and test folders.
    for part in ["train", "test"] {
        copy_folder(&published().join("image-folder"), &copy.path(part));
    }
    let keys = "train = 21\ntransform = { resize = 8, grayscale = true }";
    let message = prepare(dir, dir, "image-folder", keys).fails(2);
    assert!(message.contains("data.test: must be 21, the number of test images"), "{message}");
    fs::remove_dir_all(copy.path("test/crane")).unwrap();
    let outcome = prepare(dir, dir, "image-folder", keys);
    assert!(outcome.stderr.contains("test/crane: does not exist"));
}

#[test]
fn folders_are_read_as_torchvision_reads_them_and_what_is_left_out_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("image-folder");
    // One grey level for each file, in the order of `os.walk`, sorted.
    let order = ["z.webp", "a.tiff", "a/b.BMP", "a/c.png", "a-b/1.jpg", "a/b/1.ppm", "b.d/x.pgm", "b/é 漢.tif"];
    let order = order.map(|name| (name, name.rsplit_once('/').map_or("", |(folder, _)| folder)));
    let mut sorted = order.to_vec();
    sorted.sort_by_key(|&(name, folder)| (folder, name));
    for class in ["wren", "crane", "owl"] {
        for (level, (name, _)) in (0u8..).zip(&sorted) {
            let path = root.join(class).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            image::GrayImage::from_pixel(8, 8, [level * 20].into()).save(path).unwrap();
        }
        for name in [".DS_Store", "._z.webp", "Thumbs.db", ".AppleDouble/z.webp", "a/.nfs0001"] {
            fs::create_dir_all(root.join(class).join(name).parent().unwrap()).unwrap();
            fs::write(root.join(class).join(name), "not a picture").unwrap();
        }
    }
    fs::create_dir(root.join("__MACOSX")).unwrap();
    for name in ["a/1.mp4", "1.gif", "2.GIF", "README", ".hidden.png"] {
        fs::write(root.join("owl").join(name), "").unwrap();
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink("..", root.join("owl/a/loop")).unwrap();
    let keys = "train = 21\ntransform = { resize = 8, grayscale = true }";
    let Outcome { code, stderr, .. } = prepare(dir.path(), dir.path(), "image-folder", keys);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let left_out = "left out 5 files that are not images: .gif (2), .mp4 (1), hidden (1), without a suffix (1)";
    assert!(stderr.contains(left_out), "{stderr}");
    let dataset = Dataset::read(&dir.path().join("d.safetensors")).unwrap();
    let levels: Vec<u8> = dataset.split(Split::Train).images.iter().step_by(64).copied().collect();
    let expected: Vec<u8> = [0, 1, 2, 3, 5, 6, 7].map(|level| level * 20).repeat(3);
    assert_eq!(levels, expected, "the fifth of each class is for testing");
    assert!(dataset.split(Split::Test).images.iter().all(|&p| p == 80));
}

#[test]
fn spoilt_pictures_are_named() {
    let copy = Copy::of("image-folder");
    let refused = |file: &str, content: &[u8], what: &str| {
        let sound = fs::read(copy.path(file)).unwrap();
        fs::write(copy.path(file), content).unwrap();
        copy.refused(&[file, what]);
        fs::write(copy.path(file), sound).unwrap();
    };
    let jpeg = fs::read(copy.path("owl/6.jpeg")).unwrap();
    refused("owl/6.jpeg", &jpeg[..jpeg.len() / 3], "cannot be decoded");
    refused("owl/6.jpeg", &jpeg[..jpeg.len() - 2], "is truncated");
    let panics = fs::read(published().join("../pictures/panic.jpg")).unwrap();
    refused("owl/6.jpeg", &[&panics[..], &[0; 2056], b"\xff\xd9"].concat(), "the decoder crashed");
    refused("crane/0.PNG", b"", "is not an image");
    refused("crane/0.PNG", b"\x89PNG\r\n\x1a\n", "cannot be decoded");
    fs::create_dir(copy.path("train")).unwrap();
    copy.refused(&["has a folder train but no folder test"]);
    fs::remove_dir(copy.path("train")).unwrap();
    fs::remove_dir_all(copy.path("owl")).unwrap();
    copy.refused(&["image-folder/owl: does not exist, expected a folder of images"]);
    fs::write(copy.path("owl"), "").unwrap();
    copy.refused(&["image-folder/owl: is a file, expected a folder of images"]);
    fs::remove_file(copy.path("owl")).unwrap();
    fs::create_dir(copy.path("owl")).unwrap();
    fs::write(copy.path("owl/1.svg"), "").unwrap();
    copy.refused(&["has no images (.jpg,", "only 1 file that is not an image: .svg (1)"]);
    fs::remove_dir_all(copy.path("")).unwrap();
    fs::write(copy.dir.path().join("image-folder"), "PK").unwrap();
    copy.refused(&["image-folder: is a file, expected a folder of images"]);
}

#[test]
fn keys_of_image_folder_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let message = |text: &str| {
        fs::write(dir.path().join("m.toml"), format!("[data]\ntrain = 1\n{text}\n")).unwrap();
        PROGRAM.fails(dir.path(), "m.toml -o d", 2)
    };
    let own = "dataset = \"image-folder\"\ntest = 1\ntransform = { resize = 8 }\n";
    assert!(message("dataset = \"image-folder\"").contains("image-folder requires `folder`"));
    assert!(message("dataset = \"digits\"\ntest = 3").contains("`test` is only valid for image-folder"));
    assert!(message(&format!("{own}folder = \"../x\"\nclasses = [\"a\"]")).contains("expected a folder below the root"));
    assert!(message(&format!("{own}folder = \"/x\"\nclasses = [\"a\"]")).contains("expected a folder below the root"));
    assert!(message(&format!("{own}folder = \"x\"\nclasses = [\"a\", \"a\"]")).contains("distinct folder names"));
    assert!(message(&format!("{own}folder = \"x\"\nclasses = [\"../a\"]")).contains("distinct folder names"));
    let whole = "dataset = \"image-folder\"\ntest = 1\nfolder = \"x\"\nclasses = [\"a\"]";
    assert!(message(whole).contains("so that all images have the same size"));
}

/// Reads a dataset's files; whether they were taken.
fn taken(name: DatasetName, contents: &[Vec<u8>]) -> bool {
    let Origin::Files { read, .. } = &name.description().origin else { unreachable!("all have files") };
    let dir = tempfile::tempdir().unwrap();
    let source = |(i, content): (usize, &Vec<u8>)| {
        let path = dir.path().join(i.to_string());
        fs::write(&path, content).unwrap();
        SourceFile { path, remedy: String::new() }
    };
    let sources: Vec<SourceFile> = contents.iter().enumerate().map(source).collect();
    let stage = Stage::silent();
    let mut parts = Parts::new(&TransformSection::NONE, name.description().shape, Vec::new(), &stage);
    read(&sources, &mut parts).is_ok()
}

proptest! {
    #[test]
    fn no_damage_makes_a_reader_panic(
        choice in 0usize..7,
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 1..6),
        cut in any::<prop::sample::Index>(),
        headers in any::<bool>(),
    ) {
        let datasets = [
            (DatasetName::Svhn, vec!["train_32x32.mat", "test_32x32.mat"]),
            (DatasetName::Usps, vec!["usps.bz2", "usps.t.bz2"]),
            (DatasetName::Cifar10, vec!["cifar-10-binary.tar.gz"]),
            (DatasetName::Cifar100, vec!["cifar-100-binary.tar.gz"]),
            (DatasetName::Stl10, vec!["stl10_binary.tar.gz"]),
            (DatasetName::TinyImagenet, vec!["tiny-imagenet-200.zip"]),
            (DatasetName::EuroSat, vec!["EuroSAT.zip"]),
        ];
        let (name, files) = &datasets[choice];
        let content = |file: &&str| fs::read(published().join(name.name()).join(file)).unwrap();
        let mut contents: Vec<Vec<u8>> = files.iter().map(content).collect();
        if contents[0].starts_with(&[0x1f, 0x8b]) {
            // Plain tar archives are taken too, and damage in them is not found by a checksum.
            contents[0] = gunzip(&contents[0]);
        }
        assert!(taken(*name, &contents));
        let length = contents[0].len();
        // Often near the beginning, where sizes and types stand.
        let at = if headers { at.index(256) } else { at.index(length) };
        bytes.iter().enumerate().for_each(|(i, b)| contents[0][(at + i) % length] = *b);
        let _ = taken(*name, &contents);
        contents[0].truncate(cut.index(length));
        // A tar archive ends with up to ten kilobytes of zeros.
        assert!(!taken(*name, &contents) || contents[0].len() + 10_240 > length);
    }
}
