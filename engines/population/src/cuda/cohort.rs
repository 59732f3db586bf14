//! A cohort on a device: its memory, and what is launched when.
//!
//! There are two copies of the models. An epoch begins with a copy of the finished one, in which it
//! works, launch by launch; the finished one is still there to be copied out, and for an
//! interruption to fall back on.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use zoo_engine_cuda::{Buffer, Device, Images, Lease, Program, Queue};
use zoo_model::dataset::PerSplit;
use zoo_model::random::dropout_threshold;
use zoo_model::stage::Interrupt;
use zoo_model::{Dataset, Optimizer, Split};

use zoo_engine::DeviceError;

use super::memory::EVALUATION_CHUNK;
use super::source::ModelKernels;
use zoo_engine::metrics::Tally;
use zoo_engine::optimizer::{adam_corrections, BETA1};
use zoo_engine::{Cohort, EngineError, Evaluation, Mask, Moments, Snapshot, Task};

/// Blocks that keep a large GPU busy.
const BUSY: usize = 2048;

/// Share of the seconds that a launch may take which one is aimed at.
const AIM: f64 = 0.5;

/// The models' vectors, each (models, PARAMETERS) in the kernels' order.
struct State {
    parameters: Buffer,
    /// (models, moments, PARAMETERS).
    moments: Buffer,
}

/// What the kernels know of each model besides its state; one value per model.
struct Constants {
    seeds: Buffer,
    learning_rates: Buffer,
    weight_decays: Buffer,
    momenta: Buffer,
    thresholds: Buffer,
    kept: Buffer,
}

impl Constants {
    /// Uploads those of the tasks.
    fn new(queue: &dyn Queue, tasks: &[Task]) -> Result<Self, DeviceError> {
        let filled = |bytes: Vec<u8>| -> Result<Buffer, DeviceError> {
            let mut buffer = queue.allocate(bytes.len())?;
            queue.upload(&bytes, &mut buffer)?;
            Ok(buffer)
        };
        let single = |f: &dyn Fn(&Task) -> f64| bytes_of(tasks, |t| (f(t) as f32).to_le_bytes());
        Ok(Self {
            seeds: filled(bytes_of(tasks, |t| t.hyperparameters.seed.to_le_bytes()))?,
            learning_rates: filled(bytes_of(tasks, |t| t.hyperparameters.learning_rate.to_le_bytes()))?,
            weight_decays: filled(single(&|t| t.hyperparameters.weight_decay))?,
            momenta: filled(single(&|t| t.hyperparameters.momentum))?,
            thresholds: filled(bytes_of(tasks, |t| dropout_threshold(t.hyperparameters.dropout).to_le_bytes()))?,
            kept: filled(single(&|t| 1.0 / (1.0 - t.hyperparameters.dropout)))?,
        })
    }
}

/// An epoch under way.
struct Epoch {
    number: u32,
    /// The step that it begins with.
    first_step: usize,
    /// Samples of each model's order, those before the first step included.
    samples: usize,
    /// The step after the last one that has been launched.
    launched: usize,
}

/// Models in training on a device.
pub struct DeviceCohort<'d> {
    tasks: Vec<Task>,
    data: &'d Dataset,
    kernels: Arc<ModelKernels>,
    program: Arc<dyn Program>,
    queue: Box<dyn Queue>,
    /// For what is copied out while an epoch is under way.
    copies: Box<dyn Queue>,
    images: PerSplit<Arc<Images>>,
    constants: Constants,
    finished: State,
    working: State,
    masks: Option<Buffer>,
    losses: Buffer,
    hits: Buffer,
    orders: Buffer,
    bias_corrections: Buffer,
    corrections: Buffer,
    logits: Buffer,
    predictions: Buffer,
    /// Optimiser steps of the finished state.
    step: u64,
    epoch: Option<Epoch>,
    /// Seconds that a step took last; 0: not known.
    step_seconds: f64,
    launch_seconds: f64,
    /// Room on the device; given back after all the rest.
    _lease: Lease,
}

/// Words of an argument, two 32-bit ones in each.
fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn bytes_of<const N: usize, T>(values: impl IntoIterator<Item = T>, to_bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.into_iter().flat_map(to_bytes).collect()
}

impl<'d> DeviceCohort<'d> {
    /// Models of one kind, from their initial parameters or from snapshots.
    pub fn new(
        device: &Device,
        kernels: Arc<ModelKernels>,
        program: Arc<dyn Program>,
        lease: Lease,
        tasks: &[Task],
        data: &'d Dataset,
        from: Option<&[Snapshot]>,
    ) -> Result<Self, DeviceError> {
        let queue = device.driver.queue()?;
        let models = tasks.len();
        let vector = models * kernels.places.len() * size_of::<f32>();
        let state = || -> Result<State, DeviceError> {
            Ok(State { parameters: queue.allocate(vector)?, moments: queue.allocate(vector * kernels.moments)? })
        };
        let mut cohort = Self {
            images: device.images(queue.as_ref(), data)?,
            finished: state()?,
            working: state()?,
            masks: None,
            losses: queue.allocate(models * size_of::<f64>())?,
            hits: queue.allocate(models * size_of::<u32>())?,
            orders: queue.allocate(models * data.len(Split::Train).max(1) * size_of::<u32>())?,
            bias_corrections: queue.allocate(0)?,
            corrections: queue.allocate(0)?,
            logits: queue.allocate(models * EVALUATION_CHUNK * data.classes() * size_of::<f32>())?,
            predictions: queue.allocate(models * EVALUATION_CHUNK * size_of::<u16>())?,
            copies: device.driver.queue()?,
            step: from.map_or(0, |f| f[0].step),
            epoch: None,
            step_seconds: 0.0,
            launch_seconds: device.driver.launch_seconds(),
            tasks: tasks.to_vec(),
            data,
            kernels,
            program,
            constants: Constants::new(queue.as_ref(), tasks)?,
            queue,
            _lease: lease,
        };
        cohort.load(from)?;
        let masks: Vec<Option<Vec<bool>>> = tasks.iter().map(|t| t.fixed_mask().map(<[bool]>::to_vec)).collect();
        if masks.iter().any(Option::is_some) {
            cohort.set_masks(&masks)?;
        }
        Ok(cohort)
    }

    /// Copies the first state to the device. Initial parameters are taken as they are, whatever the
    /// mask, as on the processor.
    fn load(&mut self, from: Option<&[Snapshot]>) -> Result<(), DeviceError> {
        let places = &self.kernels.places;
        let mut bytes = Vec::new();
        let tasks = &self.tasks;
        let parameter = |m: usize, p: usize| from.map_or(tasks[m].initial[p], |f| f[m].parameters[p] as f32);
        for m in 0..tasks.len() {
            bytes.extend(places.iter().flat_map(|&p| parameter(m, p as usize).to_le_bytes()));
        }
        self.queue.upload(&bytes, &mut self.finished.parameters)?;
        let Some(from) = from else { return Ok(()) };
        let mut moments = Vec::new();
        for (_, vector) in from.iter().flat_map(|snapshot| snapshot.moments.named()) {
            moments.extend(places.iter().flat_map(|&p| (vector[p as usize] as f32).to_le_bytes()));
        }
        self.queue.upload(&moments, &mut self.finished.moments)
    }

    fn set_masks(&mut self, masks: &[Option<Vec<bool>>]) -> Result<(), DeviceError> {
        let places = &self.kernels.places;
        let size = masks.len() * places.len();
        let mut bytes = vec![1; size];
        let mut buffer = match self.masks.take() {
            Some(buffer) => {
                self.queue.download(&buffer, &mut bytes)?;
                buffer
            }
            None => self.queue.allocate(size)?,
        };
        for (of_model, mask) in bytes.chunks_exact_mut(places.len()).zip(masks) {
            let Some(mask) = mask else { continue };
            for (kept, &place) in of_model.iter_mut().zip(places) {
                *kept = u8::from(mask[place as usize]);
            }
        }
        self.queue.upload(&bytes, &mut buffer)?;
        self.masks = Some(buffer);
        Ok(())
    }

    /// `struct models` of a state.
    fn models(&self, state: &State) -> Vec<u64> {
        let c = &self.constants;
        vec![
            state.parameters.address,
            state.moments.address,
            self.masks.as_ref().map_or(0, |m| m.address),
            c.seeds.address,
            c.learning_rates.address,
            c.weight_decays.address,
            c.momenta.address,
            c.thresholds.address,
            c.kept.address,
            self.losses.address,
            self.hits.address,
            pair(self.tasks.len() as u32, 0),
        ]
    }

    /// `struct images` of a split.
    fn split(&self, split: Split) -> [u64; 3] {
        let images = self.images.get(split);
        [images.pixels.address, images.labels.address, images.values.address]
    }

    fn launch(&self, kernel: &str, grid: [usize; 2], arguments: &[u64]) -> Result<(), DeviceError> {
        let grid = grid.map(|n| n as u32);
        // SAFETY: every caller writes the argument as the kernel declares it, with buffers of this
        // cohort and its device, which live as long as it and are as large as their comments say.
        unsafe { self.queue.launch(self.program.as_ref(), kernel, grid, arguments) }
    }

    /// Launches steps of the train split's order, in the given state.
    fn launch_train(
        &self,
        state: &State,
        gradients: u64,
        samples: usize,
        steps: Range<usize>,
        epoch: u32,
    ) -> Result<(), DeviceError> {
        let batch_size = if gradients == 0 { self.tasks[0].hyperparameters.batch_size } else { samples };
        let mut arguments = self.split(Split::Train).to_vec();
        arguments.extend(self.models(state));
        arguments.extend([
            self.orders.address,
            self.bias_corrections.address,
            self.corrections.address,
            gradients,
            pair(samples as u32, batch_size.min(samples) as u32),
            pair(steps.start as u32, steps.len() as u32),
            pair(epoch, 0),
        ]);
        self.launch("train", [self.tasks.len(), 1], &arguments)
    }

    fn steps(&self, samples: usize) -> usize {
        samples.div_ceil(self.tasks[0].hyperparameters.batch_size)
    }

    /// Uploads one order per model, all of one length.
    fn upload_orders(&mut self, orders: &[Vec<u32>]) -> Result<(), DeviceError> {
        let bytes = bytes_of(orders.iter().flatten(), |s: &u32| s.to_le_bytes());
        if bytes.len() > self.orders.bytes {
            self.orders = self.queue.allocate(bytes.len())?;
        }
        self.queue.upload(&bytes, &mut self.orders)
    }

    /// Uploads what Adam's moments are divided by in an epoch's steps, of which those before the first
    /// one are not used.
    fn upload_corrections(&mut self, first_step: usize, steps: usize) -> Result<(), DeviceError> {
        let of_step = |step: usize| adam_corrections(BETA1, self.step + 1 + step.saturating_sub(first_step) as u64);
        let (biases, corrections): (Vec<f64>, Vec<f64>) = (0..steps).map(of_step).unzip();
        let biases = bytes_of(biases, f64::to_le_bytes);
        let corrections = bytes_of(corrections, |c| (c as f32).to_le_bytes());
        if biases.len() > self.bias_corrections.bytes {
            self.bias_corrections = self.queue.allocate(biases.len())?;
            self.corrections = self.queue.allocate(corrections.len())?;
        }
        self.queue.upload(&biases, &mut self.bias_corrections)?;
        self.queue.upload(&corrections, &mut self.corrections)
    }

    /// Begins an epoch, or what is left of it from a step on, with orders that are on the device.
    fn begin(&mut self, number: u32, first_step: usize, samples: usize) -> Result<(), DeviceError> {
        let steps = self.steps(samples);
        match self.tasks[0].hyperparameters.optimizer {
            Optimizer::Adam => self.upload_corrections(first_step, steps)?,
            Optimizer::Sgd => {}
        }
        self.queue.copy(&self.finished.parameters, &mut self.working.parameters)?;
        self.queue.copy(&self.finished.moments, &mut self.working.moments)?;
        self.queue.clear(&mut self.losses)?;
        self.queue.clear(&mut self.hits)?;
        self.epoch = Some(Epoch { number, first_step, samples, launched: first_step });
        self.launch_more()
    }

    /// Launches as many steps as a launch has time for.
    fn launch_more(&mut self) -> Result<(), DeviceError> {
        let Some(Epoch { number, first_step, samples, launched }) = self.epoch else { return Ok(()) };
        let steps = self.steps(samples);
        // Before anything is known, few.
        let count = if self.step_seconds > 0.0 { self.launch_seconds * AIM / self.step_seconds } else { 2.0 };
        let end = steps.min(launched + (count as usize).max(1));
        self.launch_train(&self.working, 0, samples, launched..end, number)?;
        self.epoch = Some(Epoch { number, first_step, samples, launched: end });
        Ok(())
    }

    /// Gives up an epoch that was begun, before something else is done with what it uses.
    fn cancel_prefetch(&mut self) -> Result<(), DeviceError> {
        match self.epoch.take() {
            Some(_) => self.queue.wait(),
            None => Ok(()),
        }
    }

    /// Finishes the epoch that is under way.
    fn finish(&mut self, interrupt: &Interrupt) -> Result<Vec<Tally>, EngineError> {
        let mut before = self.epoch.as_ref().map_or(0, |e| e.first_step);
        let mut is_first = true;
        while let Some(Epoch { first_step, samples, launched, .. }) = self.epoch {
            let started = Instant::now();
            self.queue.wait()?;
            if let Err(interrupted) = interrupt.check() {
                self.epoch = None;
                return Err(interrupted.into());
            }
            // The first launch may have begun long before this wait.
            if !is_first || self.step_seconds == 0.0 {
                self.step_seconds = started.elapsed().as_secs_f64().max(1e-7) / (launched - before) as f64;
            }
            (before, is_first) = (launched, false);
            if launched < self.steps(samples) {
                self.launch_more()?;
                continue;
            }
            self.epoch = None;
            self.step += (launched - first_step) as u64;
            std::mem::swap(&mut self.finished, &mut self.working);
            return Ok(self.tallies(samples - first_step * self.tasks[0].hyperparameters.batch_size)?);
        }
        unreachable!("only an epoch that was begun is finished")
    }

    /// The sums over the given number of samples.
    fn tallies(&self, samples: usize) -> Result<Vec<Tally>, DeviceError> {
        let models = self.tasks.len();
        let (mut losses, mut hits) = (vec![0; models * size_of::<f64>()], vec![0; models * size_of::<u32>()]);
        self.queue.download(&self.losses, &mut losses)?;
        self.queue.download(&self.hits, &mut hits)?;
        let losses = losses.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("eight bytes")));
        let hits = hits.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().expect("four bytes")));
        Ok(losses.zip(hits).map(|(loss, hits)| Tally { loss, hits: hits.into(), samples: samples as u64 }).collect())
    }

    /// Leaves the logits (models, range, classes) of the finished models on the device.
    fn launch_logits(&self, split: Split, range: &Range<usize>) -> Result<(), DeviceError> {
        let models = self.tasks.len();
        let mut arguments = self.split(split).to_vec();
        arguments.extend(self.models(&self.finished));
        arguments.extend([self.logits.address, pair(range.start as u32, range.len() as u32)]);
        let blocks = BUSY.div_ceil(models).clamp(1, range.len().max(1));
        self.launch("evaluate", [models, blocks], &arguments)
    }

    /// PyTorch's flat vectors of the models: `rows` a model.
    fn flat(&self, buffer: &Buffer, rows: usize) -> Result<Vec<Vec<f64>>, DeviceError> {
        let places = &self.kernels.places;
        let mut bytes = vec![0; self.tasks.len() * rows * places.len() * size_of::<f32>()];
        self.copies.download(buffer, &mut bytes)?;
        let flat = |bytes: &[u8]| {
            let mut flat = vec![0.0; places.len()];
            for (value, &place) in bytes.chunks_exact(4).zip(places) {
                let value = f32::from_le_bytes(value.try_into().expect("four bytes"));
                // NaN is the canonical one, whatever device made it.
                flat[place as usize] = if value.is_nan() { f64::NAN } else { value.into() };
            }
            flat
        };
        Ok(bytes.chunks_exact(places.len() * size_of::<f32>()).map(flat).collect())
    }

    fn has_ramp(&self) -> bool {
        self.tasks.iter().any(|t| matches!(t.mask, Some(Mask::Ramp(_))))
    }

    fn absolute(&self, epoch: u32) -> u32 {
        self.tasks[0].epochs_before + epoch
    }

    /// Draws the orders of an epoch, as [`epoch_order`](zoo_model::random::epoch_order) does, and begins
    /// it.
    fn start_shuffled_epoch(&mut self, absolute: u32) -> Result<(), DeviceError> {
        let (models, samples) = (self.tasks.len(), self.data.len(Split::Train));
        let arguments =
            [self.constants.seeds.address, self.orders.address, pair(models as u32, samples as u32), pair(absolute, 0)];
        let blocks = models.div_ceil(self.kernels.source.threads as usize);
        self.launch("shuffle", [blocks, 1], &arguments)?;
        self.begin(absolute, 0, samples)
    }
}

impl Drop for DeviceCohort<'_> {
    fn drop(&mut self) {
        // Nothing may use the memory any more that is given back now; an error has been or will be
        // reported by whoever waits for results.
        let _ = self.queue.wait();
    }
}

impl Cohort for DeviceCohort<'_> {
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
        self.cancel_prefetch()?;
        let first_step = first_step as usize;
        // The kernel finds a step's samples by its number.
        let skipped = vec![0; first_step * self.tasks[0].hyperparameters.batch_size];
        let orders: Vec<Vec<u32>> = orders.iter().map(|order| [skipped.as_slice(), order].concat()).collect();
        self.upload_orders(&orders)?;
        self.begin(epoch, first_step, orders[0].len())?;
        self.finish(interrupt)
    }

    fn prefetch_epoch(&mut self, epoch: u32) -> Result<(), EngineError> {
        // The masks of a ramp depend on what has not been copied out yet.
        if !self.has_ramp() {
            self.cancel_prefetch()?;
            self.start_shuffled_epoch(self.absolute(epoch))?;
        }
        Ok(())
    }

    fn train_part(&mut self, epoch: u32, first_step: usize, interrupt: &Interrupt) -> Result<Vec<Tally>, EngineError> {
        let absolute = self.absolute(epoch);
        if first_step > 0 {
            let orders = self.orders_of_part(epoch, first_step);
            return self.train(absolute, first_step as u32, &orders, interrupt);
        }
        if self.epoch.as_ref().is_none_or(|e| e.number != absolute) {
            self.cancel_prefetch()?;
            self.start_shuffled_epoch(absolute)?;
        }
        self.finish(interrupt)
    }

    fn gradients(&mut self, samples: &[u32]) -> Result<Vec<Vec<f32>>, EngineError> {
        self.cancel_prefetch()?;
        self.upload_orders(&vec![samples.to_vec(); self.tasks.len()])?;
        let gradients = self.queue.allocate(self.finished.parameters.bytes)?;
        self.launch_train(&self.finished, gradients.address, samples.len(), 0..1, 0)?;
        self.queue.wait()?;
        let flat = self.flat(&gradients, 1)?;
        Ok(flat.into_iter().map(|g| g.into_iter().map(|x| x as f32).collect()).collect())
    }

    fn logits(&mut self, split: Split, range: Range<usize>) -> Result<Vec<Vec<f64>>, EngineError> {
        let mut logits = vec![Vec::new(); self.tasks.len()];
        for start in range.clone().step_by(EVALUATION_CHUNK) {
            let piece = start..range.end.min(start + EVALUATION_CHUNK);
            self.launch_logits(split, &piece)?;
            let of_model = piece.len() * self.data.classes();
            let mut bytes = vec![0; self.tasks.len() * of_model * size_of::<f32>()];
            self.queue.download(&self.logits, &mut bytes)?;
            for (logits, bytes) in logits.iter_mut().zip(bytes.chunks_exact(of_model * size_of::<f32>())) {
                let value = |b: &[u8]| f64::from(f32::from_le_bytes(b.try_into().expect("four bytes")));
                logits.extend(bytes.chunks_exact(4).map(value));
            }
        }
        Ok(logits)
    }

    fn evaluate(&mut self, split: Split, interrupt: &Interrupt) -> Result<Vec<Evaluation>, EngineError> {
        self.cancel_prefetch()?;
        let (models, total) = (self.tasks.len(), self.data.len(split));
        let mut predictions = vec![Vec::with_capacity(total); models];
        self.queue.clear(&mut self.losses)?;
        self.queue.clear(&mut self.hits)?;
        for start in (0..total).step_by(EVALUATION_CHUNK) {
            interrupt.check()?;
            let piece = start..total.min(start + EVALUATION_CHUNK);
            self.launch_logits(split, &piece)?;
            let labels = self.split(split)[1] + (piece.start * size_of::<u16>()) as u64;
            let mut arguments = self.models(&self.finished);
            arguments.extend([self.logits.address, labels, self.predictions.address, pair(piece.len() as u32, 0)]);
            self.launch("score", [models.div_ceil(self.kernels.source.threads as usize), 1], &arguments)?;
            let mut bytes = vec![0; models * piece.len() * size_of::<u16>()];
            self.queue.download(&self.predictions, &mut bytes)?;
            for (predictions, bytes) in predictions.iter_mut().zip(bytes.chunks_exact(piece.len() * 2)) {
                predictions.extend(bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])));
            }
        }
        let scores = self.tallies(total)?.into_iter().map(|tally| tally.score());
        Ok(scores.zip(predictions).map(|(score, predictions)| Evaluation { score, predictions }).collect())
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>, EngineError> {
        let parameters = self.flat(&self.finished.parameters, 1)?;
        let mut moments = self.flat(&self.finished.moments, self.kernels.moments)?.into_iter();
        let optimizer = self.tasks[0].hyperparameters.optimizer;
        let each = parameters.into_iter().map(|parameters| Snapshot {
            step: self.step,
            parameters,
            moments: Moments::new(optimizer, |_| moments.next().expect("a vector for every moment")),
            noise: None,
        });
        Ok(each.collect())
    }

    fn prune(&mut self, masks: &[Option<Vec<bool>>]) -> Result<(), EngineError> {
        self.cancel_prefetch()?;
        self.set_masks(masks)?;
        let arguments = self.models(&self.finished);
        self.launch("prune", [self.tasks.len(), 1], &arguments)?;
        Ok(self.queue.wait()?)
    }
}
