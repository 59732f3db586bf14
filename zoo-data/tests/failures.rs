//! What a run that fails prints.

const BINARY: &str = env!("CARGO_BIN_EXE_zoo-data");
const FAILS: &[(&str, i32, &str)] = &[("m.toml -o a", 2, "manifest"), ("m.toml", 2, "usage")];

include!("../../tests/shared/failures.rs");
