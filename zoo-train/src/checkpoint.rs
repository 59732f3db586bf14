//! A cohort in the middle of its training, on disk.
//!
//! A safetensors file: f64 tensors `parameters` (L, P), `moment{k}` (L, Q) and, with variational
//! dropout, `log_sigma2` (L, Q), f32 tensor `states` (L, S, P), and in the header, as JSON under
//! `progress`, all the rest. A file that does not fit the cohort is not an error: the cohort then
//! starts over.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use zoo_model::files::{write_atomic, FileError};
use zoo_model::safetensors_file::{self, from_f32, to_f32, Dtype, TensorFile, TensorSpec};
use zoo_model::{ModelId, ResultLine};

use crate::engine::Snapshot;
use crate::trajectory::{Progress, Trajectory};

#[derive(Serialize, Deserialize)]
struct Header {
    fingerprint: String,
    ids: Vec<ModelId>,
    epoch: u32,
    steps: Vec<u64>,
    lines: Vec<Vec<ResultLine>>,
}

/// Saves the progress of the cohort `ids` of the zoo with this fingerprint.
pub fn save(path: &Path, fingerprint: &str, ids: &[ModelId], progress: &Progress) -> Result<(), FileError> {
    let header = Header {
        fingerprint: fingerprint.to_owned(),
        ids: ids.to_vec(),
        epoch: progress.epoch,
        steps: progress.snapshots.iter().map(|s| s.step).collect(),
        lines: progress.trajectories.iter().map(|t| t.lines.clone()).collect(),
    };
    let moments = progress.snapshots.first().map_or(0, |s| s.moments.len());
    let models = ids.len();
    let spec = |name: String, dtype, shape: &[usize]| TensorSpec { name, dtype, shape: shape.to_vec() };
    let (mut specs, mut data) = (Vec::new(), Vec::new());
    let mut push = |name: String, vectors: Vec<&Vec<f64>>| {
        specs.push(spec(name, Dtype::F64, &[models, vectors.first().map_or(0, |v| v.len())]));
        data.push(vectors.iter().flat_map(|v| v.iter().flat_map(|x| x.to_le_bytes())).collect::<Vec<u8>>());
    };
    push("parameters".into(), progress.snapshots.iter().map(|s| &s.parameters).collect());
    for k in 0..moments {
        push(format!("moment{k}"), progress.snapshots.iter().map(|s| &s.moments[k]).collect());
    }
    if progress.snapshots.iter().any(|s| s.log_sigma2.is_some()) {
        push("log_sigma2".into(), progress.snapshots.iter().filter_map(|s| s.log_sigma2.as_ref()).collect());
    }
    let states = progress.trajectories.first().map_or(0, |t| t.states.len());
    let length = progress.snapshots.first().map_or(0, |s| s.parameters.len());
    specs.push(spec("states".into(), Dtype::F32, &[models, states, length]));
    data.push(progress.trajectories.iter().flat_map(|t| t.states.iter().flat_map(|s| from_f32(s))).collect());
    let metadata =
        BTreeMap::from([("progress".to_owned(), serde_json::to_string(&header).expect("plain data serialises"))]);
    write_atomic(path, |out| safetensors_file::write(out, &specs, &metadata, data.iter().map(Vec::as_slice)))
}

/// The saved progress of the cohort `ids`, or `None` if there is none, or none of it that is whole.
pub fn load(path: &Path, fingerprint: &str, ids: &[ModelId]) -> Option<Progress> {
    let mut file = TensorFile::open(path).ok()?;
    let header: Header = serde_json::from_str(file.header().metadata.get("progress")?).ok()?;
    let models = ids.len();
    if header.fingerprint != fingerprint
        || header.ids != ids
        || header.steps.len() != models
        || header.lines.len() != models
    {
        return None;
    }
    let count = |prefix: &str| file.header().tensors.iter().filter(|t| t.spec.name.starts_with(prefix)).count();
    let (moments, is_variational) = (count("moment"), count("log_sigma2") > 0);
    let mut read = |name: &str| -> Option<Vec<Vec<f64>>> {
        let &[rows, length] = file.place(name, Dtype::F64).ok()?.spec.shape.as_slice() else { return None };
        if rows != models || length == 0 {
            return None;
        }
        let bytes = file.read(name, Dtype::F64).ok()?;
        let values = bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("eight bytes")));
        Some(values.collect::<Vec<f64>>().chunks_exact(length).map(<[f64]>::to_vec).collect())
    };
    let parameters = read("parameters")?;
    let moments: Vec<Vec<Vec<f64>>> = (0..moments).map(|k| read(&format!("moment{k}"))).collect::<Option<_>>()?;
    let log_sigma2 = if is_variational { Some(read("log_sigma2")?) } else { None };
    let kept = header.lines.first()?.len();
    let expected = [models, kept, parameters.first()?.len()];
    if file.place("states", Dtype::F32).ok()?.spec.shape != expected || header.lines.iter().any(|l| l.len() != kept) {
        return None;
    }
    let states = to_f32(&file.read("states", Dtype::F32).ok()?);
    let mut states = states.chunks_exact(expected[2]).map(<[f32]>::to_vec);
    let snapshots = (0..models).map(|m| Snapshot {
        step: header.steps[m],
        parameters: parameters[m].clone(),
        moments: moments.iter().map(|k| k[m].clone()).collect(),
        log_sigma2: log_sigma2.as_ref().map(|l| l[m].clone()),
    });
    let snapshots = snapshots.collect();
    let trajectories =
        header.lines.into_iter().map(|lines| Trajectory { lines, states: states.by_ref().take(kept).collect() });
    Some(Progress { epoch: header.epoch, snapshots, trajectories: trajectories.collect() })
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
            moments: vec![vec![0.1; 2], vec![x; 2]],
            log_sigma2: Some(vec![-x; 2]),
        };
        let trajectory = |x: f32| Trajectory { lines: vec![line()], states: vec![vec![x; 3]] };
        let progress = Progress {
            epoch: 4,
            snapshots: vec![snapshot(1.0 / 3.0), snapshot(2.0)],
            trajectories: vec![trajectory(0.1), trajectory(0.2)],
        };
        let ids = [ModelId(3), ModelId(5)];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.safetensors");
        assert_eq!(load(&path, "f", &ids), None);
        save(&path, "f", &ids, &progress).unwrap();
        assert_eq!(load(&path, "f", &ids), Some(progress));
        assert_eq!(load(&path, "other", &ids), None);
        assert_eq!(load(&path, "f", &[ModelId(3)]), None);
        std::fs::write(&path, b"garbage").unwrap();
        assert_eq!(load(&path, "f", &ids), None);
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
                steps: vec![1, 1],
                lines: vec![vec![line(); lines]; 2],
            };
            let metadata = BTreeMap::from([("progress".to_owned(), serde_json::to_string(&header).unwrap())]);
            let specs = [
                TensorSpec { name: "parameters".into(), dtype: Dtype::F64, shape: parameters.to_vec() },
                TensorSpec { name: "states".into(), dtype: Dtype::F32, shape: states.to_vec() },
            ];
            let data =
                [vec![0; 8 * parameters.iter().product::<usize>()], vec![0; 4 * states.iter().product::<usize>()]];
            write_atomic(&path, |out| safetensors_file::write(out, &specs, &metadata, data.iter().map(Vec::as_slice)))
                .unwrap();
            load(&path, "f", &[ModelId(0), ModelId(1)])
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
