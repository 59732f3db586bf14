//! Spread of predictions and of representations: how models compare on the test images.

use rayon::prelude::*;
use serde::Serialize;
use zoo_engine::{DeviceName, Engine, EngineError, Task};
use zoo_model::stage::Stage;
use zoo_model::{Dataset, Split};
use zoo_train::registry;

use super::distances::{dot, pairs};
use super::{is_chosen, Distribution, LastStates};
use crate::evaluation;
use crate::scores::{agreement, kappa};
use crate::AnalyzeError;

/// Maximum number of models whose predictions and activations are compared.
const MAX_EVALUATED_MODELS: usize = 48;
/// Test samples that activations are compared on.
const CKA_SAMPLES: usize = 256;

/// Pairs of models compared by their outputs and activations for the test images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Behaviour {
    /// Models compared.
    pub models: usize,
    /// Test samples classified.
    pub samples: usize,
    /// Fraction of samples that a pair classifies alike.
    pub agreement: Distribution,
    /// The same as Cohen's kappa.
    pub kappa: Option<Distribution>,
    /// Test samples whose activations are compared.
    pub cka_samples: usize,
    /// Linear centred kernel alignment of a pair's activations, layer by layer (Kornblith et al.,
    /// 2019, equation 4 of the biased estimator).
    pub cka: Vec<Option<Distribution>>,
}

/// Compares models on the test images; `None` if fewer than two can be.
pub(super) fn behaviour(last: &LastStates, data: &Dataset, stage: &Stage) -> Result<Option<Behaviour>, AnalyzeError> {
    let models = last.states.len();
    let chosen = (0..models).filter(|&i| is_chosen(i, models, MAX_EVALUATED_MODELS));
    let tasks: Vec<Task> = chosen.filter_map(|i| evaluation::task(&last.params[i], &last.states[i], data)).collect();
    if tasks.is_empty() || data.len(Split::Test) == 0 {
        return Ok(None);
    }
    let (agreement, kappa) = compare_predictions(&tasks, data, stage)?;
    let cka_samples = data.len(Split::Test).min(CKA_SAMPLES);
    let cka = compare_activations(&tasks, data, cka_samples, stage)?;
    let (models, samples) = (tasks.len(), data.len(Split::Test));
    Ok(agreement.map(|agreement| Behaviour { models, samples, agreement, kappa, cka_samples, cka }))
}

/// Agreement and Cohen's kappa of all pairs.
fn compare_predictions(
    tasks: &[Task],
    data: &Dataset,
    stage: &Stage,
) -> Result<(Option<Distribution>, Option<Distribution>), AnalyzeError> {
    let progress = stage.progress("comparing predictions", tasks.len() as u64);
    let evaluations = evaluation::evaluate(tasks, data, Split::Test, &progress, stage)?;
    let predictions: Vec<Vec<u16>> = evaluations.into_iter().map(|e| e.predictions).collect();
    let classes = data.classes();
    let compare = |&(i, j): &(usize, usize)| {
        (agreement(&predictions[i], &predictions[j]), kappa(&predictions[i], &predictions[j], classes))
    };
    let (agreements, kappas): (Vec<f64>, Vec<f64>) = pairs(tasks.len()).par_iter().map(compare).unzip();
    Ok((Distribution::of(agreements), Distribution::of(kappas)))
}

/// Centred kernel alignment of all pairs, layer by layer.
fn compare_activations(
    tasks: &[Task],
    data: &Dataset,
    samples: usize,
    stage: &Stage,
) -> Result<Vec<Option<Distribution>>, AnalyzeError> {
    let Some(engine) = engine_with_layer_outputs(&tasks[0], data)? else {
        stage.say("no engine of this program tells activations: CKA is left out");
        return Ok(Vec::new());
    };
    let progress = stage.progress("comparing activations", tasks.len() as u64);
    let kernels: Vec<Vec<Vec<f32>>> = tasks
        .par_iter()
        .map(|task| {
            stage.interrupt.check()?;
            let outputs = engine.layer_outputs(task, data, Split::Test, 0..samples).map_err(EngineError::from)?;
            progress.advance(1);
            Ok(outputs.iter().flatten().map(|values| centred_kernel(values, samples)).collect())
        })
        .collect::<Result<_, AnalyzeError>>()?;
    let pairs = pairs(tasks.len());
    let cka = (0..kernels[0].len()).map(|layer| {
        let norm: Vec<f64> = kernels.par_iter().map(|k| dot(&k[layer], &k[layer]).sqrt()).collect();
        let alike = |&(i, j): &(usize, usize)| dot(&kernels[i][layer], &kernels[j][layer]) / (norm[i] * norm[j]);
        Distribution::of(pairs.par_iter().map(alike).collect::<Vec<f64>>())
    });
    Ok(cka.collect())
}

/// The fastest engine that gives the outputs of the layers of such a task; `None` if none does.
fn engine_with_layer_outputs(task: &Task, data: &Dataset) -> Result<Option<Box<dyn Engine>>, AnalyzeError> {
    for factory in registry::factories().iter().filter(|factory| factory.trains(&task.spec())) {
        let engine = factory.build(DeviceName::Cpu).map_err(EngineError::from)?.engine;
        if engine.layer_outputs(task, data, Split::Test, 0..1).map_err(EngineError::from)?.is_some() {
            return Ok(Some(engine));
        }
    }
    Ok(None)
}

/// H X X' H of values (samples, width), scaled to a largest entry of 1; H subtracts the means.
fn centred_kernel(values: &[f64], samples: usize) -> Vec<f32> {
    let width = values.len() / samples;
    let mut centred = values.to_vec();
    for i in 0..width {
        let mean = values.iter().skip(i).step_by(width).sum::<f64>() / samples as f64;
        centred.iter_mut().skip(i).step_by(width).for_each(|v| *v -= mean);
    }
    let x = faer::MatRef::from_row_major_slice(&centred, samples, width);
    let mut kernel = faer::Mat::<f64>::zeros(samples, samples);
    faer::linalg::matmul::matmul(&mut kernel, faer::Accum::Replace, x, x.transpose(), 1.0, faer::Par::Seq);
    let largest = kernel.col_iter().flat_map(|c| c.iter()).fold(0.0f64, |a, b| a.max(b.abs()));
    let scale = if largest > 0.0 { 1.0 / largest } else { 0.0 };
    kernel.col_iter().flat_map(|c| c.iter()).map(|v| (v * scale) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoo_model::random::{Purpose, Stream};

    fn cka(a: &[f32], b: &[f32]) -> f64 {
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    }

    #[test]
    fn cka_is_blind_to_rotation_scale_and_offset_and_sees_the_rest() {
        let (samples, width) = (40, 2);
        let mut noise = Stream::new(3, Purpose::Sample, 0, 0);
        let x: Vec<f64> = (0..samples * width).map(|_| noise.normal_pair()[0]).collect();
        let turned: Vec<f64> = x
            .chunks(2)
            .flat_map(|p| [5.0 + 3.0 * (0.6 * p[0] - 0.8 * p[1]), 3.0 * (0.8 * p[0] + 0.6 * p[1])])
            .collect();
        let other: Vec<f64> = (0..samples * width).map(|_| noise.normal_pair()[0]).collect();
        let [x, turned, other] = [x, turned, other].map(|values| centred_kernel(&values, samples));
        assert!((cka(&x, &turned) - 1.0).abs() < 1e-5);
        assert!(cka(&x, &other) < 0.5);
    }
}
