//! Any bytes as a picture.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(image) = zoo_data::formats::picture::decode(bytes, 256) {
        assert!(image.height <= 256 && image.width <= 256);
        assert_eq!(image.pixels.len(), 3 * image.height * image.width);
    }
});
