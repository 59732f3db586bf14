//! What `tools/gpu_check.sh` runs on a GPU:
//!
//! - `gpu compile FOLDER CAPABILITY...`: the kernels of every kind of model to PTX (NVRTC suffices);
//! - `gpu bits [SAMPLES [KINDS]]`: trains models of every kind (or the first few of each network) on
//!   the GPU and the processor; equal bits?
//! - `gpu rates [SECONDS] [MODELS...]`: model-samples a second, as JSON lines.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use rayon::prelude::*;
use zoo_engine::magnitude::{Ramp, Scope};
use zoo_engine::metrics::Tally;
use zoo_engine::{Engine, Mask, Task};
use zoo_engine_cuda::gpu::{compile, devices};
use zoo_engine_population::cuda::source::model_kernels;
use zoo_engine_population::layers::{layers, Layer};
use zoo_engine_population::PopulationEngine;
use zoo_model::init::initial_parameters;
use zoo_model::stage::Interrupt;
use zoo_model::synthetic::noise_dataset;
use zoo_model::{Activation, Architecture, Dataset, Hyperparameters, Init, Optimizer, Split};

/// Networks and the images that they see.
const NETWORKS: [(Architecture, [usize; 3]); 3] =
    [(Architecture::CnnS, [1, 28, 28]), (Architecture::CnnS, [3, 28, 28]), (Architecture::CnnM, [3, 32, 32])];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<usize> = arguments.iter().filter_map(|a| a.parse().ok()).collect();
    let outcome = match arguments.first().map(String::as_str) {
        Some("compile") if arguments.len() > 2 => compile_all(Path::new(&arguments[1]), &numbers),
        Some("bits") => bits(numbers.first().copied().unwrap_or(200), numbers.get(1).copied().unwrap_or(usize::MAX)),
        Some("rates") => {
            let models = if numbers.len() > 1 { &numbers[1..] } else { &[256, 1024, 4096] };
            rates(numbers.first().copied().unwrap_or(3), models)
        }
        _ => {
            eprintln!("usage: gpu compile FOLDER CAPABILITY... | gpu bits [SAMPLES [KINDS]] | gpu rates [SECONDS] [MODELS...]");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gpu: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Every kind of model on a network: each activation, and each pair of optimiser and dropout.
fn kinds(architecture: Architecture) -> Vec<Hyperparameters> {
    use Activation::*;
    let pairs = [(Optimizer::Adam, 0.0), (Optimizer::Sgd, 0.5), (Optimizer::Adam, 0.5), (Optimizer::Sgd, 0.0)];
    let of = |(i, activation)| {
        // The two do not depend on the activation.
        let pairs = if i == 0 { &pairs[..] } else { &pairs[..2] };
        pairs.iter().map(move |&(optimizer, dropout)| Hyperparameters {
            architecture,
            activation,
            optimizer,
            dropout,
            init: Init::KaimingUniform,
            learning_rate: 1e-3,
            momentum: 0.9,
            weight_decay: 1e-3,
            batch_size: 10,
            ..Hyperparameters::default()
        })
    };
    [Tanh, Relu, Sigmoid, Gelu, LeakyRelu, Silu].into_iter().enumerate().flat_map(of).collect()
}

fn compile_all(folder: &Path, capabilities: &[usize]) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(folder)?;
    let mut count = 0;
    for (architecture, shape) in NETWORKS {
        for h in kinds(architecture) {
            let kernels = model_kernels(&h, &h.network(shape, 10)?).ok_or("the kernels do not fit the network")?;
            for &capability in capabilities {
                let ptx = compile(&kernels.source, capability as u32)?;
                let dropout = if h.dropout > 0.0 { "-dropout" } else { "" };
                let (channels, activation, optimizer) = (shape[0], h.activation, h.optimizer);
                let name = format!("{}-{channels}-{activation:?}-{optimizer:?}{dropout}", architecture.name());
                std::fs::write(folder.join(format!("{}-{capability}.ptx", name.to_lowercase())), ptx.to_src())?;
                count += 1;
            }
        }
    }
    if count == 0 {
        return Err("name capabilities, such as 80 90".into());
    }
    println!("{count} programs compiled");
    Ok(())
}

/// Three models like `h`: one with a mask, one on a ramp from N(0, 1) weights, which may diverge.
fn tasks(h: &Hyperparameters, data: &Dataset) -> Result<Vec<Task>, Box<dyn Error>> {
    let of = |seed: u64| -> Result<Task, Box<dyn Error>> {
        let h = Hyperparameters { seed, ..h.clone() };
        let network = h.network(data.shape, data.classes())?;
        let init = if seed == 2 { Init::Normal } else { Init::KaimingUniform };
        let initial = initial_parameters(&network, init, seed);
        let mask = match seed {
            1 => Some(Mask::Fixed((0..initial.len()).map(|i| i % 3 > 0).collect())),
            2 => Some(Mask::Ramp(Ramp { sparsity: 0.5, scope: Scope::Layer, epochs: 2 })),
            _ => None,
        };
        Ok(Task { network, hyperparameters: h, initial, mask, epochs_before: 0 })
    };
    (0..3).map(of).collect()
}

fn bits(samples: usize, max_kinds: usize) -> Result<(), Box<dyn Error>> {
    let gpu = PopulationEngine::with_devices(devices(None)?);
    let datasets = NETWORKS.map(|(_, shape)| noise_dataset(shape, 10, samples));
    let of_network = |(network, data)| {
        let (architecture, _): (Architecture, [usize; 3]) = network;
        kinds(architecture).into_iter().take(max_kinds).map(move |h| (h, data))
    };
    let kinds: Vec<(Hyperparameters, &Dataset)> = NETWORKS.into_iter().zip(&datasets).flat_map(of_network).collect();
    // Compiling takes most of the time.
    let compare = |(h, data): &(Hyperparameters, &Dataset)| -> Result<(), String> {
        let of = |engine: &PopulationEngine| answers(engine, h, data).map_err(|e| e.to_string());
        let is_equal = of(&gpu)? == of(&PopulationEngine::new())?;
        is_equal.then_some(()).ok_or(format!("bit mismatch with the processor: {h:?} on {:?}", data.shape))
    };
    kinds.par_iter().try_for_each(compare)?;
    println!("{} kinds of models have the processor's bits", kinds.len());
    Ok(())
}

/// Bits of all that two epochs of models like `h` leave: states, moments, losses, accuracies,
/// predictions.
fn answers(engine: &PopulationEngine, h: &Hyperparameters, data: &Dataset) -> Result<Vec<u64>, Box<dyn Error>> {
    let go_on = Interrupt::default();
    let mut cohort = engine.start(&tasks(h, data)?, data, None)?;
    let trained = [cohort.train_epoch(1, &go_on)?, cohort.train_epoch(2, &go_on)?].concat();
    let evaluated = cohort.evaluate(Split::Test, &go_on)?;
    let scores = trained.iter().filter_map(Tally::score).chain(evaluated.iter().filter_map(|e| e.score));
    let snapshots = cohort.snapshots()?;
    let vectors = snapshots.iter().flat_map(|s| s.vectors()).flat_map(|(_, vector)| vector);
    let values = vectors.copied().chain(scores.flat_map(|s| [s.loss, s.accuracy]));
    let bits = values.map(|x| if x.is_nan() { f64::NAN } else { x }.to_bits());
    Ok(bits.chain(evaluated.iter().flat_map(|e| e.predictions.iter().map(|&p| p.into()))).collect())
}

/// Multiply-adds of a sample, forward and backward, as the kernels do them: pooled layers backward
/// through the winners only, but with the zeros around the moved kernels.
fn multiply_adds(layers: &[Layer]) -> usize {
    let of = |(i, l): (usize, &Layer)| {
        let below = usize::from(i > 0);
        if l.pooled {
            let frame = (l.kernel[0] + 1) * (l.kernel[1] + 1) * l.channels;
            l.units() * (4 * l.taps() + l.taps() + below * frame)
        } else {
            l.units() * l.taps() * (2 + below)
        }
    };
    layers.iter().enumerate().map(of).sum()
}

/// Bytes of device memory that a sample costs: its image, and its share of the optimiser's step.
fn bytes(layers: &[Layer], parameters: usize, batch_size: usize) -> usize {
    // Two moments, read and written.
    layers[0].inputs() + 2 * 2 * parameters * size_of::<f32>() / batch_size
}

fn rates(seconds: usize, populations: &[usize]) -> Result<(), Box<dyn Error>> {
    let gpu = PopulationEngine::with_devices(devices(Some(0))?);
    let go_on = Interrupt::default();
    for (architecture, shape) in [NETWORKS[0], NETWORKS[2]] {
        let h = kinds(architecture).remove(0);
        let data = noise_dataset(shape, 10, 5000);
        let task = Task::new(&h, shape, 10)?;
        let layers = layers(&task.network).ok_or("not a network of the population engine's")?;
        for &models in populations {
            let tasks: Vec<Task> = (0..models as u64)
                .map(|seed| Task { hyperparameters: Hyperparameters { seed, ..h.clone() }, ..task.clone() })
                .collect();
            let mut cohort = gpu.start(&tasks, &data, None)?;
            // Rounds twice as long until one takes long enough to be timed.
            let mut samples = 200;
            let train = loop {
                let orders: Vec<Vec<u32>> =
                    (0..models).map(|m| (0..samples).map(|s| ((s * 7 + m) % 5000) as u32).collect()).collect();
                let started = Instant::now();
                cohort.train(1, 0, &orders, &go_on)?;
                let elapsed = started.elapsed().as_secs_f64();
                if elapsed >= seconds as f64 / 2.0 || samples > 1 << 20 {
                    break (models * samples) as f64 / elapsed;
                }
                samples *= 2;
            };
            let started = Instant::now();
            cohort.evaluate(Split::Train, &go_on)?;
            let evaluate = (models * data.len(Split::Train)) as f64 / started.elapsed().as_secs_f64();
            println!(
                "{{\"engine\": \"zoo\", \"architecture\": \"{}\", \"models\": {models}, \"rate\": {train:.0}, \"evaluate\": {evaluate:.0}, \"fma\": {}, \"bytes\": {}}}",
                architecture.name(),
                multiply_adds(&layers),
                bytes(&layers, task.initial.len(), h.batch_size)
            );
        }
    }
    Ok(())
}
