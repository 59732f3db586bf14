//! Neither threads nor shards change a byte, whatever the stage.

use zoo_test::assert_same_files;

use crate::TinyZoo;

#[test]
fn neither_threads_nor_shards_change_a_byte() {
    let work = TinyZoo::new();
    work.prepare();
    let train = "train tiny.toml --data d.safetensors -o";
    work.ok(&format!("{train} one --threads 1"));
    work.ok(&format!("{train} two --threads 2"));
    assert_same_files(&work.path("one"), &work.path("two"));

    // Shards into one directory, and into directories of their own that are merged.
    // The models make two cohorts, so that the third shard has nothing to do.
    for shard in ["3/3", "2/3", "1/3"] {
        assert!(!work.path("shared/zoo.json").exists());
        work.ok(&format!("{train} shared --shard {shard}"));
    }
    assert_same_files(&work.path("one"), &work.path("shared"));
    for shard in [3, 2, 1] {
        work.ok(&format!("{train} part{shard} --shard {shard}/3"));
    }
    let message = work.fails("train merge part3 part2 -o early", 2);
    assert!(message.contains("none of the given directories holds shard 1/3"), "{message}");
    work.ok("train merge part1 part2 part3 -o merged");
    assert_same_files(&work.path("one"), &work.path("merged"));
    for zoo in ["one", "merged"] {
        work.ok(&format!("pack {zoo} -o {zoo}.tar.gz"));
    }
    assert!(work.read("one.tar.gz") == work.read("merged.tar.gz"));
}

#[test]
fn neither_threads_nor_shards_change_a_byte_of_twins() {
    let work = TinyZoo::new();
    work.prepare();
    work.ok("train tiny.toml --data d.safetensors -o one");
    let sparsify = "sparsify tiny.toml --data d.safetensors";
    work.ok(&format!("{sparsify} --zoo one -o twin-one --twin magnitude-80 --threads 1"));
    work.ok(&format!("{sparsify} --zoo one -o twin-two --twin magnitude-80 --shard 1/2"));
    work.ok(&format!("{sparsify} --zoo one -o twin-two --twin magnitude-80 --shard 2/2"));
    assert_same_files(&work.path("twin-one"), &work.path("twin-two"));
    for zoo in ["one", "twin-one", "twin-two"] {
        work.ok(&format!("pack {zoo} -o {zoo}.tar.gz"));
    }
    assert!(work.read("twin-one.tar.gz") == work.read("twin-two.tar.gz"));
    work.ok("verify one.tar.gz --replay 2 --retrain 1 --data d.safetensors");
    work.ok("verify twin-one.tar.gz --parent one --replay 2 --retrain 1 --data d.safetensors");
    work.ok("verify twin-one --parent one.tar.gz");
    assert!(work.fails("verify twin-one --parent twin-two", 3).contains("verification failed"));
}
