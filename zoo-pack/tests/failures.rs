//! What a run that fails prints.

const BINARY: &str = env!("CARGO_BIN_EXE_zoo-pack");
const FAILS: &[(&str, i32, &str)] = &[("nowhere -o a.tar.gz", 1, "failed"), ("nowhere", 2, "usage")];

include!("../../tests/shared/failures.rs");
