//! What users read about a zoo as it comes into being.

use std::fs;

use zoo_test::{insta, snapshot};

use crate::TinyZoo;

/// What an engine's rounding or another machine changes, and no words do.
const NUMBERS: &[(&str, &str)] = &[
    (r"(?m) +\S+ (?:s|min|h|days)$", " [time]"),
    (r"\b[0-9a-f]{64}\b", "[sha256]"),
    (r"\d+ bytes", "[bytes] bytes"),
    (r"population, version \S+", "population, version [version]"),
    (r"diverged models \| \d+", "diverged models | [number]"),
    (r"mean \d.*", "mean [numbers]"),
];

#[test]
fn plan_status_verdict_and_card_are_as_in_the_snapshots() {
    let _redacting = snapshot::redacting(NUMBERS).bind_to_scope();
    let work = TinyZoo::new();
    let status = |state: &str| insta::assert_snapshot!(format!("status-{state}"), work.ok("status tiny.toml"));
    insta::assert_snapshot!("plan", work.ok("plan tiny.toml"));
    status("nothing-made");
    work.ok("run tiny.toml --shard 1/2");
    status("one-shard-of-two");
    work.ok("run tiny.toml");
    status("whole");
    insta::assert_snapshot!("verify", work.ok("verify archives/tiny.tar.gz archives/tiny-magnitude-80.tar.gz"));
    for name in ["tiny", "tiny-magnitude-80"] {
        let card = work.shell(&format!("tar xzOf archives/{name}.tar.gz {name}/README.md")).ok();
        insta::assert_snapshot!(format!("card-{name}"), card);
    }
    work.edit("learning-rate = 0.05", "learning-rate = 0.04");
    status("of-another-learning-rate");
    work.edit("learning-rate = 0.04", "learning-rate = 0.05");
    fs::remove_file(work.path("zoos/tiny/models/000001/states.safetensors")).unwrap();
    status("damaged");
}
