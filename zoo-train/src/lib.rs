//! Trains a plan of models, with the whole trajectory of each.
//!
//! ```no_run
//! use std::path::Path;
//! use zoo_model::{Manifest, Plan};
//! use zoo_train::{registry, train, Settings};
//!
//! let manifest = Manifest::load(Path::new("configs/quickstart.toml"))?;
//! let data = Path::new("data/quickstart.safetensors");
//! let model = Plan::new(&manifest)?.models[0].hyperparameters.clone().into();
//! let engine = registry::on_processor(None, &model)?;
//! let summary = train(&manifest, data, Path::new("zoos/quickstart"), engine.as_ref(), &Settings::default(), &Default::default())?;
//! println!("{summary}");
//! # Ok::<(), zoo_train::TrainError>(())
//! ```
//!
//! Replace a part: an [`Engine`](zoo_engine::Engine) does the arithmetic and is found in the
//! [`registry`], a [`Population`] is trained into a zoo directory, whatever
//! [`ModelSource`](population::ModelSource) its models come from.

pub mod checkpoint;
#[cfg(feature = "cli")]
pub mod cli;
mod dataset_check;
mod error;
pub mod estimate;
#[cfg(test)]
#[path = "../tests/in_parts/mod.rs"]
mod in_parts;
pub mod kept_states;
pub mod merge;
mod planned;
pub mod population;
pub mod registry;
pub mod trajectory;

pub use error::TrainError;
pub use planned::{is_up_to_date, record, train};
pub use population::{Completion, Population, Settings, Shard, TrainSummary};
