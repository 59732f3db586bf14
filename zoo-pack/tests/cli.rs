//! The real binary, and what other programs make of its archives.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use zoo_model::synthetic;

fn zoo_pack(args: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_zoo-pack")).args(args).current_dir(dir).output().unwrap()
}

fn ok(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn shell(script: &str, dir: &Path) {
    let output = Command::new("bash").args(["-euc", script]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_archive_is_the_same_on_any_number_of_threads_and_opens_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    synthetic::write(&dir.path().join("a zoo"), "noise", 5, 51).unwrap();
    ok(&zoo_pack(&["a zoo", "-o", "one.tar.gz", "--threads", "1"], dir.path()));
    ok(&zoo_pack(&["a zoo", "-o", "two.tar.gz", "--threads", "2"], dir.path()));
    assert!(fs::read(dir.path().join("one.tar.gz")).unwrap() == fs::read(dir.path().join("two.tar.gz")).unwrap());
    shell("sha256sum -c one.tar.gz.sha256 && gunzip -t one.tar.gz && tar xzf one.tar.gz", dir.path());
    shell("cd noise && sha256sum -c --quiet SHA256SUMS && cmp zoo.json '../a zoo/zoo.json'", dir.path());
}

#[test]
fn an_archive_is_redone_only_when_something_changed() {
    let dir = tempfile::tempdir().unwrap();
    let zoo = synthetic::write(&dir.path().join("noise"), "noise", 3, 5).unwrap();
    let pack = |more: &[&str]| ok(&zoo_pack(&[&["noise", "-o", "n.tar.gz"], more].concat(), dir.path()));
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
        let output = zoo_pack(&["noise", "-o", "n.tar.gz"], dir.path());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
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
    ok(&zoo_pack(&["noise", "-o", "n.tar.gz", "--force"], dir.path()));

    ok(&zoo_pack(&["other", "-o", "n.tar.gz", "--force"], dir.path()));
    refused("n.tar.gz holds the zoo `other`, which was built from different inputs");
    ok(&zoo_pack(&["other", "-o", "n.tar.gz", "--volume-size", "2MB"], dir.path()));
    refused("holds the zoo `other`, which was built from different inputs");
    ok(&zoo_pack(&["noise", "-o", "n.tar.gz", "--force"], dir.path()));
}

#[test]
fn no_archive_is_written_into_a_zoo() {
    let dir = tempfile::tempdir().unwrap();
    synthetic::write(&dir.path().join("noise"), "noise", 3, 5).unwrap();
    for output in ["noise/n.tar.gz", "noise/models/n.tar.gz", "noise/new/../n.tar.gz"] {
        let output = zoo_pack(&["noise", "-o", output], dir.path());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains("would be written into the zoo"), "{message}");
    }
    assert_eq!(fs::read_dir(dir.path().join("noise")).unwrap().count(), 3);
}

#[test]
fn volumes_unpack_into_the_whole_zoo() {
    let dir = tempfile::tempdir().unwrap();
    synthetic::write(&dir.path().join("noise"), "noise", 8, 51).unwrap();
    ok(&zoo_pack(&["noise", "-o", "v.tar.gz"], dir.path()));
    ok(&zoo_pack(&["noise", "-o", "v.tar.gz", "--volume-size", "2MB"], dir.path()));
    assert!(!dir.path().join("v.tar.gz").exists(), "the single archive is replaced by its volumes");
    let volumes =
        fs::read_dir(dir.path()).unwrap().flatten().filter(|e| e.file_name().to_string_lossy().contains("-of-"));
    let sizes: Vec<u64> = volumes.map(|v| v.metadata().unwrap().len()).collect();
    assert!(sizes.len() >= 2 && sizes.iter().all(|&s| s <= 2_000_000), "{sizes:?}");
    shell("sha256sum -c v.tar.gz.sha256; mkdir u; for v in v.*-of-*.tar.gz; do tar xzf $v -C u; done", dir.path());
    shell("cd u/noise && sha256sum -c --quiet SHA256SUMS && diff -r models ../../noise/models", dir.path());
    assert!(ok(&zoo_pack(&["noise", "-o", "v.tar.gz", "--volume-size", "2MB"], dir.path())).contains("up to date"));
    ok(&zoo_pack(&["noise", "-o", "v.tar.gz"], dir.path()));
    shell("test -e v.tar.gz && ! ls v.*-of-*", dir.path());
}

#[test]
fn the_checksum_file_names_what_lies_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    synthetic::write(&dir.path().join("noise"), "noise", 1, 2).unwrap();
    ok(&zoo_pack(&["noise", "-o", "n.tar.gz"], dir.path()));
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
        let output = zoo_pack(&["noise", "-o", "out/n.tar.gz"], dir.path());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{message}");
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
    let output = zoo_pack(&["noise", "-o", "n.zip"], dir.path());
    assert_eq!(output.status.code(), Some(1), "the missing zoo.json comes first");
}

#[test]
fn outputs_that_cannot_be_written_are_named() {
    let dir = tempfile::tempdir().unwrap();
    synthetic::write(&dir.path().join("noise"), "noise", 2, 51).unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let output = zoo_pack(&["noise", "-o", "file/n.tar.gz"], dir.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("file"));
    let output = zoo_pack(&["noise", "-o", "n.zip"], dir.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("NAME.tar.gz"));
    // A limit on file size stands in for a full disk: writes fail midway.
    let script =
        format!("trap '' XFSZ; ulimit -f 200; exec '{}' noise -o full/n.tar.gz", env!("CARGO_BIN_EXE_zoo-pack"));
    let output = Command::new("bash").args(["-c", &script]).current_dir(dir.path()).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
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
        let output = zoo_pack(&["noise", "-o", "n.tar.gz"], dir.path());
        assert_eq!(output.status.code(), Some(1));
        fs::write(&path, sound).unwrap();
        String::from_utf8(output.stderr).unwrap()
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
    assert!(ok(&zoo_pack(&["noise", "-o", "n.tar.gz"], dir.path())).contains("packed (1 model, "));
    shell("cp n.tar.gz sound; cd noise/models; touch .DS_Store Thumbs.db 000000/._states.safetensors", dir.path());
    shell("mkdir noise/models/__MACOSX noise/.AppleDouble", dir.path());
    assert!(ok(&zoo_pack(&["noise", "-o", "n.tar.gz"], dir.path())).contains("up to date"));
    let output = zoo_pack(&["n.tar.gz", "-o", "m.tar.gz"], dir.path());
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(message.contains("n.tar.gz: is a file, where the folder of a zoo is expected"), "{message}");
}
