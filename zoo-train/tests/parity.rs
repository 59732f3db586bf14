//! Every engine against what PyTorch computes in float64.
//!
//! Takes all `train-*.safetensors` of the committed folder `tests/reference`, and of the folder
//! named by the environment variable `ZOO_REFERENCE` (default: `../shared/reference` beside the
//! workspace, if it is there). `tests/reference/make_parity.py` makes more.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use zoo_engine::{Engine, Task};
use zoo_engine_population::cuda::device::Device;
use zoo_engine_population::cuda::emulated::Emulated;
use zoo_engine_population::cuda::gpu;
use zoo_engine_population::PopulationEngine;
use zoo_model::dataset::{DatasetInfo, Samples};
use zoo_model::safetensors_file::to_f32;
use zoo_model::stage::Interrupt;
use zoo_model::{Dataset, Hyperparameters, Network, Split};
use zoo_train::registry::all_on_processor;

fn workspace() -> PathBuf {
    // As it is where the test runs, which may be another machine.
    let package = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).parent().unwrap().to_owned()
}

fn folders() -> Vec<PathBuf> {
    let mut folders = vec![workspace().join("tests/reference")];
    match std::env::var_os("ZOO_REFERENCE") {
        // Tests run in their package's folder; a relative path is meant from the workspace's.
        Some(folder) => folders.push(workspace().join(folder)),
        None => folders.extend(Some(workspace().join("../shared/reference")).filter(|p| p.is_dir())),
    }
    folders
}

struct Case {
    tensors: HashMap<String, Vec<f32>>,
    losses: Vec<f64>,
    metadata: HashMap<String, String>,
}

impl Case {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let metadata = SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap();
        let losses = file.tensor("losses").unwrap().data().chunks_exact(8);
        Self {
            losses: losses.map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
            tensors: file
                .iter()
                .filter(|(n, _)| *n != "losses")
                .map(|(n, t)| (n.to_owned(), to_f32(t.data())))
                .collect(),
            metadata,
        }
    }

    fn value<T: std::str::FromStr>(&self, key: &str) -> T {
        self.metadata[key].parse().unwrap_or_else(|_| panic!("metadata {key}"))
    }

    fn named<T: serde::de::DeserializeOwned>(&self, key: &str) -> T {
        serde_json::from_value(self.metadata[key].clone().into()).unwrap()
    }

    fn hyperparameters(&self) -> Hyperparameters {
        Hyperparameters {
            architecture: self.named("architecture"),
            activation: self.named("activation"),
            init: self.named("init"),
            optimizer: self.named("optimizer"),
            learning_rate: self.value("learning_rate"),
            weight_decay: self.value("weight_decay"),
            momentum: self.value("momentum"),
            batch_size: self.value("batch_size"),
            ..Hyperparameters::default()
        }
    }

    /// All tensors `{tag}.layerK.*` as a flat parameter vector.
    fn flat(&self, tag: &str, network: &Network) -> Vec<f32> {
        let parts = network.parameters().iter().enumerate().map(|(i, p)| {
            let suffix = p.name.rsplit('.').next().unwrap();
            let values = &self.tensors[&format!("{tag}.layer{}.{suffix}", i / 2)];
            assert_eq!(values.len(), p.range.len(), "{tag} {}", p.name);
            values.clone()
        });
        parts.flatten().collect()
    }

    /// The bound that the folder's README gives.
    fn tolerance(&self, key: &str) -> f64 {
        let single = self.metadata.get(&format!("float32_error.{key}")).map_or(0.0, |e| e.parse().unwrap());
        f64::max(2e-5, 30.0 * single)
    }
}

fn dataset(path: &Path, mean: f64, std: f64) -> Dataset {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let samples = |name: &str| Samples {
        images: file.tensor(&format!("{name}_images")).unwrap().data().to_vec(),
        labels: file.tensor(&format!("{name}_labels")).unwrap().data().iter().map(|&l| l.into()).collect(),
    };
    let shape: [usize; 3] = file.tensor("train_images").unwrap().shape()[1..].try_into().unwrap();
    let info = DatasetInfo {
        dataset: "fashion-mnist".into(),
        class_names: (0..10).map(|c| c.to_string()).collect(),
        mean: vec![mean; shape[0]],
        std: vec![std; shape[0]],
        sources: Default::default(),
        fingerprint: String::new(),
    };
    Dataset::new(info, shape, [samples("train"), Samples::default(), samples("test")]).unwrap()
}

/// Largest difference over the largest value, as the vectors' metadata define the error.
fn error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1e-30f64, |m, &e| m.max(f64::from(e).abs()));
    let difference = found.iter().zip(expected).map(|(&f, &e)| (f64::from(f) - f64::from(e)).abs());
    difference.fold(0.0, |m, d| if d.is_nan() { f64::INFINITY } else { m.max(d) }) / largest
}

fn single(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

/// Appends what is out of bounds to `failures`.
fn check(engine: &dyn Engine, folder: &Path, path: &Path, failures: &mut Vec<String>) {
    let case = Case::read(path);
    let hyperparameters = case.hyperparameters();
    let (channels, side): (usize, usize) = (case.value("channels"), hyperparameters.architecture.image_side().unwrap());
    let images = folder.join(format!("images-{channels}x{side}x{side}.safetensors"));
    let data = dataset(&images, case.value("mean"), case.value("std"));
    let network = hyperparameters.network(data.shape, 10).unwrap();
    let task = Task {
        initial: case.flat("init", &network),
        network: network.clone(),
        hyperparameters: hyperparameters.clone(),
        mask: None,
        epochs_before: 0,
    };
    let name = format!("{} {}", engine.name(), path.file_stem().unwrap().to_string_lossy());
    let mut within = |what: &str, error: f64, tolerance: f64| {
        println!("{name:<50} {what:<18} {error:9.2e} of {tolerance:9.2e}");
        if error.is_nan() || error > tolerance {
            failures.push(format!("{name}: {what} is off by {error:.2e}, more than {tolerance:.2e}"));
        }
    };
    let tensors = |found: &[f32], tag: &str| {
        let expected = case.flat(tag, &network);
        let errors = network.parameters().iter().map(|p| error(&found[p.range.clone()], &expected[p.range.clone()]));
        errors.fold(0.0, f64::max)
    };

    let mut cohort = engine.start(&[task], &data, None).unwrap();
    let test = 0..data.len(Split::Test);
    let logits = single(&cohort.logits(Split::Test, test.clone()).unwrap()[0]);
    within("init.test_logits", error(&logits, &case.tensors["init.test_logits"]), 2e-5);
    let batch = hyperparameters.batch_size as u32;
    let gradient = cohort.gradients(&(0..batch).collect::<Vec<_>>()).unwrap().remove(0);
    within("grad", tensors(&gradient, "grad"), case.tolerance("grad"));

    let steps: u32 = case.value("steps");
    let mut losses = Vec::new();
    for step in 0..steps {
        let order: Vec<u32> = (step * batch..(step + 1) * batch).collect();
        losses.push(cohort.train(1, &[order], &Interrupt::default()).unwrap()[0].loss);
        let tag = format!("step{}", step + 1);
        if case.tensors.contains_key(&format!("{tag}.layer0.weight")) {
            within(&tag, tensors(&cohort.snapshots().unwrap()[0].state(), &tag), case.tolerance(&tag));
        }
    }
    let largest = case.losses.iter().fold(0f64, |m, l| m.max(l.abs()));
    let off = losses.iter().zip(&case.losses).fold(0f64, |m, (a, b)| m.max((a - b).abs()));
    assert_eq!(losses.len(), case.losses.len());
    within("losses", off / largest, case.tolerance("losses"));
    let logits = single(&cohort.logits(Split::Test, test).unwrap()[0]);
    within(
        "final.test_logits",
        error(&logits, &case.tensors["final.test_logits"]),
        case.tolerance("final.test_logits"),
    );
}

/// Checks an engine on all vectors.
fn check_all(engine: &dyn Engine) {
    let mut cases = 0;
    let mut failures = Vec::new();
    for folder in folders() {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
            .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
            .map(|entry| entry.unwrap().path())
            .filter(|p| {
                let name = p.file_name().unwrap().to_string_lossy().into_owned();
                name.starts_with("train-") && name.ends_with(".safetensors")
            })
            .collect();
        paths.sort();
        assert!(!paths.is_empty(), "no vectors in {}", folder.display());
        for path in paths {
            check(engine, &folder, &path, &mut failures);
            cases += 1;
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(cases >= 2);
}

#[test]
fn engines_reproduce_the_reference_vectors() {
    all_on_processor().unwrap().iter().for_each(|engine| check_all(engine.as_ref()));
}

/// The CUDA kernels: run by the processor, or by the GPU whose number ZOO_GPU names.
#[test]
fn kernels_reproduce_the_reference_vectors() {
    let devices = match std::env::var("ZOO_GPU") {
        Ok(number) => gpu::devices(Some(number.parse().unwrap())).unwrap(),
        Err(_) => vec![Device::new(Box::new(Emulated::default())).unwrap()],
    };
    check_all(&PopulationEngine::on_devices(devices));
}
