//! Archives and directories to verdicts.

use std::path::{Path, PathBuf};

use zoo_model::stage::{Stage, UsageError};
use zoo_model::Dataset;

use crate::checker::{Checker, Totals};
use crate::volumes::{files_at, in_order};
use crate::{archive, directory, parents, rerun};
use crate::{Level, Options, Report, VerifyError, VerifySummary, VolumesHere};

/// Verifies archives and zoo directories, the volumes of a zoo together; `complete` demands all of them.
///
/// # Errors
/// A verdict of "no", or something that cannot be read; the summary of all the rest is part of the error.
pub fn verify_all(
    paths: &[PathBuf],
    complete: bool,
    options: &Options,
    stage: &Stage,
) -> Result<VerifySummary, VerifyError> {
    let data = options.data.as_deref().map(Dataset::read).transpose()?;
    let (mut reports, mut errors) = (Vec::new(), Vec::new());
    let mut before = Totals::default();
    let paths: Vec<PathBuf> = paths.iter().flat_map(|path| files_at(path)).collect();
    for path in in_order(&paths) {
        match verify_after(std::mem::take(&mut before), path, options, data.as_ref(), stage) {
            Ok((report, totals)) => {
                reports.push(report);
                before = totals;
            }
            Err(interrupted @ VerifyError::Interrupted(_)) => return Err(interrupted),
            Err(error) => errors.push(error),
        }
    }
    VerifySummary::conclude(reports, errors, complete)
}

/// Verifies one archive or zoo directory.
///
/// # Errors
/// It cannot be read at all. Whatever is wrong with its content is in the report.
pub fn verify(path: &Path, options: &Options, stage: &Stage) -> Result<Report, VerifyError> {
    let data = options.data.as_deref().map(Dataset::read).transpose()?;
    verify_after(Totals::default(), path, options, data.as_ref(), stage).map(|(report, _)| report)
}

/// [`verify`], continuing what was read of the zoo's volumes before this one.
fn verify_after(
    before: Totals,
    path: &Path,
    options: &Options,
    data: Option<&Dataset>,
    stage: &Stage,
) -> Result<(Report, Totals), VerifyError> {
    let data = match (data, options.replay > 0 || options.retrain > 0) {
        (None, true) => {
            return Err(UsageError("--replay and --retrain need the prepared dataset: --data FILE".into()).into())
        }
        (data, true) => data,
        (_, false) => None,
    };
    if let Some(data) = data {
        rerun::check_engine(path, data, options)?;
    }
    let is_directory = path.is_dir();
    let mut checker = Checker::new(!options.quick, if is_directory { Totals::default() } else { before });
    let mut notes = Vec::new();
    let mut levels = Vec::new();
    if is_directory {
        directory::read(path, &mut checker, &mut notes, options, stage)?;
    } else if archive::read(path, &mut checker, &mut notes, options, stage)? {
        levels.push(Level::Archive);
    }
    let volumes = checker.finish(!is_directory);
    levels.push(Level::Structure);
    if checker.listed.is_some() {
        levels.push(Level::Checksums);
    }
    let mut report = report_so_far(path, &checker, levels, volumes, notes);
    if !options.quick {
        report.levels.push(Level::Meaning);
        parents::check(path, &mut checker, &mut report, options)?;
    }
    if let Some(data) = data {
        rerun::rerun(&mut checker, &mut report, data, options, stage)?;
    }
    report.more_failures = checker.failures.not_kept();
    report.failures = checker.failures.kept;
    report.failures.sort_by_key(|f| f.level);
    report.ok = report.failures.is_empty();
    Ok((report, checker.totals))
}

/// The report on what was read, without failures.
fn report_so_far(
    path: &Path,
    checker: &Checker,
    levels: Vec<Level>,
    volumes: Option<VolumesHere>,
    notes: Vec<String>,
) -> Report {
    Report {
        path: path.to_owned(),
        ok: false,
        levels,
        name: checker.record.as_ref().map(|r| r.name.clone()),
        volumes,
        models: checker.models.len(),
        states: checker.states,
        entries: checker.entries,
        bytes: checker.bytes,
        replayed: Vec::new(),
        retrained: Vec::new(),
        notes,
        failures: Vec::new(),
        more_failures: 0,
    }
}
