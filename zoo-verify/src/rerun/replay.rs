//! Models evaluated again.

use zoo_engine::{Engine, EngineError, Task};
use zoo_model::stage::Interrupt;
use zoo_model::zoo_dir::names;
use zoo_model::{Dataset, Split};
use zoo_train::registry;

use super::failure;
use crate::checker::Sampled;
use crate::{Failure, Level};

/// Maximum relative difference of losses that count as equal: processors differ in the last bits
/// of a matrix product.
const LOSS_TOLERANCE: f64 = 1e-6;

/// Evaluates a model's last state again and compares with its last line.
pub fn replay(
    model: &Sampled,
    engine: &dyn Engine,
    data: &Dataset,
    interrupt: &Interrupt,
) -> Result<Vec<Failure>, EngineError> {
    let (Some(state), Some(line), Ok(network)) = (model.states.last(), model.lines.last(), model.params.network())
    else {
        return Ok(Vec::new());
    };
    let hyperparameters = model.params.hyperparameters.clone();
    let task = Task::from_state(network, hyperparameters, state.clone());
    if let Err(error) = registry::check(engine, &task.spec()) {
        return Ok(vec![failure(Level::Replay, model.params.id, names::PARAMS, error.to_string())]);
    }
    let mut cohort = engine.start(&[task], data, None)?;
    let mut failures = Vec::new();
    let recorded =
        [(Split::Test, "test", line.test_loss, line.test_acc), (Split::Val, "val", line.val_loss, line.val_acc)];
    for (split, name, loss, accuracy) in recorded {
        let Some(score) = cohort.evaluate(split, interrupt)?.remove(0).score else { continue };
        let mut differs = |what: &str, recorded: Option<f64>, found: f64| {
            let recorded = recorded.map_or("null".to_owned(), |recorded| recorded.to_string());
            let message =
                format!("epoch {}: {name}_{what} is {found}, recorded as {recorded}", line.training_iteration);
            failures.push(failure(Level::Replay, model.params.id, names::RESULT, message));
        };
        if accuracy != Some(score.accuracy) {
            differs("acc", accuracy, score.accuracy);
        }
        let equal = match loss {
            Some(loss) => (loss - score.loss).abs() <= LOSS_TOLERANCE * loss.abs().max(1e-3),
            None => !score.loss.is_finite(),
        };
        if !equal {
            differs("loss", loss, score.loss);
        }
    }
    Ok(failures)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoo_engine::DeviceName;
    use zoo_model::synthetic::noise_dataset;
    use zoo_model::{Architecture, Hyperparameters, ModelId, Params};

    /// An archive may name any engine.
    #[test]
    fn an_engine_that_does_not_know_the_architecture_is_a_failure() {
        let data = noise_dataset([1, 28, 28], 10, 4);
        let h = Hyperparameters { architecture: Architecture::Mlp, hidden: vec![4], ..Hyperparameters::default() };
        let network = h.network(data.shape, 10).unwrap();
        let json = br#"{"training_iteration":0,"train_loss":1,"train_acc":0,"test_loss":1,"test_acc":0,"val_loss":1,"val_acc":0}"#;
        let model = Sampled {
            states: vec![vec![0.0; network.parameter_count()]],
            params: Params::new(ModelId(0), h, &network),
            lines: zoo_model::result::from_json_lines(json).unwrap(),
        };
        let engine = registry::find("population").unwrap().build(DeviceName::Cpu).unwrap().engine;
        let failures = replay(&model, engine.as_ref(), &data, &Interrupt::default()).unwrap();
        let [failure] = failures.as_slice() else { panic!("{failures:?}") };
        assert!(failure.message.contains("the population engine does not train mlp"), "{failure:?}");
    }
}
