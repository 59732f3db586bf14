//! Models that are trained one after the other.

use std::ops::Range;

use dfdx::prelude::*;
use zoo_engine::metrics::Tally;
use zoo_engine::{Cohort, EngineError, NoiseSnapshot, Snapshot, Task};
use zoo_model::dataset::normalize_image;
use zoo_model::stage::Interrupt;
use zoo_model::{Dataset, Split};

use crate::backend::{Backend, Real};
use crate::model::{Derivatives, Mode, Model, Precision};
use crate::random::DropoutKey;

pub struct Models<'d, D: Backend> {
    pub models: Vec<Model<D>>,
    pub tasks: Vec<Task>,
    pub data: &'d Dataset,
    pub normalization: Vec<[f64; 256]>,
}

impl<'d, D: Backend> Models<'d, D> {
    pub fn new(device: &D, tasks: &[Task], data: &'d Dataset, from: Option<&[Snapshot]>) -> Self {
        let samples = data.len(Split::Train);
        let model = |(i, task)| Model::new(device, task, from.map(|f| &f[i]), samples);
        Self {
            models: tasks.iter().enumerate().map(model).collect(),
            tasks: tasks.to_vec(),
            data,
            normalization: data.normalization(),
        }
    }

    /// Normalised images of some samples as (batch * positions, channels), row-major; `change` may
    /// change an image of (C, H, W) before.
    pub fn images(
        &self,
        split: Split,
        samples: impl ExactSizeIterator<Item = usize>,
        change: impl Fn(&mut [u8], usize),
    ) -> Vec<Real> {
        let length = self.data.image_len();
        let pixels = &self.data.split(split).images;
        let mut out = vec![0.0; samples.len() * length];
        let mut source = vec![0; length];
        for (sample, image) in samples.zip(out.chunks_exact_mut(length)) {
            source.copy_from_slice(&pixels[sample * length..][..length]);
            change(&mut source, sample);
            normalize_image(&source, &self.normalization, image);
        }
        out
    }

    fn labels(&self, samples: &[u32]) -> Vec<u16> {
        let labels = &self.data.split(Split::Train).labels;
        samples.iter().map(|&s| labels[s as usize]).collect()
    }
}

impl<D: Backend> Cohort for Models<'_, D> {
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
        let mut tallies = Vec::new();
        for (m, order) in orders.iter().enumerate() {
            let task = self.tasks[m].clone();
            let h = &task.hyperparameters;
            let mut tally = Tally::default();
            for (step, batch) in (first_step..).zip(order.chunks(h.batch_size)) {
                interrupt.check()?;
                let [_, height, width] = self.data.shape;
                let images = self.images(Split::Train, batch.iter().map(|&s| s as usize), |image, sample| {
                    h.augmentation.apply(image, [height, width], h.seed, epoch, sample as u32);
                });
                let labels = self.labels(batch);
                let dropout = Some(DropoutKey { seed: h.seed, epoch, step });
                let model = &mut self.models[m];
                let Derivatives { logits, mut gradient, by_sigma2, statistics } =
                    model.gradient(&images, &labels, dropout);
                tally.add(&logits, &labels);
                let trained = &mut model.parameters[..gradient.len()];
                if let (Some(noise), Some(by_sigma2)) = (&mut model.noise, by_sigma2) {
                    noise.step(trained, &mut gradient, &by_sigma2, task.kl_weight(epoch));
                }
                model.optimizer.step(trained, &gradient, model.mask.as_deref());
                model.observe(&statistics);
                model.load_tensors(Precision::Full);
            }
            tallies.push(tally);
        }
        Ok(tallies)
    }

    fn gradients(&mut self, samples: &[u32]) -> Result<Vec<Vec<f32>>, EngineError> {
        let images = self.images(Split::Train, samples.iter().map(|&s| s as usize), |_, _| {});
        let labels = self.labels(samples);
        let gradient = |m: &Model<D>| m.gradient(&images, &labels, None).gradient.iter().map(|&g| g as f32).collect();
        Ok(self.models.iter().map(gradient).collect())
    }

    fn logits(&mut self, split: Split, range: Range<usize>) -> Result<Vec<Vec<f64>>, EngineError> {
        // Patches of this many images stay within the caches.
        const BATCH: usize = 50;
        let mut logits = vec![Vec::new(); self.models.len()];
        self.models.iter_mut().for_each(|m| m.load_tensors(Precision::State));
        for start in range.clone().step_by(BATCH) {
            let samples = start..range.end.min(start + BATCH);
            let images = self.images(split, samples.clone(), |_, _| {});
            for (model, logits) in self.models.iter().zip(&mut logits) {
                logits.extend(model.forward::<NoneTape>(&images, samples.len(), Mode::Evaluation).0.as_vec());
            }
        }
        self.models.iter_mut().for_each(|m| m.load_tensors(Precision::Full));
        Ok(logits)
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>, EngineError> {
        let snapshot = |m: &Model<D>| Snapshot {
            step: m.optimizer.step,
            parameters: m.parameters.clone(),
            moments: m.optimizer.moments.clone(),
            noise: m.noise.as_ref().map(|noise| NoiseSnapshot {
                log_sigma2: noise.log_sigma2.clone(),
                moments: noise.optimizer.moments.clone(),
            }),
        };
        Ok(self.models.iter().map(snapshot).collect())
    }

    fn prune(&mut self, masks: &[Option<Vec<bool>>]) -> Result<(), EngineError> {
        for (model, mask) in self.models.iter_mut().zip(masks) {
            let Some(mask) = mask else { continue };
            for (parameter, _) in model.parameters.iter_mut().zip(mask).filter(|(_, &kept)| !kept) {
                *parameter = 0.0;
            }
            model.mask = Some(mask.clone());
            model.load_tensors(Precision::Full);
        }
        Ok(())
    }
}
