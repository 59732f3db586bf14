"""Networks as lists of modules, numbered as PyTorch's `module_list` numbers them.

An architecture is a recipe that turns a model's `params.json` into such a list; everything else
(names and shapes of parameters, their places in a vector, the PyTorch module) follows from it.

    @modelzoo.architecture("mlp")
    def mlp(params):
        side, classes = params["model::i_dim"], params["model::o_dim"]
        return [Flatten(), Linear(side * side, 32), Activation(params["model::nlin"]), Linear(32, classes)]
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Params = Mapping[str, Any]
"""A model's `params.json`."""


@dataclass(frozen=True)
class Conv2d:
    """Valid convolution, stride 1, square kernel, with bias."""

    inputs: int
    outputs: int
    kernel: int


@dataclass(frozen=True)
class MaxPool2d:
    """Maximum over 2x2 windows, stride 2."""


@dataclass(frozen=True)
class Activation:
    """tanh, relu, sigmoid, gelu (exact), leakyrelu (slope 0.01) or silu."""

    name: str


@dataclass(frozen=True)
class Dropout:
    """Inverted dropout, off at evaluation."""

    probability: float


@dataclass(frozen=True)
class Flatten:
    """(C, H, W) to (C * H * W), channel-major."""


@dataclass(frozen=True)
class Linear:
    """W x + b, W of shape (outputs, inputs)."""

    inputs: int
    outputs: int


Module: TypeAlias = Conv2d | MaxPool2d | Activation | Dropout | Flatten | Linear
Recipe = Callable[[Params], Sequence[Module]]


@dataclass(frozen=True)
class Parameter:
    """A parameter tensor and its place in the vector of all parameters."""

    name: str
    """`module_list.{i}.weight` or `module_list.{i}.bias`."""
    shape: tuple[int, ...]
    """(out, in, kh, kw) of a convolution, (out, in) of a linear layer, (out) of a bias."""
    start: int
    """First place in the vector."""

    @property
    def size(self) -> int:
        """Number of scalars."""
        return math.prod(self.shape)

    @property
    def stop(self) -> int:
        """One past the last place in the vector."""
        return self.start + self.size


_RECIPES: dict[str, Recipe] = {}


def architecture(name: str) -> Callable[[Recipe], Recipe]:
    """Registers a recipe under the `model::type` that it is for."""

    def register(recipe: Recipe) -> Recipe:
        _RECIPES[name] = recipe
        return recipe

    return register


def is_known(name: object) -> bool:
    """Whether there is a recipe for this `model::type`."""
    return name in _RECIPES


def modules(params: Params) -> list[Module]:
    """The modules of the network that `params` describes, in forward order.

    Raises ValueError with the key that is wrong.
    """
    name = params.get("model::type")
    if not isinstance(name, str) or name not in _RECIPES:
        known = ", ".join(sorted(_RECIPES))
        message = f"`model::type` is {name!r}; known are {known}: register others with modelzoo.architecture"
        raise ValueError(message)
    for key, most in (("model::channels_in", 16), ("model::i_dim", 4096), ("model::o_dim", 65_536)):
        if key in params and not (isinstance(params[key], int) and 1 <= params[key] <= most):
            raise ValueError(f"`{key}` is {params[key]!r}, expected 1 to {most}")
    dropout = params.get("model::dropout", 0.0)
    if not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise ValueError(f"`model::dropout` is {dropout!r}, expected a number in [0, 1)")
    try:
        return list(_RECIPES[name](params))
    except KeyError as error:
        raise ValueError(f"has no `{error.args[0]}`") from error


def named(tensors: Iterable[tuple[str, tuple[int, ...]]]) -> list[Parameter]:
    """Lays tensors out one after the other."""
    placed: list[Parameter] = []
    for name, shape in tensors:
        placed.append(Parameter(name, shape, placed[-1].stop if placed else 0))
    return placed


def parameters(params: Params) -> list[Parameter]:
    """The parameters of a network in forward order, each layer's weight before its bias."""
    tensors: list[tuple[str, tuple[int, ...]]] = []
    for i, module in enumerate(modules(params)):
        if isinstance(module, Conv2d):
            weight: tuple[int, ...] = (module.outputs, module.inputs, module.kernel, module.kernel)
        elif isinstance(module, Linear):
            weight = (module.outputs, module.inputs)
        else:
            continue
        tensors += [(f"module_list.{i}.weight", weight), (f"module_list.{i}.bias", weight[:1])]
    return named(tensors)


def in_forward_order(names: Iterable[str]) -> list[str]:
    """Names of parameters of an unknown architecture, by their numbers, weights before biases."""

    def key(name: str) -> tuple[list[tuple[int, str]], bool]:
        pieces = re.split(r"(\d+)", name.rpartition(".")[0])
        return [(int(p), "") if p.isdecimal() else (0, p) for p in pieces], not name.endswith("weight")

    return sorted(names, key=key)


def index_dict(layout: Sequence[Parameter]) -> dict[str, list[Any]]:
    """Where each layer lies in a vector, as the published collection's `index_dict.json` says it.

    `layer` ([index, "conv2d" or "fc"]), `idx_start`, `idx_length` (weights and biases),
    `kernel_no` (outputs, as many biases), `kernel_size` (scalars in one kernel), `channels_in`.
    """
    described: dict[str, list[Any]] = {
        key: [] for key in ("layer", "idx_start", "idx_length", "kernel_no", "kernel_size", "channels_in")
    }
    for weight, bias in zip(layout[::2], layout[1::2], strict=True):
        numbers = re.findall(r"\d+", weight.name)
        if len(weight.shape) not in (2, 4) or bias.shape != weight.shape[:1] or not numbers:
            raise ValueError(f"`{weight.name}` and `{bias.name}` are not weight and bias of a layer")
        described["layer"].append([int(numbers[-1]), "conv2d" if len(weight.shape) == 4 else "fc"])
        described["idx_start"].append(weight.start)
        described["idx_length"].append(weight.size + bias.size)
        described["kernel_no"].append(weight.shape[0])
        described["kernel_size"].append(math.prod(weight.shape[2:]))
        described["channels_in"].append(weight.shape[1])
    return described


@architecture("cnn-s")
def _cnn_s(params: Params) -> list[Module]:
    """2,464 parameters on 1x28x28 images with 10 classes."""
    act = Activation(params["model::nlin"])
    # The published definition leaves the dropout modules out, which moves the later indices.
    drop: list[Module] = [Dropout(params["model::dropout"])] if params["model::dropout"] > 0 else []
    return [
        *(Conv2d(params["model::channels_in"], 8, 5), MaxPool2d(), act, *drop),
        *(Conv2d(8, 6, 5), MaxPool2d(), act, *drop),
        *(Conv2d(6, 4, 2), act, Flatten()),
        *(Linear(36, 20), act, *drop),
        Linear(20, params["model::o_dim"]),
    ]


@architecture("cnn-m")
def _cnn_m(params: Params) -> list[Module]:
    """10,853 parameters on 3x32x32 images with 10 classes."""
    act, drop = Activation(params["model::nlin"]), Dropout(params["model::dropout"])
    return [
        *(Conv2d(params["model::channels_in"], 16, 3), MaxPool2d(), act, drop),
        *(Conv2d(16, 32, 3), MaxPool2d(), act, drop),
        *(Conv2d(32, 15, 3), MaxPool2d(), act, drop, Flatten()),
        *(Linear(60, 20), act, drop),
        Linear(20, params["model::o_dim"]),
    ]
