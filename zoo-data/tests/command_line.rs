//! What the program says: help, and failures with `--json`.

use zoo_test::{failures, insta, snapshot};

const PROGRAM: &str = env!("CARGO_BIN_EXE_zoo-data");

#[test]
fn help_is_as_in_the_snapshots() {
    insta::assert_snapshot!("zoo-data", snapshot::help(PROGRAM, ""));
    insta::assert_snapshot!("zoo-data-fetch", snapshot::help(PROGRAM, "fetch"));
}

#[test]
fn a_failure_is_an_object_with_json() {
    failures::are_objects_with_json(PROGRAM, &[("m.toml -o a", 2, "manifest"), ("m.toml", 2, "usage")]);
}
