//! Checks the entries of a zoo one after the other, in archive order, holding none of them whole
//! but the small ones.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use zoo_model::architecture::{Network, Role};
use zoo_model::files::{is_system_file, Hashing};
use zoo_model::files::{Sha256, Sha256Hasher};
use zoo_model::result::{from_json_lines, ResultLine};
use zoo_model::safetensors_file::{to_f32, to_i64, Header};
use zoo_model::states::{check_epochs, check_header, EPOCHS};
use zoo_model::text::counted;
use zoo_model::zoo_dir::{checksum_lines, model_file, names};
use zoo_model::{ModelId, Params, ZooRecord};
use zoo_pack::index::{Columns, IndexWriter, ParquetError, Schema, FOOTER_LIMIT, MODELS_PER_GROUP};
use zoo_pack::{Volume, Volumes, CARD, INDEX, VOLUMES};

use crate::report::{Failure, Level, VolumesHere, KEPT_FAILURES};

/// Most bytes of a `SHA256SUMS`: some 200,000 models.
pub const CHECKSUMS_LIMIT: u64 = 64 << 20;
/// Most bytes of any other small file.
const SMALL_LIMIT: u64 = 16 << 20;
/// Most bytes of the index, which is hashed and not held.
const INDEX_LIMIT: u64 = 4 << 30;
/// Most characters of a failure's message: it may quote what a stranger wrote.
const MESSAGE_LIMIT: usize = 2000;
/// Faults in an archive's structure after which the rest is not worth reading.
const FAULT_LIMIT: usize = 10_000;

/// What is kept of a model for replaying or retraining it.
#[derive(Debug, Clone)]
pub struct Sampled {
    /// Its configuration.
    pub params: Params,
    /// Its metrics.
    pub lines: Vec<ResultLine>,
    /// Its flat states; all of them, or the last only.
    pub states: Vec<Vec<f32>>,
}

/// Which models' states to keep.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The last state of these.
    pub replay: BTreeSet<ModelId>,
    /// All states of these.
    pub retrain: BTreeSet<ModelId>,
}

/// The model whose files are being read.
#[derive(Debug)]
struct Current {
    id: ModelId,
    params: Option<(Params, Network)>,
    lines: Option<Vec<ResultLine>>,
}

/// See the module.
pub struct Checker {
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
    /// The zoo as a whole, with the volumes read before.
    pub whole: Whole,
    current: Option<Current>,
}

/// What is counted and compared over a whole zoo: over all of its volumes, if they are read in order.
#[derive(Default)]
pub struct Whole {
    /// SHA-256 of the zoo's `SHA256SUMS`, which its volumes share.
    sums: Option<Sha256>,
    /// Volumes read one after the other.
    volumes: usize,
    /// The first of these is not the zoo's first.
    partial: bool,
    models: usize,
    states: usize,
    diverged: usize,
    index: Index,
}

/// The index that is there, and the one that the models so far make. That takes its columns from the one
/// that is there, since they depend on all models; whether they are right shows at the end.
#[derive(Default)]
struct Index {
    found: Option<Sha256>,
    columns: Option<Columns>,
    schema: Schema,
    writer: Option<IndexWriter<Hashing<io::Sink>>>,
    group: Vec<(Params, Vec<ResultLine>)>,
    models: usize,
}

impl Index {
    /// Adds a model, if there is an index to compare with.
    ///
    /// # Errors
    /// A sentence about the model's `params.json`.
    fn add(&mut self, params: &Params, lines: &[ResultLine]) -> Result<(), String> {
        if self.columns.is_none() {
            return Ok(());
        }
        let added = self.schema.add(params).and_then(|()| {
            self.models += 1;
            self.group.push((params.clone(), lines.to_vec()));
            match self.group.len() {
                MODELS_PER_GROUP => self.flush().map_err(|e| format!("cannot be put into an index: {e}")),
                _ => Ok(()),
            }
        });
        if added.is_err() {
            *self = Self::default();
        }
        added
    }

    fn flush(&mut self) -> Result<(), ParquetError> {
        let group = std::mem::take(&mut self.group);
        let Some(columns) = self.columns.as_ref().filter(|_| !group.is_empty()) else { return Ok(()) };
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(IndexWriter::new(columns.clone(), Hashing::new(io::sink()))?),
        };
        writer.add(&group)
    }

    /// What is wrong with the index that is there, after the last model.
    fn fault(&mut self) -> Option<String> {
        let different = self.columns.as_ref()?.differences(&self.schema.columns());
        let made = self.flush().and_then(|()| self.writer.take().map(IndexWriter::finish).transpose());
        let made = made.map(|made| made.map(|made| made.finish().2));
        different.or_else(|| match made {
            Ok(made) if made == self.found => None,
            Ok(_) => Some("is not the index of the models that are here".into()),
            Err(error) => Some(format!("cannot be made again: {error}")),
        })
    }
}

/// Keeps the last bytes of what is written to it.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn bytes(&self) -> &[u8] {
        &self.0[self.0.len().saturating_sub(FOOTER_LIMIT)..]
    }
}

impl io::Write for Tail {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        if self.0.len() > 2 * FOOTER_LIMIT {
            self.0.drain(..self.0.len() - FOOTER_LIMIT);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The failures so far: the first of each level are kept, and all are counted, so that an archive
/// cannot fill the memory with its faults.
#[derive(Debug, Default)]
pub struct Failures {
    pub kept: Vec<Failure>,
    counts: BTreeMap<Level, usize>,
}

impl Failures {
    pub fn add(&mut self, mut failure: Failure) {
        let count = self.counts.entry(failure.level).or_default();
        *count += 1;
        if *count <= KEPT_FAILURES {
            if let Some((end, _)) = failure.message.char_indices().nth(MESSAGE_LIMIT) {
                failure.message.truncate(end);
                failure.message.push_str("...");
            }
            self.kept.push(failure);
        }
    }

    /// Failures of a level, the ones that are not kept included.
    fn count(&self, level: Level) -> usize {
        self.counts.get(&level).copied().unwrap_or(0)
    }

    /// Failures that are not kept.
    pub fn more(&self) -> usize {
        self.counts.values().sum::<usize>() - self.kept.len()
    }
}

/// Which files of a zoo were met. Only names that a zoo has are remembered, and in few bytes.
#[derive(Debug, Default)]
pub struct Seen {
    head: BTreeSet<&'static str>,
    models: BTreeMap<ModelId, [bool; 3]>,
}

impl Seen {
    /// Remembers a file; whether it is new, or no file of a zoo.
    fn insert(&mut self, path: &str) -> bool {
        if let Some((id, file)) = model_file(path) {
            let seen = &mut self.models.entry(id).or_default()[file_index(file)];
            return !std::mem::replace(seen, true);
        }
        HEAD.iter().find(|&&h| h == path).is_none_or(|&head| self.head.insert(head))
    }

    /// Whether no file of a zoo was met.
    pub fn is_empty(&self) -> bool {
        self.head.is_empty() && self.models.is_empty()
    }

    fn contains(&self, path: &str) -> bool {
        match model_file(path) {
            Some((id, file)) => self.models.get(&id).is_some_and(|seen| seen[file_index(file)]),
            None => self.head.contains(path),
        }
    }
}

fn file_index(file: &str) -> usize {
    names::MODEL_FILES.iter().position(|&f| f == file).expect("model_file knows only these")
}

/// The entry is so wrong that the rest is not worth reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hopeless;

impl Checker {
    /// A checker up to level 4 if `meaning`, else up to level 3; `before` is what it may go on with.
    pub fn new(meaning: bool, before: Whole) -> Self {
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
            whole: before,
            current: None,
        }
    }

    /// Notes a failure.
    pub fn fail(&mut self, level: Level, entry: &str, message: impl Into<String>) {
        self.failures.add(Failure { level, entry: entry.into(), message: message.into() });
    }

    /// Whether an archive has so many faults that its rest is not worth reading; says so once.
    pub fn is_hopeless(&mut self) -> bool {
        let hopeless = self.failures.count(Level::Structure) > FAULT_LIMIT;
        if hopeless && !self.cut_short {
            self.cut_short = true;
            // Kept whatever the number of failures: it explains why they end.
            let message = format!("has more than {FAULT_LIMIT} faults in its structure: the rest was not read");
            self.failures.kept.push(Failure { level: Level::Structure, entry: String::new(), message });
            *self.failures.counts.entry(Level::Structure).or_default() += 1;
        }
        hopeless
    }

    /// Reads and checks one entry. `path` is relative to the zoo and known to be harmless.
    ///
    /// # Errors
    /// The entry is larger than anything of its name may be: reading on would only feed a bomb.
    pub fn entry(&mut self, path: &str, size: u64, content: &mut dyn Read) -> Result<(), Hopeless> {
        self.bytes = self.bytes.saturating_add(size);
        self.entries += 1;
        if !self.seen.insert(path) {
            self.fail(Level::Structure, path, "is there twice");
        }
        let Some(limit) = size_limit(path) else {
            self.fail(Level::Structure, path, "is no file of a zoo");
            return if size > SMALL_LIMIT { Err(Hopeless) } else { Ok(()) };
        };
        if size > limit {
            self.fail(Level::Structure, path, format!("claims {size} bytes, at most {limit} are allowed"));
            return Err(Hopeless);
        }
        let expected = self.listed.as_ref().map(|l| l.get(path).copied()).filter(|_| path != names::CHECKSUMS);
        if expected == Some(None) {
            self.fail(Level::Structure, path, "is not listed in SHA256SUMS");
            if size > SMALL_LIMIT {
                return Err(Hopeless);
            }
        }
        let mut content = Hashed { content, hasher: Sha256Hasher::default(), length: 0, error: None };
        let outcome = self.read(path, size, &mut content);
        if outcome.is_ok() {
            // What a check did not care to read still counts for the checksum.
            let _ = io::copy(&mut content, &mut io::sink());
        }
        if let Some(error) = &content.error {
            self.fail(Level::Structure, path, format!("cannot be read: {error}"));
        } else if outcome.is_ok() && content.length != size {
            self.fail(Level::Structure, path, format!("is cut short: {} of {size} bytes", content.length));
        }
        let found = content.hasher.finish();
        match path {
            names::CHECKSUMS if self.whole.sums != Some(found) => {
                self.whole = Whole { sums: Some(found), ..Whole::default() };
            }
            INDEX => self.whole.index.found = Some(found),
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

    fn read(&mut self, path: &str, size: u64, content: &mut Hashed) -> Result<(), Hopeless> {
        match (path, model_file(path)) {
            (names::CHECKSUMS, _) => self.checksums(&small(content)),
            (names::ZOO, _) => match ZooRecord::from_json(&small(content)) {
                Ok(record) => self.record = Some(record),
                Err(message) => self.fail(Level::Meaning, path, message),
            },
            (VOLUMES, _) => match serde_json::from_slice(&small(content)) {
                Ok(volumes) => self.volumes = Some(volumes),
                Err(error) => self.fail(Level::Structure, path, error.to_string()),
            },
            (INDEX, _) if self.meaning => {
                let mut tail = Tail::default();
                let _ = io::copy(content, &mut tail);
                match Columns::of_footer(tail.bytes()) {
                    Ok(columns) => self.whole.index.columns = Some(columns),
                    Err(message) => self.fail(Level::Meaning, path, message),
                }
            }
            (_, Some((id, file))) => {
                if file == names::PARAMS || self.current.as_ref().is_none_or(|c| c.id != id) {
                    self.leave_model();
                    self.models.insert(id);
                    self.current = Some(Current { id, params: None, lines: None });
                }
                if self.meaning {
                    match file {
                        names::PARAMS => self.params(path, id, &small(content)),
                        names::RESULT => self.results(path, &small(content)),
                        _ => return self.model_states(path, id, size, content),
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn checksums(&mut self, text: &[u8]) {
        let mut listed = BTreeMap::new();
        let mut list = |text: &[u8]| -> Result<(), String> {
            for line in checksum_lines(text) {
                let (path, sum) = line?;
                if listed.insert(path.clone(), sum).is_some_and(|other| other != sum) {
                    self.fail(Level::Structure, names::CHECKSUMS, format!("lists {path} with two checksums"));
                }
            }
            Ok(())
        };
        match list(text) {
            Ok(()) => self.listed = Some(listed),
            Err(message) => self.fail(Level::Structure, names::CHECKSUMS, message),
        }
    }

    fn params(&mut self, path: &str, id: ModelId, json: &[u8]) {
        let params = match Params::from_json(json) {
            Ok(params) => params,
            Err(message) => return self.fail(Level::Meaning, path, message),
        };
        if params.id != id {
            self.fail(Level::Meaning, path, format!("`zoo::id` is {}, expected {id}", params.id));
        }
        if let Some(record) = self.record.clone() {
            let [channels, side, _] = record.dataset.shape;
            let expected = (channels, side, record.dataset.classes);
            let found = (params.channels, params.image_side, params.classes);
            if found != expected {
                let message = format!("(channels, side, classes) are {found:?}, zoo.json's dataset has {expected:?}");
                self.fail(Level::Meaning, path, message);
            }
            let names = |p: Option<&str>| p.map_or("no parent".to_owned(), |zoo| format!("a parent in `{zoo}`"));
            let expected = record.parent.as_ref().map(|p| p.name.as_str());
            let found = params.parent.as_ref().map(|p| p.zoo.as_str());
            if expected != found {
                let message = format!("`zoo::parent` names {}, zoo.json {}", names(found), names(expected));
                self.fail(Level::Meaning, path, message);
            }
        }
        if let Some(parent) = &params.parent {
            if parent.id != id {
                let message = format!("its parent is {}, but a twin has its parent's id", parent.id);
                self.fail(Level::Meaning, path, message);
            }
            match parent.states_sha256.parse() {
                Ok(sum) => drop(self.parents.insert(id, sum)),
                Err(_) => {
                    self.fail(Level::Meaning, path, "`states_sha256` of `zoo::parent` is not 64 hexadecimal digits")
                }
            }
        }
        match params.network() {
            Ok(network) => {
                let expected = self.record.as_ref().map(|r| r.parameters);
                if expected.is_some_and(|n| n != network.parameter_count()) {
                    let (found, expected) = (network.parameter_count(), expected.unwrap_or(0));
                    self.fail(Level::Meaning, path, format!("describes {found} parameters, zoo.json says {expected}"));
                }
                if let Some(current) = &mut self.current {
                    current.params = Some((params, network));
                }
            }
            Err(error) => self.fail(Level::Meaning, path, error.to_string()),
        }
    }

    fn results(&mut self, path: &str, json: &[u8]) {
        let lines = match from_json_lines(json) {
            Ok(lines) => lines,
            Err(message) => return self.fail(Level::Meaning, path, message),
        };
        for line in &lines {
            let accuracies = [line.train_acc, line.test_acc, line.val_acc, line.sparsity_ratio, line.test_agreement];
            if accuracies.iter().flatten().any(|a| !(0.0..=1.0).contains(a)) {
                let epoch = line.training_iteration;
                self.fail(Level::Meaning, path, format!("epoch {epoch}: a share is not between 0 and 1"));
            }
        }
        if let Some(current) = &mut self.current {
            current.lines = Some(lines);
        }
    }

    fn model_states(&mut self, path: &str, id: ModelId, size: u64, content: &mut Hashed) -> Result<(), Hopeless> {
        let Some((params, network)) = self.current.as_mut().and_then(|c| c.params.take()) else {
            self.fail(Level::Meaning, path, "cannot be checked without a sound params.json before it");
            return Ok(());
        };
        let header = Header::read(content).and_then(|header| {
            let count = check_header(&header, &network)?;
            match header.file_length() {
                described if described == size => Ok((header, count)),
                described => Err(format!("has {size} bytes, its header describes {described}")),
            }
        });
        let (header, count) = match header {
            Ok(ok) => ok,
            Err(message) => {
                self.fail(Level::Meaning, path, message);
                // A sound archive's states are as large as the architecture says: this is none.
                return if size > SMALL_LIMIT { Err(Hopeless) } else { Ok(()) };
            }
        };
        let wanted = (self.wanted.replay.contains(&id), self.wanted.retrain.contains(&id));
        let first_wanted = match wanted {
            (_, true) => 0,
            (true, false) => count.saturating_sub(1),
            _ => count,
        };
        let mut tally = vec![Tally::default(); count];
        let mut states = vec![vec![0f32; network.state_len()]; count - first_wanted];
        let mut epochs = Vec::new();
        for tensor in &header.tensors {
            if tensor.spec.name == EPOCHS {
                let mut bytes = Vec::new();
                if content.take(tensor.length).read_to_end(&mut bytes).is_err() {
                    return Ok(());
                }
                epochs = to_i64(&bytes);
                continue;
            }
            let parameter = network.parameters().iter().find(|p| p.name == tensor.spec.name);
            let parameter = parameter.expect("check_header knows every tensor");
            let mut bytes = vec![0; 4 * parameter.range.len()];
            for (state, tally) in tally.iter_mut().enumerate() {
                if content.read_exact(&mut bytes).is_err() {
                    return Ok(());
                }
                tally.add(&bytes, parameter.role);
                if state >= first_wanted {
                    states[state - first_wanted][parameter.range.clone()].copy_from_slice(&to_f32(&bytes));
                }
            }
        }
        self.states += count;
        let lines = self.current.as_mut().and_then(|c| c.lines.take());
        match check_epochs(&epochs) {
            Err(message) => self.fail(Level::Meaning, path, message),
            Ok(epochs) => self.compare(path, &network, &epochs, &tally, lines.as_deref()),
        }
        if let Some(lines) = &lines {
            if let Err(message) = self.whole.index.add(&params, lines) {
                self.fail(Level::Meaning, &format!("{}/{id}/{}", names::MODELS, names::PARAMS), message);
            }
        }
        if let (Some(lines), true) = (lines, first_wanted < count) {
            self.sampled.insert(id, Sampled { params, lines, states });
        }
        Ok(())
    }

    /// States against result lines.
    fn compare(
        &mut self,
        path: &str,
        network: &Network,
        epochs: &[u32],
        tally: &[Tally],
        lines: Option<&[ResultLine]>,
    ) {
        let Some(lines) = lines else {
            return self.fail(Level::Meaning, path, "cannot be checked without a sound result.json before it");
        };
        let recorded: Vec<u32> = lines.iter().map(|l| l.training_iteration).collect();
        if recorded != epochs {
            let message = format!("holds the epochs {}, result.json {}", brief(epochs), brief(&recorded));
            return self.fail(Level::Meaning, path, message);
        }
        for (line, tally) in lines.iter().zip(tally) {
            let epoch = line.training_iteration;
            if tally.not_finite > 0 && !line.diverged {
                let message =
                    format!("epoch {epoch}: {} values are not finite, but it is not marked diverged", tally.not_finite);
                self.fail(Level::Meaning, path, message);
            }
            // A program that does not evaluate leaves loss and accuracy out together.
            let scores =
                [(line.train_loss, line.train_acc), (line.test_loss, line.test_acc), (line.val_loss, line.val_acc)];
            if !line.diverged && scores.iter().any(|(loss, accuracy)| loss.is_none() && accuracy.is_some()) {
                self.fail(
                    Level::Meaning,
                    path,
                    format!("epoch {epoch}: a loss is null, but it is not marked diverged"),
                );
            }
            if let Some(sparsity) = line.sparsity_ratio {
                let found = tally.zero_weights as f64 / network.weight_count() as f64;
                if (found - sparsity).abs() > 1e-9 {
                    let message =
                        format!("epoch {epoch}: {found} of the weights are zero, result.json says {sparsity}");
                    self.fail(Level::Meaning, path, message);
                }
            } else if self.record.as_ref().is_some_and(|r| r.parent.is_some()) {
                self.fail(Level::Meaning, path, format!("epoch {epoch}: a twin's line needs `sparsity_ratio`"));
            }
        }
        self.whole.diverged += usize::from(lines.iter().any(|l| l.diverged));
    }

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

    /// Before the first model of an archive: which models are still to come, and whether its volume goes
    /// on where the one before it ended.
    pub fn begin_models(&mut self, first: &str) -> Vec<ModelId> {
        let first = model_file(first).map(|(id, _)| id);
        let volume = self.volumes.as_ref().and_then(|v| v.volumes.iter().position(|v| Some(v.first) == first));
        let place = volume.unwrap_or(0);
        if place != self.whole.volumes {
            let Whole { sums, index: Index { found, columns, .. }, .. } = std::mem::take(&mut self.whole);
            // The index of a zoo whose first volumes were not read cannot be made.
            let columns = columns.filter(|_| place == 0);
            let index = Index { found, columns, ..Index::default() };
            self.whole = Whole { sums, partial: place != 0, index, ..Whole::default() };
        }
        let range = self.volumes.as_ref().and_then(|v| v.volumes.get(volume?));
        let offered = |id: &ModelId| range.is_none_or(|v| (v.first..=v.last).contains(id));
        let listed = self.listed.iter().flat_map(|l| l.keys());
        listed.filter_map(|p| model_file(p)).map(|(id, _)| id).filter(offered).collect()
    }

    /// The volumes of which models are here, as places in `volumes.json`.
    fn volumes_here(&mut self, archive: bool) -> Vec<usize> {
        let Volumes { volumes } = self.volumes.clone().unwrap_or(Volumes { volumes: Vec::new() });
        let ascending = volumes.windows(2).all(|w| w[0].last < w[1].first);
        if volumes.is_empty() || !ascending || volumes.iter().any(|v| v.first > v.last) {
            self.fail(Level::Structure, VOLUMES, "does not name ranges of models that ascend");
            return Vec::new();
        }
        let held = |v: &Volume| self.models.range(v.first..=v.last).count();
        let counts: Vec<usize> = volumes.iter().map(held).collect();
        let here: Vec<usize> = (0..volumes.len()).filter(|&i| counts[i] > 0).collect();
        let whole = |&i: &usize| self.models.contains(&volumes[i].first) && self.models.contains(&volumes[i].last);
        let sound = counts.iter().sum::<usize>() == self.models.len()
            && (here.len() == 1 || !archive && !here.is_empty())
            && (self.cut_short || here.iter().all(whole));
        if !sound {
            self.fail(Level::Structure, VOLUMES, "names no volumes that hold just the models that are here");
        }
        let listed = self.listed.iter().flat_map(|l| l.keys()).filter_map(|p| model_file(p)).map(|(id, _)| id);
        let listed: BTreeSet<ModelId> = listed.collect();
        if self.listed.is_some() {
            let named = volumes.iter().map(|v| listed.range(v.first..=v.last).count()).sum::<usize>();
            if named != listed.len() {
                let message = format!("names volumes for {} of {}", named, counted(listed.len(), "model"));
                self.fail(Level::Structure, VOLUMES, message);
            }
            let expected = self.record.as_ref().map_or(listed.len(), |r| r.models);
            if expected != listed.len() {
                let message = format!("counts {}, SHA256SUMS lists {}", counted(expected, "model"), listed.len());
                self.fail(Level::Meaning, names::ZOO, message);
            }
        }
        here
    }

    /// After the last entry of an archive, or file of a directory; which volumes are here, if the zoo has
    /// several.
    pub fn finish(&mut self, archive: bool) -> Option<VolumesHere> {
        self.leave_model();
        let here = self.volumes.is_some().then(|| self.volumes_here(archive));
        let volumes = self.volumes.take().map_or_else(Vec::new, |v| v.volumes);
        let expected_here = |path: &str| match (&here, model_file(path)) {
            (Some(here), Some((id, _))) => {
                let place = volumes.partition_point(|v| v.last < id);
                here.binary_search(&place).is_ok() && volumes[place].first <= id
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
        self.whole.models += self.models.len();
        self.whole.states += self.states;
        self.whole.volumes += here.as_ref().map_or(1, Vec::len);
        // The volumes in a directory need not follow each other.
        self.whole.partial |= !archive && here.iter().flatten().zip(0..).any(|(&place, i)| place != i);
        if self.record.is_none() && !self.cut_short && !self.seen.contains(names::ZOO) {
            self.fail(Level::Structure, names::ZOO, "is missing");
        }
        if !self.cut_short && !self.whole.partial && self.whole.volumes == volumes.len().max(1) {
            self.totals();
        }
        here.map(|here| VolumesHere {
            numbers: here.iter().map(|i| i + 1).collect(),
            of: volumes.len(),
            files: volumes.into_iter().map(|v| v.file).collect(),
            sums: self.whole.sums,
        })
    }

    /// What `zoo.json` and the index say of all models.
    fn totals(&mut self) {
        let Some(record) = self.record.clone() else { return };
        let Whole { models, states, diverged, .. } = self.whole;
        let mut counts = vec![("model", record.models, models)];
        if self.meaning {
            counts.push(("state", record.states, states));
            counts.push(("diverged model", record.diverged, diverged));
        }
        for (what, expected, found) in counts {
            if expected != found {
                let are = if found == 1 { "is" } else { "are" };
                self.fail(
                    Level::Meaning,
                    names::ZOO,
                    format!("counts {}, there {are} {found}", counted(expected, what)),
                );
            }
        }
        // Only what all models say makes an index; a model that was not understood has failed.
        if self.whole.index.models == models {
            if let Some(message) = self.whole.index.fault() {
                self.fail(Level::Meaning, INDEX, message);
            }
        }
    }
}

/// Counts over the values of one state.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    not_finite: usize,
    zero_weights: usize,
}

impl Tally {
    fn add(&mut self, bytes: &[u8], role: Role) {
        for value in bytes.chunks_exact(4) {
            let bits = u32::from_le_bytes([value[0], value[1], value[2], value[3]]) & 0x7fff_ffff;
            self.not_finite += usize::from(bits >= 0x7f80_0000);
            self.zero_weights += usize::from(bits == 0 && role == Role::Weight);
        }
    }
}

/// A reader that hashes what passes and remembers what went wrong.
struct Hashed<'a> {
    content: &'a mut dyn Read,
    hasher: Sha256Hasher,
    length: u64,
    error: Option<io::Error>,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.content.read(buffer) {
            Ok(n) => {
                self.hasher.update(&buffer[..n]);
                self.length += n as u64;
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => {
                let kind = e.kind();
                self.error.get_or_insert(e);
                Err(kind.into())
            }
        }
    }
}

/// All of an entry whose size was checked.
fn small(content: &mut Hashed) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = content.read_to_end(&mut bytes);
    bytes
}

fn brief(epochs: &[u32]) -> String {
    match epochs {
        [first, .., last] if epochs.len() > 6 => format!("{first} to {last} ({} of them)", epochs.len()),
        few => format!("{few:?}"),
    }
}

/// Entries that come before the models, in order.
pub const HEAD: [&str; 5] = [names::CHECKSUMS, names::ZOO, CARD, INDEX, VOLUMES];

/// Most bytes of an entry; `None` if a zoo has no file of this name.
pub fn size_limit(path: &str) -> Option<u64> {
    match path {
        names::CHECKSUMS => Some(CHECKSUMS_LIMIT),
        names::ZOO | CARD | VOLUMES => Some(SMALL_LIMIT),
        INDEX => Some(INDEX_LIMIT),
        _ => match model_file(path)?.1 {
            names::PARAMS => Some(Params::SIZE_LIMIT),
            names::RESULT => Some(SMALL_LIMIT),
            _ => Some(u64::MAX),
        },
    }
}
