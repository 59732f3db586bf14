//! Whatever ends a run, the same command resumes it, and its bytes are the same.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use zoo_test::program::{shell_command, signal_when};
use zoo_test::{assert_same_files, files, Outcome};

use crate::{assert_untouched, has_checkpoint, TinyZoo};

#[test]
fn kills_change_no_byte() {
    let work = TinyZoo::new();
    work.prepare();
    let train = "train tiny.toml --data d.safetensors -o";
    work.ok(&format!("{train} one"));

    // Killed three times, each time with some progress on disk.
    let killed = format!("{train} killed --threads 2 --checkpoint-seconds 0");
    for kill in 0..3u64 {
        let mut child = work.start(&killed);
        signal_when(&mut child, "-KILL", || has_checkpoint(&work.path("killed/.training")));
        thread::sleep(Duration::from_millis(20 * kill));
        child.wait().unwrap();
        assert!(!work.path("killed/zoo.json").exists(), "killed too late to show anything");
    }
    work.ok(&killed);
    assert_same_files(&work.path("one"), &work.path("killed"));
    for zoo in ["one", "killed"] {
        work.ok(&format!("pack {zoo} -o {zoo}.tar.gz"));
    }
    assert!(work.read("one.tar.gz") == work.read("killed.tar.gz"));
}

#[test]
fn an_interrupt_keeps_the_work_and_exits_with_130() {
    let work = TinyZoo::new();
    work.prepare();
    work.edit("epochs = 6", "epochs = 40");
    let train = "train tiny.toml --data d.safetensors -o z --threads 1";
    let mut child = work.start(train);
    signal_when(&mut child, "-INT", || work.path("z/models/000000").exists());
    let message = Outcome::end(child).fails(130);
    assert!(message.contains("rerun the same command to resume"), "{message}");
    let status = work.path("z/.training/run.json");
    assert!(status.exists() && !work.path("z/zoo.json").exists());
    work.ok(train);
    assert!(work.path("z/zoo.json").exists() && !status.exists());
}

#[cfg(unix)]
#[test]
fn ignored_signals_stay_ignored_and_others_end_the_run() {
    let work = TinyZoo::new();
    work.prepare();
    work.edit("epochs = 6", "epochs = 300");
    let train = "train tiny.toml --data d.safetensors --threads 1 -o z";
    let script = work.program().after("trap '' HUP INT", train);
    let mut job = shell_command(&script, work.root()).stderr(Stdio::piped()).spawn().unwrap();
    for signal in ["-HUP", "-INT"] {
        signal_when(&mut job, signal, || work.path("z/.training/run.json").exists());
    }
    thread::sleep(Duration::from_millis(500));
    assert!(job.try_wait().unwrap().is_none(), "an ignored signal ended it");
    signal_when(&mut job, "-TERM", || true);
    Outcome::end(job).fails(130);
    // By default SIGHUP asks to stop, too.
    let mut job = work.start(train);
    signal_when(&mut job, "-HUP", || work.path("z/.training/lock").exists());
    Outcome::end(job).fails(130);
}

#[test]
fn what_was_killed_is_cleared_by_the_next_whole_run() {
    let work = TinyZoo::new();
    work.edit("epochs = 6", "epochs = 60");
    work.ok("run tiny.toml");
    let sound = files(work.root());
    let hidden = || -> Vec<PathBuf> {
        let is_hidden = |path: &PathBuf| path.iter().any(|part| part.to_string_lossy().starts_with('.'));
        files(work.root()).into_keys().filter(is_hidden).collect()
    };
    // In the middle of packing, three times.
    for _ in 0..3 {
        for archive in ["tiny.tar.gz", "tiny.tar.gz.sha256"] {
            fs::remove_file(work.path("archives").join(archive)).unwrap();
        }
        let mut job = work.start("pack zoos/tiny -o archives/tiny.tar.gz --threads 1 --level 9");
        signal_when(&mut job, "-KILL", || !hidden().is_empty());
        job.wait().unwrap();
        work.ok("run tiny.toml");
        assert!(hidden().is_empty(), "{:?}", hidden());
        assert_untouched(&work, &sound);
    }
    // Between a zoo's last two steps, and in a replacement that is being removed.
    fs::create_dir_all(work.path("zoos/tiny/.training")).unwrap();
    work.write("zoos/tiny/.training/run.json", "x");
    work.ok("train tiny.toml --data data/tiny.safetensors -o zoos/tiny");
    assert!(hidden().is_empty(), "{:?}", hidden());
}

#[test]
fn an_unfinished_zoo_is_kept_and_goes_on() {
    let work = TinyZoo::new();
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
fn a_disk_that_fills_up_is_named_and_costs_nothing() {
    let work = TinyZoo::new();
    work.prepare();
    let train = "train tiny.toml --data d.safetensors -o z --models 2 --epochs 2";
    // A limit on file size stands in for a full disk: writes fail midway.
    let message = work.shell(&work.program().after("trap '' XFSZ; ulimit -f 20", train)).fails(1);
    assert!(message.contains("cannot write") && message.contains("states.safetensors"), "{message}");
    work.ok(train);
    work.ok("verify z --retrain 2 --data d.safetensors");
}
