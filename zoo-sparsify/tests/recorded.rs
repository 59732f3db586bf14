//! What twins are recorded as must never change: a twin zoo is up to date by its fingerprint.
//!
//! `recorded/twins.txt` was written by the program before pruning methods were open to additions; the
//! words of messages have changed since.

use std::fmt::Write;
use std::path::Path;

use zoo_model::files::fingerprint;
use zoo_model::synthetic::noise_dataset;
use zoo_model::zoo_dir::EngineRecord;
use zoo_model::{Hyperparameters, Manifest, ModelId, Params, ZooRecord, FORMAT_VERSION};
use zoo_sparsify::{record, twin_params, twins, Twin};
use zoo_train::registry;

const ENTRIES: &str = r#"
[zoo]
name = "z"

[[sparsify]]
method = "magnitude"
sparsity = [0.5, 0.825, 0.1]

[[sparsify]]
sparsity = 0.07
scope = "layer"
method = "magnitude"
epochs = 0
suffix = "layer"

[[sparsify]]
method = "magnitude"
sparsity = 0.8
schedule = "cubic"
epochs = 1
learning-rate = 1e-3

[[sparsify]]
method = "magnitude"
sparsity = 0.9
schedule = "cubic"
scope = "global"
ramp-epochs = 4
epochs = 20
learning-rate = 5
suffix = "long"

[[sparsify]]
method = "magnitude"
sparsity = 0.6
schedule = "one-shot"

[[sparsify]]
method = "variational-dropout"

[[sparsify]]
method = "variational-dropout"
epochs = 3
learning-rate = 0.0003
suffix = "short"
"#;

/// Replacements in an entry of magnitude pruning, each a mistake.
const MISTAKES: &[(&str, &str)] = &[
    ("[[sparsify]]", "[sparsify]"),
    ("method = \"magnitude\"\n", ""),
    ("\"magnitude\"", "\"magnitud\""),
    ("\"magnitude\"", "5"),
    ("sparsity = 0.5\n", ""),
    ("sparsity =", "sparsty ="),
    ("sparsity =", "lerning-rate ="),
    ("0.5", "1.0"),
    ("0.5", "\"a\""),
    ("0.5", "[]"),
    ("0.5", "[0.5, 0.5]"),
    ("0.5", "[0.5,\n\"a\"]"),
    ("0.5", "0.5\nscope = 5"),
    ("0.5", "0.5\nscope = \"layers\""),
    ("0.5", "0.5\nschedule = \"linear\""),
    ("0.5", "0.5\nramp-epochs = 0"),
    ("0.5", "0.5\nramp-epochs = 3"),
    ("0.5", "0.5\nschedule = \"cubic\"\nepochs = 0"),
    ("0.5", "0.5\nschedule = \"cubic\"\nepochs = 2\nramp-epochs = 3"),
    ("0.5", "0.5\nepochs = -1"),
    ("0.5", "0.5\nepochs = \"a\""),
    ("0.5", "0.5\nlearning-rate = 0"),
    ("0.5", "0.5\nlearning-rate = inf"),
    ("0.5", "0.5\nsuffix = 5"),
    ("0.5", "0.5\nsuffix = \"a/b\""),
    ("magnitude", "variational-dropout"),
    ("magnitude\"\nsparsity = 0.5", "variational-dropout\"\nscope = \"layer\""),
    ("magnitude\"\nsparsity = 0.5", "variational-dropout\"\nschedule = \"cubic\""),
    ("magnitude\"\nsparsity = 0.5", "variational-dropout\"\nramp-epochs = 3"),
    ("magnitude\"\nsparsity = 0.5", "variational-dropout\"\nepochs = 0"),
    ("magnitude\"\nsparsity = 0.5", "variational-dropout\"\nsparsty = 0"),
];

fn parent_record() -> ZooRecord {
    let json = include_str!("../../fuzz/seeds/files/tiny-zoo.json");
    ZooRecord::from_json(json.as_bytes()).unwrap()
}

/// The fingerprint of a twin zoo.
fn fingerprint_of(parent: &str, twin: &Twin, data: &str, engine: &EngineRecord) -> String {
    fingerprint(&(FORMAT_VERSION, parent, twin, data, engine))
}

fn describe(twins: &[Twin], out: &mut String) {
    let dataset = noise_dataset([1, 28, 28], 10, 2);
    let engine = registry::on_processor(Some("dfdx"), &Hyperparameters::default().into()).unwrap();
    let hyperparameters = Hyperparameters::default();
    let network = hyperparameters.network([1, 28, 28], 10).unwrap();
    let parent = Params::new(ModelId(7), hyperparameters, &network);
    for twin in twins {
        let made = record(&parent_record(), "parent".into(), twin, &dataset, engine.as_ref());
        let by = EngineRecord { name: engine.name().into(), version: engine.version() };
        assert_eq!(made.fingerprint, fingerprint_of("parent", twin, dataset.sha256(), &by));
        let by = EngineRecord { name: "engine".into(), version: "1".into() };
        writeln!(out, "{}", made.name).unwrap();
        writeln!(out, "{}", made.description).unwrap();
        writeln!(out, "{}", made.manifest["sparsify"]).unwrap();
        writeln!(out, "{}", serde_json::to_string(twin).unwrap()).unwrap();
        writeln!(out, "{}", fingerprint_of("parent", twin, "data", &by)).unwrap();
        writeln!(out, "{:?}", twin.kept_epochs()).unwrap();
        let params = twin_params(&parent, "z", "states".into(), twin);
        writeln!(out, "{}\n", serde_json::to_string(&params.extra).unwrap()).unwrap();
        // What verification reads back is the same twin.
        let again: Twin = serde_json::from_value(made.manifest["sparsify"].clone()).unwrap();
        assert_eq!(again, Twin { suffix: String::new(), ..twin.clone() });
    }
}

#[test]
fn twins_are_recorded_as_ever() {
    let mut manifest = Manifest::parse("m.toml", ENTRIES.into()).unwrap();
    let mut out = String::new();
    describe(&twins(&manifest).unwrap(), &mut out);
    manifest.reduction.epochs = Some(2);
    describe(&twins(&manifest).unwrap(), &mut out);
    for (from, to) in MISTAKES {
        let entry = "[zoo]\nname = \"z\"\n\n[[sparsify]]\nmethod = \"magnitude\"\nsparsity = 0.5\n".to_owned();
        assert!(entry.contains(from), "{from}");
        let manifest = Manifest::parse("m.toml", entry.replace(from, to)).unwrap();
        writeln!(out, "{}", twins(&manifest).unwrap_err()).unwrap();
    }
    let expected = include_str!("recorded/twins.txt");
    let found = Path::new(env!("CARGO_TARGET_TMPDIR")).join("twins.txt");
    std::fs::write(&found, &out).unwrap();
    assert!(out == expected, "differs from recorded/twins.txt: {}", found.display());
}

#[test]
fn the_fingerprint_of_a_recorded_twin_is_still_its_own() {
    let json = include_str!("../../fuzz/seeds/files/tiny-magnitude-50-zoo.json");
    let recorded = ZooRecord::from_json(json.as_bytes()).unwrap();
    let twin: Twin = serde_json::from_value(recorded.manifest["sparsify"].clone()).unwrap();
    let (parent, engine) = (recorded.parent.unwrap().fingerprint, recorded.engine.unwrap());
    assert_eq!(recorded.fingerprint, fingerprint_of(&parent, &twin, &recorded.dataset.sha256, &engine));
}
