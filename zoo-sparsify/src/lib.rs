//! Prunes a zoo into its sparse twin zoo: one twin per model, of the same id.
//!
//! By [magnitude](methods::magnitude), the smallest weights of a model's last state are removed, at once
//! or along a ramp, and training continues with the remaining weights. By [variational
//! dropout](methods::variational_dropout), training finds which weights are dominated by their noise.
//! Either way it is on the same data, with the parent's optimiser from fresh moments. Random draws
//! continue where the parent's training ended: the twin's epoch e is drawn as epoch (parent's epochs + e).
//!
//! ```no_run
//! use std::path::Path;
//! use zoo_model::{Manifest, Plan};
//! use zoo_sparsify::{sparsify, twins, TwinPaths};
//! use zoo_train::{registry, Settings};
//!
//! let manifest = Manifest::load(Path::new("configs/quickstart.toml"))?;
//! let (parent, data) = (Path::new("zoos/quickstart"), Path::new("data/quickstart.safetensors"));
//! for twin in twins(&manifest)? {
//!     let model = twin.spec(Plan::new(&manifest)?.models[0].hyperparameters.clone());
//!     let engine = registry::on_processor(None, &model)?;
//!     let output = Path::new("zoos").join(twin.zoo_name("quickstart"));
//!     let paths = TwinPaths { parent, data, output: &output };
//!     println!("{}", sparsify(paths, &twin, engine.as_ref(), &Settings::default(), &Default::default())?);
//! }
//! # Ok::<(), zoo_sparsify::SparsifyError>(())
//! ```
//!
//! A method of your own is two traits, [`PruningMethod`] and [`Pruning`], and a call of [`register`].

#[cfg(feature = "cli")]
pub mod cli;
mod error;
mod jobs;
pub mod methods;
mod section;
mod twin;
mod twin_zoo;

pub use error::{RegistrationError, SparsifyError};
pub use jobs::{jobs, task, twin_params};
pub use methods::{register, Pruning, PruningMethod, Start};
pub use section::twins;
pub use twin::Twin;
pub use twin_zoo::{is_up_to_date, record, sparsify, TwinPaths};
