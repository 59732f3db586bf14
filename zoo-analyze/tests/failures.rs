//! What a run that fails prints.

const BINARY: &str = env!("CARGO_BIN_EXE_zoo-analyze");
const FAILS: &[(&str, i32, &str)] = &[
    ("nowhere -o a", 1, "failed"),
    ("nowhere -o a.txt", 2, "usage"),
    ("benchmark nowhere", 1, "failed"),
    ("benchmark", 2, "usage"),
];

include!("../../tests/shared/failures.rs");
