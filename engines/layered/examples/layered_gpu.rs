//! What `tools/gpu_check.sh` runs on a GPU for the layered engine:
//!
//! - `layered_gpu compile FOLDER CAPABILITY...`: the kernels to PTX (NVRTC suffices);
//! - `layered_gpu bits [SAMPLES]`: trains networks of every kind on the GPU and the processor; equal bits?
//! - `layered_gpu rates [SECONDS] [MODELS...]`: images that ResNet-18 models train a second, as JSON lines.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use zoo_engine::variational::Variational;
use zoo_engine::{DeviceError, Engine, EngineError, Mask, Task};
use zoo_engine_cuda::gpu::{compile, devices};
use zoo_engine_layered::cuda::source::kernel_source;
use zoo_engine_layered::graph::Graph;
use zoo_engine_layered::LayeredEngine;
use zoo_model::init::initial_parameters;
use zoo_model::stage::Interrupt;
use zoo_model::synthetic::noise_dataset;
use zoo_model::{Activation, Architecture, Dataset, Hyperparameters, Init, Optimizer, Split};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<usize> = arguments.iter().filter_map(|a| a.parse().ok()).collect();
    let outcome = match arguments.first().map(String::as_str) {
        Some("compile") if arguments.len() > 2 => compile_all(Path::new(&arguments[1]), &numbers),
        Some("bits") => bits(numbers.first().copied().unwrap_or(70)),
        Some("rates") => {
            let models = if numbers.len() > 1 { &numbers[1..] } else { &[1, 2, 4, 8] };
            rates(numbers.first().copied().unwrap_or(5), models)
        }
        _ => {
            eprintln!("usage: layered_gpu compile FOLDER CAPABILITY... | layered_gpu bits [SAMPLES] | layered_gpu rates [SECONDS] [MODELS...]");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("layered_gpu: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compile_all(folder: &Path, capabilities: &[usize]) -> Result<(), Box<dyn Error>> {
    if capabilities.is_empty() {
        return Err("name capabilities, such as 80 90".into());
    }
    std::fs::create_dir_all(folder)?;
    let source = kernel_source();
    for &capability in capabilities {
        let ptx = compile(&source, capability as u32)?;
        std::fs::write(folder.join(format!("layered-{capability}.ptx")), ptx.to_src())?;
    }
    println!("{} kernels compiled for each of {capabilities:?}", source.kernels.len());
    Ok(())
}

/// A kind of model: its hyperparameters, the images' shape, and whether it has variational dropout.
fn kinds() -> Vec<(Hyperparameters, [usize; 3], bool)> {
    use Activation::*;
    let base = Hyperparameters { learning_rate: 1e-3, weight_decay: 1e-3, momentum: 0.9, ..Hyperparameters::default() };
    let resnet = |activation, optimizer, batch_size| Hyperparameters {
        architecture: Architecture::Resnet18,
        activation,
        optimizer,
        batch_size,
        ..base.clone()
    };
    let small = |architecture, activation| Hyperparameters {
        architecture,
        hidden: if architecture == Architecture::Mlp { vec![100, 50] } else { Vec::new() },
        activation,
        optimizer: Optimizer::Adam,
        dropout: 0.3,
        batch_size: 10,
        ..base.clone()
    };
    let mut kinds = vec![
        (resnet(Relu, Optimizer::Sgd, 64), [3, 32, 32], false),
        (resnet(Gelu, Optimizer::Adam, 7), [3, 16, 16], false),
        (resnet(Relu, Optimizer::Adam, 32), [3, 16, 16], true),
        (small(Architecture::Mlp, Relu), [1, 28, 28], true),
        (small(Architecture::CnnM, Tanh), [3, 32, 32], false),
    ];
    kinds.extend(
        [Tanh, Relu, Sigmoid, Gelu, LeakyRelu, Silu].map(|a| (small(Architecture::CnnS, a), [1, 28, 28], false)),
    );
    kinds
}

fn bits(samples: usize) -> Result<(), Box<dyn Error>> {
    let gpu = LayeredEngine::with_devices(devices(None)?);
    let kinds = kinds();
    for (h, shape, is_noisy) in &kinds {
        let data = noise_dataset(*shape, 10, samples);
        let task = task(h, &data, is_noisy.then_some(Mask::Variational(Variational { epochs: 2 })))?;
        let answers = |engine: &LayeredEngine| answers(engine, &task, &data).map_err(|e| e.to_string());
        if answers(&gpu)? != answers(&LayeredEngine::new())? {
            return Err(format!("bit mismatch with the processor: {h:?} on {shape:?}").into());
        }
    }
    println!("{} kinds of models have the processor's bits", kinds.len());
    Ok(())
}

fn task(h: &Hyperparameters, data: &Dataset, mask: Option<Mask>) -> Result<Task, Box<dyn Error>> {
    let network = h.network(data.shape, data.classes())?;
    let initial = initial_parameters(&network, Init::KaimingUniform, h.seed);
    Ok(Task { network, hyperparameters: h.clone(), initial, mask, epochs_before: 0 })
}

/// Bits of the states, moments and logits after an epoch.
fn answers(engine: &LayeredEngine, task: &Task, data: &Dataset) -> Result<Vec<u64>, EngineError> {
    let mut cohort = engine.start(std::slice::from_ref(task), data, None)?;
    cohort.train_epoch(1, &Interrupt::default())?;
    let logits = cohort.logits(Split::Test, 0..data.len(Split::Test))?.concat();
    let snapshots = cohort.snapshots()?;
    let states = snapshots.iter().flat_map(|s| s.vectors()).flat_map(|(_, vector)| vector.clone());
    Ok(logits.into_iter().chain(states).map(|x| if x.is_nan() { f64::NAN } else { x }.to_bits()).collect())
}

/// Mini-batches of CIFAR's size.
const BATCH: usize = 256;

fn rates(seconds: usize, numbers_of_models: &[usize]) -> Result<(), Box<dyn Error>> {
    let gpu = LayeredEngine::with_devices(devices(Some(0))?);
    let (h, shape, _) = kinds().remove(0);
    let h = Hyperparameters { batch_size: BATCH, ..h };
    let data = noise_dataset(shape, 10, 10 * BATCH);
    let task = task(&h, &data, None)?;
    let graph = Graph::new(&task.network);
    for &models in numbers_of_models {
        // Steps until they take long enough to be timed.
        let mut steps = 4;
        let rate = loop {
            let started = Instant::now();
            train_at_once(&gpu, &task, &data, models, 2)?;
            let of_start = started.elapsed().as_secs_f64();
            let started = Instant::now();
            train_at_once(&gpu, &task, &data, models, 2 + steps)?;
            let elapsed = started.elapsed().as_secs_f64() - of_start;
            if elapsed >= seconds as f64 / 2.0 || steps > 1 << 12 {
                break (models * steps * BATCH) as f64 / elapsed;
            }
            steps *= 4;
        };
        // A value is read or written about eight times in a step.
        let (fma, bytes) = (3 * graph.multiply_adds(), 8 * size_of::<f32>() * graph.floats_per_image());
        println!(
            "{{\"engine\": \"zoo\", \"architecture\": \"resnet18\", \"models\": {models}, \"rate\": {rate:.0}, \"fma\": {fma}, \"bytes\": {bytes}}}"
        );
    }
    Ok(())
}

/// Starts models and trains each for some steps, all at the same time.
fn train_at_once(
    gpu: &LayeredEngine,
    task: &Task,
    data: &Dataset,
    models: usize,
    steps: usize,
) -> Result<(), Box<dyn Error>> {
    let order: Vec<u32> = (0..steps * BATCH).map(|s| (s * 7 % (10 * BATCH)) as u32).collect();
    let train = || -> Result<(), EngineError> {
        let mut cohort = gpu.start(std::slice::from_ref(task), data, None)?;
        cohort.train(1, 0, std::slice::from_ref(&order), &Interrupt::default())?;
        Ok(())
    };
    let outcomes: Vec<Result<(), EngineError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..models).map(|_| scope.spawn(train)).collect();
        let stopped = |_| Err(DeviceError::Unavailable("a thread panicked".into()).into());
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(stopped)).collect()
    });
    Ok(outcomes.into_iter().collect::<Result<(), EngineError>>()?)
}
