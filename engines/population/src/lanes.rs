//! Models side by side in the lanes of vectors: their state, a training step, an evaluation.

#![allow(unsafe_code)]

mod noise;

use std::ops::Range;

use zoo_model::dataset::normalize_image;
use zoo_model::{Dataset, Hyperparameters, Split};

use super::dropout::{Draw, Drop, Dropout};
use super::kernels::{
    Activate, Adam, ApplyMask, Below, Block, CrossEntropyGradient, DenseBackward, DenseForward, FromRows,
    ParameterGradients, PooledBackward, PooledForward, PooledUnits, Scale, Sgd,
};
use super::layers::Layer;
use super::rows::Rows;
use noise::{LayOut, Noise};
use zoo_engine::optimizer::{adam_rates, BETA1};
use zoo_engine::{Moments, NoiseSnapshot, Snapshot, Task};
use zoo_engine_simd::{Simd, ROW};

/// Where a layer's parameters lie in the lanes' parameter vector: block by block the weights as
/// (tap, output of the block), then the biases.
struct Placement {
    blocks: Vec<Block>,
    weight: usize,
    bias: usize,
}

impl Placement {
    fn weight_of(&self, layer: &Layer, block: Block) -> Range<usize> {
        let start = self.weight + block.first * layer.taps();
        start..start + block.size * layer.taps()
    }

    fn bias_of(&self, block: Block) -> Range<usize> {
        self.bias + block.first..self.bias + block.first + block.size
    }

    fn bias_of_all(&self, layer: &Layer) -> Range<usize> {
        self.bias..self.bias + layer.outputs
    }

    /// Collects a pooled layer's gradients from rows into a vector laid out as the parameters.
    fn gather<S: Simd>(&self, layer: &Layer, rows: &PooledRows, gradients: &mut [S::F]) {
        let gradients = S::values_mut(gradients);
        let (tap_row, row_segments) = (layer.tap_row(), layer.tap_row().div_ceil(ROW));
        let mut gather = |from: &Rows, at: usize, to: usize| {
            for (lane, value) in gradients[to * S::LANES..][..S::LANES].iter_mut().enumerate() {
                *value = from.lane(lane)[at];
            }
        };
        for &block in &self.blocks {
            let start = self.weight_of(layer, block).start;
            for o in 0..block.size {
                let from = (block.first + o) * layer.segments() * ROW;
                for tap in 0..layer.taps() {
                    let at = from + tap / tap_row * row_segments * ROW + tap % tap_row;
                    gather(&rows.weight_gradient, at, start + tap * block.size + o);
                }
            }
        }
        for (o, at) in self.bias_of_all(layer).enumerate() {
            gather(&rows.bias_gradient, o, at);
        }
    }

    /// Copies a pooled layer's weights from a vector laid out as the parameters to rows.
    fn load_rows<S: Simd>(&self, layer: &Layer, parameters: &[S::F], rows: &mut PooledRows) {
        for &block in &self.blocks {
            let weights = &parameters[self.weight_of(layer, block)];
            for (at, lanes) in S::values(weights).chunks_exact(S::LANES).enumerate() {
                let (tap, o) = (at / block.size, block.first + at % block.size);
                let place = o * layer.framed_taps() + layer.framed_place(tap);
                for (lane, &value) in lanes.iter().enumerate() {
                    rows.weight.lane_mut(lane)[place] = value;
                }
            }
        }
    }
}

/// What a layer leaves behind in a forward pass, and its gradients.
struct Scratch<S: Simd> {
    /// Output (positions, outputs), after pooling, activation and dropout.
    output: Vec<S::F>,
    /// Derivative of the output by the sum before the activation.
    derivative: Vec<S::F>,
    winners: Vec<S::F>,
    /// Gradient of the sums before the activation (positions, outputs).
    gradient: Vec<S::F>,
    rows: Option<PooledRows>,
}

/// The same in rows, for a pooled layer.
struct PooledRows {
    input: Rows,
    /// Of the layer before; empty for the first.
    input_derivative: Rows,
    winners: Rows,
    gradient: Rows,
    /// (outputs, framed kernel), for the input's gradient; empty for the first layer.
    weight: Rows,
    /// (outputs, segments, ROW).
    weight_gradient: Rows,
    bias_gradient: Rows,
}

/// Up to `S::LANES` models in training.
pub struct Lanes<S: Simd> {
    s: S,
    layers: Vec<Layer>,
    placements: Vec<Placement>,
    /// Models; what the lanes to spare compute does not matter.
    models: usize,
    /// For each value of the parameter vector its place in PyTorch's flat vector.
    places: Vec<u32>,
    learning_rates: Vec<f64>,
    learning_rate: S::F,
    weight_decay: S::F,
    momentum: S::F,
    dropout: Dropout<S>,
    step: u64,
    parameters: Vec<S::F>,
    moments: Moments<Vec<S::F>>,
    gradients: Vec<S::F>,
    /// 1 where a parameter may differ from zero, else 0.
    mask: Option<Vec<S::F>>,
    /// With variational dropout.
    noise: Option<Noise<S>>,
    image: Vec<S::F>,
    scratch: Vec<Scratch<S>>,
    /// The network's input for every pixel value, by channel.
    normalization: Vec<[f32; 256]>,
}

impl<S: Simd> Lanes<S> {
    /// Models of one network and optimiser, at most one per lane, from their initial parameters or
    /// from snapshots. Lanes to spare repeat the first model.
    pub fn new(s: S, layers: Vec<Layer>, tasks: &[Task], from: Option<&[Snapshot]>, data: &Dataset) -> Self {
        assert!((1..=S::LANES).contains(&tasks.len()));
        let lane_tasks: Vec<&Task> = (0..S::LANES).map(|l| tasks.get(l).unwrap_or(&tasks[0])).collect();
        let hyperparameters: Vec<&Hyperparameters> = lane_tasks.iter().map(|t| &t.hyperparameters).collect();
        let per_lane = |f: &dyn Fn(&Hyperparameters) -> f64| {
            s.load(&hyperparameters.iter().map(|h| f(h) as f32).collect::<Vec<f32>>())
        };
        let (placements, places) = layout_parameters::<S>(&layers);
        let vector = |of: &dyn Fn(usize) -> Vec<f64>| -> Vec<S::F> {
            let lanes: Vec<Vec<f64>> = (0..S::LANES).map(|l| of(if l < tasks.len() { l } else { 0 })).collect();
            let value = |&p: &u32| s.load(&lanes.iter().map(|v| v[p as usize] as f32).collect::<Vec<f32>>());
            places.iter().map(value).collect()
        };
        let parameters = match from {
            Some(from) => vector(&|l| from[l].parameters.clone()),
            None => vector(&|l| tasks[l].initial.iter().map(|&p| p.into()).collect()),
        };
        let moments = match from {
            Some(from) => lane_moments(&from.iter().map(|f| &f.moments).collect::<Vec<_>>(), &vector),
            None => Moments::filled(tasks[0].hyperparameters.optimizer, vec![s.splat(0.0); places.len()]),
        };
        let kept = |t: &Task| t.fixed_mask().map(|m| m.iter().map(|&k| f64::from(u8::from(k))).collect());
        let all = vec![1.0; places.len()];
        let masked = tasks.iter().any(|t| t.fixed_mask().is_some());
        let mask = masked.then(|| vector(&|l| kept(&tasks[l]).unwrap_or_else(|| all.clone())));
        let scratch = (0..layers.len()).map(|i| Scratch::new(s, &layers, i)).collect();
        let noise = tasks[0].variational().map(|_| Noise::new(s, &layers, &lane_tasks, from, &vector));
        let mut lanes = Self {
            s,
            learning_rates: hyperparameters.iter().map(|h| h.learning_rate).collect(),
            learning_rate: per_lane(&|h| h.learning_rate),
            weight_decay: per_lane(&|h| h.weight_decay),
            momentum: per_lane(&|h| h.momentum),
            dropout: Dropout::new(s, &hyperparameters),
            step: from.map_or(0, |f| f[0].step),
            gradients: vec![s.splat(0.0); parameters.len()],
            models: tasks.len(),
            places,
            parameters,
            moments,
            mask,
            noise,
            image: vec![s.splat(0.0); layers[0].inputs()],
            scratch,
            normalization: data.normalization_f32(),
            placements,
            layers,
        };
        lanes.load_rows();
        if let Some(noise) = &mut lanes.noise {
            noise.load(s, &lanes.layers, &lanes.placements);
        }
        lanes
    }

    /// Models, the lanes to spare left out.
    pub fn models(&self) -> usize {
        self.models
    }

    /// One optimiser step on a mini-batch: of each model the samples `batches[model]` of the train
    /// split, all of one number. Calls `seen(model, logits, label)` for each sample as trained.
    pub fn train_batch(
        &mut self,
        data: &Dataset,
        batches: &[&[u32]],
        draw: Draw,
        mut seen: impl FnMut(usize, &[f64], u16),
    ) {
        self.accumulate(data, batches, Some(draw), &mut seen);
        self.update(draw.epoch);
    }

    /// Flat gradient of the mean cross entropy of each model's mini-batch, dropout off.
    pub fn batch_gradients(&mut self, data: &Dataset, batches: &[&[u32]]) -> Vec<Vec<f32>> {
        self.accumulate(data, batches, None, &mut |_, _, _| {});
        self.flat(&self.gradients)
    }

    /// Logits (classes) of one sample, dropout off, of each model.
    pub fn logits(&mut self, data: &Dataset, split: Split, sample: usize, mut seen: impl FnMut(usize, &[f64])) {
        let length = data.image_len();
        let pixels = &data.split(split).images[sample * length..][..length];
        // Every model sees the same image: one row, then all lanes.
        let row = self.scratch[0].rows.as_mut().expect("the first layer is pooled").input.lane_mut(0);
        normalize_image(pixels, &self.normalization, row);
        for (lanes, &value) in S::values_mut(&mut self.image).chunks_exact_mut(S::LANES).zip(&*row) {
            lanes.fill(value);
        }
        self.forward::<false>(None);
        self.read_logits(&mut |model, logits| seen(model, logits));
    }

    /// The models as they are now. NaN is the canonical one, whatever processor made it.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        let wide = |v: Vec<f32>| v.into_iter().map(|x| if x.is_nan() { f64::NAN } else { x.into() }).collect();
        let per_model = |vector: &Vec<S::F>| self.flat(vector).into_iter().map(wide).collect::<Vec<Vec<f64>>>();
        let parameters = per_model(&self.parameters);
        let moments = self.moments.map(per_model);
        let noise = self.noise.as_ref().map(|n| (per_model(n.log_sigma2()), n.moments().map(per_model)));
        let of_model = |m: usize| Snapshot {
            step: self.step,
            parameters: parameters[m].clone(),
            moments: moments.map(|of_all| of_all[m].clone()),
            noise: noise.as_ref().map(|(log_sigma2, moments)| NoiseSnapshot {
                log_sigma2: log_sigma2[m].clone(),
                moments: moments.map(|of_all| of_all[m].clone()),
            }),
        };
        (0..self.models).map(of_model).collect()
    }

    /// PyTorch's flat vectors of the models.
    fn flat(&self, vector: &[S::F]) -> Vec<Vec<f32>> {
        let mut flat = vec![vec![0.0; vector.len()]; self.models];
        for (lanes, &place) in S::values(vector).chunks_exact(S::LANES).zip(&self.places) {
            for (flat, &value) in flat.iter_mut().zip(lanes) {
                flat[place as usize] = value;
            }
        }
        flat
    }

    /// Sets the gradients to those of the mean loss of a mini-batch.
    fn accumulate(
        &mut self,
        data: &Dataset,
        batches: &[&[u32]],
        draw: Option<Draw>,
        seen: &mut dyn FnMut(usize, &[f64], u16),
    ) {
        let s = self.s;
        self.gradients.fill(s.splat(0.0));
        for rows in self.scratch.iter_mut().filter_map(|s| s.rows.as_mut()) {
            rows.weight_gradient.values_mut().fill(0.0);
            rows.bias_gradient.values_mut().fill(0.0);
        }
        if let Some(noise) = &mut self.noise {
            noise.clear_gradients(s);
        }
        let noisy_draw = draw.filter(|_| self.noise.is_some());
        let size = batches[0].len();
        let train = data.split(Split::Train);
        let spare = batches.iter().copied().chain(std::iter::repeat(batches[0]));
        let lanes: Vec<&[u32]> = spare.take(S::LANES).collect();
        for sample in 0..size {
            let samples: Vec<usize> = lanes.iter().map(|batch| batch[sample] as usize).collect();
            let labels: Vec<u16> = samples.iter().map(|&i| train.labels[i]).collect();
            self.load_images(&train.images, &samples);
            // Of a shuffled dataset the next images are nowhere near the caches.
            for batch in lanes.iter().filter(|batch| sample + 1 < batch.len()) {
                let length = data.image_len();
                s.prefetch(&train.images[batch[sample + 1] as usize * length..][..length]);
            }
            match noisy_draw {
                Some(draw) => self.noisy_forward(draw, sample),
                None => self.forward::<true>(draw.map(|d| (d, sample))),
            }
            self.read_logits(&mut |model, logits| seen(model, logits, labels[model]));
            match noisy_draw {
                Some(_) => self.noisy_backward(&labels, size),
                None => self.backward(&labels, size),
            }
        }
        self.gather_gradients();
    }

    /// One training image a lane, to rows and to lanes.
    fn load_images(&mut self, images: &[u8], samples: &[usize]) {
        let (s, length) = (self.s, self.layers[0].inputs());
        let rows = &mut self.scratch[0].rows.as_mut().expect("the first layer is pooled").input;
        for (lane, &sample) in samples.iter().enumerate() {
            normalize_image(&images[sample * length..][..length], &self.normalization, rows.lane_mut(lane));
        }
        s.vectorize(FromRows { rows: rows.values(), stride: rows.stride(), vectors: &mut self.image });
    }

    /// The forward pass of the loaded images; `draw` is their place in the random draws of dropout,
    /// `None` if it is off.
    fn forward<const TRAINING: bool>(&mut self, draw: Option<(Draw, usize)>) {
        let s = self.s;
        for (i, (layer, placement)) in self.layers.iter().zip(&self.placements).enumerate() {
            let (before, here) = self.scratch.split_at_mut(i);
            let here = &mut here[0];
            let Scratch { output, derivative, winners, .. } = &mut *here;
            let input = before.last().map_or(&self.image, |b| &b.output);
            for &block in &placement.blocks {
                let weight = &self.parameters[placement.weight_of(layer, block)];
                let bias = &self.parameters[placement.bias_of(block)];
                if layer.pooled {
                    let (output, winners) = (&mut *output, &mut *winners);
                    s.vectorize(PooledForward::<S, TRAINING> { layer, block, weight, bias, input, output, winners });
                } else {
                    s.vectorize(DenseForward { layer, block, weight, bias, input, output });
                }
            }
            if let Some(activation) = layer.activation {
                s.vectorize(Activate::<S, TRAINING> { activation, output, derivative });
            }
            if let (Some(module), Some((draw, sample))) = (layer.dropout, draw) {
                s.vectorize(Drop { dropout: &self.dropout, layer, module, draw, sample, output, derivative });
            }
            let (true, Some(rows)) = (TRAINING, &mut here.rows) else { continue };
            rows.winners.load(s, &here.winners);
            if let Some(before) = before.last() {
                rows.input.load(s, &before.output);
                rows.input_derivative.load(s, &before.derivative);
            }
        }
    }

    /// Calls `seen(model, logits)` for the last forward pass.
    fn read_logits(&self, seen: &mut dyn FnMut(usize, &[f64])) {
        let logits = &self.scratch.last().expect("there are layers").output;
        let lanes = S::values(logits);
        let mut row = vec![0.0; logits.len()];
        for model in 0..self.models {
            for (value, lanes) in row.iter_mut().zip(lanes.chunks_exact(S::LANES)) {
                *value = f64::from(lanes[model]);
            }
            seen(model, &row);
        }
    }

    /// Adds the gradients of the sample that went forward last.
    fn backward(&mut self, labels: &[u16], batch: usize) {
        let s = self.s;
        let last = self.scratch.last_mut().expect("there are layers");
        s.vectorize(CrossEntropyGradient { logits: &last.output, labels, batch, gradient: &mut last.gradient });
        s.vectorize(Scale { values: &mut last.gradient, factors: &last.derivative });
        for i in (0..self.layers.len()).rev() {
            let (layer, placement) = (&self.layers[i], &self.placements[i]);
            let (before, here) = self.scratch.split_at_mut(i);
            let (here, before) = (&mut here[0], before.last_mut());
            match (&mut here.rows, before) {
                (Some(rows), before) => {
                    let below = before.map(|b| b.rows.as_mut().expect("only pooled layers come before pooled ones"));
                    pooled_backward(s, layer, rows, below.map(|rows| &mut rows.gradient));
                }
                (None, Some(before)) => {
                    before.gradient.fill(s.splat(0.0));
                    for &block in &placement.blocks {
                        let weight = placement.weight_of(layer, block);
                        let (weights, biases) = self.gradients.split_at_mut(placement.bias);
                        s.vectorize(DenseBackward {
                            layer,
                            block,
                            weight: &self.parameters[weight.clone()],
                            input: &before.output,
                            gradient: &here.gradient,
                            weight_gradient: &mut weights[weight],
                            bias_gradient: &mut biases[block.first..block.first + block.size],
                            input_gradient: &mut before.gradient,
                        });
                    }
                    s.vectorize(Scale { values: &mut before.gradient, factors: &before.derivative });
                    if let Some(rows) = &mut before.rows {
                        rows.gradient.load(s, &before.gradient);
                    }
                }
                (None, None) => unreachable!("the first layer is pooled"),
            }
        }
    }

    /// Collects the pooled layers' gradients from rows into the gradient vector.
    fn gather_gradients(&mut self) {
        for ((layer, placement), scratch) in self.layers.iter().zip(&self.placements).zip(&self.scratch) {
            if let Some(rows) = &scratch.rows {
                placement.gather::<S>(layer, rows, &mut self.gradients);
            }
        }
        if let Some(noise) = &mut self.noise {
            noise.gather_gradients(&self.layers, &self.placements);
        }
    }

    /// One optimiser step along the gradients of a mini-batch of epoch `epoch`.
    fn update(&mut self, epoch: u32) {
        let s = self.s;
        self.step += 1;
        let rates: Vec<(f64, f64)> =
            self.learning_rates.iter().map(|&rate| adam_rates(rate, BETA1, self.step)).collect();
        let stepper = Stepper {
            step_size: s.load(&rates.iter().map(|r| r.0 as f32).collect::<Vec<f32>>()),
            correction: rates[0].1 as f32,
            learning_rate: self.learning_rate,
            momentum: self.momentum,
        };
        if let Some(noise) = &mut self.noise {
            noise.add_divergence(s, epoch, &self.parameters, &mut self.gradients);
            noise.step(s, &stepper, &self.layers, &self.placements);
        }
        stepper.step(s, &mut self.parameters, &self.gradients, &mut self.moments, self.weight_decay);
        self.apply_mask();
        self.load_rows();
    }

    fn apply_mask(&mut self) {
        if let Some(mask) = &self.mask {
            self.s.vectorize(ApplyMask { values: &mut self.parameters, mask });
        }
    }

    /// Gives each model its mask, if there is one for it.
    pub fn prune(&mut self, masks: &[Option<Vec<bool>>]) {
        let one = self.s.splat(1.0);
        let mask = self.mask.get_or_insert_with(|| vec![one; self.places.len()]);
        for (lanes, &place) in S::values_mut(mask).chunks_exact_mut(S::LANES).zip(&self.places) {
            for (value, mask) in lanes.iter_mut().zip(masks) {
                if let Some(mask) = mask {
                    *value = f32::from(u8::from(mask[place as usize]));
                }
            }
        }
        self.apply_mask();
        self.load_rows();
    }

    /// Copies the weights that backward passes need in rows.
    fn load_rows(&mut self) {
        let layers = self.layers.iter().zip(&self.placements).zip(&mut self.scratch);
        for ((layer, placement), scratch) in layers.skip(1) {
            if let Some(rows) = &mut scratch.rows {
                placement.load_rows::<S>(layer, &self.parameters, rows);
            }
        }
    }
}

/// An optimiser's step, the same for all parameters of a lane.
struct Stepper<S: Simd> {
    /// Of Adam, see [`adam_rates`].
    step_size: S::F,
    correction: f32,
    learning_rate: S::F,
    momentum: S::F,
}

impl<S: Simd> Stepper<S> {
    fn step(
        &self,
        s: S,
        parameters: &mut [S::F],
        gradients: &[S::F],
        moments: &mut Moments<Vec<S::F>>,
        weight_decay: S::F,
    ) {
        let Self { step_size, correction, learning_rate, momentum } = *self;
        match moments {
            Moments::Adam { mean, mean_square: square } => {
                s.vectorize(Adam { parameters, gradients, mean, square, weight_decay, step_size, correction });
            }
            Moments::Sgd { momentum: buffer } => {
                s.vectorize(Sgd { parameters, gradients, buffer, weight_decay, momentum, learning_rate });
            }
        }
    }
}

/// Moments of models side by side.
fn lane_moments<F>(of_models: &[&Moments], lay_out: &LayOut<F>) -> Moments<Vec<F>> {
    let of_model = |m: usize, name| of_models[m].get(name).expect("models of a cohort have one optimiser").clone();
    Moments::new(of_models[0].optimizer(), |name| lay_out(&|m| of_model(m, name)))
}

/// The backward pass of a pooled layer, lane by lane, down to the gradient of the layer before if
/// there is one.
fn pooled_backward<S: Simd>(s: S, layer: &Layer, rows: &mut PooledRows, mut below: Option<&mut Rows>) {
    for lane in 0..S::LANES {
        let below = below.as_mut().map(|gradient| Below {
            weight: rows.weight.lane(lane),
            derivative: rows.input_derivative.lane(lane),
            gradient: gradient.lane_mut(lane),
        });
        let units = PooledUnits { gradient: rows.gradient.lane(lane), winners: rows.winners.lane(lane) };
        let gradients =
            ParameterGradients { weight: rows.weight_gradient.lane_mut(lane), bias: rows.bias_gradient.lane_mut(lane) };
        // SAFETY: the winners are those of this layer's last forward pass.
        s.vectorize(unsafe { PooledBackward::new(layer, rows.input.lane(lane), units, gradients, below) });
    }
}

impl<S: Simd> Scratch<S> {
    fn new(s: S, layers: &[Layer], index: usize) -> Self {
        let layer = &layers[index];
        let units = |wanted: bool| vec![s.splat(0.0); if wanted { layer.units() } else { 0 }];
        Self {
            output: units(true),
            // Stays 1 where no activation follows.
            derivative: vec![s.splat(1.0); layer.units()],
            winners: units(layer.pooled),
            gradient: units(true),
            rows: PooledRows::new::<S>(layer, index == 0),
        }
    }
}

impl PooledRows {
    /// Of a layer, `None` if it is not pooled.
    fn new<S: Simd>(layer: &Layer, first: bool) -> Option<Self> {
        let rows = |length: usize| Rows::new(S::LANES, length);
        layer.pooled.then(|| Self {
            input: rows(layer.inputs()),
            input_derivative: rows(if first { 0 } else { layer.inputs() }),
            winners: rows(layer.units()),
            gradient: rows(layer.units()),
            weight: rows(if first { 0 } else { layer.outputs * layer.framed_taps() }),
            weight_gradient: rows(layer.outputs * layer.segments() * ROW),
            bias_gradient: rows(layer.outputs),
        })
    }
}

/// Lays out the parameters: placements, and PyTorch's place for each value.
fn layout_parameters<S: Simd>(layers: &[Layer]) -> (Vec<Placement>, Vec<u32>) {
    let mut places = Vec::new();
    let placements = layers.iter().map(|layer| {
        let max_size = if layer.pooled { S::BLOCK } else { Block::MAX_SIZE };
        let blocks: Vec<Block> = Block::split(layer.outputs, max_size).collect();
        let weight = places.len();
        for block in &blocks {
            for tap in 0..layer.taps() {
                places.extend((0..block.size).map(|o| layer.weight_place(block.first + o, tap) as u32));
            }
        }
        let bias = places.len();
        places.extend(layer.bias.clone().map(|p| p as u32));
        Placement { blocks, weight, bias }
    });
    (placements.collect(), places)
}
