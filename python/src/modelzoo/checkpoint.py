"""Untrusted PyTorch state dicts.

A checkpoint is inspected before PyTorch sees it: it must be in PyTorch's zip format, its pickle may refer only to the
parts of a state dict, and all its data must be in the file. Then `torch.load` reads it with
`weights_only=True`, which in PyTorch before 2.6 had a vulnerability (CVE-2025-32434) that the inspection closes.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from .architectures import Parameter
from .errors import parsed
from .states import Array

LIMIT = 64 << 20
"""Maximum size of a checkpoint in bytes."""
LOG_ALPHA = 3.0
"""From this log alpha upwards, variational dropout evaluates a weight as zero."""
_PICKLE_LIMIT = 1 << 20

_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_HARMLESS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
_HARMLESS |= {f"torch {name}Storage" for name in _STORAGES}
# Protocol 2, which PyTorch writes, calls things by GLOBAL alone.
_OTHER_CALLS = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID"}


def inspect(content: bytes) -> None:
    """Raises ValueError unless the content is a state dict in PyTorch's zip format and nothing else."""
    if not content.startswith(b"PK\x03\x04"):
        raise ValueError("is not in the zip format of PyTorch 1.6 and newer: it is not read")
    with parsed("is damaged"):
        archive = zipfile.ZipFile(io.BytesIO(content))
    entries = archive.infolist()
    if any(e.compress_type != zipfile.ZIP_STORED for e in entries):
        raise ValueError("has compressed entries, which PyTorch does not write")
    if sum(e.file_size for e in entries) > len(content):
        raise ValueError("declares more data than it has")
    names = [e.filename.partition("/")[2] for e in entries]
    if names.count("data.pkl") != 1 or "constants.pkl" in names or any(n.startswith("code/") for n in names):
        raise ValueError("contains no state dict, or contains a program")
    entry = entries[names.index("data.pkl")]
    if entry.file_size > _PICKLE_LIMIT:
        raise ValueError(f"has a pickle of {entry.file_size} bytes, more than a state dict needs")
    with parsed("is damaged"):
        pickle = archive.read(entry)
    with parsed("has a malformed pickle"):
        operations = list(pickletools.genops(pickle))
    for opcode, argument, _ in operations:
        if (opcode.name == "GLOBAL" and argument not in _HARMLESS) or opcode.name in _OTHER_CALLS:
            asked = str(argument or opcode.name).replace(" ", ".")
            raise ValueError(f"refers to `{asked}`, which no state dict needs: it is not loaded")


def load(content: bytes) -> dict[str, torch.Tensor]:
    """The tensors of a state dict.

    Raises ValueError with what is wrong with it.
    """
    inspect(content)
    with parsed("cannot be loaded"):
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(loaded, dict) or not loaded:
        raise ValueError("contains no state dict")
    for name, tensor in loaded.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ValueError("contains more than named tensors")
    return dict(loaded)


def to_state(tensors: Mapping[str, torch.Tensor], parameters: Sequence[Parameter]) -> dict[str, Array]:
    """The parameters of a network; the tensors must be exactly these.

    The count of batches that PyTorch's batch normalisations keep is no part of a state. Raises ValueError with the
    tensor that is wrong.
    """
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(".num_batches_tracked")}
    for parameter in parameters:
        tensor = tensors.get(parameter.name)
        if tensor is None:
            raise ValueError(f"has no tensor `{parameter.name}`")
        if tensor.dtype != torch.float32 or tuple(tensor.shape) != parameter.shape:
            found, expected = list(tensor.shape), list(parameter.shape)
            raise ValueError(f"tensor `{parameter.name}` is {tensor.dtype} {found}, expected float32 {expected}")
    if len(tensors) != len(parameters):
        stray = sorted(set(tensors) - {p.name for p in parameters})[0]
        raise ValueError(f"has a tensor `{stray}` that its network does not have")
    return {p.name: np.ascontiguousarray(tensors[p.name].detach().numpy()) for p in parameters}


def without_noise(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], bool]:
    """The network that a checkpoint of variational dropout evaluates, and whether it was one.

    Besides `weight` and `bias`, such a checkpoint contains `log_sigma2` and `log_sigma2_bias`, the logarithms of their
    noise's variance. Where log alpha = log sigma^2 - 2 log |w| is 3 or more, the published code evaluates zeros.

    Raises ValueError with the tensor that is wrong.
    """
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith((".log_sigma2", ".log_sigma2_bias"))}
    for name in tensors.keys() - kept.keys():
        layer, _, noise = name.rpartition(".")
        place = f"{layer}.{'bias' if noise.endswith('_bias') else 'weight'}"
        values, log_sigma2 = kept.get(place), tensors[name]
        if values is None or values.shape != log_sigma2.shape or not log_sigma2.is_floating_point():
            raise ValueError(f"tensor `{name}` does not belong to a `{place}` of its shape")
        log_alpha = log_sigma2 - 2 * torch.log(values.detach().abs() + 1e-15)
        kept[place] = torch.where(log_alpha >= LOG_ALPHA, torch.zeros_like(values), values)
    return kept, len(kept) < len(tensors)


def dump(state: Mapping[str, Array]) -> bytes:
    """A checkpoint in the form in which PyTorch writes the state dict of a network."""
    buffer = io.BytesIO()
    torch.save(OrderedDict((name, torch.from_numpy(np.array(tensor))) for name, tensor in state.items()), buffer)
    return buffer.getvalue()
