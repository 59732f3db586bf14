//! Wrong manifests, flags and inputs.

use std::fs;

use crate::{TinyZoo, MANIFEST};

#[test]
fn a_mistake_in_a_manifest_gets_one_sentence() {
    let mistake = |from: &str, to: &str, expected: &str| {
        let work = TinyZoo::new();
        work.edit(from, to);
        let message = work.fails("run tiny.toml", 2);
        assert!(message.contains(expected), "{to}: {message}");
        assert_eq!(message.trim().lines().count(), 1, "{message}");
        assert_eq!(fs::read_dir(work.root()).unwrap().count(), 1, "nothing is made");
    };
    mistake("batch-size", "batch_size", "tiny.toml:24: train.batch_size: unknown field `batch_size`");
    mistake("batch-size", "batchsize", "did you mean `batch-size`?");
    mistake("[train]", "[trian]", "unknown section (did you mean `train`?)");
    mistake("0.3", "1.5", "tiny.toml:17: grid.dropout: must be at least 0 and below 1, not 1.5");
    mistake("epochs = 6", "epochs = 0", "train.epochs: must be from 1");
    mistake("epochs = 6", "epochs = \"six\"", "train.epochs: invalid type: string \"six\"");
    mistake("train = 150", "train = 1500", "data.train: train = 1500 and val = 40 ask for 1540 samples");
    mistake("\"relu\"", "\"relo\"", "did you mean `relu`?");
    mistake("\"cnn-s\"", "\"cnn-m\"", "set `resize = 32` in [data] transform");
    mistake("magnitude", "magnitud", "sparsify.method: unknown variant `magnitud`");
    mistake("sparsity = 0.8", "sparsity = 1.8", "sparsify.sparsity: must be between 0 and 1");
    mistake("[zoo]", "[zoo", "tiny.toml:2");
    mistake("[[sparsify]]", "[sparsify]", "write [[sparsify]]");
    mistake("val = 40", "val = -1", "tiny.toml:9: data.val: must not be negative");
}

#[test]
fn inputs_and_flags_that_cannot_be_used_are_named() {
    let work = TinyZoo::new();
    assert!(work.fails("run no-such.toml", 2).contains("no-such.toml: cannot read the manifest"));
    assert!(work.fails("run", 2).contains("MANIFEST"));
    assert!(work.fails("train tiny.toml --data none.safetensors -o z", 1).contains("cannot read none.safetensors"));
    work.write("bad.safetensors", b"not a dataset");
    assert!(work.fails("train tiny.toml --data bad.safetensors -o z", 1).contains("bad.safetensors"));
    work.prepare();
    let sound = work.read("d.safetensors");
    work.write("cut.safetensors", &sound[..sound.len() / 2]);
    assert!(work.fails("train tiny.toml --data cut.safetensors -o z", 1).contains("truncated or damaged"));
    assert!(work.fails("train tiny.toml --data d.safetensors -o z --shard 4/3", 2).contains("a shard is I/N"));
    assert!(work.fails("sparsify tiny.toml --zoo none --data d.safetensors -o t", 1).contains("none: does not exist"));
    work.write("file", "");
    assert!(work.fails("train tiny.toml --data d.safetensors -o file/z", 1).contains("file/z"));
    assert!(work.fails("train tiny.toml --data . -o z", 1).contains("is a folder"));
    assert!(work.fails("train tiny.toml --data file -o z", 1).contains("too short for a safetensors file"));
    work.ok("train tiny.toml --data d.safetensors -o whole --models 1 --epochs 1");
    let twin = "sparsify tiny.toml --zoo whole --data d.safetensors -o whole-magnitude-70";
    assert!(work.fails(twin, 2).contains("choose one with --twin: magnitude-80"));
    work.write("occupied/thesis.tex", "");
    assert!(work
        .fails("train tiny.toml --data d.safetensors -o occupied --force", 1)
        .contains("neither empty nor a zoo"));
    assert!(work.path("occupied/thesis.tex").exists());
}

#[test]
fn a_root_is_a_folder() {
    let work = TinyZoo::new();
    for command in ["run", "status", "plan"] {
        let message = work.fails(&format!("{command} tiny.toml --root tiny.toml"), 2);
        assert!(message.contains("--root tiny.toml is a file, where a folder is expected"), "{message}");
    }
}

#[test]
fn two_manifests_of_one_zoo_or_twin_are_refused() {
    let work = TinyZoo::new();
    let of_twin = MANIFEST.replace("\"tiny\"", "\"tiny-magnitude-80\"");
    for (copy, name) in [(MANIFEST, "tiny"), (&of_twin, "tiny-magnitude-80")] {
        work.write("copy.toml", copy);
        for command in ["run", "run --force", "status", "plan"] {
            let message = work.fails(&format!("{command} tiny.toml copy.toml"), 2);
            let expected = format!("tiny.toml and copy.toml both make the zoo `{name}`");
            assert!(message.contains(&expected), "{message}");
        }
    }
}

#[test]
fn training_takes_the_described_dataset_alone() {
    let work = TinyZoo::new();
    work.prepare();
    let train = "train tiny.toml --data d.safetensors -o z --models 1 --epochs 1";
    for (from, to, field) in [
        ("\"digits\"", "\"fashion-mnist\"", "`dataset` (\"digits\" and \"fashion-mnist\")"),
        ("train = 150", "train = 151", "`train` (150 and 151)"),
        ("val = 40", "val = 0", "`val` (40 and 0)"),
    ] {
        work.edit(from, to);
        let message = work.fails(train, 2);
        assert!(message.contains(field) && message.contains("--any-data"), "{message}");
        assert!(!work.path("z").exists());
        work.edit(to, from);
    }
    assert!(work.fails(&format!("{train} --samples 30"), 2).contains("`train` (150 and 30)"));
    work.edit("\"digits\"", "\"usps\"");
    work.ok(&format!("{train} --any-data"));
    work.edit("\"usps\"", "\"digits\"");

    // The twins of a zoo are made with its dataset, whatever the manifest says.
    work.ok("data tiny.toml --samples 30 -o other.safetensors");
    let sparsify = "sparsify tiny.toml --zoo z --data other.safetensors -o t --epochs 1";
    assert!(work.fails(sparsify, 2).contains("--any-data"));
    work.ok(&format!("{sparsify} --any-data"));
    let mut record = work.json_file("z/zoo.json");
    record["dataset"]["sha256"] = "".into();
    work.write("z/zoo.json", record.to_string());
    let sparsify = "sparsify tiny.toml --zoo z --data d.safetensors -o u --epochs 1";
    assert!(work.fails(sparsify, 2).contains("does not record the dataset file"));
    record["dataset"]["classes"] = 9.into();
    work.write("z/zoo.json", record.to_string());
    assert!(work.fails(&format!("{sparsify} --any-data"), 2).contains("[1, 28, 28] and 9 classes"));

    // A manifest without [data] takes any.
    let text = work.text("tiny.toml");
    let section = text.find("[data]").unwrap()..text.find("[model]").unwrap();
    work.edit(&text[section], "");
    work.ok("train tiny.toml --data d.safetensors -o own --models 1 --epochs 1");
}
