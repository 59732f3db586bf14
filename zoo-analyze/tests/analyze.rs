//! The binary, on zoos of noise, sound and damaged.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use zoo_model::{states, synthetic, ModelId, ZooDir};

fn analyze(dir: &Path, threads: &str, args: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zoo-analyze"));
    command.env("RAYON_NUM_THREADS", threads).current_dir(dir).args(args.split_whitespace()).output().unwrap()
}

#[track_caller]
fn ok(dir: &Path, args: &str) -> String {
    let output = analyze(dir, "2", args);
    assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn fails(dir: &Path, args: &str, code: i32) -> String {
    let output = analyze(dir, "2", args);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args}: {message}");
    assert!(!message.contains("panicked"), "{message}");
    message
}

/// Rewrites the states of a model.
fn change_states(zoo: &ZooDir, id: ModelId, change: impl Fn(&mut Vec<Vec<f32>>)) {
    let network = zoo.params(id).unwrap().network().unwrap();
    let path = zoo.states(id);
    let size = fs::metadata(&path).unwrap().len();
    let (epochs, mut all) = states::read_all(&mut File::open(&path).unwrap(), size, &network).unwrap();
    change(&mut all);
    states::write(&path, &network, &epochs, &all).unwrap();
}

#[test]
fn a_report_is_the_same_from_a_directory_and_an_archive_on_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    synthetic::write(&path.join("noise"), "noise", 24, 5).unwrap();
    ok(path, "noise -o one.html");
    assert!(analyze(path, "1", "noise -o two.html -q").status.success());
    let options = zoo_pack::PackOptions::default();
    zoo_pack::pack(&path.join("noise"), &path.join("noise.tar.gz"), &options, &Default::default()).unwrap();
    ok(path, "noise.tar.gz -o three");
    assert!(path.join("three.html").exists());
    let files = ["report.json", "accuracy.svg", "gap.svg", "weights.svg", "map.svg"];
    for other in ["two", "three"] {
        for file in files {
            let read = |report: &str| fs::read(path.join(report).join(file)).unwrap();
            assert!(read("one") == read(other), "{file} of {other} differs");
        }
    }
    let page = fs::read_to_string(path.join("one.html")).unwrap();
    let addresses = page.matches("http").count() - page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count();
    assert_eq!(addresses, 0, "the page needs a network");
    let report: Value = serde_json::from_slice(&fs::read(path.join("one/report.json")).unwrap()).unwrap();
    assert_eq!(report["benchmark"]["models"], serde_json::json!([17, 4, 3]));
    let scores = report["benchmark"]["scores"].as_array().unwrap();
    let of_accuracy = scores.iter().filter(|s| s["property"] == "test accuracy");
    let predictors: Vec<&str> = of_accuracy.map(|s| s["predictor"].as_str().unwrap()).collect();
    assert_eq!(predictors, ["ridge-weights", "ridge-statistics", "trees-statistics"]);
}

#[test]
fn models_that_cannot_be_read_and_states_that_are_not_finite_are_listed_and_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let zoo = synthetic::write(&path.join("noise"), "noise", 24, 5).unwrap();
    fs::remove_file(zoo.states(ModelId(3))).unwrap();
    let cut = File::options().write(true).open(zoo.states(ModelId(4))).unwrap();
    cut.set_len(1000).unwrap();
    change_states(&zoo, ModelId(5), |states| states[2][7] = f32::NAN);
    change_states(&zoo, ModelId(6), |states| states[0][0] = f32::INFINITY);
    fs::remove_dir_all(zoo.model(ModelId(7))).unwrap();
    fs::write(zoo.model(ModelId(8)).join("result.json"), "{").unwrap();
    let found: Value = serde_json::from_str(&ok(path, "benchmark noise --json --no-trees")).unwrap();
    assert_eq!(found["states_left_out"], 2);
    let skipped = found["skipped"].as_array().unwrap();
    let ids: Vec<&str> = skipped.iter().map(|s| s["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["000003", "000004", "000007", "000008"]);
    assert!(skipped[1]["why"].as_str().unwrap().contains("truncated"), "{skipped:?}");
    ok(path, "noise -o r.html --no-trees");
    let page = fs::read_to_string(path.join("r.html")).unwrap();
    assert!(page.contains("Model 000004 was skipped") && page.contains("2 states diverged"), "{page}");
}

#[test]
fn archives_that_are_damaged_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    synthetic::write(&path.join("noise"), "noise", 24, 5).unwrap();
    let options = zoo_pack::PackOptions::default();
    let archive = path.join("noise.tar.gz");
    zoo_pack::pack(&path.join("noise"), &archive, &options, &Default::default()).unwrap();
    let bytes = fs::read(&archive).unwrap();
    fs::write(&archive, &bytes[..bytes.len() / 2]).unwrap();
    assert!(fails(path, "noise.tar.gz -o r.html", 1).contains("verify the archive"));
    fs::write(&archive, "no archive").unwrap();
    assert!(fails(path, "noise.tar.gz -o r.html", 1).contains("noise.tar.gz"));
    assert!(!path.join("r.html").exists());
}

#[test]
fn mistakes_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    synthetic::write(&path.join("noise"), "noise", 24, 5).unwrap();
    synthetic::write(&path.join("small"), "small", 2, 2).unwrap();
    assert!(fails(path, "noise -o report.txt", 2).contains("NAME.html"));
    assert!(fails(path, "noise small -o r.html", 2).contains("not a twin of `noise`"));
    assert!(fails(path, "benchmark small", 1).contains("take a larger zoo"));
    assert!(fails(path, "nowhere -o r.html", 1).contains("nowhere"));
    assert!(ok(path, "small -o r.html").contains("No benchmarks"));
    synthetic::noise_dataset([1, 28, 28], 10, 20).write(&path.join("data.safetensors")).unwrap();
    assert!(fails(path, "noise -o r.html --data data.safetensors", 2).contains("another dataset file"));
}
