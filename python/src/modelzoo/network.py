"""Networks as PyTorch modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import nn

from . import architectures
from .architectures import Module, Named, Params, Residual
from .states import Array

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "leakyrelu": nn.LeakyReLU,
    "silu": nn.SiLU,
}


_Step: TypeAlias = "nn.Module | tuple[list[_Step], list[_Step]]"
"""A module, or the steps of a residual's body and shortcut."""


class Network(nn.Module):
    """A list of modules, one applied after the other; its parameters have the names that a zoo's files use."""

    def __init__(self, modules: Sequence[Named]) -> None:
        super().__init__()
        self._steps = self._register(modules)

    def _register(self, modules: Sequence[Named]) -> list[_Step]:
        steps: list[_Step] = []
        for name, module in modules:
            if isinstance(module, Residual):
                steps.append((self._register(module.body), self._register(module.shortcut)))
                continue
            *folders, last = name.split(".")
            place: nn.Module = self
            for folder in folders:
                if not hasattr(place, folder):
                    place.add_module(folder, nn.ModuleList() if folder == "module_list" else nn.Module())
                place = getattr(place, folder)
            built = _module(module)
            place.add_module(last, built)
            steps.append(built)
        return steps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of normalised images (N, C, H, W)."""
        return _run(self._steps, x)


def _run(steps: Sequence[_Step], x: torch.Tensor) -> torch.Tensor:
    for step in steps:
        x = step(x) if isinstance(step, nn.Module) else _run(step[0], x) + _run(step[1], x)
    return x


def _module(module: Module) -> nn.Module:
    if isinstance(module, architectures.Conv2d):
        return nn.Conv2d(module.inputs, module.outputs, module.kernel, module.stride, module.padding, bias=module.bias)
    if isinstance(module, architectures.BatchNorm2d):
        return nn.BatchNorm2d(module.channels)
    if isinstance(module, architectures.GlobalAvgPool2d):
        return nn.AdaptiveAvgPool2d(1)
    if isinstance(module, architectures.Linear):
        return nn.Linear(module.inputs, module.outputs)
    if isinstance(module, architectures.MaxPool2d):
        return nn.MaxPool2d(2)
    if isinstance(module, architectures.Dropout):
        return nn.Dropout(module.probability)
    if isinstance(module, architectures.Flatten):
        return nn.Flatten()
    if isinstance(module, Residual):
        raise TypeError("a residual is run, not registered")
    if module.name not in _ACTIVATIONS:
        raise ValueError(f"activation is {module.name!r}, known are {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[module.name]()


def load(params: Params, state: Mapping[str, Array]) -> Network:
    """The network that `params` describes, with the parameters of one state, in evaluation mode."""
    network = Network(architectures.modules(params))
    network.load_state_dict({name: torch.from_numpy(np.array(tensor)) for name, tensor in state.items()})
    network.eval()
    return network
