//! Configuration and metrics of a model.

use zoo_model::result::from_json_lines;
use zoo_model::{ModelId, Network, Params, ResultLine};

use super::Checker;
use crate::report::Level;

/// The model whose files are being read.
#[derive(Debug)]
pub(super) struct Current {
    pub id: ModelId,
    /// Configuration and network, if they are valid, until the states are read.
    pub params: Option<(Params, Network)>,
    /// Metrics, if they are valid, until the states are read.
    pub lines: Option<Vec<ResultLine>>,
}

impl Current {
    pub fn new(id: ModelId) -> Self {
        Self { id, params: None, lines: None }
    }
}

impl Checker {
    /// Checks a `params.json`.
    pub(super) fn check_params(&mut self, path: &str, id: ModelId, json: &[u8]) {
        let params = match Params::from_json(json) {
            Ok(params) => params,
            Err(message) => return self.fail(Level::Meaning, path, message),
        };
        if params.id != id {
            self.fail(Level::Meaning, path, format!("`zoo::id` is {}, expected {id}", params.id));
        }
        self.check_params_fit_record(path, &params);
        self.check_parent(path, id, &params);
        match params.network() {
            Ok(network) => {
                let expected = self.record.as_ref().map(|r| r.parameters);
                if let Some(expected) = expected.filter(|n| *n != network.parameter_count()) {
                    let found = network.parameter_count();
                    self.fail(Level::Meaning, path, format!("describes {found} parameters, zoo.json says {expected}"));
                }
                if let Some(current) = &mut self.current {
                    current.params = Some((params, network));
                }
            }
            Err(error) => self.fail(Level::Meaning, path, error.to_string()),
        }
    }

    /// A `params.json` against `zoo.json`.
    fn check_params_fit_record(&mut self, path: &str, params: &Params) {
        let Some(record) = &self.record else { return };
        let mut messages = Vec::new();
        let [channels, side, _] = record.dataset.shape;
        let expected = (channels, side, record.dataset.classes);
        let found = (params.channels, params.image_side, params.classes);
        if found != expected {
            messages.push(format!("(channels, side, classes) are {found:?}, zoo.json's dataset has {expected:?}"));
        }
        let names = |p: Option<&str>| p.map_or("no parent".to_owned(), |zoo| format!("a parent in `{zoo}`"));
        let expected = record.parent.as_ref().map(|p| p.name.as_str());
        let found = params.parent.as_ref().map(|p| p.zoo.as_str());
        if expected != found {
            messages.push(format!("`zoo::parent` names {}, zoo.json {}", names(found), names(expected)));
        }
        messages.into_iter().for_each(|message| self.fail(Level::Meaning, path, message));
    }

    fn check_parent(&mut self, path: &str, id: ModelId, params: &Params) {
        let Some(parent) = &params.parent else { return };
        if parent.id != id {
            let message = format!("its parent is {}, but a twin has its parent's id", parent.id);
            self.fail(Level::Meaning, path, message);
        }
        if let Ok(sum) = parent.states_sha256.parse() {
            self.parents.insert(id, sum);
        } else {
            self.fail(Level::Meaning, path, "`states_sha256` of `zoo::parent` is not 64 hexadecimal digits");
        }
    }

    /// Checks a `result.json`.
    pub(super) fn check_results(&mut self, path: &str, json: &[u8]) {
        let lines = match from_json_lines(json) {
            Ok(lines) => lines,
            Err(message) => return self.fail(Level::Meaning, path, message),
        };
        for line in &lines {
            let fractions = [line.train_acc, line.test_acc, line.val_acc, line.sparsity_ratio, line.test_agreement];
            if fractions.iter().flatten().any(|a| !(0.0..=1.0).contains(a)) {
                let epoch = line.training_iteration;
                self.fail(Level::Meaning, path, format!("epoch {epoch}: an accuracy or ratio is not between 0 and 1"));
            }
        }
        if let Some(current) = &mut self.current {
            current.lines = Some(lines);
        }
    }
}
