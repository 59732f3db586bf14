//! What a model of a zoo is, and the files through which the stages meet.
//!
//! A *zoo* is the Cartesian product of a manifest's grid ([`Plan`]): one model per combination of
//! [`Hyperparameters`], each with the [`States`](states) of its whole training trajectory.
//!
//! ```
//! use zoo_model::Hyperparameters;
//!
//! let network = Hyperparameters::default().network([1, 28, 28], 10)?;
//! assert_eq!(network.parameter_count(), 2464);
//! assert_eq!(network.parameters()[0].name, "module_list.0.weight");
//! # Ok::<(), zoo_model::GeometryError>(())
//! ```
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`manifest`] | the TOML manifest, read section by section, with errors that name file, line and key |
//! | [`activation`], [`init`], [`optimizer`], [`schedule`] | activation functions, initial weights, optimisers, schedules |
//! | [`architecture`] | networks as lists of modules, parameter names and shapes |
//! | [`augmentation`] | random changes of training images |
//! | [`hyperparameters`] | one model's hyperparameters |
//! | [`params`] | `params.json` |
//! | [`model_id`] | ids of models |
//! | [`deserialize`] | deserialisers of values in manifests |
//! | [`plan`] | the grid and its expansion into models |
//! | [`random`] | the counter-based generator behind every random draw |
//! | [`dataset`] | prepared dataset files |
//! | [`decoder`] | other projects' decoders, whose panics are faults of the bytes |
//! | [`stage`] | how a stage runs: interruption and progress |
//! | [`states`] | `states.safetensors` |
//! | [`result`] | `result.json` |
//! | [`zoo_dir`] | the zoo directory and its `zoo.json` |
//! | [`synthetic`] | zoos of noise, for tests and benchmarks |
//! | [`files`] | atomic writes, locks and checksums |
//! | [`text`] | untrusted text, made safe to print |

pub mod activation;
pub mod architecture;
pub mod augmentation;
pub mod dataset;
pub mod decoder;
pub mod deserialize;
pub mod files;
pub mod hyperparameters;
pub mod init;
pub mod manifest;
pub mod model_id;
pub mod optimizer;
pub mod params;
pub mod plan;
pub mod random;
pub mod result;
pub mod safetensors_file;
pub mod schedule;
pub mod stage;
pub mod states;
pub mod synthetic;
pub mod text;
pub mod zoo_dir;

pub use activation::Activation;
pub use architecture::{Architecture, GeometryError, Network};
pub use augmentation::Augmentation;
pub use dataset::{Dataset, Split};
pub use files::lock;
pub use hyperparameters::Hyperparameters;
pub use init::Init;
pub use manifest::{Manifest, ManifestError};
pub use model_id::ModelId;
pub use optimizer::Optimizer;
pub use params::{Params, Parent};
pub use plan::{Plan, PlannedModel};
pub use result::ResultLine;
pub use schedule::Schedule;
pub use zoo_dir::{ZooDir, ZooRecord};

/// Version of the on-disk format that this build writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;
