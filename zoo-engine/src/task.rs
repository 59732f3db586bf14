//! What to train.

use zoo_model::init::initial_parameters;
use zoo_model::{GeometryError, Hyperparameters, Network};

use crate::magnitude::Ramp;
use crate::variational::Variational;

/// How the models of a population become sparse, as far as it decides whether and how an engine trains them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Sparsification {
    /// Not at all, or by masks.
    #[default]
    Masks,
    /// By variational dropout.
    VariationalDropout,
}

/// What is known of a model before there is a [`Task`]: enough to say which engine trains it, and to
/// group it with others.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// Its hyperparameters.
    pub hyperparameters: Hyperparameters,
    /// How it becomes sparse.
    pub sparsification: Sparsification,
}

impl From<Hyperparameters> for ModelSpec {
    /// A model that is not made sparse, or by masks.
    fn from(hyperparameters: Hyperparameters) -> Self {
        Self { hyperparameters, sparsification: Sparsification::default() }
    }
}

/// One model to train: what its bits depend on.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its network.
    pub network: Network,
    /// Its hyperparameters.
    pub hyperparameters: Hyperparameters,
    /// Flat vector of the state that it starts from.
    pub initial: Vec<f32>,
    /// Which parameters may differ from zero; `None`: all.
    pub mask: Option<Mask>,
    /// Epochs that came before, when a trained model is trained on: its random draws continue there.
    pub epochs_before: u32,
}

/// How it is decided which parameters of a model may differ from zero.
#[derive(Debug, Clone, PartialEq)]
pub enum Mask {
    /// Those for which it is true, one value per parameter.
    Fixed(Vec<bool>),
    /// Fewer and fewer, by magnitude.
    Ramp(Ramp),
    /// Those that variational dropout does not prune.
    Variational(Variational),
}

impl Task {
    /// The task of training these hyperparameters from their own initial weights, on images of
    /// `shape` (channels, height, width).
    ///
    /// # Errors
    /// Images and architecture do not fit.
    pub fn new(hyperparameters: &Hyperparameters, shape: [usize; 3], classes: usize) -> Result<Self, GeometryError> {
        let network = hyperparameters.network(shape, classes)?;
        Ok(Self {
            initial: initial_parameters(&network, hyperparameters.init, hyperparameters.seed),
            network,
            hyperparameters: hyperparameters.clone(),
            mask: None,
            epochs_before: 0,
        })
    }

    /// The task of evaluating a state of a network, or of training on from it.
    pub fn from_state(network: Network, hyperparameters: Hyperparameters, state: Vec<f32>) -> Self {
        Self { network, hyperparameters, initial: state, mask: None, epochs_before: 0 }
    }

    /// What is known of it without its network and parameters.
    pub fn spec(&self) -> ModelSpec {
        let sparsification = match &self.mask {
            None | Some(Mask::Fixed(_) | Mask::Ramp(_)) => Sparsification::Masks,
            Some(Mask::Variational(_)) => Sparsification::VariationalDropout,
        };
        ModelSpec { hyperparameters: self.hyperparameters.clone(), sparsification }
    }

    /// The mask before the first epoch; `None`: all parameters may differ from zero.
    pub fn fixed_mask(&self) -> Option<&[bool]> {
        match &self.mask {
            Some(Mask::Fixed(mask)) => Some(mask),
            None | Some(Mask::Ramp(_) | Mask::Variational(_)) => None,
        }
    }

    /// The settings of variational dropout, if the model is trained with it.
    pub fn variational(&self) -> Option<&Variational> {
        match &self.mask {
            Some(Mask::Variational(variational)) => Some(variational),
            None | Some(Mask::Fixed(_) | Mask::Ramp(_)) => None,
        }
    }

    /// Weight of the divergence in absolute epoch `epoch`.
    pub fn kl_weight(&self, epoch: u32) -> f64 {
        self.variational().map_or(0.0, |v| v.kl_weight(epoch.saturating_sub(self.epochs_before)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::magnitude::Scope;

    #[test]
    fn a_task_tells_how_its_model_becomes_sparse() {
        let mut task = Task::new(&Hyperparameters::default(), [1, 28, 28], 10).unwrap();
        let variational = Variational { epochs: 10 };
        let ramp = Ramp { sparsity: 0.5, scope: Scope::Global, epochs: 3 };
        task.epochs_before = 50;
        for (mask, sparsification) in [
            (None, Sparsification::Masks),
            (Some(Mask::Fixed(vec![true, false])), Sparsification::Masks),
            (Some(Mask::Ramp(ramp)), Sparsification::Masks),
            (Some(Mask::Variational(variational.clone())), Sparsification::VariationalDropout),
        ] {
            task.mask = mask.clone();
            let spec = ModelSpec { hyperparameters: task.hyperparameters.clone(), sparsification };
            assert_eq!(task.spec(), spec, "{mask:?}");
            let fixed = matches!(mask, Some(Mask::Fixed(_))).then_some(&[true, false][..]);
            assert_eq!(task.fixed_mask(), fixed, "{mask:?}");
            let is_variational = sparsification == Sparsification::VariationalDropout;
            assert_eq!(task.variational(), is_variational.then_some(&variational), "{mask:?}");
            let weights = [50, 51, 60].map(|epoch| task.kl_weight(epoch));
            assert_eq!(weights, if is_variational { [0.0, 0.001, 0.01] } else { [0.0; 3] }, "{mask:?}");
        }
    }

    #[test]
    fn a_new_model_starts_from_its_own_weights_and_a_trained_one_from_its_state() {
        let of = |seed| Task::new(&Hyperparameters { seed, ..Default::default() }, [1, 28, 28], 10).unwrap();
        assert_eq!(of(1).initial, of(1).initial);
        assert_ne!(of(1).initial, of(2).initial);
        let Task { network, hyperparameters, initial, .. } = of(1);
        let trained = vec![0.5; initial.len()];
        let task = Task::from_state(network.clone(), hyperparameters.clone(), trained.clone());
        assert_eq!((task.network, task.hyperparameters, task.initial), (network, hyperparameters, trained));
        assert_eq!((task.mask, task.epochs_before), (None, 0));
        assert!(Task::new(&Hyperparameters::default(), [1, 32, 32], 10).is_err());
    }
}
