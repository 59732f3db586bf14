//! Every instruction set, with any number of threads, has the bits of the scalar reference.

use zoo_engine::magnitude::{Ramp, Scope};
use zoo_engine::variational::Variational;
use zoo_engine::{Cohort, Engine, Mask, Snapshot, Task};
use zoo_engine_layered::cohort::Models;
use zoo_engine_layered::reference::Reference;
use zoo_engine_layered::LayeredEngine;
use zoo_engine_simd::InstructionSet;
use zoo_model::stage::Interrupt;
use zoo_model::synthetic::noise_dataset;
use zoo_model::{Activation, Architecture, Augmentation, Dataset, Hyperparameters, Init, Optimizer, Schedule, Split};

/// What there is to compare: tallies, logits, gradients and snapshots, as text, whose numbers are exact.
fn outcome(mut cohort: Box<dyn Cohort + '_>) -> (String, Vec<Snapshot>) {
    let go_on = Interrupt::default();
    let mut seen = String::new();
    for epoch in 1..=cohort.tasks()[0].hyperparameters.epochs {
        let tallies = cohort.train_epoch(epoch, &go_on).unwrap();
        let logits = cohort.logits(Split::Test, 1..cohort.data().len(Split::Test)).unwrap();
        seen += &format!("{tallies:?} {logits:?}\n");
    }
    let gradients = cohort.gradients(&[0, 2]).unwrap();
    seen += &format!("{gradients:?}");
    (seen, cohort.snapshots().unwrap())
}

fn in_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

fn all_have_the_references_bits(task: &Task, data: &Dataset) {
    let tasks = std::slice::from_ref(task);
    let expected = outcome(Box::new(Models::new(|| Ok(Reference), tasks, data, None).unwrap()));
    assert!(!expected.0.contains("NaN"), "too wild to say much");
    // Plain Rust takes minutes for large networks where fused multiply-adds are calls of a library.
    let is_small = task.network.state_len() < 100_000;
    let sets = InstructionSet::ALL.into_iter().filter(|&set| is_small || set != InstructionSet::Portable);
    for set in sets.filter(|set| set.is_available()) {
        for threads in [1, 3] {
            let found = in_threads(threads, || outcome(LayeredEngine::with(set).start(tasks, data, None).unwrap()));
            assert!(found.1 == expected.1, "{} with {threads} threads: snapshots", set.name());
            assert!(found.0 == expected.0, "{} with {threads} threads: logits or gradients", set.name());
        }
    }
}

fn residual(activation: Activation) -> Hyperparameters {
    Hyperparameters {
        architecture: Architecture::Resnet18,
        activation,
        init: Init::KaimingUniform,
        optimizer: Optimizer::Sgd,
        learning_rate: 0.05,
        momentum: 0.9,
        weight_decay: 5e-4,
        schedule: Schedule::OneCycle,
        augmentation: Augmentation { crop_padding: 1, flip: true, rotation: 20 },
        batch_size: 2,
        epochs: 1,
        seed: 7,
        ..Hyperparameters::default()
    }
}

#[test]
fn residual_networks() {
    // The last mini-batch is of one image, the last maps of one pixel.
    let data = noise_dataset([3, 8, 8], 10, 3);
    let hyperparameters = Hyperparameters { dropout: 0.3, ..residual(Activation::Relu) };
    for mask in [None, Some(Mask::Variational(Variational { epochs: 1 }))] {
        let task = Task { mask, ..Task::new(&hyperparameters, data.shape, 10).unwrap() };
        all_have_the_references_bits(&task, &data);
    }
}

#[test]
fn perceptrons_and_convolutional_networks() {
    let hyperparameters = |architecture, activation, optimizer| Hyperparameters {
        architecture,
        activation,
        optimizer,
        hidden: if architecture == Architecture::Mlp { vec![33, 17] } else { Vec::new() },
        init: Init::KaimingUniform,
        learning_rate: 1e-3,
        weight_decay: 1e-3,
        dropout: 0.25,
        batch_size: 4,
        epochs: 2,
        seed: 3,
        ..Hyperparameters::default()
    };
    for (architecture, shape, activation) in [
        (Architecture::Mlp, [3, 5, 5], Activation::Tanh),
        (Architecture::Mlp, [1, 1, 1], Activation::Silu),
        (Architecture::CnnS, [1, 28, 28], Activation::Sigmoid),
        (Architecture::CnnM, [3, 32, 32], Activation::LeakyRelu),
    ] {
        let data = noise_dataset(shape, 37, 9);
        for optimizer in [Optimizer::Adam, Optimizer::Sgd] {
            let task = Task::new(&hyperparameters(architecture, activation, optimizer), shape, 37).unwrap();
            all_have_the_references_bits(&task, &data);
        }
    }
}

#[test]
fn twins() {
    let data = noise_dataset([1, 28, 28], 5, 6);
    let architecture = Architecture::CnnS;
    let hyperparameters = Hyperparameters { architecture, batch_size: 4, epochs: 2, ..residual(Activation::Tanh) };
    let trained = Task::new(&hyperparameters, data.shape, 5).unwrap();
    let mask = (0..trained.network.parameter_count()).map(|i| i % 3 > 0).collect();
    let ramp = Ramp { sparsity: 0.6, scope: Scope::Global, epochs: 2 };
    for mask in [Mask::Fixed(mask), Mask::Ramp(ramp), Mask::Variational(Variational { epochs: 2 })] {
        let task = Task { mask: Some(mask), epochs_before: 3, ..trained.clone() };
        all_have_the_references_bits(&task, &data);
    }
}

#[test]
fn training_goes_on_from_a_snapshot_and_from_a_part_of_an_epoch() {
    let data = noise_dataset([1, 6, 6], 5, 7);
    let go_on = Interrupt::default();
    for mask in [None, Some(Mask::Variational(Variational { epochs: 2 }))] {
        let hyperparameters = Hyperparameters { dropout: 0.2, ..residual(Activation::Relu) };
        let task = Task { mask, ..Task::new(&hyperparameters, data.shape, 5).unwrap() };
        let start =
            |from: Option<&[Snapshot]>| LayeredEngine::new().start(std::slice::from_ref(&task), &data, from).unwrap();
        let order: Vec<u32> = vec![6, 0, 5, 1, 4, 2, 3];
        let mut whole = start(None);
        let of_whole = whole.train(1, 0, std::slice::from_ref(&order), &go_on).unwrap()[0];
        let mut part = start(None);
        let mut tally = part.train(1, 0, &[order[..4].to_vec()], &go_on).unwrap()[0];
        let between = part.snapshots().unwrap();
        let mut rest = start(Some(&between));
        tally.merge(&rest.train(1, 2, &[order[4..].to_vec()], &go_on).unwrap()[0]);
        assert!(rest.snapshots().unwrap() == whole.snapshots().unwrap());
        assert_eq!((tally.hits, tally.samples), (of_whole.hits, of_whole.samples));
        assert!((tally.loss - of_whole.loss).abs() < 1e-12 * tally.loss);
    }
}
