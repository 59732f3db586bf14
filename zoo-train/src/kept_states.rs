//! The kept states of models in training: the latest in memory, those before in the models' files.

use zoo_model::files::{FileError, Sha256, Sha256Hasher};
use zoo_model::safetensors_file::from_f32;
use zoo_model::zoo_dir::names;
use zoo_model::{ModelId, Network, Params, ResultLine, ZooDir};

/// The kept states of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptStates {
    written: usize,
    /// Of the written states, one after the other: a file that lacks one of them is not taken for
    /// theirs.
    digest: Sha256,
    in_memory: Vec<Vec<f32>>,
}

impl Default for KeptStates {
    fn default() -> Self {
        Self { written: 0, digest: Sha256Hasher::default().finish(), in_memory: Vec::new() }
    }
}

impl KeptStates {
    /// Those of a checkpoint.
    pub(crate) fn saved(written: usize, digest: Sha256, in_memory: Vec<Vec<f32>>) -> Self {
        Self { written, digest, in_memory }
    }

    /// Number and digest of the states that are in the model's file: the first ones.
    pub fn written(&self) -> (usize, Sha256) {
        (self.written, self.digest)
    }

    /// The states after them: flat vectors.
    pub fn in_memory(&self) -> &[Vec<f32>] {
        &self.in_memory
    }

    /// Adds a state.
    pub(crate) fn push(&mut self, state: Vec<f32>) {
        self.in_memory.push(state);
    }

    /// Size of the states in memory.
    pub(crate) fn bytes_in_memory(&self) -> usize {
        self.in_memory.iter().map(|state| 4 * state.len()).sum()
    }

    /// The digest after one more state.
    fn extend(digest: Sha256, state: &[f32]) -> Sha256 {
        let mut hasher = Sha256Hasher::default();
        hasher.update(digest.to_string().as_bytes());
        hasher.update(&from_f32(state));
        hasher.finish()
    }
}

/// A model whose states are kept.
#[derive(Debug, Clone, Copy)]
pub struct Keeper<'a> {
    /// The zoo.
    pub zoo: &'a ZooDir,
    /// The model.
    pub id: ModelId,
    /// Its network.
    pub network: &'a Network,
    /// All epochs whose states are kept.
    pub epochs: &'a [u32],
}

impl Keeper<'_> {
    /// Whether the model's file has the states that a checkpoint says are written.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn has_written(&self, states: &KeptStates) -> Result<bool, FileError> {
        let Self { zoo, id, network, epochs } = *self;
        if states.written == 0 {
            return Ok(true);
        }
        let Some(mut file) = zoo.staged_states(id, network, epochs)? else { return Ok(false) };
        if states.written > epochs.len() {
            return Ok(false);
        }
        let mut digest = KeptStates::default().digest;
        for index in 0..states.written {
            digest = KeptStates::extend(digest, &file.read(network, index)?);
        }
        Ok(digest == states.digest)
    }

    /// Writes the states that are in memory to the model's file, durably.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, states: &mut KeptStates) -> Result<(), FileError> {
        let Self { zoo, id, network, epochs } = *self;
        if !states.in_memory.is_empty() {
            zoo.stage_states(id, network, epochs, states.written, &states.in_memory)?;
            states.digest = states.in_memory.iter().fold(states.digest, |digest, s| KeptStates::extend(digest, s));
            states.written += states.in_memory.len();
            states.in_memory.clear();
        }
        Ok(())
    }

    /// Puts the model in place, all of whose states are there.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn finish(&self, params: &Params, lines: &[ResultLine], states: &mut KeptStates) -> Result<(), FileError> {
        if states.written == 0 {
            return self.zoo.write_model(
                &self.zoo.path().join(names::TRAINING),
                params,
                self.network,
                lines,
                &states.in_memory,
            );
        }
        self.write(states)?;
        self.zoo.finish_staged(params, lines)
    }
}
