//! Any bytes as the checkpoint of models in training.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zoo_train::checkpoint::{self, Saved};

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("checkpoint-0.safetensors");
    std::fs::write(&path, bytes).expect("a temporary file");
    if let Some((ids, Saved { progress, states })) = checkpoint::read(&path, "fuzz") {
        assert_eq!((progress.snapshots.len(), progress.lines.len(), states.len()), (ids.len(), ids.len(), ids.len()));
        checkpoint::save(&path, "fuzz", &ids, &progress, &states).expect("a temporary file");
        let _ = checkpoint::read(&path, "fuzz").expect("round trip");
    }
});
