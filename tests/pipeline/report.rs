//! Reports of real zoos.

use crate::TinyZoo;

#[test]
fn archives_give_the_report_of_their_directories() {
    let work = TinyZoo::new();
    work.prepare();
    work.ok("train tiny.toml --data d.safetensors -o one");
    work.ok("sparsify tiny.toml --data d.safetensors --zoo one -o twin-one --twin magnitude-80");
    for zoo in ["one", "twin-one"] {
        work.ok(&format!("pack {zoo} -o {zoo}.tar.gz"));
    }
    // A report of the zoo, its twins and its images, from archives as from directories.
    work.ok("analyze one twin-one --data d.safetensors -o report.html --no-trees");
    work.ok("analyze one.tar.gz twin-one.tar.gz --data d.safetensors -o again.html --no-trees");
    for file in ["report.json", "twins.svg", "map.svg", "hyperparameters.svg"] {
        assert!(work.text(format!("report/{file}")) == work.text(format!("again/{file}")), "{file} differs");
    }
    let report = work.json_file("report/report.json");
    let diversity = &report["diversity"];
    let twins = &diversity["twins"][0];
    assert!((twins["sparsity"]["mean"].as_f64().unwrap() - 0.8).abs() < 0.01, "{twins}");
    assert_eq!(twins["layers"].as_array().unwrap().len(), 5);
    let behaviour = &diversity["behaviour"];
    assert_eq!(behaviour["cka"].as_array().unwrap().len(), 5, "{behaviour}");
    let shares = [&behaviour["agreement"], &behaviour["cka"][0], &twins["agreement"]];
    assert!(shares.iter().all(|d| (0.0..=1.0 + 1e-6).contains(&d["mean"].as_f64().unwrap())), "{shares:?}");
    let last = diversity["epochs"].as_array().unwrap().last().unwrap();
    assert_eq!(last[0], 6);
    assert!(work.ok("benchmark one --no-trees").contains("test accuracy"));
}
