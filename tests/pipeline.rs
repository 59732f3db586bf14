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

/// Starts a command whose errors are read later.
fn start(work: &Workplace, args: &str) -> Child {
    work.command(args).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

/// Waits for the end of a job; its exit code and what it said.
fn end(job: Child) -> (i32, String) {
    let output = job.wait_with_output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_second_process_says_that_another_is_at_work() {
    let work = Workplace::new();
    work.prepare();
    work.edit("epochs = 6", "epochs = 200");
    let train = "train tiny.toml --data d.safetensors --threads 1 --checkpoint-seconds 0 -o z";
    for (first, busy, free) in [
        (format!("{train} --shard 1/2"), vec![train.to_owned(), format!("{train} --shard 1/2")], true),
        (train.to_owned(), vec![train.to_owned(), format!("{train} --shard 1/2")], false),
    ] {
        let mut job = start(&work, &first);
        let id = job.id();
        let waited = Instant::now();
        let owner = format!("process {id} on ");
        while !fs::read_to_string(work.path("z/.training/lock")).is_ok_and(|text| text.starts_with(&owner)) {
            assert!(waited.elapsed() < Duration::from_secs(60) && job.try_wait().unwrap().is_none());
            std::thread::sleep(Duration::from_millis(2));
        }
        for second in busy {
            let message = work.fails(&second, 1);
            assert!(message.contains(&format!("another process ({id} on ")), "{message}");
            assert!(message.contains("z is in use by"), "{message}");
        }
        // The other shard is not in its way.
        let mut other = free.then(|| start(&work, &format!("{train} --shard 2/2")));
        if let Some(other) = &mut other {
            std::thread::sleep(Duration::from_millis(300));
            assert!(other.try_wait().unwrap().is_none_or(|status| status.success()));
        }
        for mut job in [Some(job), other].into_iter().flatten() {
            job.kill().unwrap();
            job.wait().unwrap();
        }
    }
    // What was killed blocks nobody.
    work.edit("epochs = 200", "epochs = 3");
    work.ok(&format!("{train} --force"));
    assert_eq!(fs::read_dir(work.path("z")).unwrap().count(), 3, "zoo.json, SHA256SUMS, models");
}

#[test]
fn jobs_without_locks_between_them_leave_one_intact_result() {
    let work = Workplace::new();
    work.prepare();
    let train = "train tiny.toml --data d.safetensors --threads 1 --checkpoint-seconds 0 -o";
    work.ok(&format!("{train} one"));
    // Parts of different divisions overlap, and do not know of each other.
    let jobs: Vec<Child> = ["1/2", "1/3", "2/2", "2/3"]
        .iter()
        .map(|shard| start(&work, &format!("{train} many --shard {shard}")))
        .collect();
    for (code, said) in jobs.into_iter().map(end) {
        assert_eq!(code, 0, "{said}");
    }
    assert_same(&work.path("one"), &work.path("many"));
    // Jobs on one and the same output: one does it, whoever comes too late or too early says so.
    let outcomes: Vec<_> = [0; 3].map(|_| start(&work, &format!("{train} twice"))).into_iter().map(end).collect();
    assert!(outcomes.iter().any(|(code, _)| *code == 0), "{outcomes:?}");
    assert!(outcomes.iter().all(|(code, said)| *code == 0 || *code == 1 && said.contains("twice is in use by")));
    assert_same(&work.path("one"), &work.path("twice"));

    for shard in ["1/2", "2/2"] {
        work.ok(&format!("{train} part{} --shard {shard}", &shard[..1]));
    }
    for (code, said) in [0; 2].map(|_| start(&work, "train merge part1 part2 -o merged")).into_iter().map(end) {
        assert_eq!(code, 0, "{said}");
    }
    assert_same(&work.path("one"), &work.path("merged"));
    // Shards of a whole run wait for each other where all of them need the same.
    let shards = ["1/2", "2/2"].map(|shard| start(&work, &format!("run tiny.toml --shard {shard}")));
    for (code, said) in shards.into_iter().map(end) {
        assert_eq!(code, 0, "{said}");
    }
    work.ok("run tiny.toml");
}

#[test]
fn what_was_killed_is_cleared_by_the_next_whole_run() {
    let work = Workplace::new();
    work.edit("epochs = 6", "epochs = 60");
    work.ok("run tiny.toml");
    let sound = files(work.dir.path());
    let hidden = || -> Vec<PathBuf> {
        let is_hidden = |path: &PathBuf| path.iter().any(|part| part.to_string_lossy().starts_with('.'));
        files(work.dir.path()).into_keys().filter(is_hidden).collect()
    };
    // In the middle of packing, three times.
    for _ in 0..3 {
        for archive in ["tiny.tar.gz", "tiny.tar.gz.sha256"] {
            fs::remove_file(work.path("archives").join(archive)).unwrap();
        }
        let mut job = start(&work, "pack zoos/tiny -o archives/tiny.tar.gz --threads 1 --level 9");
        signal_when(&mut job, "-KILL", || !hidden().is_empty());
        job.wait().unwrap();
        work.ok("run tiny.toml");
        assert!(hidden().is_empty(), "{:?}", hidden());
        assert_untouched(&work, &sound);
    }
    // Between a zoo's last two steps, and in a replacement that is being removed.
    fs::create_dir_all(work.path("zoos/tiny/.training")).unwrap();
    fs::write(work.path("zoos/tiny/.training/run.json"), "x").unwrap();
    work.ok("train tiny.toml --data data/tiny.safetensors -o zoos/tiny");
    assert!(hidden().is_empty(), "{:?}", hidden());
}

#[cfg(unix)]
#[test]
fn ignored_signals_stay_ignored_and_others_end_the_run() {
    let work = Workplace::new();
    work.prepare();
    work.edit("epochs = 6", "epochs = 300");
    let train = "train tiny.toml --data d.safetensors --threads 1 -o z";
    let script = format!("trap '' HUP INT; exec '{}' {train}", env!("CARGO_BIN_EXE_zoo"));
    let mut bash = Command::new("bash");
    let mut job = bash.args(["-c", &script]).current_dir(work.dir.path()).stderr(Stdio::piped()).spawn().unwrap();
    for signal in ["-HUP", "-INT"] {
        signal_when(&mut job, signal, || work.path("z/.training/run.json").exists());
    }
    std::thread::sleep(Duration::from_millis(500));
    assert!(job.try_wait().unwrap().is_none(), "an ignored signal ended it");
    signal_when(&mut job, "-TERM", || true);
    let (code, said) = end(job);
    assert_eq!(code, 130, "{said}");
    // By default SIGHUP asks to stop, too.
    let mut job = start(&work, train);
    signal_when(&mut job, "-HUP", || work.path("z/.training/lock").exists());
    assert_eq!(end(job).0, 130);
}

#[cfg(unix)]
#[test]
fn outputs_honour_the_umask_and_a_finished_root_may_be_read_only() {
    use std::os::unix::fs::PermissionsExt;
    let work = Workplace::new();
    let bash = |script: &str| {
        let output = Command::new("bash").args(["-c", script]).current_dir(work.dir.path()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let zoo = env!("CARGO_BIN_EXE_zoo");
    for (umask, file, folder) in [("002", 0o664, 0o775), ("077", 0o600, 0o700), ("022", 0o644, 0o755)] {
        let _ = fs::remove_dir_all(work.path("root"));
        let (code, said) = bash(&format!("umask {umask}; '{zoo}' run tiny.toml --models 1 --epochs 1 --root root"));
        assert_eq!(code, Some(0), "{said}");
        let mut folders = vec![work.path("root")];
        while let Some(next) = folders.pop() {
            let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&next), folder, "{}", next.display());
            for entry in fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
                match entry.is_dir() {
                    true => folders.push(entry),
                    false => assert_eq!(mode(&entry), file, "{}", entry.display()),
                }
            }
        }
    }
    // As somebody else, who may read all of it and write none: only root can become another user.
    work.ok("run tiny.toml --models 1 --epochs 1");
    let before = files(work.dir.path());
    fs::set_permissions(work.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let run = format!("'{zoo}' run tiny.toml --models 1 --epochs 1 --json");
    let (code, said) = bash(&format!(
        "if [ $(id -u) = 0 ]; then exec setpriv --reuid 65534 --regid 65534 --clear-groups {run}; fi; chmod -R a-w .; {run}; code=$?; chmod -R u+w .; exit $code"
    ));
    assert_eq!(code, Some(0), "{said}");
    assert_untouched(&work, &before);
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
    // Nor does merging replace what another zoo's shard has made.
    let message = work.fails("train merge part1 -o shorter", 2);
    assert!(message.contains("shorter holds another zoo"), "{message}");
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
    let run = &format!("{run} --force");
    work.edit("sparsity = 0.8", "sparsity = 0.8\nscope = \"layer\"");
    assert_eq!(done(run), [false, false, true, false, true]);
    work.edit("learning-rate = 0.05", "learning-rate = 0.01");
    assert_eq!(done(run), [false, true, true, true, true]);
    work.edit("train = 150", "train = 140");
    assert_eq!(done(run), [true; 5]);
    assert!(work.ok("status tiny.toml").contains("stale"), "the whole zoo is another one than its cut");
}

/// Everything below a folder but lock files and what is marked as in the making.
fn assert_untouched(work: &Workplace, before: &BTreeMap<PathBuf, Vec<u8>>) {
    let now = files(work.dir.path());
    assert!(now.keys().eq(before.keys()), "{:?} and {:?}", now.keys(), before.keys());
    let changed: Vec<_> = before.iter().filter(|(path, content)| now[*path] != **content).map(|(p, _)| p).collect();
    assert!(changed.is_empty(), "{changed:?}");
}

#[test]
fn a_run_replaces_no_other_zoo_twin_or_archive_unasked() {
    let work = Workplace::new();
    let run = "run tiny.toml --models 2 --epochs 1";
    work.ok(run);
    let sound = fs::read_to_string(work.path("tiny.toml")).unwrap();
    let before = files(work.dir.path());
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
    fs::write(work.path("other.toml"), sound.replace("\"tiny\"", "\"other\"")).unwrap();
    for (from, to, output, field) in [
        ("learning-rate = 0.05", "learning-rate = 0.01", "zoos/tiny holds", "`manifest.grid.learning-rate`"),
        ("train = 150", "train = 140", "zoos/tiny holds", "`dataset.train` (150 and 140)"),
        ("val = 40", "val = 40\nsplit-seed = 9", "zoos/tiny holds", "`dataset.sha256`"),
        ("sparsity = 0.8", "sparsity = 0.8\nscope = \"layer\"", "zoos/tiny-magnitude-80 holds", "sparsify.scope"),
    ] {
        fs::write(work.path("tiny.toml"), sound.replace(from, to)).unwrap();
        refused("run other.toml tiny.toml --models 2 --epochs 1", &[output, field]);
        fs::write(work.path("tiny.toml"), &sound).unwrap();
    }
    fs::remove_file(work.path("other.toml")).unwrap();
    assert_untouched(&work, &before);

    // An archive of the same zoo is packed anew; one of another zoo, or a stranger's file, is kept.
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
fn an_unfinished_zoo_is_kept_and_goes_on() {
    let work = Workplace::new();
    work.ok("run tiny.toml --shard 1/2");
    let before = files(&work.path("zoos/tiny"));
    for other in ["--models 2", "--epochs 1", "--samples 30"] {
        let message = work.fails(&format!("run tiny.toml {other}"), 2);
        assert!(message.contains("zoos/tiny holds") && message.contains("--force"), "{message}");
    }
    work.edit("epochs = 6", "epochs = 5");
    assert!(work.fails("run tiny.toml", 2).contains("`manifest.train.epochs` (6 and 5)"));
    work.edit("epochs = 5", "epochs = 6");
    assert!(files(&work.path("zoos/tiny")) == before);
    work.ok("run tiny.toml");
}

#[test]
fn a_replaced_zoo_is_there_until_the_new_one_is_whole() {
    let work = Workplace::new();
    work.ok("run tiny.toml --models 2 --epochs 1");
    fs::write(work.path("zoos/tiny/notes.txt"), "mine").unwrap();
    let before = files(&work.path("zoos"));
    work.edit("epochs = 6", "epochs = 40");
    // Half of the new zoo, and then a kill in the middle of the other half.
    let forced = "run tiny.toml --force --threads 1 --checkpoint-seconds 0";
    work.ok(&format!("{forced} --shard 2/2"));
    let mut child = work.command(forced).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let making = work.path("zoos/.tiny.replacement/.training");
    signal_when(&mut child, "-KILL", || {
        fs::read_dir(&making)
            .is_ok_and(|mut all| all.any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with("cohort")))
    });
    child.wait().unwrap();
    let is_visible = |path: &Path| !path.starts_with(".tiny.replacement");
    let mut now = files(&work.path("zoos"));
    now.retain(|path, _| is_visible(path));
    assert!(now == before, "{:?}", now.keys());

    work.ok(forced);
    work.ok("verify archives/tiny.tar.gz --replay 1 --data data/tiny.safetensors");
    assert_eq!(fs::read(work.path("zoos/tiny/notes.txt")).unwrap(), b"mine");
    fs::remove_file(work.path("zoos/tiny/notes.txt")).unwrap();
    assert_eq!(fs::read_dir(work.path("zoos")).unwrap().count(), 2, "nothing hidden stays");
    // To the same bytes as in an empty place.
    work.ok("run tiny.toml --root fresh");
    assert_same(&work.path("zoos"), &work.path("fresh/zoos"));
}

#[test]
fn training_takes_the_described_dataset_alone() {
    let work = Workplace::new();
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
    let record = fs::read_to_string(work.path("z/zoo.json")).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&record).unwrap();
    record["dataset"]["sha256"] = "".into();
    fs::write(work.path("z/zoo.json"), record.to_string()).unwrap();
    let sparsify = "sparsify tiny.toml --zoo z --data d.safetensors -o u --epochs 1";
    assert!(work.fails(sparsify, 2).contains("does not record the dataset file"));
    record["dataset"]["classes"] = 9.into();
    fs::write(work.path("z/zoo.json"), record.to_string()).unwrap();
    assert!(work.fails(&format!("{sparsify} --any-data"), 2).contains("[1, 28, 28] and 9 classes"));

    // A manifest without [data] takes any.
    let text = fs::read_to_string(work.path("tiny.toml")).unwrap();
    let section = text.find("[data]").unwrap()..text.find("[model]").unwrap();
    work.edit(&text[section], "");
    work.ok("train tiny.toml --data d.safetensors -o own --models 1 --epochs 1");
}

#[test]
fn no_stage_writes_into_a_zoo_or_takes_a_file_for_one() {
    let work = Workplace::new();
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
    fs::write(work.path("zoos/tiny"), "x").unwrap();
    for command in ["run tiny.toml", "run tiny.toml --force", "train tiny.toml --data d.safetensors -o zoos/tiny"] {
        assert!(work.fails(command, 1).contains("is a file, where the folder of a zoo is expected"), "{command}");
    }
}

#[test]
fn volumes_are_reported_by_the_files_that_are_there() {
    let work = Workplace::new();
    work.edit("[[sparsify]]", "[pack]\nvolume-size = \"1MiB\"\n\n[[sparsify]]");
    work.edit("epochs = 6", "epochs = 20");
    let outputs = |json: String, list: &str| -> Vec<(String, String)> {
        let answer: serde_json::Value = serde_json::from_str(&json).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        answer[list].as_array().unwrap().iter().map(|o| (text(&o["stage"]), text(&o["output"]))).collect()
    };
    let run = outputs(work.ok("run tiny.toml --json"), "steps");
    let packed = |all: &[(String, String)]| -> Vec<String> {
        all.iter().filter(|(stage, _)| stage == "pack").map(|(_, output)| output.clone()).collect()
    };
    assert!(run.iter().all(|(_, output)| work.path(output).exists()), "{run:?}");
    assert!(packed(&run).len() > 2 && packed(&run)[0].contains("tiny.1-of-"), "{run:?}");
    assert_eq!(packed(&outputs(work.ok("status tiny.toml --json"), "outputs")), packed(&run));
    work.edit("epochs = 20", "epochs = 19");
    assert_eq!(packed(&outputs(work.ok("status tiny.toml --json"), "outputs")), packed(&run), "stale, but there");
}

#[test]
fn status_tells_whose_an_output_is() {
    let work = Workplace::new();
    let text = fs::read_to_string(work.path("tiny.toml")).unwrap();
    fs::write(work.path("other.toml"), text.replace("\"tiny\"", "\"other\"")).unwrap();
    let status: serde_json::Value = serde_json::from_str(&work.ok("status tiny.toml other.toml --json")).unwrap();
    let line =
        |o: &serde_json::Value| ["stage", "manifest", "zoo", "twin"].map(|key| o[key].as_str().map(str::to_owned));
    let lines: Vec<_> = status["outputs"].as_array().unwrap().iter().map(line).collect();
    let mut expected = Vec::new();
    for zoo in ["tiny", "other"] {
        let (manifest, twin) = (format!("{zoo}.toml"), format!("{zoo}-magnitude-80"));
        for (stage, twin) in
            [("data", None), ("train", None), ("sparsify", Some(&twin)), ("pack", None), ("pack", Some(&twin))]
        {
            expected.push([Some(stage.into()), Some(manifest.clone()), Some(zoo.into()), twin.cloned()]);
        }
    }
    assert_eq!(lines, expected);
}

#[test]
fn a_root_is_a_folder() {
    let work = Workplace::new();
    for command in ["run", "status", "plan"] {
        let message = work.fails(&format!("{command} tiny.toml --root tiny.toml"), 2);
        assert!(message.contains("--root tiny.toml is a file, where a folder is expected"), "{message}");
    }
}

#[test]
fn two_manifests_of_one_zoo_or_twin_are_refused() {
    let work = Workplace::new();
    let of_twin = MANIFEST.replace("\"tiny\"", "\"tiny-magnitude-80\"");
    for (copy, name) in [(MANIFEST, "tiny"), (&of_twin, "tiny-magnitude-80")] {
        fs::write(work.path("copy.toml"), copy).unwrap();
        for command in ["run", "run --force", "status", "plan"] {
            let message = work.fails(&format!("{command} tiny.toml copy.toml"), 2);
            let expected = format!("tiny.toml and copy.toml both make the zoo `{name}`");
            assert!(message.contains(&expected), "{message}");
        }
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
    let text = work.ok("plan tiny.toml");
    assert!(text.contains("\n1 zoo ") && text.ends_with("80 states in all\n"), "{text}");
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
    assert!(work.fails(twin, 2).contains("choose one with --twin: magnitude-80"));
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
    let completions = work.ok("--completions bash");
    assert!(completions.contains("complete"));
    for command in ["run", "plan", "status", "data", "data fetch", "train", "sparsify", "pack", "verify", "analyze"] {
        assert!(work.ok(&format!("{command} --completions bash")) == completions, "{command}");
    }
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
