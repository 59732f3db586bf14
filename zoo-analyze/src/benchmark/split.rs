//! The split of the models into train, validation and test.

use std::collections::HashMap;

use sha2::{Digest, Sha256};
use zoo_model::{ModelId, Split};

/// Fractions of the models in train and validation; the rest are test.
const SHARES: [f64; 2] = [0.7, 0.15];

/// Assigns models to train, validation and test.
///
/// Models are ranked by SHA-256 of "SEED/ID", so that the split depends on the ids alone: twins
/// fall where their parents do. The Python package splits in the same way.
pub fn split_models(ids: &[ModelId], seed: u64) -> HashMap<ModelId, Split> {
    let mut ranked: Vec<ModelId> = ids.to_vec();
    ranked.sort_by_cached_key(|id| <[u8; 32]>::from(Sha256::digest(format!("{seed}/{id}"))));
    let share = |share: f64| (share * ranked.len() as f64).round_ties_even() as usize;
    let (train, val) = (share(SHARES[0]), share(SHARES[1]));
    let split = |rank: usize| match rank {
        rank if rank < train => Split::Train,
        rank if rank < train + val => Split::Val,
        _ => Split::Test,
    };
    ranked.iter().enumerate().map(|(rank, &id)| (id, split(rank))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::benchmark::SPLIT_SEED;

    #[test]
    fn the_split_is_that_of_the_python_package() {
        // modelzoo.zoo.split_models(range(8), (0.7, 0.15, 0.15), 42)
        let ids: Vec<ModelId> = (0..8).map(ModelId).collect();
        let splits = split_models(&ids, SPLIT_SEED);
        let of = |split: Split| ids.iter().filter(|id| splits[id] == split).map(|id| id.0).collect::<Vec<_>>();
        assert_eq!(of(Split::Train), [1, 2, 3, 4, 5, 7]);
        assert_eq!((of(Split::Val), of(Split::Test)), (vec![6], vec![0]));
    }
}
