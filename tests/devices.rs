//! `--device`, end to end, on machines without a GPU: the program finds a libcuda and a libnvrtc made
//! for the test (`tests/fake_cuda`), which run the kernels on the processor.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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

struct Workplace {
    dir: tempfile::TempDir,
}

impl Workplace {
    /// With fake libraries in `driver` and `nvrtc`.
    fn new() -> Self {
        let workplace = Self { dir: tempfile::tempdir().unwrap() };
        fs::write(workplace.path("tiny.toml"), MANIFEST).unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let shim = root.join("zoo-train/src/population_engine/cuda/shim.h");
        for (source, library) in [("driver", "libcuda.so"), ("nvrtc", "libnvrtc.so")] {
            let folder = workplace.path(source);
            fs::create_dir(&folder).unwrap();
            let compiled = Command::new("cc")
                .args(["-O1", "-shared", "-fPIC", "-Wall", "-Werror", "-o"])
                .arg(folder.join(library))
                .arg(format!("-DSHIM=\"{}\"", shim.display()))
                .arg(root.join(format!("tests/fake_cuda/{source}.c")))
                .args(["-ldl", "-lpthread"])
                .status();
            assert!(compiled.unwrap().success(), "{source}");
        }
        // A library of the right name, and nothing in it.
        fs::create_dir(workplace.path("foreign")).unwrap();
        let foreign = workplace.path("foreign/libcuda.so");
        let nothing = Command::new("cc").args(["-shared", "-x", "c", "/dev/null", "-o"]).arg(foreign).status();
        assert!(nothing.unwrap().success());
        workplace
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// `zoo run` into a root, with libraries from these folders and these settings.
    fn run(&self, root: &str, device: &str, libraries: &[&str], settings: &[(&str, &str)]) -> Output {
        let folders: Vec<String> = libraries.iter().map(|l| self.path(l).display().to_string()).collect();
        Command::new(env!("CARGO_BIN_EXE_zoo"))
            .args(["run", "tiny.toml", "--samples", "20", "--root", root, "--device", device, "--threads", "2"])
            .current_dir(self.dir.path())
            .env("LD_LIBRARY_PATH", folders.join(":"))
            .env("FAKE_CACHE", self.dir.path())
            .envs(settings.iter().copied())
            .output()
            .unwrap()
    }

    /// Name and content of every archive.
    fn archives(&self, root: &str) -> Vec<(String, Vec<u8>)> {
        let entries = fs::read_dir(self.path(root).join("archives")).unwrap();
        let file = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
        let mut files: Vec<_> = entries.map(|entry| file(entry.unwrap())).collect();
        files.sort();
        files
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn archives_are_the_same_from_every_device() {
    let workplace = Workplace::new();
    let both = ["driver", "nvrtc"];
    let cpu = workplace.run("cpu", "cpu", &[], &[]);
    assert!(cpu.status.success(), "{}", stderr(&cpu));
    let expected = workplace.archives("cpu");
    assert_eq!(expected.len(), 8);
    // One GPU; two; two with room for few models; and what auto finds.
    let gpus = workplace.run("one", "cuda:0", &both, &[]);
    assert!(gpus.status.success(), "{}", stderr(&gpus));
    assert!(workplace.archives("one") == expected);
    for (root, device, settings) in [
        ("all", "cuda", vec![("FAKE_GPUS", "2")]),
        ("small", "cuda", vec![("FAKE_GPUS", "2"), ("FAKE_MEMORY", "1000000")]),
        ("auto", "auto", vec![]),
    ] {
        let output = workplace.run(root, device, &both, &settings);
        assert!(output.status.success(), "{root}: {}", stderr(&output));
        assert!(workplace.archives(root) == expected, "{root}");
        assert_eq!(device == "auto", stderr(&output).contains("training on cuda:0 (Fake 0)"), "{}", stderr(&output));
    }
}

#[test]
fn what_is_missing_is_said_in_one_sentence() {
    let workplace = Workplace::new();
    let cases = [
        ("cuda:0", vec![], vec![], "there is no NVIDIA driver"),
        (
            "cuda",
            vec!["foreign"],
            vec![],
            "libcuda.so is not the one of NVIDIA that is needed: it has no cuDriverGetVersion",
        ),
        ("cuda", vec!["driver"], vec![("FAKE_GPUS", "0")], "there is no GPU"),
        ("cuda", vec!["driver"], vec![("FAKE_VERSION", "11040")], "supports CUDA 11.4, and 12.1 is needed"),
        (
            "cuda",
            vec!["driver", "nvrtc"],
            vec![("FAKE_VERSION", "12040")],
            "NVRTC 13.0 is newer than the NVIDIA driver",
        ),
        ("cuda:1", vec!["driver", "nvrtc"], vec![], "there is no cuda:1: there is one GPU, cuda:0"),
        ("cuda:0", vec!["driver"], vec![], "there is no NVRTC"),
        ("cuda", vec!["driver", "nvrtc"], vec![("FAKE_FAULT", "1")], "an illegal memory access"),
        ("cuda", vec!["driver", "nvrtc"], vec![("FAKE_MEMORY", "100000")], "has no room for"),
    ];
    for (device, libraries, settings, expected) in cases {
        let output = workplace.run("missing", device, &libraries, &settings);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{expected}: {message}");
        let errors: Vec<&str> = message.lines().filter(|l| l.starts_with("zoo: ")).collect();
        assert!(errors.len() == 1 && errors[0].contains(expected), "{expected}: {message}");
        assert!(!message.contains("panicked"), "{message}");
    }
    // auto goes on with the processor, and says why.
    let auto = [
        (vec![], vec![], "training on the processor: there is no NVIDIA driver"),
        (vec!["driver"], vec![], "training on the processor: there is no NVRTC"),
        (vec!["foreign"], vec![], "training on the processor: libcuda.so is not"),
        (vec!["driver", "nvrtc"], vec![("FAKE_SHARED", "1000")], "needs"),
        (
            vec!["driver", "nvrtc"],
            vec![("FAKE_FAULT", "1")],
            "training on the processor: cuda:0 (Fake 0): a kernel failed",
        ),
    ];
    for (i, (libraries, settings, expected)) in auto.into_iter().enumerate() {
        let output = workplace.run(&format!("auto-{i}"), "auto", &libraries, &settings);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{expected}: {}", stderr(&output));
    }
    assert!(workplace.archives("auto-0") == workplace.archives("auto-4"));
}
