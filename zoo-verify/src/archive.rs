//! Archives: read as a stream, through the checker.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use zoo_model::files::{read_limited, FileError, Sha256};
use zoo_model::stage::{Interrupted, Progress, Stage};
use zoo_model::zoo_dir::{names, parse_checksums};
use zoo_pack::entries::Entries;
use zoo_pack::head::HEAD_ENTRIES;
use zoo_pack::members::{decode, Origin, HEADER};
use zoo_pack::sums_path;

use crate::checker::{Checker, StopReading};
use crate::spans::Spans;
use crate::{Failure, Level, Options, VerifyError};

/// Streams an archive through the checker. Returns whether its own checksum was compared.
pub fn read(
    path: &Path,
    checker: &mut Checker,
    notes: &mut Vec<String>,
    options: &Options,
    stage: &Stage,
) -> Result<bool, VerifyError> {
    let recorded = recorded_checksum(path)?;
    if recorded.is_none() {
        notes.push("there is no .sha256 file next to it; the archive's own checksum was not verified".into());
    }
    let mut file = File::open(path).map_err(FileError::io("read", path))?;
    let size = file.metadata().map_err(FileError::io("read", path))?.len();
    let mut head = Vec::new();
    file.by_ref().take(HEADER as u64).read_to_end(&mut head).map_err(FileError::io("read", path))?;
    let not_a_zoo = |why: &str| FileError::format(path, format!("is not a zoo archive: {why}"));
    let origin = Origin::of(&head);
    if origin == Origin::None {
        let why = if head.is_empty() { "it is empty" } else { "it is not a gzip-compressed tar file" };
        return Err(not_a_zoo(why).into());
    }
    let progress = stage.progress("verifying", size);
    let reader = head.chain(ProgressReader { file, progress, stage });
    let ((), sum) = decode(reader, options.threads, |decoded| {
        let mut entries = Entries::new(decoded);
        let mut spans = Spans::default();
        read_entries(&mut entries, checker, &mut spans, options);
        spans.describe(&entries.stream().damages, u64::MAX, checker);
    });
    stage.interrupt.check()?;
    // Files of a zoo under unexpected paths are still an archive of one: the failures tell.
    let is_of_a_zoo = |f: &Failure| {
        [names::CHECKSUMS, names::ZOO, names::STATES].iter().any(|name| f.entry.ends_with(&format!("/{name}")))
    };
    if origin == Origin::Foreign && checker.seen.is_empty() && !checker.failures.kept.iter().any(is_of_a_zoo) {
        return Err(not_a_zoo("it contains none of a zoo's files").into());
    }
    match (&recorded, sum) {
        (Some(Err(message)), _) => checker.fail(Level::Archive, "", message),
        (Some(Ok(expected)), Some(found)) if *expected != found => {
            let message = format!("its SHA-256 is {found}, the .sha256 file next to it says {expected}");
            checker.fail(Level::Archive, "", message);
        }
        _ => {}
    }
    Ok(recorded.is_some_and(|r| r.is_err() || sum.is_some()))
}

/// Reads an archive, with progress, until interrupted.
struct ProgressReader<'a> {
    file: File,
    progress: Box<dyn Progress>,
    stage: &'a Stage,
}

impl Read for ProgressReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stage.interrupt.is_set() {
            return Err(io::Error::other(Interrupted));
        }
        let n = self.file.read(buffer)?;
        self.progress.advance(n as u64);
        Ok(n)
    }
}

fn read_entries(entries: &mut Entries, checker: &mut Checker, spans: &mut Spans, options: &Options) {
    let mut last: Option<(usize, String)> = None;
    while let Some(entry) = entries.next_entry() {
        if checker.has_too_many_faults() {
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
        let rank = HEAD_ENTRIES.iter().position(|&h| h == entry.path).unwrap_or(HEAD_ENTRIES.len());
        let order = (rank, entry.path.clone());
        if last.is_none() && rank != 0 {
            checker.fail(Level::Structure, &entry.path, "is the first entry, which SHA256SUMS should be");
        }
        if last.as_ref().is_some_and(|l| *l > order) {
            checker.fail(Level::Structure, &entry.path, "is out of order");
        }
        last = Some(order);
        if rank == HEAD_ENTRIES.len() && checker.models.is_empty() {
            let ids = checker.begin_models(&entry.path);
            checker.choose_models(ids, options);
        }
        if checker.entry(&entry.path, entry.size, &mut entries.content()) == Err(StopReading) {
            checker.cut_short = true;
            return;
        }
        let misplaced = checker.record.as_ref().is_some_and(|r| entry.path == names::ZOO && r.name != entry.folder);
        if misplaced {
            let message = format!("is in the folder `{}`, not in one named after the zoo", entry.folder);
            checker.fail(Level::Structure, &entry.path, message);
        }
    }
    if last.is_none() && checker.failures.kept.is_empty() && entries.stream().damages.is_empty() {
        checker.fail(Level::Structure, "", "contains no entry");
    }
}

/// The checksum of an archive in the `.sha256` file next to it, or what is wrong with that file; volumes
/// share one. `None` if there is no such file.
fn recorded_checksum(path: &Path) -> Result<Option<Result<Sha256, String>>, VerifyError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut candidates = vec![sums_path(path)];
    candidates.extend(whole_name(path).map(|whole| sums_path(&path.with_file_name(whole))));
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
        let sum = sum.map_err(|message| {
            let candidate = candidate.display();
            format!("the .sha256 file next to it is not a checksum of it: {candidate} {message}")
        });
        if sum.is_ok() {
            return Ok(Some(sum));
        }
        recorded = Some(sum);
    }
    Ok(recorded)
}

/// Name of the whole archive, read off the name of a volume such as `noise.2-of-3.tar.gz`.
fn whole_name(path: &Path) -> Option<String> {
    let (stem, volume) = path.file_name()?.to_str()?.strip_suffix(".tar.gz")?.rsplit_once('.')?;
    let (number, of) = volume.split_once("-of-")?;
    let is_number = |text: &str| text.parse::<u32>().is_ok();
    (is_number(number) && is_number(of)).then(|| format!("{stem}.tar.gz"))
}
