//! Cross entropy and accuracy from logits.

use serde::{Deserialize, Serialize};

use crate::functions::{exp, ln};

/// Mean loss and accuracy over some samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Mean cross entropy in nats; not finite if the model diverged.
    pub loss: f64,
    /// Share of samples whose largest logit is the label's.
    pub accuracy: f64,
}

/// Sums over some samples; becomes a [`Score`] in the end. Serialised, it keeps its bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Sum of the cross entropies in nats.
    #[serde(with = "bits")]
    pub loss: f64,
    /// Samples whose largest logit is the label's.
    pub hits: u64,
    /// Number of samples.
    pub samples: u64,
}

/// A number as its bits: JSON has neither NaN nor infinity.
mod bits {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.to_bits().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        u64::deserialize(deserializer).map(f64::from_bits)
    }
}

impl Tally {
    /// Adds the samples of logits (N, classes) and labels (N), in order.
    pub fn add(&mut self, logits: &[f64], labels: &[u16]) {
        let classes = logits.len() / labels.len().max(1);
        for (row, &label) in logits.chunks_exact(classes.max(1)).zip(labels) {
            self.loss += cross_entropy(row, label.into());
            self.hits += u64::from(predicted(row) == usize::from(label));
        }
        self.samples += labels.len() as u64;
    }

    /// Adds the samples of another tally.
    pub fn merge(&mut self, other: &Self) {
        self.loss += other.loss;
        self.hits += other.hits;
        self.samples += other.samples;
    }

    /// The means; `None` over no samples.
    pub fn score(&self) -> Option<Score> {
        let n = self.samples as f64;
        (self.samples > 0).then(|| Score { loss: self.loss / n, accuracy: self.hits as f64 / n })
    }
}

/// Cross entropy of one sample: logsumexp(logits) - logits\[label\], the same bits on every device.
pub fn cross_entropy(logits: &[f64], label: usize) -> f64 {
    let max = logits.iter().fold(f64::NEG_INFINITY, |m, &l| if l > m || l.is_nan() { l } else { m });
    let sum: f64 = logits.iter().map(|&l| exp(l - max)).sum();
    max + ln(sum) - logits[label]
}

/// The predicted class, as PyTorch's argmax: the first NaN, else the first of the largest.
pub fn predicted(logits: &[f64]) -> usize {
    let mut best = 0;
    for (i, &logit) in logits.iter().enumerate().skip(1) {
        if logit > logits[best] || (logit.is_nan() && !logits[best].is_nan()) {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_and_hits_are_means() {
        let mut tally = Tally::default();
        assert_eq!(tally.score(), None);
        tally.add(&[0.0, 0.0, 1000.0, 0.0], &[1, 0]);
        let score = tally.score().unwrap();
        assert!((score.loss - (2f64.ln() + 0.0) / 2.0).abs() < 1e-12);
        assert_eq!(score.accuracy, 0.5);
    }

    #[test]
    fn tallies_are_merged_and_serialised_bit_for_bit() {
        let mut tally = Tally { loss: 0.1, hits: 1, samples: 2 };
        tally.merge(&Tally { loss: 0.2, hits: 3, samples: 4 });
        assert_eq!(tally, Tally { loss: 0.1 + 0.2, hits: 4, samples: 6 });
        for loss in [0.1 + 0.2, f64::NAN, f64::INFINITY, -0.0] {
            let json = serde_json::to_string(&Tally { loss, ..tally }).unwrap();
            let read: Tally = serde_json::from_str(&json).unwrap();
            assert_eq!((read.loss.to_bits(), read.hits, read.samples), (loss.to_bits(), 4, 6), "{json}");
        }
    }

    #[test]
    fn nan_wins_and_ties_go_to_the_first() {
        assert_eq!(predicted(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(predicted(&[1.0, f64::NAN, f64::NAN]), 1);
        assert!(cross_entropy(&[1.0, f64::NAN], 0).is_nan());
    }

    #[test]
    fn cross_entropy_is_that_of_the_softmax_wherever_the_logits_lie() {
        /// ln(1 + 1/e + 1/e^2)
        const BEST: f64 = 0.407_605_964_444_380_1;
        for offset in [0.0, -2000.0, 2000.0] {
            let logits = [2.0, 3.0, 1.0].map(|l| l + offset);
            for (label, expected) in [1.0 + BEST, BEST, 2.0 + BEST].iter().enumerate() {
                assert!((cross_entropy(&logits, label) - expected).abs() < 1e-12, "{offset} {label}");
            }
        }
        let mut tally = Tally::default();
        tally.add(&[2.0, 3.0, 1.0, 2.0, 3.0, 1.0], &[1, 1]);
        tally.add(&[2.0, 3.0, 1.0], &[2]);
        let score = tally.score().unwrap();
        assert!((score.loss - (BEST + 2.0 / 3.0)).abs() < 1e-12);
        assert_eq!(score.accuracy, 2.0 / 3.0);
    }
}
