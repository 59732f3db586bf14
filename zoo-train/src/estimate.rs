//! How long a plan will take, from a short calibration on this machine.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use zoo_model::init::initial_parameters;
use zoo_model::stage::Interrupt;
use zoo_model::synthetic::noise_dataset;
use zoo_model::{Activation, Architecture, Hyperparameters, Init, Optimizer, Plan, Split};

use crate::engine::{Engine, Mask, Task};
use crate::variational::Variational;

/// Parameters times pixels that are measured at once: four batches of a small network, a few samples
/// of one that takes seconds for a batch.
const MEASURED: usize = 1 << 36;

/// Time spent measuring one kind of model.
const CALIBRATION: Duration = Duration::from_millis(60);

/// Seconds that one thread needs for one model.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rates {
    /// To train on one sample.
    pub train: f64,
    /// To evaluate one sample.
    pub evaluate: f64,
}

type Kind = (Architecture, Vec<u32>, Activation, Optimizer, bool, [usize; 3], usize, usize, bool);

/// Measured rates by what they depend on.
#[derive(Debug, Default)]
pub struct Calibration(HashMap<Kind, Rates>);

impl Calibration {
    /// Rates of one model of a cohort of `models` like `h`, with or without variational dropout,
    /// measured once for each kind.
    pub fn rates(
        &mut self,
        engine: &dyn Engine,
        h: &Hyperparameters,
        models: usize,
        shape: [usize; 3],
        classes: usize,
        variational: bool,
    ) -> Rates {
        let kind = (
            h.architecture,
            h.hidden.clone(),
            h.activation,
            h.optimizer,
            h.dropout > 0.0,
            shape,
            h.batch_size,
            models,
            variational,
        );
        *self.0.entry(kind).or_insert_with(|| measure(engine, h, models, shape, classes, variational))
    }

    /// Seconds that `threads` threads need to train a plan on splits of these sizes (train, val,
    /// test), metrics included, with or without variational dropout: each takes the next cohort when
    /// it is done with one.
    #[allow(clippy::too_many_arguments)]
    pub fn seconds(
        &mut self,
        engine: &dyn Engine,
        plan: &Plan,
        shape: [usize; 3],
        classes: usize,
        [train, val, test]: [usize; 3],
        threads: usize,
        variational: bool,
    ) -> f64 {
        let kept = plan.train.kept_epochs();
        let evaluated = kept.len() * (val + test) + if kept.first() == Some(&0) { train } else { 0 };
        let trained = plan.train.epochs as usize * train;
        let models: Vec<&Hyperparameters> = plan.models.iter().map(|m| &m.hyperparameters).collect();
        let mut busy = vec![0f64; threads.max(1)];
        for cohort in engine.cohorts(&models) {
            let rates = self.rates(engine, models[cohort[0]], cohort.len(), shape, classes, variational);
            let seconds = trained as f64 * rates.train + evaluated as f64 * rates.evaluate;
            let first_free = busy.iter_mut().min_by(|a, b| a.total_cmp(b)).expect("at least one thread");
            *first_free += seconds * cohort.len() as f64;
        }
        busy.into_iter().fold(0.0, f64::max)
    }
}

fn measure(
    engine: &dyn Engine,
    h: &Hyperparameters,
    models: usize,
    shape: [usize; 3],
    classes: usize,
    variational: bool,
) -> Rates {
    let Ok(network) = h.network(shape, classes) else {
        return Rates::default();
    };
    let samples = (4 * h.batch_size).min(MEASURED / (network.parameter_count() * shape[1] * shape[2])).max(2);
    let data = noise_dataset(shape, classes, samples);
    // Weights of ordinary size: calibrating on saturated ones would time denormal numbers.
    let initial = initial_parameters(&network, Init::KaimingUniform, 0);
    let mask = variational.then_some(Mask::Variational(Variational { epochs: 1 }));
    let task = Task { initial, network, hyperparameters: h.clone(), mask, epochs_before: 0 };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
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
            let _ = cohort.train(1, &orders, &go_on);
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
