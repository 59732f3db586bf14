"""A zoo directory as a DataFrame, arrays, datasets and modules."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from . import architectures, files
from .architectures import Parameter
from .errors import Fault, FaultWarning, ZooError, escaped, summary
from .states import Array, Reader, StatesFile

if TYPE_CHECKING:
    import torch

    from .dataset import ZooDataset

Split = Literal["train", "val", "test"]
Epochs: TypeAlias = int | Collection[int] | Literal["last"] | None

METRICS = ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")
TWIN_METRICS = ("sparsity_ratio", "test_agreement")

# Typed by some versions of NumPy only.
_open_memmap: Any = np.lib.format.open_memmap

_THREADS = min(4, os.cpu_count() or 1)
# Below this share of a file's states, the file is mapped and only their pages are read.
_MAP_BELOW = 0.25


class Zoo:
    """A finished zoo.

    What is faulty is skipped: `faults` says what and why, and a `FaultWarning` shows the first few.
    """

    def __init__(
        self, path: Path, shares: Sequence[float] = (0.7, 0.15, 0.15), seed: int = 42, strict: bool = False
    ) -> None:
        """Use `modelzoo.open`, which also opens archives."""
        self.path = path
        if not path.is_dir():
            raise ZooError(f"{path}: does not exist" if not path.exists() else f"{path}: is not a folder")
        if not (path / files.ZOO).exists():
            raise ZooError(f"{path}: has no zoo.json: it is not a zoo, or not finished yet")
        self.record: Mapping[str, Any] = files.read_record(path / files.ZOO)
        """`zoo.json`."""
        self.faults: list[Fault] = []
        """What was skipped, and why."""
        self._states: dict[int, StatesFile] = {}
        index = self._read_index()
        index, self._places = self._match(index)
        splits = split_models(index["id"].unique(), shares, seed)
        split = pd.Categorical(index["id"].map(splits), categories=["train", "val", "test"])
        index.insert(2, "split", pd.Series(split, index=index.index))
        self.index: pd.DataFrame = index
        """One row per model and kept state: `id`, `epoch`, `split`, hyperparameters, metrics, `diverged`."""
        if self.faults and strict:
            raise ZooError(f"{path}: {len(self.faults)} faults\n{summary(self.faults)}")
        if self.faults:
            message = f"{path}: {len(self.faults)} faults, skipped (see .faults):\n{summary(self.faults)}"
            warnings.warn(message, FaultWarning, stacklevel=3)

    def __repr__(self) -> str:
        return f"<Zoo {self.name}: {len(self._states)} models, {len(self.index)} states>"

    def __len__(self) -> int:
        return len(self.index)

    @property
    def name(self) -> str:
        """The zoo's name."""
        return str(self.record["name"])

    @property
    def ids(self) -> list[int]:
        """Ids of the models that can be read, ascending."""
        return sorted(self._states)

    # Opening

    def _fault(self, place: str, message: object) -> None:
        text = str(message).removeprefix(f"{self.path / place}: ")
        self.faults.append(Fault(place, text))

    def _read_index(self) -> pd.DataFrame:
        """The index of an unpacked archive, or one made from the models' JSON."""
        path = self.path / files.INDEX
        if path.exists():
            try:
                return self._read_parquet(path)
            except (ZooError, OSError, ValueError, KeyError, TypeError) as error:
                self._fault(files.INDEX, f"cannot be read, so the models' own files were: {error}")
        rows: list[files.Json] = []
        for model, name in files.model_folders(self.path):
            if model is None:
                self._fault(f"models/{name}", "is not a model")
                continue
            try:
                rows += self._rows(model)
            except ZooError as error:
                self._fault(f"models/{name}", str(error).removeprefix(f"{self.path}/models/{name}/"))
        return _frame(rows)

    def _read_parquet(self, path: Path) -> pd.DataFrame:
        if path.stat().st_size > files.LIMITS[files.INDEX]:
            raise ZooError("is larger than an index may be")
        table = pq.ParquetFile(path, thrift_string_size_limit=64 << 20, thrift_container_size_limit=16 << 20)
        if table.metadata.num_rows != self.record["states"]:
            raise ZooError(f"has {table.metadata.num_rows} rows, zoo.json counts {self.record['states']} states")
        # Encodings can make billions of rows of a small file; states cannot be made of nothing.
        folders = (self.path / "models" / name for _, name in files.model_folders(self.path))
        paths = (folder / files.STATES for folder in folders)
        size = sum(path.stat().st_size for path in paths if path.is_file())
        if 4 * max(1, self.record["parameters"]) * table.metadata.num_rows > size:
            raise ZooError(f"has {table.metadata.num_rows} rows, more than the states files hold")
        frame: pd.DataFrame = table.read().to_pandas()
        for key in ("id", "epoch"):
            if frame[key].dtype != np.int32 or (frame[key] < 0).any():
                raise ZooError(f"its column `{key}` does not hold numbers from 0 upwards")
        if frame.duplicated(["id", "epoch"]).any():
            raise ZooError("has a state twice")
        return frame

    def _rows(self, model: int) -> list[files.Json]:
        params = self.params(model)
        # Lists are JSON, as in the index of an archive.
        texts = {k: json.dumps(v, separators=(",", ":")) if isinstance(v, list) else v for k, v in params.items()}
        shared: files.Json = {k: v for k, v in texts.items() if isinstance(v, (str, int, float, bool))}
        shared.pop("zoo::id", None)
        parent = params.get("zoo::parent")
        if isinstance(parent, Mapping):
            shared["parent_zoo"] = parent.get("zoo")
        keys = (*METRICS, *(TWIN_METRICS if isinstance(parent, Mapping) else ()))
        rows = []
        for line in self.results(model):
            metrics = {key: line.get(key) for key in keys}
            head = {"id": model, "epoch": line["training_iteration"]}
            rows.append(head | shared | metrics | {"diverged": bool(line.get("diverged", False))})
        return rows

    def _match(self, index: pd.DataFrame) -> tuple[pd.DataFrame, NDArray[np.int64]]:
        """Drops rows without a state, and says where in its file each row's state is."""
        index = index.sort_values(["id", "epoch"], kind="stable", ignore_index=True)
        places = np.full(len(index), -1, np.int64)
        there = {model for model, _ in files.model_folders(self.path)}
        for label, rows in index.groupby("id").indices.items():
            model = int(str(label))
            place = f"models/{model:06}/{files.STATES}"
            try:
                states = StatesFile.open(self.path / place)
                self._check(index.iloc[rows[0]].to_dict(), states)
            except (ZooError, ValueError) as error:
                self._fault(place, error)
                continue
            self._states[model] = states
            of_epoch = {epoch: i for i, epoch in enumerate(states.epochs)}
            epochs = index["epoch"].to_numpy()[rows]
            places[rows] = [of_epoch.pop(int(epoch), -1) for epoch in epochs]
            for epoch in epochs[places[rows] < 0]:
                self._fault(place, f"has no state of epoch {epoch}, which has metrics")
            for epoch in of_epoch:
                self._fault(place, f"has a state of epoch {epoch}, which has no metrics")
        for model in sorted(m for m in there if m is not None and m not in self._states):
            if not any(fault.place.startswith(f"models/{model:06}") for fault in self.faults):
                self._fault(f"models/{model:06}", "is not in the index")
        if len(there) < self.record["models"]:
            self._fault(files.ZOO, f"counts {self.record['models']} models, {len(there)} are there")
        kept = places >= 0
        return index[kept].reset_index(drop=True), places[kept]

    def _check(self, params: Mapping[Any, Any], states: StatesFile) -> None:
        """A states file against the architecture, if that is known here, and against `zoo.json`."""
        if architectures.is_known(params.get("model::type")):
            states.check(architectures.parameters({str(key): _plain(value) for key, value in params.items()}))
        count = sum(parameter.size for parameter in states.layout.parameters if parameter.is_trained)
        if count != self.record["parameters"]:
            raise ValueError(f"has {count} parameters a model, zoo.json says {self.record['parameters']}")

    # Single models

    def _folder(self, model: int | str) -> Path:
        return self.path / "models" / f"{int(model):06}"

    def params(self, model: int | str) -> files.Json:
        """A model's `params.json`."""
        return files.read_object(self._folder(model) / files.PARAMS, files.LIMITS[files.PARAMS])

    def results(self, model: int | str) -> list[files.Json]:
        """A model's `result.json`: one object per kept state."""
        path = self._folder(model) / files.RESULT
        lines: list[files.Json] = []
        for number, text in enumerate(files.read_limited(path, files.LIMITS[files.RESULT]).splitlines(), 1):
            try:
                line = files.parse_object(text)
                epoch = line.get("training_iteration")
                if not isinstance(epoch, int) or not 0 <= epoch < 1 << 31:
                    raise ValueError(f"`training_iteration` is {epoch!r}")
                if lines and epoch <= lines[-1]["training_iteration"]:
                    raise ValueError("`training_iteration` does not ascend")
                for key in (*METRICS, *TWIN_METRICS):
                    if not isinstance(line.get(key), (int, float, type(None))):
                        raise ValueError(f"`{key}` is {line[key]!r}, expected a number")
            except ValueError as error:
                raise ZooError(f"{path}: line {number}: {error}") from error
            lines.append(line)
        return lines

    def states(self, model: int | str) -> dict[str, Array]:
        """A model's trajectory: every parameter as a read-only array (states, ...), mapped from its file."""
        return self._file(model).map()

    def parameters(self, model: int | str | None = None) -> list[Parameter]:
        """Names, shapes and places in a vector of a model's parameters; of the zoo's first model by default.

        Shapes and places are those of the whole zoo; names differ between `cnn-s` with and without dropout.
        """
        if model is None and not self._states:
            raise ZooError(f"{self.path}: has no model that can be read")
        return list(self._file(self.ids[0] if model is None else model).layout.parameters)

    @cached_property
    def index_dict(self) -> dict[str, list[Any]]:
        """Where each layer lies in a vector, as the published collection's `index_dict.json` says it."""
        return architectures.index_dict(self.parameters())

    def model(self, model: int | str, epoch: int | None = None) -> torch.nn.Module:
        """A model at an epoch, the last one by default, as a PyTorch module in evaluation mode."""
        from . import network

        states = self._file(model)
        epoch = states.epochs[-1] if epoch is None else epoch
        if epoch not in states.epochs:
            raise KeyError(f"model {int(model):06} has no state of epoch {epoch}; it has {list(states.epochs)}")
        place = states.epochs.index(epoch)
        return network.load(self.params(model), {name: tensor[place] for name, tensor in states.map().items()})

    def _file(self, model: int | str) -> StatesFile:
        try:
            return self._states[int(model)]
        except (KeyError, ValueError):
            raise KeyError(f"{self.name} has no model {escaped(str(model))} that can be read") from None

    # Many states

    def select(self, split: Split | None = None, epochs: Epochs = None, diverged: bool = True) -> pd.DataFrame:
        """Rows of the index: of one split, of some epochs (or every model's last), with or without diverged states."""
        if split is None and epochs is None and diverged:
            return self.index.copy()
        chosen = pd.Series(True, self.index.index)
        if split is not None:
            if split not in ("train", "val", "test"):
                raise ValueError(f"split is {split!r}, expected train, val or test")
            chosen &= self.index["split"] == split
        if isinstance(epochs, str):
            if epochs != "last":
                raise ValueError(f"epochs is {epochs!r}, expected numbers or 'last'")
            chosen &= ~self.index.duplicated("id", keep="last")
        elif epochs is not None:
            chosen &= self.index["epoch"].isin([epochs] if isinstance(epochs, (int, np.integer)) else list(epochs))
        if not diverged:
            chosen &= ~self.index["diverged"].astype(bool)
        return self.index[chosen]

    @overload
    def weights(
        self,
        split: Split | None = ...,
        epochs: Epochs = ...,
        layout: Literal["vector"] = ...,
        *,
        rows: pd.DataFrame | None = ...,
        diverged: bool = ...,
        backend: Literal["numpy"] = ...,
        out: str | os.PathLike[str] | None = ...,
    ) -> tuple[Array, pd.DataFrame]: ...
    @overload
    def weights(
        self,
        split: Split | None = ...,
        epochs: Epochs = ...,
        *,
        layout: Literal["layers"],
        rows: pd.DataFrame | None = ...,
        diverged: bool = ...,
        backend: Literal["numpy"] = ...,
    ) -> tuple[dict[str, Array], pd.DataFrame]: ...
    @overload
    def weights(
        self,
        split: Split | None = ...,
        epochs: Epochs = ...,
        layout: Literal["vector"] = ...,
        *,
        rows: pd.DataFrame | None = ...,
        diverged: bool = ...,
        backend: Literal["torch"],
        out: str | os.PathLike[str] | None = ...,
    ) -> tuple[torch.Tensor, pd.DataFrame]: ...
    @overload
    def weights(
        self,
        split: Split | None = ...,
        epochs: Epochs = ...,
        *,
        layout: Literal["layers"],
        rows: pd.DataFrame | None = ...,
        diverged: bool = ...,
        backend: Literal["torch"],
    ) -> tuple[dict[str, torch.Tensor], pd.DataFrame]: ...
    def weights(
        self,
        split: Split | None = None,
        epochs: Epochs = None,
        layout: Literal["vector", "layers"] = "vector",
        *,
        rows: pd.DataFrame | None = None,
        diverged: bool = True,
        backend: Literal["numpy", "torch"] = "numpy",
        out: str | os.PathLike[str] | None = None,
    ) -> tuple[Any, pd.DataFrame]:
        """Weights of many states, and the rows of the index that they belong to, in the same order.

        `split`, `epochs` and `diverged` choose as `select` does; `rows`, any rows of `index`, in their place.
        As "vector" the weights are one array (rows, parameters), laid out as `parameters` and `index_dict` say;
        as "layers" a dict of arrays (rows, ...), under the first model's parameter names. With `out`, a vector
        array is written to that `.npy` file and mapped from it, so that it need not fit into memory.
        """
        if layout not in ("vector", "layers") or backend not in ("numpy", "torch"):
            raise ValueError("layout must be vector or layers, backend numpy or torch")
        if out is not None and layout == "layers":
            raise ValueError("out goes with layout='vector'")
        if rows is None:
            rows = self.select(split, epochs, diverged)
        elif split is not None or epochs is not None:
            raise ValueError("rows stands in the place of split and epochs")
        shapes = [(p.name, p.shape, slice(p.start, p.stop)) for p in self.parameters()]
        size, count = shapes[-1][2].stop, len(rows)
        values: Any
        if layout == "layers":
            values = {name: np.empty((count, *shape), np.float32) for name, shape, _ in shapes}
            self._fill([values[name].reshape(count, -1) for name, _, _ in shapes], rows)
        elif out is None:
            values = np.empty((count, size), np.float32)
            self._fill([values[:, columns] for _, _, columns in shapes], rows)
        else:
            path = Path(out)
            temporary = path.with_name(f".{path.name}.tmp")
            mapped = _open_memmap(temporary, "w+", np.float32, (count, size))
            self._fill([mapped[:, columns] for _, _, columns in shapes], rows)
            mapped.flush()
            os.replace(temporary, path)
            values = np.load(path, mmap_mode="c")
        if backend == "torch":
            import torch

            as_tensor = torch.from_numpy
            values = {k: as_tensor(v) for k, v in values.items()} if layout == "layers" else as_tensor(values)
        return values, rows

    def _fill(self, targets: Sequence[Array], rows: pd.DataFrame) -> None:
        """Copies the states of `rows` to (rows, scalars) arrays, one per parameter in forward order."""
        labels = rows.index.to_numpy()
        ids = rows["id"].to_numpy()
        if len(labels) and (labels.dtype.kind != "i" or (self.index.loc[labels, "id"] != ids).any()):
            raise ValueError("rows must be rows of this zoo's index, under their own labels")
        places = self._places[labels]
        bounds = np.flatnonzero(np.diff(ids)) + 1
        jumps = np.diff(places) != 1
        runs = list(zip([0, *bounds.tolist()], [*bounds.tolist(), len(ids)], strict=True)) if len(ids) else []

        def copy(runs: Sequence[tuple[int, int]]) -> None:
            reader = Reader()
            for start, stop in runs:
                states = self._states[int(ids[start])]
                few = stop - start < _MAP_BELOW * states.layout.states
                tensors = states.flat() if few else reader.read(states)
                chosen: Any = places[start:stop]
                if not jumps[start : stop - 1].any():
                    chosen = slice(chosen[0], chosen[-1] + 1)
                for target, tensor in zip(targets, tensors, strict=True):
                    target[start:stop] = tensor[chosen]

        with ThreadPoolExecutor(_THREADS) as pool:
            step = max(1, len(runs) // (8 * _THREADS))
            list(pool.map(copy, [runs[i : i + step] for i in range(0, len(runs), step)]))

    def dataset(
        self,
        split: Split | None = None,
        epochs: Epochs = None,
        properties: Sequence[str] = ("test_acc",),
        layout: Literal["vector", "layers"] = "vector",
        *,
        rows: pd.DataFrame | None = None,
        diverged: bool = False,
        transform: Callable[[Any], Any] | None = None,
    ) -> ZooDataset:
        """States as a `torch.utils.data.Dataset` of (weights, properties).

        `properties` are columns of the index, or "ggap" (train_acc - test_acc). An item is the state's vector (or
        dict of layers) and a float32 tensor of its properties; a column of words counts as its categories' numbers,
        which the dataset's `categories` translate. Diverged states are left out unless asked for.
        """
        from .dataset import ZooDataset

        if rows is None:
            rows = self.select(split, epochs, diverged)
        elif split is not None or epochs is not None:
            raise ValueError("rows stands in the place of split and epochs")
        weights: Any
        if layout == "layers":
            weights, rows = self.weights(rows=rows, layout="layers", backend="torch")
        else:
            weights, rows = self.weights(rows=rows, backend="torch")
        return ZooDataset(weights, rows, self.index, properties, transform)

    # Whole files

    def check(self) -> list[Fault]:
        """Reads every byte: checksums against `SHA256SUMS`, if there is one, and values against `diverged`.

        `zoo-verify` checks more, and archives too.
        """
        faults = list(self.faults)
        sums = self._checksums(faults)
        for path, expected in sums.items():
            if not files.is_zoo_file(path):
                faults.append(Fault(files.CHECKSUMS, f"lists {path}, which is no file of a zoo"))
                continue
            try:
                if files.sha256_file(self.path / path) != expected:
                    faults.append(Fault(path, "has another SHA-256 than SHA256SUMS says"))
            except OSError as error:
                faults.append(Fault(path, f"cannot be read: {error.strerror}"))
        rows = self.index.groupby("id").indices
        for model, states in sorted(self._states.items()):
            finite = np.ones(states.layout.states, bool)
            for tensor in states.map().values():
                finite &= np.isfinite(tensor).reshape(len(tensor), -1).all(axis=1)
            for row in rows.get(model, []):
                if not finite[self._places[row]] and not self.index["diverged"].iloc[row]:
                    epoch = self.index["epoch"].iloc[row]
                    place = f"models/{model:06}/{files.STATES}"
                    faults.append(Fault(place, f"epoch {epoch} is not finite, but not marked diverged"))
        return faults

    def _checksums(self, faults: list[Fault]) -> dict[str, str]:
        path = self.path / files.CHECKSUMS
        if not path.exists():
            return {}
        try:
            return files.parse_checksums(files.read_limited(path, files.LIMITS[files.CHECKSUMS]))
        except (ZooError, ValueError) as error:
            faults.append(Fault(files.CHECKSUMS, str(error)))
            return {}


def split_models(ids: Collection[int], shares: Sequence[float], seed: int) -> dict[int, Split]:
    """Assigns models to splits, in shares of (train, val, test).

    Models are ranked by SHA-256 of "SEED/ID", so that a split depends on the ids alone: twins fall where their
    parents do, and all states of a model into the same split.
    """
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"shares are {shares!r}, expected three that add up to 1")
    ranked = sorted((int(i) for i in ids), key=lambda i: hashlib.sha256(f"{seed}/{i:06}".encode()).digest())
    first = round(shares[0] * len(ranked))
    second = first + round(shares[1] * len(ranked))
    bounds: list[tuple[Split, int, int]] = [("train", 0, first), ("val", first, second), ("test", second, len(ranked))]
    return {model: split for split, start, stop in bounds for model in ranked[start:stop]}


def _frame(rows: list[files.Json]) -> pd.DataFrame:
    """Rows as a DataFrame typed as `index.parquet` is."""
    frame = pd.DataFrame(rows)
    if not rows:
        frame = pd.DataFrame({"id": [], "epoch": [], "diverged": []})
    kinds = {"id": "int32", "epoch": "int32", "diverged": "bool"}
    kinds |= {key: "float64" for key in (*METRICS, *TWIN_METRICS) if key in frame}
    return frame.astype(kinds)


def _plain(value: Any) -> Any:
    """A NumPy scalar as Python's own."""
    return value.item() if isinstance(value, np.generic) else value
