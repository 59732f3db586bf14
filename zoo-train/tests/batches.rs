//! A population is trained in batches of any width, is interrupted, and resumes in batches of another:
//! its files do not depend on them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use zoo_engine::{BatchPlan, Cohort, DeviceError, DeviceName, Engine, EngineFactory, ModelSpec, Snapshot, Task};
use zoo_engine_population::PopulationFactory;
use zoo_model::stage::{Console, Interrupt, Progress, Stage};
use zoo_model::synthetic::noise_dataset;
use zoo_model::{Dataset, Manifest, ModelId, ZooDir};
use zoo_train::checkpoint::Checkpoints;
use zoo_train::{train, Settings, TrainError};

/// Six models of one cohort, five epochs.
const MANIFEST: &str = r#"
[zoo]
name = "batches"
[model]
architecture = "cnn-s"
[grid]
activation = "relu"
init = "uniform"
optimizer = "adam"
learning-rate = 1e-3
seed = { range = [1, 6] }
[train]
epochs = 5
"#;

/// The population engine with batches of a given width.
struct Batched {
    engine: Box<dyn Engine>,
    width: usize,
}

impl Engine for Batched {
    fn name(&self) -> &'static str {
        self.engine.name()
    }

    fn version(&self) -> String {
        self.engine.version()
    }

    fn trains(&self, model: &ModelSpec) -> bool {
        self.engine.trains(model)
    }

    fn cohorts(&self, models: &[&ModelSpec]) -> Vec<Vec<usize>> {
        self.engine.cohorts(models)
    }

    fn plan_batches(
        &self,
        cohorts: Vec<Vec<usize>>,
        _: &[&ModelSpec],
        _: &Dataset,
        _: usize,
    ) -> Result<BatchPlan, DeviceError> {
        let batches = cohorts.iter().flat_map(|c| c.chunks(self.width).map(<[usize]>::to_vec)).collect();
        Ok(BatchPlan { batches, concurrency: 1, parallelism: 1 })
    }

    fn start<'d>(
        &self,
        tasks: &[Task],
        data: &'d Dataset,
        from: Option<&[Snapshot]>,
    ) -> Result<Box<dyn Cohort + 'd>, DeviceError> {
        self.engine.start(tasks, data, from)
    }
}

/// Counts epochs of models, those of earlier runs apart, and interrupts after a number of new ones.
#[derive(Debug, Clone, Default)]
struct Counter {
    trained: Arc<AtomicU64>,
    resumed: Arc<AtomicU64>,
    stop_after: u64,
    interrupt: Interrupt,
}

impl Console for Counter {
    fn progress(&self, _: &str, _: u64) -> Box<dyn Progress> {
        Box::new(self.clone())
    }

    fn say(&self, _: fmt::Arguments) {}
}

impl Progress for Counter {
    fn advance(&self, units: u64) {
        if self.trained.fetch_add(units, Ordering::Relaxed) + units >= self.stop_after {
            self.interrupt.set();
        }
    }

    fn skip(&self, units: u64) {
        self.resumed.fetch_add(units, Ordering::Relaxed);
    }
}

/// Trains with batches of a width until a number of models' epochs are trained; how many were, and how
/// many were resumed.
fn run(data: &Path, output: &Path, width: usize, stop_after: u64) -> (Result<bool, TrainError>, [u64; 2]) {
    run_with(data, output, width, stop_after, Settings::default().states_in_memory)
}

/// The same, with room in memory for states of this size.
fn run_with(
    data: &Path,
    output: &Path,
    width: usize,
    stop_after: u64,
    states_in_memory: usize,
) -> (Result<bool, TrainError>, [u64; 2]) {
    let manifest = Manifest::parse("batches.toml", MANIFEST.into()).unwrap();
    let engine = Batched { engine: PopulationFactory.build(DeviceName::Cpu).unwrap().engine, width };
    let counter = Counter { stop_after, ..Counter::default() };
    let mut stage = Stage::with_console(Arc::new(counter.clone()));
    stage.interrupt = counter.interrupt.clone();
    let checkpoint_pause = Duration::from_secs(3600);
    let settings = Settings { threads: 1, checkpoint_pause, states_in_memory, ..Settings::default() };
    let outcome = train(&manifest, data, output, &engine, &settings, &stage);
    let counts = [&counter.trained, &counter.resumed].map(|count| count.load(Ordering::Relaxed));
    (outcome.map(|summary| summary.completion.finished), counts)
}

#[test]
fn another_width_goes_on_where_the_first_one_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data.safetensors");
    noise_dataset([1, 28, 28], 10, 12).write(&data).unwrap();
    let [whole, resumed] = ["whole", "resumed"].map(|name| dir.path().join(name));
    assert!(matches!(run(&data, &whole, 6, u64::MAX), (Ok(true), [30, 0])));

    // Four models of three epochs, then models 0 to 2 of one more: 3 is left behind.
    let (outcome, counts) = run(&data, &resumed, 4, 12);
    assert!(matches!(outcome, Err(TrainError::Interrupted(_))) && counts == [12, 0], "{counts:?}");
    let (outcome, counts) = run(&data, &resumed, 3, 3);
    assert!(matches!(outcome, Err(TrainError::Interrupted(_))) && counts == [3, 9], "{counts:?}");
    let (outcome, counts) = run(&data, &resumed, 6, u64::MAX);
    assert!(matches!(outcome, Ok(true)) && counts == [15, 15], "{counts:?}");
    assert!(files(&whole) == files(&resumed));
}

#[test]
fn states_on_disk_are_not_in_memory_and_any_width_goes_on_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data.safetensors");
    noise_dataset([1, 28, 28], 10, 12).write(&data).unwrap();
    let [whole, resumed] = ["whole", "resumed"].map(|name| dir.path().join(name));
    assert!(matches!(run(&data, &whole, 6, u64::MAX), (Ok(true), [30, 0])));

    // Where each model stands: states on disk and in memory.
    let kept = || -> BTreeMap<u32, (usize, usize)> {
        let record = zoo_train::population::read_run(&ZooDir::new(&resumed)).unwrap().unwrap().record;
        let found = Checkpoints::find(&resumed.join(".training"), &record.fingerprint);
        let of = |m: u32| {
            found.load(&[ModelId(m)]).map(|saved| (m, (saved.states[0].written().0, saved.states[0].in_memory().len())))
        };
        (0..6).filter_map(of).collect()
    };
    let state = 4 * 2464;
    let (outcome, counts) = run_with(&data, &resumed, 4, 4, 0);
    assert!(matches!(outcome, Err(TrainError::Interrupted(_))) && counts == [4, 0], "{counts:?}");
    assert_eq!(kept(), (0..4).map(|m| (m, (2, 0))).collect());
    // Room for three states each of three models: the fourth is too much.
    let (outcome, counts) = run_with(&data, &resumed, 3, 6, 9 * state);
    assert!(matches!(outcome, Err(TrainError::Interrupted(_))) && counts == [6, 3], "{counts:?}");
    assert_eq!(kept(), [(0, (2, 2)), (1, (2, 2)), (2, (2, 2)), (3, (2, 0))].into());
    let (outcome, counts) = run_with(&data, &resumed, 2, 2, 0);
    assert!(matches!(outcome, Err(TrainError::Interrupted(_))) && counts == [2, 6], "{counts:?}");
    assert_eq!(kept(), [(0, (5, 0)), (1, (5, 0)), (2, (2, 2)), (3, (2, 0))].into());
    // From here on states of both kinds are in one batch.
    let (outcome, counts) = run(&data, &resumed, 6, u64::MAX);
    assert!(matches!(outcome, Ok(true)) && counts == [18, 12], "{counts:?}");
    assert!(files(&whole) == files(&resumed));
}

#[test]
fn a_model_whose_states_are_not_on_disk_starts_over() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data.safetensors");
    noise_dataset([1, 28, 28], 10, 12).write(&data).unwrap();
    let whole = dir.path().join("whole");
    assert!(matches!(run(&data, &whole, 6, u64::MAX), (Ok(true), [30, 0])));
    let damages: [fn(&Path); 4] = [
        |_| (),
        |states| fs::remove_file(states).unwrap(),
        |states| fs::write(states, "x").unwrap(),
        // Laid out, but without the states.
        |states| {
            let mut bytes = fs::read(states).unwrap();
            let (header, epochs) = (8 + usize::from(bytes[0]) + 256 * usize::from(bytes[1]), 8 * 6);
            let end = bytes.len() - epochs;
            bytes[header..end].fill(0);
            fs::write(states, bytes).unwrap();
        },
    ];
    for (i, damage) in damages.iter().enumerate() {
        let output = dir.path().join(format!("damage {i}"));
        let (outcome, counts) = run_with(&data, &output, 6, 12, 0);
        assert!(matches!(outcome, Err(TrainError::Interrupted(_))) && counts == [12, 0], "{counts:?}");
        damage(&output.join(".training/000003/states.safetensors"));
        let (outcome, counts) = run(&data, &output, 6, u64::MAX);
        let resumed = if i == 0 { [18, 12] } else { [30, 0] };
        assert!(matches!(outcome, Ok(true)) && counts == resumed, "damage {i}: {counts:?}");
        assert!(files(&whole) == files(&output), "damage {i}");
    }
}

/// Every file of a zoo.
fn files(zoo: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![zoo.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(zoo).unwrap().to_string_lossy().into_owned();
                files.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

#[test]
fn an_engine_is_not_given_models_that_it_does_not_train() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data.safetensors");
    noise_dataset([1, 28, 28], 10, 12).write(&data).unwrap();
    let text = MANIFEST.replace("\"cnn-s\"", "\"mlp\"\nhidden = [4]");
    let manifest = Manifest::parse("mlp.toml", text).unwrap();
    let engine = PopulationFactory.build(DeviceName::Cpu).unwrap().engine;
    let output = dir.path().join("zoo");
    let outcome = train(&manifest, &data, &output, engine.as_ref(), &Settings::default(), &Stage::silent());
    assert!(matches!(&outcome, Err(TrainError::Usage(e)) if e.0.contains("does not train mlp")), "{outcome:?}");
    assert!(!output.exists());
}
