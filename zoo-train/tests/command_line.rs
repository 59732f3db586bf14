//! What the program says: help, and failures with `--json`.

use zoo_test::{failures, insta, snapshot};

const PROGRAM: &str = env!("CARGO_BIN_EXE_zoo-train");

#[test]
fn help_is_as_in_the_snapshots() {
    insta::assert_snapshot!("zoo-train", snapshot::help(PROGRAM, ""));
    insta::assert_snapshot!("zoo-train-merge", snapshot::help(PROGRAM, "merge"));
}

#[test]
fn a_failure_is_an_object_with_json() {
    failures::are_objects_with_json(
        PROGRAM,
        &[("m.toml --data a -o b", 2, "manifest"), ("merge nowhere -o b", 1, "failed"), ("m.toml", 2, "usage")],
    );
}
