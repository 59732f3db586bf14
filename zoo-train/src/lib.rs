//! Trains a plan of models, with the whole trajectory of each.

pub mod dfdx_engine;
pub mod engine;
pub mod metrics;
pub mod optimizer;

pub use dfdx_engine::DfdxEngine;
pub use engine::{Cohort, Engine, Evaluation, Snapshot, Task};

/// Every engine of this build.
pub fn engines() -> Vec<Box<dyn Engine>> {
    vec![Box::new(DfdxEngine)]
}
