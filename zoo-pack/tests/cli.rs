//! The real binary, and what other programs make of its archives.

use std::fs;
use std::path::Path;

use zoo_model::synthetic;
use zoo_test::program::shell_command;
use zoo_test::{shell, Outcome, Program};

const PROGRAM: Program = Program::new(env!("CARGO_BIN_EXE_zoo-pack"));

#[track_caller]
fn ok(args: &[&str], dir: &Path) -> String {
    PROGRAM.ok(dir, args)
}

#[track_caller]
fn fails(args: &[&str], dir: &Path, code: i32) -> String {
    PROGRAM.fails(dir, args, code)
}

#[test]
fn the_archive_is_the_same_on_any_number_of_threads_and_opens_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    synthetic::write(&dir.path().join("a zoo"), "noise", 5, 51).unwrap();
    ok(&["a zoo", "-o", "one.tar.gz", "--threads", "1"], dir.path());
    ok(&["a zoo", "-o", "two.tar.gz", "--threads", "2"], dir.path());
    assert!(fs::read(dir.path().join("one.tar.gz")).unwrap() == fs::read(dir.path().join("two.tar.gz")).unwrap());
    shell("sha256sum -c one.tar.gz.sha256 && gunzip -t one.tar.gz && tar xzf one.tar.gz", dir.path());
    shell("cd noise && sha256sum -c --quiet SHA256SUMS && cmp zoo.json '../a zoo/zoo.json'", dir.path());
}

#[test]
fn an_archive_is_redone_only_when_something_changed() {
    let dir = tempfile::tempdir().unwrap();
    let zoo = synthetic::write(&dir.path().join("noise"), "noise", 3, 5).unwrap();
    let pack = |more: &[&str]| ok(&[&["noise", "-o", "n.tar.gz"], more].concat(), dir.path());
    assert!(pack(&[]).contains("packed"));
    assert!(pack(&[]).contains("up to date"));
    assert!(pack(&["--level", "0"]).contains("packed"));
    assert!(pack(&["--level", "0"]).contains("up to date"));
    let mut record = zoo.finished().unwrap();
    record.description = "Other words.".into();
    zoo.finish(&record).unwrap();
    assert!(pack(&["--level", "0"]).contains("packed"));
}

#[test]
fn what_is_no_archive_of_the_same_zoo_is_replaced_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    synthetic::write(&dir.path().join("noise"), "noise", 8, 51).unwrap();
    let other = synthetic::write(&dir.path().join("other"), "other", 8, 51).unwrap();
    let mut record = other.finished().unwrap();
    record.fingerprint = "of other inputs".into();
    other.finish(&record).unwrap();
    let refused = |expected: &str| {
        let before: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
        let message = fails(&["noise", "-o", "n.tar.gz"], dir.path(), 2);
        assert!(message.contains(expected) && message.contains("--force"), "{message}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>(), before);
    };
    shell("tar czf backup.tar.gz noise/zoo.json", dir.path());
    let backup = fs::read(dir.path().join("backup.tar.gz")).unwrap();
    for foreign in [&b"notes"[..], b"", &backup] {
        fs::write(dir.path().join("n.tar.gz"), foreign).unwrap();
        refused("n.tar.gz already exists and is not a zoo archive");
        assert_eq!(fs::read(dir.path().join("n.tar.gz")).unwrap(), foreign);
    }
    ok(&["noise", "-o", "n.tar.gz", "--force"], dir.path());

    ok(&["other", "-o", "n.tar.gz", "--force"], dir.path());
    refused("n.tar.gz holds the zoo `other`, which was built from different inputs");
    ok(&["other", "-o", "n.tar.gz", "--volume-size", "2MB"], dir.path());
    refused("holds the zoo `other`, which was built from different inputs");
    ok(&["noise", "-o", "n.tar.gz", "--force"], dir.path());
}

#[test]
fn no_archive_is_written_into_a_zoo() {
    let dir = tempfile::tempdir().unwrap();
    synthetic::write(&dir.path().join("noise"), "noise", 3, 5).unwrap();
    for output in ["noise/n.tar.gz", "noise/models/n.tar.gz", "noise/new/../n.tar.gz"] {
        let message = fails(&["noise", "-o", output], dir.path(), 2);
        assert!(message.contains("would be written into the zoo"), "{message}");
    }
    assert_eq!(fs::read_dir(dir.path().join("noise")).unwrap().count(), 3);
}

#[test]
fn volumes_unpack_into_the_whole_zoo() {
    let dir = tempfile::tempdir().unwrap();
    synthetic::write(&dir.path().join("noise"), "noise", 8, 51).unwrap();
    ok(&["noise", "-o", "v.tar.gz"], dir.path());
    ok(&["noise", "-o", "v.tar.gz", "--volume-size", "2MB"], dir.path());
    assert!(!dir.path().join("v.tar.gz").exists(), "the single archive is replaced by its volumes");
    let volumes =
        fs::read_dir(dir.path()).unwrap().flatten().filter(|e| e.file_name().to_string_lossy().contains("-of-"));
    let sizes: Vec<u64> = volumes.map(|v| v.metadata().unwrap().len()).collect();
    assert!(sizes.len() >= 2 && sizes.iter().all(|&s| s <= 2_000_000), "{sizes:?}");
    shell("sha256sum -c v.tar.gz.sha256; mkdir u; for v in v.*-of-*.tar.gz; do tar xzf $v -C u; done", dir.path());
    shell("cd u/noise && sha256sum -c --quiet SHA256SUMS && diff -r models ../../noise/models", dir.path());
    assert!(ok(&["noise", "-o", "v.tar.gz", "--volume-size", "2MB"], dir.path()).contains("up to date"));
    ok(&["noise", "-o", "v.tar.gz"], dir.path());
    shell("test -e v.tar.gz && ! ls v.*-of-*", dir.path());
}

#[test]
fn the_checksum_file_names_what_lies_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    synthetic::write(&dir.path().join("noise"), "noise", 1, 2).unwrap();
    ok(&["noise", "-o", "n.tar.gz"], dir.path());
    let archives = || zoo_pack::archives(&dir.path().join("n.tar.gz"));
    shell("sha256sum --tag ./n.tar.gz > n.tar.gz.sha256", dir.path());
    assert_eq!(archives().unwrap(), [dir.path().join("n.tar.gz")]);
    for elsewhere in ["../n.tar.gz", "/etc/passwd", "noise/zoo.json"] {
        fs::write(dir.path().join("n.tar.gz.sha256"), format!("{}  {elsewhere}\n", "0".repeat(64))).unwrap();
        assert!(archives().unwrap_err().to_string().ends_with("which does not lie beside it"), "{elsewhere}");
    }
}

#[test]
fn a_zoo_that_is_not_whole_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let zoo = synthetic::write(&dir.path().join("noise"), "noise", 3, 5).unwrap();
    let refused = |what: &str| {
        let message = fails(&["noise", "-o", "out/n.tar.gz"], dir.path(), 1);
        assert!(message.contains(what), "{message}");
        let left = fs::read_dir(dir.path().join("out")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{what}");
    };
    let states = zoo.states(zoo_model::ModelId(1));
    let sound = fs::read(&states).unwrap();
    let mut rotten = sound.clone();
    rotten[1000] ^= 1;
    fs::write(&states, &rotten).unwrap();
    refused("models/000001/states.safetensors: its SHA-256 is");
    refused("the zoo is damaged: restore the file, or remove noise and make it again");
    fs::remove_file(&states).unwrap();
    refused("models/000001/states.safetensors: is missing; the zoo is damaged: restore the file, or remove noise and make it again");
    fs::write(&states, &sound).unwrap();
    fs::remove_dir_all(zoo.model(zoo_model::ModelId(2))).unwrap();
    refused("records 3 models, found 2");
    fs::remove_file(zoo.record_path()).unwrap();
    refused("not finished");
    fs::write(dir.path().join("file"), "").unwrap();
    // The missing zoo.json comes first.
    fails(&["noise", "-o", "n.zip"], dir.path(), 1);
}

#[test]
fn outputs_that_cannot_be_written_are_named() {
    let dir = tempfile::tempdir().unwrap();
    synthetic::write(&dir.path().join("noise"), "noise", 2, 51).unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(fails(&["noise", "-o", "file/n.tar.gz"], dir.path(), 1).contains("file"));
    assert!(fails(&["noise", "-o", "n.zip"], dir.path(), 2).contains("NAME.tar.gz"));
    // A limit on file size stands in for a full disk: writes fail midway.
    let script = PROGRAM.after("trap '' XFSZ; ulimit -f 200", "noise -o full/n.tar.gz");
    let message = Outcome::of(&mut shell_command(&script, dir.path())).fails(1);
    assert!(message.contains("cannot write full/n.tar.gz"), "{message}");
    assert_eq!(fs::read_dir(dir.path().join("full")).unwrap().count(), 0, "nothing half-written is left");
}

#[test]
fn keys_that_no_column_can_hold_are_refused_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let zoo = synthetic::write(&dir.path().join("noise"), "noise", 3, 2).unwrap();
    shell("rm noise/SHA256SUMS", dir.path());
    let refused = |id: u32, key: &str| {
        let path = zoo.model(zoo_model::ModelId(id)).join("params.json");
        let sound = fs::read_to_string(&path).unwrap();
        fs::write(&path, sound.replacen('{', &format!("{{{key},"), 1)).unwrap();
        let message = fails(&["noise", "-o", "n.tar.gz"], dir.path(), 1);
        fs::write(&path, sound).unwrap();
        message
    };
    let message = refused(1, "\"epoch\": 7");
    assert!(
        message.starts_with("zoo-pack: noise/models/000001/params.json: `epoch` is the name of a column"),
        "{message}"
    );
    let path = zoo.model(zoo_model::ModelId(0)).join("params.json");
    fs::write(&path, fs::read_to_string(&path).unwrap().replacen('{', "{\"x\": \"auto\",", 1)).unwrap();
    let message = refused(2, "\"x\": 3");
    let expected = "noise/models/000002/params.json: `x` is \"auto\" in model 000000, 3 in model 000002, which no column of index.parquet can hold: give it one type in all models";
    assert_eq!(message, format!("zoo-pack: {expected}\n"));
    let message = refused(2, "\"y\": 36893488147419103232");
    assert!(message.contains("000002/params.json: holds the integer 36893488147419103232"), "{message}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was packed");
}

#[test]
fn an_archive_is_not_taken_for_a_zoo_nor_what_file_managers_leave_for_models() {
    let dir = tempfile::tempdir().unwrap();
    synthetic::write(&dir.path().join("noise"), "noise", 1, 2).unwrap();
    assert!(ok(&["noise", "-o", "n.tar.gz"], dir.path()).contains("packed (1 model, "));
    shell("cp n.tar.gz sound; cd noise/models; touch .DS_Store Thumbs.db 000000/._states.safetensors", dir.path());
    shell("mkdir noise/models/__MACOSX noise/.AppleDouble", dir.path());
    assert!(ok(&["noise", "-o", "n.tar.gz"], dir.path()).contains("up to date"));
    let message = fails(&["n.tar.gz", "-o", "m.tar.gz"], dir.path(), 1);
    assert!(message.contains("n.tar.gz: is a file, where the folder of a zoo is expected"), "{message}");
}
