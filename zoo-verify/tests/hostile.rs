//! Damaged and hostile archives and directories: all are found, none is unpacked, and what is
//! wrong is named.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use zoo_model::stage::Stage;
use zoo_model::{synthetic, ModelId, ZooDir};
use zoo_pack::entries::{header, padding};
use zoo_pack::members::{compress, compress_stream, decode, PIECE};
use zoo_pack::{pack, PackOptions};
use zoo_test::program::shell_command;
use zoo_test::{shell, Outcome, Program};
use zoo_verify::{verify, Options, Report};

const PROGRAM: Program = Program::new(env!("CARGO_BIN_EXE_zoo-verify"));

/// Exit code, standard output and standard error.
fn outcome(args: &[&str], dir: &Path) -> (i32, String, String) {
    let Outcome { code, stdout, stderr, .. } = PROGRAM.run(dir, args);
    (code, stdout, stderr)
}

/// A small sound archive; its files, in order; and the directory that it is in.
struct Sound {
    dir: tempfile::TempDir,
    archive: Vec<u8>,
    tar: Vec<u8>,
}

impl Sound {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        synthetic::write(&dir.path().join("noise"), "noise", 3, 4).unwrap();
        let path = dir.path().join("noise.tar.gz");
        pack(&dir.path().join("noise"), &path, &PackOptions::default(), &Stage::silent()).unwrap();
        let archive = fs::read(&path).unwrap();
        let tar = unpacked(&archive).0;
        Self { dir, archive, tar }
    }

    /// The verdict on other bytes under the archive's name, without its checksum file.
    fn verdict(&self, bytes: &[u8]) -> Report {
        self.outcome(bytes).unwrap()
    }

    fn outcome(&self, bytes: &[u8]) -> Result<Report, zoo_verify::VerifyError> {
        let path = self.dir.path().join("other.tar.gz");
        fs::write(&path, bytes).unwrap();
        verify(&path, &Options::default(), &Stage::silent())
    }

    /// The verdict on the archive with its tar stream changed, and well compressed again.
    fn repacked(&self, change: impl FnOnce(&mut Vec<u8>)) -> Report {
        let mut tar = self.tar.clone();
        change(&mut tar);
        self.verdict(&packed(&tar))
    }
}

fn packed(tar: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    compress_stream(&mut out, 1, 1, |p| p.write_all(tar)).unwrap();
    out
}

fn unpacked(archive: &[u8]) -> (Vec<u8>, bool) {
    let (found, _) = decode(archive, 1, |decoded| {
        let mut tar = Vec::new();
        std::io::Read::read_to_end(decoded, &mut tar).unwrap();
        (tar, decoded.damages.is_empty())
    });
    found
}

fn entry(path: &str, content: &[u8]) -> Vec<u8> {
    let mut out = header(path, content.len() as u64).unwrap().as_bytes().to_vec();
    out.extend(content);
    out.resize(out.len() + padding(content.len() as u64), 0);
    out
}

fn raw_header(path: &[u8], kind: tar::EntryType) -> Vec<u8> {
    let mut header = header("noise/x", 0).unwrap();
    header.set_entry_type(kind);
    header.as_mut_bytes()[..100].fill(0);
    header.as_mut_bytes()[..path.len()].copy_from_slice(path);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// Adds entries before the end mark.
fn append(tar: &mut Vec<u8>, entries: &[u8]) {
    let end = tar.len() - 1024;
    tar.splice(end..end, entries.iter().copied());
}

fn assert_fails(report: &Report, entry: &str, message: &str) {
    assert!(!report.ok, "{entry}: {message}: not found");
    let found = report.failures.iter().any(|f| f.entry.contains(entry) && f.message.contains(message));
    assert!(found, "no failure of `{entry}` with `{message}` in:\n{report}");
}

#[test]
fn sound_archives_pass() {
    let sound = Sound::new();
    let path = sound.dir.path().join("noise.tar.gz");
    for path in [path, sound.dir.path().join("noise")] {
        let report = verify(&path, &Options::default(), &Stage::silent()).unwrap();
        assert!(report.ok, "{report}");
        assert_eq!((report.models, report.states), (3, 12));
    }
    assert!(sound.repacked(|_| {}).ok);
    let outcome = PROGRAM.run(sound.dir.path(), "noise.tar.gz --quick --json");
    outcome.ok();
    let json = outcome.json();
    assert_eq!((&json["ok"], &json["reports"][0]["models"]), (&true.into(), &3.into()));
}

#[test]
fn hostile_entries_are_refused_and_nothing_is_written() {
    let sound = Sound::new();
    let before = listing(sound.dir.path());
    for (path, kind, message) in [
        (&b"/tmp/evil"[..], tar::EntryType::Regular, "absolute"),
        (b"noise/../../evil", tar::EntryType::Regular, "contains `..`"),
        (b"noise/link", tar::EntryType::Symlink, "symbolic link"),
        (b"noise/link", tar::EntryType::Link, "hard link"),
        (b"noise/device", tar::EntryType::Block, "device"),
        (b"noise/folder/", tar::EntryType::Directory, "folder"),
        (b"other/zoo.json", tar::EntryType::Regular, "another folder"),
    ] {
        assert_fails(&sound.repacked(|tar| append(tar, &raw_header(path, kind))), "", message);
    }
    let states = "models/000002/states.safetensors";
    let twice = |tar: &mut Vec<u8>| append(tar, &entry(&format!("noise/{states}"), b"x"));
    assert_fails(&sound.repacked(twice), states, "twice");
    let unlisted = |tar: &mut Vec<u8>| append(tar, &entry("noise/models/000003/params.json", b"{}"));
    assert_fails(&sound.repacked(unlisted), "models/000003/params.json", "not listed");
    let program = |tar: &mut Vec<u8>| append(tar, &entry("noise/setup.py", b"evil"));
    assert_fails(&sound.repacked(program), "setup.py", "does not belong to a zoo");
    let mut after: Vec<PathBuf> = listing(sound.dir.path());
    after.retain(|p| !p.ends_with("other.tar.gz"));
    assert_eq!(after, before);
}

fn listing(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn entries_that_lie_about_their_size_are_found() {
    let sound = Sound::new();
    let mut huge = header("noise/models/000003/states.safetensors", 0).unwrap();
    huge.set_size(1 << 40);
    huge.set_cksum();
    let report = sound.repacked(|tar| append(tar, huge.as_bytes()));
    assert_fails(&report, "models/000003", "not listed");
    let mut json = header("noise/zoo.json", 0).unwrap();
    json.set_size(1 << 30);
    json.set_cksum();
    let report = sound.repacked(|tar| *tar = [json.as_bytes().to_vec(), vec![0; 4096]].concat());
    assert_fails(&report, "zoo.json", "the limit is");
}

/// Ten gigabytes of zeros in ten megabytes, posing as a states file: little is read, and with
/// little memory (a limit on data stands over the process).
#[test]
fn a_decompression_bomb_is_refused_in_little_memory() {
    let sound = Sound::new();
    let mut tar = sound.tar.clone();
    tar.truncate(tar.len() - 1024);
    let mut bomb = header("noise/models/000003/states.safetensors", 10 << 30).unwrap();
    bomb.set_cksum();
    tar.extend(bomb.as_bytes());
    tar.resize(tar.len().next_multiple_of(PIECE), 0);
    let mut archive = packed(&tar);
    let zeros = compress(&vec![0; PIECE], 9);
    (0..10 << 10).for_each(|_| archive.extend(&zeros));
    fs::write(sound.dir.path().join("bomb.tar.gz"), &archive).unwrap();
    for flags in ["", "--quick"] {
        let text = limited(&sound, "bomb.tar.gz", flags);
        assert!(text.contains("models/000003/states.safetensors"), "{text}");
    }
}

/// What the program says of a faulty archive, under a limit on its data.
#[track_caller]
fn limited(sound: &Sound, archive: &str, flags: &str) -> String {
    let script = PROGRAM.after("ulimit -d 262144", &format!("{archive} {flags}"));
    let outcome = Outcome::of(&mut shell_command(&script, sound.dir.path()));
    outcome.fails(3);
    outcome.stdout
}

#[test]
fn a_million_faults_are_cut_short_in_little_memory() {
    let sound = Sound::new();
    let mut tar = sound.tar[..sound.tar.len() - 1024].to_vec();
    // Names of models, which nothing lists, and names that no zoo has.
    for i in 0..1_000_000 {
        let name = format!("noise/models/{i:06}/params.json");
        tar.extend(raw_header(
            if i % 2 == 0 { name.as_bytes() } else { &name.as_bytes()[..22] },
            tar::EntryType::Regular,
        ));
    }
    tar.resize(tar.len() + 1024, 0);
    fs::write(sound.dir.path().join("other.tar.gz"), packed(&tar)).unwrap();
    for flags in ["", "--quick", "--json"] {
        let text = limited(&sound, "other.tar.gz", flags);
        assert!(text.contains("the rest was not read"), "{text}");
        assert!(text.len() < 300_000, "{} bytes", text.len());
    }
    let text = limited(&sound, "other.tar.gz", "");
    assert!(text.contains(": and 1") && text.contains(" more failures\n"), "{text}");
    // The same without a list of what should be there.
    fs::write(sound.dir.path().join("other.tar.gz"), packed(&tar[places(&sound.tar)[0].1..])).unwrap();
    limited(&sound, "other.tar.gz", "--quick");
}

#[test]
fn after_an_empty_member_nothing_is_read() {
    let sound = Sound::new();
    let empty = compress(b"", 1);
    let mut damaged = compress(b"more", 1);
    let crc = damaged.len() - 8;
    damaged[crc] ^= 1;
    let fault = "a gzip member's CRC-32 is";
    assert_fails(&sound.verdict(&[&sound.archive[..], &damaged].concat()), "", fault);
    // What follows an empty member is not even looked at.
    for count in [1, 2, 100_000] {
        let report = sound.verdict(&[&sound.archive[..], &empty.repeat(count), &damaged].concat());
        assert_fails(&report, "", "a gzip member is empty: the rest was not read");
        let of_members = report.failures.iter().filter(|f| f.message.contains("gzip member")).count();
        assert!(of_members == 1 && !report.to_string().contains(fault), "{count}: {report}");
    }
}

#[test]
fn untrusted_text_cannot_forge_a_line() {
    let sound = Sound::new();
    let hostile = "\\u001b[2J\\nother.tar.gz: verified";
    let record = format!("{{\"format_version\": 1, \"name\": \"{hostile}\", \"dataset\": {{\"name\": \"x\", \"sha256\": \"\", \"shape\": [1,28,28], \"classes\": 10, \"train\": 0, \"val\": 0, \"test\": 0, \"mean\": [0.5], \"std\": [0.5]}}, \"models\": 0, \"states\": 0, \"parameters\": 0}}");
    let report = sound.verdict(&packed(&[entry("noise/zoo.json", record.as_bytes()), vec![0; 1024]].concat()));
    assert_fails(&report, "zoo.json", "is not a valid zoo name");
    let text = report.to_string();
    assert!(!text.contains('\u{1b}') && text.contains("\\u{1b}[2J\\nother"), "{text}");
    assert!(!text.lines().any(|l| l.starts_with("other.tar.gz: verified")), "{text}");
}

#[test]
fn meaning_is_checked() {
    let sound = Sound::new();
    let changed = |change: &dyn Fn(&ZooDir)| {
        let dir = tempfile::tempdir().unwrap();
        let zoo = synthetic::write(&dir.path().join("noise"), "noise", 2, 3).unwrap();
        change(&zoo);
        let record = zoo.finished().unwrap();
        zoo.finish(&record).unwrap();
        verify(zoo.path(), &Options::default(), &Stage::silent()).unwrap()
    };
    let edit = |file: &'static str, from: &'static str, to: &'static str| {
        changed(&move |zoo| {
            let path = zoo.path().join(file);
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{text}");
            fs::write(&path, text.replace(from, to)).unwrap();
        })
    };
    let params = "models/000001/params.json";
    let result = "models/000001/result.json";
    assert!(changed(&|_| {}).ok);
    assert_fails(&edit(params, "\"000001\"", "\"000007\""), params, "`zoo::id` is 000007");
    assert_fails(
        &edit(params, "\"model::dropout\": 0.0", "\"model::dropout\": 0.5"),
        "states.safetensors",
        "has no tensor",
    );
    assert_fails(&edit(params, "\"model::channels_in\": 1", "\"model::channels_in\": 3"), params, "channels");
    assert_fails(&edit(params, "\"cnn-s\"", "\"mlp-9\""), params, "mlp-9");
    assert_fails(&edit(result, "\"training_iteration\":2", "\"training_iteration\":9"), "states.safetensors", "epochs");
    assert_fails(
        &edit(result, "\"test_loss\":", "\"test_loss\":null,\"x\":"),
        "states.safetensors",
        "not marked diverged",
    );
    assert_fails(&edit("zoo.json", "\"states\": 6", "\"states\": 7"), "zoo.json", "records 7 states, found 6");
    assert_fails(&edit("zoo.json", "\"parameters\": 2464", "\"parameters\": 2465"), params, "2464 parameters");
    let not_finite = changed(&|zoo| {
        let path = zoo.states(ModelId(1));
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.len() - 5000;
        bytes[at / 4 * 4..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
        fs::write(&path, bytes).unwrap();
    });
    assert_fails(&not_finite, "models/000001/states.safetensors", "not finite");
    let cut = changed(&|zoo| {
        let path = zoo.states(ModelId(0));
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
    });
    assert_fails(&cut, "models/000000/states.safetensors", "its header describes");
    let stray = changed(&|zoo| fs::write(zoo.path().join("notes.txt"), "mine").unwrap());
    assert_fails(&stray, "notes.txt", "does not belong to a zoo");
    drop(sound);
}

#[test]
fn an_index_that_says_otherwise_is_found() {
    let dir = tempfile::tempdir().unwrap();
    for (name, models) in [("a", 3), ("b", 2)] {
        synthetic::write(&dir.path().join(name), "noise", models, 4).unwrap();
        let archive = dir.path().join(format!("{name}.tar.gz"));
        pack(&dir.path().join(name), &archive, &PackOptions::default(), &Stage::silent()).unwrap();
        shell(&format!("mkdir u{name}; tar xzf {name}.tar.gz -C u{name}"), dir.path());
    }
    let zoo = dir.path().join("ua/noise");
    assert!(verify(&zoo, &Options::default(), &Stage::silent()).unwrap().ok);
    fs::copy(dir.path().join("ub/noise/index.parquet"), zoo.join("index.parquet")).unwrap();
    let listed = fs::read_to_string(zoo.join("SHA256SUMS")).unwrap();
    let sum = zoo_model::files::sha256_file(&zoo.join("index.parquet")).unwrap();
    let relisted = listed.lines().map(|l| match l.ends_with("index.parquet") {
        true => format!("{sum}  index.parquet\n"),
        false => format!("{l}\n"),
    });
    fs::write(zoo.join("SHA256SUMS"), relisted.collect::<String>()).unwrap();
    let report = verify(&zoo, &Options::default(), &Stage::silent()).unwrap();
    assert_fails(&report, "index.parquet", "does not match the models");
}

/// Path in the zoo and end of each entry of a sound tar.
fn places(tar: &[u8]) -> Vec<(String, usize)> {
    let mut places = Vec::new();
    let mut at = 0;
    while tar[at] != 0 {
        let mut head = tar::Header::new_old();
        head.as_mut_bytes().copy_from_slice(&tar[at..at + 512]);
        let size = head.entry_size().unwrap();
        at += 512 + size as usize + padding(size);
        let path = head.path().unwrap();
        places.push((path.strip_prefix("noise").unwrap().to_str().unwrap().to_owned(), at));
    }
    places
}

#[test]
fn missing_and_disordered_entries_are_found() {
    let sound = Sound::new();
    // The entries of the tar, cut at their headers.
    let mut parts: Vec<Vec<u8>> = Vec::new();
    let mut at = 0;
    for (_, end) in places(&sound.tar) {
        parts.push(sound.tar[at..end].to_vec());
        at = end;
    }
    let of = |parts: &[Vec<u8>]| sound.verdict(&packed(&[parts.concat(), vec![0; 1024]].concat()));
    assert!(of(&parts).ok);
    for gone in 1..parts.len() {
        let mut fewer = parts.clone();
        fewer.remove(gone);
        assert_fails(&of(&fewer), "", "missing");
    }
    let mut swapped = parts.clone();
    swapped.swap(4, 7);
    assert_fails(&of(&swapped), "", "out of order");
    assert_fails(&of(&parts[1..]), "zoo.json", "SHA256SUMS should be");
    assert_fails(&of(&[]), "", "contains no entry");
}

/// Damage that swallows headers does not hide what comes after it.
#[test]
fn damage_is_told_apart_from_what_is_sound() {
    let dir = tempfile::tempdir().unwrap();
    synthetic::write(&dir.path().join("noise"), "noise", 12, 51).unwrap();
    let path = dir.path().join("noise.tar.gz");
    pack(&dir.path().join("noise"), &path, &PackOptions::default(), &Stage::silent()).unwrap();
    let sound = fs::read(&path).unwrap();
    for at in [300_000, 1_500_000, 3_000_000] {
        let mut archive = sound.clone();
        archive[at..at + 200].fill(0xff);
        fs::write(&path, &archive).unwrap();
        let report = verify(&path, &Options::default(), &Stage::silent()).unwrap();
        assert_fails(&report, "models/", "SHA-256 is");
        let entries: std::collections::BTreeSet<&str> = report.failures.iter().map(|f| f.entry.as_str()).collect();
        assert!(entries.len() < 12, "a megabyte holds two models, not all of them: {report}");
        assert!(!entries.contains("models/000011/states.safetensors"), "{report}");
    }
}

#[test]
fn the_checksum_beside_an_archive_counts() {
    let sound = Sound::new();
    let path = sound.dir.path().join("noise.tar.gz");
    // Bytes that no reader looks at: the time in the first member's header.
    let mut other = sound.archive.clone();
    other[5] ^= 1;
    fs::write(&path, &other).unwrap();
    let (code, text, _) = outcome(&["noise.tar.gz"], sound.dir.path());
    assert!(code == 3 && text.contains("archive checksum: the archive: its SHA-256 is"), "{text}");
}

#[test]
fn a_checksum_file_that_is_none_is_a_failure() {
    let sound = Sound::new();
    let sums = sound.dir.path().join("noise.tar.gz.sha256");
    let right = fs::read_to_string(&sums).unwrap();
    let ambiguous = format!("{right}{}  noise.tar.gz\n", "0".repeat(64));
    for wrong in [String::new(), "<html>".into(), right.replace("noise", "other"), "x".repeat(2 << 20), ambiguous] {
        fs::write(&sums, wrong).unwrap();
        let (code, text, _) = outcome(&["noise.tar.gz"], sound.dir.path());
        assert_eq!(code, 3, "{text}");
        assert!(
            text.contains("archive checksum: the archive: the .sha256 file next to it is not a checksum"),
            "{text}"
        );
    }
    fs::remove_file(&sums).unwrap();
    PROGRAM.ok(sound.dir.path(), "noise.tar.gz");
}

/// A zoo of eight models, packed as volumes `n.1-of-N.tar.gz` and on; how many there are.
fn volumes(dir: &Path) -> usize {
    synthetic::write(&dir.join("noise"), "noise", 8, 51).unwrap();
    let mut options = PackOptions::default();
    options.section.volume_size = Some(2_000_000);
    let made = pack(&dir.join("noise"), &dir.join("n.tar.gz"), &options, &Stage::silent()).unwrap();
    assert!(made.archives.len() > 2);
    made.archives.len()
}

#[test]
fn volumes_that_are_not_there_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let count = volumes(dir.path());
    let files: Vec<String> = (1..=count).map(|n| format!("n.{n}-of-{count}.tar.gz")).collect();
    for (i, file) in files.iter().enumerate() {
        let report = verify(&dir.path().join(file), &Options::default(), &Stage::silent()).unwrap();
        assert!(report.ok && report.levels.contains(&zoo_verify::Level::Archive), "{report}");
        let here = report.volumes.unwrap();
        assert_eq!((here.numbers, here.of), (vec![i + 1], count));
    }
    let (code, text, _) = outcome(&[&files[1]], dir.path());
    assert!(text.contains(&format!("(volume 2 of {count}: ")), "{text}");
    assert!(text.contains(&format!("noise: volume 2 of {count} checked; {} others were not: {}", count - 1, files[0])));
    assert_eq!(code, 0);
    let (code, _, message) = outcome(&["--complete", &files[1]], dir.path());
    assert_eq!((code, message.as_str()), (3, "zoo-verify: noise: verification failed\n"));
    let (_, json, _) = outcome(&["--json", &files[1]], dir.path());
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["reports"][0]["volumes"], serde_json::json!({"numbers": [2], "of": count}));
    let set = &json["volumes"][0];
    assert_eq!((&set["complete"], set["unchecked"].as_array().unwrap().len()), (&false.into(), count - 1));
    // All of them, in whatever order.
    let backwards: Vec<&str> = files.iter().rev().map(String::as_str).collect();
    let (code, text, _) = outcome(&[&["--complete"], &backwards[..]].concat(), dir.path());
    assert!(code == 0 && text.ends_with(&format!("noise: all {count} volumes checked\n")), "{text}");
    // The archive that was asked for stands for all of them.
    let (code, text, _) = outcome(&["--complete", "n.tar.gz"], dir.path());
    assert!(code == 0 && text.ends_with(&format!("noise: all {count} volumes checked\n")), "{text}");
    // One of another packing does not complete them.
    fs::rename(dir.path().join(&files[0]), dir.path().join("kept.tar.gz")).unwrap();
    shell("sed -i s/Noise/Other/ noise/zoo.json; rm noise/SHA256SUMS", dir.path());
    let mut options = PackOptions::default();
    options.section.volume_size = Some(2_000_000);
    pack(&dir.path().join("noise"), &dir.path().join("m.tar.gz"), &options, &Stage::silent()).unwrap();
    fs::rename(dir.path().join(files[0].replace('n', "m")), dir.path().join(&files[0])).unwrap();
    let (code, text, _) = outcome(&[&["--complete"], &backwards[..]].concat(), dir.path());
    assert!(code == 3 && text.contains("1 other was not"), "{text}");
}

#[test]
fn volumes_unpacked_into_one_place_are_the_zoo() {
    let dir = tempfile::tempdir().unwrap();
    let count = volumes(dir.path());
    shell("mkdir all some; for v in n.*-of-*; do tar xzf $v -C all; done; tar xzf n.2-of-* -C some", dir.path());
    let (code, text, _) = outcome(&["--complete", "all/noise"], dir.path());
    assert!(code == 0 && text.contains(&format!("(all {count} volumes: 8 models, 408 states,")), "{text}");
    let (code, text, _) = outcome(&["some/noise"], dir.path());
    assert!(code == 0 && text.contains(&format!("noise: volume 2 of {count} checked")), "{text}");
    assert_eq!(outcome(&["--complete", "some/noise"], dir.path()).0, 3);
    // A volume that is there in part is damaged, and so is a zoo whose index is another's.
    fs::remove_file(dir.path().join("some/noise").join("SHA256SUMS")).unwrap();
    shell("rm -r all/noise/models/000000", dir.path());
    let report = verify(&dir.path().join("all/noise"), &Options::default(), &Stage::silent()).unwrap();
    assert_fails(&report, "models/000000/states.safetensors", "missing");
    for list in [
        "[]",
        r#"[{"file": "a", "first": "000007", "last": "000000"}]"#,
        r#"[{"file": "a", "first": "000000", "last": "000006"}]"#,
    ] {
        let text = format!("{{\"volumes\": {list}}}");
        fs::write(dir.path().join("some/noise/volumes.json"), text).unwrap();
        let report = verify(&dir.path().join("some/noise"), &Options::default(), &Stage::silent()).unwrap();
        assert_fails(&report, "volumes.json", "name");
    }
}

/// What no single volume shows: the index of all models.
#[test]
fn the_index_is_checked_over_all_volumes() {
    let dir = tempfile::tempdir().unwrap();
    let count = volumes(dir.path());
    shell(
        "mkdir u; for v in n.*-of-*; do tar xzf $v -C u; done; tar xzf n.1-of-* noise/SHA256SUMS -O > sums",
        dir.path(),
    );
    // Equal in length to the right one.
    let index = dir.path().join("u/noise/index.parquet");
    let (right, listed) = (fs::read(&index).unwrap(), fs::read(dir.path().join("sums")).unwrap());
    let mut wrong = right.clone();
    let at = wrong.windows(8).rposition(|w| w == 0.1f64.to_le_bytes()).unwrap();
    wrong[at] ^= 1;
    let sum = |bytes: &[u8]| zoo_model::files::sha256(bytes).to_string();
    let relisted = String::from_utf8(listed.clone()).unwrap().replace(&sum(&right), &sum(&wrong));
    let files: Vec<String> = (1..=count).map(|n| format!("n.{n}-of-{count}.tar.gz")).collect();
    for file in &files {
        let path = dir.path().join(file);
        let (mut tar, _) = unpacked(&fs::read(&path).unwrap());
        for (from, to) in [(&right, &wrong), (&listed, &relisted.clone().into_bytes())] {
            let at = tar.windows(from.len()).position(|w| w == &from[..]).unwrap();
            tar[at..at + to.len()].copy_from_slice(to);
        }
        fs::write(&path, packed(&tar)).unwrap();
    }
    fs::remove_file(dir.path().join("n.tar.gz.sha256")).unwrap();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    assert_eq!(outcome(&files[1..], dir.path()).0, 0, "the first volume is missing");
    let fault = "index.parquet: does not match the models in the archive";
    let (code, text, _) = outcome(&files, dir.path());
    assert!(code == 3 && text.contains(fault), "{text}");
    // Whatever they are called, and if one is named again.
    let renamed: Vec<String> = (0..count).map(|i| format!("{}.tar.gz", count - i)).collect();
    files.iter().zip(&renamed).for_each(|(from, to)| fs::rename(dir.path().join(from), dir.path().join(to)).unwrap());
    let mut renamed: Vec<&str> = renamed.iter().rev().map(String::as_str).collect();
    let (code, text, _) = outcome(&renamed, dir.path());
    assert!(code == 3 && text.contains(fault), "{text}");
    renamed.insert(0, renamed[1]);
    let (code, text, _) = outcome(&renamed, dir.path());
    assert!(code == 3 && text.contains(fault), "{text}");
    shell(&format!("rm -r u; mkdir u; tar xzf {count}.tar.gz -C u; rm {count}.tar.gz"), dir.path());
    renamed.retain(|name| *name != format!("{count}.tar.gz"));
    let (code, text, _) = outcome(&[&renamed[..], &["u/noise"]].concat(), dir.path());
    assert!(code == 3 && text.contains(fault), "{text}");
}

/// A directory may hold any volumes of the zoo, also such as are verified beside it.
#[test]
fn volumes_beside_a_directory_of_others_are_sound() {
    let dir = tempfile::tempdir().unwrap();
    let count = volumes(dir.path());
    let files: Vec<String> = (1..=count).map(|n| format!("n.{n}-of-{count}.tar.gz")).collect();
    for unpacked in 0..count {
        shell(&format!("rm -rf u; mkdir u; tar xzf {} -C u", files[unpacked]), dir.path());
        shell(&format!("tar xzf {} -C u", files[count - 1]), dir.path());
        for first in 0..count {
            let named: Vec<&str> = ["u/noise"].into_iter().chain(files[first..].iter().map(String::as_str)).collect();
            let (code, text, message) = outcome(&named, dir.path());
            assert_eq!(code, 0, "{named:?} beside {unpacked}: {text}{message}");
        }
    }
}

#[test]
fn what_file_managers_leave_is_passed_over() {
    let sound = Sound::new();
    let dir = sound.dir.path();
    let left = [
        "noise/.DS_Store",
        "noise/models/.hidden",
        "noise/models/Thumbs.db",
        "noise/models/000001/._params.json",
        "noise/__MACOSX/x",
    ];
    for file in left {
        fs::create_dir_all(dir.join(file).parent().unwrap()).unwrap();
        fs::write(dir.join(file), "x").unwrap();
    }
    // Even where it was given a checksum.
    shell("cd noise; sha256sum .DS_Store models/000001/._params.json >> SHA256SUMS", dir);
    let (code, text, _) = outcome(&["noise"], dir);
    assert!(code == 0 && text.contains("note: ignored, as not part of the zoo: .DS_Store, __MACOSX,"), "{text}");
    // An archive holds what was packed, and nothing else.
    pack(&dir.join("noise"), &dir.join("again.tar.gz"), &PackOptions::default(), &Stage::silent()).unwrap();
    assert!(fs::read(dir.join("again.tar.gz")).unwrap() == sound.archive);
    let report = sound.repacked(|tar| append(tar, &entry("noise/models/000001/._params.json", b"x")));
    assert_fails(&report, "._params.json", "does not belong to a zoo");
}

#[test]
fn checksum_files_of_other_programs_are_read() {
    let sound = Sound::new();
    let dir = sound.dir.path();
    for script in [
        "sha256sum -b noise.tar.gz",
        "sha256sum --tag ./noise.tar.gz",
        "sha256sum noise.tar.gz | sed 's/^[^ ]*/\\U&/'",
        "echo '# noise'; sha256sum noise.tar.gz | sed 's/$/\\r/'; echo",
        "sha256sum noise.tar.gz | sed 's/  / /'",
        "printf %s \"$(sha256sum ./noise.tar.gz)\"",
    ] {
        shell(&format!("({script}) > noise.tar.gz.sha256; sha256sum -c noise.tar.gz.sha256"), dir);
        let (code, text, _) = outcome(&["noise.tar.gz"], dir);
        assert!(code == 0 && text.contains("archive checksum, structure"), "{script}: {text}");
        let listed = script
            .replace("./noise.tar.gz", "noise.tar.gz")
            .replace("noise.tar.gz", "$(find . -type f ! -name SHA256SUMS)");
        shell(&format!("cd noise; ({listed}) > ../sums; mv ../sums SHA256SUMS; sha256sum -c --quiet SHA256SUMS"), dir);
        let (code, text, _) = outcome(&["noise"], dir);
        assert!(code == 0 && text.contains("structure, checksums"), "{script}: {text}");
        shell("sed -i 's/000001.states/000000\\/states/' noise/SHA256SUMS", dir);
        assert_eq!(outcome(&["noise"], dir).0, 3, "{script}");
    }
}

/// A zoo whose models do not all have the same keys, with types of all sorts.
fn mixed_keys(dir: &Path) -> ZooDir {
    let zoo = synthetic::write(&dir.join("noise"), "noise", 3, 2).unwrap();
    let keys =
        [r#""a": 1, "c": null"#, r#""a": 0.5, "b": true, "seed": 18446744073709551615"#, r#""c": "x", "d": [1, "y"]"#];
    for (id, keys) in (0..).map(ModelId).zip(keys) {
        let path = zoo.model(id).join("params.json");
        let text = fs::read_to_string(&path).unwrap();
        let text = if keys.contains("seed") { text.replace("\"seed\"", "\"old seed\"") } else { text };
        fs::write(&path, text.replacen('{', &format!("{{{keys},"), 1)).unwrap();
    }
    let record = zoo.finished().unwrap();
    zoo.finish(&record).unwrap();
    zoo
}

#[test]
fn an_index_that_lacks_what_only_later_models_have_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let zoo = mixed_keys(dir.path());
    pack(zoo.path(), &dir.path().join("n.tar.gz"), &PackOptions::default(), &Stage::silent()).unwrap();
    shell("mkdir u; tar xzf n.tar.gz -C u", dir.path());
    assert_eq!(outcome(&["n.tar.gz", "u/noise"], dir.path()).0, 0);
    let models: Vec<_> = (0..3).map(ModelId).map(|id| (zoo.params(id).unwrap(), zoo.results(id).unwrap())).collect();
    for known in 1..=3 {
        let mut schema = zoo_pack::index::Schema::default();
        models[..known].iter().for_each(|(params, _)| schema.add(params).unwrap());
        let mut index = zoo_pack::index::IndexWriter::new(schema.columns(), Vec::new()).unwrap();
        index.add(&models).unwrap();
        fs::write(dir.path().join("u/noise/index.parquet"), index.finish().unwrap()).unwrap();
        shell("cd u/noise; sed -i \"s/.*index.parquet/$(sha256sum index.parquet)/\" SHA256SUMS", dir.path());
        let report = verify(&dir.path().join("u/noise"), &Options::default(), &Stage::silent()).unwrap();
        match known {
            1 => assert_fails(&report, "index.parquet", "has the column `seed` as int64, the models make it uint64"),
            2 => assert_fails(&report, "index.parquet", "lacks the column `c`"),
            _ => assert!(report.ok, "{report}"),
        }
    }
    fs::write(dir.path().join("u/noise/index.parquet"), "PAR1 and no more").unwrap();
    let report = verify(&dir.path().join("u/noise"), &Options::default(), &Stage::silent()).unwrap();
    assert_fails(&report, "index.parquet", "is no Parquet file, or damaged");
}

#[test]
fn what_cannot_be_read_is_no_verdict() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    PROGRAM.fails(dir.path(), &["no such.tar.gz"], 1);
    PROGRAM.fails(dir.path(), "empty", 1);
    PROGRAM.fails(dir.path(), "", 2);
    PROGRAM.fails(dir.path(), "x.tar.gz --replay 1", 2);
    for (name, content) in
        [("zip", &b"PK\x03\x04 and so on"[..]), ("nothing", b""), ("page", b"<html>"), ("csv", b"id,acc\n0,0.5\n")]
    {
        fs::write(dir.path().join(name), content).unwrap();
    }
    shell("seq 10000 | gzip > numbers.gz; mkdir f; echo > f/x; tar czf f.tar.gz f; tar cf f.tar f", dir.path());
    for name in ["zip", "nothing", "page", "csv", "numbers.gz", "f.tar.gz", "f.tar"] {
        let (code, _, message) = outcome(&[name], dir.path());
        assert!(code == 1 && message.starts_with(&format!("zoo-verify: {name}: is not a zoo archive: ")), "{message}");
    }
}

#[test]
fn archives_packed_again_by_other_programs_are_failures() {
    let sound = Sound::new();
    let dir = sound.dir.path();
    shell("mkdir u; tar xzf noise.tar.gz -C u; touch u/noise/models/._000001; cd u; tar czf ../a.tar.gz noise; tar czf ../b.tar.gz ./noise", dir);
    for name in ["a.tar.gz", "b.tar.gz"] {
        let (code, text, _) = outcome(&[name], dir);
        assert!(code == 3 && text.contains("only regular files are allowed"), "{text}");
    }
    assert_eq!(outcome(&["u/noise"], dir).0, 0);
}

#[test]
fn what_was_verified_is_told_whatever_becomes_of_the_rest() {
    let sound = Sound::new();
    let dir = sound.dir.path();
    let (code, text, message) = outcome(&["gone.tar.gz", "noise.tar.gz", "empty"], dir);
    assert!(code == 1 && text.starts_with("noise.tar.gz: verified"), "{text}");
    assert!(
        message.starts_with("zoo-verify: cannot read gone.tar.gz: No such file")
            && message.contains("; cannot read empty:")
    );
    let (code, text, _) = outcome(&["gone.tar.gz", "empty"], dir);
    assert_eq!((code, text.as_str()), (1, ""), "nothing was verified");
    let (code, json, _) = outcome(&["--json", "gone.tar.gz", "noise.tar.gz"], dir);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["ok"], &json["reports"][0]["ok"]), (1, &false.into(), &true.into()));
    assert!(json["errors"][0].as_str().unwrap().contains("gone.tar.gz"));
    fs::write(dir.join("cut.tar.gz"), &sound.archive[..sound.archive.len() / 2]).unwrap();
    let (code, text, message) = outcome(&["gone.tar.gz", "cut.tar.gz", "noise.tar.gz"], dir);
    assert!(code == 3 && text.contains("noise.tar.gz: verified") && text.contains("cut.tar.gz: FAILED"), "{text}");
    assert!(message.starts_with("zoo-verify: cut.tar.gz: verification failed; cannot read gone.tar.gz"), "{message}");
}

#[test]
fn models_that_cannot_be_run_again_are_a_refusal() {
    let sound = Sound::new();
    let dir = sound.dir.path();
    synthetic::noise_dataset([1, 28, 28], 10, 20).write(&dir.join("d.safetensors")).unwrap();
    let refused = |args: &[&str], why: &str| {
        for place in ["noise", "noise.tar.gz"] {
            let (code, text, message) = outcome(&[&[place, "--data", "d.safetensors"], args].concat(), dir);
            assert_eq!((code, text.as_str()), (2, ""), "{message}");
            assert!(message.starts_with(&format!("zoo-verify: {place}: ")) && message.contains(why), "{message}");
            assert!(!message.contains("SHA-256 ,"), "{message}");
        }
    };
    let change = |change: &dyn Fn(&mut zoo_model::ZooRecord)| {
        let zoo = ZooDir::new(dir.join("noise"));
        let mut record = zoo.finished().unwrap();
        change(&mut record);
        zoo.finish(&record).unwrap();
        pack(zoo.path(), &dir.join("noise.tar.gz"), &PackOptions::default(), &Stage::silent()).unwrap();
    };
    refused(&["--replay", "1"], "trained by another program");
    refused(&["--retrain", "1"], "trained by another program");
    let engine = |name: &str, version: &str| {
        Some(zoo_model::zoo_dir::EngineRecord { name: name.into(), version: version.into() })
    };
    change(&|record| record.engine = engine("population", "0"));
    refused(&["--replay", "1"], "does not say which dataset file");
    change(&|record| record.dataset.sha256 = "0".repeat(64));
    refused(&["--replay", "1"], "it was trained on another dataset file: SHA-256 000");
    let sum = zoo_model::files::sha256_file(&dir.join("d.safetensors")).unwrap().to_string();
    change(&|record| record.dataset.sha256.clone_from(&sum));
    refused(&["--retrain", "1"], "by version 0 of its engine");
    change(&|record| record.engine = engine("abacus", "0"));
    refused(&["--replay", "1"], "the engine `abacus`");
    // Noise was never evaluated, so replaying fails; but it says of how many models.
    change(&|record| record.engine = engine("population", "0"));
    let (code, text, _) = outcome(&["noise", "--replay", "800", "--data", "d.safetensors"], dir);
    assert!(code == 3 && text.contains("--replay 800 ran 3 models: the zoo has no more"), "{text}");
    assert!(text.contains("meaning, replay of 3 models)") && !text.contains("Some("), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_flipped_byte_that_changes_the_content_is_found(at in any::<prop::sample::Index>(), flip in 1..=255u8) {
        thread_local!(static SOUND: Sound = Sound::new());
        SOUND.with(|sound| {
            let mut archive = sound.archive.clone();
            let at = at.index(archive.len());
            archive[at] ^= flip;
            let changed = unpacked(&archive).0 != sound.tar;
            let report = sound.verdict(&archive);
            prop_assert!(!(changed && report.ok), "byte {at} ^ {flip}");
            if changed {
                prop_assert!(report.failures.iter().any(|f| !f.entry.is_empty()), "byte {at} ^ {flip}: {report}");
            }
            Ok(())
        })?;
    }

    #[test]
    fn every_changed_byte_of_the_tar_is_found(at in any::<prop::sample::Index>(), flip in 1..=255u8) {
        thread_local!(static SOUND: Sound = Sound::new());
        SOUND.with(|sound| {
            let at = at.index(sound.tar.len());
            let report = sound.repacked(|tar| tar[at] ^= flip);
            prop_assert!(!report.ok, "byte {at} ^ {flip}");
            Ok(())
        })?;
    }

    #[test]
    fn every_truncation_is_found(at in any::<prop::sample::Index>()) {
        thread_local!(static SOUND: Sound = Sound::new());
        SOUND.with(|sound| {
            let cut = at.index(sound.archive.len());
            let report = match sound.outcome(&sound.archive[..cut]) {
                Err(error) => {
                    prop_assert!(cut == 0 && error.to_string().contains("is not a zoo archive"), "cut at {cut}: {error}");
                    return Ok(());
                }
                Ok(report) => report,
            };
            prop_assert!(!report.ok);
            // The entries that do not end before the cut; the first of them is cut, or the next.
            let whole = unpacked(&sound.archive[..cut]).0.len();
            let places = places(&sound.tar);
            let allowed: Vec<&str> = places.iter().filter(|(_, end)| *end > whole).map(|(p, _)| p.as_str()).collect();
            if whole >= places[0].1 {
                for failure in &report.failures {
                    let entry = failure.entry.strip_prefix("noise/").unwrap_or(&failure.entry);
                    prop_assert!(entry.is_empty() || allowed.contains(&entry), "cut at {cut} ({whole}): {failure}");
                }
                let named = report.failures.iter().any(|f| !f.entry.is_empty());
                prop_assert!(named || allowed.is_empty(), "cut at {cut}: {report}");
            }
            Ok(())
        })?;
    }
}
