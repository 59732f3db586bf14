"""Makes resnet18-*.safetensors and rotation.safetensors: what torchvision's ResNet-18 computes in
float64, and what Pillow's rotation gives.

    pip install torch torchvision safetensors pillow
    python make_resnet.py OUT

Weights and images are not stored (they would be 45 MB): both sides make them with `noise`.
"""
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from torch import nn
from torchvision.models import resnet18

# (side of the images, classes, images in the batch).
CASES = [(32, 10, 6), (64, 200, 3)]
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 5e-4
PLACES = 64


def noise(stream, count):
    """u32 words: a counter, mixed as MurmurHash3 ends."""
    x = (np.arange(count, dtype=np.uint64) * 0x9E3779B1 + stream * 0x85EBCA6B) & 0xFFFFFFFF
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x ^= x >> shift
        x = x * factor & 0xFFFFFFFF
    return x


def fill(model):
    """The n-th tensor of the state, in the order of names, from the n-th stream, as float32."""
    state = {name: t for name, t in model.state_dict().items() if "num_batches" not in name}
    for stream, name in enumerate(sorted(state)):
        tensor = state[name]
        unit = noise(stream, tensor.numel()) / 2**32
        if tensor.ndim > 1:
            values = (2 * unit - 1) * np.sqrt(6 / tensor[0].numel())
        elif name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
            values = 0.5 + unit
        else:
            values = (2 * unit - 1) / 10
        tensor.data.copy_(torch.from_numpy(values.astype(np.float32).reshape(tensor.shape)))


def case(side, classes, batch):
    model = resnet18(num_classes=classes).double()
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False).double()
    model.maxpool = nn.Identity()
    fill(model)
    pixels = (noise(1000, batch * 3 * side * side) >> 24).astype(np.float64)
    images = torch.from_numpy((pixels / 255 - 0.5) / 0.5).view(batch, 3, side, side)
    labels = torch.arange(batch) * 7 % classes
    out = {}
    model.eval()
    with torch.no_grad():
        out["eval_logits"] = model(images)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    out["loss"] = loss.detach().view(1)
    for name, parameter in model.named_parameters():
        gradient = parameter.grad.flatten()
        places = np.linspace(0, len(gradient) - 1, min(PLACES, len(gradient))).astype(np.int64)
        out[f"grad.{name}"] = gradient[places]
        out[f"norm.{name}"] = gradient.norm().view(1)
    optimizer.step()
    for name, parameter in model.state_dict().items():
        if "num_batches" not in name:
            values = parameter.flatten()
            places = np.linspace(0, len(values) - 1, min(PLACES, len(values))).astype(np.int64)
            out[f"step.{name}"] = values[places]
    return {name: tensor.detach().numpy().copy() for name, tensor in out.items()}


def rotations():
    image = (noise(1001, 31 * 31) >> 24).astype(np.uint8).reshape(31, 31)
    large = (noise(1002, 64 * 64) >> 24).astype(np.uint8).reshape(64, 64)
    degrees = np.concatenate([(noise(1003, 12) / 2**32 * 40 - 20), [0.0, 90.0, 180.0, -90.0, 1e-3]])
    out = {"degrees": degrees, "odd": image, "even": large}
    for name, source in (("odd", image), ("even", large)):
        out[f"{name}.rotated"] = np.stack([np.asarray(Image.fromarray(source).rotate(d)) for d in degrees])
    return out


def main():
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    for side, classes, batch in CASES:
        metadata = {
            "side": str(side), "classes": str(classes), "batch": str(batch), "learning_rate": str(LEARNING_RATE),
            "momentum": str(MOMENTUM), "weight_decay": str(WEIGHT_DECAY), "torch": torch.__version__,
        }
        save_file(case(side, classes, batch), folder / f"resnet18-{side}.safetensors", metadata)
    save_file(rotations(), folder / "rotation.safetensors")


if __name__ == "__main__":
    main()
