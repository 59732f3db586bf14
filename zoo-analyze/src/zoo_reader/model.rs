//! One model: from the files of a directory.

use std::fmt::Display;
use std::fs::File;
use std::io::BufReader;

use serde::Serialize;
use zoo_model::files::FileError;
use zoo_model::text::readable;
use zoo_model::{states, ModelId, Network, Params, ResultLine, ZooDir};

/// A model with all its states.
#[derive(Debug, Clone)]
pub struct Model {
    /// Its configuration.
    pub params: Params,
    /// Its network.
    pub network: Network,
    /// One line per state.
    pub lines: Vec<ResultLine>,
    /// One flat vector per line.
    pub states: Vec<Vec<f32>>,
}

/// A model that could not be read, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Its id.
    pub id: ModelId,
    /// What is wrong, with the file.
    pub why: String,
}

impl Skipped {
    pub(super) fn new(id: ModelId, why: impl Display) -> Self {
        Self { id, why: readable(&why.to_string()) }
    }
}

impl Model {
    /// Reads a model of a directory.
    pub(super) fn read(zoo: &ZooDir, id: ModelId) -> Result<Self, FileError> {
        let params = zoo.params(id)?;
        let lines = zoo.results(id)?;
        let path = zoo.states(id);
        let wrong = |message: String| FileError::format(&path, message);
        let network = params.network().map_err(|e| wrong(e.to_string()))?;
        let file = File::open(&path).map_err(FileError::io("read", &path))?;
        let size = file.metadata().map_err(FileError::io("read", &path))?.len();
        let mut stream = BufReader::with_capacity(1 << 17, file);
        let (epochs, states) = states::read_all(&mut stream, size, &network).map_err(wrong)?;
        Self { params, network, lines, states }.checked(id, &epochs).map_err(wrong)
    }

    /// The model, if its files agree: on its id, and on the epochs of its states.
    pub(super) fn checked(self, id: ModelId, epochs: &[u32]) -> Result<Self, String> {
        if self.params.id != id {
            return Err(format!("its params.json says `zoo::id` {}", self.params.id));
        }
        if !self.lines.iter().map(|l| l.training_iteration).eq(epochs.iter().copied()) {
            return Err("its epochs are not those of its result.json".into());
        }
        Ok(self)
    }
}
