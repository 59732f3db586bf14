//! Models that are trained one after the other, each on whole mini-batches.

use std::ops::Range;

use rayon::prelude::*;
use zoo_engine::metrics::Tally;
use zoo_engine::optimizer::{base_rates, total_steps};
use zoo_engine::schedule::rates;
use zoo_engine::variational::initial_log_sigma2;
use zoo_engine::{Cohort, EngineError, Moments, NoiseSnapshot, Snapshot, Task};
use zoo_model::stage::Interrupt;
use zoo_model::{Dataset, Split};

use crate::graph::Graph;
use crate::kernels::{Draw, Kernels, Outcome, Pixels};
use crate::model::{Mode, Model};
use crate::noise::Noise;

/// Multiply-adds of a part of an epoch: about a minute of a few cores, and less of a GPU.
const PART: usize = 4 << 40;

/// Bytes of the values of a chunk of images that is evaluated at a time, unless a mini-batch has more.
const EVALUATED_BYTES: usize = 64 << 20;

/// Images that are evaluated at a time, at most, unless a mini-batch has more.
const EVALUATED: usize = 1000;

/// Models on one device, one after the other.
pub struct Models<'d, K: Kernels> {
    models: Vec<Model<K>>,
    tasks: Vec<Task>,
    steps: Vec<u64>,
    data: &'d Dataset,
    table: Vec<[f32; 256]>,
}

impl<'d, K: Kernels> Models<'d, K> {
    /// Models of tasks, from their initial parameters or from snapshots; `kernels` gives each its device.
    ///
    /// # Errors
    /// The device failed, or is full.
    pub fn new(
        kernels: impl Fn() -> Outcome<K>,
        tasks: &[Task],
        data: &'d Dataset,
        from: Option<&[Snapshot]>,
    ) -> Outcome<Self> {
        let model = |(i, task): (usize, &Task)| start(kernels()?, task, from.map(|f| &f[i]));
        Ok(Self {
            models: tasks.iter().enumerate().map(model).collect::<Outcome<_>>()?,
            tasks: tasks.to_vec(),
            steps: (0..tasks.len()).map(|i| from.map_or(0, |f| f[i].step)).collect(),
            data,
            table: data.normalization_f32(),
        })
    }

    /// Training images as a model sees them in an epoch.
    fn augmented(&self, m: usize, epoch: u32, samples: &[u32]) -> Vec<u8> {
        let (length, pixels) = (self.data.image_len(), &self.data.split(Split::Train).images);
        let [_, height, width] = self.data.shape;
        let h = &self.tasks[m].hyperparameters;
        let mut images = vec![0; samples.len() * length];
        images.par_chunks_mut(length).zip(samples).with_min_len(8).for_each(|(image, &sample)| {
            image.copy_from_slice(&pixels[sample as usize * length..][..length]);
            if !h.augmentation.is_none() {
                h.augmentation.apply(image, [height, width], h.seed, epoch, sample);
            }
        });
        images
    }

    fn labels(&self, samples: &[u32]) -> Vec<u16> {
        let labels = &self.data.split(Split::Train).labels;
        samples.iter().map(|&s| labels[s as usize]).collect()
    }

    /// A forward pass of a chunk of images.
    fn pass(&mut self, m: usize, images: &[u8], mode: Mode, interrupt: &Interrupt) -> Result<(), EngineError> {
        let pixels = Pixels { values: images, table: &self.table, shape: self.data.shape };
        self.models[m].forward(pixels, mode, interrupt)
    }

    /// A step of model `m` on some samples; returns the logits before it. Interrupted, it leaves half a step.
    fn step(
        &mut self,
        m: usize,
        epoch: u32,
        step: u32,
        samples: &[u32],
        interrupt: &Interrupt,
    ) -> Result<Vec<f64>, EngineError> {
        let images = self.augmented(m, epoch, samples);
        let h = &self.tasks[m].hyperparameters;
        let draw = Draw { seed: h.seed, epoch, step };
        self.pass(m, &images, Mode::Training(Some(draw)), interrupt)?;
        let labels = self.labels(samples);
        self.models[m].backward(&labels, Some(draw), interrupt)?;
        let task = &self.tasks[m];
        let h = &task.hyperparameters;
        let rates = rates(h.schedule, base_rates(h), self.steps[m], total_steps(h, self.data.len(Split::Train)));
        self.steps[m] += 1;
        let (step, kl_weight) = (self.steps[m], task.kl_weight(epoch));
        self.models[m].step(h.optimizer, rates, h.weight_decay, step, kl_weight)?;
        // Only now, so that a device has all of the step to do.
        Ok(wide(&self.models[m].logits(samples.len())?))
    }

    fn snapshot(&self, m: usize) -> Outcome<Snapshot> {
        let (model, task) = (&self.models[m], &self.tasks[m]);
        let optimizer = task.hyperparameters.optimizer;
        let noise = |noise: &Noise<K>| -> Outcome<NoiseSnapshot> {
            Ok(NoiseSnapshot {
                log_sigma2: wide(&noise.log_sigma2(&model.kernels, &task.network)?),
                moments: noise.moments(&model.kernels, &task.network, optimizer)?.map(|m| wide(m)),
            })
        };
        Ok(Snapshot {
            step: self.steps[m],
            parameters: wide(&model.state()?),
            moments: model.flat_moments(optimizer)?.map(|m| wide(m)),
            noise: model.noise.as_ref().map(noise).transpose()?,
        })
    }
}

/// Images that a model of this graph evaluates at a time; at least as many as a mini-batch has.
pub(crate) fn images_at_a_time(graph: &Graph, batch_size: usize, train_samples: usize) -> usize {
    let of_image = size_of::<f32>() * graph.floats_per_image();
    let fitting = (EVALUATED_BYTES / of_image).clamp(1, EVALUATED);
    fitting.max(batch_size.min(train_samples))
}

/// A model of a task, from its initial parameters or from a snapshot.
fn start<K: Kernels>(kernels: K, task: &Task, from: Option<&Snapshot>) -> Outcome<Model<K>> {
    let optimizer = task.hyperparameters.optimizer;
    let zeros = || Moments::filled(optimizer, vec![0.0; task.network.parameter_count()]);
    let (state, moments) = match from {
        Some(snapshot) => (narrow(&snapshot.parameters), snapshot.moments.map(|m| narrow(m))),
        None => (task.initial.clone(), zeros()),
    };
    let mut model = Model::new(kernels, &task.network, &state, &moments)?;
    if task.variational().is_some() {
        let (log_sigma2, moments) = match from.and_then(|snapshot| snapshot.noise.as_ref()) {
            Some(noise) => (narrow(&noise.log_sigma2), noise.moments.map(|m| narrow(m))),
            None => (narrow(&initial_log_sigma2(&task.network)), zeros()),
        };
        model.noise = Some(Noise::new(&model.kernels, &task.network, &model.graph, &log_sigma2, &moments)?);
    }
    if let Some(mask) = task.fixed_mask() {
        model.prune(mask)?;
    }
    Ok(model)
}

/// As values are handed out: every NaN is the canonical one.
fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| if v.is_nan() { f64::NAN } else { v.into() }).collect()
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

impl<K: Kernels> Cohort for Models<'_, K> {
    fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    fn data(&self) -> &Dataset {
        self.data
    }

    fn train(
        &mut self,
        epoch: u32,
        first_step: u32,
        orders: &[Vec<u32>],
        interrupt: &Interrupt,
    ) -> Result<Vec<Tally>, EngineError> {
        let mut tallies = vec![Tally::default(); orders.len()];
        for (m, (order, tally)) in orders.iter().zip(&mut tallies).enumerate() {
            for (step, samples) in order.chunks(self.tasks[m].hyperparameters.batch_size).enumerate() {
                let logits = self.step(m, epoch, first_step + step as u32, samples, interrupt)?;
                tally.add(&logits, &self.labels(samples));
            }
        }
        Ok(tallies)
    }

    fn steps_per_part(&self) -> usize {
        let steps = |(model, task): (&Model<K>, &Task)| {
            // Forward pass, and two of the same size backward.
            let of_image = 3 * model.graph.multiply_adds().max(1);
            (PART / of_image / task.hyperparameters.batch_size).max(1)
        };
        self.models.iter().zip(&self.tasks).map(steps).min().unwrap_or(usize::MAX)
    }

    fn gradients(&mut self, samples: &[u32]) -> Result<Vec<Vec<f32>>, EngineError> {
        let labels = self.labels(samples);
        let length = self.data.image_len();
        let pixels = &self.data.split(Split::Train).images;
        let images: Vec<u8> = samples.iter().flat_map(|&s| &pixels[s as usize * length..][..length]).copied().collect();
        let mut gradients = Vec::new();
        for m in 0..self.models.len() {
            // The running statistics move with every training pass.
            let before = self.models[m].state()?;
            self.pass(m, &images, Mode::Training(None), &Interrupt::default())?;
            self.models[m].backward(&labels, None, &Interrupt::default())?;
            self.models[m].set_state(&before)?;
            gradients.push(self.models[m].flat_gradients()?);
        }
        Ok(gradients)
    }

    fn logits(&mut self, split: Split, range: Range<usize>) -> Result<Vec<Vec<f64>>, EngineError> {
        let (length, data) = (self.data.image_len(), self.data);
        let mut logits = vec![Vec::new(); self.models.len()];
        for (m, logits) in logits.iter_mut().enumerate() {
            // What variational dropout removes is zero in the state, but trained on.
            let trained = match self.models[m].noise {
                Some(_) => {
                    let snapshot = self.snapshot(m)?;
                    self.models[m].set_state(&snapshot.state())?;
                    Some(narrow(&snapshot.parameters))
                }
                None => None,
            };
            let chunk = images_at_a_time(
                &self.models[m].graph,
                self.tasks[m].hyperparameters.batch_size,
                self.data.len(Split::Train),
            );
            for start in range.clone().step_by(chunk) {
                let end = range.end.min(start + chunk);
                let images = &data.split(split).images[start * length..end * length];
                self.pass(m, images, Mode::Evaluation, &Interrupt::default())?;
                logits.extend(wide(&self.models[m].logits(end - start)?));
            }
            if let Some(trained) = trained {
                self.models[m].set_state(&trained)?;
            }
        }
        Ok(logits)
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>, EngineError> {
        (0..self.models.len()).map(|m| Ok(self.snapshot(m)?)).collect()
    }

    fn prune(&mut self, masks: &[Option<Vec<bool>>]) -> Result<(), EngineError> {
        for (model, mask) in self.models.iter_mut().zip(masks) {
            if let Some(mask) = mask {
                model.prune(mask)?;
            }
        }
        Ok(())
    }
}
