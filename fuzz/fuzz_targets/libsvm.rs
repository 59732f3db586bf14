//! Any bytes as LIBSVM text, plain or compressed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zoo_data::formats::{decompressed, libsvm};

fuzz_target!(|bytes: &[u8]| {
    let _ = libsvm::read(decompressed(bytes).expect("memory does not fail"), 4, |_line, _label, values| {
        assert_eq!(values.len(), 4);
        Ok::<(), String>(())
    });
});
