//! What a run that fails prints.

const BINARY: &str = env!("CARGO_BIN_EXE_zoo-sparsify");
const FAILS: &[(&str, i32, &str)] = &[("m.toml --zoo a --data b -o c", 2, "manifest"), ("m.toml", 2, "usage")];

include!("../../tests/shared/failures.rs");
