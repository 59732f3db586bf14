//! Any bytes as the checkpoint of a cohort of two models.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zoo_model::ModelId;
use zoo_train::checkpoint;

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("cohort.safetensors");
    std::fs::write(&path, bytes).expect("a temporary file");
    let ids = [ModelId(0), ModelId(1)];
    if let Some(progress) = checkpoint::load(&path, "fuzz", &ids) {
        assert_eq!((progress.snapshots.len(), progress.trajectories.len()), (2, 2));
        checkpoint::save(&path, "fuzz", &ids, &progress).expect("a temporary file");
        let _ = checkpoint::load(&path, "fuzz", &ids).expect("round trip");
    }
});
