//! Twin zoos: made of a parent zoo, and recognised as up to date.

use std::path::Path;

use zoo_engine::Engine;
use zoo_model::files::{fingerprint, sha256_file, FileError};
use zoo_model::stage::{Stage, UsageError};
use zoo_model::zoo_dir::{DatasetRecord, EngineRecord, ParentZoo};
use zoo_model::{Dataset, ZooDir, ZooRecord, FORMAT_VERSION};
use zoo_train::{population, Population, Settings, TrainSummary};

use crate::jobs::Twins;
use crate::{SparsifyError, Twin};

/// What a twin zoo is made of, and where.
#[derive(Debug, Clone, Copy)]
pub struct TwinPaths<'a> {
    /// The parent zoo, finished.
    pub parent: &'a Path,
    /// The prepared dataset.
    pub data: &'a Path,
    /// The twin zoo.
    pub output: &'a Path,
}

/// Makes a twin zoo.
///
/// Does nothing if that is up to date, resumes if it is unfinished.
///
/// # Errors
/// The zoo was trained on another dataset, unless the settings allow it; and as [`Population::make`].
pub fn sparsify(
    paths: TwinPaths,
    twin: &Twin,
    engine: &dyn Engine,
    settings: &Settings,
    stage: &Stage,
) -> Result<TrainSummary, SparsifyError> {
    let parent = ZooDir::new(paths.parent);
    let parent_record = parent.finished()?;
    let dataset = Dataset::read(paths.data)?;
    check_data(&parent, &parent_record, &dataset, settings.any_data)?;
    let record = record(&parent_record, fingerprint_of(&parent, &parent_record)?, twin, &dataset, engine);
    let source = Twins::new(&parent, &parent_record.name, twin)?;
    let population = Population {
        zoo: &ZooDir::new(paths.output),
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
) -> Result<bool, SparsifyError> {
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
        ("", false) => format!("zoo.json of {path} does not record the dataset file; use the given one with --any-data"),
        (known, false) => format!(
            "{path} was trained on another dataset file than the one given (SHA-256 {known}, not {given}); use the given one anyway with --any-data"
        ),
    };
    Err(UsageError(fault))
}

/// The fingerprint that stands for a parent zoo: its own, or that of its record if another program made it.
fn fingerprint_of(parent: &ZooDir, record: &ZooRecord) -> Result<String, FileError> {
    match record.fingerprint.as_str() {
        "" => Ok(sha256_file(&parent.record_path())?.to_string()),
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
        description: format!("Sparse twins of {}: {}.", parent_record.name, twin.pruning.describe(twin.epochs)),
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
