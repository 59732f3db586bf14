//! Compiles the CUDA kernels of every kind of model to PTX, for which NVRTC is needed and no GPU:
//! `cargo run --release -p zoo-train --example compile_kernels -- FOLDER CAPABILITY...`, such as
//! `ptx 80 90`. Fails if a kernel does not compile.

use std::path::PathBuf;
use std::process::ExitCode;

use zoo_model::{Activation, Architecture, Hyperparameters, Optimizer};
use zoo_train::population_engine::cuda::gpu::compile;
use zoo_train::population_engine::cuda::source::source;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(folder) = arguments.next().map(PathBuf::from) else {
        eprintln!("usage: compile_kernels FOLDER CAPABILITY...");
        return ExitCode::from(2);
    };
    let capabilities: Vec<u32> = arguments.filter_map(|a| a.parse().ok()).collect();
    match compile_all(&folder, &capabilities) {
        Ok(count) if count > 0 => {
            println!("{count} programs of {} kernels compiled", 5);
            ExitCode::SUCCESS
        }
        Ok(_) => {
            eprintln!("nothing to compile: name capabilities, such as 80 90");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Compiles every kind for each capability; returns how many programs that made.
fn compile_all(folder: &std::path::Path, capabilities: &[u32]) -> Result<usize, Box<dyn std::error::Error>> {
    use Activation::*;
    std::fs::create_dir_all(folder)?;
    let mut count = 0;
    let shapes =
        [(Architecture::CnnS, [1, 28, 28]), (Architecture::CnnS, [3, 28, 28]), (Architecture::CnnM, [3, 32, 32])];
    for (architecture, shape) in shapes {
        for (i, activation) in [Tanh, Relu, Sigmoid, Gelu, LeakyRelu, Silu].into_iter().enumerate() {
            // Optimisers and dropout do not depend on the activation: each pair once with one.
            let pairs = [(Optimizer::Adam, 0.0), (Optimizer::Adam, 0.5), (Optimizer::Sgd, 0.0), (Optimizer::Sgd, 0.5)];
            for (optimizer, dropout) in if i == 0 { pairs.to_vec() } else { vec![pairs[0], pairs[3]] } {
                let h = Hyperparameters { architecture, activation, optimizer, dropout, ..Hyperparameters::default() };
                let source = source(&h, &h.network(shape, 10)?).ok_or("the kernels do not fit the network")?;
                for &capability in capabilities {
                    let ptx = compile(&source, capability)?;
                    let dropped = if dropout > 0.0 { "-dropout" } else { "" };
                    let name =
                        format!("{architecture:?}-{}-{activation:?}-{optimizer:?}{dropped}-{capability}.ptx", shape[0]);
                    std::fs::write(folder.join(name.to_lowercase()), ptx.to_src())?;
                    count += 1;
                }
            }
        }
    }
    Ok(count)
}
