//! Shards and their merging.

use std::fs;

use crate::TinyZoo;

#[test]
fn merge_names_what_is_missing_and_what_differs() {
    let work = TinyZoo::new();
    work.prepare();
    let train = "train tiny.toml --data d.safetensors";
    work.ok(&format!("{train} -o part1 --shard 1/2"));
    work.edit("epochs = 6", "epochs = 5");
    work.ok(&format!("{train} -o shorter --shard 2/2"));
    let message = work.fails("train merge part1 shorter -o z", 2);
    assert!(message.contains("`manifest.train.epochs` (6 and 5)"), "{message}");
    // Nor does merging replace what another zoo's shard has made.
    let message = work.fails("train merge part1 -o shorter", 2);
    assert!(message.contains("shorter holds a zoo that was built from different inputs"), "{message}");
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
