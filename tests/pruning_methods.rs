//! A pruning method from outside this repository's crates, through all stages.

use std::ffi::{OsStr, OsString};
use std::fs;

use clap::Parser;
use zoo::CommandSummary;
use zoo_model::stage::Stage;
use zoo_model::{Manifest, ModelId, ZooDir};
use zoo_sparsify::{register, twins, RegistrationError};

#[path = "../examples/random_pruning.rs"]
#[allow(dead_code)]
mod random_pruning;

const MANIFEST: &str = r#"
[zoo]
name = "tiny"

[data]
dataset = "digits"
train = 60
val = 20

[model]
architecture = "cnn-s"

[grid]
activation = "tanh"
init = "kaiming_uniform"
optimizer = "adam"
learning-rate = 0.003
seed = [1, 2]

[train]
epochs = 2

[[sparsify]]
method = "random"
sparsity = [0.25, 0.75]
epochs = 2
learning-rate = 0.001
"#;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: zoo::Args,
}

fn run(args: &[OsString]) -> anyhow::Result<CommandSummary> {
    let args = std::iter::once(OsStr::new("zoo")).chain(args.iter().map(OsString::as_os_str));
    zoo::run(&Cli::parse_from(args).args, &Stage::silent())
}

#[test]
fn a_custom_method_goes_through_all_stages() {
    let root = tempfile::tempdir().unwrap();
    let path = |path: &str| root.path().join(path).into_os_string();
    fs::write(path("m.toml"), MANIFEST).unwrap();
    let manifest = Manifest::load(&root.path().join("m.toml")).unwrap();
    let unknown = twins(&manifest).unwrap_err().to_string();
    assert!(unknown.contains("sparsify.method: unknown variant `random`, expected `magnitude`"), "{unknown}");
    register(&random_pruning::RandomMethod).unwrap();
    assert_eq!(register(&random_pruning::RandomMethod), Err(RegistrationError::Name("random")));
    let scope = MANIFEST.replace("epochs = 2\nlearning", "scope = \"layer\"\nlearning");
    let foreign = twins(&Manifest::parse("m.toml", scope).unwrap()).unwrap_err().to_string();
    assert!(
        foreign.contains("sparsify.scope: applies to magnitude pruning only; random pruning has no such key"),
        "{foreign}"
    );

    let here = [path("m.toml"), "--root".into(), root.path().into()];
    let with = |command: &str| [&[command.into()], &here[..]].concat();
    let CommandSummary::Plan(plan) = run(&with("plan")).unwrap() else { panic!("no plan") };
    assert_eq!((plan.total.models, plan.total.states, plan.total.twin_states), (2, 6, 12));
    run(&with("run")).unwrap();
    let CommandSummary::Run(again) = run(&with("run")).unwrap() else { panic!("no run") };
    assert!(again.steps.iter().all(|step| step.up_to_date || step.stage == "verify"), "{again}");

    let [few, most] = ["tiny-random-25", "tiny-random-75"].map(|name| ZooDir::new(root.path().join("zoos").join(name)));
    let record = most.record().unwrap().unwrap();
    assert_eq!(
        record.manifest["sparsify"].to_string(),
        r#"{"method":"random","sparsity":0.75,"epochs":2,"learning-rate":0.001}"#
    );
    assert!(record.description.starts_with("Sparse twins of tiny: random pruning of a share of 0.75"));
    for (zoo, sparsity) in [(&few, 0.25), (&most, 0.75)] {
        let params = zoo.params(ModelId(1)).unwrap();
        assert_eq!((&params.extra["sparsify::method"], params.target_sparsity()), (&"random".into(), Some(sparsity)));
        for line in zoo.results(ModelId(1)).unwrap() {
            assert!((line.sparsity_ratio.unwrap() - sparsity).abs() < 1e-3, "{line:?}");
        }
    }

    let data = path("data/tiny.safetensors");
    let verify = |zoo: &ZooDir| {
        let flags = ["--retrain".into(), "1".into(), "--data".into(), data.clone()];
        run(&[&["verify".into(), zoo.path().into()], &flags[..]].concat())
    };
    let CommandSummary::Verify(verdict) = verify(&most).unwrap() else { panic!("no verdict") };
    assert!(verdict.ok && verdict.reports[0].retrained.len() == 1, "{verdict}");
    let mut otherwise = record;
    otherwise.manifest["sparsify"]["sparsity"] = 0.5.into();
    most.finish(&otherwise).unwrap();
    let error = verify(&most).unwrap_err().to_string();
    assert!(error.contains("verification failed"), "{error}");
}
