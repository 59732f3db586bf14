//! The driver's binary, end to end: from manifest to verified archive, through interruptions.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Six models, one of which diverges, and a twin zoo; a second or two of work.
const MANIFEST: &str = r#"
[zoo]
name = "tiny"
description = "Six models for a test."

[data]
dataset = "digits"
train = 150
val = 40

[model]
architecture = "cnn-s"

[grid]
activation = ["relu", "gelu"]
init = ["kaiming_uniform", "normal"]
dropout = 0.3
optimizer = "sgd"
learning-rate = 0.05
seed = [1, 2]

[train]
epochs = 6
batch-size = 8

[[sparsify]]
method = "magnitude"
sparsity = 0.8
epochs = 2
"#;

struct Workplace {
    dir: tempfile::TempDir,
}

impl Workplace {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("a zoo ").tempdir().unwrap();
        fs::write(dir.path().join("tiny.toml"), MANIFEST).unwrap();
        Self { dir }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn edit(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.path("tiny.toml")).unwrap();
        assert!(text.contains(from), "{from}");
        fs::write(self.path("tiny.toml"), text.replace(from, to)).unwrap();
    }

    fn command(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zoo"));
        command.args(args.split_whitespace()).current_dir(self.dir.path());
        command
    }

    fn zoo(&self, args: &str) -> Output {
        self.command(args).output().unwrap()
    }

    fn ok(&self, args: &str) -> String {
        let output = self.zoo(args);
        assert!(output.status.success(), "zoo {args}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs to a failure with this exit code; what it said.
    fn fails(&self, args: &str, code: i32) -> String {
        let output = self.zoo(args);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "zoo {args}: {message}");
        assert!(!message.contains("panicked"), "{message}");
        message
    }

    fn prepare(&self) {
        self.ok("data tiny.toml -o d.safetensors");
    }
}

/// Every file below a folder, by relative path.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                out.insert(entry.path().strip_prefix(root).unwrap().to_owned(), fs::read(entry.path()).unwrap());
            }
        }
    }
    out
}

#[track_caller]
fn assert_same(a: &Path, b: &Path) {
    let (a, b) = (files(a), files(b));
    assert!(a.keys().eq(b.keys()), "{:?} and {:?}", a.keys(), b.keys());
    for (path, content) in &a {
        assert!(*content == b[path], "{} differs", path.display());
    }
    assert!(a.len() > 20);
}

/// Waits until `ready`, then sends the signal.
fn signal_when(child: &mut Child, signal: &str, ready: impl Fn() -> bool) {
    let started = Instant::now();
    while !ready() && child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < Duration::from_secs(60), "the program never got so far");
        std::thread::sleep(Duration::from_millis(2));
    }
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success() || child.try_wait().unwrap().is_some());
}

#[test]
fn neither_threads_nor_shards_nor_kills_change_a_byte() {
    let work = Workplace::new();
    work.prepare();
    let train = "train tiny.toml --data d.safetensors -o";
    work.ok(&format!("{train} one --threads 1"));
    work.ok(&format!("{train} two --threads 2"));
    assert_same(&work.path("one"), &work.path("two"));

    // Shards into one directory, and into directories of their own that are merged.
    // The models make two cohorts, so that the third shard has nothing to do.
    for shard in ["3/3", "2/3", "1/3"] {
        assert!(!work.path("shared/zoo.json").exists());
        work.ok(&format!("{train} shared --shard {shard}"));
    }
    assert_same(&work.path("one"), &work.path("shared"));
    for shard in [3, 2, 1] {
        work.ok(&format!("{train} part{shard} --shard {shard}/3"));
    }
    let message = work.fails("train merge part3 part2 -o early", 2);
    assert!(message.contains("no directory given is of shard 1/3"), "{message}");
    work.ok("train merge part1 part2 part3 -o merged");
    assert_same(&work.path("one"), &work.path("merged"));

    // Killed three times, each time with some progress on disk.
    let killed = format!("{train} killed --threads 2 --checkpoint-seconds 0");
    for kill in 0..3u64 {
        let mut child = work.command(&killed).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let checkpoints = work.path("killed/.training");
        signal_when(&mut child, "-KILL", || {
            fs::read_dir(&checkpoints).is_ok_and(|entries| {
                entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with("cohort")).count() > 0
            })
        });
        std::thread::sleep(Duration::from_millis(20 * kill));
        child.wait().unwrap();
        assert!(!work.path("killed/zoo.json").exists(), "killed too late to show anything");
    }
    work.ok(&killed);
    assert_same(&work.path("one"), &work.path("killed"));

    // The same for twins, and for the archives of it all.
    let sparsify = "sparsify tiny.toml --data d.safetensors";
    work.ok(&format!("{sparsify} --zoo one -o twin-one --twin magnitude-80 --threads 1"));
    work.ok(&format!("{sparsify} --zoo killed -o twin-two --twin magnitude-80 --shard 1/2"));
    work.ok(&format!("{sparsify} --zoo killed -o twin-two --twin magnitude-80 --shard 2/2"));
    assert_same(&work.path("twin-one"), &work.path("twin-two"));
    for zoo in ["one", "merged", "killed", "twin-one", "twin-two"] {
        work.ok(&format!("pack {zoo} -o {zoo}.tar.gz"));
    }
    let archive = |name: &str| fs::read(work.path(name)).unwrap();
    assert!(archive("one.tar.gz") == archive("killed.tar.gz") && archive("one.tar.gz") == archive("merged.tar.gz"));
    assert!(archive("twin-one.tar.gz") == archive("twin-two.tar.gz"));
    work.ok("verify one.tar.gz --replay 2 --retrain 1 --data d.safetensors");
    work.ok("verify twin-one.tar.gz --parent one --replay 2 --retrain 1 --data d.safetensors");
    work.ok("verify twin-one --parent one.tar.gz");
    assert!(work.fails("verify twin-one --parent twin-two", 3).contains("verification failed"));

    // A report of the zoo, its twins and its images, from archives as from directories.
    work.ok("analyze one twin-one --data d.safetensors -o report.html --no-trees");
    work.ok("analyze one.tar.gz twin-one.tar.gz --data d.safetensors -o again.html --no-trees");
    for file in ["report.json", "twins.svg", "map.svg", "hyperparameters.svg"] {
        let read = |report: &str| fs::read_to_string(work.path(report).join(file)).unwrap();
        assert!(read("report") == read("again"), "{file} differs");
    }
    let report = fs::read_to_string(work.path("report/report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let diversity = &report["diversity"];
    let twins = &diversity["twins"][0];
    assert!((twins["sparsity"]["mean"].as_f64().unwrap() - 0.8).abs() < 0.01, "{twins}");
    assert_eq!(twins["layers"].as_array().unwrap().len(), 5);
    let behaviour = &diversity["behaviour"];
    assert_eq!(behaviour["cka"].as_array().unwrap().len(), 5, "{behaviour}");
    let shares = [&behaviour["agreement"], &behaviour["cka"][0], &twins["agreement"]];
    assert!(shares.iter().all(|d| (0.0..=1.0 + 1e-6).contains(&d["mean"].as_f64().unwrap())), "{shares:?}");
    let last = diversity["epochs"].as_array().unwrap().last().unwrap();
    assert_eq!(last[0], 6);
    assert!(work.ok("benchmark one --no-trees").contains("test accuracy"));
}

#[test]
fn two_jobs_on_one_shard_leave_one_intact_result() {
    let work = Workplace::new();
    work.prepare();
    let train = "train tiny.toml --data d.safetensors --threads 1 --checkpoint-seconds 0 -o";
    work.ok(&format!("{train} one"));
    // Both the only shard, which finishes the zoo, and a part of it.
    for (shard, parts) in [("1/1", &["twice"][..]), ("1/2", &["part", "other"])] {
        let output = parts[0];
        let start = || {
            let mut command = work.command(&format!("{train} {output} --shard {shard}"));
            command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
        };
        for job in [start(), start(), start()] {
            let output = job.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        if parts.len() > 1 {
            work.ok(&format!("{train} other --shard 2/2"));
            for job in [0, 1].map(|_| {
                let mut merge = work.command("train merge part other -o merged");
                merge.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
            }) {
                let output = job.wait_with_output().unwrap();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
        }
    }
    assert_same(&work.path("one"), &work.path("twice"));
    assert_same(&work.path("one"), &work.path("merged"));
}

#[test]
fn merge_names_what_is_missing_and_what_differs() {
    let work = Workplace::new();
    work.prepare();
    let train = "train tiny.toml --data d.safetensors";
    work.ok(&format!("{train} -o part1 --shard 1/2"));
    work.edit("epochs = 6", "epochs = 5");
    work.ok(&format!("{train} -o shorter --shard 2/2"));
    let message = work.fails("train merge part1 shorter -o z", 2);
    assert!(message.contains("`manifest.train.epochs` (6 and 5)"), "{message}");
    let message = work.fails(&format!("{train} -o part1 --shard 1/2"), 2);
    assert!(message.contains("`manifest.train.epochs` (6 and 5)") && message.contains("--force"), "{message}");
    work.edit("epochs = 5", "epochs = 6");

    work.ok(&format!("{train} -o dfdx --shard 2/2 --engine dfdx"));
    let message = work.fails("train merge part1 dfdx -o z", 2);
    assert!(message.contains("`engine.name` (\"population\" and \"dfdx\")"), "{message}");

    work.edit("val = 40", "val = 30");
    work.ok("data tiny.toml -o other.safetensors");
    work.ok("train tiny.toml --data other.safetensors -o other --shard 2/2");
    let message = work.fails("train merge part1 other -o z", 2);
    assert!(message.contains("`dataset.sha256`"), "{message}");
    work.edit("val = 30", "val = 40");

    work.ok(&format!("{train} -o part2 --shard 2/2"));
    let gone = fs::read_dir(work.path("part2/models")).unwrap().next().unwrap().unwrap().path();
    fs::remove_dir_all(&gone).unwrap();
    let message = work.fails("train merge part1 part2 -o z", 2);
    let id = gone.file_name().unwrap().to_str().unwrap();
    assert!(message.contains(&format!("shard 2/2 in part2 lacks 1 ({id})")), "{message}");
    assert!(!work.path("z/zoo.json").exists());
    work.ok(&format!("{train} -o part2 --shard 2/2"));
    work.ok("train merge part1 part2 -o z");
    work.ok("pack z -o z.tar.gz");
}

#[test]
fn an_interrupt_keeps_the_work_and_exits_with_130() {
    let work = Workplace::new();
    work.prepare();
    work.edit("epochs = 6", "epochs = 40");
    let train = "train tiny.toml --data d.safetensors -o z --threads 1";
    let mut child = work.command(train).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    signal_when(&mut child, "-INT", || work.path("z/models/000000").exists());
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{message}");
    assert!(message.contains("the same command resumes"), "{message}");
    let status = work.path("z/.training/run.json");
    assert!(status.exists() && !work.path("z/zoo.json").exists());
    work.ok(train);
    assert!(work.path("z/zoo.json").exists() && !status.exists());
}

#[test]
fn diverged_models_are_marked_and_every_stage_copes() {
    let work = Workplace::new();
    work.ok("run tiny.toml");
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(work.path("zoos/tiny/zoo.json")).unwrap()).unwrap();
    let diverged = record["diverged"].as_u64().unwrap();
    assert!(diverged > 0 && diverged < 8, "the manifest is made so that some models diverge: {diverged}");
    let all = files(&work.path("zoos/tiny"));
    let results = all.iter().filter(|(path, _)| path.ends_with("result.json"));
    let lines: Vec<String> = results.map(|(_, text)| String::from_utf8(text.clone()).unwrap()).collect();
    assert_eq!(lines.iter().filter(|l| l.contains("\"diverged\":true")).count() as u64, diverged);
    assert!(lines.iter().any(|l| l.contains("\"test_loss\":null")));
    work.ok("verify zoos/tiny zoos/tiny-magnitude-80 --replay 8 --data data/tiny.safetensors");
    work.ok("verify archives/tiny.tar.gz archives/tiny-magnitude-80.tar.gz");
}

#[test]
fn a_run_does_only_what_its_inputs_changed() {
    let work = Workplace::new();
    let steps = |args: &str| -> Vec<(String, bool)> {
        let summary: serde_json::Value = serde_json::from_str(&work.ok(args)).unwrap();
        let step =
            |s: &serde_json::Value| (s["stage"].as_str().unwrap().to_owned(), s["up_to_date"].as_bool().unwrap());
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
    work.edit("Six models for a test.", "Six models, described anew.");
    let status = work.ok("status tiny.toml --models 2 --epochs 1");
    let stale: Vec<&str> = status.lines().filter(|l| l.contains("stale")).collect();
    assert!(stale.len() == 1 && stale[0].starts_with("pack") && stale[0].ends_with("tiny.tar.gz"), "{status}");
    assert_eq!(done(run), [false, false, false, true, false], "words change the archive, not the models");
    assert_eq!(states(), trained_at);
    work.edit("sparsity = 0.8", "sparsity = 0.8\nscope = \"layer\"");
    assert_eq!(done(run), [false, false, true, false, true]);
    work.edit("learning-rate = 0.05", "learning-rate = 0.01");
    assert_eq!(done(run), [false, true, true, true, true]);
    work.edit("train = 150", "train = 140");
    assert_eq!(done(run), [true; 5]);
    assert!(work.ok("status tiny.toml").contains("stale"), "the whole zoo is another one than its cut");
}

#[test]
fn a_cut_does_not_replace_a_finished_zoo() {
    let work = Workplace::new();
    work.ok("run tiny.toml --models 2 --epochs 1");
    let before = files(&work.path("zoos/tiny"));
    for other in ["--models 3 --epochs 1", "--models 2", "--epochs 1"] {
        let message = work.fails(&format!("run tiny.toml {other}"), 2);
        assert!(message.contains("zoos/tiny is finished") && message.contains("--force"), "{message}");
    }
    assert!(files(&work.path("zoos/tiny")) == before);
    work.ok("run tiny.toml --models 1 --epochs 1 --force");
    work.ok("run tiny.toml");
    assert!(work.fails("run tiny.toml --models 2 --epochs 1", 2).contains("zoos/tiny is finished"));
    work.ok("run tiny.toml");
}

#[test]
fn two_manifests_of_one_zoo_are_refused() {
    let work = Workplace::new();
    fs::copy(work.path("tiny.toml"), work.path("copy.toml")).unwrap();
    for command in ["run", "status", "plan"] {
        let message = work.fails(&format!("{command} tiny.toml copy.toml"), 2);
        assert!(message.contains("tiny.toml and copy.toml both make the zoo `tiny`"), "{message}");
    }
}

#[test]
fn damage_is_told_with_its_remedy() {
    let work = Workplace::new();
    let run = "run tiny.toml --models 2 --epochs 1";
    work.ok(run);
    let sound = files(&work.path("zoos/tiny"));
    fs::write(work.path("zoos/tiny/models/.DS_Store"), "x").unwrap();
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
    let summary: serde_json::Value = serde_json::from_str(&work.ok(&format!("{run} --json"))).unwrap();
    let remade: Vec<bool> = summary["steps"].as_array().unwrap().iter().map(|s| s["up_to_date"] == false).collect();
    assert_eq!(remade[..5], [true, false, false, false, false]);
}

#[test]
fn a_plan_counts_without_training() {
    let work = Workplace::new();
    let plan: serde_json::Value = serde_json::from_str(&work.ok("plan tiny.toml --json")).unwrap();
    let zoo = &plan["zoos"][0];
    assert_eq!((&zoo["models"], &zoo["states"], &zoo["twin_states"]), (&8.into(), &56.into(), &24.into()));
    assert_eq!((&zoo["parameters"], &plan["total"]["zoos"]), (&2464.into(), &1.into()));
    assert!(zoo["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(fs::read_dir(work.dir.path()).unwrap().count(), 1, "a plan makes nothing");
    work.ok("run tiny.toml -q");
    let bytes: u64 = ["tiny", "tiny-magnitude-80"]
        .iter()
        .flat_map(|zoo| files(&work.path("zoos").join(zoo)))
        .filter(|(path, _)| path.ends_with("states.safetensors"))
        .map(|(_, content)| content.len() as u64)
        .sum();
    assert_eq!(zoo["bytes"], bytes);
}

#[test]
fn mistakes_get_one_sentence_and_their_exit_code() {
    let mistake = |from: &str, to: &str, expected: &str| {
        let work = Workplace::new();
        work.edit(from, to);
        let message = work.fails("run tiny.toml", 2);
        assert!(message.contains(expected), "{to}: {message}");
        assert_eq!(message.trim().lines().count(), 1, "{message}");
        assert_eq!(fs::read_dir(work.dir.path()).unwrap().count(), 1, "nothing is made");
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

    let work = Workplace::new();
    assert!(work.fails("run no-such.toml", 2).contains("no-such.toml: cannot read the manifest"));
    assert!(work.fails("run", 2).contains("MANIFEST"));
    assert!(work.fails("train tiny.toml --data none.safetensors -o z", 1).contains("cannot read none.safetensors"));
    fs::write(work.path("bad.safetensors"), b"not a dataset").unwrap();
    assert!(work.fails("train tiny.toml --data bad.safetensors -o z", 1).contains("bad.safetensors"));
    work.prepare();
    let sound = fs::read(work.path("d.safetensors")).unwrap();
    fs::write(work.path("cut.safetensors"), &sound[..sound.len() / 2]).unwrap();
    assert!(work.fails("train tiny.toml --data cut.safetensors -o z", 1).contains("truncated or damaged"));
    assert!(work.fails("train tiny.toml --data d.safetensors -o z --shard 4/3", 2).contains("a shard is I/N"));
    assert!(work.fails("sparsify tiny.toml --zoo none --data d.safetensors -o t", 1).contains("none: does not exist"));
    fs::write(work.path("file"), "").unwrap();
    assert!(work.fails("train tiny.toml --data d.safetensors -o file/z", 1).contains("file/z"));
    assert!(work.fails("train tiny.toml --data . -o z", 1).contains("is a folder"));
    assert!(work.fails("train tiny.toml --data file -o z", 1).contains("too short for a safetensors file"));
    work.ok("train tiny.toml --data d.safetensors -o whole --models 1 --epochs 1");
    let twin = "sparsify tiny.toml --zoo whole --data d.safetensors -o whole-magnitude-70";
    assert!(work.fails(twin, 2).contains("Name one with --twin: magnitude-80"));
    fs::create_dir(work.path("occupied")).unwrap();
    fs::write(work.path("occupied/thesis.tex"), "").unwrap();
    assert!(work
        .fails("train tiny.toml --data d.safetensors -o occupied --force", 1)
        .contains("not empty and not a zoo"));
    assert!(work.path("occupied/thesis.tex").exists());
}

#[test]
fn an_output_of_another_manifest_is_kept_unless_forced() {
    let work = Workplace::new();
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
fn a_disk_that_fills_up_is_named_and_costs_nothing() {
    let work = Workplace::new();
    work.prepare();
    let train = "train tiny.toml --data d.safetensors -o z --models 2 --epochs 2";
    // A limit on file size stands in for a full disk: writes fail midway.
    let script = format!("trap '' XFSZ; ulimit -f 20; exec '{}' {train}", env!("CARGO_BIN_EXE_zoo"));
    let output = Command::new("bash").args(["-c", &script]).current_dir(work.dir.path()).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("cannot write") && message.contains("states.safetensors"), "{message}");
    work.ok(train);
    work.ok("verify z --retrain 2 --data d.safetensors");
}

#[test]
fn every_command_has_help_and_completions() {
    let work = Workplace::new();
    for command in ["", "run", "plan", "status", "data", "train", "sparsify", "pack", "verify"] {
        assert!(work.ok(&format!("{command} --help")).contains("Usage"), "{command}");
    }
    assert!(work.ok("--help").contains("Examples"));
    assert!(work.ok("--completions bash").contains("complete"));
    let piped = |to: &str| {
        let script = format!("'{}' --completions bash {to}; echo ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_zoo"));
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (String::from_utf8_lossy(&output.stdout).trim().to_owned(), said)
    };
    let (code, said) = piped("| true");
    assert!(code == "0" && said.is_empty(), "{code} {said}");
    let (code, said) = piped("> /dev/full");
    assert!(code == "1" && said.contains("cannot write to standard output") && !said.contains("panicked"), "{said}");
}
