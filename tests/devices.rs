//! `--device`, end to end, on machines without a GPU: the program finds a libcuda and a libnvrtc made
//! for the test (`tests/fake_cuda`), which run the kernels on the processor.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use zoo_test::reference::repository;
use zoo_test::{files, tool, Outcome, Workspace};

/// Models of four kinds, and twins by a mask, a ramp and noise.
const MANIFEST: &str = r#"
[zoo]
name = "tiny"
description = "Models for a test."

[data]
dataset = "digits"
train = 100
val = 8

[model]
architecture = "cnn-s"

[grid]
activation = ["relu", "gelu"]
init = ["kaiming_uniform", "normal"]
dropout = [0.0, 0.3]
optimizer = "sgd"
learning-rate = 0.05
seed = [1, 2]

[train]
epochs = 2
batch-size = 8

[[sparsify]]
method = "magnitude"
sparsity = 0.8
epochs = 1

[[sparsify]]
method = "magnitude"
sparsity = 0.5
schedule = "cubic"
epochs = 2

[[sparsify]]
method = "variational-dropout"
epochs = 1
"#;

/// A model of the layered engine, and a twin by noise.
const LAYERED: &str = r#"
[zoo]
name = "layered"
description = "A model for a test."

[data]
dataset = "digits"
train = 100
val = 8

[model]
architecture = "mlp"
hidden = [12]

[grid]
activation = "silu"
init = "kaiming_uniform"
dropout = 0.2
optimizer = "adam"
learning-rate = 0.001
seed = [1, 2, 3]

[train]
epochs = 2
batch-size = 8

[[sparsify]]
method = "variational-dropout"
epochs = 1
"#;

/// A workspace with fake libraries in `driver` and `nvrtc`, and a foreign one.
struct Machine(Workspace);

impl Machine {
    fn new() -> Self {
        let work = Workspace::new(env!("CARGO_BIN_EXE_zoo"));
        work.write("tiny.toml", MANIFEST);
        work.write("layered.toml", LAYERED);
        let root = repository();
        let shim = root.join("engines/cuda/src/shim.h");
        for (source, library) in [("driver", "libcuda.so"), ("nvrtc", "libnvrtc.so")] {
            let mut compiler = c_compiler();
            compiler.args(["-O1", "-shared", "-fPIC", "-Wall", "-Werror", "-o"]);
            compiler.arg(work.write(format!("{source}/{library}"), ""));
            compiler.arg(format!("-DSHIM=\"{}\"", shim.display()));
            compiler.arg(root.join(format!("tests/fake_cuda/{source}.c"))).args(["-ldl", "-lpthread"]);
            Outcome::of(&mut compiler).ok();
        }
        // A library of the right name, and nothing in it.
        let mut compiler = c_compiler();
        compiler.args(["-shared", "-x", "c", "/dev/null", "-o"]).arg(work.write("foreign/libcuda.so", ""));
        Outcome::of(&mut compiler).ok();
        Self(work)
    }

    /// `zoo run` into a root, with libraries from these folders and these settings.
    fn run(&self, root: &str, device: &str, libraries: &[&str], settings: &[(&str, &str)]) -> Outcome {
        self.run_manifest("tiny.toml", root, device, libraries, settings)
    }

    fn run_manifest(
        &self,
        manifest: &str,
        root: &str,
        device: &str,
        libraries: &[&str],
        settings: &[(&str, &str)],
    ) -> Outcome {
        let folders: Vec<String> = libraries.iter().map(|l| self.0.path(l).display().to_string()).collect();
        let args = ["run", manifest, "--samples", "20", "--root", root, "--device", device, "--threads", "2"];
        let mut command = self.0.command(&args);
        command.env("LD_LIBRARY_PATH", folders.join(":")).env("FAKE_CACHE", self.0.root());
        Outcome::of(command.envs(settings.iter().copied()))
    }

    /// Name and content of every archive.
    fn archives(&self, root: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        files(&self.0.path(root).join("archives"))
    }
}

fn c_compiler() -> Command {
    tool("cc", "install a C compiler, such as gcc")
}

#[test]
fn archives_are_the_same_from_every_device() {
    let machine = Machine::new();
    let both = ["driver", "nvrtc"];
    machine.run("cpu", "cpu", &[], &[]).ok();
    let expected = machine.archives("cpu");
    assert_eq!(expected.len(), 8);
    // One GPU; two; two with room for few models; and what auto finds.
    machine.run("one", "cuda:0", &both, &[]).ok();
    assert!(machine.archives("one") == expected);
    for (root, device, settings) in [
        ("all", "cuda", vec![("FAKE_GPUS", "2")]),
        ("small", "cuda", vec![("FAKE_GPUS", "2"), ("FAKE_MEMORY", "1000000")]),
        ("auto", "auto", vec![]),
    ] {
        let outcome = machine.run(root, device, &both, &settings);
        outcome.ok();
        assert!(machine.archives(root) == expected, "{root}");
        let told = outcome.stderr.contains("training on cuda:0 (Fake 0)");
        assert_eq!(device == "auto", told, "{}", outcome.stderr);
    }
}

#[test]
fn archives_of_the_layered_engine_are_the_same_from_every_device() {
    let machine = Machine::new();
    machine.run_manifest("layered.toml", "cpu", "cpu", &[], &[]).ok();
    let expected = machine.archives("cpu");
    assert_eq!(expected.len(), 4);
    for (root, device, settings) in [("one", "cuda:0", vec![]), ("all", "cuda", vec![("FAKE_GPUS", "2")])] {
        machine.run_manifest("layered.toml", root, device, &["driver", "nvrtc"], &settings).ok();
        assert!(machine.archives(root) == expected, "{root}");
    }
}

#[test]
fn what_is_missing_is_said_in_one_sentence() {
    let machine = Machine::new();
    let cases = [
        ("cuda:0", vec![], vec![], "no NVIDIA driver was found"),
        ("cuda", vec!["foreign"], vec![], "libcuda.so is not a suitable NVIDIA library: it lacks cuDriverGetVersion"),
        ("cuda", vec!["driver"], vec![("FAKE_GPUS", "0")], "no GPU found by the NVIDIA driver"),
        ("cuda", vec!["driver"], vec![("FAKE_VERSION", "11040")], "supports CUDA 11.4, and 12.1 is needed"),
        (
            "cuda",
            vec!["driver", "nvrtc"],
            vec![("FAKE_VERSION", "12040")],
            "NVRTC 13.0 is newer than the NVIDIA driver",
        ),
        ("cuda:1", vec!["driver", "nvrtc"], vec![], "there is no cuda:1: there is one GPU, cuda:0"),
        ("cuda:0", vec!["driver"], vec![], "NVRTC was not found"),
        ("cuda", vec!["driver", "nvrtc"], vec![("FAKE_FAULT", "1")], "an illegal memory access"),
        ("cuda", vec!["driver", "nvrtc"], vec![("FAKE_MEMORY", "100000")], "is out of memory ("),
    ];
    for (device, libraries, settings, expected) in cases {
        let message = machine.run("missing", device, &libraries, &settings).fails(1);
        let errors: Vec<&str> = message.lines().filter(|l| l.starts_with("zoo: ")).collect();
        assert!(errors.len() == 1 && errors[0].contains(expected), "{expected}: {message}");
    }
    // auto falls back to the processor, and says why.
    let auto = [
        (vec![], vec![], "training on the processor: no NVIDIA driver was found"),
        (vec!["driver"], vec![], "training on the processor: NVRTC was not found"),
        (vec!["foreign"], vec![], "training on the processor: libcuda.so is not"),
        (vec!["driver", "nvrtc"], vec![("FAKE_SHARED", "1000")], "needs"),
        (
            vec!["driver", "nvrtc"],
            vec![("FAKE_FAULT", "1")],
            "training on the processor: cuda:0 (Fake 0): a kernel failed",
        ),
    ];
    for (i, (libraries, settings, expected)) in auto.into_iter().enumerate() {
        let outcome = machine.run(&format!("auto-{i}"), "auto", &libraries, &settings);
        outcome.ok();
        assert!(outcome.stderr.contains(expected), "{expected}: {}", outcome.stderr);
    }
    assert!(machine.archives("auto-0") == machine.archives("auto-4"));
}
