//! Damaged and hostile archives and directories: all are found, none is unpacked, and what is
//! wrong is named.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use proptest::prelude::*;
use zoo_model::{synthetic, ModelId, ZooDir};
use zoo_pack::entries::{header, padding};
use zoo_pack::members::{compress, compress_stream, decode, PIECE};
use zoo_pack::{pack, PackOptions};
use zoo_stage::Stage;
use zoo_verify::{verify, Options, Report};

fn zoo_verify(args: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_zoo-verify")).args(args).current_dir(dir).output().unwrap()
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
        let path = self.dir.path().join("other.tar.gz");
        fs::write(&path, bytes).unwrap();
        verify(&path, &Options::default(), &Stage::silent()).unwrap()
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
    let output = zoo_verify(&["noise.tar.gz", "--quick", "--json"], sound.dir.path());
    assert_eq!(output.status.code(), Some(0));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["ok"], &json["reports"][0]["models"]), (&true.into(), &3.into()));
}

#[test]
fn hostile_entries_are_refused_and_nothing_is_written() {
    let sound = Sound::new();
    let before = listing(sound.dir.path());
    for (path, kind, message) in [
        (&b"/tmp/evil"[..], tar::EntryType::Regular, "absolute"),
        (b"noise/../../evil", tar::EntryType::Regular, "upwards"),
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
    let stranger = |tar: &mut Vec<u8>| append(tar, &entry("noise/models/000003/params.json", b"{}"));
    assert_fails(&sound.repacked(stranger), "models/000003/params.json", "not listed");
    let program = |tar: &mut Vec<u8>| append(tar, &entry("noise/setup.py", b"evil"));
    assert_fails(&sound.repacked(program), "setup.py", "no file of a zoo");
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
    assert_fails(&report, "zoo.json", "at most");
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
        let script = format!("ulimit -d 262144; exec '{}' bomb.tar.gz {flags}", env!("CARGO_BIN_EXE_zoo-verify"));
        let output = Command::new("bash").args(["-c", &script]).current_dir(sound.dir.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(3), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("models/000003/states.safetensors"), "{text}");
    }
}

/// A verdict of the program on these bytes, under a limit on its data.
fn limited(sound: &Sound, archive: &[u8], flags: &str) -> String {
    fs::write(sound.dir.path().join("other.tar.gz"), archive).unwrap();
    let script = format!("ulimit -d 262144; exec '{}' other.tar.gz {flags}", env!("CARGO_BIN_EXE_zoo-verify"));
    let output = Command::new("bash").args(["-c", &script]).current_dir(sound.dir.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(3), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
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
    let archive = packed(&tar);
    for flags in ["", "--quick", "--json"] {
        let text = limited(&sound, &archive, flags);
        assert!(text.contains("the rest was not read"), "{text}");
        assert!(text.len() < 300_000, "{} bytes", text.len());
    }
    let text = limited(&sound, &archive, "");
    assert!(text.contains(": and 1") && text.contains(" more failures\n"), "{text}");
    // The same without a list of what should be there.
    limited(&sound, &packed(&tar[places(&sound.tar)[0].1..]), "--quick");
}

#[test]
fn empty_members_are_not_waited_for() {
    let sound = Sound::new();
    let archive = [sound.archive.clone(), compress(b"", 1).repeat(2_000_000)].concat();
    let started = std::time::Instant::now();
    let report = sound.verdict(&archive);
    assert_fails(&report, "", "a gzip member is empty");
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}

#[test]
fn what_a_stranger_wrote_cannot_forge_a_line() {
    let sound = Sound::new();
    let hostile = "\\u001b[2J\\nother.tar.gz: verified";
    let record = format!("{{\"format_version\": 1, \"name\": \"{hostile}\", \"dataset\": {{\"name\": \"x\", \"sha256\": \"\", \"shape\": [1,28,28], \"classes\": 10, \"train\": 0, \"val\": 0, \"test\": 0, \"mean\": [0.5], \"std\": [0.5]}}, \"models\": 0, \"states\": 0, \"parameters\": 0}}");
    let report = sound.verdict(&packed(&[entry("noise/zoo.json", record.as_bytes()), vec![0; 1024]].concat()));
    assert_fails(&report, "zoo.json", "is no name for a zoo");
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
    assert_fails(&edit("zoo.json", "\"states\": 6", "\"states\": 7"), "zoo.json", "counts 7 states, there are 6");
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
    assert_fails(&stray, "notes.txt", "no file of a zoo");
    drop(sound);
}

#[test]
fn an_index_that_says_otherwise_is_found() {
    let dir = tempfile::tempdir().unwrap();
    for (name, models) in [("a", 3), ("b", 2)] {
        synthetic::write(&dir.path().join(name), "noise", models, 4).unwrap();
        let archive = dir.path().join(format!("{name}.tar.gz"));
        pack(&dir.path().join(name), &archive, &PackOptions::default(), &Stage::silent()).unwrap();
        let script = format!("mkdir u{name}; tar xzf {name}.tar.gz -C u{name}");
        assert!(Command::new("bash").args(["-c", &script]).current_dir(dir.path()).status().unwrap().success());
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
    assert_fails(&report, "index.parquet", "not the index of the models");
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
    assert_fails(&of(&[]), "", "holds no entry");
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
    let output = zoo_verify(&["noise.tar.gz"], sound.dir.path());
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stdout).contains("archive checksum: the archive: its SHA-256 is"));
}

#[test]
fn a_checksum_file_that_is_none_is_a_failure() {
    let sound = Sound::new();
    let sums = sound.dir.path().join("noise.tar.gz.sha256");
    let right = fs::read_to_string(&sums).unwrap();
    for wrong in [String::new(), "<html>".into(), right.replace("noise", "other"), "x".repeat(2 << 20)] {
        fs::write(&sums, wrong).unwrap();
        let output = zoo_verify(&["noise.tar.gz"], sound.dir.path());
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(3), "{text}");
        assert!(text.contains("archive checksum: the archive: the .sha256 file beside it is no checksum"), "{text}");
    }
    fs::remove_file(&sums).unwrap();
    assert_eq!(zoo_verify(&["noise.tar.gz"], sound.dir.path()).status.code(), Some(0));
}

#[test]
fn volumes_are_verified_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    synthetic::write(&dir.path().join("noise"), "noise", 8, 51).unwrap();
    let mut options = PackOptions::default();
    options.section.volume_size = Some(2_000_000);
    let made = pack(&dir.path().join("noise"), &dir.path().join("n.tar.gz"), &options, &Stage::silent()).unwrap();
    assert!(made.archives.len() > 1);
    for archive in &made.archives {
        let report = verify(archive, &Options::default(), &Stage::silent()).unwrap();
        assert!(report.ok && report.levels.contains(&zoo_verify::Level::Archive), "{report}");
    }
}

#[test]
fn what_cannot_be_read_is_no_verdict() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    assert_eq!(zoo_verify(&["no such.tar.gz"], dir.path()).status.code(), Some(1));
    assert_eq!(zoo_verify(&["empty"], dir.path()).status.code(), Some(1));
    assert_eq!(zoo_verify(&[], dir.path()).status.code(), Some(2));
    assert_eq!(zoo_verify(&["x.tar.gz", "--replay", "1"], dir.path()).status.code(), Some(2));
    fs::write(dir.path().join("not.tar.gz"), "PK").unwrap();
    assert_eq!(zoo_verify(&["not.tar.gz"], dir.path()).status.code(), Some(3));
    fs::write(dir.path().join("nothing.tar.gz"), "").unwrap();
    assert_eq!(zoo_verify(&["nothing.tar.gz"], dir.path()).status.code(), Some(3));
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
            let report = sound.verdict(&sound.archive[..cut]);
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
