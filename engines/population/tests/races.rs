//! The CUDA kernels under ThreadSanitizer: a block's threads as threads of the processor, its
//! barriers as theirs.

use std::path::Path;
use std::process::Command;

use zoo_engine_population::cuda::source::model_kernels;
use zoo_model::{Activation, Architecture, Hyperparameters, Optimizer};

/// Output of the kernels for such models, and whether they raced.
fn run(h: &Hyperparameters, shape: [usize; 3], change: impl Fn(&str) -> String) -> (String, bool) {
    let dir = tempfile::tempdir().unwrap();
    let kernels = model_kernels(h, &h.network(shape, 10).unwrap()).unwrap();
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::write(dir.path().join("kernels.cu"), change(&kernels.source.text)).unwrap();
    let program = dir.path().join("races");
    let compiled = Command::new("cc")
        .args([
            "-O1",
            "-g",
            "-fsanitize=thread",
            "-march=native",
            "-ffp-contract=off",
            "-fno-strict-aliasing",
            "-fwrapv",
        ])
        .arg(format!("-DSHIM=\"{}\"", package.join("../cuda/src/shim.h").display()))
        .args(["-w", "-DSHIM_THREADS", "-DKERNELS=\"kernels.cu\"", "-I"])
        .args([dir.path(), &package.join("tests/races/main.c"), Path::new("-o"), &program])
        .args(["-lm", "-lpthread"])
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let output = Command::new(program).env("TSAN_OPTIONS", "exitcode=66 halt_on_error=1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let raced = output.status.code() == Some(66) && said.contains("data race");
    assert!(raced || output.status.success(), "{said}");
    (String::from_utf8_lossy(&output.stdout).into_owned(), raced)
}

fn hyperparameters() -> Hyperparameters {
    Hyperparameters {
        activation: Activation::Tanh,
        optimizer: Optimizer::Adam,
        dropout: 0.5,
        ..Hyperparameters::default()
    }
}

#[test]
fn the_threads_of_a_block_do_not_race() {
    let small = hyperparameters();
    let (said, raced) = run(&small, [1, 28, 28], str::to_owned);
    assert!(!raced && said.contains("loss"), "{said}");
    let large = Hyperparameters { architecture: Architecture::CnnM, optimizer: Optimizer::Sgd, ..small };
    assert!(!run(&large, [3, 32, 32], str::to_owned).1);
}

#[test]
fn a_missing_barrier_is_found() {
    // The first one after the image is loaded.
    let load = "load_image(images, sample, S(INPUT));\n";
    let barrier = format!("{load}            __syncthreads();\n");
    let change = |kernels: &str| {
        assert!(kernels.contains(&barrier));
        kernels.replacen(&barrier, load, 1)
    };
    assert!(run(&hyperparameters(), [1, 28, 28], change).1);
}
