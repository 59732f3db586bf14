//! ResNet-18 on every engine that trains it, its schedule and its augmentation against torchvision, PyTorch
//! and Pillow. The vectors and the script that made them are in `tests/reference`.

use zoo_engine::schedule::{rates, Rates};
use zoo_engine::{Engine, ModelSpec, Task};
use zoo_model::augmentation::rotate;
use zoo_model::dataset::{DatasetInfo, PerSplit, Samples};
use zoo_model::stage::Interrupt;
use zoo_model::{
    Activation, Architecture, Augmentation, Dataset, Hyperparameters, Init, Network, Optimizer, Schedule, Split,
};
use zoo_test::reference::Vectors;
use zoo_train::registry::all_on_processor;

/// The script's `noise`.
fn noise(stream: u64, count: usize) -> impl Iterator<Item = u64> {
    (0..count as u64).map(move |i| {
        let mut x = (i.wrapping_mul(0x9E37_79B1) + stream * 0x85EB_CA6B) & 0xFFFF_FFFF;
        for (shift, factor) in [(16, 0x85EB_CA6B), (13, 0xC2B2_AE35), (16, 1)] {
            x ^= x >> shift;
            x = x.wrapping_mul(factor) & 0xFFFF_FFFF;
        }
        x
    })
}

/// The script's `fill`.
fn state(network: &Network) -> Vec<f32> {
    let mut sorted: Vec<_> = network.parameters().iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let mut flat = vec![0.0; network.state_len()];
    for (stream, parameter) in sorted.into_iter().enumerate() {
        let n = parameter.range.len();
        let unit = noise(stream as u64, n).map(|x| x as f64 / 4_294_967_296.0);
        let fan_in: usize = parameter.shape[1..].iter().product();
        let around_one = parameter.name.ends_with("running_var") || parameter.name.ends_with("weight");
        for (value, unit) in flat[parameter.range.clone()].iter_mut().zip(unit) {
            *value = match parameter.shape.len() {
                2.. => (2.0 * unit - 1.0) * (6.0 / fan_in as f64).sqrt(),
                _ if around_one => 0.5 + unit,
                _ => (2.0 * unit - 1.0) / 10.0,
            } as f32;
        }
    }
    flat
}

/// The script's places: `linspace(0, n - 1, 64)`, cut to integers.
fn sampled(values: &[f64]) -> Vec<f64> {
    let count = values.len().min(64);
    let step = (values.len() - 1) as f64 / (count - 1) as f64;
    (0..count).map(|i| values[if i + 1 == count { values.len() - 1 } else { (i as f64 * step) as usize }]).collect()
}

fn assert_close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-30, |m: f64, e| m.max(e.abs()));
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() <= tolerance * largest, "{what}: {f} is not {e}");
    }
}

fn doubles(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| v.into()).collect()
}

/// Images of noise, the same to train and to test on.
fn noise_images(side: usize, classes: usize, count: usize) -> Dataset {
    let images = noise(1000, count * 3 * side * side).map(|x| (x >> 24) as u8).collect();
    let samples = Samples { images, labels: (0..count).map(|i| (i * 7 % classes) as u16).collect() };
    let info = DatasetInfo {
        dataset: "noise".into(),
        class_names: (0..classes).map(|c| c.to_string()).collect(),
        mean: vec![0.5; 3],
        std: vec![0.5; 3],
        sources: Default::default(),
        fingerprint: String::new(),
    };
    let splits = PerSplit { train: samples.clone(), val: Samples::default(), test: samples };
    Dataset::new(info, [3, side, side], splits).unwrap()
}

/// How far an engine may be off, relative to a tensor's largest value.
struct Tolerance {
    forward: f64,
    backward: f64,
}

/// Every engine that trains ResNet-18. Among millions of units that ReLU cuts off below zero, a few are
/// within float32's rounding of it, and on its other side in float64: the gradients of all layers below such
/// a unit then differ by more than rounding.
fn engines() -> Vec<(Box<dyn Engine>, Tolerance)> {
    let model = ModelSpec::from(Hyperparameters { architecture: Architecture::Resnet18, ..Hyperparameters::default() });
    let engines = all_on_processor().unwrap().into_iter().filter(|engine| engine.trains(&model));
    let with_tolerance = |engine: Box<dyn Engine>| {
        let tolerance = match engine.name() {
            "dfdx" => Tolerance { forward: 1e-6, backward: 1e-6 },
            _ => Tolerance { forward: 1e-5, backward: 5e-2 },
        };
        (engine, tolerance)
    };
    engines.map(with_tolerance).collect()
}

fn one_step_equals_torchvisions(file: &str) {
    for (engine, tolerance) in engines() {
        one_step_of(engine.as_ref(), file, &tolerance);
    }
}

fn one_step_of(engine: &dyn Engine, file: &str, tolerance: &Tolerance) {
    let vectors = Vectors::read(file);
    let (side, classes, batch): (usize, usize, usize) =
        (vectors.value("side"), vectors.value("classes"), vectors.value("batch"));
    let data = noise_images(side, classes, batch);
    let hyperparameters = Hyperparameters {
        architecture: Architecture::Resnet18,
        activation: Activation::Relu,
        optimizer: Optimizer::Sgd,
        learning_rate: vectors.value("learning_rate"),
        momentum: vectors.value("momentum"),
        weight_decay: vectors.value("weight_decay"),
        batch_size: batch,
        ..Hyperparameters::default()
    };
    let network = hyperparameters.network(data.shape, classes).unwrap();
    let task =
        Task { initial: state(&network), network: network.clone(), hyperparameters, mask: None, epochs_before: 0 };
    let mut cohort = engine.start(&[task], &data, None).unwrap();

    let logits = cohort.logits(Split::Test, 0..batch).unwrap().remove(0);
    assert_close(
        &logits,
        &vectors.doubles["eval_logits"],
        tolerance.forward,
        &format!("{} logits at evaluation", engine.name()),
    );
    let order: Vec<u32> = (0..batch as u32).collect();
    let gradient = doubles(&cohort.gradients(&order).unwrap()[0]);
    let score = cohort.train(1, 0, &[order], &Interrupt::default()).unwrap()[0].score().unwrap();
    assert_close(&[score.loss], &vectors.doubles["loss"], tolerance.forward, "loss");
    let after = &cohort.snapshots().unwrap()[0].parameters;
    for parameter in network.parameters() {
        let name = &parameter.name;
        assert_close(
            &sampled(&after[parameter.range.clone()]),
            &vectors.doubles[&format!("step.{name}")],
            if parameter.role.is_trained() { tolerance.backward } else { tolerance.forward },
            &format!("{name} after a step"),
        );
        if parameter.role.is_trained() {
            let found = &gradient[parameter.range.clone()];
            let norm = found.iter().map(|g| g * g).sum::<f64>().sqrt();
            assert_close(
                &[norm],
                &vectors.doubles[&format!("norm.{name}")],
                tolerance.backward,
                &format!("norm of {name}'s gradient"),
            );
            let largest = found.iter().fold(0.0, |m: f64, g| m.max(g.abs()));
            let expected = &vectors.doubles[&format!("grad.{name}")];
            for (f, e) in sampled(found).iter().zip(expected) {
                assert!((f - e).abs() <= tolerance.backward * largest, "gradient of {name}: {f} is not {e}");
            }
        }
    }
}

#[test]
fn resnet18_on_32_pixels_equals_torchvisions() {
    one_step_equals_torchvisions("resnet18-32.safetensors");
}

#[test]
fn resnet18_on_64_pixels_equals_torchvisions() {
    one_step_equals_torchvisions("resnet18-64.safetensors");
}

#[test]
fn where_nothing_has_a_kink_engines_agree_to_float32s_rounding() {
    let data = noise_images(16, 10, 12);
    for activation in [Activation::Tanh, Activation::Gelu, Activation::Silu, Activation::Sigmoid] {
        let hyperparameters = Hyperparameters {
            architecture: Architecture::Resnet18,
            activation,
            optimizer: Optimizer::Sgd,
            learning_rate: 0.005,
            momentum: 0.9,
            batch_size: 8,
            dropout: 0.3,
            schedule: Schedule::OneCycle,
            augmentation: Augmentation { crop_padding: 2, flip: true, rotation: 15 },
            epochs: 2,
            ..Hyperparameters::default()
        };
        let network = hyperparameters.network(data.shape, 10).unwrap();
        let initial = state(&network);
        let task = Task { initial, network: network.clone(), hyperparameters, mask: None, epochs_before: 0 };
        let outcome = |engine: &dyn Engine| {
            let mut cohort = engine.start(std::slice::from_ref(&task), &data, None).unwrap();
            let gradients = doubles(&cohort.gradients(&[2, 0, 1, 5, 4, 7, 11, 3]).unwrap()[0]);
            let tally = cohort.train_epoch(1, &Interrupt::default()).unwrap()[0];
            let state = cohort.snapshots().unwrap()[0].parameters.clone();
            (gradients, tally.score().unwrap().loss, state, cohort.logits(Split::Test, 0..3).unwrap().remove(0))
        };
        let all: Vec<_> = engines().iter().map(|(engine, _)| outcome(engine.as_ref())).collect();
        let (gradients, loss, state, logits) = &all[0];
        for (gradients_too, loss_too, state_too, logits_too) in &all[1..] {
            for parameter in network.parameters() {
                let what = format!("{activation:?} {}", parameter.name);
                let part = parameter.range.clone();
                assert_close(&state[part.clone()], &state_too[part.clone()], 1e-4, &what);
                if parameter.role.is_trained() {
                    assert_close(&gradients[part.clone()], &gradients_too[part], 1e-4, &what);
                }
            }
            assert_close(logits, logits_too, 1e-4, "logits");
            assert_close(&[*loss], &[*loss_too], 1e-5, "loss");
        }
    }
}

#[test]
fn engines_have_the_same_losses_over_twenty_steps() {
    let data = noise_images(16, 10, 24);
    let hyperparameters = Hyperparameters {
        architecture: Architecture::Resnet18,
        activation: Activation::Tanh,
        init: Init::KaimingUniform,
        optimizer: Optimizer::Sgd,
        learning_rate: 0.001,
        momentum: 0.9,
        weight_decay: 5e-4,
        batch_size: 8,
        augmentation: Augmentation { crop_padding: 2, flip: true, rotation: 0 },
        ..Hyperparameters::default()
    };
    let task = Task::new(&hyperparameters, data.shape, 10).unwrap();
    let losses = |engine: &dyn Engine| -> Vec<f64> {
        let mut cohort = engine.start(std::slice::from_ref(&task), &data, None).unwrap();
        let step = |step: u32| {
            let order = (0..8).map(|i| (step * 8 + i) % 24).collect();
            cohort.train(1, step, &[order], &Interrupt::default()).unwrap()[0].score().unwrap().loss
        };
        (0..20).map(step).collect()
    };
    let all: Vec<Vec<f64>> = engines().iter().map(|(engine, _)| losses(engine.as_ref())).collect();
    for other in &all[1..] {
        for (step, (found, expected)) in all[0].iter().zip(other).enumerate() {
            assert!((found - expected).abs() <= 1e-5 * expected, "step {step}: {found} {expected}");
        }
    }
}

#[test]
fn one_cycle_equals_pytorchs() {
    let vectors = Vectors::read("schedules.safetensors");
    for (name, learning_rate) in [("cifar10", 0.05), ("cifar100", 0.1), ("short", 0.1)] {
        let expected = &vectors.doubles[&format!("onecycle.{name}")];
        let total = expected.len() as u64 / 2;
        let base = Rates { learning_rate, momentum: 0.9 };
        for (step, row) in expected.chunks_exact(2).enumerate() {
            let found = rates(Schedule::OneCycle, base, step as u64, total);
            assert!((found.learning_rate - row[0]).abs() < 1e-12 * learning_rate.max(row[0]), "{name} {step}");
            assert!((found.momentum - row[1]).abs() < 1e-12, "{name} {step}");
        }
    }
}

#[test]
fn rotation_equals_pillows_to_the_bit() {
    let vectors = Vectors::read("rotation.safetensors");
    for (name, side) in [("odd", 31), ("even", 64)] {
        let rotated = vectors.bytes[&format!("{name}.rotated")].chunks_exact(side * side);
        assert_eq!(rotated.len(), 17);
        for (&degrees, expected) in vectors.doubles["degrees"].iter().zip(rotated) {
            let mut image = vectors.bytes[name].clone();
            rotate(&mut image, [side, side], degrees);
            assert!(image == expected, "{name} by {degrees} degrees");
        }
    }
}
