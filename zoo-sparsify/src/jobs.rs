//! Twins of single models: what is trained, and what is recorded of it.

use rayon::prelude::*;
use zoo_engine::magnitude::sparsity_ratio;
use zoo_engine::{Engine, ModelSpec, Task};
use zoo_model::files::sha256_file;
use zoo_model::params::Parent;
use zoo_model::stage::Interrupt;
use zoo_model::states::StatesFile;
use zoo_model::{Dataset, ModelId, Params, Split, ZooDir};
use zoo_train::population::ModelSource;
use zoo_train::trajectory::Job;

use crate::methods::Start;
use crate::{SparsifyError, Twin};

/// The task of training on from a parent's last state, a flat vector, pruned if all is removed at once.
///
/// # Errors
/// The parent's configuration names no network.
pub fn task(parent: &Params, last_state: &[f32], twin: &Twin) -> Result<Task, zoo_train::TrainError> {
    let network = parent.network()?;
    let Start { state: initial, mask } = twin.pruning.start(&parent.hyperparameters, &network, last_state, twin.epochs);
    let mut hyperparameters = parent.hyperparameters.clone();
    let epochs_before = hyperparameters.epochs;
    hyperparameters.epochs = twin.epochs;
    hyperparameters.learning_rate = twin.learning_rate.unwrap_or(hyperparameters.learning_rate);
    Ok(Task { network, hyperparameters, initial, mask, epochs_before })
}

/// The jobs of making twins of these parents, given with their last states: tasks, and what is
/// recorded of each state besides the metrics. The parents are of one cohort.
pub fn jobs<'a>(
    parents: &[(&Params, Vec<f32>)],
    twin: &Twin,
    engine: &dyn Engine,
    data: &Dataset,
) -> Result<Vec<Job<'a>>, zoo_train::TrainError> {
    let tasks = parents.iter().map(|(parent, state)| task(parent, state, twin)).collect::<Result<Vec<Task>, _>>()?;
    let dense =
        |(task, (_, state)): (&Task, &(&Params, Vec<f32>))| Task { initial: state.clone(), mask: None, ..task.clone() };
    let dense: Vec<Task> = tasks.iter().zip(parents).map(dense).collect();
    let evaluations = engine.start(&dense, data, None)?.evaluate(Split::Test, &Interrupt::default())?;
    let job = |(task, of_parent): (Task, zoo_engine::Evaluation)| {
        let (network, of_parent) = (task.network.clone(), of_parent.predictions);
        let annotate = move |line: &mut zoo_model::ResultLine, state: &[f32], test: &zoo_engine::Evaluation| {
            line.sparsity_ratio = Some(sparsity_ratio(&network, state));
            let equal = test.predictions.iter().zip(&of_parent).filter(|(a, b)| a == b).count();
            line.test_agreement = (!of_parent.is_empty()).then(|| equal as f64 / of_parent.len() as f64);
        };
        Job { task, annotate: Some(Box::new(annotate)) }
    };
    Ok(tasks.into_iter().zip(evaluations).map(job).collect())
}

/// `params.json` of the twin of `parent`, which holds its hyperparameters and names it.
pub fn twin_params(parent: &Params, zoo: &str, states_sha256: String, twin: &Twin) -> Params {
    let mut params = parent.clone();
    params.parent = Some(Parent { zoo: zoo.to_owned(), id: parent.id, states_sha256 });
    let mut record = |key: &str, value: serde_json::Value| params.extra.insert(format!("sparsify::{key}"), value);
    record("method", twin.pruning.method().name().into());
    for (key, value) in twin.pruning.params() {
        record(key, value);
    }
    record("epochs", twin.epochs.into());
    record("lr", twin.learning_rate.unwrap_or(parent.hyperparameters.learning_rate).into());
    params
}

/// The twins of a zoo's models.
pub(crate) struct Twins<'a> {
    parent: &'a ZooDir,
    zoo_name: &'a str,
    params: Vec<Params>,
    twin: &'a Twin,
}

impl<'a> Twins<'a> {
    /// The twins of all models of the zoo `parent`, which is called `zoo_name`.
    pub(crate) fn new(parent: &'a ZooDir, zoo_name: &'a str, twin: &'a Twin) -> Result<Self, SparsifyError> {
        let params = parent.ids()?.par_iter().map(|&id| parent.params(id)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { parent, zoo_name, params, twin })
    }
}

impl ModelSource for Twins<'_> {
    fn models(&self) -> Vec<(ModelId, ModelSpec)> {
        self.params.iter().map(|p| (p.id, self.twin.spec(p.hyperparameters.clone()))).collect()
    }

    fn jobs(
        &self,
        indices: &[usize],
        engine: &dyn Engine,
        data: &Dataset,
    ) -> Result<Vec<(Params, Job<'_>)>, zoo_train::TrainError> {
        let read = |&i: &usize| -> Result<_, zoo_train::TrainError> {
            let parent = &self.params[i];
            let path = self.parent.states(parent.id);
            let damaged = |e| self.parent.damaged(e);
            let (_, last_state) =
                StatesFile::open(&path, &parent.network()?).and_then(|mut f| f.last()).map_err(damaged)?;
            Ok(((parent, last_state), twin_params(parent, self.zoo_name, sha256_file(&path)?.to_string(), self.twin)))
        };
        let read = indices.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let (parents, params): (Vec<_>, Vec<Params>) = read.into_iter().unzip();
        Ok(params.into_iter().zip(self::jobs(&parents, self.twin, engine, data)?).collect())
    }
}
