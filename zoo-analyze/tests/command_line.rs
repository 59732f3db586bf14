//! What the program says: help, reports, and failures with `--json`.

use std::fs;

use zoo_model::{synthetic, ModelId};
use zoo_test::{failures, insta, snapshot, Workspace};

const PROGRAM: &str = env!("CARGO_BIN_EXE_zoo-analyze");

#[test]
fn help_is_as_in_the_snapshots() {
    insta::assert_snapshot!("zoo-analyze", snapshot::help(PROGRAM, ""));
    insta::assert_snapshot!("zoo-analyze-benchmark", snapshot::help(PROGRAM, "benchmark"));
}

#[test]
fn a_failure_is_an_object_with_json() {
    failures::are_objects_with_json(
        PROGRAM,
        &[
            ("nowhere -o a", 1, "failed"),
            ("nowhere -o a.txt", 2, "usage"),
            ("benchmark nowhere", 1, "failed"),
            ("benchmark", 2, "usage"),
        ],
    );
}

/// A figure in the page.
const FIGURE: (&str, &str) = (r"(?s)<svg.*?</svg>", "[figure]");
const STYLE: (&str, &str) = (r"(?s)<style>.*?</style>", "[style]");

#[test]
fn the_report_is_as_in_the_snapshots() {
    let _redacting = snapshot::redacting(&[FIGURE, STYLE]).bind_to_scope();
    let work = Workspace::new(PROGRAM);
    let zoo = synthetic::write(&work.path("noise"), "noise", 24, 5).unwrap();
    insta::assert_snapshot!("benchmark", work.ok("benchmark noise --no-trees"));
    fs::remove_file(zoo.states(ModelId(3))).unwrap();
    insta::assert_snapshot!("report", work.ok("noise -o report.html"));
    insta::assert_snapshot!("page", work.text("report.html"));
}
