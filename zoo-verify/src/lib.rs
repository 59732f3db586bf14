//! Verifies model zoos: archives as a stream, with nothing written to disk, and directories.
//!
//! Each [`Level`] rests on those before it: the archive's own checksum, structure, every entry's
//! checksum, meaning; on request, models evaluated again and models trained again. All failures
//! are listed, each with the entry that it is about.
//!
//! ```no_run
//! use std::path::Path;
//! use zoo_verify::{verify, Options};
//!
//! let report = verify(Path::new("quickstart.tar.gz"), &Options::default(), &Default::default())?;
//! assert!(report.ok, "{report}");
//! # Ok::<(), zoo_verify::Error>(())
//! ```

mod again;
mod checker;
mod parents;
mod report;

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::Serialize;
use zoo_model::files::{read_limited, FileError};
use zoo_model::random::{Purpose, Stream};
use zoo_model::zoo_dir::{model_file, names, parse_checksums};
use zoo_model::{Dataset, ModelId};
use zoo_pack::entries::{padding, Entries, Entry};
use zoo_pack::members::{decode, Damage};
use zoo_pack::sums_path;
use zoo_stage::{Interrupted, Stage, UsageError, VerificationFailed};

use checker::{hexadecimal, Checker, Hopeless, HEAD};
pub use report::{Failure, Level, Report, KEPT_FAILURES};

/// Why no verdict could be reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("{0}")]
    File(#[from] FileError),
    /// The command line cannot be carried out.
    #[error("{0}")]
    Usage(#[from] UsageError),
    /// Asked to stop.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
    /// The verdict is no.
    #[error("{0}")]
    Failed(#[from] VerificationFailed),
    /// The system gave no thread.
    #[error("cannot start a thread: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// Models could not be run again.
    #[error("{0}")]
    Cohort(#[from] zoo_train::CohortError),
}

/// Command line of `zoo-verify`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Archives or zoo directories
    #[arg(value_name = "ARCHIVE|DIR", required = true)]
    paths: Vec<PathBuf>,
    /// Checksums and structure only
    #[arg(long, conflicts_with_all = ["replay", "retrain"])]
    quick: bool,
    /// Evaluate K models again: their metrics must be equal (needs --data)
    #[arg(long, value_name = "K", default_value_t = 0, hide_default_value = true, requires = "data")]
    replay: usize,
    /// Train K models again: their bits must be equal (needs --data)
    #[arg(long, value_name = "K", default_value_t = 0, hide_default_value = true, requires = "data")]
    retrain: usize,
    /// The prepared dataset that the zoo was trained on
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// The zoo of a twin's parents; by default looked for beside the twin
    #[arg(long, value_name = "ARCHIVE|DIR")]
    parent: Option<PathBuf>,
    /// Seed of the choice of models to replay and retrain
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Threads; by default one a core
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Option<u32>,
}

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  zoo-verify archives/quickstart.tar.gz
  zoo-verify zoos/quickstart --replay 8 --retrain 1 --data data/quickstart.safetensors
  zoo-verify large.1-of-3.tar.gz large.2-of-3.tar.gz large.3-of-3.tar.gz

Exit codes: 0 verified, 1 could not be read, 2 wrong usage, 3 verification failed, 130 interrupted.";

/// How to verify.
#[derive(Debug, Clone)]
pub struct Options {
    /// Stop after level 3.
    pub quick: bool,
    /// Models to evaluate again.
    pub replay: usize,
    /// Models to train again.
    pub retrain: usize,
    /// The prepared dataset, for the latter two.
    pub data: Option<PathBuf>,
    /// The zoo of a twin's parents.
    pub parent: Option<PathBuf>,
    /// Seed of the choice of models.
    pub seed: u64,
    /// Threads that inflate.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { quick: false, replay: 0, retrain: 0, data: None, parent: None, seed: 0, threads }
    }
}

/// The verdicts on everything that was named.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Whether all of it is sound.
    pub ok: bool,
    /// One report a path.
    pub reports: Vec<Report>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let reports: Vec<String> = self.reports.iter().map(ToString::to_string).collect();
        f.write_str(&reports.join("\n"))
    }
}

/// `zoo-verify`. A verdict of "no" is printed like any other, and is the error too.
pub fn run(args: &Args, stage: &Stage) -> Result<Summary, Error> {
    let default = Options::default();
    let options = Options {
        quick: args.quick,
        replay: args.replay,
        retrain: args.retrain,
        data: args.data.clone(),
        parent: args.parent.clone(),
        seed: args.seed,
        threads: args.threads.map_or(default.threads, |t| t as usize),
    };
    let reports = args.paths.iter().map(|p| verify(p, &options, stage)).collect::<Result<Vec<_>, _>>()?;
    verdict(reports, stage)
}

/// Turns reports into a summary, or into the error that stands for a verdict of "no".
pub fn verdict(reports: Vec<Report>, stage: &Stage) -> Result<Summary, Error> {
    let summary = Summary { ok: reports.iter().all(|r| r.ok), reports };
    if summary.ok {
        return Ok(summary);
    }
    let _ = stage.print(&summary);
    let failed: Vec<String> = summary.reports.iter().filter(|r| !r.ok).map(|r| r.path.display().to_string()).collect();
    Err(VerificationFailed(format!("{}: verification failed", failed.join(", "))).into())
}

/// Verifies one archive or zoo directory.
///
/// # Errors
/// It cannot be read at all. Whatever is wrong with its content is in the report.
pub fn verify(path: &Path, options: &Options, stage: &Stage) -> Result<Report, Error> {
    let data = options.data.as_deref().map(Dataset::read).transpose()?;
    if (options.replay > 0 || options.retrain > 0) && data.is_none() {
        return Err(UsageError("--replay and --retrain need the prepared dataset: --data FILE".into()).into());
    }
    let mut checker = Checker::new(!options.quick);
    let mut notes = Vec::new();
    let mut levels = Vec::new();
    if path.is_dir() {
        directory(path, &mut checker, &mut notes, options, stage)?;
    } else if archive(path, &mut checker, &mut notes, options, stage)? {
        levels.push(Level::Archive);
    }
    checker.finish();
    levels.push(Level::Structure);
    if checker.listed.is_some() {
        levels.push(Level::Checksums);
    }
    let mut report = Report {
        path: path.to_owned(),
        ok: false,
        levels,
        name: checker.record.as_ref().map(|r| r.name.clone()),
        models: checker.models.len(),
        states: checker.states,
        entries: checker.entries,
        bytes: checker.bytes,
        replayed: Vec::new(),
        retrained: Vec::new(),
        notes,
        failures: Vec::new(),
        more_failures: 0,
    };
    if !options.quick {
        report.levels.push(Level::Meaning);
        check_parents(path, &mut checker, &mut report, options)?;
    }
    if let Some(data) = &data {
        run_again(&mut checker, &mut report, data, options, stage)?;
    }
    report.more_failures = checker.failures.more();
    report.failures = checker.failures.kept;
    report.failures.sort_by_key(|f| f.level);
    report.ok = report.failures.is_empty();
    Ok(report)
}

/// Streams an archive through the checker; whether its own checksum was compared.
fn archive(
    path: &Path,
    checker: &mut Checker,
    notes: &mut Vec<String>,
    options: &Options,
    stage: &Stage,
) -> Result<bool, Error> {
    let recorded = recorded_checksum(path)?;
    if recorded.is_none() {
        notes.push("there is no .sha256 file beside it; the archive's own checksum was not compared".into());
    }
    let file = File::open(path).map_err(FileError::io("read", path))?;
    let size = file.metadata().map_err(FileError::io("read", path))?.len();
    let progress = stage.progress("verifying", size);
    let reader = Watched { file, progress, stage };
    let ((), sum) = decode(reader, options.threads, |decoded| {
        let mut entries = Entries::new(decoded);
        let mut spans = Spans::default();
        walk(&mut entries, checker, &mut spans, options);
        spans.describe(&entries.stream().damages, u64::MAX, checker);
    });
    stage.interrupt.check()?;
    match (&recorded, sum) {
        (Some(Err(message)), _) => checker.fail(Level::Archive, "", message),
        (Some(Ok(expected)), Some(found)) if *expected != hexadecimal(&found) => {
            let message = format!("its SHA-256 is {}, the .sha256 file beside it says {expected}", hexadecimal(&found));
            checker.fail(Level::Archive, "", message);
        }
        _ => {}
    }
    Ok(recorded.is_some_and(|r| r.is_err() || sum.is_some()))
}

/// Reads an archive, with progress, until interrupted.
struct Watched<'a> {
    file: File,
    progress: zoo_stage::Progress,
    stage: &'a Stage,
}

impl std::io::Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.stage.interrupt.is_set() {
            return Err(std::io::Error::other(Interrupted));
        }
        let n = self.file.read(buffer)?;
        self.progress.advance(n as u64);
        Ok(n)
    }
}

fn walk(entries: &mut Entries, checker: &mut Checker, spans: &mut Spans, options: &Options) {
    let mut last: Option<(usize, String)> = None;
    while let Some(entry) = entries.next_entry() {
        if checker.is_hopeless() {
            return;
        }
        let entry = match entry {
            Ok(entry) => entry,
            Err(fault) => {
                let folder = checker.record.as_ref().map_or(String::new(), |r| format!("{}/", r.name));
                checker.fail(Level::Structure, fault.path.strip_prefix(&folder).unwrap_or(&fault.path), fault.message);
                checker.cut_short |= fault.fatal;
                continue;
            }
        };
        spans.describe(&entries.stream().damages, entry.start, checker);
        spans.push(&entry);
        let rank = HEAD.iter().position(|&h| h == entry.path).unwrap_or(HEAD.len());
        let place = (rank, entry.path.clone());
        if last.is_none() && rank != 0 {
            checker.fail(Level::Structure, &entry.path, "is the first entry, which SHA256SUMS should be");
        }
        if last.as_ref().is_some_and(|l| *l > place) {
            checker.fail(Level::Structure, &entry.path, "is out of order");
        }
        last = Some(place);
        if rank == HEAD.len() && checker.models.is_empty() {
            let ids = listed_here(checker, &entry.path);
            choose(checker, ids, options);
        }
        if checker.entry(&entry.path, entry.size, &mut entries.content()) == Err(Hopeless) {
            checker.cut_short = true;
            return;
        }
        let named = checker.record.as_ref().is_some_and(|r| entry.path == names::ZOO && r.name != entry.folder);
        if named {
            let message = format!("lies in the folder `{}`, not in one named after the zoo", entry.folder);
            checker.fail(Level::Structure, &entry.path, message);
        }
    }
    if last.is_none() && checker.failures.kept.is_empty() && entries.stream().damages.is_empty() {
        checker.fail(Level::Structure, "", "holds no entry");
    }
}

/// Where entries lie in the decoded stream: the last one, and those that damage not yet described
/// may reach.
#[derive(Default)]
struct Spans {
    /// Start, end and path.
    spans: Vec<(u64, u64, String)>,
    described: usize,
}

impl Spans {
    fn push(&mut self, entry: &Entry) {
        let end = entry.start + 512 + entry.size + padding(entry.size) as u64;
        self.spans.push((entry.start, end, entry.path.clone()));
    }

    /// Notes the damage that ends before `position`, with the entry that it begins in, and forgets
    /// the entries that no other damage can reach.
    fn describe(&mut self, damages: &[Damage], position: u64, checker: &mut Checker) {
        for damage in damages[self.described..].iter().take_while(|d| d.end <= position) {
            let (entry, message) = self.place(damage);
            checker.fail(Level::Structure, &entry, message);
            self.described += 1;
        }
        if self.described == damages.len() {
            self.spans.drain(..self.spans.len().saturating_sub(1));
        }
    }

    fn place(&self, damage: &Damage) -> (String, String) {
        let first = self.spans.partition_point(|(start, ..)| *start <= damage.start).saturating_sub(1);
        let end = self.spans.partition_point(|(start, ..)| *start < damage.end);
        let within = self.spans.get(first..end.max(first + 1)).unwrap_or_default();
        let reach = match within {
            [_, .., (.., last)] => format!(" (the damage may reach up to {last})"),
            _ => String::new(),
        };
        let entry = match within {
            // A cut after a whole entry; what is missing is named as such.
            [(_, end, _)] if *end <= damage.start => String::new(),
            [(.., path), ..] => path.clone(),
            // Nothing could be read, so the damage is in what every archive begins with.
            [] if damage.end > damage.start => names::CHECKSUMS.to_owned(),
            [] => String::new(),
        };
        (entry, format!("at byte {} of the archive: {}{reach}", damage.offset, damage.message))
    }
}

/// The checksum of an archive in the `.sha256` file beside it, or what is wrong with that file; volumes
/// share one. `None` if there is no such file.
fn recorded_checksum(path: &Path) -> Result<Option<Result<String, String>>, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut candidates = vec![sums_path(path)];
    if let Some((stem, number)) = name.strip_suffix(".tar.gz").and_then(|n| n.rsplit_once('.')) {
        if number.contains("-of-") {
            candidates.push(path.with_file_name(format!("{stem}.tar.gz.sha256")));
        }
    }
    let mut recorded = None;
    for candidate in candidates.iter().filter(|c| c.is_file()) {
        let lines = match read_limited(candidate, 1 << 20) {
            Err(FileError::Format { message, .. }) => Err(message),
            text => parse_checksums(&text?),
        };
        let sum = lines.and_then(|lines| {
            let named = lines.into_iter().find(|(file, _)| *file == name);
            named.map(|(_, sum)| sum).ok_or_else(|| "does not name the archive".to_owned())
        });
        let sum =
            sum.map_err(|m| format!("the .sha256 file beside it is no checksum of it: {} {m}", candidate.display()));
        if sum.is_ok() {
            return Ok(Some(sum));
        }
        recorded = Some(sum);
    }
    Ok(recorded)
}

/// Feeds the files of a zoo directory to the checker, in archive order.
fn directory(
    path: &Path,
    checker: &mut Checker,
    notes: &mut Vec<String>,
    options: &Options,
    stage: &Stage,
) -> Result<(), Error> {
    if !path.join(names::ZOO).exists() {
        let message = "has no zoo.json: it is not a zoo, or not finished yet";
        return Err(FileError::format(path, message).into());
    }
    if !path.join(names::CHECKSUMS).exists() {
        notes.push("there is no SHA256SUMS; checksums were not compared".into());
    }
    let mut files = Vec::new();
    list(path, "", &mut files, checker)?;
    let rank = |file: &String| HEAD.iter().position(|h| h == file).unwrap_or(HEAD.len());
    files.sort_by(|a, b| (rank(a), a).cmp(&(rank(b), b)));
    choose(checker, files.iter().filter_map(|f| model_file(f)).map(|(id, _)| id).collect(), options);
    let progress = stage.progress("verifying", files.len() as u64);
    for file in files {
        stage.interrupt.check()?;
        let full = path.join(&file);
        let mut content = File::open(&full).map_err(FileError::io("read", &full))?;
        let size = content.metadata().map_err(FileError::io("read", &full))?.len();
        // A file of impossible size has been noted; in a directory the others can still be read.
        let _ = checker.entry(&file, size, &mut content);
        progress.advance(1);
    }
    Ok(())
}

/// Regular files below a folder; anything else is a failure.
fn list(root: &Path, below: &str, files: &mut Vec<String>, checker: &mut Checker) -> Result<(), Error> {
    let folder = root.join(below);
    for entry in fs::read_dir(&folder).map_err(FileError::io("read", &folder))? {
        let entry = entry.map_err(FileError::io("read", &folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        let kind = entry.file_type().map_err(FileError::io("read", &folder))?;
        if kind.is_dir() {
            list(root, &path, files, checker)?;
        } else if kind.is_file() {
            files.push(path);
        } else {
            checker.fail(Level::Structure, &path, "is neither a regular file nor a folder");
        }
    }
    Ok(())
}

/// Models that are still to come in an archive: all that are listed, or those of the volume that
/// begins with the entry `first`.
fn listed_here(checker: &Checker, first: &str) -> Vec<ModelId> {
    let first = model_file(first).map(|(id, _)| id);
    let range = checker.volumes.as_ref().and_then(|v| v.volumes.iter().find(|v| Some(v.first) == first));
    let offered = |id: &ModelId| range.is_none_or(|v| (v.first..=v.last).contains(id));
    let listed = checker.listed.iter().flat_map(|l| l.keys());
    listed.filter_map(|p| model_file(p)).map(|(id, _)| id).filter(offered).collect()
}

/// Chooses the models to run again; `ids` ascend, and name a model once for each of its files.
fn choose(checker: &mut Checker, mut ids: Vec<ModelId>, options: &Options) {
    ids.dedup();
    Stream::new(options.seed, Purpose::Sample, 0, 0).shuffle(&mut ids);
    checker.wanted.replay = ids.iter().take(options.replay).copied().collect();
    checker.wanted.retrain = ids.iter().take(options.retrain).copied().collect();
}

/// Level 4, last part: every twin's parent is there, with the states that the twin names.
fn check_parents(path: &Path, checker: &mut Checker, report: &mut Report, options: &Options) -> Result<(), Error> {
    let Some(parent) = checker.record.as_ref().and_then(|r| r.parent.clone()) else { return Ok(()) };
    let Some(place) = options.parent.clone().or_else(|| parents::beside(path, &parent.name)) else {
        report.notes.push(format!(
            "the parents' zoo `{}` is not beside it; whether they exist was not checked (--parent names it)",
            parent.name
        ));
        return Ok(());
    };
    let sums = parents::states_checksums(&place)?;
    for (id, expected) in checker.parents.clone() {
        let message = match sums.get(&id) {
            Some(found) if *found == hexadecimal(&expected) => continue,
            Some(found) => {
                let expected = hexadecimal(&expected);
                format!("its parent's states should have SHA-256 {expected}, in {} they have {found}", place.display())
            }
            None => format!("its parent is not in {}", place.display()),
        };
        checker.fail(Level::Meaning, &format!("{}/{id}/{}", names::MODELS, names::PARAMS), message);
    }
    Ok(())
}

/// Levels 5 and 6.
fn run_again(
    checker: &mut Checker,
    report: &mut Report,
    data: &Dataset,
    options: &Options,
    stage: &Stage,
) -> Result<(), Error> {
    let (replay, retrain) = (options.replay > 0, options.retrain > 0);
    let Some(record) = checker.record.clone().filter(|_| replay || retrain) else { return Ok(()) };
    let first = if replay { Level::Replay } else { Level::Retrain };
    let engine = match again::engine(&record, data) {
        Ok(engine) => engine,
        Err(message) => {
            checker.fail(first, names::ZOO, message);
            return Ok(());
        }
    };
    let wanted = checker.wanted.replay.len() + checker.wanted.retrain.len();
    let progress = stage.progress("running again", wanted as u64);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let sampled = std::mem::take(&mut checker.sampled);
    for (id, model) in &sampled {
        if checker.wanted.replay.contains(id) {
            let again = pool.install(|| again::replay(model, engine.as_ref(), data, &stage.interrupt))?;
            again.into_iter().for_each(|f| checker.failures.add(f));
            report.replayed.push(id.to_string());
            progress.advance(1);
        }
        if checker.wanted.retrain.contains(id) {
            let again = pool.install(|| again::retrain(model, &record, engine.as_ref(), data, &stage.interrupt))?;
            again.into_iter().for_each(|f| checker.failures.add(f));
            report.retrained.push(id.to_string());
            progress.advance(1);
        }
    }
    report.levels.extend(replay.then_some(Level::Replay));
    report.levels.extend(retrain.then_some(Level::Retrain));
    Ok(())
}
