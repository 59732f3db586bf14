#!/usr/bin/env bash
# Builds the workspace with dfdx on CUDA (`--features cuda`) with only PyPI's wheels: neither a CUDA
# toolkit nor a GPU nor a driver is needed. Usage:
#
#   tools/build_cuda.sh FOLDER [CAPABILITY] [CARGO ARGUMENT...]
#
# FOLDER receives the compiler and libraries (about 1.5 GB) and is reused by later runs;
# CAPABILITY is the GPU's, 90 (Hopper) by default. The programs are in FOLDER/target/release; to run
# they need an NVIDIA driver for CUDA 13 and, in LD_LIBRARY_PATH, FOLDER/nvidia/cu13/lib.
set -euo pipefail
cd "$(dirname "$0")/.."
(($#)) || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | head -n -1; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
capability=${2:-90}
shift $(($# > 1 ? 2 : 1))

wheels=(nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96
    nvidia-cuda-cccl==13.0.85 nvidia-cuda-nvrtc==13.0.88 nvidia-cublas==13.1.0.3)
toolkit=$folder/nvidia/cu13
if ! [ -e "$folder/complete" ]; then
    python3 -m pip download -q --no-deps --only-binary :all: -d "$folder/wheels" "${wheels[@]}"
    for wheel in "$folder"/wheels/*.whl; do
        python3 -m zipfile -e "$wheel" "$folder"
    done
    # zipfile does not restore permissions.
    find "$toolkit/bin" "$toolkit/nvvm/bin" -type f -exec chmod +x {} +
    for library in nvrtc cublas cublasLt; do
        ln -sf "lib$library.so.13" "$toolkit/lib/lib$library.so"
    done
    # dfdx looks for libraries where a toolkit has them.
    ln -sfn lib "$toolkit/lib64"
    touch "$folder/complete"
fi

# A stub of the driver to link against: its functions, without bodies.
cargo fetch -q
bindings=$(cargo metadata --format-version 1 |
    python3 -c 'import json, sys; print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if (p["name"], p["version"]) == ("cudarc", "0.9.15")))')
mkdir -p "$folder/stubs"
grep -rhoE 'pub fn cu[A-Z][A-Za-z0-9_]*' "$(dirname "$bindings")"/src/driver/sys* | sort -u |
    sed 's/pub fn \(.*\)/void \1(void) {}/' >"$folder/stubs/cuda.c"
cc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$folder/stubs/libcuda.so" "$folder/stubs/cuda.c"

# dfdx's build script asks it for the capability.
printf '#!/bin/sh\necho compute_cap\necho %s.%s\n' "${capability%?}" "${capability: -1}" >"$folder/stubs/nvidia-smi"
chmod +x "$folder/stubs/nvidia-smi"

export PATH="$folder/stubs:$toolkit/bin:$PATH" CUDA_PATH=$toolkit CUDA_ROOT=$toolkit CUDA_COMPUTE_CAP=$capability
export LIBRARY_PATH="$folder/stubs:$toolkit/lib${LIBRARY_PATH:+:$LIBRARY_PATH}"
export RUSTFLAGS="-L native=$folder/stubs -L native=$toolkit/lib ${RUSTFLAGS:-}"
cargo build --release --workspace --features cuda --target-dir "$folder/target" "$@"
