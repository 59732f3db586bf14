#!/usr/bin/env bash
# Test accuracy of four cells of the Fashion-MNIST grid after three epochs, 16 seeds each: zoos of this
# project and the same recipe in PyTorch. Prints the table of docs/engines.md.
#
#   benches/accuracy.sh FOLDER     needs zoo on the PATH, and Python with torch, numpy and safetensors
set -euo pipefail
work=${1:?name a folder for the zoos}
here=$(dirname "$0")
mkdir -p "$work"

manifest() { # name activation init dropout optimizer learning-rate weight-decay
    cat > "$work/$1.toml" <<TOML
[zoo]
name = "$1"
[data]
dataset = "fashion-mnist"
train = 50000
val = 10000
normalize = { mean = [0.5], std = [0.5] }
[model]
architecture = "cnn-s"
[grid]
activation = "$2"
init = "$3"
dropout = $4
optimizer = "$5"
learning-rate = $6
weight-decay = $7
seed = { range = [1, 16] }
[train]
epochs = 3
batch-size = 10
TOML
}
manifest tanh-uniform tanh uniform 0.0 adam 3e-4 0.0
manifest relu-kaiming relu kaiming_uniform 0.0 adam 1e-3 1e-3
manifest gelu-normal gelu normal 0.0 sgd 1e-3 1e-3
manifest sigmoid-dropout sigmoid kaiming_uniform 0.5 adam 1e-3 1e-3

zoo run "$work"/*.toml --root "$work"
[ -s "$work/pytorch.json" ] ||
    python3 "$here/pytorch_accuracy.py" "$work/data/tanh-uniform.safetensors" > "$work/pytorch.json"
python3 "$here/pytorch_accuracy.py" --compare "$work/pytorch.json" "$work"/zoos/*
