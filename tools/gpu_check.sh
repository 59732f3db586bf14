#!/usr/bin/env bash
# Checks and measures the population and the layered engine on this machine's first GPU, in under twelve minutes:
#
#   tools/gpu_check.sh FASHION-MNIST [PROGRAMS]
#
# FASHION-MNIST is a folder with the four published files (Debian: /usr/share/datasets/fashion-mnist).
# PROGRAMS is a folder with `gpu`, `layered_gpu`, `parity` and `zoo`, built elsewhere by `tools/gpu_check.sh --build
# PROGRAMS`; without it they are built here. It needs the driver and NVRTC, PyTorch for the baseline
# rates, and compute-sanitizer for the last step; steps whose requirements are missing are reported and
# skipped. Exit code 0: every step that ran succeeded. ZOO_SAMPLES, ZOO_RATES (seconds and populations),
# ZOO_MODELS and ZOO_EPOCHS reduce the work.
set -euo pipefail
cd "$(dirname "$0")/.."

build() {
    mkdir -p "$1"
    cargo build --release -p zoo-engine-population --example gpu -p zoo-engine-layered --example layered_gpu
    cargo build --release
    parity=$(cargo test --release -p zoo-train --test parity --no-run --message-format json |
        sed -n '/"kind":\["test"\]/s/.*"executable":"\([^"]*\)".*/\1/p')
    # Without symbols, to keep copies small.
    strip -o "$1/gpu" target/release/examples/gpu
    strip -o "$1/layered_gpu" target/release/examples/layered_gpu
    strip -o "$1/zoo" target/release/zoo
    strip -o "$1/parity" "$parity"
}
if [ "${1:-}" = --build ]; then
    build "${2:?a folder for the programs}"
    exit
fi
images=$(realpath "${1:?a folder with the files of Fashion-MNIST}")
work=$(mktemp -d)
programs=${2:-}
if [ -z "$programs" ]; then
    programs=$work/programs
    build "$programs"
fi
programs=$(realpath "$programs")
failed=0
# A step that took too long has not failed.
check() {
    local code=0
    timeout "$1" "${@:2}" || code=$?
    case $code in
    0) ;;
    124) echo "not finished within $1 s: ${*:2}" ;;
    *) failed=1 && echo "FAILED: ${*:2}" ;;
    esac
}
step() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }

# Prints whatever has been measured when the script ends.
finish() {
    step "in one table"
    python3 - "$work"/*.jsonl <<'END'
import json
import sys

lines = []
for path in sys.argv[1:]:
    with open(path) as file:
        lines += [json.loads(line) for line in file if line.startswith("{")]
card = next((line["card"] for line in lines if "card" in line), None)
rates = [line for line in lines if "rate" in line]
vmap = {(r["architecture"], r["models"]): r["rate"] for r in rates if r["engine"] == "PyTorch vmap"}
if card:
    print(f"{card['name']}: {card['fma'] / 1e12:.1f} T multiply-adds/s (float32 matrix product), {card['bytes'] / 1e12:.2f} TB/s")
print(f"{'engine':<14} {'network':<7} {'models':>6} {'train, samples/s':>17} {'evaluate':>12} {'x vmap':>7} {'of FMA floor':>13} {'of bandwidth':>13}")
for r in rates:
    if r["rate"] is None:
        print(f"{r['engine']:<14} {r['architecture']:<7} {r['models']:>6} {'out of memory':>17}")
        continue
    baseline = vmap.get((r["architecture"], r["models"]))
    ratio = f"{r['rate'] / baseline:.1f}" if baseline and r["engine"] == "zoo" else ""
    shares = ["", ""]
    if card and "fma" in r:
        shares = [f"{r['rate'] * r[what] / card[what]:.1%}" for what in ("fma", "bytes")]
    evaluate = f"{r['evaluate']:,.0f}" if "evaluate" in r else ""
    print(f"{r['engine']:<14} {r['architecture']:<7} {r['models']:>6} {r['rate']:>17,.0f} {evaluate:>12} {ratio:>7} {shares[0]:>13} {shares[1]:>13}")
for line in lines:
    if "seconds" in line:
        print(f"{line['models']} models of Fashion-MNIST, {line['epochs']} epochs: {line['seconds']:.0f} s")
END
    rm -rf "$work"
}
trap finish EXIT

step "the card"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || echo "nvidia-smi is missing"

step "bits: every kind of model on the GPU and on the processor"
check 120 "$programs/gpu" bits "${ZOO_SAMPLES:-200}"

step "bits of the layered engine: networks of every kind on the GPU and on the processor"
check 120 "$programs/layered_gpu" bits

step "parity with PyTorch in float64"
check 60 env ZOO_GPU=0 CARGO_MANIFEST_DIR="$PWD/zoo-train" "$programs/parity" kernels

step "rates"
# shellcheck disable=SC2086
check 60 "$programs/gpu" rates ${ZOO_RATES:-2} >"$work/zoo.jsonl"
cat "$work/zoo.jsonl"
check 60 "$programs/layered_gpu" rates >"$work/layered.jsonl"
cat "$work/layered.jsonl"
if python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
    check 60 python3 benches/pytorch_baseline.py --device cuda --seconds 1 >"$work/torch.jsonl"
    cat "$work/torch.jsonl"
    if python3 -c 'import torchvision' 2>/dev/null; then
        check 60 python3 benches/resnet_baseline.py --device cuda
    else
        echo "torchvision is missing: no baseline of ResNet-18"
    fi
else
    echo "PyTorch with CUDA is missing: no baseline"
fi

step "a zoo of 1,000 seeds of Fashion-MNIST, 50 epochs, states written"
manifest=configs/paper/fashion-mnist-cnn-s-seed.toml
models=${ZOO_MODELS:-1000} epochs=${ZOO_EPOCHS:-50}
mkdir -p "$work/root/data"
ln -s "$images" "$work/root/data/fashion-mnist"
check 60 "$programs/zoo" -q data "$manifest" --root "$work/root" -o "$work/data.safetensors"
started=$(date +%s%N)
check 240 "$programs/zoo" train "$manifest" --models "$models" --epochs "$epochs" --device cuda:0 \
    --data "$work/data.safetensors" -o "$work/zoo"
if [ -e "$work/zoo/zoo.json" ]; then
    echo "{\"seconds\": $((($(date +%s%N) - started) / 1000000))e-3, \"models\": $models, \"epochs\": $epochs}" | tee "$work/run.jsonl"
    # Losses recomputed by the CPU.
    check 60 "$programs/zoo" verify "$work/zoo" --replay 2 --data "$work/data.safetensors"
fi

step "compute-sanitizer"
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck synccheck; do
        check 40 compute-sanitizer --tool "$tool" --error-exitcode 9 "$programs/gpu" bits 12 2
        check 40 compute-sanitizer --tool "$tool" --error-exitcode 9 "$programs/layered_gpu" bits 3
    done
else
    echo "compute-sanitizer is missing"
fi

printf '\n%s s in total; %s\n' "$SECONDS" "$([ $failed = 0 ] && echo "every step that ran succeeded" || echo "a step FAILED")"
exit $failed
