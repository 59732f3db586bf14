//! Models trained again.

use serde::Deserialize;
use zoo_engine::{Engine, EngineError, Task};
use zoo_model::files::{sha256, Sha256};
use zoo_model::plan::TrainSection;
use zoo_model::result::to_json_lines;
use zoo_model::stage::Interrupt;
use zoo_model::zoo_dir::names;
use zoo_model::{states, Dataset, ModelId, Network, Params, ResultLine, ZooRecord};
use zoo_sparsify::Twin;
use zoo_train::registry;
use zoo_train::trajectory::{self, Job, Progress, Sink};

use super::failure;
use crate::checker::Sampled;
use crate::{Failure, Level};

/// The sections of a manifest that say how a zoo was trained.
#[derive(Deserialize)]
struct Recipe {
    train: TrainSection,
    sparsify: Option<Twin>,
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
    let recipe: Recipe = match serde_json::from_value(record.manifest.clone()) {
        Ok(recipe) => recipe,
        Err(error) => return fail(format!("zoo.json does not say how it was trained: {error}")),
    };
    let dense = match Task::new(&model.params.hyperparameters, data.shape, data.classes()) {
        Ok(task) => task,
        Err(error) => return fail(error.to_string()),
    };
    if let Err(error) = registry::check(engine, &dense.spec()) {
        return fail(error.to_string());
    }
    let network = dense.network.clone();
    let job = Job { task: dense, annotate: None };
    let parent = train(engine, job, data, &recipe.train.kept_epochs(), interrupt)?;
    let (Some(named), Some(twin)) = (&model.params.parent, recipe.sparsify) else {
        return Ok(compare(id, &network, &parent, model));
    };
    let found = states_sha256(&network, &parent);
    if found.to_string() != named.states_sha256 {
        let expected = &named.states_sha256;
        return fail(format!("retraining its parent gives states with SHA-256 {found}, expected {expected}"));
    }
    let last = parent.states.last().expect("a trained model has states");
    let parent_params = Params { parent: None, ..model.params.clone() };
    match zoo_sparsify::jobs(&[(&parent_params, last.clone())], &twin, engine, data) {
        Ok(mut jobs) => {
            let found = train(engine, jobs.remove(0), data, &twin.kept_epochs(), interrupt)?;
            Ok(compare(id, &network, &found, model))
        }
        Err(error) => fail(error.to_string()),
    }
}

/// Trains one model.
fn train(
    engine: &dyn Engine,
    job: Job,
    data: &Dataset,
    kept: &[u32],
    interrupt: &Interrupt,
) -> Result<Trajectory, EngineError> {
    let (mut progress, mut kept_states) = (Progress::default(), KeptStates::default());
    trajectory::train(engine, &[job], data, kept, &mut progress, interrupt, &mut kept_states)?;
    Ok(Trajectory { lines: progress.lines.remove(0), states: kept_states.0 })
}

/// What a model leaves: one line and one flat state per kept epoch.
struct Trajectory {
    lines: Vec<ResultLine>,
    states: Vec<Vec<f32>>,
}

/// The states of one model in training.
#[derive(Default)]
struct KeptStates(Vec<Vec<f32>>);

impl Sink for KeptStates {
    type Error = EngineError;

    fn keep(&mut self, states: Vec<Vec<f32>>) -> Result<(), EngineError> {
        self.0.extend(states);
        Ok(())
    }

    fn pass(&mut self, _: &Progress) -> Result<(), EngineError> {
        Ok(())
    }
}

/// SHA-256 of the states file that this trajectory would have.
fn states_sha256(network: &Network, trajectory: &Trajectory) -> Sha256 {
    let epochs: Vec<u32> = trajectory.lines.iter().map(|l| l.training_iteration).collect();
    let mut file = Vec::new();
    states::write_to(&mut file, network, &epochs, &trajectory.states).expect("writing to memory cannot fail");
    sha256(&file)
}

/// The first differences of states and of metrics.
fn compare(id: ModelId, network: &Network, found: &Trajectory, recorded: &Sampled) -> Vec<Failure> {
    let mut failures = Vec::new();
    if found.states.len() != recorded.states.len() {
        let message = format!("contains {} states, retraining gives {}", recorded.states.len(), found.states.len());
        return vec![failure(Level::Retrain, id, names::STATES, message)];
    }
    let states = found.states.iter().zip(&recorded.states).zip(&recorded.lines);
    let mut different = states.filter(|((a, b), _)| !a.iter().zip(*b).all(|(x, y)| x.to_bits() == y.to_bits()));
    if let Some(((a, b), line)) = different.next() {
        let epoch = line.training_iteration;
        let first = a.iter().zip(b).position(|(x, y)| x.to_bits() != y.to_bits()).expect("they differ");
        let tensor = network.parameters().iter().find(|p| p.range.contains(&first)).expect("a parameter");
        let largest = a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        let name = &tensor.name;
        let message = format!("epoch {epoch}: `{name}` differs after retraining (largest difference {largest:e})");
        failures.push(failure(Level::Retrain, id, names::STATES, message));
    }
    let lines = |lines: &[ResultLine]| {
        lines.iter().map(|l| ResultLine { extra: Default::default(), ..l.clone() }).collect::<Vec<_>>()
    };
    let (ours, theirs) = (lines(&found.lines), lines(&recorded.lines));
    if let Some((ours, theirs)) = ours.iter().zip(&theirs).find(|(a, b)| a != b) {
        let epoch = theirs.training_iteration;
        let [ours, theirs] = [ours, theirs].map(|line| to_json_lines(std::slice::from_ref(line)));
        let message = format!("epoch {epoch}: retraining gives {}, recorded: {}", ours.trim(), theirs.trim());
        failures.push(failure(Level::Retrain, id, names::RESULT, message));
    }
    failures
}
