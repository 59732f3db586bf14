//! Any bytes as an archive, and any bytes as the tar stream of a well-formed one.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use zoo_pack::entries::Entries;
use zoo_pack::members::{compress_stream, decode};

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
    walk(bytes);
    let mut archive = Vec::new();
    compress_stream(&mut archive, 1, 1, |pieces| pieces.write_all(bytes)).expect("memory does not fail");
    walk(&archive);
});
