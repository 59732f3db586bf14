//! Checks the entries of a zoo one after the other, in archive order, holding only the small ones in
//! memory.

mod failures;
mod hashed;
mod index;
mod limits;
mod model;
mod seen;
mod states;
mod totals;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use zoo_model::files::{is_system_file, Sha256};
use zoo_model::random::{Purpose, Stream};
use zoo_model::zoo_dir::{checksum_lines, model_file, names};
use zoo_model::{ModelId, ZooRecord};
use zoo_pack::index::Columns;
use zoo_pack::{Volume, Volumes, INDEX, VOLUMES};

use crate::report::{Failure, Level, VolumesHere};
pub use failures::Failures;
use hashed::Hashed;
use index::Tail;
use limits::{size_limit, SMALL_LIMIT};
use model::Current;
use seen::Seen;
pub use states::Sampled;
pub use totals::Totals;

/// Faults in an archive's structure after which the rest is not worth reading.
const FAULT_LIMIT: usize = 10_000;

/// Which models' states to keep.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The last state of these.
    pub replay: BTreeSet<ModelId>,
    /// All states of these.
    pub retrain: BTreeSet<ModelId>,
}

/// See the module.
pub struct Checker {
    /// Whether level 4 is checked.
    meaning: bool,
    pub wanted: Wanted,
    pub failures: Failures,
    pub record: Option<ZooRecord>,
    /// Listed checksums by path; `None` before the list, or when there is none.
    pub listed: Option<BTreeMap<String, Sha256>>,
    pub seen: Seen,
    /// Entries met, whatever they are.
    pub entries: usize,
    pub models: BTreeSet<ModelId>,
    pub states: usize,
    pub bytes: u64,
    pub sampled: BTreeMap<ModelId, Sampled>,
    /// States checksums of the parents that twins name.
    pub parents: BTreeMap<ModelId, Sha256>,
    /// The volumes that the zoo is split into, if it is.
    pub volumes: Option<Volumes>,
    /// The archive could not be read to its end.
    pub cut_short: bool,
    /// Of the zoo, with the volumes read before.
    pub totals: Totals,
    current: Option<Current>,
}

/// The entry is so wrong that the rest is not worth reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopReading;

impl Checker {
    /// Chooses the models to rerun; `ids` ascend, and name a model once for each of its files.
    pub fn choose_models(&mut self, mut ids: Vec<ModelId>, options: &crate::Options) {
        ids.dedup();
        Stream::new(options.seed, Purpose::Sample, 0, 0).shuffle(&mut ids);
        self.wanted.replay = ids.iter().take(options.replay).copied().collect();
        self.wanted.retrain = ids.iter().take(options.retrain).copied().collect();
    }

    /// A checker up to level 4 if `meaning`, else up to level 3; `before` is what was read of the zoo's
    /// volumes before this one.
    pub fn new(meaning: bool, before: Totals) -> Self {
        Self {
            meaning,
            wanted: Wanted::default(),
            failures: Failures::default(),
            record: None,
            listed: None,
            seen: Seen::default(),
            entries: 0,
            models: BTreeSet::new(),
            states: 0,
            bytes: 0,
            sampled: BTreeMap::new(),
            parents: BTreeMap::new(),
            volumes: None,
            cut_short: false,
            totals: before,
            current: None,
        }
    }

    /// Notes a failure.
    pub fn fail(&mut self, level: Level, entry: &str, message: impl Into<String>) {
        self.failures.add(Failure { level, entry: entry.into(), message: message.into() });
    }

    /// Whether an archive has so many faults that its rest is not worth reading; says so once.
    pub fn has_too_many_faults(&mut self) -> bool {
        let too_many = self.failures.count(Level::Structure) > FAULT_LIMIT;
        if too_many && !self.cut_short {
            self.cut_short = true;
            // Kept whatever the number of failures: it explains why they end.
            let message = format!("has more than {FAULT_LIMIT} structural faults: the rest was not read");
            self.failures.add_kept(Failure { level: Level::Structure, entry: String::new(), message });
        }
        too_many
    }

    /// Reads and checks one entry. `path` is relative to the zoo and known to be harmless.
    ///
    /// # Errors
    /// The entry is larger than anything of its name may be: reading on would only feed a bomb.
    pub fn entry(&mut self, path: &str, size: u64, content: &mut dyn Read) -> Result<(), StopReading> {
        self.bytes = self.bytes.saturating_add(size);
        self.entries += 1;
        if !self.seen.insert(path) {
            self.fail(Level::Structure, path, "occurs twice");
        }
        let Some(limit) = size_limit(path) else {
            self.fail(Level::Structure, path, "does not belong to a zoo");
            return if size > SMALL_LIMIT { Err(StopReading) } else { Ok(()) };
        };
        if size > limit {
            self.fail(Level::Structure, path, format!("declares {size} bytes; the limit is {limit}"));
            return Err(StopReading);
        }
        let expected = self.listed.as_ref().map(|l| l.get(path).copied()).filter(|_| path != names::CHECKSUMS);
        if expected == Some(None) {
            self.fail(Level::Structure, path, "is not listed in SHA256SUMS");
            if size > SMALL_LIMIT {
                return Err(StopReading);
            }
        }
        let mut content = Hashed::new(content);
        let outcome = self.content(path, size, &mut content);
        if outcome.is_ok() {
            // What a check did not need to read still counts for the checksum.
            let _ = io::copy(&mut content, &mut io::sink());
        }
        if let Some(error) = &content.error {
            self.fail(Level::Structure, path, format!("cannot be read: {error}"));
        } else if outcome.is_ok() && content.length != size {
            self.fail(Level::Structure, path, format!("is truncated: {} of {size} bytes", content.length));
        }
        let found = content.finish();
        match path {
            names::CHECKSUMS if self.totals.sums != Some(found) => {
                self.totals = Totals { sums: Some(found), ..Totals::default() };
            }
            INDEX => self.totals.index.found = Some(found),
            _ => {}
        }
        if let (Ok(()), Some(Some(expected))) = (outcome, expected) {
            if expected != found {
                let message = format!("SHA-256 is {found}, SHA256SUMS says {expected}");
                self.fail(Level::Checksums, path, message);
            }
        }
        outcome
    }

    /// Checks what an entry says.
    fn content(&mut self, path: &str, size: u64, content: &mut Hashed) -> Result<(), StopReading> {
        match (path, model_file(path)) {
            (names::CHECKSUMS, _) => self.read_checksums(&content.read_small()),
            (names::ZOO, _) => match ZooRecord::from_json(&content.read_small()) {
                Ok(record) => self.record = Some(record),
                Err(message) => self.fail(Level::Meaning, path, message),
            },
            (VOLUMES, _) => match serde_json::from_slice(&content.read_small()) {
                Ok(volumes) => self.volumes = Some(volumes),
                Err(error) => self.fail(Level::Structure, path, error.to_string()),
            },
            (INDEX, _) if self.meaning => {
                let mut tail = Tail::default();
                let _ = io::copy(content, &mut tail);
                match Columns::of_footer(tail.bytes()) {
                    Ok(columns) => self.totals.index.columns = Some(columns),
                    Err(message) => self.fail(Level::Meaning, path, message),
                }
            }
            (_, Some((id, file))) => {
                if file == names::PARAMS || self.current.as_ref().is_none_or(|c| c.id != id) {
                    self.leave_model();
                    self.models.insert(id);
                    self.current = Some(Current::new(id));
                }
                if self.meaning {
                    match file {
                        names::PARAMS => self.check_params(path, id, &content.read_small()),
                        names::RESULT => self.check_results(path, &content.read_small()),
                        _ => return self.check_states(path, id, size, content),
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn read_checksums(&mut self, text: &[u8]) {
        let mut listed = BTreeMap::new();
        for line in checksum_lines(text) {
            let (path, sum) = match line {
                Ok(line) => line,
                Err(message) => return self.fail(Level::Structure, names::CHECKSUMS, message),
            };
            if listed.insert(path.clone(), sum).is_some_and(|other| other != sum) {
                self.fail(Level::Structure, names::CHECKSUMS, format!("lists {path} with two checksums"));
            }
        }
        self.listed = Some(listed);
    }

    /// Notes which files of the current model were missing.
    fn leave_model(&mut self) {
        if let Some(left) = self.current.take() {
            let missing = |file: &str| format!("{}/{}/{file}", names::MODELS, left.id);
            for file in names::MODEL_FILES.map(missing) {
                if !self.seen.contains(&file) {
                    self.fail(Level::Structure, &file, "is missing");
                }
            }
        }
    }

    /// After the last entry of an archive, or file of a directory. Returns which volumes are here, if the
    /// zoo has several.
    pub fn finish(&mut self, archive: bool) -> Option<VolumesHere> {
        self.leave_model();
        let here = self.volumes.is_some().then(|| self.volumes_here(archive));
        let volumes = self.volumes.take().map_or_else(Vec::new, |v| v.volumes);
        self.check_missing(here.as_deref(), &volumes);
        self.totals.models += self.models.len();
        self.totals.states += self.states;
        self.totals.volumes += here.as_ref().map_or(1, Vec::len);
        // The volumes in a directory need not follow each other.
        self.totals.partial |= !archive && here.iter().flatten().zip(0..).any(|(&volume, i)| volume != i);
        if self.record.is_none() && !self.cut_short && !self.seen.contains(names::ZOO) {
            self.fail(Level::Structure, names::ZOO, "is missing");
        }
        if !self.cut_short && !self.totals.partial && self.totals.volumes == volumes.len().max(1) {
            self.check_totals();
        }
        here.map(|here| VolumesHere {
            numbers: here.iter().map(|i| i + 1).collect(),
            of: volumes.len(),
            files: volumes.into_iter().map(|v| v.file).collect(),
            sums: self.totals.sums,
        })
    }

    /// Notes the listed files that are missing; of a zoo in volumes, those of the volumes that are here.
    fn check_missing(&mut self, here: Option<&[usize]>, volumes: &[Volume]) {
        let expected_here = |path: &str| match (here, model_file(path)) {
            (Some(here), Some((id, _))) => {
                let volume = volumes.partition_point(|v| v.last < id);
                here.binary_search(&volume).is_ok() && volumes[volume].first <= id
            }
            // In an archive these would be failures of their own.
            _ => !path.split('/').any(is_system_file),
        };
        let listed = self.listed.take();
        let paths = listed.iter().flat_map(|l| l.keys());
        let missing: Vec<&String> = paths.filter(|p| expected_here(p) && !self.seen.contains(p)).collect();
        match missing.as_slice() {
            [first, others @ ..] if self.cut_short => {
                let message = match others.len() {
                    0 => "was not reached".to_owned(),
                    n => format!("this and {n} more were not reached"),
                };
                self.fail(Level::Structure, first, message);
            }
            all => all.iter().for_each(|p| self.fail(Level::Structure, p, "is listed in SHA256SUMS, but missing")),
        }
        self.listed = listed;
    }
}
