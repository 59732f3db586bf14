//! EuroSAT, red, green and blue: a zip archive with a folder of JPEG files for each class. It has
//! one published part; see [`super::test_part`] for what is taken for testing.

use std::io::BufReader;

use zoo_model::files::Sha256;

use crate::checksum::Checksum;
use crate::description::{Description, Origin, PublishedFile, PublishedSizes};
use crate::error::DataError;
use crate::formats::archive::Zip;
use crate::parts::{Parts, Picture, SourceFile};
use crate::transform::TransformSection;

/// EuroSAT. The repacked form is that of Zenodo's record 7711810, whose top folder has another name.
pub const EUROSAT: Description = Description {
    name: "eurosat",
    origin: Origin::Files {
        files: &[PublishedFile {
            name: "EuroSAT.zip",
            checksum: Checksum::sha256("8ebea626349354c5328b142b96d0430e647051f26efc2dc974c843f25ecf70bd"),
            aliases: &["EuroSAT_RGB.zip"],
            repacked: &[Sha256::literal("b4f5b234ecb7d7ff9c6cddb046543b4717c53fd6e9815be6c0e80cc614f51b90")],
        }],
        mirrors: &[
            "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/",
            "https://madm.dfki.de/files/sentinel/",
        ],
        folders: &["data", ""],
        read,
    },
    shape: [3, 64, 64],
    sizes: PublishedSizes { train: 21_600, test: 5_400 },
    classes: 10,
    class_names: &[
        "AnnualCrop",
        "Forest",
        "HerbaceousVegetation",
        "Highway",
        "Industrial",
        "Pasture",
        "PermanentCrop",
        "Residential",
        "River",
        "SeaLake",
    ],
    transform: TransformSection::NONE,
};

/// Maximum number of bytes of a picture's file; published are 10 kB.
const FILE_LIMIT: u64 = 1 << 20;

fn read(files: &[SourceFile], parts: &mut Parts) -> Result<(), DataError> {
    let file = &files[0];
    let mut zip = Zip::open(BufReader::new(file.open()?)).map_err(|m| file.wrong(m))?;
    let [train, test] = super::test_part(pictures(&zip).map_err(|m| file.wrong(m))?);
    for (part, pictures) in [(&mut parts.train, train), (&mut parts.test, test)] {
        let pictures = pictures.into_iter().map(|(name, label)| {
            let bytes = zip.read(&name, FILE_LIMIT)?;
            Ok(Picture { name: format!("its file {name}"), label, bytes })
        });
        part.push_pictures(pictures, EUROSAT.shape[1] as u32).map_err(|fault| file.wrong(fault))?;
    }
    Ok(())
}

/// Path and class of every picture, by class and name.
fn pictures(zip: &Zip<BufReader<std::fs::File>>) -> Result<Vec<(String, u16)>, String> {
    let mut pictures = Vec::new();
    for path in zip.paths().filter(|p| p.ends_with(".jpg")) {
        let folders: Vec<&str> = path.split('/').collect();
        let label = match folders[..] {
            [_, class, _] => EUROSAT.class_names.binary_search(&class).ok(),
            _ => None,
        };
        let label = label.ok_or_else(|| format!("its file {path} is in no folder of a class"))?;
        pictures.push((path.to_owned(), label as u16));
    }
    Ok(pictures)
}
