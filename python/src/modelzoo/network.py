"""Networks as PyTorch modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from . import architectures
from .architectures import Module, Params
from .states import Array

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "leakyrelu": nn.LeakyReLU,
    "silu": nn.SiLU,
}


class Network(nn.Module):
    """A list of modules, one applied after the other; its parameters have the names that a zoo's files use."""

    def __init__(self, modules: Sequence[Module]) -> None:
        super().__init__()
        self.module_list = nn.ModuleList(_module(module) for module in modules)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of normalised images (N, C, H, W)."""
        for module in self.module_list:
            x = module(x)
        return x


def _module(module: Module) -> nn.Module:
    if isinstance(module, architectures.Conv2d):
        return nn.Conv2d(module.inputs, module.outputs, module.kernel)
    if isinstance(module, architectures.Linear):
        return nn.Linear(module.inputs, module.outputs)
    if isinstance(module, architectures.MaxPool2d):
        return nn.MaxPool2d(2)
    if isinstance(module, architectures.Dropout):
        return nn.Dropout(module.probability)
    if isinstance(module, architectures.Flatten):
        return nn.Flatten()
    if module.name not in _ACTIVATIONS:
        raise ValueError(f"activation is {module.name!r}, known are {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[module.name]()


def load(params: Params, state: Mapping[str, Array]) -> Network:
    """The network that `params` describes with the parameters of one state, in evaluation mode."""
    network = Network(architectures.modules(params))
    network.load_state_dict({name: torch.from_numpy(np.array(tensor)) for name, tensor in state.items()})
    network.eval()
    return network
