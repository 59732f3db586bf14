//! What is in a model zoo: its diversity, downstream benchmarks, and a report.
//!
//! | Module | Contents |
//! | --- | --- |
//! | [`zoo_reader`] | zoos as streams of models, from a directory, an archive or its volumes |
//! | [`evaluation`] | models evaluated on their dataset |
//! | [`statistics`] | layer statistics s(w) |
//! | [`ridge`] | ridge regression from moments |
//! | [`scores`] | R^2, Kendall's tau, agreement, kappa |
//! | [`benchmark`] | downstream benchmarks: properties predicted from weights |
//! | [`diversity`] | spread of performance, weights, predictions and activations |
//! | [`figures`], [`report`] | what people look at |
//! | `cli` | the command line, with the cargo feature `cli` |
//!
//! ```no_run
//! use std::path::Path;
//! use zoo_analyze::{benchmark, zoo_reader::ZooReader};
//!
//! let zoo = ZooReader::open(Path::new("zoos/quickstart"))?;
//! println!("{}", benchmark::benchmark(&zoo, &Default::default(), &Default::default())?);
//! # Ok::<(), zoo_analyze::AnalyzeError>(())
//! ```

mod analyze;
pub mod benchmark;
#[cfg(feature = "cli")]
pub mod cli;
pub mod diversity;
mod error;
pub mod evaluation;
pub mod figures;
pub mod report;
pub mod ridge;
pub mod scores;
pub mod statistics;
pub mod zoo_reader;

pub use analyze::analyze;
pub use error::AnalyzeError;
