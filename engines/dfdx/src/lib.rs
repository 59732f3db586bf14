//! The readable reference: one model at a time on dfdx tensors and autograd.
//!
//! It computes in f64 and keeps f32 states: the oracle that float32 engines are measured against.
//!
//! dfdx's matrix products are the `gemm` crate's, which picks its kernel by the processor's
//! features and its blocking by the caches. Bits are therefore certain to be equal on equal
//! processors only; elsewhere sums differ in the last place of an f64, which rarely survives the
//! rounding to f32. Each model runs in a rayon pool of one thread, where a product is never split.

mod backend;
mod cohort;
mod model;
mod ops;
mod random;
mod variational;

use std::ops::Range;

use dfdx::prelude::*;
use zoo_engine::{
    BuiltEngine, Cohort, DeviceError, DeviceName, Engine, EngineFactory, LayerOutputs, ModelSpec, Snapshot,
    Sparsification, Task,
};
use zoo_model::architecture::{Module, NamedModule};
use zoo_model::{Dataset, Optimizer, Schedule, Split};

use cohort::Models;
use model::{after, Mode};

/// The dfdx engine.
#[derive(Debug, Clone, Copy, Default)]
pub struct DfdxEngine {
    /// A GPU's number; `None`: the CPU.
    cuda: Option<usize>,
}

impl DfdxEngine {
    /// On GPU `number`.
    ///
    /// # Errors
    /// This build has no CUDA, or there is no such GPU.
    pub fn with_cuda(number: usize) -> Result<Self, DeviceError> {
        cuda_device(number)?;
        Ok(Self { cuda: Some(number) })
    }
}

/// dfdx's device for a GPU.
#[cfg(feature = "cuda")]
fn cuda_device(number: usize) -> Result<Cuda, DeviceError> {
    let unavailable = |e: CudaError| DeviceError::Unavailable(format!("cuda:{number} failed to initialise: {e:?}"));
    Cuda::try_build(number, 0).map_err(unavailable)
}

#[cfg(not(feature = "cuda"))]
fn cuda_device(_: usize) -> Result<Cpu, DeviceError> {
    let why = "the dfdx engine of this build has no CUDA: build with --features cuda (docs/cuda.md)";
    Err(DeviceError::Unavailable(why.into()))
}

impl Engine for DfdxEngine {
    fn name(&self) -> &'static str {
        "dfdx"
    }

    fn version(&self) -> String {
        // cuBLAS adds up in another order.
        let device = if self.cuda.is_some() { "cuda" } else { "cpu" };
        format!("3 (dfdx 0.13, {device})")
    }

    fn trains(&self, model: &ModelSpec) -> bool {
        trains(model)
    }

    fn cohorts(&self, models: &[&ModelSpec]) -> Vec<Vec<usize>> {
        (0..models.len()).map(|i| vec![i]).collect()
    }

    fn start<'d>(
        &self,
        tasks: &[Task],
        data: &'d Dataset,
        from: Option<&[Snapshot]>,
    ) -> Result<Box<dyn Cohort + 'd>, DeviceError> {
        Ok(match self.cuda {
            None => Box::new(Models::new(&Cpu::default(), tasks, data, from)),
            Some(number) => Box::new(Models::new(&cuda_device(number)?, tasks, data, from)),
        })
    }

    fn layer_outputs(
        &self,
        task: &Task,
        data: &Dataset,
        split: Split,
        range: Range<usize>,
    ) -> Result<Option<LayerOutputs>, DeviceError> {
        let models = Models::new(&Cpu::default(), std::slice::from_ref(task), data, None);
        let images = models.images(split, range.clone(), |_, _| {});
        let model = &models.models[0];
        let (mut x, mut pass, mut map) = model.pass::<NoneTape>(&images, range.len(), Mode::Evaluation);
        let modules = model.network.modules();
        let mut outputs = Vec::new();
        for (i, NamedModule { module, .. }) in modules.iter().enumerate() {
            x = pass.module(module, x, map);
            map = after(module, map);
            if matches!(module, Module::Activation(_) | Module::Residual { .. }) || i + 1 == modules.len() {
                outputs.push(x.as_vec());
            }
        }
        Ok(Some(outputs))
    }
}

/// Makes dfdx engines.
pub struct DfdxFactory;

impl EngineFactory for DfdxFactory {
    fn name(&self) -> &'static str {
        "dfdx"
    }

    fn about(&self) -> &'static str {
        "dfdx tensors and autograd, one model at a time: every architecture"
    }

    fn trains(&self, model: &ModelSpec) -> bool {
        trains(model)
    }

    fn build(&self, device: DeviceName) -> Result<BuiltEngine, DeviceError> {
        Ok(match device {
            // Its bits depend on the device: it leaves the processor only when asked to.
            DeviceName::Auto | DeviceName::Cpu => DfdxEngine::default().into(),
            DeviceName::Cuda(number) => DfdxEngine::with_cuda(number.unwrap_or(0))?.into(),
        })
    }
}

/// Every model; exhaustive, so that a new optimiser or schedule is not trained as another.
fn trains(ModelSpec { hyperparameters: h, sparsification }: &ModelSpec) -> bool {
    let optimizer = match h.optimizer {
        Optimizer::Adam | Optimizer::Sgd => true,
    };
    let schedule = match h.schedule {
        Schedule::Constant | Schedule::OneCycle => true,
    };
    let sparsification = match sparsification {
        Sparsification::Masks | Sparsification::VariationalDropout => true,
    };
    optimizer && schedule && sparsification
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoo_model::stage::Interrupt;
    use zoo_model::synthetic::noise_dataset;
    use zoo_model::Activation;
    use zoo_model::Hyperparameters;
    use zoo_model::{Architecture, Augmentation, Init, Optimizer, Schedule};

    #[test]
    fn the_last_layers_outputs_are_the_logits() {
        let data = zoo_model::synthetic::noise_dataset([1, 28, 28], 10, 6);
        let h = Hyperparameters { dropout: 0.5, ..Hyperparameters::default() };
        let task = Task::new(&h, data.shape, 10).unwrap();
        let outputs = DfdxEngine::default().layer_outputs(&task, &data, Split::Test, 1..5).unwrap().unwrap();
        let logits =
            DfdxEngine::default().start(&[task], &data, None).unwrap().logits(Split::Test, 1..5).unwrap().remove(0);
        assert_eq!(outputs.iter().map(Vec::len).collect::<Vec<_>>(), [4 * 8 * 144, 4 * 6 * 16, 4 * 36, 4 * 20, 4 * 10]);
        assert_eq!(outputs[4], logits);
    }

    #[test]
    fn a_residual_network_goes_on_from_a_snapshot_to_the_same_bits() {
        let hyperparameters = Hyperparameters {
            architecture: Architecture::Resnet18,
            activation: Activation::Relu,
            init: Init::KaimingUniform,
            dropout: 0.2,
            optimizer: Optimizer::Sgd,
            learning_rate: 0.05,
            momentum: 0.9,
            schedule: Schedule::OneCycle,
            augmentation: Augmentation { crop_padding: 1, flip: true, rotation: 20 },
            batch_size: 2,
            epochs: 2,
            ..Hyperparameters::default()
        };
        let data = noise_dataset([1, 8, 8], 10, 5);
        let task = Task::new(&hyperparameters, data.shape, 10).unwrap();
        let go_on = Interrupt::default();
        let start =
            |from: Option<&[Snapshot]>| DfdxEngine::default().start(std::slice::from_ref(&task), &data, from).unwrap();
        let mut whole = start(None);
        whole.train_epoch(1, &go_on).unwrap();
        let between = whole.snapshots().unwrap();
        let running = between[0].parameters.len() - task.network.parameter_count();
        assert!(between[0].parameters[task.network.parameter_count()..].iter().any(|&s| s != 0.0 && s != 1.0));
        assert_eq!(
            (running, between[0].moments.get("momentum").unwrap().len()),
            (9600, task.network.parameter_count())
        );
        whole.train_epoch(2, &go_on).unwrap();
        let mut resumed = start(Some(&between));
        resumed.train_epoch(2, &go_on).unwrap();
        assert!(resumed.snapshots().unwrap() == whole.snapshots().unwrap());

        let without = Hyperparameters { augmentation: Augmentation::NONE, ..hyperparameters };
        let mut other =
            DfdxEngine::default().start(&[Task { hyperparameters: without, ..task.clone() }], &data, None).unwrap();
        other.train_epoch(1, &go_on).unwrap();
        assert!(other.snapshots().unwrap() != between, "augmentation changes what is seen");
    }
}
