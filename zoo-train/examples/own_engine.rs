//! A program with an engine of its own: `zoo-train`, and one more name that `--engine` takes.
//!
//! This one lets the fastest engine do the arithmetic and says how long every epoch took. It is another
//! engine in the eyes of zoo.json, so that its zoos are not mistaken for those of the engine behind it.
//!
//! ```sh
//! cargo run --release -p zoo-train --example own_engine -- my.toml --data my.safetensors -o zoos/my --engine timed
//! ```

use std::ops::Range;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use zoo_engine::metrics::Tally;
use zoo_engine::{
    BatchPlan, BuiltEngine, Cohort, DeviceError, DeviceName, Engine, EngineError, EngineFactory, ModelSpec, Snapshot,
    Task,
};
use zoo_engine_population::PopulationFactory;
use zoo_model::stage::Interrupt;
use zoo_model::{Dataset, Split};
use zoo_train::{cli, registry};

struct TimedFactory;

impl EngineFactory for TimedFactory {
    fn name(&self) -> &'static str {
        "timed"
    }

    fn about(&self) -> &'static str {
        "The population engine with a stopwatch"
    }

    fn trains(&self, model: &ModelSpec) -> bool {
        PopulationFactory.trains(model)
    }

    fn build(&self, device: DeviceName) -> Result<BuiltEngine, DeviceError> {
        let BuiltEngine { engine, notice } = PopulationFactory.build(device)?;
        Ok(BuiltEngine { engine: Box::new(Timed(engine)), notice })
    }
}

struct Timed(Box<dyn Engine>);

impl Engine for Timed {
    fn name(&self) -> &'static str {
        "timed"
    }

    fn version(&self) -> String {
        self.0.version()
    }

    fn trains(&self, model: &ModelSpec) -> bool {
        self.0.trains(model)
    }

    fn cohorts(&self, models: &[&ModelSpec]) -> Vec<Vec<usize>> {
        self.0.cohorts(models)
    }

    fn plan_batches(
        &self,
        cohorts: Vec<Vec<usize>>,
        models: &[&ModelSpec],
        data: &Dataset,
        threads: usize,
    ) -> Result<BatchPlan, DeviceError> {
        self.0.plan_batches(cohorts, models, data, threads)
    }

    fn start<'d>(
        &self,
        tasks: &[Task],
        data: &'d Dataset,
        from: Option<&[Snapshot]>,
    ) -> Result<Box<dyn Cohort + 'd>, DeviceError> {
        Ok(Box::new(TimedCohort(self.0.start(tasks, data, from)?)))
    }
}

struct TimedCohort<'d>(Box<dyn Cohort + 'd>);

impl Cohort for TimedCohort<'_> {
    fn tasks(&self) -> &[Task] {
        self.0.tasks()
    }

    fn data(&self) -> &Dataset {
        self.0.data()
    }

    fn train(
        &mut self,
        epoch: u32,
        first_step: u32,
        orders: &[Vec<u32>],
        interrupt: &Interrupt,
    ) -> Result<Vec<Tally>, EngineError> {
        let started = Instant::now();
        let tallies = self.0.train(epoch, first_step, orders, interrupt)?;
        let (models, seconds) = (orders.len(), started.elapsed().as_secs_f64());
        eprintln!("epoch {epoch} of {models} models: {seconds:.3} s");
        Ok(tallies)
    }

    fn steps_per_part(&self) -> usize {
        self.0.steps_per_part()
    }

    fn gradients(&mut self, samples: &[u32]) -> Result<Vec<Vec<f32>>, EngineError> {
        self.0.gradients(samples)
    }

    fn logits(&mut self, split: Split, range: Range<usize>) -> Result<Vec<Vec<f64>>, EngineError> {
        self.0.logits(split, range)
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>, EngineError> {
        self.0.snapshots()
    }

    fn prune(&mut self, masks: &[Option<Vec<bool>>]) -> Result<(), EngineError> {
        self.0.prune(masks)
    }
}

fn main() -> ExitCode {
    registry::register(Arc::new(TimedFactory));
    zoo_cli::main(
        zoo_cli::Program { name: "own_engine", about: "Train a zoo, with a stopwatch", examples: cli::EXAMPLES },
        cli::run,
    )
}
