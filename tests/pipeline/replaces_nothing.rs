//! Nothing is replaced, and no file of anybody touched, unless asked.

use std::fs;
use std::path::Path;

use zoo_test::program::signal_when;
use zoo_test::{assert_same_files, files};

use crate::{assert_untouched, has_checkpoint, TinyZoo};

#[test]
fn a_run_replaces_no_other_zoo_twin_or_archive_unasked() {
    let work = TinyZoo::new();
    let run = "run tiny.toml --models 2 --epochs 1";
    work.ok(run);
    let sound = work.text("tiny.toml");
    let before = files(work.root());
    let refused = |run: &str, named: &[&str]| {
        let message = work.fails(run, 2);
        assert!(message.contains("--force") && named.iter().all(|name| message.contains(name)), "{message}");
    };
    // Another cut, or the whole.
    refused("run tiny.toml --models 3 --epochs 1", &["zoos/tiny holds", "`manifest.reduction.models` (2 and 3)"]);
    refused("run tiny.toml", &["zoos/tiny holds", "`manifest.reduction"]);
    refused(&format!("{run} --samples 30"), &["zoos/tiny holds", "`manifest.reduction.samples`"]);
    refused(&format!("{run} --engine dfdx"), &["zoos/tiny holds", "`engine.name`"]);
    assert_untouched(&work, &before);
    // Any section of the manifest; of another manifest first, nothing is made either.
    work.write("other.toml", sound.replace("\"tiny\"", "\"other\""));
    for (from, to, output, field) in [
        ("learning-rate = 0.05", "learning-rate = 0.01", "zoos/tiny holds", "`manifest.grid.learning-rate`"),
        ("train = 150", "train = 140", "zoos/tiny holds", "`dataset.train` (150 and 140)"),
        ("val = 40", "val = 40\nsplit-seed = 9", "zoos/tiny holds", "`dataset.sha256`"),
        ("sparsity = 0.8", "sparsity = 0.8\nscope = \"layer\"", "zoos/tiny-magnitude-80 holds", "sparsify.scope"),
    ] {
        work.write("tiny.toml", sound.replace(from, to));
        refused("run other.toml tiny.toml --models 2 --epochs 1", &[output, field]);
        work.write("tiny.toml", &sound);
    }
    fs::remove_file(work.path("other.toml")).unwrap();
    assert_untouched(&work, &before);

    // An archive of the same zoo is repacked; one of another zoo, or an unrelated file, is kept.
    let (archive, twins) = (work.path("archives/tiny.tar.gz"), work.path("archives/tiny-magnitude-80.tar.gz"));
    work.ok("pack zoos/tiny -o archives/tiny.tar.gz --level 0");
    work.ok(run);
    assert_untouched(&work, &before);
    fs::copy(&twins, &archive).unwrap();
    refused(run, &["archives/tiny.tar.gz holds the zoo `tiny-magnitude-80`"]);
    fs::write(&archive, "my thesis").unwrap();
    refused(run, &["archives/tiny.tar.gz already exists and is not a zoo archive"]);
    assert_eq!(fs::read(&archive).unwrap(), b"my thesis");
    work.ok(&format!("{run} --force"));
    assert_untouched(&work, &before);

    // So is a dataset that somebody made.
    let data = work.path("data/tiny.safetensors");
    let text = fs::read(&data).unwrap();
    let renamed: Vec<u8> = String::from_utf8_lossy(b"fingerprint").replace('f', "F").into_bytes();
    let at = text.windows(renamed.len()).position(|w| w == b"fingerprint").unwrap();
    let own = [&text[..at], &renamed, &text[at + renamed.len()..]].concat();
    fs::write(&data, &own).unwrap();
    let message = work.fails(run, 2);
    assert!(message.contains("exists and was not prepared by zoo-data"), "{message}");
    assert!(fs::read(&data).unwrap() == own);
}

#[test]
fn an_output_of_another_manifest_is_kept_unless_forced() {
    let work = TinyZoo::new();
    work.prepare();
    let train = "train tiny.toml --data d.safetensors -o z --models 2 --epochs 1";
    work.ok(train);
    let before = files(&work.path("z"));
    work.edit("0.05", "0.04");
    assert!(work.fails(train, 2).contains("replace it with --force"));
    assert!(files(&work.path("z")) == before);
    work.ok(&format!("{train} --force"));
    assert!(files(&work.path("z")) != before);
}

#[test]
fn a_replaced_zoo_is_there_until_the_new_one_is_whole() {
    let work = TinyZoo::new();
    work.ok("run tiny.toml --models 2 --epochs 1");
    work.write("zoos/tiny/notes.txt", "mine");
    let before = files(&work.path("zoos"));
    work.edit("epochs = 6", "epochs = 40");
    // Half of the new zoo, and then a kill in the middle of the other half.
    let forced = "run tiny.toml --force --threads 1 --checkpoint-seconds 0";
    work.ok(&format!("{forced} --shard 2/2"));
    let mut child = work.start(forced);
    signal_when(&mut child, "-KILL", || has_checkpoint(&work.path("zoos/.tiny.replacement/.training")));
    child.wait().unwrap();
    let is_visible = |path: &Path| !path.starts_with(".tiny.replacement");
    let mut now = files(&work.path("zoos"));
    now.retain(|path, _| is_visible(path));
    assert!(now == before, "{:?}", now.keys());

    work.ok(forced);
    work.ok("verify archives/tiny.tar.gz --replay 1 --data data/tiny.safetensors");
    assert_eq!(work.text("zoos/tiny/notes.txt"), "mine");
    fs::remove_file(work.path("zoos/tiny/notes.txt")).unwrap();
    assert_eq!(fs::read_dir(work.path("zoos")).unwrap().count(), 2, "nothing hidden stays");
    // To the same bytes as in an empty place.
    work.ok("run tiny.toml --root fresh");
    assert_same_files(&work.path("zoos"), &work.path("fresh/zoos"));
}

#[test]
fn no_stage_writes_into_a_zoo_or_takes_a_file_for_one() {
    let work = TinyZoo::new();
    work.prepare();
    work.ok("train tiny.toml --data d.safetensors -o z --models 1 --epochs 1");
    let before = files(&work.path("z"));
    for command in [
        "data tiny.toml -o z/d.safetensors",
        "train tiny.toml --data d.safetensors -o z/models/z",
        "train tiny.toml --data d.safetensors -o z/new/../models/000000/z --force",
        "sparsify tiny.toml --zoo z --data d.safetensors -o z/t --epochs 1",
        "pack z -o z/z.tar.gz --force",
        "run tiny.toml --root z",
    ] {
        assert!(work.fails(command, 2).contains("would be written into the zoo"), "{command}");
    }
    assert!(files(&work.path("z")) == before);

    fs::create_dir(work.path("zoos")).unwrap();
    work.write("zoos/tiny", "x");
    for command in ["run tiny.toml", "run tiny.toml --force", "train tiny.toml --data d.safetensors -o zoos/tiny"] {
        assert!(work.fails(command, 1).contains("is a file, where the folder of a zoo is expected"), "{command}");
    }
}
