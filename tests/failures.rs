//! What a run that fails prints.

const BINARY: &str = env!("CARGO_BIN_EXE_zoo");
const FAILS: &[(&str, i32, &str)] = &[
    ("run m.toml", 2, "manifest"),
    ("plan m.toml", 2, "manifest"),
    ("status m.toml", 2, "manifest"),
    ("pack nowhere -o a.tar.gz", 1, "failed"),
    ("benchmark nowhere", 1, "failed"),
    ("analyze nowhere -o a.txt", 2, "usage"),
];

include!("shared/failures.rs");
