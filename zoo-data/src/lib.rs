//! Loads image datasets in their published forms and prepares them for training: splits,
//! transforms bit-identical to Pillow's, one file for every later stage.
//!
//! ```no_run
//! use std::path::Path;
//! use zoo_model::{Dataset, Manifest};
//!
//! let manifest = Manifest::load(Path::new("configs/quickstart.toml"))?;
//! let output = Path::new("data/quickstart.safetensors");
//! zoo_data::prepare(&manifest, Path::new("."), output, &Default::default())?;
//! println!("{:?}", Dataset::read(output)?.shape);
//! # Ok::<(), zoo_data::DataError>(())
//! ```

pub mod checksum;
#[cfg(feature = "cli")]
pub mod cli;
mod client;
pub mod datasets;
mod description;
mod error;
pub mod fetch;
pub mod formats;
pub mod parts;
mod prepare;
mod published;
mod section;
mod summary;
pub mod transform;

pub use datasets::DatasetName;
pub use description::{Description, Origin, PublishedFile};
pub use error::DataError;
pub use fetch::fetch_dataset;
pub use prepare::{check_replaces, expected, is_up_to_date, prepare, Expected};
pub use published::Published;
pub use section::{DataSection, NormalizeSection};
pub use summary::DataSummary;
pub use transform::TransformSection;
