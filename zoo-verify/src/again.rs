//! Levels 5 and 6: models evaluated and trained again.

use serde::Deserialize;
use zoo_engine::{DeviceName, Engine, EngineError, Task};
use zoo_model::architecture::Network;
use zoo_model::files::{sha256, Sha256};
use zoo_model::plan::TrainSection;
use zoo_model::result::to_json_lines;
use zoo_model::stage::Interrupt;
use zoo_model::zoo_dir::names;
use zoo_model::{states, Dataset, ModelId, Params, ResultLine, Split, ZooRecord};
use zoo_sparsify::Twin;
use zoo_train::registry;
use zoo_train::trajectory::{self, Job, Progress, Trajectory};

use crate::checker::Sampled;
use crate::report::{Failure, Level};

/// Largest relative difference of a loss that counts as equal: processors differ in the last bits
/// of a matrix product.
const LOSS_TOLERANCE: f64 = 1e-6;

/// The engine that made a zoo, in the version that retraining needs; the dataset is checked to be the zoo's own.
///
/// # Errors
/// A sentence that says why models of this zoo cannot be run again.
pub fn engine(record: &ZooRecord, data: &Dataset, retrain: bool) -> Result<Box<dyn Engine>, String> {
    let made_by = record.engine.as_ref();
    let made_by = made_by.ok_or("another program trained its models; they cannot be replayed or retrained here")?;
    match (record.dataset.sha256.as_str(), data.sha256()) {
        ("", _) => return Err("its zoo.json does not say which dataset file it was trained on".into()),
        (expected, found) if expected != found => {
            return Err(format!("it was trained on another dataset file: SHA-256 {expected}, not {found}"));
        }
        _ => {}
    }
    let factory = registry::find(&made_by.name)
        .map_err(|_| format!("the engine `{}` that made the zoo is not in this program", made_by.name))?;
    let engine = factory.build(DeviceName::Cpu).map_err(|error| error.to_string())?.engine;
    if retrain && made_by.version != engine.version() {
        let (made_by, version) = (&made_by.version, engine.version());
        return Err(format!(
            "it was made by version {made_by} of its engine, and cannot be retrained by version {version}"
        ));
    }
    Ok(engine)
}

fn failure(level: Level, id: ModelId, file: &str, message: String) -> Failure {
    Failure { level, entry: format!("{}/{id}/{file}", names::MODELS), message }
}

/// Evaluates a model's last state again and compares with its last line.
pub fn replay(
    model: &Sampled,
    engine: &dyn Engine,
    data: &Dataset,
    interrupt: &Interrupt,
) -> Result<Vec<Failure>, EngineError> {
    let (Some(state), Some(line), Ok(network)) = (model.states.last(), model.lines.last(), model.params.network())
    else {
        return Ok(Vec::new());
    };
    let hyperparameters = model.params.hyperparameters.clone();
    let task = Task::from_state(network, hyperparameters, state.clone());
    let mut cohort = engine.start(&[task], data, None)?;
    let mut failures = Vec::new();
    let recorded =
        [(Split::Test, "test", line.test_loss, line.test_acc), (Split::Val, "val", line.val_loss, line.val_acc)];
    for (split, name, loss, accuracy) in recorded {
        let Some(score) = cohort.evaluate(split, interrupt)?.remove(0).score else { continue };
        let mut differs = |what: &str, recorded: Option<f64>, found: f64| {
            let recorded = recorded.map_or("null".to_owned(), |recorded| recorded.to_string());
            let message =
                format!("epoch {}: {name}_{what} is {found}, recorded as {recorded}", line.training_iteration);
            failures.push(failure(Level::Replay, model.params.id, names::RESULT, message));
        };
        if accuracy != Some(score.accuracy) {
            differs("acc", accuracy, score.accuracy);
        }
        let equal = match loss {
            Some(loss) => (loss - score.loss).abs() <= LOSS_TOLERANCE * loss.abs().max(1e-3),
            None => !score.loss.is_finite(),
        };
        if !equal {
            differs("loss", loss, score.loss);
        }
    }
    Ok(failures)
}

/// Trains a model again from its configuration and compares every state bit for bit. A twin's
/// parent is trained first, and compared through its checksum.
pub fn retrain(
    model: &Sampled,
    record: &ZooRecord,
    engine: &dyn Engine,
    data: &Dataset,
    interrupt: &Interrupt,
) -> Result<Vec<Failure>, EngineError> {
    let id = model.params.id;
    let fail = |message: String| Ok(vec![failure(Level::Retrain, id, names::STATES, message)]);
    #[derive(Deserialize)]
    struct Made {
        train: TrainSection,
        sparsify: Option<Twin>,
    }
    let made: Made = match serde_json::from_value(record.manifest.clone()) {
        Ok(made) => made,
        Err(error) => return fail(format!("zoo.json does not say how it was trained: {error}")),
    };
    let dense = match Task::new(&model.params.hyperparameters, data.shape, data.classes()) {
        Ok(task) => task,
        Err(error) => return fail(error.to_string()),
    };
    let network = dense.network.clone();
    let job = Job { task: dense, annotate: None };
    let parent = run(engine, job, data, &made.train.kept_epochs(), interrupt)?;
    let (Some(named), Some(twin)) = (&model.params.parent, made.sparsify) else {
        return Ok(compare(id, &network, &parent, model));
    };
    let found = states_sha256(&network, &parent);
    if found.to_string() != named.states_sha256 {
        return fail(format!("its parent, trained again, has states of SHA-256 {found}, not {}", named.states_sha256));
    }
    let last = parent.states.last().expect("a trained model has states");
    let parent_params = Params { parent: None, ..model.params.clone() };
    match zoo_sparsify::jobs(&[(&parent_params, last.clone())], &twin, engine, data) {
        Ok(mut jobs) => {
            let found = run(engine, jobs.remove(0), data, &twin.kept_epochs(), interrupt)?;
            Ok(compare(id, &network, &found, model))
        }
        Err(error) => fail(error.to_string()),
    }
}

fn run(
    engine: &dyn Engine,
    job: Job,
    data: &Dataset,
    kept: &[u32],
    interrupt: &Interrupt,
) -> Result<Trajectory, EngineError> {
    let mut progress = Progress::default();
    let ignore = |_: &Progress| Ok(());
    let mut trained = trajectory::train::<EngineError>(engine, &[job], data, kept, &mut progress, interrupt, ignore)?;
    Ok(trained.remove(0))
}

/// SHA-256 of the states file that this trajectory would have.
fn states_sha256(network: &Network, trajectory: &Trajectory) -> Sha256 {
    let epochs: Vec<u32> = trajectory.lines.iter().map(|l| l.training_iteration).collect();
    let mut file = Vec::new();
    states::write_to(&mut file, network, &epochs, &trajectory.states).expect("memory does not fail");
    sha256(&file)
}

fn compare(id: ModelId, network: &Network, found: &Trajectory, recorded: &Sampled) -> Vec<Failure> {
    let mut failures = Vec::new();
    if found.states.len() != recorded.states.len() {
        let message = format!("holds {} states, training again gives {}", recorded.states.len(), found.states.len());
        return vec![failure(Level::Retrain, id, names::STATES, message)];
    }
    let states = found.states.iter().zip(&recorded.states).zip(&recorded.lines);
    let mut different = states.filter(|((a, b), _)| !a.iter().zip(*b).all(|(x, y)| x.to_bits() == y.to_bits()));
    if let Some(((a, b), line)) = different.next() {
        let epoch = line.training_iteration;
        let place = a.iter().zip(b).position(|(x, y)| x.to_bits() != y.to_bits()).expect("they differ");
        let tensor = network.parameters().iter().find(|p| p.range.contains(&place)).expect("a parameter");
        let largest = a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        let message =
            format!("epoch {epoch}: `{}` differs when trained again (largest difference {largest:e})", tensor.name);
        failures.push(failure(Level::Retrain, id, names::STATES, message));
    }
    let lines = |lines: &[ResultLine]| {
        lines.iter().map(|l| ResultLine { extra: Default::default(), ..l.clone() }).collect::<Vec<_>>()
    };
    let (ours, theirs) = (lines(&found.lines), lines(&recorded.lines));
    if let Some((ours, theirs)) = ours.iter().zip(&theirs).find(|(a, b)| a != b) {
        let epoch = theirs.training_iteration;
        let [ours, theirs] = [ours, theirs].map(|line| to_json_lines(std::slice::from_ref(line)));
        let message = format!("epoch {epoch}: training again gives {}, recorded is {}", ours.trim(), theirs.trim());
        failures.push(failure(Level::Retrain, id, names::RESULT, message));
    }
    failures
}
