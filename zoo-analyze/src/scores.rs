//! How good predictions are.

/// Coefficient of determination, 1 - SSE / SST, as scikit-learn's `r2_score`; NaN of a truth that
/// does not vary.
pub fn r2(truth: &[f64], predicted: &[f64]) -> f64 {
    let mean = truth.iter().sum::<f64>() / truth.len() as f64;
    let total: f64 = truth.iter().map(|y| (y - mean).powi(2)).sum();
    let error: f64 = truth.iter().zip(predicted).map(|(y, p)| (y - p).powi(2)).sum();
    if total > 0.0 {
        1.0 - error / total
    } else {
        f64::NAN
    }
}

/// Share of equal entries; NaN of none.
pub fn agreement<T: PartialEq>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64
}

/// Cohen's kappa of two raters: agreement beyond that of their class frequencies; NaN where these
/// leave no room.
pub fn kappa(a: &[u16], b: &[u16], classes: usize) -> f64 {
    let n = a.len() as f64;
    let mut counts = vec![[0.0f64; 2]; classes];
    for (&a, &b) in a.iter().zip(b) {
        counts[usize::from(a)][0] += 1.0;
        counts[usize::from(b)][1] += 1.0;
    }
    let chance: f64 = counts.iter().map(|[a, b]| a * b / (n * n)).sum();
    if chance < 1.0 {
        (agreement(a, b) - chance) / (1.0 - chance)
    } else {
        f64::NAN
    }
}

/// Kendall's tau-b, which allows for ties; NaN if one side does not vary. Knight's algorithm (1966):
/// O(n log n).
pub fn kendall_tau(a: &[f64], b: &[f64]) -> f64 {
    let mut order: Vec<usize> = (0..a.len()).collect();
    order.sort_unstable_by(|&i, &j| a[i].total_cmp(&a[j]).then(b[i].total_cmp(&b[j])));
    let pairs = |n: usize| (n * n.saturating_sub(1) / 2) as f64;
    let all = pairs(a.len());
    let ties = |equal: &dyn Fn(usize, usize) -> bool, order: &[usize]| -> f64 {
        order.chunk_by(|&i, &j| equal(i, j)).map(|run| pairs(run.len())).sum()
    };
    let ties_a = ties(&|i, j| a[i] == a[j], &order);
    let ties_both = ties(&|i, j| a[i] == a[j] && b[i] == b[j], &order);
    let mut values: Vec<f64> = order.iter().map(|&i| b[i]).collect();
    let discordant = inversions(&mut values) as f64;
    // The merge sort has left `values` ascending.
    let ties_b: f64 = values.chunk_by(|x, y| x == y).map(|run| pairs(run.len())).sum();
    let concordant = all - ties_a - ties_b + ties_both - discordant;
    (concordant - discordant) / ((all - ties_a) * (all - ties_b)).sqrt()
}

/// Sorts, and counts the pairs that were in the wrong order.
fn inversions(values: &mut [f64]) -> u64 {
    if values.len() < 2 {
        return 0;
    }
    let (left, right) = values.split_at_mut(values.len() / 2);
    let mut count = inversions(left) + inversions(right);
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut i, mut j) = (0, 0);
    while i < left.len() && j < right.len() {
        if right[j] < left[i] {
            count += (left.len() - i) as u64;
            merged.push(right[j]);
            j += 1;
        } else {
            merged.push(left[i]);
            i += 1;
        }
    }
    merged.extend_from_slice(&left[i..]);
    merged.extend_from_slice(&right[j..]);
    values.copy_from_slice(&merged);
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn scores_are_those_of_scikit_learn_and_scipy() {
        assert!((r2(&[3.0, -0.5, 2.0, 7.0], &[2.5, 0.0, 2.0, 8.0]) - 0.948_608_137).abs() < 1e-8);
        assert!(r2(&[1.0, 1.0], &[1.0, 1.0]).is_nan());
        let tau = kendall_tau(&[12.0, 2.0, 1.0, 12.0, 2.0], &[1.0, 4.0, 7.0, 1.0, 0.0]);
        assert!((tau + 0.471_404_520_791_031_7).abs() < 1e-12);
        // cohen_kappa_score([0, 1, 2, 2, 1], [0, 2, 2, 2, 1])
        assert!((kappa(&[0, 1, 2, 2, 1], &[0, 2, 2, 2, 1], 3) - 0.687_5).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn kendall_tau_counts_pairs(rows in prop::collection::vec((0u8..6, 0u8..6), 2..40)) {
            let (a, b): (Vec<f64>, Vec<f64>) = rows.iter().map(|&(a, b)| (f64::from(a), f64::from(b))).unzip();
            let (mut sum, mut free_a, mut free_b) = (0.0, 0.0f64, 0.0f64);
            for i in 0..a.len() {
                for j in 0..i {
                    let (x, y) = ((a[i] - a[j]).signum() * f64::from(a[i] != a[j]), (b[i] - b[j]).signum() * f64::from(b[i] != b[j]));
                    sum += x * y;
                    free_a += x.abs();
                    free_b += y.abs();
                }
            }
            let expected = sum / (free_a * free_b).sqrt();
            let found = kendall_tau(&a, &b);
            prop_assert!((found - expected).abs() < 1e-12 || found.is_nan() && expected.is_nan());
        }
    }
}
