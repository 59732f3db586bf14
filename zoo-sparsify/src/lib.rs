//! Prunes a zoo into its sparse twin zoo: one twin per model, of the same id.
//!
//! By magnitude ([`magnitude`]), the smallest weights of a model's last state are removed, at once
//! or along a ramp, and training goes on with what is left. By variational dropout
//! ([`variational`]), training finds which weights drown in a noise of their own. Either way it is
//! on the same data, with the parent's optimiser from fresh moments. Random draws continue where
//! the parent's training ended: the twin's epoch e is drawn as epoch (parent's epochs + e).
//!
//! ```no_run
//! use std::path::Path;
//! use zoo_model::{Manifest, Plan};
//! use zoo_sparsify::{sparsify, twins};
//! use zoo_train::{registry, Settings};
//!
//! let manifest = Manifest::load(Path::new("configs/quickstart.toml"))?;
//! let (zoo, data) = (Path::new("zoos/quickstart"), Path::new("data/quickstart.safetensors"));
//! for twin in twins(&manifest)? {
//!     let model = twin.spec(Plan::new(&manifest)?.models[0].hyperparameters.clone());
//!     let engine = registry::on_processor(None, &model)?;
//!     let output = Path::new("zoos").join(twin.zoo_name("quickstart"));
//!     println!("{}", sparsify(zoo, data, &output, &twin, engine.as_ref(), &Settings::default(), &Default::default())?);
//! }
//! # Ok::<(), zoo_sparsify::Error>(())
//! ```

mod section;

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use zoo_cli::ManifestArgs;
use zoo_engine::magnitude::Ramp;
use zoo_engine::variational::Variational;
use zoo_engine::{Engine, Evaluation, Mask, ModelSpec, Task};
use zoo_model::files::{fingerprint, sha256_file, FileError};
use zoo_model::hyperparameters::{name_of, Parent};
use zoo_model::stage::{Interrupt, Stage, UsageError};
use zoo_model::states::StatesFile;
use zoo_model::text::counted;
use zoo_model::zoo_dir::{DatasetRecord, EngineRecord, ParentZoo};
use zoo_model::{Dataset, ManifestError, ModelId, Params, Split, ZooDir, ZooRecord, FORMAT_VERSION};
use zoo_train::cli::TrainingArgs;
use zoo_train::population::{self, ModelSource};
use zoo_train::trajectory::Job;
use zoo_train::{Population, Settings, Summary};

pub use section::{twins, Method, Twin};
pub use zoo_engine::{magnitude, variational};

/// Why sparsification failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A mistake in the manifest.
    #[error("{0}")]
    Manifest(#[from] ManifestError),
    /// A file could not be read, written or understood.
    #[error("{0}")]
    File(#[from] FileError),
    /// The command line cannot be carried out.
    #[error("{0}")]
    Usage(#[from] UsageError),
    /// Fine-tuning failed, or was interrupted.
    #[error("{0}")]
    Train(#[from] zoo_train::Error),
}

/// Command line of `zoo-sparsify`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    manifest: ManifestArgs,
    /// The zoo to prune, made by zoo-train
    #[arg(long, value_name = "DIR")]
    zoo: PathBuf,
    /// The prepared dataset that it was trained on
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Twin zoo directory to make
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Which twin of the manifest, such as magnitude-80; by default the one that the output is named after
    #[arg(long, value_name = "TWIN")]
    twin: Option<String>,
    /// Fine-tune on this dataset even if zoo.json names another, or none; shape and classes must agree
    #[arg(long)]
    any_data: bool,
    #[command(flatten)]
    training: TrainingArgs,
}

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  zoo-sparsify configs/quickstart.toml --zoo zoos/quickstart --data data/quickstart.safetensors \\
      -o zoos/quickstart-magnitude-80
  zoo-sparsify my.toml --zoo zoos/my --data data/my.safetensors -o twin --twin magnitude-50

Interrupted (Ctrl-C, SIGTERM, even SIGKILL), the same command goes on where it stopped.
Exit codes: 0 done, 1 failed, 2 wrong usage or manifest, 130 interrupted.";

/// `zoo-sparsify`.
pub fn run(args: &Args, stage: &Stage) -> Result<Summary, Error> {
    let manifest = args.manifest.load()?;
    let twin = choose(&twins(&manifest)?, args)?;
    let training = &args.training;
    let parent = ZooDir::new(&args.zoo);
    parent.finished()?;
    let first = *parent.ids()?.first().ok_or_else(|| UsageError(format!("{} has no model", args.zoo.display())))?;
    let model = twin.spec(parent.params(first)?.hyperparameters);
    let engine = training.engine(&model, stage)?;
    let settings = Settings { any_data: args.any_data, ..training.settings() };
    sparsify(&args.zoo, &args.data, &args.output, &twin, engine.as_ref(), &settings, stage)
}

fn choose(twins: &[Twin], args: &Args) -> Result<Twin, UsageError> {
    let output = args.output.file_name().unwrap_or_default().to_string_lossy();
    let named = |twin: &&Twin| match &args.twin {
        Some(name) => twin.suffix == *name,
        None => output.ends_with(&format!("-{}", twin.suffix)),
    };
    let all = || twins.iter().map(|t| t.suffix.as_str()).collect::<Vec<_>>().join(", ");
    match (twins, twins.iter().find(named)) {
        ([], _) => Err(UsageError(format!("{} has no [[sparsify]] entry", args.manifest.manifest.display()))),
        (_, Some(twin)) => Ok(twin.clone()),
        ([only], None) if args.twin.is_none() && !is_named_after_a_twin(&output) => Ok(only.clone()),
        _ => Err(UsageError(format!("which twin? Name one with --twin: {}", all()))),
    }
}

/// Whether a folder's name is that of a twin: `...-magnitude-70`, `...-variational-dropout`.
fn is_named_after_a_twin(folder: &str) -> bool {
    if folder.contains(&format!("-{}", Method::VariationalDropout.name())) {
        return true;
    }
    let percent = folder.rsplit_once("-magnitude-").map(|(_, percent)| percent);
    percent.and_then(|p| p.split('-').next()).is_some_and(|p| p.parse::<f64>().is_ok())
}

/// Makes the twin zoo of `zoo` at `output`.
///
/// Does nothing if that is up to date, goes on if it is unfinished.
///
/// # Errors
/// The zoo was trained on another dataset, unless the settings allow it; and as [`Population::make`].
pub fn sparsify(
    zoo: &Path,
    data: &Path,
    output: &Path,
    twin: &Twin,
    engine: &dyn Engine,
    settings: &Settings,
    stage: &Stage,
) -> Result<Summary, Error> {
    let parent = ZooDir::new(zoo);
    let parent_record = parent.finished()?;
    let dataset = Dataset::read(data)?;
    check_data(&parent, &parent_record, &dataset, settings.any_data)?;
    let record = record(&parent_record, fingerprint_of(&parent, &parent_record)?, twin, &dataset, engine);
    let ids = parent.ids()?;
    let params = ids.par_iter().map(|&id| parent.params(id)).collect::<Result<Vec<_>, _>>()?;
    let source = Twins { parent: &parent, zoo_name: &parent_record.name, params, twin };
    let population = Population {
        zoo: &ZooDir::new(output),
        record: &record,
        source: &source,
        engine,
        data: &dataset,
        kept_epochs: &twin.kept_epochs(),
    };
    Ok(population.make(settings, stage)?)
}

/// Whether the twin zoo at `output` is finished and made of today's parent, settings and engine.
pub fn is_up_to_date(
    zoo: &Path,
    dataset: &Dataset,
    output: &Path,
    twin: &Twin,
    engine: &dyn Engine,
) -> Result<bool, Error> {
    let parent = ZooDir::new(zoo);
    let Some(parent_record) = parent.record()? else { return Ok(false) };
    let wanted = record(&parent_record, fingerprint_of(&parent, &parent_record)?, twin, dataset, engine);
    Ok(population::is_current(&ZooDir::new(output), &wanted)?)
}

/// Checks that the dataset is the one that a zoo was trained on, or with `any_data` that it could be.
fn check_data(parent: &ZooDir, record: &ZooRecord, dataset: &Dataset, any_data: bool) -> Result<(), UsageError> {
    let (path, known, given) = (parent.path().display(), &record.dataset, dataset.sha256());
    let is_alike = (known.shape, known.classes) == (dataset.shape, dataset.classes());
    let fault = match (known.sha256.as_str(), any_data) {
        (known, _) if known == given => return Ok(()),
        (_, true) if is_alike => return Ok(()),
        (_, true) => {
            format!(
                "{path} does not fit the dataset: its images have the shape {:?} and {} classes, the given ones {:?} and {}",
                known.shape,
                known.classes,
                dataset.shape,
                dataset.classes()
            )
        }
        ("", false) => format!("zoo.json of {path} does not say on which dataset file it was trained; take the given one with --any-data"),
        (known, false) => format!(
            "{path} was trained on another dataset file than the one given (SHA-256 {known}, not {given}); take the given one all the same with --any-data"
        ),
    };
    Err(UsageError(fault))
}

/// The fingerprint that stands for a parent zoo: its own, or that of its record if another program made it.
fn fingerprint_of(parent: &ZooDir, record: &ZooRecord) -> Result<String, FileError> {
    match record.fingerprint.as_str() {
        "" => sha256_file(&parent.record_path()),
        known => Ok(known.to_owned()),
    }
}

/// The record that the twin of a zoo with this record will have, its counts of states and diverged
/// models still 0.
pub fn record(
    parent_record: &ZooRecord,
    parent_fingerprint: String,
    twin: &Twin,
    dataset: &Dataset,
    engine: &dyn Engine,
) -> ZooRecord {
    let engine = EngineRecord { name: engine.name().into(), version: engine.version() };
    let mut manifest = parent_record.manifest.clone();
    if !manifest.is_object() {
        manifest = serde_json::json!({});
    }
    manifest["sparsify"] = serde_json::to_value(twin).expect("plain data serialises");
    let fingerprint = fingerprint(&(FORMAT_VERSION, &parent_fingerprint, twin, dataset.sha256(), &engine));
    ZooRecord {
        format_version: FORMAT_VERSION,
        name: twin.zoo_name(&parent_record.name),
        description: description(&parent_record.name, twin),
        parent: Some(ParentZoo { name: parent_record.name.clone(), fingerprint: parent_fingerprint }),
        manifest,
        dataset: DatasetRecord::new(dataset),
        engine: Some(engine),
        states: 0,
        diverged: 0,
        fingerprint,
        ..parent_record.clone()
    }
}

fn description(parent: &str, twin: &Twin) -> String {
    let epochs = counted(twin.epochs as usize, "epoch");
    match twin.method {
        Method::Magnitude { sparsity, ramp_epochs, .. } => {
            let percent = ((1.0 - sparsity) * 1e8).round() / 1e6;
            let ramp = ramp_epochs.map(|n| format!(" over {}", counted(n as usize, "epoch"))).unwrap_or_default();
            format!(
                "Sparse twins of {parent}: magnitude pruning to {percent} % of the weights{ramp}, {epochs} of fine-tuning."
            )
        }
        Method::VariationalDropout => format!("Sparse twins of {parent}: {epochs} of variational dropout."),
    }
}

/// The task of training on from a parent's last state, pruned if all is removed at once.
///
/// # Errors
/// The parent's configuration names no network.
pub fn task(parent: &Params, last_state: &[f32], twin: &Twin) -> Result<Task, zoo_train::Error> {
    let network = parent.network()?;
    let mut initial = last_state.to_vec();
    let mask = match twin.method {
        Method::Magnitude { sparsity, scope, ramp_epochs: None } => {
            let mask = magnitude::mask(&network, last_state, sparsity, scope);
            magnitude::apply(&mask, &mut initial);
            Mask::Fixed(mask)
        }
        Method::Magnitude { sparsity, scope, ramp_epochs: Some(epochs) } => {
            Mask::Ramp(Ramp { sparsity, scope, epochs })
        }
        Method::VariationalDropout => Mask::Variational(Variational { epochs: twin.epochs }),
    };
    let mut hyperparameters = parent.hyperparameters.clone();
    let epochs_before = hyperparameters.epochs;
    hyperparameters.epochs = twin.epochs;
    hyperparameters.learning_rate = twin.learning_rate.unwrap_or(hyperparameters.learning_rate);
    Ok(Task { network, hyperparameters, initial, mask: Some(mask), epochs_before })
}

/// The jobs of making twins of these parents, given with their last states: tasks, and what is
/// recorded of each state besides the metrics. The parents are of one cohort.
pub fn jobs<'a>(
    parents: &[(&Params, Vec<f32>)],
    twin: &Twin,
    engine: &dyn Engine,
    data: &Dataset,
) -> Result<Vec<Job<'a>>, zoo_train::Error> {
    let tasks = parents.iter().map(|(parent, state)| task(parent, state, twin)).collect::<Result<Vec<Task>, _>>()?;
    let dense =
        |(task, (_, state)): (&Task, &(&Params, Vec<f32>))| Task { initial: state.clone(), mask: None, ..task.clone() };
    let dense: Vec<Task> = tasks.iter().zip(parents).map(dense).collect();
    let evaluations = engine.start(&dense, data, None)?.evaluate(Split::Test, &Interrupt::default())?;
    let job = |(task, of_parent): (Task, Evaluation)| {
        let (network, of_parent) = (task.network.clone(), of_parent.predictions);
        let annotate = move |line: &mut zoo_model::ResultLine, state: &[f32], test: &Evaluation| {
            line.sparsity_ratio = Some(magnitude::sparsity_ratio(&network, state));
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
    record("method", twin.method.name().into());
    if let Method::Magnitude { sparsity, scope, ramp_epochs } = twin.method {
        record("sparsity", sparsity.into());
        record("scope", name_of(&scope).into());
        if let Some(epochs) = ramp_epochs {
            record("schedule", "cubic".into());
            record("ramp_epochs", epochs.into());
        }
    }
    record("epochs", twin.epochs.into());
    record("lr", twin.learning_rate.unwrap_or(parent.hyperparameters.learning_rate).into());
    params
}

/// The twins of a zoo's models.
struct Twins<'a> {
    parent: &'a ZooDir,
    zoo_name: &'a str,
    params: Vec<Params>,
    twin: &'a Twin,
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
    ) -> Result<Vec<(Params, Job<'_>)>, zoo_train::Error> {
        let read = |&i: &usize| -> Result<_, zoo_train::Error> {
            let parent = &self.params[i];
            let path = self.parent.states(parent.id);
            let damaged = |e| self.parent.damaged(e);
            let (_, last_state) =
                StatesFile::open(&path, &parent.network()?).and_then(|mut f| f.last()).map_err(damaged)?;
            Ok(((parent, last_state), twin_params(parent, self.zoo_name, sha256_file(&path)?, self.twin)))
        };
        let read = indices.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let (parents, params): (Vec<_>, Vec<Params>) = read.into_iter().unzip();
        Ok(params.into_iter().zip(self::jobs(&parents, self.twin, engine, data)?).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_named_after_twins_are_told_apart_from_others() {
        for named in ["z-magnitude-70", "z-magnitude-82.5-layer", "z-magnitude-80-cubic", "z-variational-dropout"] {
            assert!(is_named_after_a_twin(named), "{named}");
        }
        assert!(!is_named_after_a_twin("my-magnitude-study") && !is_named_after_a_twin("twin"));
    }
}
