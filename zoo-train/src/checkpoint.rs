//! Models in the middle of their training, on disk.
//!
//! A safetensors file of L models: a tensor (L, Q) for each of a [`Snapshot`]'s
//! [vectors](Snapshot::vectors), f32 if that holds its values and f64 otherwise; an f32 tensor `states`
//! (N, P), the kept states that are not in the models' own files, model by model; between two parts of an
//! epoch, if models are on a ramp, a u8 tensor `masks` (L, P); a u8 tensor `progress`: all the rest, as
//! JSON; and last, a u8 tensor `sha256`: the SHA-256 of all bytes before it, as text. A file that does not fit its models is not an error: they then start over. Models are found
//! whatever batch they were saved in, so that another width of vectors, or another device, resumes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zoo_engine::metrics::Tally;
use zoo_engine::{Moments, NoiseSnapshot, Snapshot};
use zoo_model::files::{fingerprint, write_atomic, FileError, Hashing, Sha256};
use zoo_model::safetensors_file::{self, from_f32, to_f32, Dtype, TensorFile, TensorSpec};
use zoo_model::{ModelId, Optimizer, ResultLine};

use crate::kept_states::KeptStates;
use crate::trajectory::Progress;

/// How the names of checkpoints begin.
const PREFIX: &str = "checkpoint-";

/// Names of the tensors that are not a snapshot's vectors.
const PROGRESS: &str = "progress";
const STATES: &str = "states";
const MASKS: &str = "masks";
const SHA256: &str = "sha256";

/// Bytes of a SHA-256 as text.
const SHA256_LENGTH: usize = 64;

#[derive(Serialize, Deserialize)]
struct Record {
    fingerprint: String,
    ids: Vec<ModelId>,
    epoch: u32,
    /// Steps of the next epoch.
    steps_of_epoch: usize,
    tallies: Vec<Tally>,
    /// Whether each model has a mask; empty without any.
    is_masked: Vec<bool>,
    optimizer: Optimizer,
    /// Of the optimiser.
    steps: Vec<u64>,
    lines: Vec<Vec<ResultLine>>,
    /// States in each model's own file, and their digest.
    written: Vec<(usize, Sha256)>,
}

/// What is saved of some models: their progress, and the kept states of each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Saved {
    /// How far they are.
    pub progress: Progress,
    /// One per model.
    pub states: Vec<KeptStates>,
}

/// Saves the models `ids` of the zoo with this fingerprint: their progress, and the kept states of each.
///
/// # Errors
/// The file cannot be written.
pub fn save(
    path: &Path,
    fingerprint: &str,
    ids: &[ModelId],
    progress: &Progress,
    states: &[KeptStates],
) -> Result<(), FileError> {
    let record = Record {
        fingerprint: fingerprint.to_owned(),
        ids: ids.to_vec(),
        epoch: progress.epoch,
        steps_of_epoch: progress.steps,
        tallies: progress.tallies.clone(),
        is_masked: progress.masks.iter().map(Option::is_some).collect(),
        optimizer: progress.snapshots.first().map_or(Optimizer::Adam, |s| s.moments.optimizer()),
        steps: progress.snapshots.iter().map(|s| s.step).collect(),
        lines: progress.lines.clone(),
        written: states.iter().map(KeptStates::written).collect(),
    };
    let record = serde_json::to_vec(&record).expect("plain data serialises");
    let models = ids.len();
    let spec = |name: &str, dtype, shape: &[usize]| TensorSpec { name: name.into(), dtype, shape: shape.to_vec() };
    let mut specs = vec![spec(PROGRESS, Dtype::U8, &[record.len()])];
    // Of each model the vectors in one order.
    let of_models: Vec<Vec<(String, &Vec<f64>)>> = progress.snapshots.iter().map(Snapshot::vectors).collect();
    for (k, (name, vector)) in of_models.first().into_iter().flatten().enumerate() {
        let is_single = of_models.iter().all(|vectors| vectors[k].1.iter().all(|&x| is_f32(x)));
        specs.push(spec(name, if is_single { Dtype::F32 } else { Dtype::F64 }, &[models, vector.len()]));
    }
    let vectors = specs[1..].to_vec();
    let length = progress.snapshots.first().map_or(0, |s| s.parameters.len());
    specs.push(spec(STATES, Dtype::F32, &[states.iter().map(|s| s.in_memory().len()).sum(), length]));
    if !progress.masks.is_empty() {
        specs.push(spec(MASKS, Dtype::U8, &[models, length]));
    }
    specs.push(spec(SHA256, Dtype::U8, &[SHA256_LENGTH]));
    write_atomic(path, |out| {
        let mut out = BufWriter::new(Hashing::new(out));
        out.write_all(&safetensors_file::header(&specs, &BTreeMap::new()))?;
        out.write_all(&record)?;
        for (k, spec) in vectors.iter().enumerate() {
            for vector in of_models.iter().map(|vectors| vectors[k].1) {
                match spec.dtype {
                    Dtype::F32 => vector.iter().try_for_each(|&x| out.write_all(&(x as f32).to_le_bytes()))?,
                    _ => vector.iter().try_for_each(|x| out.write_all(&x.to_le_bytes()))?,
                }
            }
        }
        states.iter().flat_map(KeptStates::in_memory).try_for_each(|state| out.write_all(&from_f32(state)))?;
        progress.masks.iter().try_for_each(|mask| match mask {
            Some(mask) => out.write_all(&mask.iter().map(|&kept| u8::from(kept)).collect::<Vec<u8>>()),
            None => out.write_all(&vec![0; length]),
        })?;
        let (out, _, sum) = out.into_inner().map_err(|e| e.into_error())?.finish();
        out.write_all(sum.to_string().as_bytes())
    })
}

/// Whether a number is that of an f32, bit for bit.
fn is_f32(x: f64) -> bool {
    f64::from(x as f32).to_bits() == x.to_bits()
}

/// Whether a checkpoint has the SHA-256 that it ends with.
fn is_intact(path: &Path) -> std::io::Result<bool> {
    let file = fs::File::open(path)?;
    let length = file.metadata()?.len().saturating_sub(SHA256_LENGTH as u64);
    let mut body = Hashing::new(file.take(length));
    std::io::copy(&mut body, &mut std::io::sink())?;
    let (rest, _, sum) = body.finish();
    let mut recorded = Vec::new();
    rest.into_inner().take(SHA256_LENGTH as u64).read_to_end(&mut recorded)?;
    Ok(sum.to_string().as_bytes() == recorded)
}

/// Where the checkpoint of a batch lies: named by its models, so that batches of another width do not
/// overwrite it.
pub fn path(dir: &Path, ids: &[ModelId]) -> PathBuf {
    dir.join(format!("{PREFIX}{}-{}.safetensors", ids[0], &fingerprint(&ids)[..12]))
}

/// Where the latest progress of each model of an unfinished zoo is stored.
#[derive(Debug, Default)]
pub struct Checkpoints {
    fingerprint: String,
    files: Vec<PathBuf>,
    places: HashMap<ModelId, Place>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    path: PathBuf,
    position: (u32, usize),
}

impl Checkpoints {
    /// Looks through a folder for the checkpoints of the zoo with this fingerprint; others are left
    /// alone, with a warning.
    pub fn find(dir: &Path, fingerprint: &str) -> Self {
        let mut places: HashMap<ModelId, Place> = HashMap::new();
        let mut files = Vec::new();
        for path in files_in(dir) {
            let record = TensorFile::open(&path).ok().and_then(|mut file| record_of(&mut file, fingerprint));
            let Some(Record { ids, epoch, steps_of_epoch, .. }) = record else {
                tracing::warn!("{} is not a checkpoint of this zoo; its models start over", path.display());
                continue;
            };
            files.push(path.clone());
            for id in ids {
                let place = Place { path: path.clone(), position: (epoch, steps_of_epoch) };
                let known = places.entry(id).or_insert_with(|| place.clone());
                if known.position < place.position {
                    *known = place;
                }
            }
        }
        Self { fingerprint: fingerprint.to_owned(), files, places }
    }

    /// Removes those from which no unfinished model resumes. Best effort. No other process may be training.
    pub fn remove_superseded(&self, is_unfinished: impl Fn(ModelId) -> bool) {
        let used: HashSet<&Path> =
            self.places.iter().filter(|(&id, _)| is_unfinished(id)).map(|(_, place)| place.path.as_path()).collect();
        for path in self.files.iter().filter(|path| !used.contains(path.as_path())) {
            let _ = fs::remove_file(path);
        }
    }

    /// Where a model resumes from: epochs, and steps of the next one; 0 and 0: the beginning.
    pub fn position(&self, id: ModelId) -> (u32, usize) {
        self.places.get(&id).map_or((0, 0), |place| place.position)
    }

    /// What is saved of models that resume from one position, whatever batches they were saved in; `None`
    /// if there is nothing, or not all of it is whole.
    pub fn load(&self, ids: &[ModelId]) -> Option<Saved> {
        let mut files: HashMap<&Path, (Vec<ModelId>, Saved)> = HashMap::new();
        let (epoch, steps) = self.position(*ids.first()?);
        let mut progress = Progress { epoch, steps, ..Progress::default() };
        let mut states = Vec::new();
        for id in ids {
            let path = self.places.get(id)?.path.as_path();
            if !files.contains_key(path) {
                let is_intact = is_intact(path).unwrap_or(false);
                files.insert(path, is_intact.then(|| read(path, &self.fingerprint)).flatten()?);
            }
            let (saved_ids, saved) = files.get_mut(path)?;
            let row = saved_ids.iter().position(|saved| saved == id)?;
            if saved.progress.position() != progress.position() {
                return None;
            }
            let from = &saved.progress;
            progress.snapshots.push(from.snapshots[row].clone());
            progress.lines.push(from.lines[row].clone());
            progress.tallies.extend(from.tallies.get(row));
            progress.masks.push(from.masks.get(row).cloned().flatten());
            states.push(std::mem::take(&mut saved.states[row]));
        }
        if progress.masks.iter().all(Option::is_none) {
            progress.masks.clear();
        }
        Some(Saved { progress, states })
    }
}

/// The checkpoints in a folder, whatever zoo they are of.
fn files_in(dir: &Path) -> Vec<PathBuf> {
    // No folder: nothing was started.
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_name().to_string_lossy().starts_with(PREFIX)).map(|e| e.path()).collect()
}

fn record_of(file: &mut TensorFile, fingerprint: &str) -> Option<Record> {
    let record: Record = serde_json::from_slice(&file.read(PROGRESS, Dtype::U8).ok()?).ok()?;
    let models = record.ids.len();
    let has_one_of = |length: usize| length == models;
    let has_one_or_none_of = |length: usize| length == models || length == 0;
    let fits = record.fingerprint == fingerprint
        && [record.steps.len(), record.lines.len(), record.written.len()].into_iter().all(has_one_of)
        && [record.tallies.len(), record.is_masked.len()].into_iter().all(has_one_or_none_of);
    (fits && models > 0).then_some(record)
}

/// The vectors of all models by name, a row per model.
fn read_vectors(file: &mut TensorFile, models: usize) -> Option<HashMap<String, Vec<Vec<f64>>>> {
    let specs: Vec<TensorSpec> = file.header().tensors.iter().map(|t| t.spec.clone()).collect();
    let is_vector = |spec: &TensorSpec| ![PROGRESS, STATES, MASKS, SHA256].contains(&spec.name.as_str());
    let mut vectors = HashMap::new();
    for TensorSpec { name, dtype, shape } in specs.into_iter().filter(is_vector) {
        let &[rows, length] = shape.as_slice() else { return None };
        if rows != models || length == 0 {
            return None;
        }
        let bytes = file.read(&name, dtype).ok()?;
        let row = |bytes: &[u8]| match dtype {
            Dtype::F32 => Some(to_f32(bytes).into_iter().map(f64::from).collect()),
            Dtype::F64 => {
                Some(bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("eight bytes"))).collect())
            }
            _ => None,
        };
        let rows = bytes.chunks_exact(bytes.len() / models).map(row).collect::<Option<Vec<Vec<f64>>>>()?;
        vectors.insert(name, rows);
    }
    Some(vectors)
}

/// The models of a checkpoint and what is saved of them; `None` if it is not one of the zoo with this
/// fingerprint, or not whole.
pub fn read(path: &Path, fingerprint: &str) -> Option<(Vec<ModelId>, Saved)> {
    let mut file = TensorFile::open(path).ok()?;
    let record = record_of(&mut file, fingerprint)?;
    let models = record.ids.len();
    let mut vectors = read_vectors(&mut file, models)?;
    let mut of_model = |name: &str, m: usize| vectors.get_mut(name).map(|rows| std::mem::take(&mut rows[m]));
    let moments = |of_model: &mut dyn FnMut(&str, usize) -> Option<Vec<f64>>, prefix: &str, m: usize| {
        Moments::try_new(record.optimizer, |name| of_model(&format!("{prefix}moments.{name}"), m))
    };
    let mut snapshots = Vec::new();
    for (m, &step) in record.steps.iter().enumerate() {
        let noise = match of_model("noise.log_sigma2", m) {
            Some(log_sigma2) => Some(NoiseSnapshot { log_sigma2, moments: moments(&mut of_model, "noise.", m)? }),
            None => None,
        };
        let parameters = of_model("parameters", m)?;
        snapshots.push(Snapshot { step, parameters, moments: moments(&mut of_model, "", m)?, noise });
    }
    let length = snapshots.first()?.parameters.len();
    let masks = read_masks(&mut file, &record.is_masked, length)?;
    let states = read_states(&mut file, &record, length)?;
    let Record { epoch, steps_of_epoch: steps, tallies, lines, ids, .. } = record;
    Some((ids, Saved { progress: Progress { epoch, steps, tallies, masks, snapshots, lines }, states }))
}

/// The masks of the models that have one; empty if no model has.
fn read_masks(file: &mut TensorFile, is_masked: &[bool], length: usize) -> Option<Vec<Option<Vec<bool>>>> {
    if !is_masked.contains(&true) {
        return is_masked.is_empty().then(Vec::new);
    }
    if file.tensor(MASKS, Dtype::U8).ok()?.spec.shape != [is_masked.len(), length] {
        return None;
    }
    let bytes = file.read(MASKS, Dtype::U8).ok()?;
    let rows = bytes.chunks_exact(length).map(|row| row.iter().map(|&kept| kept != 0).collect());
    Some(rows.zip(is_masked).map(|(row, &is_masked)| is_masked.then_some(row)).collect())
}

/// The kept states of each model, of which there must be one per line.
fn read_states(file: &mut TensorFile, record: &Record, length: usize) -> Option<Vec<KeptStates>> {
    let kept = record.lines.first()?.len();
    if record.lines.iter().any(|lines| lines.len() != kept) {
        return None;
    }
    let in_memory: Vec<usize> =
        record.written.iter().map(|&(written, _)| kept.checked_sub(written)).collect::<Option<_>>()?;
    if file.tensor(STATES, Dtype::F32).ok()?.spec.shape != [in_memory.iter().sum(), length] {
        return None;
    }
    let states = to_f32(&file.read(STATES, Dtype::F32).ok()?);
    let mut states = states.chunks_exact(length).map(<[f32]>::to_vec);
    let of_model = |(&(written, digest), count): (&(usize, Sha256), usize)| {
        KeptStates::saved(written, digest, states.by_ref().take(count).collect())
    };
    Some(record.written.iter().zip(in_memory).map(of_model).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoo_model::files::sha256;

    fn line() -> ResultLine {
        let json = br#"{"training_iteration":0,"train_loss":1.5,"train_acc":0.1,"test_loss":null,"test_acc":0.1,"val_loss":0.3333333333333333,"val_acc":0.1}"#;
        zoo_model::result::from_json_lines(json).unwrap().remove(0)
    }

    #[test]
    fn progress_survives_bit_for_bit_and_strangers_are_ignored() {
        let snapshot = |x: f64| Snapshot {
            step: 7,
            parameters: vec![x; 3],
            // Running statistics have no moments.
            moments: Moments::Adam { mean: vec![0.1; 2], mean_square: vec![x; 2] },
            noise: Some(NoiseSnapshot {
                log_sigma2: vec![-x; 2],
                moments: Moments::Adam { mean: vec![0.2; 2], mean_square: vec![2.0 * x; 2] },
            }),
        };
        let tally = |loss| Tally { loss, hits: 3, samples: 4 };
        let progress = Progress {
            epoch: 4,
            steps: 10,
            tallies: vec![tally(1.0 / 3.0), tally(f64::INFINITY)],
            masks: vec![None, Some(vec![true, false, true])],
            snapshots: vec![snapshot(1.0 / 3.0), snapshot(2.0)],
            lines: vec![vec![line(); 2]; 2],
        };
        // The second model is further in writing its states.
        let states = vec![
            KeptStates::saved(0, KeptStates::default().written().1, vec![vec![0.1; 3], vec![0.2; 3]]),
            KeptStates::saved(1, sha256(b"x"), vec![vec![0.3; 3]]),
        ];
        let ids = [ModelId(3), ModelId(5)];
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path(), &ids);
        assert_eq!(read(&path, "f"), None);
        save(&path, "f", &ids, &progress, &states).unwrap();
        let saved = Saved { progress, states };
        assert_eq!(read(&path, "f"), Some((ids.to_vec(), saved.clone())));
        assert_eq!(read(&path, "other"), None);
        assert_eq!(Checkpoints::find(dir.path(), "f").load(&ids), Some(saved.clone()));
        assert_eq!(Checkpoints::find(dir.path(), "other").load(&ids), None);
        // The one that has no mask alone has none.
        let first = Checkpoints::find(dir.path(), "f").load(&ids[..1]).unwrap();
        assert_eq!((&first.progress.masks, &first.progress.tallies[..]), (&vec![], &saved.progress.tallies[..1]));
        std::fs::write(&path, b"garbage").unwrap();
        assert_eq!(read(&path, "f"), None);
        assert_eq!(Checkpoints::find(dir.path(), "f").position(ids[0]), (0, 0));
    }

    #[test]
    fn nothing_resumes_from_a_checkpoint_of_which_a_byte_changed() {
        let snapshot = Snapshot {
            step: 7,
            parameters: vec![0.3; 3],
            moments: Moments::Sgd { momentum: vec![0.1; 3] },
            noise: None,
        };
        let progress = Progress { epoch: 4, snapshots: vec![snapshot], lines: vec![vec![]], ..Progress::default() };
        let dir = tempfile::tempdir().unwrap();
        let ids = [ModelId(3)];
        let path = path(dir.path(), &ids);
        save(&path, "f", &ids, &progress, &[KeptStates::default()]).unwrap();
        let load = || Checkpoints::find(dir.path(), "f").load(&ids);
        assert!(load().is_some());
        let intact = fs::read(&path).unwrap();
        for place in 0..intact.len() {
            let mut changed = intact.clone();
            changed[place] ^= 1;
            fs::write(&path, changed).unwrap();
            assert_eq!(load(), None, "byte {place} of {}", intact.len());
        }
        fs::write(&path, &intact[..intact.len() - 1]).unwrap();
        assert_eq!(load(), None);
    }

    /// Progress of models after an epoch, each at a value.
    fn saved(epoch: u32, values: &[f64]) -> Saved {
        let snapshot = |x: f64| Snapshot {
            step: 7,
            parameters: vec![x; 3],
            moments: Moments::Sgd { momentum: vec![x; 3] },
            noise: None,
        };
        let progress = Progress {
            epoch,
            snapshots: values.iter().map(|&x| snapshot(x)).collect(),
            lines: vec![vec![line()]; values.len()],
            ..Progress::default()
        };
        let kept = |x: f64| KeptStates::saved(0, KeptStates::default().written().1, vec![vec![x as f32; 3]]);
        Saved { progress, states: values.iter().map(|&x| kept(x)).collect() }
    }

    #[test]
    fn values_of_single_precision_are_stored_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.safetensors");
        for (values, dtype) in [([0.5, f64::from(0.1f32)], Dtype::F32), ([0.5, 0.1], Dtype::F64)] {
            let Saved { progress, states } = saved(1, &values);
            save(&path, "f", &[ModelId(0), ModelId(1)], &progress, &states).unwrap();
            let file = TensorFile::open(&path).unwrap();
            assert!(file.tensor("parameters", dtype).is_ok() && file.tensor("moments.momentum", dtype).is_ok());
            assert_eq!(read(&path, "f").unwrap().1, Saved { progress, states });
        }
        for x in [f64::NAN, f64::INFINITY, -0.0, f64::from(f32::MIN_POSITIVE)] {
            assert!(is_f32(x), "{x}");
        }
        assert!(!is_f32(f64::MIN_POSITIVE) && !is_f32(f64::MAX) && !is_f32(0.1));
    }

    #[test]
    fn a_batch_of_a_device_can_be_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.safetensors");
        let ids: Vec<ModelId> = (0..512).map(ModelId).collect();
        let Saved { mut progress, states } = saved(60, &[1.0; 512]);
        progress.lines = vec![vec![line(); 60]; 512];
        let states: Vec<KeptStates> =
            states.iter().map(|s| KeptStates::saved(59, s.written().1, s.in_memory().to_vec())).collect();
        save(&path, "f", &ids, &progress, &states).unwrap();
        assert_eq!(read(&path, "f"), Some((ids, Saved { progress, states })));
    }

    #[test]
    fn the_fuzz_targets_seeds_are_progress() {
        let seeds = zoo_test::reference::repository().join("fuzz/seeds/checkpoint");
        for (seed, has_noise, is_within) in
            [("adam", false, false), ("sgd", false, false), ("variational", true, false), ("part", false, true)]
        {
            let (ids, saved) = read(&seeds.join(seed), "fuzz").unwrap_or_else(|| panic!("{seed}"));
            let Progress { snapshots, steps, masks, tallies, .. } = &saved.progress;
            assert_eq!((ids.len(), snapshots[0].noise.is_some()), (2, has_noise), "{seed}");
            assert_eq!(
                (*steps > 0, !masks.is_empty(), tallies.len()),
                (is_within, is_within, if is_within { 2 } else { 0 }),
                "{seed}"
            );
        }
    }

    #[test]
    fn models_go_on_in_batches_of_another_width() {
        let dir = tempfile::tempdir().unwrap();
        let saved = |epoch, models: &[u32]| saved(epoch, &models.iter().map(|&m| m.into()).collect::<Vec<f64>>());
        let save = |epoch, models: &[u32]| {
            let ids: Vec<ModelId> = models.iter().map(|&m| ModelId(m)).collect();
            let Saved { progress, states } = saved(epoch, models);
            save(&path(dir.path(), &ids), "f", &ids, &progress, &states).unwrap();
        };
        save(2, &[0, 1, 2, 3]);
        save(5, &[2, 3]);
        save(2, &[4]);
        let found = Checkpoints::find(dir.path(), "f");
        assert_eq!([0, 1, 2, 3, 4, 5].map(|m| found.position(ModelId(m)).0), [2, 2, 5, 5, 2, 0]);
        assert_eq!(found.load(&[ModelId(4), ModelId(1)]), Some(saved(2, &[4, 1])));
        assert_eq!(found.load(&[ModelId(3), ModelId(2)]), Some(saved(5, &[3, 2])));
        assert_eq!(found.load(&[ModelId(1), ModelId(2)]), None);
        assert_eq!(found.load(&[ModelId(5)]), None);
    }

    #[test]
    fn superseded_checkpoints_are_removed_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let save = |epoch, models: &[u32]| {
            let ids: Vec<ModelId> = models.iter().map(|&m| ModelId(m)).collect();
            let Saved { progress, states } = saved(epoch, &vec![1.0; models.len()]);
            save(&path(dir.path(), &ids), "f", &ids, &progress, &states).unwrap();
            path(dir.path(), &ids)
        };
        let superseded = save(2, &[0, 1]);
        let needed = [save(3, &[0, 1, 2]), save(4, &[2]), save(1, &[3, 4])];
        let finished = save(1, &[5]);
        let foreign = dir.path().join("checkpoint-foreign");
        std::fs::write(&foreign, b"").unwrap();
        Checkpoints::find(dir.path(), "f").remove_superseded(|id| ![3, 5].contains(&id.0));
        assert!(needed.iter().chain([&foreign]).all(|path| path.exists()));
        assert!(!superseded.exists() && !finished.exists());
    }

    #[test]
    fn shapes_that_do_not_belong_together_are_no_progress() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.safetensors");
        let write = |lines: usize, written: usize, parameters: [usize; 2], states: [usize; 2]| {
            let record = Record {
                fingerprint: "f".into(),
                ids: vec![ModelId(0), ModelId(1)],
                epoch: 1,
                steps_of_epoch: 0,
                tallies: vec![],
                is_masked: vec![],
                optimizer: Optimizer::Sgd,
                steps: vec![1, 1],
                lines: vec![vec![line(); lines]; 2],
                written: vec![(written, KeptStates::default().written().1); 2],
            };
            let record = serde_json::to_vec(&record).unwrap();
            let spec =
                |name: &str, dtype, shape: &[usize]| TensorSpec { name: name.into(), dtype, shape: shape.to_vec() };
            let specs = [
                spec(PROGRESS, Dtype::U8, &[record.len()]),
                spec("parameters", Dtype::F64, &parameters),
                spec("moments.momentum", Dtype::F64, &parameters),
                spec(STATES, Dtype::F32, &states),
            ];
            let vector = vec![0; 8 * parameters.iter().product::<usize>()];
            let data = [record, vector.clone(), vector, vec![0; 4 * states.iter().product::<usize>()]];
            write_atomic(&path, |out| {
                safetensors_file::write(out, &specs, &BTreeMap::new(), data.iter().map(Vec::as_slice))
            })
            .unwrap();
            read(&path, "f").map(|(_, saved)| saved)
        };
        assert!(write(1, 0, [2, 3], [2, 3]).is_some() && write(2, 1, [2, 3], [2, 3]).is_some());
        for (lines, written, parameters, states) in [
            (1, 0, [2, 0], [2, 0]),
            (1, 0, [0, 3], [2, 3]),
            (1, 0, [1, 3], [2, 3]),
            (1, 0, [3, 2], [2, 3]),
            (1, 0, [2, 3], [2, 2]),
            (2, 0, [2, 3], [2, 3]),
            (0, 0, [2, 3], [2, 3]),
            (1, 1, [2, 3], [2, 3]),
            (1, 2, [2, 3], [0, 3]),
        ] {
            assert_eq!(write(lines, written, parameters, states), None, "{lines} {written} {parameters:?} {states:?}");
        }
    }
}
