"""Networks as lists of modules, named as PyTorch names them.

An architecture is a recipe that turns a model's `params.json` into such a list; everything else
(names and shapes of parameters, their places in a vector, the PyTorch module) follows from it.
Modules are numbered as `module_list.{i}`, unless the recipe names them.

    @modelzoo.architecture("linear")
    def linear(params):
        inputs = params["model::channels_in"] * params["model::i_dim"] ** 2
        return [Flatten(), Linear(inputs, params["model::o_dim"])]
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Params = Mapping[str, Any]
"""A model's `params.json`."""


@dataclass(frozen=True)
class Conv2d:
    """Convolution with a square kernel over maps padded with zeros."""

    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    padding: int = 0
    bias: bool = True


@dataclass(frozen=True)
class BatchNorm2d:
    """Batch normalisation with PyTorch's defaults; its running statistics are part of a state."""

    channels: int


@dataclass(frozen=True)
class MaxPool2d:
    """Maximum over 2x2 windows, stride 2."""


@dataclass(frozen=True)
class GlobalAvgPool2d:
    """Mean over all positions: (C, H, W) to (C, 1, 1)."""


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


@dataclass(frozen=True)
class Residual:
    """body(x) + shortcut(x); an empty shortcut is the identity."""

    body: Sequence[Named]
    shortcut: Sequence[Named] = ()


Module: TypeAlias = (
    Conv2d | BatchNorm2d | MaxPool2d | GlobalAvgPool2d | Activation | Dropout | Flatten | Linear | Residual
)
Named: TypeAlias = tuple[str, Module]
"""The prefix of a module's tensor names, and the module."""
Recipe = Callable[[Params], Sequence[Module] | Sequence[Named]]


@dataclass(frozen=True)
class Parameter:
    """A parameter tensor and its position in the vector of all parameters."""

    name: str
    """The module's name and `weight`, `bias`, `running_mean` or `running_var`."""
    shape: tuple[int, ...]
    """(out, in, kh, kw) of a convolution, (out, in) of a linear layer, (channels) of all others."""
    start: int
    """First position in the vector."""

    @property
    def is_trained(self) -> bool:
        """Whether it is a parameter, and not a running statistic."""
        return not self.name.endswith((".running_mean", ".running_var"))

    @property
    def size(self) -> int:
        """Number of scalars."""
        return math.prod(self.shape)

    @property
    def stop(self) -> int:
        """One past the last position in the vector."""
        return self.start + self.size


_RECIPES: dict[str, Recipe] = {}


def architecture(name: str) -> Callable[[Recipe], Recipe]:
    """Registers a recipe for a `model::type`."""

    def register(recipe: Recipe) -> Recipe:
        _RECIPES[name] = recipe
        return recipe

    return register


def is_known(name: object) -> bool:
    """Whether there is a recipe for this `model::type`."""
    return name in _RECIPES


def modules(params: Params) -> list[Named]:
    """The named modules of the network that `params` describes, in forward order.

    Raises ValueError with the key that is wrong.
    """
    params = {key: value for key, value in params.items() if value is not None}
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
        made = _RECIPES[name](params)
    except KeyError as error:
        raise ValueError(f"has no `{error.args[0]}`") from error
    return [module if isinstance(module, tuple) else (f"module_list.{i}", module) for i, module in enumerate(made)]


def named(tensors: Iterable[tuple[str, tuple[int, ...]]]) -> list[Parameter]:
    """Lays tensors out one after the other."""
    placed: list[Parameter] = []
    for name, shape in tensors:
        placed.append(Parameter(name, shape, placed[-1].stop if placed else 0))
    return placed


def parameters(params: Params) -> list[Parameter]:
    """The tensors of a network: the trained ones in forward order, each layer's weight before its
    bias, then running statistics in forward order."""
    placed = named(_tensors(modules(params)))
    ordered = sorted(placed, key=lambda parameter: not parameter.is_trained)
    return named((parameter.name, parameter.shape) for parameter in ordered)


def trained(layout: Iterable[Parameter]) -> list[Parameter]:
    """The parameters without running statistics; the last one is the bias of the classes."""
    return [parameter for parameter in layout if parameter.is_trained]


def _tensors(network: Iterable[Named]) -> Iterable[tuple[str, tuple[int, ...]]]:
    for name, module in network:
        if isinstance(module, Conv2d):
            yield f"{name}.weight", (module.outputs, module.inputs, module.kernel, module.kernel)
            if module.bias:
                yield f"{name}.bias", (module.outputs,)
        elif isinstance(module, Linear):
            yield f"{name}.weight", (module.outputs, module.inputs)
            yield f"{name}.bias", (module.outputs,)
        elif isinstance(module, BatchNorm2d):
            for tensor in ("weight", "bias", "running_mean", "running_var"):
                yield f"{name}.{tensor}", (module.channels,)
        elif isinstance(module, Residual):
            yield from _tensors(module.body)
            yield from _tensors(module.shortcut)


def in_forward_order(names: Iterable[str]) -> list[str]:
    """Names of parameters of an unknown architecture, by their numbers, weights before biases."""

    def key(name: str) -> tuple[list[tuple[int, str]], bool]:
        pieces = re.split(r"(\d+)", name.rpartition(".")[0])
        return [(int(p), "") if p.isdecimal() else (0, p) for p in pieces], not name.endswith("weight")

    return sorted(names, key=key)


def index_dict(layout: Sequence[Parameter]) -> dict[str, list[Any]]:
    """The position of each layer in a vector, as the published collection's `index_dict.json` describes it.

    `layer` ([index, "conv2d" or "fc"]), `idx_start`, `idx_length` (weights and biases),
    `kernel_no` (outputs, as many biases), `kernel_size` (scalars in one kernel), `channels_in`.
    """
    described: dict[str, list[Any]] = {
        key: [] for key in ("layer", "idx_start", "idx_length", "kernel_no", "kernel_size", "channels_in")
    }
    if len(layout) % 2:
        raise ValueError(f"`{layout[-1].name}` is not weight and bias of a layer")
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


@architecture("mlp")
def _mlp(params: Params) -> list[Module]:
    """Linear layers of the sizes in `model::hidden`."""
    # A table cannot hold lists: there it is JSON.
    hidden = params.get("model::hidden") or []
    sizes = json.loads(hidden) if isinstance(hidden, str) else hidden
    if not isinstance(sizes, list) or not all(isinstance(size, int) and 1 <= size <= 65_536 for size in sizes):
        raise ValueError(f"`model::hidden` is {hidden!r}, expected a list of sizes")
    act, drop = Activation(params["model::nlin"]), Dropout(params["model::dropout"])
    width = params["model::channels_in"] * params["model::i_dim"] ** 2
    modules: list[Module] = [Flatten()]
    for size in sizes:
        modules += [Linear(width, size), act, drop]
        width = size
    return [*modules, Linear(width, params["model::o_dim"])]


@architecture("resnet18")
def _resnet18(params: Params) -> list[Named]:
    """torchvision's ResNet-18 with the stem of small images: 11,173,962 parameters with 3 channels and 10 classes."""
    act = Activation(params["model::nlin"])

    def conv(inputs: int, outputs: int, kernel: int, stride: int) -> Conv2d:
        return Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)

    width = 64
    network: list[Named] = [
        ("conv1", conv(params["model::channels_in"], width, 3, 1)),
        ("bn1", BatchNorm2d(width)),
        ("relu", act),
    ]
    for stage in range(4):
        for block in range(2):
            name, inputs, stride = f"layer{stage + 1}.{block}", width, 2 if stage > 0 and block == 0 else 1
            width = 64 << stage
            body: list[Named] = [
                (f"{name}.conv1", conv(inputs, width, 3, stride)),
                (f"{name}.bn1", BatchNorm2d(width)),
                (f"{name}.relu", act),
                (f"{name}.conv2", conv(width, width, 3, 1)),
                (f"{name}.bn2", BatchNorm2d(width)),
            ]
            shortcut: list[Named] = []
            if stride != 1:
                shortcut = [
                    (f"{name}.downsample.0", conv(inputs, width, 1, stride)),
                    (f"{name}.downsample.1", BatchNorm2d(width)),
                ]
            network += [(name, Residual(body, shortcut)), (f"{name}.relu", act)]
    network += [("avgpool", GlobalAvgPool2d()), ("flatten", Flatten())]
    if params["model::dropout"] > 0:
        network.append(("dropout", Dropout(params["model::dropout"])))
    return [*network, ("fc", Linear(width, params["model::o_dim"]))]
