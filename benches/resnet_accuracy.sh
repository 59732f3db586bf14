#!/usr/bin/env bash
# Test accuracy of ResNet-18 after five epochs of 2,000 images of Fashion-MNIST, resized to 32 pixels, four seeds:
# a zoo of this project, and the same recipe in PyTorch. Prints the table of docs/engines.md.
#
#   benches/resnet_accuracy.sh FOLDER     needs zoo on the PATH, and Python with torch, torchvision and safetensors
set -euo pipefail
work=${1:?name a folder for the zoo}
here=$(dirname "$0")
mkdir -p "$work"
cat > "$work/resnet.toml" <<TOML
[zoo]
name = "resnet"
[data]
dataset = "fashion-mnist"
train = 2000
val = 10000
transform = { resize = 32 }
normalize = { mean = [0.5], std = [0.5] }
[model]
architecture = "resnet18"
[grid]
activation = "relu"
init = "kaiming_uniform"
optimizer = "sgd"
learning-rate = 0.05
weight-decay = 5e-4
seed = { range = [1, 4] }
[train]
epochs = 5
batch-size = 64
momentum = 0.9
schedule = "one-cycle"
augment = { crop-padding = 4, flip = true }
checkpoint-every = 5
TOML
zoo data "$work/resnet.toml" --root "$work" -o "$work/data.safetensors"
zoo train "$work/resnet.toml" --data "$work/data.safetensors" -o "$work/zoo"
python3 "$here/resnet_accuracy.py" "$work/data.safetensors" "$work/zoo"
