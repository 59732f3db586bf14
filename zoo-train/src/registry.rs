//! The engines to choose from.
//!
//! Every stage that trains or evaluates finds its engine here by name, or by default takes the first one
//! that trains the models at hand. A program of one's own adds an engine with [`register`] before it runs
//! a stage (`examples/own_engine.rs`).

use std::sync::{Arc, PoisonError, RwLock};

use zoo_engine::{DeviceName, Engine, EngineFactory, ModelSpec, Sparsification};
#[cfg(feature = "dfdx")]
use zoo_engine_dfdx::DfdxFactory;
use zoo_engine_layered::LayeredFactory;
use zoo_engine_population::PopulationFactory;
use zoo_model::stage::UsageError;
use zoo_model::Schedule;

use crate::TrainError;

static REGISTERED: RwLock<Vec<Arc<dyn EngineFactory>>> = RwLock::new(Vec::new());

/// Adds an engine. It is found by its name, and by default trains what no engine before it does; one
/// with the name of another takes its place.
pub fn register(factory: Arc<dyn EngineFactory>) {
    let mut registered = REGISTERED.write().unwrap_or_else(PoisonError::into_inner);
    registered.retain(|other| other.name() != factory.name());
    registered.push(factory);
}

/// All engines: those of this build, the fastest first, then the registered ones.
pub fn factories() -> Vec<Arc<dyn EngineFactory>> {
    let registered = REGISTERED.read().unwrap_or_else(PoisonError::into_inner).clone();
    let mut all: Vec<Arc<dyn EngineFactory>> = vec![
        Arc::new(PopulationFactory),
        Arc::new(LayeredFactory),
        #[cfg(feature = "dfdx")]
        Arc::new(DfdxFactory),
    ];
    all.retain(|factory| registered.iter().all(|other| other.name() != factory.name()));
    all.extend(registered);
    all
}

/// The engine of this name.
///
/// # Errors
/// There is none: names those that there are.
pub fn find(name: &str) -> Result<Arc<dyn EngineFactory>, UsageError> {
    let all = factories();
    let names = all.iter().map(|f| f.name()).collect::<Vec<_>>().join(", ");
    let found = all.into_iter().find(|f| f.name() == name);
    found.ok_or_else(|| UsageError(format!("this program has no engine `{name}`; it has {names}")))
}

/// The engine of this name, or by default the fastest that trains such models.
///
/// # Errors
/// There is no such engine, or it does not train them: says which does.
pub fn choose(name: Option<&str>, model: &ModelSpec) -> Result<Arc<dyn EngineFactory>, UsageError> {
    match name {
        Some(name) => {
            let factory = find(name)?;
            if factory.trains(model) {
                return Ok(factory);
            }
            Err(does_not_train(factory.name(), model))
        }
        None => factories().into_iter().find(|f| f.trains(model)).ok_or_else(|| {
            let what = describe(model);
            UsageError(format!("no engine of this program trains {what}"))
        }),
    }
}

/// Checks that an engine trains such models.
///
/// # Errors
/// It does not: says which does.
pub fn check(engine: &dyn Engine, model: &ModelSpec) -> Result<(), UsageError> {
    match engine.trains(model) {
        true => Ok(()),
        false => Err(does_not_train(engine.name(), model)),
    }
}

fn does_not_train(engine: &str, model: &ModelSpec) -> UsageError {
    let remedy = match factories().iter().find(|f| f.trains(model)) {
        Some(other) => format!(": omit --engine, or use --engine {}", other.name()),
        None => String::new(),
    };
    UsageError(format!("the {engine} engine does not train {}{remedy}", describe(model)))
}

/// What decides whether an engine trains such models.
fn describe(model: &ModelSpec) -> String {
    let h = &model.hyperparameters;
    let mut what = h.architecture.name().to_owned();
    let conditions = [(h.schedule != Schedule::Constant, "a schedule"), (!h.augmentation.is_none(), "augmentation")];
    let conditions: Vec<&str> = conditions.into_iter().filter(|(holds, _)| *holds).map(|(_, name)| name).collect();
    if !conditions.is_empty() {
        what += &format!(" with {}", conditions.join(" and "));
    }
    match model.sparsification {
        Sparsification::Masks => what,
        Sparsification::VariationalDropout => what + " by variational dropout",
    }
}

/// As [`choose`], on the processor.
///
/// # Errors
/// As [`choose`], and the engine does not work on the processor.
pub fn on_processor(name: Option<&str>, model: &ModelSpec) -> Result<Box<dyn Engine>, TrainError> {
    Ok(choose(name, model)?.build(DeviceName::Cpu)?.engine)
}

/// Every engine, on the processor.
///
/// # Errors
/// One of them does not work there.
pub fn all_on_processor() -> Result<Vec<Box<dyn Engine>>, TrainError> {
    factories().iter().map(|factory| Ok(factory.build(DeviceName::Cpu)?.engine)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoo_model::{Architecture, Augmentation, Hyperparameters};

    #[test]
    fn a_refusal_says_what_is_not_trained_and_by_whom_it_is() {
        let refusal = |hyperparameters: Hyperparameters, sparsification| {
            let model = ModelSpec { hyperparameters, sparsification };
            choose(Some("population"), &model).err().map(|error| error.0)
        };
        let cnn = Hyperparameters::default();
        assert_eq!(refusal(cnn.clone(), Sparsification::Masks), None);
        let mlp = Hyperparameters { architecture: Architecture::Mlp, ..cnn.clone() };
        let remedy = ": omit --engine, or use --engine layered";
        let refused = |what: &str| Some(format!("the population engine does not train {what}{remedy}"));
        assert_eq!(refusal(mlp, Sparsification::Masks), refused("mlp"));
        let augmentation = Augmentation { flip: true, ..Augmentation::NONE };
        let cycle = Hyperparameters { schedule: Schedule::OneCycle, augmentation, ..cnn };
        let what = "cnn-s with a schedule and augmentation by variational dropout";
        assert_eq!(refusal(cycle, Sparsification::VariationalDropout), refused(what));
    }
}
