//! Tiny ImageNet: a zip archive of JPEG files, some of them grey; the published validation part is
//! the test part, since the published test part has no labels.

use std::collections::HashMap;
use std::io::BufReader;

use crate::checksum::Checksum;
use crate::description::{Description, Origin, PublishedFile, PublishedSizes};
use crate::error::DataError;
use crate::formats::archive::Zip;
use crate::parts::{Parts, Picture, SourceFile};
use crate::transform::TransformSection;

/// Tiny ImageNet.
pub const TINY_IMAGENET: Description = Description {
    name: "tiny-imagenet",
    origin: Origin::Files {
        files: &[PublishedFile::new(
            "tiny-imagenet-200.zip",
            Checksum::sha256("6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821"),
        )],
        mirrors: &["http://cs231n.stanford.edu/"],
        folders: &["data", ""],
        read,
    },
    shape: [3, 64, 64],
    sizes: PublishedSizes { train: 100_000, test: 10_000 },
    classes: 200,
    class_names: &[],
    transform: TransformSection::NONE,
};

/// Maximum number of bytes of a picture's file or a list; published are 660 kB.
const FILE_LIMIT: u64 = 4 << 20;
const FOLDER: &str = "tiny-imagenet-200/";

fn read(files: &[SourceFile], parts: &mut Parts) -> Result<(), DataError> {
    let file = &files[0];
    let mut zip = Zip::open(BufReader::new(file.open()?)).map_err(|m| file.wrong(m))?;
    parts.class_names = class_names(&mut zip).map_err(|m| file.wrong(m))?;
    let train = train_pictures(&zip, &parts.class_names).map_err(|m| file.wrong(m))?;
    let test = test_pictures(&mut zip, &parts.class_names).map_err(|m| file.wrong(m))?;
    for (part, pictures) in [(&mut parts.train, train), (&mut parts.test, test)] {
        let pictures = pictures.into_iter().map(|(name, label)| {
            let bytes = zip.read(&name, FILE_LIMIT)?;
            Ok(Picture { name: format!("its file {name}"), label, bytes })
        });
        part.push_pictures(pictures, TINY_IMAGENET.shape[1] as u32).map_err(|fault| file.wrong(fault))?;
    }
    Ok(())
}

type Archive = Zip<BufReader<std::fs::File>>;

fn list(zip: &mut Archive, name: &str) -> Result<String, String> {
    let bytes = zip.read(&format!("{FOLDER}{name}"), FILE_LIMIT)?;
    String::from_utf8(bytes).map_err(|_| format!("its file {FOLDER}{name} is not text"))
}

/// The WordNet identifiers, sorted: a class's number is its place among them.
fn class_names(zip: &mut Archive) -> Result<Vec<String>, String> {
    let mut names: Vec<String> = list(zip, "wnids.txt")?.split_whitespace().map(str::to_owned).collect();
    names.sort_unstable();
    names.dedup();
    match names.len() {
        n if n == TINY_IMAGENET.classes => Ok(names),
        n => Err(format!("its file {FOLDER}wnids.txt names {n} classes, expected 200")),
    }
}

/// Path and class of the training pictures, by class and name.
fn train_pictures(zip: &Archive, class_names: &[String]) -> Result<Vec<(String, u16)>, String> {
    let mut pictures = Vec::new();
    for path in zip.paths() {
        let Some(inner) = path.strip_prefix(FOLDER).and_then(|p| p.strip_prefix("train/")) else { continue };
        let Some((class, name)) = inner.split_once("/images/").filter(|(_, name)| name.ends_with(".JPEG")) else {
            continue;
        };
        match class_names.binary_search_by(|n| n.as_str().cmp(class)) {
            Ok(label) if !name.contains('/') => pictures.push((path.to_owned(), label as u16)),
            _ => return Err(format!("its file {path} is of no class that wnids.txt names")),
        }
    }
    Ok(pictures)
}

/// Path and class of the test pictures, in the order of their annotations.
fn test_pictures(zip: &mut Archive, class_names: &[String]) -> Result<Vec<(String, u16)>, String> {
    let labels: HashMap<&str, u16> = (0..).zip(class_names).map(|(label, name)| (name.as_str(), label)).collect();
    let annotations = list(zip, "val/val_annotations.txt")?;
    let mut pictures = Vec::new();
    for (number, line) in (1..).zip(annotations.lines()) {
        let mut words = line.split('\t');
        let (Some(name), Some(class)) = (words.next(), words.next()) else {
            return Err(format!("line {number} of val_annotations.txt is not a name and a class"));
        };
        let label = labels.get(class);
        let label = label.ok_or_else(|| {
            format!("line {number} of val_annotations.txt names the class {class:?}, which wnids.txt does not")
        })?;
        pictures.push((format!("{FOLDER}val/images/{name}"), *label));
    }
    let folder = format!("{FOLDER}val/images/");
    let there = zip.paths().filter(|p| p.starts_with(&folder) && p.ends_with(".JPEG")).count();
    if there != pictures.len() {
        return Err(format!("it has {there} files val/images/*.JPEG, val_annotations.txt names {}", pictures.len()));
    }
    Ok(pictures)
}
