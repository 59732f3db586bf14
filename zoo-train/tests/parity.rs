//! Every engine against what PyTorch computes in float64.
//!
//! Takes all `train-*.safetensors` and `ties-*.safetensors` of the folder that the environment
//! variable `ZOO_REFERENCE` names, or else of the committed `tests/reference`, whose README tells the
//! rule. `tests/reference/make_parity.py` makes more.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use zoo_engine::{Engine, Task};
use zoo_engine_cuda::emulated::Emulated;
use zoo_engine_cuda::{gpu, Device};
use zoo_engine_population::PopulationEngine;
use zoo_model::dataset::{DatasetInfo, PerSplit, Samples};
use zoo_model::safetensors_file::to_f32;
use zoo_model::stage::Interrupt;
use zoo_model::{Dataset, Hyperparameters, Network, Optimizer, Split};
use zoo_test::reference;
use zoo_train::registry::all_on_processor;

/// What a float32 engine is measured at, the bound for each case, and that for the median over the
/// cases of one optimiser. The bounds of single cases are wide: where float32 picks another winner of
/// a pooling window than float64, trajectories part ways.
const BOUNDS: [(&str, f64, f64); 7] = [
    ("init.test_logits", 1e-5, 2e-6),
    ("grad", 5e-5, 2e-6),
    ("step1", 5e-3, 1e-5),
    ("step10", 2e-3, 2e-5),
    ("step50", 5e-2, 2e-5),
    ("losses", 2e-3, 5e-7),
    ("final.test_logits", 5e-2, 5e-6),
];

/// The bound for a float64 engine.
const BOUND_OF_FLOAT64: f64 = 1e-6;

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
    Dataset::new(info, shape, PerSplit { train: samples("train"), val: Samples::default(), test: samples("test") })
        .unwrap()
}

/// An engine's arithmetic, which decides how its errors are measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arithmetic {
    Float32,
    Float64,
}

impl Arithmetic {
    fn of(engine: &dyn Engine) -> Self {
        match engine.name() {
            "dfdx" => Self::Float64,
            _ => Self::Float32,
        }
    }

    /// How far one tensor of those that `parts` delimits is off, or all of them together. Float64: the
    /// largest difference over the tensor's largest value. Float32: the norm of the difference over
    /// that of the expected values' distance from `origin`, if there is one.
    fn error(self, found: &[f64], expected: &[f64], origin: Option<&[f64]>, parts: &[Range<usize>]) -> f64 {
        assert_eq!(found.len(), expected.len());
        let difference = |i: usize| found[i] - expected[i];
        if found.iter().any(|f| !f.is_finite()) {
            return f64::INFINITY;
        }
        match self {
            Self::Float32 => {
                let norm = |of: &dyn Fn(usize) -> f64| (0..found.len()).map(|i| of(i) * of(i)).sum::<f64>().sqrt();
                norm(&difference) / norm(&|i| expected[i] - origin.map_or(0.0, |o| o[i]))
            }
            Self::Float64 => {
                let largest = |part: &Range<usize>, of: &dyn Fn(usize) -> f64| {
                    part.clone().map(|i| of(i).abs()).fold(0.0, f64::max)
                };
                parts
                    .iter()
                    .map(|p| largest(p, &difference) / largest(p, &|i| expected[i]).max(1e-30))
                    .fold(0.0, f64::max)
            }
        }
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| v.into()).collect()
}

/// Trains a case, and measures how far the engine is off where the case counts: with Adam, later steps
/// of `ties-*` divide by moments near zero.
fn measure(engine: &dyn Engine, folder: &Path, path: &Path) -> (Optimizer, Vec<(&'static str, f64)>) {
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
    let arithmetic = Arithmetic::of(engine);
    let parts: Vec<Range<usize>> = network.parameters().iter().map(|p| p.range.clone()).collect();
    let initial = wide(&task.initial);
    let flat = |tag: &str| wide(&case.flat(tag, &network));
    let whole = |found: &[f64], expected: &[f64]| {
        arithmetic.error(found, expected, None, std::slice::from_ref(&(0..expected.len())))
    };

    let mut cohort = engine.start(&[task], &data, None).unwrap();
    let test = 0..data.len(Split::Test);
    let logits = cohort.logits(Split::Test, test.clone()).unwrap().remove(0);
    let mut errors = vec![("init.test_logits", whole(&logits, &wide(&case.tensors["init.test_logits"])))];
    let batch = hyperparameters.batch_size as u32;
    let gradient = cohort.gradients(&(0..batch).collect::<Vec<_>>()).unwrap().remove(0);
    errors.push(("grad", arithmetic.error(&wide(&gradient), &flat("grad"), None, &parts)));

    let mut losses = Vec::new();
    for step in 0..case.value("steps") {
        let order: Vec<u32> = (step * batch..(step + 1) * batch).collect();
        losses.push(cohort.train(1, 0, &[order], &Interrupt::default()).unwrap()[0].score().unwrap().loss);
        let tag = format!("step{}", step + 1);
        if let Some(&(tag, ..)) = BOUNDS.iter().find(|(key, ..)| *key == tag) {
            let state = wide(&cohort.snapshots().unwrap()[0].state());
            errors.push((tag, arithmetic.error(&state, &flat(tag), Some(&initial), &parts)));
        }
    }
    errors.push(("losses", whole(&losses, &case.losses)));
    let logits = cohort.logits(Split::Test, test).unwrap().remove(0);
    errors.push(("final.test_logits", whole(&logits, &wide(&case.tensors["final.test_logits"]))));
    let keys: Vec<&str> = errors.iter().map(|(key, _)| *key).collect();
    assert_eq!(keys, BOUNDS.map(|(key, ..)| key), "{}", path.display());

    let has_ties = path.file_name().unwrap().to_string_lossy().starts_with("ties-");
    if has_ties && hyperparameters.optimizer == Optimizer::Adam {
        errors.truncate(2);
    }
    (hyperparameters.optimizer, errors)
}

/// Checks an engine on all vectors.
fn check_all(engine: &dyn Engine) {
    let folder = reference::folders().pop().expect("the committed folder at least");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|p| {
            let name = p.file_name().unwrap().to_string_lossy().into_owned();
            (name.starts_with("train-") || name.starts_with("ties-")) && name.ends_with(".safetensors")
        })
        .collect();
    paths.sort();
    let mut failures = Vec::new();
    // Errors of the cases, by optimiser and by place in BOUNDS.
    let mut errors: BTreeMap<(String, usize), Vec<f64>> = BTreeMap::new();
    let mut is_within = |what: String, error: f64, bound: f64| {
        if error.is_nan() || error > bound {
            failures.push(format!("{what}: off by {error:.2e}, {:.1} times {bound:.0e}", error / bound));
        }
    };
    let arithmetic = Arithmetic::of(engine);
    for path in paths {
        let (optimizer, of_case) = measure(engine, &folder, &path);
        for (i, (key, error)) in of_case.into_iter().enumerate() {
            let bound = if arithmetic == Arithmetic::Float64 { BOUND_OF_FLOAT64 } else { BOUNDS[i].1 };
            is_within(format!("{} {key}", path.file_stem().unwrap().to_string_lossy()), error, bound);
            errors.entry((format!("{optimizer:?}"), i)).or_default().push(error);
        }
    }
    println!("{}: | optimizer | | cases | worst | bound | median | bound |", engine.name());
    for ((optimizer, i), errors) in &mut errors {
        errors.sort_by(f64::total_cmp);
        let (key, each, of_median) = BOUNDS[*i];
        let (worst, median) =
            (errors[errors.len() - 1], (errors[(errors.len() - 1) / 2] + errors[errors.len() / 2]) / 2.0);
        let cases = errors.len();
        if arithmetic == Arithmetic::Float64 {
            println!("| {optimizer} | {key} | {cases} | {worst:.1e} | {BOUND_OF_FLOAT64:.0e} | {median:.1e} | |");
            continue;
        }
        println!("| {optimizer} | {key} | {cases} | {worst:.1e} | {each:.0e} | {median:.1e} | {of_median:.0e} |");
        is_within(format!("median of {optimizer}, {key}"), median, of_median);
    }
    assert!(failures.is_empty(), "{}:\n{}", engine.name(), failures.join("\n"));
    assert_eq!(errors.len(), 2 * BOUNDS.len(), "vectors of both optimisers in {}", folder.display());
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
    check_all(&PopulationEngine::with_devices(devices));
}
