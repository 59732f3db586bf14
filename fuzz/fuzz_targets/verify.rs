//! Any bytes as the tar stream of an archive that is verified up to its meaning.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zoo_pack::members::compress;
use zoo_model::stage::Stage;
use zoo_verify::{verify, Options};

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("zoo.tar.gz");
    std::fs::write(&path, compress(bytes, 1)).expect("a temporary file");
    let _ = verify(&path, &Options { threads: 1, ..Options::default() }, &Stage::silent());
});
