//! Any text as a manifest; an error must name a line if it names a key that stands there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zoo_model::{Manifest, Plan};

fuzz_target!(|text: &str| {
    let Ok(mut manifest) = Manifest::parse("fuzz.toml", text.to_owned()) else { return };
    // A reduction keeps absurd grids from taking memory that the fuzzer counts.
    manifest.reduction.models = Some(3);
    let _ = (zoo_data::expected(&manifest), zoo_sparsify::twins(&manifest));
    if text.len() < 4096 && !text.contains("range") && !text.contains("per-model") {
        let _ = Plan::new(&manifest);
    }
});
