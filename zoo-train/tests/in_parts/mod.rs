//! An engine for tests: another engine, with epochs in parts.

use std::ops::Range;

use zoo_engine::metrics::Tally;
use zoo_engine::{Cohort, DeviceError, Engine, EngineError, ModelSpec, Snapshot, Task};
use zoo_engine_population::PopulationEngine;
use zoo_model::stage::Interrupt;
use zoo_model::{Dataset, Split};

/// The population engine, with parts of some steps.
pub struct InParts {
    pub engine: PopulationEngine,
    pub steps: usize,
}

impl Engine for InParts {
    fn name(&self) -> &'static str {
        "in-parts"
    }

    fn version(&self) -> String {
        self.engine.version()
    }

    fn trains(&self, model: &ModelSpec) -> bool {
        self.engine.trains(model)
    }

    fn cohorts(&self, models: &[&ModelSpec]) -> Vec<Vec<usize>> {
        self.engine.cohorts(models)
    }

    fn start<'d>(
        &self,
        tasks: &[Task],
        data: &'d Dataset,
        from: Option<&[Snapshot]>,
    ) -> Result<Box<dyn Cohort + 'd>, DeviceError> {
        Ok(Box::new(CohortInParts { cohort: self.engine.start(tasks, data, from)?, steps: self.steps }))
    }
}

struct CohortInParts<'d> {
    cohort: Box<dyn Cohort + 'd>,
    steps: usize,
}

impl Cohort for CohortInParts<'_> {
    fn tasks(&self) -> &[Task] {
        self.cohort.tasks()
    }

    fn data(&self) -> &Dataset {
        self.cohort.data()
    }

    fn train(
        &mut self,
        epoch: u32,
        first_step: u32,
        orders: &[Vec<u32>],
        interrupt: &Interrupt,
    ) -> Result<Vec<Tally>, EngineError> {
        self.cohort.train(epoch, first_step, orders, interrupt)
    }

    fn steps_per_part(&self) -> usize {
        self.steps
    }

    fn gradients(&mut self, samples: &[u32]) -> Result<Vec<Vec<f32>>, EngineError> {
        self.cohort.gradients(samples)
    }

    fn logits(&mut self, split: Split, range: Range<usize>) -> Result<Vec<Vec<f64>>, EngineError> {
        self.cohort.logits(split, range)
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>, EngineError> {
        self.cohort.snapshots()
    }

    fn prune(&mut self, masks: &[Option<Vec<bool>>]) -> Result<(), EngineError> {
        self.cohort.prune(masks)
    }
}
