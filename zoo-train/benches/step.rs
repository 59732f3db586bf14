//! One training step of batch 10, and the evaluation of 100 samples, by every engine and
//! architecture: `cargo bench -p zoo-train`.

use criterion::{Criterion, Throughput};
use zoo_model::dataset::{DatasetInfo, Samples};
use zoo_model::{Activation, Architecture, Dataset, Hyperparameters, Init, Optimizer, Split};
use zoo_stage::Interrupt;
use zoo_train::{engines, task};

const BATCH: usize = 10;
const TEST: usize = 100;

fn dataset(shape: [usize; 3]) -> Dataset {
    let pixels: usize = shape.iter().product();
    let samples = |n: usize| Samples {
        images: (0..n * pixels).map(|i| (i * 7919 % 251) as u8).collect(),
        labels: (0..n).map(|i| (i % 10) as u16).collect(),
    };
    let info = DatasetInfo {
        dataset: "noise".into(),
        class_names: (0..10).map(|c| c.to_string()).collect(),
        mean: vec![0.5; shape[0]],
        std: vec![0.5; shape[0]],
        sources: Default::default(),
        fingerprint: String::new(),
    };
    Dataset::new(info, shape, [samples(BATCH), Samples::default(), samples(TEST)]).expect("well-formed")
}

fn step(criterion: &mut Criterion) {
    // As in training: one thread a model.
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
    let _one = one.expect("the main thread is in no pool yet");
    for (architecture, shape) in [(Architecture::CnnS, [1, 28, 28]), (Architecture::CnnM, [3, 32, 32])] {
        let data = dataset(shape);
        let hyperparameters = Hyperparameters {
            architecture,
            activation: Activation::Tanh,
            init: Init::KaimingUniform,
            dropout: 0.0,
            optimizer: Optimizer::Adam,
            learning_rate: 1e-3,
            weight_decay: 0.0,
            momentum: 0.0,
            batch_size: BATCH,
            epochs: 1,
            seed: 1,
        };
        let task = task(&hyperparameters, shape, 10).expect("the shape fits");
        let order = [(0..BATCH as u32).collect::<Vec<_>>()];
        let go_on = Interrupt::default();
        for engine in engines() {
            let mut group = criterion.benchmark_group(format!("{}/{}", engine.name(), architecture.name()));
            let mut cohort = engine.start(std::slice::from_ref(&task), &data, None);
            group.throughput(Throughput::Elements(BATCH as u64));
            group.bench_function("train", |b| b.iter(|| cohort.train(1, &order, &go_on)));
            group.throughput(Throughput::Elements(TEST as u64));
            group.bench_function("evaluate", |b| b.iter(|| cohort.evaluate(Split::Test, &go_on)));
            group.finish();
        }
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    step(&mut criterion);
    criterion.final_summary();
}
