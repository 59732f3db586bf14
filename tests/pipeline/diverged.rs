//! Models that diverge.

use zoo_test::files;

use crate::TinyZoo;

#[test]
fn diverged_models_are_marked_and_every_stage_copes() {
    let work = TinyZoo::new();
    work.ok("run tiny.toml");
    let diverged = work.json_file("zoos/tiny/zoo.json")["diverged"].as_u64().unwrap();
    assert!(diverged > 0 && diverged < 8, "the manifest is made so that some models diverge: {diverged}");
    let all = files(&work.path("zoos/tiny"));
    let results = all.iter().filter(|(path, _)| path.ends_with("result.json"));
    let lines: Vec<String> = results.map(|(_, text)| String::from_utf8(text.clone()).unwrap()).collect();
    assert_eq!(lines.iter().filter(|l| l.contains("\"diverged\":true")).count() as u64, diverged);
    assert!(lines.iter().any(|l| l.contains("\"test_loss\":null")));
    work.ok("verify zoos/tiny zoos/tiny-magnitude-80 --replay 8 --data data/tiny.safetensors");
    work.ok("verify archives/tiny.tar.gz archives/tiny-magnitude-80.tar.gz");
}
