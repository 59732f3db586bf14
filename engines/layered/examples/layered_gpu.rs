//! `layered_gpu compile FOLDER CAPABILITY...`: the layered engine's kernels to PTX (NVRTC suffices).

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use zoo_engine_cuda::gpu::compile;
use zoo_engine_layered::cuda::source::kernel_source;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<u32> = arguments.iter().filter_map(|a| a.parse().ok()).collect();
    let outcome = match arguments.first().map(String::as_str) {
        Some("compile") if arguments.len() > 2 => compile_all(Path::new(&arguments[1]), &numbers),
        _ => {
            eprintln!("usage: layered_gpu compile FOLDER CAPABILITY...");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("layered_gpu: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compile_all(folder: &Path, capabilities: &[u32]) -> Result<(), Box<dyn Error>> {
    if capabilities.is_empty() {
        return Err("name capabilities, such as 80 90".into());
    }
    std::fs::create_dir_all(folder)?;
    let source = kernel_source();
    std::fs::write(folder.join("layered.cu"), &source.text)?;
    for &capability in capabilities {
        std::fs::write(folder.join(format!("layered-{capability}.ptx")), compile(&source, capability)?.to_src())?;
    }
    println!("{} kernels compiled for each of {capabilities:?}", source.kernels.len());
    Ok(())
}
