//! What the program says: help, and failures with `--json`.

use zoo_test::{failures, insta, snapshot};

const PROGRAM: &str = env!("CARGO_BIN_EXE_zoo-sparsify");

#[test]
fn help_is_as_in_the_snapshots() {
    insta::assert_snapshot!("zoo-sparsify", snapshot::help(PROGRAM, ""));
}

#[test]
fn a_failure_is_an_object_with_json() {
    failures::are_objects_with_json(
        PROGRAM,
        &[("m.toml --zoo a --data b -o c", 2, "manifest"), ("m.toml", 2, "usage")],
    );
}
