//! The binary, on zoos of noise, sound and damaged.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use zoo_model::params::Parent;
use zoo_model::zoo_dir::{DatasetRecord, ParentZoo};
use zoo_model::{states, synthetic, Dataset, ModelId, ResultLine, ZooDir, ZooRecord};
use zoo_pack::{pack, PackOptions};
use zoo_test::{files, Outcome, Program};

const PROGRAM: Program = Program::new(env!("CARGO_BIN_EXE_zoo-analyze"));

fn analyze(dir: &Path, threads: &str, args: &str) -> Outcome {
    Outcome::of(PROGRAM.command(dir, args).env("RAYON_NUM_THREADS", threads))
}

#[track_caller]
fn ok(dir: &Path, args: &str) -> String {
    analyze(dir, "2", args).ok()
}

#[track_caller]
fn fails(dir: &Path, args: &str, code: i32) -> String {
    analyze(dir, "2", args).fails(code)
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

fn pack_zoo(zoo: &Path, archive: &Path, volume_size: Option<u64>) -> Vec<PathBuf> {
    let mut options = PackOptions::default();
    options.section.volume_size = volume_size;
    pack(zoo, archive, &options, &Default::default()).unwrap().archives
}

/// Rewrites a finished zoo with another record.
fn change_record(zoo: &ZooDir, change: impl FnOnce(&mut ZooRecord)) {
    let mut record = zoo.finished().unwrap();
    change(&mut record);
    zoo.finish(&record).unwrap();
}

/// A zoo of noise whose ids have gaps everywhere, as one that was cut to `--models`.
fn cut_zoo(path: &Path, name: &str) -> ZooDir {
    let zoo = synthetic::write(path, name, 60, 6).unwrap();
    let all = zoo.ids().unwrap();
    let kept = |id: &ModelId| id.0 % 2 == 1 && (8..54).contains(&id.0);
    all.iter().filter(|id| !kept(id)).for_each(|id| fs::remove_dir_all(zoo.model(*id)).unwrap());
    let models = zoo.ids().unwrap().len();
    change_record(&zoo, |record| (record.models, record.states) = (models, 6 * models));
    zoo
}

/// Twins that zero the first half of each last state, without metrics, as a program of one's own may
/// write them.
fn twin_zoo(parent: &ZooDir, path: &Path, name: &str) -> ZooDir {
    let zoo = ZooDir::new(path);
    let staging = path.join(".training");
    for id in parent.ids().unwrap() {
        let mut params = parent.params(id).unwrap();
        let network = params.network().unwrap();
        let (_, mut state) = states::StatesFile::open(&parent.states(id), &network).unwrap().last().unwrap();
        let half = state.len() / 2;
        state[..half].fill(0.0);
        let line = ResultLine {
            train_loss: None,
            train_acc: None,
            test_loss: None,
            test_acc: None,
            val_loss: None,
            val_acc: None,
            sparsity_ratio: Some(0.5),
            ..parent.results(id).unwrap()[0].clone()
        };
        params.parent = Some(Parent { zoo: "noise".into(), id, states_sha256: "0".repeat(64) });
        zoo.write_model(&staging, &params, &network, &[line], &[state]).unwrap();
    }
    fs::remove_dir_all(staging).unwrap();
    let of = parent.finished().unwrap();
    let parent = Some(ParentZoo { name: of.name.clone(), fingerprint: String::new() });
    zoo.finish(&ZooRecord { name: name.into(), parent, states: of.models, ..of }).unwrap();
    zoo
}

fn result_lines(zoo: &ZooDir, id: ModelId, change: impl Fn(&mut ResultLine)) {
    let mut lines = zoo.results(id).unwrap();
    lines.iter_mut().for_each(change);
    fs::write(zoo.model(id).join("result.json"), zoo_model::result::to_json_lines(&lines)).unwrap();
}

#[test]
fn a_report_is_the_same_from_a_directory_and_an_archive_on_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    synthetic::write(&path.join("noise"), "noise", 24, 5).unwrap();
    ok(path, "noise -o one.html");
    analyze(path, "1", "noise -o two.html -q").ok();
    pack_zoo(&path.join("noise"), &path.join("noise.tar.gz"), None);
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
    let params = zoo.model(ModelId(9)).join("params.json");
    let hostile = fs::read_to_string(&params).unwrap().replace("tanh", "\\u001b[2J\\n000010: verified");
    fs::write(params, hostile).unwrap();
    let found: Value = serde_json::from_str(&ok(path, "benchmark noise --json --no-trees")).unwrap();
    assert_eq!(found["states_left_out"], 2);
    let skipped = found["skipped"].as_array().unwrap();
    let ids: Vec<&str> = skipped.iter().map(|s| s["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["000003", "000004", "000007", "000008", "000009"]);
    let hostile = skipped[4]["why"].as_str().unwrap();
    assert!(hostile.contains("\\u{1b}[2J 000010: verified"), "{hostile}");
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
    let archive = path.join("noise.tar.gz");
    pack_zoo(&path.join("noise"), &archive, None);
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
    assert!(fails(path, "noise -o -", 2).contains("NAME.html"));
    assert!(Command::new("mkfifo").arg(path.join("pipe")).status().unwrap().success());
    assert!(fails(path, "benchmark pipe", 1).contains("pipe: is neither a regular file nor a folder"));
    assert!(fails(path, "noise small -o r.html", 2).contains("not a twin of `noise`"));
    assert!(fails(path, "benchmark small", 1).contains("use a larger zoo"));
    assert!(fails(path, "nowhere -o r.html", 1).contains("nowhere"));
    assert!(ok(path, "small -o r.html").contains("No benchmarks"));
    synthetic::noise_dataset([1, 28, 28], 10, 20).write(&path.join("data.safetensors")).unwrap();
    assert!(fails(path, "noise -o r.html --data data.safetensors", 2).contains("does not record the dataset file"));
    change_record(&ZooDir::new(path.join("noise")), |record| record.dataset.sha256 = "0".repeat(64));
    assert!(fails(path, "noise -o r.html --data data.safetensors", 2).contains("another dataset file"));
    assert!(fails(path, "benchmark noise small", 2).contains("give one zoo"));
}

#[test]
fn a_zoo_gives_the_same_numbers_from_its_directory_its_archive_and_its_volumes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let zoo = cut_zoo(&path.join("noise"), "noise");
    let twin = twin_zoo(&zoo, &path.join("noise-mine"), "noise-mine");
    pack_zoo(zoo.path(), &path.join("whole/noise.tar.gz"), None);
    pack_zoo(twin.path(), &path.join("whole/noise-mine.tar.gz"), None);
    let volumes = pack_zoo(zoo.path(), &path.join("parts/noise.tar.gz"), Some(1 << 20));
    assert_eq!(volumes.len(), 2);
    let expected: Value = serde_json::from_str(&ok(path, "benchmark noise --json --no-trees")).unwrap();
    assert_eq!(expected["models"], serde_json::json!([16, 3, 4]));
    ok(path, "noise noise-mine -o r0.html --no-trees");
    let report = fs::read_to_string(path.join("r0/report.json")).unwrap();

    fs::create_dir(path.join("moved")).unwrap();
    for (i, volume) in volumes.iter().enumerate() {
        fs::copy(volume, path.join(format!("moved/part-{i}.tar.gz"))).unwrap();
    }
    std::os::unix::fs::symlink("parts/noise.1-of-2.tar.gz", path.join("link.tar.gz")).unwrap();
    for (i, named) in [
        "whole/noise.tar.gz",
        // All volumes, in any order; the path that was given to zoo-pack; one volume beside the other.
        "parts/noise.2-of-2.tar.gz parts/noise.1-of-2.tar.gz",
        "parts/noise.tar.gz",
        "parts/noise.2-of-2.tar.gz",
        "moved/part-1.tar.gz moved/part-0.tar.gz",
        "link.tar.gz",
        // The siblings lie beside one of those that are named.
        "moved/part-0.tar.gz parts/noise.1-of-2.tar.gz",
        "parts/noise.1-of-2.tar.gz moved/part-0.tar.gz",
    ]
    .iter()
    .enumerate()
    {
        let found: Value = serde_json::from_str(&ok(path, &format!("benchmark {named} --json --no-trees"))).unwrap();
        assert_eq!(found, expected, "{named}");
        if i < 2 {
            ok(path, &format!("{named} whole/noise-mine.tar.gz -o again{i}.html --no-trees"));
            assert!(fs::read_to_string(path.join(format!("again{i}/report.json"))).unwrap() == report, "{named}");
        }
    }
    // Without the checksum file too, and not if there are volumes of several packings.
    fs::remove_file(path.join("parts/noise.tar.gz.sha256")).unwrap();
    assert!(ok(path, "benchmark parts/noise.tar.gz --no-trees").contains("16 + 3 + 4 models"));
    fs::write(path.join("parts/noise.3-of-4.tar.gz"), "").unwrap();
    assert!(fails(path, "benchmark parts/noise.tar.gz", 2).contains("found sets of 2 and of 4 volumes"));
    // What is missing is reported.
    let alone = ok(path, "benchmark moved/part-0.tar.gz --no-trees");
    assert!(alone.contains("noise: 1 of 2 volumes missing (noise.2-of-2.tar.gz); what follows is of"), "{alone}");
    let alone = ok(path, "moved/part-1.tar.gz -o alone.html --no-trees");
    assert!(alone.contains("volumes missing (noise.1-of-2.tar.gz)"), "{alone}");
}

#[test]
fn models_that_are_missing_are_listed_whatever_their_ids() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let zoo = cut_zoo(&path.join("noise"), "noise");
    let ids = zoo.ids().unwrap();
    let gone = [ids[0], ids[7], ids[ids.len() - 1]];
    gone.iter().for_each(|id| fs::remove_dir_all(zoo.model(*id)).unwrap());
    let found: Value = serde_json::from_str(&ok(path, "benchmark noise --json --no-trees")).unwrap();
    let skipped: Vec<String> =
        found["skipped"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(skipped, gone.map(|id| id.to_string()));
    // Without a list of the files, only the number of missing models is known.
    fs::remove_file(path.join("noise/SHA256SUMS")).unwrap();
    let text = ok(path, "benchmark noise --no-trees");
    assert!(text.contains("zoo.json records 23 models, found 20") && text.contains("0 models skipped"), "{text}");
}

#[test]
fn a_report_is_never_written_into_a_zoo_or_over_anything_but_a_report() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let zoo = synthetic::write(&path.join("zoos/noise"), "noise", 2, 2).unwrap();
    // Unfinished, as left by zoo-train and by another program.
    fs::create_dir_all(path.join("zoos/trained/.training")).unwrap();
    fs::write(path.join("zoos/trained/.training/run.json"), "{}").unwrap();
    fs::create_dir_all(path.join("zoos/other/models/000007")).unwrap();
    fs::create_dir_all(path.join("mine/notes")).unwrap();
    fs::write(path.join("mine/accuracy.svg"), "<svg/>").unwrap();
    fs::write(path.join("page.html"), "<!doctype html>").unwrap();
    fs::write(path.join("file"), "").unwrap();
    std::os::unix::fs::symlink("zoos/noise", path.join("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", path.join("dangling")).unwrap();
    let before = files(path);
    for output in [
        "zoos/noise",
        "zoos/noise.html",
        "zoos/noise/r.html",
        "zoos/noise/models/new/r.html",
        "zoos/../zoos/./noise.html",
        "new/../zoos/noise/r.html",
        "link.html",
        "link/r.html",
        "zoos/trained.html",
        "zoos/trained/r",
        "zoos/other/r.html",
        "zoos.html",
        "mine.html",
        "page.html",
        "file.html",
        "dangling.html",
        "..",
    ] {
        let message = fails(path, &format!("zoos/noise -o {output}"), 2);
        assert!(output == ".." || message.contains("choose another --output"), "{output}: {message}");
        assert!(files(path) == before, "{output}");
    }
    // It is refused before anything is read.
    assert!(fails(path, "nowhere -o page.html", 2).contains("page.html exists"));

    fs::create_dir(path.join("empty")).unwrap();
    for output in ["new/r.html", "empty.html", "zoos/../r", "models.html"] {
        ok(path, &format!("zoos/noise -o {output}"));
    }
    // An earlier report is replaced, with figures that it no longer has; what others laid beside stays.
    fs::write(path.join("new/r/twins.svg"), "<svg/>").unwrap();
    fs::write(path.join("new/r/notes.txt"), "mine").unwrap();
    fs::remove_file(path.join("new/r.html")).unwrap();
    ok(path, "zoos/noise -o new/r.html");
    ok(path, "zoos/noise -o new/r.html");
    assert!(path.join("new/r/notes.txt").exists() && !path.join("new/r/twins.svg").exists());
    assert_eq!(zoo.checksums().unwrap().unwrap().len(), 7);
    assert_eq!(files(zoo.path()).len(), 8);
}

/// A zoo of noise that was trained on the dataset beside it, in `data.safetensors`.
fn zoo_on_noise(path: &Path, models: u32) -> (ZooDir, Dataset) {
    let data = path.join("data.safetensors");
    synthetic::noise_dataset([1, 28, 28], 10, 30).write(&data).unwrap();
    let data = Dataset::read(&data).unwrap();
    let zoo = synthetic::write(&path.join("noise"), "noise", models, 3).unwrap();
    change_record(&zoo, |record| record.dataset = DatasetRecord::new(&data));
    (zoo, data)
}

#[test]
fn zoos_without_metrics_are_analysed_by_their_weights_or_evaluated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let (zoo, _) = zoo_on_noise(path, 24);
    let twin = twin_zoo(&zoo, &path.join("noise-mine"), "noise-mine");
    let report = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(path.join(name).join("report.json")).unwrap()).unwrap()
    };
    // Alone and beside its parents, first without the dataset.
    let text = ok(path, "benchmark noise-mine --no-trees");
    assert!(text.contains("test accuracy was not predicted: 24 of 24 states have no test accuracy"), "{text}");
    assert!(text.contains("generalisation gap was not predicted") && text.contains("0 states left out"), "{text}");
    let text = ok(path, "noise-mine -o alone.html --no-trees");
    assert!(text.contains("24 of 24 states have no test accuracy") && text.contains("--data evaluates them"), "{text}");
    let alone = report("alone");
    assert_eq!(alone["diversity"]["weights"]["models"], 24);
    assert_eq!(alone["diversity"]["map"]["places"][0]["accuracy"], Value::Null);
    assert!(!alone["diversity"]["shared"].as_array().unwrap().is_empty());
    let svg = fs::read_to_string(path.join("alone/map.svg")).unwrap();
    assert!(!path.join("alone/accuracy.svg").exists() && !svg.contains(">accuracy<"));
    ok(path, "noise noise-mine -o beside.html --no-trees");
    let beside = report("beside")["diversity"]["twins"][0].clone();
    assert_eq!((&beside["sparsity"]["mean"], &beside["accuracy"]), (&Value::from(0.5), &Value::Null));

    // With it, its states are evaluated: the numbers are those of an evaluation by hand.
    let text = ok(path, "noise-mine -o alone.html --no-trees --data data.safetensors");
    assert!(text.contains("24 states had no metrics"), "{text}");
    let epochs = report("alone")["diversity"]["epochs"].clone();
    let mean = epochs[0][1]["accuracy"]["mean"].as_f64().unwrap();
    let by_hand = evaluate_by_hand(&twin, path);
    assert!((mean - by_hand.iter().sum::<f64>() / 24.0).abs() < 1e-12, "{mean}");
    assert!(epochs[0][1]["gap"]["mean"].as_f64() == Some(0.0), "the splits of noise are equal");
    assert!(path.join("alone/accuracy.svg").exists());
    ok(path, "noise noise-mine -o beside.html --no-trees --data data.safetensors");
    let beside = report("beside")["diversity"]["twins"][0].clone();
    assert_eq!(beside["accuracy"]["mean"].as_f64(), Some(mean));
    assert!(beside["agreement"]["count"] == 24 && beside["accuracy_change"]["count"] == 24, "{beside}");
    // Archives of them too.
    pack_zoo(twin.path(), &path.join("archives/noise-mine.tar.gz"), None);
    ok(path, "archives/noise-mine.tar.gz -o packed.html --no-trees --data data.safetensors");
    assert_eq!(report("packed"), report("alone"));
}

fn evaluate_by_hand(zoo: &ZooDir, path: &Path) -> Vec<f64> {
    let data = Dataset::read(&path.join("data.safetensors")).unwrap();
    let accuracy = |id| {
        let params = zoo.params(id).unwrap();
        let network = params.network().unwrap();
        let (_, initial) = states::StatesFile::open(&zoo.states(id), &network).unwrap().last().unwrap();
        let hyperparameters = params.hyperparameters;
        let task = zoo_engine::Task::from_state(network, hyperparameters, initial);
        let engine = zoo_train::registry::on_processor(Some("dfdx"), &task.spec()).unwrap();
        let mut cohort = engine.start(&[task], &data, None).unwrap();
        cohort.evaluate(zoo_model::Split::Test, &Default::default()).unwrap()[0].score.unwrap().accuracy
    };
    zoo.ids().unwrap().into_iter().map(accuracy).collect()
}

#[test]
fn metrics_that_are_null_in_part_leave_out_what_needs_them_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let benchmark = |args: &str| -> Value {
        serde_json::from_str(&ok(path, &format!("benchmark {args} --json --no-trees"))).unwrap()
    };
    let properties = |found: &Value| {
        let scores = found["scores"].as_array().unwrap();
        scores.iter().map(|s| s["property"].as_str().unwrap().to_owned()).collect::<BTreeSet<String>>()
    };
    // Training accuracies alone are null: but for the gap, all is as with them.
    let (zoo, _) = zoo_on_noise(path, 24);
    let whole = benchmark("noise");
    zoo.ids().unwrap().into_iter().for_each(|id| result_lines(&zoo, id, |line| line.train_acc = None));
    let found = benchmark("noise");
    assert!(found["notes"][0].as_str().unwrap().starts_with("generalisation gap was not predicted: 72 of 72"));
    assert_eq!(found["scores"], whole["scores"]);
    assert!(properties(&found).contains("test accuracy") && found["states_left_out"] == 0);
    let text = ok(path, "noise -o r.html --no-trees --data data.safetensors");
    assert!(text.contains("72 states had no metrics") && path.join("r/gap.svg").exists(), "{text}");

    // Of some states: these are left out, as if they were not there.
    let some = [ModelId(3), ModelId(11)];
    some.iter().for_each(|id| result_lines(&zoo, *id, |line| line.test_acc = None));
    let found = benchmark("noise");
    assert!(found["states_left_out"] == 6 && properties(&found).contains("test accuracy"), "{found}");
    for id in some {
        change_states(&zoo, id, |states| states.iter_mut().for_each(|state| state.fill(f32::NAN)));
    }
    assert_eq!(benchmark("noise")["scores"], found["scores"]);
    let text = ok(path, "noise -o r.html --no-trees");
    assert!(text.contains("6 of 72 states have no test accuracy"), "{text}");
}
