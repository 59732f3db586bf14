//! Any bytes as a MAT-file, and as what follows its header.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zoo_data::formats::mat;

fn read(bytes: &[u8]) {
    for variable in mat::read(bytes, &["X", "y"]).unwrap_or_default() {
        assert_eq!(variable.data.len(), variable.shape.iter().product::<usize>());
    }
}

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    let mut file = vec![0; 124];
    file.extend([0, 1, b'I', b'M']);
    file.extend(bytes);
    read(&file);
});
