//! The interface between training and what does the arithmetic, and what all engines have in common.
//!
//! An [`Engine`] trains [`Task`]s in cohorts, between two epochs of which every model is a
//! [`Snapshot`]; an [`EngineFactory`] makes engines on a [`DeviceName`]. Whoever implements the two has an
//! engine that every stage can use (`zoo_train::registry`).
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`engine`] | the traits `Engine`, `Cohort` and `EngineFactory` |
//! | [`task`] | what to train: `Task`, `ModelSpec` |
//! | [`snapshot`] | a model between two epochs |
//! | [`device`] | where the arithmetic is done, and what can be wrong there |
//! | [`optimizer`], [`schedule`] | Adam, SGD and learning rates, as PyTorch has them |
//! | [`magnitude`], [`variational`] | how a model becomes sparse |
//! | [`metrics`] | cross entropy and accuracy |
//! | [`functions`] | exp, ln and the activations in f64, with the same bits everywhere |

pub mod device;
pub mod engine;
pub mod functions;
pub mod magnitude;
pub mod metrics;
pub mod optimizer;
pub mod schedule;
pub mod snapshot;
pub mod task;
pub mod variational;

pub use device::{DeviceError, DeviceName};
pub use engine::{BatchPlan, BuiltEngine, Cohort, Engine, EngineError, EngineFactory, Evaluation, LayerOutputs};
pub use optimizer::Moments;
pub use snapshot::{NoiseSnapshot, Snapshot};
pub use task::{Mask, ModelSpec, Sparsification, Task};
