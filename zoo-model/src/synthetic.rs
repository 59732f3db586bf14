//! Zoos of noise: the layout of a real zoo without its training, for tests and benchmarks.

use std::collections::BTreeMap;
use std::path::Path;

use crate::dataset::{DatasetInfo, PerSplit, Samples};
use crate::files::FileError;
use crate::hyperparameters::Hyperparameters;
use crate::init::{initial_parameters, Init};
use crate::model_id::ModelId;
use crate::params::Params;
use crate::random::{Purpose, Stream};
use crate::result::ResultLine;
use crate::zoo_dir::{DatasetRecord, ZooDir, ZooRecord};
use crate::{Dataset, FORMAT_VERSION};

/// A dataset of noise, every split with the given number of samples of images of `shape`. As photographs have
/// backgrounds and edges, the left quarter is black, and the right one is of vertical stripes.
pub fn noise_dataset(shape: [usize; 3], classes: usize, samples: usize) -> Dataset {
    let pixels: usize = shape.iter().product();
    let info = DatasetInfo {
        dataset: "noise".into(),
        class_names: (0..classes).map(|c| c.to_string()).collect(),
        mean: vec![0.5; shape[0]],
        std: vec![0.5; shape[0]],
        sources: Default::default(),
        fingerprint: String::new(),
    };
    let mut noise = Stream::new(0, Purpose::Sample, 0, 0);
    let mut images: Vec<u8> = (0..samples * pixels).map(|_| (noise.next_u32() >> 24) as u8).collect();
    let [_, height, width] = shape;
    for plane in images.chunks_exact_mut(height * width) {
        for y in 0..height {
            let (stripes, row) = plane.split_at_mut(y * width);
            row[..width / 4].fill(0);
            if y > 0 {
                row[width - width / 4..width].copy_from_slice(&stripes[width - width / 4..width]);
            }
        }
    }
    let split = Samples { images, labels: (0..samples).map(|i| (i % classes) as u16).collect() };
    Dataset::new(info, shape, PerSplit::from_fn(|_| split.clone())).expect("a well-formed dataset")
}

/// Writes a finished zoo of `models` `cnn-s` models with `states` states each, whose weights drift
/// as in training, to the empty or missing directory `path`.
pub fn write(path: &Path, name: &str, models: u32, states: u32) -> Result<ZooDir, FileError> {
    let zoo = ZooDir::new(path);
    let mut parameters = 0;
    for id in 0..models {
        let hyperparameters = Hyperparameters {
            init: Init::KaimingUniform,
            learning_rate: 1e-3,
            epochs: states - 1,
            seed: id.into(),
            ..Hyperparameters::default()
        };
        let network = hyperparameters.network([1, 28, 28], 10).expect("28 pixels");
        parameters = network.parameter_count();
        let mut state = initial_parameters(&network, hyperparameters.init, id.into());
        let mut steps = Stream::new(id.into(), Purpose::Sample, 0, 0);
        let (mut lines, mut trajectory) = (Vec::new(), Vec::new());
        for epoch in 0..states {
            lines.push(line(epoch, states));
            trajectory.push(state.clone());
            state.iter_mut().for_each(|p| *p += (steps.uniform() as f32 - 0.5) * 0.02);
        }
        let params = Params::new(ModelId(id), hyperparameters, &network);
        zoo.write_model(&path.join(".training"), &params, &network, &lines, &trajectory)?;
    }
    let staging = path.join(".training");
    std::fs::remove_dir_all(&staging).map_err(FileError::io("remove", staging))?;
    zoo.finish(&record(name, models, states, parameters))?;
    Ok(zoo)
}

fn line(epoch: u32, states: u32) -> ResultLine {
    let accuracy = Some(0.1 + 0.8 * f64::from(epoch) / f64::from(states));
    let loss = accuracy.map(|a| 2.0 - a);
    ResultLine {
        training_iteration: epoch,
        train_loss: loss,
        train_acc: accuracy,
        test_loss: loss,
        test_acc: accuracy,
        val_loss: loss,
        val_acc: accuracy,
        diverged: false,
        sparsity_ratio: None,
        test_agreement: None,
        extra: Default::default(),
    }
}

fn record(name: &str, models: u32, states: u32, parameters: usize) -> ZooRecord {
    ZooRecord {
        format_version: FORMAT_VERSION,
        name: name.into(),
        description: "Noise in the layout of a zoo.".into(),
        license: "CC0-1.0".into(),
        parent: None,
        manifest: serde_json::json!({}),
        dataset: DatasetRecord {
            name: "noise".into(),
            sha256: String::new(),
            shape: [1, 28, 28],
            classes: 10,
            class_names: Vec::new(),
            train: 0,
            val: 0,
            test: 0,
            mean: vec![0.5],
            std: vec![0.5],
            sources: BTreeMap::new(),
        },
        engine: None,
        models: models as usize,
        states: (models * states) as usize,
        diverged: 0,
        parameters,
        fingerprint: String::new(),
        extra: Default::default(),
    }
}
