//! The grid of a manifest and its expansion into models.

mod sections;

use crate::architecture::check_hidden;
use crate::hyperparameters::Hyperparameters;
use crate::manifest::{Manifest, ManifestError, Reduction};
use crate::model_id::{ModelId, MODEL_LIMIT};
use crate::optimizer::Optimizer;

pub use sections::{check_zoo_name, GridSection, ModelSection, Seeds, TrainSection, ZooSection};

/// One model to train.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedModel {
    /// Index in the whole plan.
    pub id: ModelId,
    /// Its hyperparameters.
    pub hyperparameters: Hyperparameters,
}

/// A manifest's models in their fixed order.
///
/// The order is that of nested loops over activation, init, dropout, optimizer, learning-rate and
/// weight-decay, each in the manifest's order, with the seeds innermost.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// `[zoo]`.
    pub zoo: ZooSection,
    /// `[model]`.
    pub model: ModelSection,
    /// `[grid]`.
    pub grid: GridSection,
    /// `[train]`, after the reduction.
    pub train: TrainSection,
    /// The reduction of the plan, if one was asked for.
    pub reduction: Reduction,
    /// The models, ids ascending.
    pub models: Vec<PlannedModel>,
}

impl Plan {
    /// Expands a manifest.
    pub fn new(manifest: &Manifest) -> Result<Self, ManifestError> {
        let zoo: ZooSection = manifest.required("zoo")?;
        let model: ModelSection = manifest.required("model")?;
        let grid: GridSection = manifest.required("grid")?;
        let mut train: TrainSection = manifest.required("train")?;
        check_hidden(model.architecture, &model.hidden).map_err(|m| manifest.error("model.hidden", m))?;
        let reduction = manifest.reduction;
        train.epochs = reduction.epochs(train.epochs);

        let total = grid
            .cells()
            .and_then(|cells| cells.checked_mul(grid.seed.per_cell()))
            .filter(|&n| n <= MODEL_LIMIT)
            .ok_or_else(|| {
                manifest.error("grid", format!("defines more than {MODEL_LIMIT} models, the maximum of a zoo"))
            })?;
        let mut models = expand(&model, &grid, &train);
        debug_assert_eq!(models.len(), total);
        if let Some(wanted) = reduction.models {
            let wanted = (wanted as usize).clamp(1, total);
            models = (0..wanted).map(|i| models[i * total / wanted].clone()).collect();
        }
        Ok(Self { zoo, model, grid, train, reduction, models })
    }

    /// What of the manifest a model's bits depend on, as recorded in `zoo.json`.
    pub fn record(&self) -> serde_json::Value {
        let mut record = serde_json::json!({"model": self.model, "grid": self.grid, "train": self.train});
        if !self.reduction.is_none() {
            record["reduction"] = serde_json::to_value(self.reduction).expect("plain data");
        }
        record
    }
}

fn expand(model: &ModelSection, grid: &GridSection, train: &TrainSection) -> Vec<PlannedModel> {
    let mut models = Vec::new();
    for &activation in &grid.activation {
        for &init in &grid.init {
            for &dropout in &grid.dropout {
                for &optimizer in &grid.optimizer {
                    for &learning_rate in &grid.learning_rate {
                        for &weight_decay in &grid.weight_decay {
                            models.extend((0..grid.seed.per_cell()).map(|_| Hyperparameters {
                                architecture: model.architecture,
                                hidden: model.hidden.clone(),
                                activation,
                                init,
                                dropout,
                                optimizer,
                                learning_rate,
                                weight_decay,
                                momentum: match optimizer {
                                    Optimizer::Sgd => train.momentum,
                                    Optimizer::Adam => 0.0,
                                },
                                schedule: train.schedule,
                                augmentation: train.augment,
                                batch_size: train.batch_size as usize,
                                epochs: train.epochs,
                                seed: 0,
                            }));
                        }
                    }
                }
            }
        }
    }
    let seeds = grid.seed.draw(models.len());
    let with_seed = models.into_iter().zip(seeds).enumerate();
    with_seed
        .map(|(i, (mut hyperparameters, seed))| {
            hyperparameters.seed = seed;
            PlannedModel { id: ModelId(i as u32), hyperparameters }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Activation;
    use std::collections::HashSet;

    const MANIFEST: &str = r#"
[zoo]
name = "z"
[model]
architecture = "cnn-s"
[grid]
activation = ["tanh", "relu"]
init = "uniform"
dropout = [0, 0.5]
optimizer = ["adam", "sgd"]
learning-rate = [1e-3, 1e-4]
weight-decay = 1e-3
seed = { per-model = 10 }
[train]
epochs = 50
"#;

    fn plan(text: &str) -> Result<Plan, ManifestError> {
        Plan::new(&Manifest::parse("m.toml", text.into())?)
    }

    #[test]
    fn a_list_of_one_value_may_be_a_scalar() {
        let scalars = MANIFEST.replace("cnn-s\"", "mlp\"\nhidden = 5").replace("[\"tanh\", \"relu\"]", "\"tanh\"");
        let scalars = scalars.replace("[0, 0.5]", "0").replace("{ per-model = 10 }", "7");
        let lists = MANIFEST.replace("cnn-s\"", "mlp\"\nhidden = [5]").replace("[\"tanh\", \"relu\"]", "[\"tanh\"]");
        let lists = lists.replace("[0, 0.5]", "[0.0]").replace("{ per-model = 10 }", "[7]");
        let (scalars, lists) = (plan(&scalars).unwrap(), plan(&lists).unwrap());
        assert_eq!((&scalars, scalars.record().to_string()), (&lists, lists.record().to_string()));
        assert_eq!(scalars.model.hidden, [5]);
        let of = |hidden: &str| {
            let text = MANIFEST.replace("cnn-s\"", &format!("mlp\"\nhidden = {hidden}"));
            plan(&text).map(|plan| plan.model.hidden)
        };
        assert_eq!((of("[]").unwrap(), of("[6, 6]").unwrap()), (vec![], vec![6, 6]));
        for (hidden, message) in [
            ("-5", "must not be negative"),
            ("0", "must list at most 64 sizes from 1 to 65536"),
            ("\"a\"", "invalid type: string \"a\", expected an integer, 0 or above"),
            ("[6, true]", "invalid type: boolean `true`, expected an integer, 0 or above"),
            ("{ a = 1 }", "invalid type: map, expected a value or a list of values"),
        ] {
            assert_eq!(of(hidden).unwrap_err().to_string(), format!("m.toml:6: model.hidden: {message}"));
        }
    }

    /// 47,360 CNNs with 51 states each, 3,000 ResNet-18 with 50 or 60.
    #[test]
    fn the_papers_manifests_make_as_many_models_and_states_as_it_counts() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/paper");
        let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let (mut zoos, mut models, mut states) = (0, 0, 0);
        for path in paths.filter(|path| path.extension().is_some_and(|e| e == "toml")) {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let manifest = Manifest::parse(&name, std::fs::read_to_string(&path).unwrap()).unwrap();
            let plan = Plan::new(&manifest).unwrap();
            assert_eq!(plan.zoo.name, name);
            let dataset = name.split_once("-cnn-").or(name.split_once("-resnet18-")).unwrap().0;
            let expected = match (dataset, name.ends_with("-seed")) {
                (_, true) => 1_000,
                ("svhn", _) => 4_320,
                ("cifar10", _) => 1_280,
                _ => 2_560,
            };
            assert_eq!(plan.models.len(), expected, "{name}");
            zoos += 1;
            models += plan.models.len();
            states += plan.models.len() * plan.train.kept_epochs().len();
        }
        assert_eq!((zoos, models, states), (27, 50_360, 2_585_360));
    }

    fn error(from: &str, to: &str) -> String {
        assert!(MANIFEST.contains(from));
        plan(&MANIFEST.replace(from, to)).unwrap_err().to_string()
    }

    #[test]
    fn the_grid_expands_with_seeds_innermost() {
        let plan = plan(MANIFEST).unwrap();
        assert_eq!(plan.models.len(), 2 * 2 * 2 * 2 * 10);
        let first = &plan.models[0].hyperparameters;
        let last = &plan.models[159].hyperparameters;
        assert_eq!((first.activation, first.dropout, first.optimizer), (Activation::Tanh, 0.0, Optimizer::Adam));
        assert_eq!((last.activation, last.dropout, last.optimizer), (Activation::Relu, 0.5, Optimizer::Sgd));
        assert_eq!((first.momentum, last.momentum), (0.0, 0.9));
        assert_eq!(plan.models[9].hyperparameters.learning_rate, 1e-3);
        assert_eq!(plan.models[10].hyperparameters.learning_rate, 1e-4);
        let seeds: HashSet<u64> = plan.models.iter().map(|m| m.hyperparameters.seed).collect();
        assert_eq!(seeds.len(), 160, "each model has a seed of its own");
        assert_eq!(plan.train.kept_epochs().len(), 51);
    }

    #[test]
    fn seeds_can_be_a_range_or_a_list() {
        let ranged = plan(&MANIFEST.replace("{ per-model = 10 }", "{ range = [1, 1000] }")).unwrap();
        assert_eq!(ranged.models.len(), 16_000);
        assert_eq!(ranged.models[1999].hyperparameters.seed, 1000);
        let listed = plan(&MANIFEST.replace("{ per-model = 10 }", "[7, 3]")).unwrap();
        assert_eq!(listed.models[3].hyperparameters.seed, 3);
    }

    #[test]
    fn kept_epochs_end_with_the_last() {
        let every = plan(&MANIFEST.replace("epochs = 50", "epochs = 7\ncheckpoint-every = 3\nkeep-initial = false"));
        assert_eq!(every.unwrap().train.kept_epochs(), [3, 6, 7]);
    }

    #[test]
    fn a_reduction_spreads_over_the_plan_and_keeps_ids() {
        let mut manifest = Manifest::parse("m.toml", MANIFEST.into()).unwrap();
        let whole = Plan::new(&manifest).unwrap();
        manifest.reduction = Reduction { models: Some(4), epochs: Some(2), samples: None };
        let reduced = Plan::new(&manifest).unwrap();
        assert_eq!(reduced.models.iter().map(|m| m.id.0).collect::<Vec<_>>(), [0, 40, 80, 120]);
        assert_eq!(reduced.models[3].hyperparameters.seed, whole.models[120].hyperparameters.seed);
        assert_eq!(reduced.train.kept_epochs(), [0, 1, 2]);
        assert_eq!(reduced.record()["reduction"]["models"], 4);
    }

    #[test]
    fn impossible_values_name_line_and_key() {
        assert!(error("[0, 0.5]", "[0, 1.5]").starts_with("m.toml:9: grid.dropout: must be at least 0"));
        assert!(error("epochs = 50", "epochs = 0").starts_with("m.toml:15: train.epochs: must be from 1"));
        assert!(error("1e-3, 1e-4", "1e-3, -1").contains("grid.learning-rate: must be a finite number above 0"));
        assert!(error("\"uniform\"", "\"unifrom\"").contains("did you mean `uniform`?"));
        assert!(error("\"uniform\"", "[]").contains("the list is empty"));
        assert!(error("[\"tanh\", \"relu\"]", "[\"tanh\", \"tanh\"]").contains("twice"));
        assert!(error("per-model = 10", "per-modle = 10").contains("did you mean `per-model`?"));
        assert!(
            error("{ per-model = 10 }", "{ per-model = 1, range = [1, 2] }").contains("either `range` or `per-model`")
        );
        assert!(error("per-model = 10", "per-model = 999999").contains("more than 1000000 models"));
        assert!(error("{ per-model = 10 }", "{ range = [0, 9223372036854775807] }").contains("more than"));
        assert!(error("\"z\"", "\"../z\"").starts_with("m.toml:3: zoo.name: `../z` is not a valid zoo name"));
        assert!(error("\"cnn-s\"", "\"cnn-x\"").contains("unknown variant `cnn-x`"));
        assert!(error("\"cnn-s\"", "5").starts_with(
            "m.toml:5: model.architecture: invalid type: integer `5`, expected a name: one of `cnn-s`, `cnn-m`, `resnet18`, `mlp`"
        ));
        assert!(
            error("\"cnn-s\"", "\"cnn-s\"\nhidden = [5]").starts_with("m.toml:6: model.hidden: is only valid for mlp")
        );
        assert!(error("\"cnn-s\"", "\"mlp\"\nhidden = [0]").contains("sizes from 1 to 65536"));
        assert!(error("[\"tanh\", \"relu\"]", "5").contains("expected a name: one of `tanh`"));
        assert!(error("[\"tanh\", \"relu\"]", "[\"tanh\", 5]").contains("expected a name: one of `tanh`"));
        assert!(error("[\"tanh\", \"relu\"]", "\"ReLU\"").contains("did you mean `relu`?"));
        assert!(error("{ per-model = 10 }", "{ range = [1, 2, 3] }").contains("a range is [first, last], not 3 seeds"));
        assert!(error("{ per-model = 10 }", "{ range = [-1, 2] }").contains("must not be negative"));
        assert!(error("\"z\"", "\"z\"\ndescription = \"a\\u001b[2J\"").contains("zoo.description: must be one line"));
        assert!(error("\"z\"", "\"z\"\ndescription = \"a\\nb\"").contains("zoo.description: must be one line"));
        assert!(error("\"z\"", "\"z\"\nlicense = \"mine: all\"").contains("zoo.license: must be an SPDX identifier"));
        assert!(plan(&MANIFEST.replace("\"z\"", "\"z\"\nlicense = \"MIT OR (Apache-2.0 AND GPL-2.0+)\"")).is_ok());
    }

    #[test]
    fn what_a_manifest_leaves_out_has_the_published_values() {
        let plan = plan(&MANIFEST.replace("dropout = [0, 0.5]\n", "").replace("weight-decay = 1e-3\n", "")).unwrap();
        assert_eq!((plan.grid.dropout, plan.grid.weight_decay), (vec![0.0], vec![0.0]));
        assert_eq!((plan.zoo.license.as_str(), plan.zoo.description.as_str()), ("CC-BY-4.0", ""));
        let train = plan.train;
        assert_eq!((train.batch_size, train.momentum, train.checkpoint_every), (10, 0.9, 1));
        assert!(train.keep_initial && train.schedule.is_constant() && train.augment.is_none());
    }

    #[test]
    fn values_at_and_beyond_their_limits() {
        let of = |from: &str, to: &str| {
            assert!(MANIFEST.contains(from));
            plan(&MANIFEST.replace(from, to)).map(|_| ()).map_err(|e| e.message)
        };
        let decay = "a finite number, 0 or above";
        for (from, key, right, wrong, message) in [
            ("[0, 0.5]", "", &["0", "0.999"][..], &["1", "-0.1", "nan"][..], "at least 0 and below 1"),
            ("weight-decay = 1e-3", "weight-decay = ", &["0", "9"], &["-1e-9", "inf", "nan"], decay),
            ("[1e-3, 1e-4]", "", &["1e-30"], &["0", "inf", "nan"], "a finite number above 0"),
            ("epochs = 50", "epochs = 50\nmomentum = ", &["0", "0.99"], &["1", "-0.1"], "at least 0 and below 1"),
        ] {
            for value in right {
                assert_eq!(of(from, &format!("{key}{value}")), Ok(()), "{key}{value}");
            }
            for value in wrong {
                let error = of(from, &format!("{key}{value}")).unwrap_err();
                assert!(error.starts_with(&format!("must be {message}, not ")), "{key}{value}: {error}");
            }
        }
        let seed = |seed: &str| of("{ per-model = 10 }", seed);
        let one = |seed: &str| plan(&MANIFEST.replace("{ per-model = 10 }", seed)).unwrap().models.len() / 16;
        assert_eq!(
            ["7", "[7, 9]", "{ range = [5, 5] }", "{ range = [5, 7] }", "{ per-model = 1 }"].map(one),
            [1, 2, 1, 3, 1]
        );
        assert_eq!(seed("-1").unwrap_err(), "a seed must not be negative");
        assert_eq!(seed("{ range = [2, 1] }").unwrap_err(), "the range [2, 1] is empty");
        for n in ["0", "1000001"] {
            let error = seed(&format!("{{ per-model = {n} }}")).unwrap_err();
            assert_eq!(error, format!("per-model must be from 1 to 1000000, not {n}"));
        }
        assert!(seed("'x'").unwrap_err().contains("expected a seed, a list of seeds, { range = [first, last] }"));
        assert!(seed("{ per-model = 62501 }").unwrap_err().contains("more than 1000000 models"));
        let augment = "epochs = 50\naugment = { rotation = 181 }";
        assert_eq!(of("epochs = 50", augment).unwrap_err(), "rotation must be from 0 to 180 degrees, not 181");
        let license = of("\"z\"", "\"z\"\nlicense = \"\"").unwrap_err();
        assert!(license.starts_with("must be an SPDX identifier"));
    }

    #[test]
    fn a_cut_to_no_or_too_many_models_leaves_one_or_all() {
        let mut manifest = Manifest::parse("m.toml", MANIFEST.into()).unwrap();
        for (models, left) in [(0, 1), (1, 1), (160, 160), (1000, 160)] {
            manifest.reduction.models = Some(models);
            assert_eq!(Plan::new(&manifest).unwrap().models.len(), left);
        }
    }

    #[test]
    fn seeds_are_read_from_json_as_they_are_written() {
        for seeds in [Seeds::List(vec![7, u64::MAX]), Seeds::Range([1, 5]), Seeds::PerModel(3)] {
            let json = serde_json::to_string(&seeds).unwrap();
            assert_eq!(serde_json::from_str::<Seeds>(&json).unwrap(), seeds, "{json}");
        }
        assert_eq!(serde_json::from_str::<Seeds>("18446744073709551615").unwrap(), Seeds::List(vec![u64::MAX]));
    }

    #[test]
    fn drawn_seeds_are_below_a_million_and_differ() {
        let drawn = Seeds::PerModel(2).draw(1000);
        assert!(drawn.iter().all(|&seed| seed < 1_000_000));
        assert_eq!(drawn.iter().collect::<HashSet<_>>().len(), 1000);
    }

    #[test]
    fn names_of_zoos_are_names_of_folders() {
        for right in ["z", "0", "a.b_c-d", &"n".repeat(100)] {
            assert_eq!(check_zoo_name(right), Ok(()));
        }
        for wrong in ["", ".", "-z", "_z", "a b", "a/b", "é", &"n".repeat(101)] {
            assert!(check_zoo_name(wrong).unwrap_err().contains("is not a valid zoo name"), "{wrong}");
        }
    }
}
