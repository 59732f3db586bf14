//! What the program says: help, dataset cards, and failures with `--json`.

use zoo_model::synthetic;
use zoo_test::{failures, insta, snapshot, Workspace};

const PROGRAM: &str = env!("CARGO_BIN_EXE_zoo-pack");

#[test]
fn help_is_as_in_the_snapshots() {
    insta::assert_snapshot!("zoo-pack", snapshot::help(PROGRAM, ""));
}

#[test]
fn a_failure_is_an_object_with_json() {
    failures::are_objects_with_json(PROGRAM, &[("nowhere -o a.tar.gz", 1, "failed"), ("nowhere", 2, "usage")]);
}

#[test]
fn the_card_is_as_in_the_snapshot() {
    let work = Workspace::new(PROGRAM);
    let zoo = synthetic::write(&work.path("noise"), "noise", 3, 4).unwrap();
    let mut record = zoo.finished().unwrap();
    record.description = "Noise, described\nin two lines.".into();
    record.diverged = 1;
    zoo.finish(&record).unwrap();
    work.ok("noise -o noise.tar.gz");
    insta::assert_snapshot!("card", work.shell("tar xzOf noise.tar.gz noise/README.md").ok());
}
