//! A run does what is to be done, and nothing else.

use std::fs;
use std::path::Path;

use serde_json::Value;
use zoo_test::files;

use crate::TinyZoo;

#[test]
fn a_run_does_only_what_its_inputs_changed() {
    let work = TinyZoo::new();
    let steps = |args: &str| -> Vec<(String, bool)> {
        let summary = work.json(args);
        let step = |s: &Value| (s["stage"].as_str().unwrap().to_owned(), s["up_to_date"].as_bool().unwrap());
        summary["steps"].as_array().unwrap().iter().map(step).filter(|(stage, _)| stage != "verify").collect()
    };
    let done = |args: &str| steps(args).iter().map(|(_, up_to_date)| !up_to_date).collect::<Vec<_>>();
    let run = "run tiny.toml --json --models 2 --epochs 1";
    // data, train, sparsify, pack, pack
    assert_eq!(done(run), [true; 5]);
    assert_eq!(done(run), [false; 5]);
    let status = work.ok("status tiny.toml --models 2 --epochs 1");
    assert_eq!(status.matches("up to date").count(), 5, "{status}");
    let states = || fs::metadata(work.path("zoos/tiny/models/000000/states.safetensors")).unwrap().modified().unwrap();
    let trained_at = states();
    work.edit("Six models for a test.", "Six models, described differently.");
    let status = work.ok("status tiny.toml --models 2 --epochs 1");
    let stale: Vec<&str> = status.lines().filter(|l| l.contains("stale")).collect();
    assert!(stale.len() == 1 && stale[0].starts_with("pack") && stale[0].ends_with("tiny.tar.gz"), "{status}");
    assert_eq!(done(run), [false, false, false, true, false], "words change the archive, not the models");
    assert_eq!(states(), trained_at);
    let run = &format!("{run} --force");
    work.edit("sparsity = 0.8", "sparsity = 0.8\nscope = \"layer\"");
    assert_eq!(done(run), [false, false, true, false, true]);
    work.edit("learning-rate = 0.05", "learning-rate = 0.01");
    assert_eq!(done(run), [false, true, true, true, true]);
    work.edit("train = 150", "train = 140");
    assert_eq!(done(run), [true; 5]);
    assert!(work.ok("status tiny.toml").contains("stale"), "the whole zoo is another one than its cut");
}

#[test]
fn damage_is_told_with_its_remedy() {
    let work = TinyZoo::new();
    let run = "run tiny.toml --models 2 --epochs 1";
    work.ok(run);
    let sound = files(&work.path("zoos/tiny"));
    work.write("zoos/tiny/models/.DS_Store", "x");
    work.ok(run);
    let status = || work.ok("status tiny.toml --models 2 --epochs 1");
    assert_eq!(status().matches("up to date").count(), 5);
    let damage = |file: &str, content: Option<&[u8]>| {
        let path = work.path("zoos/tiny").join(file);
        match content {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let message = work.fails(run, 1);
        assert!(message.contains("remove ./zoos/tiny and make it again") && message.contains(file), "{message}");
        let status = status();
        assert!(status.lines().any(|l| l.starts_with("train     damaged")), "{status}");
        fs::write(&path, &sound[Path::new(file)]).unwrap();
    };
    damage("models/000000/states.safetensors", None);
    damage("models/000000/params.json", Some(b"{"));
    damage("zoo.json", Some(b"{"));
    assert_eq!(status().matches("up to date").count(), 5);

    // A damaged dataset is made again, and nothing is trained on it.
    let data = work.path("data/tiny.safetensors");
    let mut bytes = fs::read(&data).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&data, bytes).unwrap();
    assert!(status().contains("stale"));
    let summary = work.json(&format!("{run} --json"));
    let remade: Vec<bool> = summary["steps"].as_array().unwrap().iter().map(|s| s["up_to_date"] == false).collect();
    assert_eq!(remade[..5], [true, false, false, false, false]);
}
