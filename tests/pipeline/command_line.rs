//! Help, completions, and failures with `--json`.

use std::path::Path;

use zoo_test::program::shell_command;
use zoo_test::{failures, insta, snapshot, Outcome};

use crate::TinyZoo;

const ZOO: &str = env!("CARGO_BIN_EXE_zoo");

#[test]
fn help_is_as_in_the_snapshots() {
    let commands = [
        "",
        "run",
        "plan",
        "status",
        "data",
        "data fetch",
        "train",
        "train merge",
        "sparsify",
        "pack",
        "verify",
        "analyze",
        "benchmark",
    ];
    for command in commands {
        let name = format!("zoo {command}").trim().replace(' ', "-");
        insta::assert_snapshot!(name, snapshot::help(ZOO, command));
    }
}

#[test]
fn a_failure_is_an_object_with_json() {
    failures::are_objects_with_json(
        ZOO,
        &[
            ("run m.toml", 2, "manifest"),
            ("plan m.toml", 2, "manifest"),
            ("status m.toml", 2, "manifest"),
            ("pack nowhere -o a.tar.gz", 1, "failed"),
            ("benchmark nowhere", 1, "failed"),
            ("analyze nowhere -o a.txt", 2, "usage"),
        ],
    );
}

#[test]
fn every_command_has_completions() {
    let work = TinyZoo::new();
    let completions = work.ok("--completions bash");
    assert!(completions.contains("complete"));
    for command in ["run", "plan", "status", "data", "data fetch", "train", "sparsify", "pack", "verify", "analyze"] {
        assert!(work.ok(&format!("{command} --completions bash")) == completions, "{command}");
    }
    let piped = |to: &str| {
        let script = format!("'{ZOO}' --completions bash {to}; echo ${{PIPESTATUS[0]}}");
        let outcome = Outcome::of(&mut shell_command(&script, Path::new(".")));
        (outcome.stdout.trim().to_owned(), outcome.stderr)
    };
    let (code, said) = piped("| true");
    assert!(code == "0" && said.is_empty(), "{code} {said}");
    let (code, said) = piped("> /dev/full");
    assert!(code == "1" && said.contains("cannot write to standard output") && !said.contains("panicked"), "{said}");
}

#[test]
fn a_file_beyond_the_limit_on_its_size_is_a_failure_with_a_message() {
    let work = TinyZoo::new();
    let script = format!("ulimit -f 1; exec '{ZOO}' data tiny.toml -o d.safetensors");
    let said = Outcome::of(&mut shell_command(&script, &work.path("."))).fails(1);
    assert!(said.contains("cannot write"), "{said}");
}
