//! Variational dropout and ramps: the reference vectors, and what every engine must hold.

use zoo_engine::magnitude::{sparsity_ratio, Ramp, Scope};
use zoo_engine::variational::{is_kept, kl, log_alpha, Variational};
use zoo_engine::{Engine, Mask, Snapshot, Task};
use zoo_model::init::initial_parameters;
use zoo_model::stage::Interrupt;
use zoo_model::synthetic::noise_dataset;
use zoo_model::{Dataset, Hyperparameters, Init, Optimizer};
use zoo_test::reference::Vectors;
use zoo_train::registry::all_on_processor;

#[test]
fn the_reference_vectors_hold() {
    let Vectors { doubles, bytes, .. } = Vectors::read("variational.safetensors");
    let (weights, log_sigma2, expected) = (&doubles["weight"], &doubles["log_sigma2"], &doubles["log_alpha"]);
    let kept = &bytes["kept"];
    let mut total = 0.0;
    for i in 0..weights.len() {
        let found = log_alpha(weights[i], log_sigma2[i]);
        assert!((found - expected[i]).abs() < 1e-12, "log alpha {i}: {found} {}", expected[i]);
        assert_eq!(is_kept(weights[i], log_sigma2[i]), kept[i] == 1, "kept {i}");
        total += kl(found);
    }
    assert_eq!(weights.len(), 64);
    let expected = doubles["kl"][0];
    assert!((total - expected).abs() < 1e-10 * expected.abs(), "{total} {expected}");
}

fn tasks(data: &Dataset, mask: &Mask, optimizer: Optimizer, models: u64) -> Vec<Task> {
    let task = |seed| {
        let h = Hyperparameters {
            init: Init::KaimingUniform,
            optimizer,
            learning_rate: 1e-3,
            weight_decay: 1e-3,
            momentum: if optimizer == Optimizer::Sgd { 0.9 } else { 0.0 },
            epochs: 3,
            seed,
            ..Hyperparameters::default()
        };
        let network = h.network(data.shape, 10).unwrap();
        let initial = initial_parameters(&network, h.init, seed);
        Task { network, hyperparameters: h, initial, mask: Some(mask.clone()), epochs_before: 4 }
    };
    (0..models).map(task).collect()
}

/// Snapshots after each of three epochs; from the first epoch on, by a cohort that starts over.
fn train(engine: &dyn Engine, tasks: &[Task], data: &Dataset, interrupted: bool) -> Vec<Vec<Snapshot>> {
    let mut cohort = engine.start(tasks, data, None).unwrap();
    let mut all: Vec<Vec<Snapshot>> = Vec::new();
    for epoch in 1..=3 {
        cohort.train_epoch(epoch, &Interrupt::default()).unwrap();
        all.push(cohort.snapshots().unwrap());
        if interrupted {
            cohort = engine.start(tasks, data, all.last().map(Vec::as_slice)).unwrap();
        }
    }
    all
}

fn masks() -> [Mask; 2] {
    let ramp = Ramp { sparsity: 0.8, scope: Scope::Global, epochs: 2 };
    [Mask::Variational(Variational { epochs: 3 }), Mask::Ramp(ramp)]
}

#[test]
fn an_interruption_changes_no_bit() {
    let data = noise_dataset([1, 28, 28], 10, 30);
    for engine in all_on_processor().unwrap() {
        for mask in &masks() {
            for optimizer in [Optimizer::Adam, Optimizer::Sgd] {
                let tasks = tasks(&data, mask, optimizer, 3);
                let whole = train(engine.as_ref(), &tasks, &data, false);
                assert!(whole == train(engine.as_ref(), &tasks, &data, true), "{} {mask:?}", engine.name());
                // Nor does the company that a model is trained in.
                let alone = train(engine.as_ref(), &tasks[2..], &data, false);
                assert!(whole.iter().zip(&alone).all(|(w, a)| w[2] == a[0]), "{} {mask:?}", engine.name());
            }
        }
    }
}

#[test]
fn an_epoch_in_parts_from_snapshots_has_the_bits_of_a_whole_one() {
    let data = noise_dataset([1, 28, 28], 10, 30);
    let go_on = Interrupt::default();
    for engine in all_on_processor().unwrap() {
        for mask in &masks() {
            let tasks = tasks(&data, mask, Optimizer::Adam, 2);
            let batch = tasks[0].hyperparameters.batch_size;
            let mut whole = engine.start(&tasks, &data, None).unwrap();
            let expected: u64 = whole.train_epoch(1, &go_on).unwrap().iter().map(|t| t.hits).sum();

            let mut cohort = engine.start(&tasks, &data, None).unwrap();
            let masks = cohort.prune_for(1).unwrap();
            let orders = cohort.orders_of_part(1, 0);
            let mut hits = 0;
            for (step, start) in (0..30).step_by(batch).enumerate() {
                let part: Vec<_> = orders.iter().map(|o| o[start..30.min(start + batch)].to_vec()).collect();
                let tallies = cohort.train(5, step as u32, &part, &go_on).unwrap();
                hits += tallies.iter().map(|t| t.hits).sum::<u64>();
                let snapshots = cohort.snapshots().unwrap();
                cohort = engine.start(&tasks, &data, Some(&snapshots)).unwrap();
                if !masks.is_empty() {
                    cohort.prune(&masks).unwrap();
                }
            }
            assert!(cohort.snapshots().unwrap() == whole.snapshots().unwrap(), "{} {mask:?}", engine.name());
            assert_eq!(hits, expected);
        }
    }
}

#[test]
fn engines_agree_within_rounding() {
    let data = noise_dataset([1, 28, 28], 10, 20);
    for mask in &masks() {
        for optimizer in [Optimizer::Adam, Optimizer::Sgd] {
            let tasks = tasks(&data, mask, optimizer, 2);
            let found: Vec<_> =
                all_on_processor().unwrap().iter().map(|e| train(e.as_ref(), &tasks, &data, false)).collect();
            assert!(found.len() > 1, "nothing to compare with");
            // The last one computes in float64 where this build has it.
            let (expected, others) = found.split_last().unwrap();
            let pairs = others.iter().flat_map(|found| found.iter().flatten().zip(expected.iter().flatten()));
            for (a, b) in pairs {
                let difference = |a: &[f64], b: &[f64]| {
                    let largest = b.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
                    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / largest
                };
                let parameters = difference(&a.parameters, &b.parameters);
                let noise = a.noise.iter().zip(&b.noise).map(|(a, b)| difference(&a.log_sigma2, &b.log_sigma2));
                let noise = noise.fold(0.0, f64::max);
                println!("{optimizer:?}: parameters {parameters:.1e}, log sigma^2 {noise:.1e}");
                assert!(parameters < 1e-4 && noise < 1e-4, "{mask:?} {optimizer:?}: {parameters:e} {noise:e}");
                assert_eq!(a.noise.is_some(), matches!(mask, Mask::Variational(_)));
            }
        }
    }
}

#[test]
fn a_ramps_sparsity_is_that_of_its_epoch_and_drowned_weights_are_zero() {
    let data = noise_dataset([1, 28, 28], 10, 20);
    let [variational, ramp] = masks();
    for engine in all_on_processor().unwrap() {
        let pruned = tasks(&data, &ramp, Optimizer::Adam, 1);
        let network = &pruned[0].network;
        let states: Vec<Vec<f32>> =
            train(engine.as_ref(), &pruned, &data, false).iter().map(|s| s[0].state()).collect();
        let found = states.iter().map(|s| sparsity_ratio(network, s)).collect::<Vec<f64>>();
        assert!(found.iter().zip([0.7, 0.8, 0.8]).all(|(f, e)| (f - e).abs() < 1e-3), "{found:?}");
        let zeros_stay = |w: &[Vec<f32>]| w[0].iter().zip(&w[1]).all(|(before, now)| *before != 0.0 || *now == 0.0);
        assert!(states.windows(2).all(zeros_stay));

        let mut noisy = tasks(&data, &variational, Optimizer::Adam, 1);
        noisy[0].initial[0] = 1e-4;
        let mut snapshot = engine.start(&noisy, &data, None).unwrap().snapshots().unwrap().remove(0);
        // Log alpha reaches 3 at once where |w| is at most e^-6.5.
        let small = |p: &zoo_model::architecture::Parameter| {
            noisy[0].initial[p.range.clone()].iter().filter(|w| w.abs() < 0.001_503).count()
        };
        let small: usize = network.weights().map(small).sum();
        assert!(small > 0);
        assert_eq!(sparsity_ratio(network, &snapshot.state()), small as f64 / network.weight_count() as f64);
        // What is evaluated is what is kept.
        let kept = Task { initial: snapshot.state(), mask: None, ..noisy[0].clone() };
        let logits = |task: &Task, from: Option<&[Snapshot]>| {
            engine.start(std::slice::from_ref(task), &data, from).unwrap().logits(zoo_model::Split::Test, 0..3).unwrap()
        };
        assert_eq!(logits(&noisy[0], None), logits(&kept, None));
        snapshot.noise.as_mut().unwrap().log_sigma2[3] = 5.0;
        assert_eq!(snapshot.state()[3], 0.0);
        let kept = Task { initial: snapshot.state(), ..kept };
        assert_eq!(logits(&noisy[0], Some(&[snapshot])), logits(&kept, None));
    }
}
