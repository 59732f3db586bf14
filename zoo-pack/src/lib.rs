//! Packs a zoo into a deterministic, checksummed archive, and reads such archives as a stream.
//!
//! The archive is a tar in gzip, byte-identical for the same zoo on any machine and thread count:
//! `SHA256SUMS` first, then `zoo.json`, a dataset card, `index.parquet` and the models, all in one
//! folder named after the zoo. docs/format.md specifies it.
//!
//! ```no_run
//! use std::path::Path;
//! use zoo_pack::{pack, PackOptions};
//!
//! let (zoo, archive) = (Path::new("zoos/quickstart"), Path::new("archives/quickstart.tar.gz"));
//! println!("{}", pack(zoo, archive, &PackOptions::default(), &Default::default())?);
//! # Ok::<(), zoo_pack::PackError>(())
//! ```

mod archive_files;
mod card;
#[cfg(feature = "cli")]
pub mod cli;
pub mod entries;
mod error;
pub mod index;
mod layout;
pub mod members;
mod pack;
mod section;
mod volumes;

pub use archive_files::{archives, check_replaces, replaced, sums_path};
pub use error::PackError;
pub use pack::{is_up_to_date, pack, PackOptions, PackSummary};
pub use section::{parse_size, PackSection};
pub use volumes::{Volume, Volumes};

/// Name of the dataset card.
pub const CARD: &str = "README.md";
/// Name of the index.
pub const INDEX: &str = "index.parquet";
/// Name of the list of volumes, in an archive that has several.
pub const VOLUMES: &str = "volumes.json";
