//! Variational dropout of the lanes' models: every layer computes means and variances of all its
//! sums, adds noise, then pools; the backward pass goes through both.

use super::super::dropout::{Draw, Drop};
use super::super::kernels::{Activate, CrossEntropyGradient, DenseBackward, DenseForward, Scale};
use super::super::layers::Layer;
use super::super::noise::{AddDivergence, AddNoise, AddOfSquares, Exp, OfSquares, PoolNoisy, Product};
use super::super::rows::Rows;
use super::{lane_moments, pooled_backward, Lanes, Placement, PooledRows, Stepper};
use zoo_engine::variational::{initial_log_sigma2, is_kept};
use zoo_engine::{Moments, NoiseSnapshot, Snapshot, Task};
use zoo_engine_simd::Simd;

/// Lays out one flat vector per model, which the argument gives, as the parameters.
pub(super) type LayOut<'a, F> = dyn Fn(&dyn Fn(usize) -> Vec<f64>) -> Vec<F> + 'a;

/// The noise of the lanes' weights. Vectors are laid out as the parameters.
pub struct Noise<S: Simd> {
    /// One per lane.
    tasks: Vec<Task>,
    log_sigma2: Vec<S::F>,
    moments: Moments<Vec<S::F>>,
    sigma2: Vec<S::F>,
    /// By sigma^2.
    gradients: Vec<S::F>,
    scratch: Vec<NoiseScratch<S>>,
}

/// What a layer's noise leaves behind in a forward pass, and its gradients.
struct NoiseScratch<S: Simd> {
    /// The layer without pooling.
    convolution: Layer,
    /// Means, then noisy sums (positions before pooling, outputs).
    sums: Vec<S::F>,
    /// Variances, then the sums' derivatives by them.
    variances: Vec<S::F>,
    /// Derivative of the output by the variance (positions, outputs); if not pooled, `variances` is.
    by_variance: Vec<S::F>,
    /// Squares of the input.
    squares: Vec<S::F>,
    /// Derivatives of the squares by the sums of the layer before, if this one is pooled.
    square_derivative: Vec<S::F>,
    /// Gradient of the variances, if not pooled.
    gradient: Vec<S::F>,
    /// Gradient of the squares, if not pooled.
    by_square: Vec<S::F>,
    /// If pooled: as in [`PooledRows`], of squares and variances.
    rows: Option<PooledRows>,
    by_variance_rows: Rows,
    /// Gradient of the sums of the layer before that comes through the squares.
    by_square_rows: Rows,
}

impl<S: Simd> Noise<S> {
    /// The noise before the first step, or of snapshots. `vector` lays out one flat vector per model.
    pub fn new(s: S, layers: &[Layer], tasks: &[&Task], from: Option<&[Snapshot]>, vector: &LayOut<S::F>) -> Self {
        let from: Option<Vec<&NoiseSnapshot>> =
            from.map(|f| f.iter().map(|s| s.noise.as_ref().expect("a snapshot of a model with noise")).collect());
        let initial = initial_log_sigma2(&tasks[0].network);
        let log_sigma2 = vector(&|l| from.as_ref().map_or(&initial, |from| &from[l].log_sigma2).clone());
        let zeros = vec![s.splat(0.0); log_sigma2.len()];
        let moments = match &from {
            Some(from) => lane_moments(&from.iter().map(|f| &f.moments).collect::<Vec<_>>(), vector),
            None => Moments::filled(tasks[0].hyperparameters.optimizer, zeros.clone()),
        };
        let mut noise = Self {
            tasks: tasks.iter().map(|&t| t.clone()).collect(),
            moments,
            sigma2: zeros.clone(),
            gradients: zeros,
            log_sigma2,
            scratch: (0..layers.len()).map(|i| NoiseScratch::new(s, layers, i)).collect(),
        };
        s.vectorize(Exp { x: &noise.log_sigma2, out: &mut noise.sigma2 });
        noise
    }

    /// Moments of log sigma^2.
    pub fn moments(&self) -> &Moments<Vec<S::F>> {
        &self.moments
    }

    /// Log sigma^2.
    pub fn log_sigma2(&self) -> &Vec<S::F> {
        &self.log_sigma2
    }

    /// Forgets the gradients of the last mini-batch.
    pub fn clear_gradients(&mut self, s: S) {
        self.gradients.fill(s.splat(0.0));
        for rows in self.scratch.iter_mut().filter_map(|n| n.rows.as_mut()) {
            rows.weight_gradient.values_mut().fill(0.0);
            rows.bias_gradient.values_mut().fill(0.0);
        }
    }

    /// Collects the pooled layers' gradients.
    pub fn gather_gradients(&mut self, layers: &[Layer], placements: &[Placement]) {
        for ((layer, placement), noise) in layers.iter().zip(placements).zip(&self.scratch) {
            if let Some(rows) = &noise.rows {
                placement.gather::<S>(layer, rows, &mut self.gradients);
            }
        }
    }

    /// Adds the divergence's part to the gradients, with its weight in absolute epoch `epoch`.
    pub fn add_divergence(&mut self, s: S, epoch: u32, parameters: &[S::F], gradients: &mut [S::F]) {
        let kl_weight: Vec<f32> = self.tasks.iter().map(|t| t.kl_weight(epoch) as f32).collect();
        s.vectorize(AddDivergence {
            parameters,
            log_sigma2: &self.log_sigma2,
            sigma2: &self.sigma2,
            kl_weight: s.load(&kl_weight),
            gradients,
            noise_gradients: &mut self.gradients,
        });
    }

    /// One optimiser step of log sigma^2, without weight decay.
    pub fn step(&mut self, s: S, stepper: &Stepper<S>, layers: &[Layer], placements: &[Placement]) {
        let zero = s.splat(0.0);
        stepper.step(s, &mut self.log_sigma2, &self.gradients, &mut self.moments, zero);
        self.load(s, layers, placements);
    }

    /// Sigma^2, and what backward passes need of it in rows.
    pub fn load(&mut self, s: S, layers: &[Layer], placements: &[Placement]) {
        s.vectorize(Exp { x: &self.log_sigma2, out: &mut self.sigma2 });
        let layers = layers.iter().zip(placements).zip(&mut self.scratch);
        for ((layer, placement), noise) in layers.skip(1) {
            if let Some(rows) = &mut noise.rows {
                placement.load_rows::<S>(layer, &self.sigma2, rows);
            }
        }
    }
}

impl<S: Simd> NoiseScratch<S> {
    fn new(s: S, layers: &[Layer], index: usize) -> Self {
        let layer = &layers[index];
        let convolution = Layer { pooled: false, ..layer.clone() };
        let values = |wanted: bool, length: usize| vec![s.splat(0.0); if wanted { length } else { 0 }];
        let pooled = layer.pooled;
        Self {
            sums: values(true, convolution.units()),
            variances: values(true, convolution.units()),
            by_variance: values(pooled, layer.units()),
            squares: values(true, layer.inputs()),
            square_derivative: values(pooled && index > 0, layer.inputs()),
            gradient: values(!pooled, layer.units()),
            by_square: values(!pooled, layer.inputs()),
            rows: PooledRows::new::<S>(layer, index == 0),
            by_variance_rows: Rows::new(S::LANES, if pooled { layer.units() } else { 0 }),
            by_square_rows: Rows::new(S::LANES, if pooled && index > 0 { layer.inputs() } else { 0 }),
            convolution,
        }
    }

    /// The backward pass of a pooled layer through means and variances, lane by lane, down to the
    /// gradient of the layer before if there is one.
    fn pooled_backward(&mut self, s: S, layer: &Layer, rows: &mut PooledRows, mut below: Option<&mut Rows>) {
        let own_rows = self.rows.as_mut().expect("the layer is pooled");
        for lane in 0..S::LANES {
            let (gradient, by_variance) = (rows.gradient.lane(lane), self.by_variance_rows.lane(lane));
            for ((v, g), d) in own_rows.gradient.lane_mut(lane).iter_mut().zip(gradient).zip(by_variance) {
                *v = g * d;
            }
        }
        pooled_backward(s, layer, rows, below.as_deref_mut());
        pooled_backward(s, layer, own_rows, below.is_some().then_some(&mut self.by_square_rows));
        if let Some(below) = below {
            for lane in 0..S::LANES {
                let sums = below.lane_mut(lane).iter_mut().zip(self.by_square_rows.lane(lane));
                sums.take(layer.inputs()).for_each(|(sum, by_square)| *sum += by_square);
            }
        }
    }
}

impl<S: Simd> Lanes<S> {
    /// Sets to zero what variational dropout removes, as in the states that are kept; returns the
    /// parameters in training, to be [restored](Self::restore).
    pub fn apply_variational_mask(&mut self) -> Option<Vec<S::F>> {
        let noise = self.noise.as_ref()?;
        let trained = self.parameters.clone();
        let log_sigma2 = S::values(&noise.log_sigma2);
        for (parameter, &log_sigma2) in S::values_mut(&mut self.parameters).iter_mut().zip(log_sigma2) {
            if !is_kept((*parameter).into(), log_sigma2.into()) {
                *parameter = 0.0;
            }
        }
        Some(trained)
    }

    /// Takes back the parameters in training.
    pub fn restore(&mut self, trained: Option<Vec<S::F>>) {
        if let Some(trained) = trained {
            self.parameters = trained;
        }
    }

    /// The forward pass of a training sample with noise; `images` are loaded.
    pub(super) fn noisy_forward(&mut self, draw: Draw, sample: usize) {
        let s = self.s;
        let noise = self.noise.as_mut().expect("a model with noise");
        for (i, (layer, placement)) in self.layers.iter().zip(&self.placements).enumerate() {
            let (before, here) = self.scratch.split_at_mut(i);
            let (before, here) = (before.last(), &mut here[0]);
            let own = &mut noise.scratch[i];
            let input = before.map_or(&self.image, |b| &b.output);
            s.vectorize(Product { a: input, b: input, out: &mut own.squares });
            for &block in &placement.blocks {
                let (weight, bias) = (placement.weight_of(layer, block), placement.bias_of(block));
                let layer = &own.convolution;
                let (weights, biases) = (&self.parameters[weight.clone()], &self.parameters[bias.clone()]);
                s.vectorize(DenseForward { layer, block, weight: weights, bias: biases, input, output: &mut own.sums });
                let (weights, biases) = (&noise.sigma2[weight], &noise.sigma2[bias]);
                let (input, output) = (&own.squares, &mut own.variances);
                s.vectorize(DenseForward { layer, block, weight: weights, bias: biases, input, output });
            }
            let (sums, variances) = (&mut own.sums, &mut own.variances);
            s.vectorize(AddNoise { dropout: &self.dropout, layer: i as u8, draw, sample, sums, variances });
            if layer.pooled {
                s.vectorize(PoolNoisy {
                    layer,
                    sums: &own.sums,
                    derivatives: &own.variances,
                    output: &mut here.output,
                    winners: &mut here.winners,
                    by_variance: &mut own.by_variance,
                });
            } else {
                here.output.copy_from_slice(&own.sums);
            }
            let (output, derivative) = (&mut here.output, &mut here.derivative);
            if let Some(activation) = layer.activation {
                s.vectorize(Activate::<S, true> { activation, output, derivative });
            }
            if let Some(module) = layer.dropout {
                s.vectorize(Drop { dropout: &self.dropout, layer, module, draw, sample, output, derivative });
            }
            let (Some(rows), Some(own_rows)) = (&mut here.rows, &mut own.rows) else { continue };
            rows.winners.load(s, &here.winners);
            own_rows.winners.load(s, &here.winners);
            own.by_variance_rows.load(s, &own.by_variance);
            own_rows.input.load(s, &own.squares);
            if let Some(before) = before {
                rows.input.load(s, &before.output);
                rows.input_derivative.load(s, &before.derivative);
                let out = &mut own.square_derivative;
                s.vectorize(OfSquares { x: &before.output, derivative: &before.derivative, out });
                own_rows.input_derivative.load(s, &own.square_derivative);
            }
        }
    }

    /// Adds the gradients of the sample that went forward last.
    pub(super) fn noisy_backward(&mut self, labels: &[u16], batch: usize) {
        let s = self.s;
        let noise = self.noise.as_mut().expect("a model with noise");
        let last = self.scratch.last_mut().expect("there are layers");
        s.vectorize(CrossEntropyGradient { logits: &last.output, labels, batch, gradient: &mut last.gradient });
        s.vectorize(Scale { values: &mut last.gradient, factors: &last.derivative });
        for i in (0..self.layers.len()).rev() {
            let (layer, placement) = (&self.layers[i], &self.placements[i]);
            let (before, here) = self.scratch.split_at_mut(i);
            let (here, before) = (&mut here[0], before.last_mut());
            let own = &mut noise.scratch[i];
            if let Some(rows) = &mut here.rows {
                let below = before.map(|b| &mut b.rows.as_mut().expect("only pooled layers come before").gradient);
                own.pooled_backward(s, layer, rows, below);
                continue;
            }
            let before = before.expect("the first layer is pooled");
            s.vectorize(Product { a: &here.gradient, b: &own.variances, out: &mut own.gradient });
            before.gradient.fill(s.splat(0.0));
            own.by_square.fill(s.splat(0.0));
            for &block in &placement.blocks {
                let weight = placement.weight_of(layer, block);
                let bias = block.first..block.first + block.size;
                let (weights, biases) = self.gradients.split_at_mut(placement.bias);
                s.vectorize(DenseBackward {
                    layer,
                    block,
                    weight: &self.parameters[weight.clone()],
                    input: &before.output,
                    gradient: &here.gradient,
                    weight_gradient: &mut weights[weight.clone()],
                    bias_gradient: &mut biases[bias.clone()],
                    input_gradient: &mut before.gradient,
                });
                let (weights, biases) = noise.gradients.split_at_mut(placement.bias);
                s.vectorize(DenseBackward {
                    layer,
                    block,
                    weight: &noise.sigma2[weight.clone()],
                    input: &own.squares,
                    gradient: &own.gradient,
                    weight_gradient: &mut weights[weight],
                    bias_gradient: &mut biases[bias],
                    input_gradient: &mut own.by_square,
                });
            }
            s.vectorize(AddOfSquares { gradient: &mut before.gradient, x: &before.output, by_square: &own.by_square });
            s.vectorize(Scale { values: &mut before.gradient, factors: &before.derivative });
            if let Some(rows) = &mut before.rows {
                rows.gradient.load(s, &before.gradient);
            }
        }
    }
}
