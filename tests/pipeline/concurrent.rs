//! Several processes that use one output.

use std::fs;
use std::process::Child;
use std::thread;
use std::time::Duration;

use zoo_test::program::wait_until;
use zoo_test::{assert_same_files, Outcome};

use crate::TinyZoo;

#[test]
fn a_second_process_says_that_another_is_at_work() {
    let work = TinyZoo::new();
    work.prepare();
    work.edit("epochs = 6", "epochs = 200");
    let train = "train tiny.toml --data d.safetensors --threads 1 --checkpoint-seconds 0 -o z";
    for (first, busy, free) in [
        (format!("{train} --shard 1/2"), vec![train.to_owned(), format!("{train} --shard 1/2")], true),
        (train.to_owned(), vec![train.to_owned(), format!("{train} --shard 1/2")], false),
    ] {
        let mut job = work.start(&first);
        let id = job.id();
        let owner = format!("process {id} on ");
        let is_owner = |text: String| text.starts_with(&owner);
        wait_until(&mut job, || fs::read_to_string(work.path("z/.training/lock")).is_ok_and(is_owner));
        assert!(job.try_wait().unwrap().is_none(), "it ended too early to be in anybody's way");
        for second in busy {
            let message = work.fails(&second, 1);
            assert!(message.contains(&format!("another process ({id} on ")), "{message}");
            assert!(message.contains("z is in use by"), "{message}");
        }
        // The other shard is not in its way.
        let mut other = free.then(|| work.start(&format!("{train} --shard 2/2")));
        if let Some(other) = &mut other {
            thread::sleep(Duration::from_millis(300));
            assert!(other.try_wait().unwrap().is_none_or(|status| status.success()));
        }
        for mut job in [Some(job), other].into_iter().flatten() {
            job.kill().unwrap();
            job.wait().unwrap();
        }
    }
    // A killed process leaves no lock.
    work.edit("epochs = 200", "epochs = 3");
    work.ok(&format!("{train} --force"));
    assert_eq!(fs::read_dir(work.path("z")).unwrap().count(), 3, "zoo.json, SHA256SUMS, models");
}

#[test]
fn jobs_without_locks_between_them_leave_one_intact_result() {
    let work = TinyZoo::new();
    work.prepare();
    let train = "train tiny.toml --data d.safetensors --threads 1 --checkpoint-seconds 0 -o";
    work.ok(&format!("{train} one"));
    // Parts of different divisions overlap, and do not know of each other.
    let jobs: Vec<Child> =
        ["1/2", "1/3", "2/2", "2/3"].iter().map(|shard| work.start(&format!("{train} many --shard {shard}"))).collect();
    for job in jobs {
        Outcome::end(job).ok();
    }
    assert_same_files(&work.path("one"), &work.path("many"));
    // Jobs on one and the same output: one does it, whoever comes too late or too early says so.
    let outcomes: Vec<_> =
        [0; 3].map(|_| work.start(&format!("{train} twice"))).map(Outcome::end).into_iter().collect();
    assert!(outcomes.iter().any(|o| o.code == 0), "{outcomes:?}");
    let late = |o: &Outcome| o.code == 1 && o.stderr.contains("twice is in use by");
    assert!(outcomes.iter().all(|o| o.code == 0 || late(o)), "{outcomes:?}");
    assert_same_files(&work.path("one"), &work.path("twice"));

    for shard in ["1/2", "2/2"] {
        work.ok(&format!("{train} part{} --shard {shard}", &shard[..1]));
    }
    for job in [0; 2].map(|_| work.start("train merge part1 part2 -o merged")) {
        Outcome::end(job).ok();
    }
    assert_same_files(&work.path("one"), &work.path("merged"));
    // Shards of a whole run wait for each other where all of them need the same.
    for job in ["1/2", "2/2"].map(|shard| work.start(&format!("run tiny.toml --shard {shard}"))) {
        Outcome::end(job).ok();
    }
    work.ok("run tiny.toml");
}
