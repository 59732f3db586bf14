//! Models whose epochs are long are saved within them: whatever ends a run, the next one resumes from
//! there, and the files are the same.

mod in_parts;

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use in_parts::InParts;
use zoo_engine_population::PopulationEngine;
use zoo_model::stage::Stage;
use zoo_model::synthetic::noise_dataset;
use zoo_model::{Manifest, ModelId, ZooDir};
use zoo_test::{assert_same_files, program::signal_when};
use zoo_train::checkpoint::Checkpoints;
use zoo_train::population::read_run;
use zoo_train::{train, Settings};

/// Seven models in one batch, 12 epochs of 10 parts.
const MANIFEST: &str = r#"
[zoo]
name = "parts"
[model]
architecture = "cnn-s"
[grid]
activation = "relu"
init = "uniform"
dropout = 0.3
optimizer = "adam"
learning-rate = 1e-3
seed = { range = [1, 7] }
[train]
epochs = 12
"#;

/// Tells the process that is killed where to train, and how many bytes of states to hold in memory.
const FOLDER: &str = "ZOO_TEST_PARTS";
const MEMORY: &str = "ZOO_TEST_PARTS_MEMORY";

/// Trains the zoo `output` in a folder.
fn run(folder: &Path, output: &str, states_in_memory: usize) {
    let manifest = Manifest::parse("parts.toml", MANIFEST.into()).unwrap();
    let engine = InParts { engine: PopulationEngine::new(), steps: 2 };
    let settings = Settings { checkpoint_pause: Duration::ZERO, states_in_memory, ..Settings::default() };
    let [data, output] = ["data.safetensors", output].map(|name| folder.join(name));
    train(&manifest, &data, &output, &engine, &settings, &Stage::silent()).unwrap();
}

#[test]
#[ignore = "is what kills_within_epochs_change_no_byte starts and kills"]
fn train_until_killed() {
    if let (Ok(folder), Ok(memory)) = (env::var(FOLDER), env::var(MEMORY)) {
        run(Path::new(&folder), "killed", memory.parse().unwrap());
    }
}

#[test]
fn kills_within_epochs_change_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    noise_dataset([1, 28, 28], 10, 200).write(&dir.path().join("data.safetensors")).unwrap();
    run(dir.path(), "whole", Settings::default().states_in_memory);

    let killed = ZooDir::new(dir.path().join("killed"));
    let position = || {
        let run = read_run(&killed).ok().flatten()?;
        let found = Checkpoints::find(&killed.path().join(".training"), &run.record.fingerprint);
        Some(found.position(ModelId(0)))
    };
    let mut positions = vec![(0, 0)];
    let mut random = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    for kill in 0..10 {
        // States are held in memory in one run, and are on disk in the next.
        let memory = [0, 32 << 20][kill % 2].to_string();
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--ignored", "--exact", "train_until_killed"])
            .envs([(FOLDER, dir.path().as_os_str()), (MEMORY, memory.as_ref())])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let pause = Duration::from_millis((random >> 33) % 50);
        let before = positions[kill];
        signal_when(&mut child, "-KILL", || {
            let has_progress = position().is_some_and(|now| now > before);
            if has_progress {
                std::thread::sleep(pause);
            }
            has_progress
        });
        assert!(!child.wait().unwrap().success(), "killed too late to show anything");
        positions.push(position().unwrap());
    }
    println!("{positions:?}");
    assert!(positions.iter().any(|(_, steps)| *steps > 0), "never within an epoch: {positions:?}");
    run(dir.path(), "killed", 0);
    assert_same_files(&dir.path().join("whole"), killed.path());
}
