"""`states.safetensors`: a model's parameters, stacked over its kept states."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .architectures import Parameter, in_forward_order, named
from .errors import ZooError

HEADER_LIMIT = 4 << 20
"""Maximum size of a header in bytes: enough for thousands of tensors."""

EPOCHS = "epochs"

Array = NDArray[np.float32]

_ITEM = {"F32": 4, "I64": 8, "U8": 1, "I8": 1, "BOOL": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2}
_ITEM |= {"I32": 4, "U32": 4, "F64": 8, "U64": 8}


@dataclass(frozen=True)
class Tensor:
    """A tensor's type, shape and position in its file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    length: int


@dataclass(frozen=True)
class Layout:
    """A states file's header, checked."""

    tensors: Mapping[str, Tensor]
    states: int
    """Kept states."""
    epochs: Tensor
    file_length: int

    @cached_property
    def parameters(self) -> list[Parameter]:
        """The parameters in forward order, judging by the numbers in their names; otherwise in file order."""
        names = [name for name in self.tensors if name != EPOCHS]
        if all(name.startswith("module_list.") for name in names):
            names = in_forward_order(names)
        else:
            names.sort(key=lambda name: self.tensors[name].start)
        return named((name, self.tensors[name].shape[1:]) for name in names)


def _tensor(entry: Mapping[str, Any], data: int) -> Tensor:
    shape, (start, stop) = tuple(entry["shape"]), entry["data_offsets"]
    if not all(isinstance(n, int) and 0 <= n < 1 << 48 for n in (*shape, start, stop)):
        raise ValueError
    if stop - start != math.prod(shape) * _ITEM[entry["dtype"]]:
        raise ValueError
    return Tensor(entry["dtype"], shape, data + start, stop - start)


@lru_cache(maxsize=4096)
def _parse(header: bytes) -> Layout:
    """The header of a states file; most files of a zoo have the same one.

    Raises ValueError with what is wrong.
    """
    data = 8 + len(header)
    try:
        entries = json.loads(header).items()
        tensors = {name: _tensor(entry, data) for name, entry in entries if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
        raise ValueError("has a malformed safetensors header") from error
    end = data
    for tensor in sorted(tensors.values(), key=lambda t: (t.start, t.length)):
        if tensor.start != end:
            raise ValueError("has a malformed safetensors header: its tensors do not tile the file")
        end += tensor.length
    epochs = tensors.get(EPOCHS)
    if epochs is None or epochs.dtype != "I64" or len(epochs.shape) != 1 or epochs.shape[0] == 0:
        raise ValueError(f"has no tensor `{EPOCHS}` of type I64 and shape (states)")
    states = epochs.shape[0]
    for name, tensor in tensors.items():
        if name != EPOCHS and (tensor.dtype != "F32" or tensor.shape[:1] != (states,)):
            raise ValueError(f"tensor `{name}` is {tensor.dtype} {list(tensor.shape)}, expected F32 [{states}, ...]")
    return Layout(tensors, states, epochs, end)


@dataclass(frozen=True)
class StatesFile:
    """A states file whose header and length were checked."""

    path: Path
    layout: Layout
    epochs: tuple[int, ...]

    @staticmethod
    def open(path: Path) -> StatesFile:
        """Checks header, length and epochs; reads no parameters."""
        try:
            with open(path, "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise ValueError("is not a regular file")
                size = status.st_size
                length = int.from_bytes(file.read(8), "little")
                if size < 10 or not 2 <= length <= min(HEADER_LIMIT, size - 8):
                    raise ValueError(f"has {size} bytes, its header declares {length}: it is truncated or damaged")
                layout = _parse(file.read(length))
                if layout.file_length != size:
                    described = layout.file_length
                    raise ValueError(f"has {size} bytes, its header describes {described}: it is truncated or damaged")
                file.seek(layout.epochs.start)
                epochs = np.frombuffer(file.read(layout.epochs.length), "<i8")
        except ValueError as error:
            raise ZooError(f"{path}: {error}") from error
        except OSError as error:
            raise ZooError(f"{path}: cannot be read: {error.strerror}") from error
        if epochs[0] < 0 or (np.diff(epochs) <= 0).any() or epochs[-1] >= 1 << 31:
            raise ZooError(f"{path}: tensor `{EPOCHS}` does not ascend from 0 upwards")
        return StatesFile(path, layout, tuple(epochs.tolist()))

    def check(self, parameters: Sequence[Parameter]) -> None:
        """Checks that the file contains exactly these parameters."""
        expected = {p.name: (self.layout.states, *p.shape) for p in parameters}
        for name, shape in expected.items():
            found = self.layout.tensors.get(name)
            if found is None or found.shape != shape:
                found_shape = "missing" if found is None else list(found.shape)
                raise ZooError(f"{self.path}: tensor `{name}` is {found_shape}, expected {list(shape)}")
        for name in self.layout.tensors:
            if name not in expected and name != EPOCHS:
                raise ZooError(f"{self.path}: has a tensor `{name}` that its network does not have")

    def map(self) -> dict[str, Array]:
        """Every parameter as a read-only array (states, ...) into the mapped file."""
        shapes = {p.name: (self.layout.states, *p.shape) for p in self.layout.parameters}
        return {name: flat.reshape(shapes[name]) for name, flat in zip(shapes, self.flat(), strict=True)}

    def flat(self) -> list[Array]:
        """The parameters in forward order as read-only arrays (states, scalars) into the mapped file."""
        # Python's own maps keep a descriptor each; here the bytes stay mapped after the file is closed.
        try:
            with pa.memory_map(os.fsencode(self.path)) as file:
                mapped = memoryview(file.read_buffer())
        except (OSError, ValueError) as error:
            raise ZooError(f"{self.path}: cannot be mapped into memory: {error}") from error
        if len(mapped) < self.layout.file_length:
            raise ZooError(f"{self.path}: was truncated after it was opened")
        return _flat(self.layout, mapped)


class Reader:
    """Reads whole states files, one after the other, into reused memory."""

    def __init__(self) -> None:
        self._layout: Layout | None = None
        self._memory = memoryview(b"")
        self._views: list[Array] = []

    def read(self, states: StatesFile) -> list[Array]:
        """The parameters in forward order as arrays (states, scalars), valid until the next call."""
        layout = states.layout
        if layout is not self._layout:
            self._layout, self._memory = layout, memoryview(bytearray(layout.file_length))
            self._views = _flat(layout, self._memory)
        try:
            with open(states.path, "rb", buffering=0) as file:
                read = 0
                while read < layout.file_length and (count := file.readinto(self._memory[read:])):
                    read += count
        except OSError as error:
            raise ZooError(f"{states.path}: cannot be read: {error.strerror}") from error
        if read < layout.file_length:
            raise ZooError(f"{states.path}: was truncated after it was opened")
        return self._views


def _flat(layout: Layout, content: memoryview) -> list[Array]:
    tensors = [layout.tensors[p.name] for p in layout.parameters]
    flat = [np.frombuffer(content, "<f4", math.prod(t.shape), t.start) for t in tensors]
    return [array.reshape(layout.states, math.prod(t.shape[1:])) for array, t in zip(flat, tensors, strict=True)]


def to_bytes(parameters: Sequence[Parameter], epochs: Sequence[int], states: Sequence[Mapping[str, Array]]) -> bytes:
    """A states file, byte for byte as the zoo's own stages write it: tensors in forward order, then epochs."""
    count, entries, data, end = len(epochs), {}, [], 0
    for parameter in parameters:
        stacked = np.stack([state[parameter.name] for state in states]).astype("<f4", copy=False)
        start, end = end, end + stacked.nbytes
        shape = [count, *parameter.shape]
        entries[parameter.name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
        data.append(stacked.tobytes())
    entries[EPOCHS] = {"dtype": "I64", "shape": [count], "data_offsets": [end, end + 8 * count]}
    data.append(np.asarray(epochs, "<i8").tobytes())
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + b"".join(data)
