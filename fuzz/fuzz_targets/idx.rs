//! Any bytes as an IDX file, plain or in gzip.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(idx) = zoo_data::formats::idx::parse(bytes) {
        assert_eq!(idx.data.len(), idx.shape.iter().product::<usize>());
    }
});
