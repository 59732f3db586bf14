//! The gradient of the loss, image by image in scalars: there are few logits.

use rayon::prelude::*;
use zoo_engine_simd::functions::exp;
use zoo_engine_simd::Portable;

use crate::geometry::padded;

/// See [`Kernels::cross_entropy_gradient`](crate::kernels::Kernels::cross_entropy_gradient).
pub fn cross_entropy_gradient(classes: usize, logits: &[f32], labels: &[u16], out: &mut [f32]) {
    let (row, images) = (padded(classes), labels.len() as f32);
    let rows = out.par_chunks_mut(row).zip(logits.par_chunks(row)).zip(labels);
    rows.with_min_len(64).for_each(|((out, logits), &label)| {
        let (out, logits) = (&mut out[..classes], &logits[..classes]);
        let exceeds = |a: f32, b: f32| a > b || (a.is_nan() && !b.is_nan());
        let largest = logits[1..].iter().fold(logits[0], |m, &l| if exceeds(l, m) { l } else { m });
        let mut sum = 0.0;
        for (out, logit) in out.iter_mut().zip(logits) {
            [*out] = exp(Portable::<1>, [logit - largest]);
            sum += *out;
        }
        for (class, out) in out.iter_mut().enumerate() {
            let one_hot = if class == usize::from(label) { 1.0 } else { 0.0 };
            *out = (*out / sum - one_hot) / images;
        }
    });
}
