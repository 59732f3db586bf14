//! How long a plan will take, from a short calibration on this machine.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use zoo_model::init::initial_parameters;
use zoo_model::plan::PlannedModel;
use zoo_model::stage::Interrupt;
use zoo_model::synthetic::noise_dataset;
use zoo_model::{Activation, Architecture, Init, Optimizer, Plan, Split};

use zoo_engine::variational::Variational;
use zoo_engine::{BatchPlan, DeviceError, Engine, Mask, ModelSpec, Sparsification, Task};

/// Parameters times pixels that are measured at once: four batches of a small network, some samples
/// of one that takes seconds for a batch.
const MEASURED: usize = 1 << 38;

/// Time spent measuring one kind of model.
const CALIBRATION: Duration = Duration::from_millis(60);

/// Seconds that a batch of models needs, per model.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rates {
    /// To train on one sample.
    pub train: f64,
    /// To evaluate one sample.
    pub evaluate: f64,
}

/// What models are trained on, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Channels, height and width of the images.
    pub shape: [usize; 3],
    /// Classes.
    pub classes: usize,
    /// Samples of the train split.
    pub train: usize,
    /// Samples of the validation and the test split together.
    pub evaluated: usize,
    /// How the models become sparse.
    pub sparsification: Sparsification,
}

/// What a rate depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    engine: &'static str,
    architecture: Architecture,
    hidden: Vec<u32>,
    activation: Activation,
    optimizer: Optimizer,
    has_dropout: bool,
    batch_size: usize,
    shape: [usize; 3],
    classes: usize,
    sparsification: Sparsification,
    models: usize,
    threads: usize,
}

/// Measured rates by what they depend on.
#[derive(Debug, Default)]
pub struct Calibration(HashMap<Kind, Rates>);

impl Calibration {
    /// Rates of one of the given number of models like `model` that are trained together by the given number of
    /// threads, measured once for each kind.
    pub fn rates(
        &mut self,
        engine: &dyn Engine,
        model: &ModelSpec,
        [models, threads]: [usize; 2],
        work: &Workload,
    ) -> Rates {
        let h = &model.hyperparameters;
        let kind = Kind {
            engine: engine.name(),
            architecture: h.architecture,
            hidden: h.hidden.clone(),
            activation: h.activation,
            optimizer: h.optimizer,
            has_dropout: h.dropout > 0.0,
            batch_size: h.batch_size,
            shape: work.shape,
            classes: work.classes,
            sparsification: model.sparsification,
            models,
            threads,
        };
        *self.0.entry(kind).or_insert_with(|| measure(engine, model, [models, threads], work))
    }

    /// Seconds that training a plan takes with the given number of threads, metrics included: what works on
    /// one batch of models takes the next when it is done.
    ///
    /// # Errors
    /// Not one model fits the engine's device.
    pub fn seconds(
        &mut self,
        engine: &dyn Engine,
        plan: &Plan,
        work: &Workload,
        threads: usize,
    ) -> Result<f64, DeviceError> {
        let kept = plan.train.kept_epochs();
        let evaluated = kept.len() * work.evaluated + if kept.first() == Some(&0) { work.train } else { 0 };
        let trained = plan.train.epochs as usize * work.train;
        let spec = |m: &PlannedModel| ModelSpec {
            hyperparameters: m.hyperparameters.clone(),
            sparsification: work.sparsification,
        };
        let models: Vec<ModelSpec> = plan.models.iter().map(spec).collect();
        let models: Vec<&ModelSpec> = models.iter().collect();
        let data = noise_dataset(work.shape, work.classes, 1);
        let plan = engine.plan_batches(engine.cohorts(&models), &models, &data, threads.max(1))?;
        // More threads than the processor has would measure how they get into each other's way.
        let wanted = plan.threads_per_batch(threads);
        let threads = wanted.min(std::thread::available_parallelism().map_or(1, usize::from));
        let BatchPlan { batches, parallelism, .. } = plan;
        let mut busy = vec![0f64; parallelism.max(1)];
        for batch in batches {
            let rates = self.rates(engine, models[batch[0]], [batch.len(), threads], work);
            let seconds = trained as f64 * rates.train + evaluated as f64 * rates.evaluate;
            let first_free = busy.iter_mut().min_by(|a, b| a.total_cmp(b)).expect("at least one");
            *first_free += seconds * batch.len() as f64 * threads as f64 / wanted as f64;
        }
        Ok(busy.into_iter().fold(0.0, f64::max))
    }
}

fn measure(engine: &dyn Engine, model: &ModelSpec, [models, threads]: [usize; 2], work: &Workload) -> Rates {
    let h = &model.hyperparameters;
    let &Workload { shape, classes, .. } = work;
    let Ok(network) = h.network(shape, classes) else {
        return Rates::default();
    };
    let samples = (4 * h.batch_size).min(MEASURED / (network.parameter_count() * shape[1] * shape[2])).max(2);
    let data = noise_dataset(shape, classes, samples);
    // Weights of ordinary size: calibrating on saturated ones would time denormal numbers.
    let initial = initial_parameters(&network, Init::KaimingUniform, 0);
    let mask = match model.sparsification {
        Sparsification::Masks => None,
        Sparsification::VariationalDropout => Some(Mask::Variational(Variational { epochs: 1 })),
    };
    let task = Task { initial, network, hyperparameters: h.clone(), mask, epochs_before: 0 };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let timed = || {
        let Ok(mut cohort) = engine.start(&vec![task; models], &data, None) else { return Rates::default() };
        let order: Vec<u32> = (0..data.len(Split::Train) as u32).collect();
        let orders = vec![order; models];
        let go_on = Interrupt::default();
        let per_sample = |run: &mut dyn FnMut()| {
            let mut started = Instant::now();
            let mut rounds = 0;
            run();
            // The first round of a short one warms the caches.
            if started.elapsed() < CALIBRATION {
                started = Instant::now();
                while rounds == 0 || started.elapsed() < CALIBRATION {
                    run();
                    rounds += 1;
                }
            }
            started.elapsed().as_secs_f64() / (rounds.max(1) * models * data.len(Split::Train)) as f64
        };
        let train = per_sample(&mut || {
            let _ = cohort.train(1, 0, &orders, &go_on);
        });
        let evaluate = per_sample(&mut || {
            let _ = cohort.evaluate(Split::Train, &go_on);
        });
        Rates { train, evaluate }
    };
    match pool {
        Ok(pool) => pool.install(timed),
        Err(_) => timed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoo_engine::{Cohort, Snapshot};
    use zoo_engine_layered::LayeredEngine;
    use zoo_model::{Dataset, Manifest};

    /// Trains one model at a time with all threads, however small it is.
    struct AllThreads(LayeredEngine);

    impl Engine for AllThreads {
        fn name(&self) -> &'static str {
            "all-threads"
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
            batches: Vec<Vec<usize>>,
            _: &[&ModelSpec],
            _: &Dataset,
            _: usize,
        ) -> Result<BatchPlan, DeviceError> {
            Ok(BatchPlan { batches, concurrency: 1, parallelism: 1 })
        }

        fn start<'d>(
            &self,
            tasks: &[Task],
            data: &'d Dataset,
            from: Option<&[Snapshot]>,
        ) -> Result<Box<dyn Cohort + 'd>, DeviceError> {
            self.0.start(tasks, data, from)
        }
    }

    #[test]
    fn more_threads_than_there_are_cores_are_not_measured_but_make_it_faster() {
        let text = "[zoo]\nname = \"z\"\n[model]\narchitecture = \"mlp\"\nhidden = [3]\n[grid]\nactivation = \"relu\"\ninit = \"uniform\"\noptimizer = \"sgd\"\nlearning-rate = 0.1\nseed = [1, 2]\n[train]\nepochs = 1\nbatch-size = 4\n";
        let plan = Plan::new(&Manifest::parse("m.toml", text.to_owned()).unwrap()).unwrap();
        let sparsification = Sparsification::Masks;
        let work = Workload { shape: [1, 4, 4], classes: 2, train: 40, evaluated: 10, sparsification };
        let mut calibration = Calibration::default();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut seconds =
            |threads| calibration.seconds(&AllThreads(LayeredEngine::new()), &plan, &work, threads).unwrap();
        // What was measured is not measured again: the ratio is exact but for rounding.
        let ratio = seconds(cores) / seconds(16 * cores);
        assert!((ratio - 16.0).abs() < 1e-9, "{ratio}");
    }
}
