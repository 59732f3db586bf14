//! Measures training steps and evaluation on noise: images per second, as a line of JSON for each case.
//!
//!     step [ARCHITECTURE [CHANNELS SIDE CLASSES [BATCH... [-- THREADS...]]]]
//!
//! ResNet-18 on CIFAR's images in mini-batches of 32 and 128, with one thread, by default.

use std::time::Instant;

use zoo_engine::{Engine, Task};
use zoo_engine_layered::LayeredEngine;
use zoo_model::stage::Interrupt;
use zoo_model::synthetic::noise_dataset;
use zoo_model::{Activation, Architecture, Hyperparameters, Init, Optimizer, Split};

/// Seconds that a case is measured for, at least.
const SECONDS: f64 = 4.0;

/// The best of several rounds of `work` on the given number of images, in images per second.
fn rate(images: usize, mut work: impl FnMut()) -> f64 {
    work();
    let (started, mut best) = (Instant::now(), f64::INFINITY);
    while started.elapsed().as_secs_f64() < SECONDS {
        let round = Instant::now();
        work();
        best = best.min(round.elapsed().as_secs_f64());
    }
    images as f64 / best
}

fn measure(hyperparameters: &Hyperparameters, shape: [usize; 3], classes: usize, threads: usize) {
    let batch = hyperparameters.batch_size;
    let data = noise_dataset(shape, classes, batch);
    let task = Task::new(hyperparameters, shape, classes).expect("the images fit");
    let engine = LayeredEngine::new();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
    let (train, evaluate) = pool.install(|| {
        let mut cohort = engine.start(std::slice::from_ref(&task), &data, None).expect("it starts");
        let order: Vec<u32> = (0..batch as u32).collect();
        let train = rate(batch, || {
            cohort.train(1, 0, std::slice::from_ref(&order), &Interrupt::default()).expect("it trains");
        });
        let evaluate = rate(batch, || {
            cohort.logits(Split::Test, 0..batch).expect("it evaluates");
        });
        (train, evaluate)
    });
    println!(
        r#"{{"engine": "layered", "architecture": "{}", "batch": {batch}, "threads": {threads}, "train": {train:.2}, "evaluate": {evaluate:.2}}}"#,
        hyperparameters.architecture.name()
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (sizes, threads) = match arguments.iter().position(|a| a == "--") {
        Some(at) => (&arguments[..at], &arguments[at + 1..]),
        None => (&arguments[..], &[][..]),
    };
    let numbers = |text: &[String]| -> Vec<usize> { text.iter().map(|n| n.parse().expect("a number")).collect() };
    let architecture = match sizes.first().map(String::as_str) {
        None | Some("resnet18") => Architecture::Resnet18,
        Some("mlp") => Architecture::Mlp,
        Some("cnn-s") => Architecture::CnnS,
        Some("cnn-m") => Architecture::CnnM,
        Some(other) => panic!("no architecture {other}"),
    };
    let sizes = numbers(sizes.get(1..).unwrap_or_default());
    let (shape, classes) = match sizes[..] {
        [channels, side, classes, ..] => ([channels, side, side], classes),
        _ => ([3, 32, 32], 10),
    };
    let batches = if sizes.len() > 3 { sizes[3..].to_vec() } else { vec![32, 128] };
    let threads = if threads.is_empty() { vec![1] } else { numbers(threads) };
    for &batch_size in &batches {
        for &threads in &threads {
            let hyperparameters = Hyperparameters {
                architecture,
                activation: Activation::Relu,
                hidden: if architecture == Architecture::Mlp { vec![64, 64] } else { Vec::new() },
                init: Init::KaimingUniform,
                optimizer: Optimizer::Sgd,
                learning_rate: 1e-3,
                momentum: 0.9,
                batch_size,
                ..Hyperparameters::default()
            };
            measure(&hyperparameters, shape, classes, threads);
        }
    }
}
