//! States of a model: that they fit its architecture and its metrics.

use std::io;

use zoo_model::architecture::Role;
use zoo_model::states::{check_epochs, StatesReader};
use zoo_model::zoo_dir::names;
use zoo_model::{ModelId, Network, Params, ResultLine};

use super::hashed::Hashed;
use super::limits::SMALL_LIMIT;
use super::{Checker, StopReading};
use crate::report::Level;

/// Largest number of epochs that a message lists one by one.
const MAX_LISTED_EPOCHS: usize = 6;

/// What is kept of a model for replaying or retraining it.
#[derive(Debug, Clone)]
pub struct Sampled {
    /// Its configuration.
    pub params: Params,
    /// Its metrics.
    pub lines: Vec<ResultLine>,
    /// Its flat states; all of them, or only the last.
    pub states: Vec<Vec<f32>>,
}

/// Counts over the values of one state.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    not_finite: usize,
    zero_weights: usize,
}

impl Tally {
    fn add(&mut self, values: &[f32], role: Role) {
        for &value in values {
            self.not_finite += usize::from(!value.is_finite());
            self.zero_weights += usize::from(value == 0.0 && role == Role::Weight);
        }
    }
}

/// The content of a states file.
struct StatesContent {
    /// As recorded, valid or not.
    epochs: Vec<i64>,
    /// One per state.
    tally: Vec<Tally>,
    /// Those of the states that are kept.
    states: Vec<Vec<f32>>,
}

impl StatesContent {
    /// Reads the states, keeping those from `first_kept` on.
    fn read(reader: StatesReader<&mut Hashed>, network: &Network, first_kept: usize) -> io::Result<Self> {
        let mut tally = vec![Tally::default(); reader.count()];
        let mut states = vec![vec![0f32; network.state_len()]; reader.count() - first_kept];
        let epochs = reader.visit(|state, parameter, values| {
            tally[state].add(values, parameter.role);
            if state >= first_kept {
                states[state - first_kept][parameter.range.clone()].copy_from_slice(values);
            }
        })?;
        Ok(Self { epochs, tally, states })
    }
}

impl Checker {
    /// Checks a states file, and keeps the states that are wanted.
    pub(super) fn check_states(
        &mut self,
        path: &str,
        id: ModelId,
        size: u64,
        content: &mut Hashed,
    ) -> Result<(), StopReading> {
        let Some((params, network)) = self.current.as_mut().and_then(|c| c.params.take()) else {
            self.fail(Level::Meaning, path, "cannot be checked without a valid params.json before it");
            return Ok(());
        };
        let reader = match StatesReader::new(content, size, &network) {
            Ok(reader) => reader,
            Err(message) => {
                self.fail(Level::Meaning, path, message);
                // States of a valid archive are as large as the architecture says.
                return if size > SMALL_LIMIT { Err(StopReading) } else { Ok(()) };
            }
        };
        let count = reader.count();
        let first_kept = match (self.wanted.replay.contains(&id), self.wanted.retrain.contains(&id)) {
            (_, true) => 0,
            (true, false) => count.saturating_sub(1),
            (false, false) => count,
        };
        // That the entry cannot be read to its end is reported for every entry alike.
        let Ok(content) = StatesContent::read(reader, &network, first_kept) else { return Ok(()) };
        self.states += count;
        let lines = self.current.as_mut().and_then(|c| c.lines.take());
        match check_epochs(&content.epochs) {
            Err(message) => self.fail(Level::Meaning, path, message),
            Ok(epochs) => self.check_states_fit_results(path, &network, &epochs, &content.tally, lines.as_deref()),
        }
        let Some(lines) = lines else { return Ok(()) };
        if let Err(message) = self.totals.index.add(&params, &lines) {
            self.fail(Level::Meaning, &format!("{}/{id}/{}", names::MODELS, names::PARAMS), message);
        }
        if first_kept < count {
            self.sampled.insert(id, Sampled { params, lines, states: content.states });
        }
        Ok(())
    }

    /// States against result lines.
    fn check_states_fit_results(
        &mut self,
        path: &str,
        network: &Network,
        epochs: &[u32],
        tally: &[Tally],
        lines: Option<&[ResultLine]>,
    ) {
        let Some(lines) = lines else {
            return self.fail(Level::Meaning, path, "cannot be checked without a valid result.json before it");
        };
        let recorded: Vec<u32> = lines.iter().map(|l| l.training_iteration).collect();
        if recorded != epochs {
            let message = format!("contains the epochs {}, result.json {}", brief(epochs), brief(&recorded));
            return self.fail(Level::Meaning, path, message);
        }
        let is_twin = self.record.as_ref().is_some_and(|r| r.parent.is_some());
        for (line, tally) in lines.iter().zip(tally) {
            for fault in line_faults(line, *tally, network, is_twin) {
                self.fail(Level::Meaning, path, format!("epoch {}: {fault}", line.training_iteration));
            }
        }
        self.totals.diverged += usize::from(lines.iter().any(|l| l.diverged));
    }
}

/// Where a result line and its state disagree.
fn line_faults(line: &ResultLine, tally: Tally, network: &Network, is_twin: bool) -> Vec<String> {
    let mut faults = Vec::new();
    if tally.not_finite > 0 && !line.diverged {
        faults.push(format!("{} values are not finite, but it is not marked diverged", tally.not_finite));
    }
    // A program that does not evaluate omits loss and accuracy together.
    let scores = [(line.train_loss, line.train_acc), (line.test_loss, line.test_acc), (line.val_loss, line.val_acc)];
    if !line.diverged && scores.iter().any(|(loss, accuracy)| loss.is_none() && accuracy.is_some()) {
        faults.push("a loss is null, but it is not marked diverged".into());
    }
    match line.sparsity_ratio {
        Some(recorded) => {
            let found = tally.zero_weights as f64 / network.weight_count() as f64;
            if (found - recorded).abs() > 1e-9 {
                faults.push(format!("{found} of the weights are zero, result.json says {recorded}"));
            }
        }
        None if is_twin => faults.push("a twin's line needs `sparsity_ratio`".into()),
        None => {}
    }
    faults
}

fn brief(epochs: &[u32]) -> String {
    match epochs {
        [first, .., last] if epochs.len() > MAX_LISTED_EPOCHS => {
            format!("{first} to {last} ({} epochs)", epochs.len())
        }
        few => format!("{few:?}"),
    }
}
