//! One training step of batch 10, and the evaluation of as many samples, by every engine and
//! architecture: `cargo bench -p zoo-train`.

use criterion::{Criterion, Throughput};
use zoo_engine::Task;
use zoo_model::stage::Interrupt;
use zoo_model::synthetic::noise_dataset;
use zoo_model::{Architecture, Hyperparameters, Init, Split};
use zoo_train::registry::all_on_processor;

const BATCH: usize = 10;

fn step(criterion: &mut Criterion) {
    // As in training: one thread per model.
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
    let _one = one.expect("the main thread is in no pool yet");
    for (architecture, shape) in [(Architecture::CnnS, [1, 28, 28]), (Architecture::CnnM, [3, 32, 32])] {
        let data = noise_dataset(shape, 10, BATCH);
        let hyperparameters = Hyperparameters {
            architecture,
            init: Init::KaimingUniform,
            batch_size: BATCH,
            ..Hyperparameters::default()
        };
        let task = Task::new(&hyperparameters, shape, 10).expect("the shape fits");
        let order = [(0..BATCH as u32).collect::<Vec<_>>()];
        let go_on = Interrupt::default();
        for engine in all_on_processor().expect("the processor is there") {
            let mut group = criterion.benchmark_group(format!("{}/{}", engine.name(), architecture.name()));
            let mut cohort = engine.start(std::slice::from_ref(&task), &data, None).expect("the processor is there");
            group.throughput(Throughput::Elements(BATCH as u64));
            group.bench_function("train", |b| b.iter(|| cohort.train(1, 0, &order, &go_on)));
            group.throughput(Throughput::Elements(BATCH as u64));
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
