//! Any bytes as an archive, and as the tar stream of a well-formed one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zoo_pack::entries::Entries;
use zoo_pack::members::{compress, decode};

fn walk(archive: &[u8]) {
    decode(archive, 1, |decoded| {
        let mut entries = Entries::new(decoded);
        while let Some(entry) = entries.next_entry() {
            if entry.is_ok() {
                let _ = std::io::copy(&mut entries.content(), &mut std::io::sink());
            }
        }
    });
}

fuzz_target!(|bytes: &[u8]| {
    match bytes {
        [0x1f, 0x8b, ..] => walk(bytes),
        _ => walk(&compress(bytes, 1)),
    }
});
