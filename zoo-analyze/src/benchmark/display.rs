//! The results as a table of text.

use std::fmt;

use zoo_model::dataset::PerSplit;
use zoo_model::text::{counted, fixed, percent};

use super::{Benchmark, Predictor};

impl Predictor {
    fn label(self) -> &'static str {
        match self {
            Self::RidgeWeights => "w ridge",
            Self::RidgeStatistics => "s(w) ridge",
            Self::TreesStatistics => "s(w) trees",
        }
    }
}

impl fmt::Display for Benchmark {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let PerSplit { train, val, test } = self.models;
        let states = counted(self.states.iter().sum(), "state");
        writeln!(f, "{}: {states} of {train} + {val} + {test} models (train, val, test)", self.zoo)?;
        let predictors = [Predictor::RidgeWeights, Predictor::RidgeStatistics, Predictor::TreesStatistics];
        let predictors: Vec<Predictor> =
            predictors.into_iter().filter(|p| self.scores.iter().any(|s| s.predictor == *p)).collect();
        write!(f, "{:<20}", "")?;
        for p in &predictors {
            write!(f, " {:>18}", p.label())?;
        }
        writeln!(f)?;
        for property in self.properties() {
            write!(f, "{property:<20}")?;
            for &predictor in &predictors {
                let cell = self.score(property, predictor).map(|s| match (s.r2, s.kendall_tau, s.accuracy) {
                    (Some(r2), Some(tau), _) => format!("R2 {} tau {}", fixed(r2, 3), fixed(tau, 2)),
                    (_, _, Some(accuracy)) => percent(accuracy),
                    _ => String::new(),
                });
                write!(f, " {:>18}", cell.unwrap_or_default())?;
            }
            if let Some(majority) = self.scores.iter().find(|s| s.property == property).and_then(|s| s.majority) {
                write!(f, "  (most frequent: {})", percent(majority))?;
            }
            writeln!(f)?;
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        let (states, models) = (counted(self.states_left_out, "state"), counted(self.skipped.len(), "model"));
        write!(f, "{states} left out, {models} skipped")?;
        for skipped in self.skipped.iter().take(10) {
            write!(f, "\n  {}: {}", skipped.id, skipped.why)?;
        }
        Ok(())
    }
}
