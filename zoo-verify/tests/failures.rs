//! What a run that fails prints.

const BINARY: &str = env!("CARGO_BIN_EXE_zoo-verify");
const FAILS: &[(&str, i32, &str)] = &[("nowhere", 1, "failed"), ("nowhere --replay 3", 2, "usage")];

include!("../../tests/shared/failures.rs");
