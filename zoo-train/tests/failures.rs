//! What a run that fails prints.

const BINARY: &str = env!("CARGO_BIN_EXE_zoo-train");
const FAILS: &[(&str, i32, &str)] =
    &[("m.toml --data a -o b", 2, "manifest"), ("merge nowhere -o b", 1, "failed"), ("m.toml", 2, "usage")];

include!("../../tests/shared/failures.rs");
