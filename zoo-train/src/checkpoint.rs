//! Models in the middle of their training, on disk.
//!
//! A safetensors file of L models: an f64 tensor (L, Q) for each of a [`Snapshot`]'s
//! [vectors](Snapshot::vectors), an f32 tensor `states` (L, S, P), and in the header, as JSON under
//! `progress`, all the rest. A file that does not fit its models is not an error: they then start over.
//! Models are found whatever batch they were saved in, so that another width of vectors, or another
//! device, resumes.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zoo_engine::{Moments, NoiseSnapshot, Snapshot};
use zoo_model::files::{fingerprint, write_atomic, FileError};
use zoo_model::safetensors_file::{self, from_f32, to_f32, Dtype, TensorFile, TensorSpec};
use zoo_model::{ModelId, Optimizer, ResultLine};

use crate::trajectory::{Progress, Trajectory};

/// How the names of checkpoints begin.
const PREFIX: &str = "checkpoint-";

#[derive(Serialize, Deserialize)]
struct Header {
    fingerprint: String,
    ids: Vec<ModelId>,
    epoch: u32,
    optimizer: Optimizer,
    steps: Vec<u64>,
    lines: Vec<Vec<ResultLine>>,
}

/// Saves the progress of the models `ids` of the zoo with this fingerprint.
pub fn save(path: &Path, fingerprint: &str, ids: &[ModelId], progress: &Progress) -> Result<(), FileError> {
    let header = Header {
        fingerprint: fingerprint.to_owned(),
        ids: ids.to_vec(),
        epoch: progress.epoch,
        optimizer: progress.snapshots.first().map_or(Optimizer::Adam, |s| s.moments.optimizer()),
        steps: progress.snapshots.iter().map(|s| s.step).collect(),
        lines: progress.trajectories.iter().map(|t| t.lines.clone()).collect(),
    };
    let models = ids.len();
    let spec = |name: String, dtype, shape: &[usize]| TensorSpec { name, dtype, shape: shape.to_vec() };
    let (mut specs, mut data) = (Vec::new(), Vec::new());
    let of_models: Vec<Vec<(String, &Vec<f64>)>> = progress.snapshots.iter().map(Snapshot::vectors).collect();
    for (k, (name, vector)) in of_models.first().into_iter().flatten().enumerate() {
        specs.push(spec(name.clone(), Dtype::F64, &[models, vector.len()]));
        data.push(of_models.iter().flat_map(|v| v[k].1.iter().flat_map(|x| x.to_le_bytes())).collect::<Vec<u8>>());
    }
    let states = progress.trajectories.first().map_or(0, |t| t.states.len());
    let length = progress.snapshots.first().map_or(0, |s| s.parameters.len());
    specs.push(spec("states".into(), Dtype::F32, &[models, states, length]));
    data.push(progress.trajectories.iter().flat_map(|t| t.states.iter().flat_map(|s| from_f32(s))).collect());
    let metadata =
        BTreeMap::from([("progress".to_owned(), serde_json::to_string(&header).expect("plain data serialises"))]);
    write_atomic(path, |out| safetensors_file::write(out, &specs, &metadata, data.iter().map(Vec::as_slice)))
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
    places: HashMap<ModelId, Place>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    path: PathBuf,
    epoch: u32,
}

impl Checkpoints {
    /// Looks through a folder for the checkpoints of the zoo with this fingerprint; others are left
    /// alone, with a warning.
    pub fn find(dir: &Path, fingerprint: &str) -> Self {
        let mut places: HashMap<ModelId, Place> = HashMap::new();
        // No folder: nothing was started.
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
                continue;
            }
            let path = entry.path();
            let header = TensorFile::open(&path).ok().and_then(|file| header_of(&file, fingerprint));
            let Some(Header { ids, epoch, .. }) = header else {
                tracing::warn!("{} is not a checkpoint of this zoo; its models start over", path.display());
                continue;
            };
            for id in ids {
                let place = Place { path: path.clone(), epoch };
                let known = places.entry(id).or_insert_with(|| place.clone());
                if known.epoch < epoch {
                    *known = place;
                }
            }
        }
        Self { fingerprint: fingerprint.to_owned(), places }
    }

    /// The epoch that a model resumes from; 0: the beginning.
    pub fn epoch(&self, id: ModelId) -> u32 {
        self.places.get(&id).map_or(0, |place| place.epoch)
    }

    /// The saved progress of models that resume from one epoch, whatever batches they were saved in;
    /// `None` if there is none, or none of it that is whole.
    pub fn load(&self, ids: &[ModelId]) -> Option<Progress> {
        let mut files: HashMap<&Path, (Vec<ModelId>, Progress)> = HashMap::new();
        let mut progress = Progress { epoch: self.epoch(*ids.first()?), ..Progress::default() };
        for id in ids {
            let path = self.places.get(id)?.path.as_path();
            if !files.contains_key(path) {
                files.insert(path, read(path, &self.fingerprint)?);
            }
            let (saved_ids, saved) = &files[path];
            let row = saved_ids.iter().position(|saved| saved == id)?;
            if saved.epoch != progress.epoch {
                return None;
            }
            progress.snapshots.push(saved.snapshots[row].clone());
            progress.trajectories.push(saved.trajectories[row].clone());
        }
        Some(progress)
    }
}

fn header_of(file: &TensorFile, fingerprint: &str) -> Option<Header> {
    let header: Header = serde_json::from_str(file.header().metadata.get("progress")?).ok()?;
    let models = header.ids.len();
    let fits = header.fingerprint == fingerprint && header.steps.len() == models && header.lines.len() == models;
    (fits && models > 0).then_some(header)
}

/// The models of a checkpoint and their progress; `None` if it is not one of the zoo with this
/// fingerprint, or not whole.
pub fn read(path: &Path, fingerprint: &str) -> Option<(Vec<ModelId>, Progress)> {
    let mut file = TensorFile::open(path).ok()?;
    let header = header_of(&file, fingerprint)?;
    let models = header.ids.len();
    let mut vectors = HashMap::new();
    let names = file.header().tensors.iter().filter(|t| t.spec.dtype == Dtype::F64).map(|t| t.spec.name.clone());
    for name in names.collect::<Vec<String>>() {
        let &[rows, length] = file.tensor(&name, Dtype::F64).ok()?.spec.shape.as_slice() else { return None };
        if rows != models || length == 0 {
            return None;
        }
        let bytes = file.read(&name, Dtype::F64).ok()?;
        let values = bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("eight bytes")));
        let rows: Vec<Vec<f64>> = values.collect::<Vec<f64>>().chunks_exact(length).map(<[f64]>::to_vec).collect();
        vectors.insert(name, rows);
    }
    let of_model = |name: &str, m: usize| vectors.get(name).map(|rows| rows[m].clone());
    let moments = |prefix: &str, m: usize| {
        Moments::try_new(header.optimizer, |name| of_model(&format!("{prefix}moments.{name}"), m))
    };
    let snapshot = |m: usize| {
        let noise = match of_model("noise.log_sigma2", m) {
            Some(log_sigma2) => Some(NoiseSnapshot { log_sigma2, moments: moments("noise.", m)? }),
            None => None,
        };
        Some(Snapshot {
            step: header.steps[m],
            parameters: of_model("parameters", m)?,
            moments: moments("", m)?,
            noise,
        })
    };
    let snapshots = (0..models).map(snapshot).collect::<Option<Vec<Snapshot>>>()?;
    let kept = header.lines.first()?.len();
    let expected = [models, kept, snapshots.first()?.parameters.len()];
    if file.tensor("states", Dtype::F32).ok()?.spec.shape != expected || header.lines.iter().any(|l| l.len() != kept) {
        return None;
    }
    let states = to_f32(&file.read("states", Dtype::F32).ok()?);
    let mut states = states.chunks_exact(expected[2]).map(<[f32]>::to_vec);
    let trajectories =
        header.lines.into_iter().map(|lines| Trajectory { lines, states: states.by_ref().take(kept).collect() });
    Some((header.ids, Progress { epoch: header.epoch, snapshots, trajectories: trajectories.collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let trajectory = |x: f32| Trajectory { lines: vec![line()], states: vec![vec![x; 3]] };
        let progress = Progress {
            epoch: 4,
            snapshots: vec![snapshot(1.0 / 3.0), snapshot(2.0)],
            trajectories: vec![trajectory(0.1), trajectory(0.2)],
        };
        let ids = [ModelId(3), ModelId(5)];
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path(), &ids);
        assert_eq!(read(&path, "f"), None);
        save(&path, "f", &ids, &progress).unwrap();
        assert_eq!(read(&path, "f"), Some((ids.to_vec(), progress.clone())));
        assert_eq!(read(&path, "other"), None);
        assert_eq!(Checkpoints::find(dir.path(), "f").load(&ids), Some(progress));
        assert_eq!(Checkpoints::find(dir.path(), "other").load(&ids), None);
        std::fs::write(&path, b"garbage").unwrap();
        assert_eq!(read(&path, "f"), None);
        assert_eq!(Checkpoints::find(dir.path(), "f").epoch(ids[0]), 0);
    }

    #[test]
    fn the_fuzz_targets_seeds_are_progress() {
        let seeds = zoo_test::reference::repository().join("fuzz/seeds/checkpoint");
        for (seed, has_noise) in [("adam", false), ("sgd", false), ("variational", true)] {
            let (ids, progress) = read(&seeds.join(seed), "fuzz").unwrap_or_else(|| panic!("{seed}"));
            assert_eq!((ids.len(), progress.snapshots[0].noise.is_some()), (2, has_noise), "{seed}");
        }
    }

    #[test]
    fn models_go_on_in_batches_of_another_width() {
        let snapshot = |x: f64| Snapshot {
            step: 7,
            parameters: vec![x; 3],
            moments: Moments::Sgd { momentum: vec![x; 3] },
            noise: None,
        };
        let trajectory = |x: f64| Trajectory { lines: vec![line()], states: vec![vec![x as f32; 3]] };
        let progress = |epoch, models: &[u32]| Progress {
            epoch,
            snapshots: models.iter().map(|&m| snapshot(m.into())).collect(),
            trajectories: models.iter().map(|&m| trajectory(m.into())).collect(),
        };
        let dir = tempfile::tempdir().unwrap();
        let save = |epoch, models: &[u32]| {
            let ids: Vec<ModelId> = models.iter().map(|&m| ModelId(m)).collect();
            save(&path(dir.path(), &ids), "f", &ids, &progress(epoch, models)).unwrap();
        };
        save(2, &[0, 1, 2, 3]);
        save(5, &[2, 3]);
        save(2, &[4]);
        let found = Checkpoints::find(dir.path(), "f");
        assert_eq!([0, 1, 2, 3, 4, 5].map(|m| found.epoch(ModelId(m))), [2, 2, 5, 5, 2, 0]);
        assert_eq!(found.load(&[ModelId(4), ModelId(1)]), Some(progress(2, &[4, 1])));
        assert_eq!(found.load(&[ModelId(3), ModelId(2)]), Some(progress(5, &[3, 2])));
        assert_eq!(found.load(&[ModelId(1), ModelId(2)]), None);
        assert_eq!(found.load(&[ModelId(5)]), None);
    }

    #[test]
    fn shapes_that_do_not_belong_together_are_no_progress() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.safetensors");
        let write = |lines: usize, parameters: [usize; 2], states: [usize; 3]| {
            let header = Header {
                fingerprint: "f".into(),
                ids: vec![ModelId(0), ModelId(1)],
                epoch: 1,
                optimizer: Optimizer::Sgd,
                steps: vec![1, 1],
                lines: vec![vec![line(); lines]; 2],
            };
            let metadata = BTreeMap::from([("progress".to_owned(), serde_json::to_string(&header).unwrap())]);
            let specs = [
                TensorSpec { name: "parameters".into(), dtype: Dtype::F64, shape: parameters.to_vec() },
                TensorSpec { name: "moments.momentum".into(), dtype: Dtype::F64, shape: parameters.to_vec() },
                TensorSpec { name: "states".into(), dtype: Dtype::F32, shape: states.to_vec() },
            ];
            let vector = vec![0; 8 * parameters.iter().product::<usize>()];
            let data = [vector.clone(), vector, vec![0; 4 * states.iter().product::<usize>()]];
            write_atomic(&path, |out| safetensors_file::write(out, &specs, &metadata, data.iter().map(Vec::as_slice)))
                .unwrap();
            read(&path, "f").map(|(_, progress)| progress)
        };
        assert!(write(1, [2, 3], [2, 1, 3]).is_some());
        for (lines, parameters, states) in [
            (1, [2, 0], [2, 1, 0]),
            (1, [0, 3], [2, 1, 3]),
            (1, [1, 3], [2, 1, 3]),
            (1, [3, 2], [2, 1, 3]),
            (1, [2, 3], [2, 1, 2]),
            (2, [2, 3], [2, 1, 3]),
            (0, [2, 3], [2, 1, 3]),
        ] {
            assert_eq!(write(lines, parameters, states), None, "{lines} {parameters:?} {states:?}");
        }
    }
}
