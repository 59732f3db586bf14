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
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;
use zoo_model::files::{is_system_file, read_limited, sha256, sha256_file, FileError, Sha256};
use zoo_model::random::{Purpose, Stream};
use zoo_model::stage::{Interrupted, Stage, SummaryError, UsageError};
use zoo_model::text::counted;
use zoo_model::zoo_dir::{model_file, names, parse_checksums, RECORD_LIMIT};
use zoo_model::{Dataset, ModelId, ZooDir, ZooRecord};
use zoo_pack::entries::{padding, Entries, Entry};
use zoo_pack::members::{decode, Damage, Origin, HEADER};
use zoo_pack::{sums_path, Volumes, VOLUMES};

use checker::{size_limit, Checker, Hopeless, Whole, HEAD};
pub use report::{Failure, Level, Report, VolumeSet, VolumesHere, KEPT_FAILURES};

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
    /// The verdict is no, or there are verdicts, all of them yes, but not on everything that was named.
    #[error("{0}")]
    Failed(#[from] SummaryError),
    /// The system gave no thread.
    #[error("cannot start a thread: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// Models could not be run again.
    #[error("{0}")]
    Cohort(#[from] zoo_engine::EngineError),
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
    /// Fail unless all volumes of a zoo are named
    #[arg(long)]
    complete: bool,
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
  zoo-verify --complete large.*-of-3.tar.gz      # all volumes: together they are the whole zoo

Exit codes: 0 verified, 1 could not be read, 2 wrong usage or models that cannot be run again,
3 verification failed, 130 interrupted.";

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
    /// Which volumes were verified, of zoos that have several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeSet>,
    /// Why there is no report on the other paths.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

impl Summary {
    fn new(reports: Vec<Report>) -> Self {
        let volumes = VolumeSet::of(&reports);
        Self { ok: reports.iter().all(|r| r.ok), reports, volumes, errors: Vec::new() }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let reports = self.reports.iter().map(ToString::to_string);
        let lines: Vec<String> = reports.chain(self.volumes.iter().map(ToString::to_string)).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// `zoo-verify`. A verdict of "no" is printed like any other, and is the error too; so are verdicts on a
/// part of what was named.
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
    verify_all(&args.paths, args.complete, &options, stage)
}

/// Verifies archives and zoo directories, the volumes of a zoo together; `complete` demands all of them.
///
/// # Errors
/// A verdict of "no", or something that cannot be read; the summary of all the rest has been printed.
pub fn verify_all(paths: &[PathBuf], complete: bool, options: &Options, stage: &Stage) -> Result<Summary, Error> {
    let data = options.data.as_deref().map(Dataset::read).transpose()?;
    let (mut reports, mut errors) = (Vec::new(), Vec::new());
    let mut before = Whole::default();
    let paths: Vec<PathBuf> = paths.iter().flat_map(|path| files_at(path)).collect();
    for path in in_order(&paths) {
        match verify_after(std::mem::take(&mut before), path, options, data.as_ref(), stage) {
            Ok((report, whole)) => {
                reports.push(report);
                before = whole;
            }
            Err(interrupted @ Error::Interrupted(_)) => return Err(interrupted),
            Err(error) => errors.push(error),
        }
    }
    let mut summary = Summary::new(reports);
    summary.errors = errors.iter().map(ToString::to_string).collect();
    let incomplete = complete && summary.volumes.iter().any(|set| !set.complete);
    summary.ok &= errors.is_empty() && !incomplete;
    conclude(summary, complete, errors)
}

/// The summary if all is well. Else it is printed, unless it says nothing, and the worst is the error.
fn conclude(summary: Summary, complete: bool, mut errors: Vec<Error>) -> Result<Summary, Error> {
    if summary.ok {
        return Ok(summary);
    }
    let failed = summary.reports.iter().filter(|r| !r.ok).map(|r| r.path.display().to_string());
    let incomplete = summary.volumes.iter().filter(|set| complete && !set.complete).map(|set| set.name.clone());
    let failed: Vec<String> = failed.chain(incomplete).collect();
    if failed.is_empty() && summary.reports.is_empty() && errors.len() == 1 {
        return Err(errors.remove(0));
    }
    if failed.is_empty() {
        let message = summary.errors.join("; ");
        let usage = errors.iter().position(|e| matches!(e, Error::Usage(_))).unwrap_or(0);
        let source = errors.swap_remove(usage);
        return Err(SummaryError::new(&summary, message, Some(source.into())).into());
    }
    let failed = format!("{}: verification failed", failed.join(", "));
    let message = std::iter::once(failed).chain(summary.errors.clone()).collect::<Vec<_>>().join("; ");
    Err(SummaryError::new(&summary, message, None).into())
}

/// The path itself, or the volumes that `NAME.tar.gz` stands for if there is no such file.
fn files_at(path: &Path) -> Vec<PathBuf> {
    let listed = if path.exists() { Vec::new() } else { zoo_pack::archives(path).unwrap_or_default() };
    let there: Vec<PathBuf> = listed.into_iter().filter(|volume| volume.is_file()).collect();
    if there.is_empty() {
        vec![path.to_owned()]
    } else {
        there
    }
}

/// The paths, with the volumes of a zoo in their order where the first of them is, whatever their names, and
/// after them those that are named again.
fn in_order(paths: &[PathBuf]) -> Vec<&Path> {
    let mut zoos: Vec<(Sha256, usize, Vec<usize>)> = Vec::new();
    let mut keyed: Vec<_> = (0..).zip(paths).map(|(i, path)| ((i, 0, 0), path.as_path())).collect();
    for ((first, copy, place), path) in keyed.iter_mut().filter(|_| paths.len() > 1) {
        let Some((sums, number)) = volume_place(path) else { continue };
        let known = zoos.iter().position(|(known, ..)| *known == sums).unwrap_or_else(|| {
            zoos.push((sums, *first, Vec::new()));
            zoos.len() - 1
        });
        let (_, zoo, before) = &mut zoos[known];
        (*first, *copy, *place) = (*zoo, before.iter().filter(|&&n| n == number).count(), number);
        before.push(number);
    }
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, path)| path).collect()
}

/// SHA-256 of the zoo's `SHA256SUMS`, and the place in `volumes.json` of the volume at `path`; the first of
/// a directory. `None` if it is no volume that can be read.
fn volume_place(path: &Path) -> Option<(Sha256, usize)> {
    if path.is_dir() {
        let is_part = path.join(VOLUMES).is_file();
        return is_part.then(|| Some((sha256_file(&path.join(names::CHECKSUMS)).ok()?, 0)))?;
    }
    let file = path.is_file().then(|| File::open(path).ok())??;
    let (place, _) = decode(file, 1, |decoded| {
        let mut entries = Entries::new(decoded);
        let (mut sums, mut volumes) = (None, None);
        while let Some(Ok(entry)) = entries.next_entry() {
            if entry.size > size_limit(&entry.path)? {
                return None;
            }
            let mut content = || {
                let mut bytes = Vec::new();
                entries.content().read_to_end(&mut bytes).ok().map(|_| bytes)
            };
            match entry.path.as_str() {
                names::CHECKSUMS => sums = Some(sha256(&content()?)),
                VOLUMES => volumes = serde_json::from_slice::<Volumes>(&content()?).ok(),
                path => {
                    if let Some((id, _)) = model_file(path) {
                        return Some((sums?, volumes?.volumes.iter().position(|v| v.first == id)?));
                    }
                }
            }
        }
        None
    });
    place
}

/// Name of the whole archive and number of a volume, read off a name like `noise.2-of-3.tar.gz`.
fn volume_name(path: &Path) -> Option<(String, u32)> {
    let name = path.file_name()?.to_str()?;
    let (stem, place) = name.strip_suffix(".tar.gz")?.rsplit_once('.')?;
    let (number, of) = place.split_once("-of-")?;
    of.parse::<u32>().ok()?;
    Some((format!("{stem}.tar.gz"), number.parse().ok()?))
}

/// Verifies one archive or zoo directory.
///
/// # Errors
/// It cannot be read at all. Whatever is wrong with its content is in the report.
pub fn verify(path: &Path, options: &Options, stage: &Stage) -> Result<Report, Error> {
    let data = options.data.as_deref().map(Dataset::read).transpose()?;
    verify_after(Whole::default(), path, options, data.as_ref(), stage).map(|(report, _)| report)
}

/// [`verify`], going on with what was read of the zoo's volumes before this one.
fn verify_after(
    before: Whole,
    path: &Path,
    options: &Options,
    data: Option<&Dataset>,
    stage: &Stage,
) -> Result<(Report, Whole), Error> {
    let data = match (data, options.replay > 0 || options.retrain > 0) {
        (None, true) => {
            return Err(UsageError("--replay and --retrain need the prepared dataset: --data FILE".into()).into())
        }
        (data, true) => data,
        (_, false) => None,
    };
    if let (Some(data), Some(record)) = (data, data.and_then(|_| record_of(path))) {
        engine(path, &record, data, options)?;
    }
    let directory_given = path.is_dir();
    let mut checker = Checker::new(!options.quick, if directory_given { Whole::default() } else { before });
    let mut notes = Vec::new();
    let mut levels = Vec::new();
    if directory_given {
        directory(path, &mut checker, &mut notes, options, stage)?;
    } else if archive(path, &mut checker, &mut notes, options, stage)? {
        levels.push(Level::Archive);
    }
    let volumes = checker.finish(!directory_given);
    levels.push(Level::Structure);
    if checker.listed.is_some() {
        levels.push(Level::Checksums);
    }
    let mut report = Report {
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
    };
    if !options.quick {
        report.levels.push(Level::Meaning);
        check_parents(path, &mut checker, &mut report, options)?;
    }
    if let Some(data) = data {
        run_again(&mut checker, &mut report, data, options, stage)?;
    }
    report.more_failures = checker.failures.more();
    report.failures = checker.failures.kept;
    report.failures.sort_by_key(|f| f.level);
    report.ok = report.failures.is_empty();
    Ok((report, checker.whole))
}

/// `zoo.json` of a zoo whose models are to be run again, if it can be read; whatever is wrong with it shows
/// when it is verified.
fn record_of(path: &Path) -> Option<ZooRecord> {
    match path.is_dir() {
        true => ZooDir::new(path).record().ok()?,
        false => ZooRecord::from_json(&parents::head_entry(path, names::ZOO, RECORD_LIMIT).ok()?).ok(),
    }
}

/// The engine that can run the models of this zoo again as was asked for.
fn engine(
    path: &Path,
    record: &ZooRecord,
    data: &Dataset,
    options: &Options,
) -> Result<Box<dyn zoo_engine::Engine>, UsageError> {
    let refused = |message| UsageError(format!("{}: {message}", path.display()));
    again::engine(record, data, options.retrain > 0).map_err(refused)
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
    let mut file = File::open(path).map_err(FileError::io("read", path))?;
    let size = file.metadata().map_err(FileError::io("read", path))?.len();
    let mut head = Vec::new();
    file.by_ref().take(HEADER as u64).read_to_end(&mut head).map_err(FileError::io("read", path))?;
    let no_archive = |why: &str| FileError::format(path, format!("is no archive of a zoo: {why}"));
    let origin = Origin::of(&head);
    if origin == Origin::None {
        return Err(no_archive(if head.is_empty() { "it is empty" } else { "it is not a tar in gzip" }).into());
    }
    let progress = stage.progress("verifying", size);
    let reader = head.chain(Watched { file, progress, stage });
    let ((), sum) = decode(reader, options.threads, |decoded| {
        let mut entries = Entries::new(decoded);
        let mut spans = Spans::default();
        walk(&mut entries, checker, &mut spans, options);
        spans.describe(&entries.stream().damages, u64::MAX, checker);
    });
    stage.interrupt.check()?;
    // Files of a zoo under odd paths are an archive of one, which is not as it should be.
    let odd = |f: &Failure| {
        [names::CHECKSUMS, names::ZOO, names::STATES].iter().any(|name| f.entry.ends_with(&format!("/{name}")))
    };
    if origin == Origin::Foreign && checker.seen.is_empty() && !checker.failures.kept.iter().any(odd) {
        return Err(no_archive("it holds no file of one").into());
    }
    match (&recorded, sum) {
        (Some(Err(message)), _) => checker.fail(Level::Archive, "", message),
        (Some(Ok(expected)), Some(found)) if *expected != found => {
            let message = format!("its SHA-256 is {found}, the .sha256 file beside it says {expected}");
            checker.fail(Level::Archive, "", message);
        }
        _ => {}
    }
    Ok(recorded.is_some_and(|r| r.is_err() || sum.is_some()))
}

/// Reads an archive, with progress, until interrupted.
struct Watched<'a> {
    file: File,
    progress: Box<dyn zoo_model::stage::Progress>,
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
            let ids = checker.begin_models(&entry.path);
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
fn recorded_checksum(path: &Path) -> Result<Option<Result<Sha256, String>>, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut candidates = vec![sums_path(path)];
    candidates.extend(volume_name(path).map(|(whole, _)| sums_path(&path.with_file_name(whole))));
    let mut recorded = None;
    for candidate in candidates.iter().filter(|c| c.is_file()) {
        let lines = match read_limited(candidate, 1 << 20) {
            Err(FileError::Format { message, .. }) => Err(message),
            text => parse_checksums(&text?),
        };
        let sum = lines.and_then(|lines| {
            let mut sums = lines.into_iter().filter(|(file, _)| *file == name).map(|(_, sum)| sum);
            let sum = sums.next().ok_or("does not name the archive")?;
            match sums.all(|other| other == sum) {
                true => Ok(sum),
                false => Err("names the archive with two checksums".to_owned()),
            }
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
        ZooDir::new(path).finished()?;
    }
    if !path.join(names::CHECKSUMS).exists() {
        notes.push("there is no SHA256SUMS; checksums were not compared".into());
    }
    let (mut files, mut passed_over) = (Vec::new(), Vec::new());
    list(path, "", &mut files, &mut passed_over, checker)?;
    if !passed_over.is_empty() {
        passed_over.sort_unstable();
        let shown = passed_over.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = passed_over.len().saturating_sub(3);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        notes.push(format!("no files of the zoo, and passed over: {shown}{more}"));
    }
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

/// Regular files below a folder, and what every reader of a zoo passes over; anything else is a failure.
fn list(
    root: &Path,
    below: &str,
    files: &mut Vec<String>,
    passed_over: &mut Vec<String>,
    checker: &mut Checker,
) -> Result<(), Error> {
    let folder = root.join(below);
    for entry in fs::read_dir(&folder).map_err(FileError::io("read", &folder))? {
        let entry = entry.map_err(FileError::io("read", &folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let skipped = is_system_file(&name) || below == names::MODELS && name.starts_with('.');
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        if skipped {
            passed_over.push(path);
            continue;
        }
        let kind = entry.file_type().map_err(FileError::io("read", &folder))?;
        if kind.is_dir() {
            list(root, &path, files, passed_over, checker)?;
        } else if kind.is_file() {
            files.push(path);
        } else {
            checker.fail(Level::Structure, &path, "is neither a regular file nor a folder");
        }
    }
    Ok(())
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
            Some(found) if *found == expected => continue,
            Some(found) => {
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
    let engine = engine(&report.path, &record, data, options)?;
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
    let asked = [("replay", options.replay, &report.replayed), ("retrain", options.retrain, &report.retrained)];
    let fewer = asked.into_iter().filter(|(_, asked, run)| run.len() < *asked);
    let fewer = fewer.map(|(flag, asked, run)| {
        format!("--{flag} {asked} ran {}: there are no more to choose from", counted(run.len(), "model"))
    });
    report.notes.extend(fewer.collect::<Vec<_>>());
    Ok(())
}
