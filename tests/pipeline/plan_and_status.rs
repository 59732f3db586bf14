//! What `zoo plan` and `zoo status` say.

use std::fs;

use serde_json::Value;
use zoo_test::files;

use crate::TinyZoo;

#[test]
fn a_plan_counts_without_training() {
    let work = TinyZoo::new();
    let plan = work.json("plan tiny.toml --json");
    let zoo = &plan["zoos"][0];
    assert_eq!((&zoo["models"], &zoo["states"], &zoo["twin_states"]), (&8.into(), &56.into(), &24.into()));
    assert_eq!((&zoo["parameters"], &plan["total"]["zoos"]), (&2464.into(), &1.into()));
    assert!(zoo["seconds"].as_f64().unwrap() > 0.0);
    let text = work.ok("plan tiny.toml");
    assert!(text.contains("\n1 zoo ") && text.ends_with("80 states in all\n"), "{text}");
    assert_eq!(fs::read_dir(work.root()).unwrap().count(), 1, "a plan makes nothing");
    work.ok("run tiny.toml -q");
    let bytes: u64 = ["tiny", "tiny-magnitude-80"]
        .iter()
        .flat_map(|zoo| files(&work.path("zoos").join(zoo)))
        .filter(|(path, _)| path.ends_with("states.safetensors"))
        .map(|(_, content)| content.len() as u64)
        .sum();
    assert_eq!(zoo["bytes"], bytes);
}

#[test]
fn status_tells_whose_an_output_is() {
    let work = TinyZoo::new();
    let text = work.text("tiny.toml");
    work.write("other.toml", text.replace("\"tiny\"", "\"other\""));
    let status = work.json("status tiny.toml other.toml --json");
    let line = |o: &Value| ["stage", "manifest", "zoo", "twin"].map(|key| o[key].as_str().map(str::to_owned));
    let lines: Vec<_> = status["outputs"].as_array().unwrap().iter().map(line).collect();
    let mut expected = Vec::new();
    for zoo in ["tiny", "other"] {
        let (manifest, twin) = (format!("{zoo}.toml"), format!("{zoo}-magnitude-80"));
        for (stage, twin) in
            [("data", None), ("train", None), ("sparsify", Some(&twin)), ("pack", None), ("pack", Some(&twin))]
        {
            expected.push([Some(stage.into()), Some(manifest.clone()), Some(zoo.into()), twin.cloned()]);
        }
    }
    assert_eq!(lines, expected);
}

#[test]
fn volumes_are_reported_by_the_files_that_are_there() {
    let work = TinyZoo::new();
    work.edit("[[sparsify]]", "[pack]\nvolume-size = \"1MiB\"\n\n[[sparsify]]");
    work.edit("epochs = 6", "epochs = 20");
    let outputs = |command: &str, list: &str| -> Vec<(String, String)> {
        let answer = work.json(command);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        answer[list].as_array().unwrap().iter().map(|o| (text(&o["stage"]), text(&o["output"]))).collect()
    };
    let run = outputs("run tiny.toml --json", "steps");
    let packed = |all: &[(String, String)]| -> Vec<String> {
        all.iter().filter(|(stage, _)| stage == "pack").map(|(_, output)| output.clone()).collect()
    };
    assert!(run.iter().all(|(_, output)| work.path(output).exists()), "{run:?}");
    assert!(packed(&run).len() > 2 && packed(&run)[0].contains("tiny.1-of-"), "{run:?}");
    assert_eq!(packed(&outputs("status tiny.toml --json", "outputs")), packed(&run));
    work.edit("epochs = 20", "epochs = 19");
    assert_eq!(packed(&outputs("status tiny.toml --json", "outputs")), packed(&run), "stale, but there");
}
