//! What the program says: help, verdicts, and failures with `--json`.

use std::fs;

use zoo_model::{synthetic, ModelId};
use zoo_pack::{pack, PackOptions};
use zoo_test::{failures, insta, snapshot, Workspace};

const PROGRAM: &str = env!("CARGO_BIN_EXE_zoo-verify");

#[test]
fn help_is_as_in_the_snapshots() {
    insta::assert_snapshot!("zoo-verify", snapshot::help(PROGRAM, ""));
}

#[test]
fn a_failure_is_an_object_with_json() {
    failures::are_objects_with_json(PROGRAM, &[("nowhere", 1, "failed"), ("nowhere --replay 3", 2, "usage")]);
}

#[test]
fn verdicts_are_as_in_the_snapshots() {
    // Sizes change with the words of the card, which is in the archive.
    let numbers = [(r"\b[0-9a-f]{64}\b", "[sha256]"), (r"\b\d{4,}\b", "[number]")];
    let _redacting = snapshot::redacting(&numbers).bind_to_scope();
    let work = Workspace::new(PROGRAM);
    let zoo = synthetic::write(&work.path("noise"), "noise", 3, 4).unwrap();
    let archive = work.path("noise.tar.gz");
    pack(zoo.path(), &archive, &PackOptions::default(), &Default::default()).unwrap();
    let verdict = |name: &str, args: &str| insta::assert_snapshot!(name, snapshot::transcript(&work.run(args)));
    verdict("sound-archive", "noise.tar.gz");
    verdict("sound-archive-json", "noise.tar.gz --json");
    verdict("sound-directory-quick", "noise --quick");
    let sound = work.read("noise.tar.gz");
    let mut damaged = sound.clone();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 20].fill(0xff);
    work.write("noise.tar.gz", damaged);
    verdict("damaged-archive", "noise.tar.gz");
    verdict("damaged-archive-json", "noise.tar.gz --json");
    work.write("noise.tar.gz", &sound[..sound.len() / 2]);
    verdict("truncated-archive", "noise.tar.gz");
    fs::remove_file(zoo.states(ModelId(1))).unwrap();
    work.write("noise/notes.txt", "mine");
    verdict("directory-without-a-file", "noise");
}
