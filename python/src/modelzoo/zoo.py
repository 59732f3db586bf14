"""A zoo directory as a DataFrame, arrays, datasets and modules."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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
from .errors import ArgumentError, Fault, FaultWarning, MissingError, ZooError, escaped, parsed, summary
from .states import Array, Reader, StatesFile

if TYPE_CHECKING:
    import torch

    from .dataset import ZooDataset

Split = Literal["train", "val", "test"]
Epochs: TypeAlias = "int | np.integer[Any] | Collection[int] | Literal['last'] | None"

METRICS = ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")
TWIN_METRICS = ("sparsity_ratio", "test_agreement")

#: Columns of the index that no hyperparameter may have the name of.
RESERVED = {"id", "epoch", "parent_zoo", "diverged", *METRICS, *TWIN_METRICS}

# Hyperparameters that are numbers with a fraction, also where a file has none.
_FRACTIONS = ("model::dropout", "optim::lr", "optim::wd", "optim::momentum", "sparsify::sparsity", "sparsify::lr")

_NULLABLE = {"bool": pd.BooleanDtype(), "int64": pd.Int64Dtype(), "uint64": pd.UInt64Dtype()}

# Typed by some versions of NumPy only.
_open_memmap: Any = np.lib.format.open_memmap

_THREADS = min(4, os.cpu_count() or 1)
# Below this share of a file's states, the file is mapped and only their pages are read.
_MAP_BELOW = 0.25


class Zoo:
    """A finished zoo.

    Faulty parts are skipped: `faults` lists them with reasons, and a `FaultWarning` shows the first few.
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
        """The parts that were skipped, with the reasons."""
        self._states: dict[int, StatesFile] = {}
        index = self._read_index()
        index, self._places = self._match(index)
        self._keys = (index["id"].to_numpy(np.int64) << 31) | index["epoch"].to_numpy(np.int64)
        splits = split_models(index["id"].unique(), shares, seed)
        index = index.rename(columns={"split": "params::split"})
        split = pd.Categorical(index["id"].map(splits), categories=["train", "val", "test"])
        index.insert(2, "split", pd.Series(split, index=index.index))
        self.index: pd.DataFrame = index
        """One row per model and kept state: `id`, `epoch`, `split`, hyperparameters, metrics, `diverged`."""
        if self.faults and strict:
            raise ZooError(f"{path}: {len(self.faults)} faults; the first: {self.faults[0]}")
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
                with parsed("cannot be read, so the models' own files were"):
                    return self._read_parquet(path)
            except (OSError, ValueError) as error:
                self._fault(files.INDEX, error)
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
            raise ValueError("is larger than an index may be")
        table = pq.ParquetFile(path, thrift_string_size_limit=64 << 20, thrift_container_size_limit=16 << 20)
        if table.metadata.num_rows != self.record["states"]:
            raise ValueError(f"has {table.metadata.num_rows} rows, zoo.json records {self.record['states']} states")
        # Encodings can expand a small file to billions of rows; states cannot be compressed.
        folders = (self.path / "models" / name for _, name in files.model_folders(self.path))
        paths = (folder / files.STATES for folder in folders)
        size = sum(path.stat().st_size for path in paths if path.is_file())
        if 4 * max(1, self.record["parameters"]) * table.metadata.num_rows > size:
            raise ValueError(f"has {table.metadata.num_rows} rows, more than the states files contain")
        content = table.read()
        frame: pd.DataFrame = content.to_pandas()
        for name in content.column_names:
            # With nulls, pandas' own types would round large integers.
            column = content[name]
            if column.null_count and (kind := _NULLABLE.get(str(column.type))):
                frame[name] = column.to_pandas(types_mapper=lambda _, kind=kind: kind)
        for key in ("id", "epoch"):
            if frame[key].dtype != np.int32 or (frame[key] < 0).any():
                raise ValueError(f"its column `{key}` does not contain numbers from 0 upwards")
        if frame["diverged"].dtype != np.bool_:
            raise ValueError("its column `diverged` does not contain booleans")
        if frame.duplicated(["id", "epoch"]).any():
            raise ValueError("lists a state twice")
        return frame

    def _rows(self, model: int) -> list[files.Json]:
        params = self.params(model)
        # Lists are JSON, as in the index of an archive.
        texts = {k: _dumped(v) if isinstance(v, list) else v for k, v in params.items()}
        shared: files.Json = {k: v for k, v in texts.items() if isinstance(v, (str, int, float, bool))}
        shared.pop("zoo::id", None)
        if taken := sorted(shared.keys() & RESERVED):
            path = self._folder(model) / files.PARAMS
            raise ZooError(f"{path}: has a key `{taken[0]}`, the name of another column of the index")
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
        """Drops rows without a state, and locates each row's state in its file."""
        index = index.sort_values(["id", "epoch"], kind="stable", ignore_index=True)
        places = np.full(len(index), -1, np.int64)
        there = {model for model, _ in files.model_folders(self.path)}
        heads = {head["id"]: head for head in index.drop_duplicates("id").to_dict("records")}
        for label, rows in index.groupby("id").indices.items():
            model = int(str(label))
            place = f"models/{model:06}/{files.STATES}"
            try:
                states = StatesFile.open(self.path / place)
                self._check(heads[model], states)
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
            self._fault(files.ZOO, f"records {self.record['models']} models, found {len(there)}")
        kept = places >= 0
        return index[kept].reset_index(drop=True), places[kept]

    def _check(self, params: Mapping[Any, Any], states: StatesFile) -> None:
        """Checks a states file against `zoo.json`, and against the architecture if that is known."""
        if architectures.is_known(params.get("model::type")):
            known = {str(key): _plain(value) for key, value in params.items() if not pd.isna(value)}
            states.check(architectures.parameters(known))
        count = sum(parameter.size for parameter in architectures.trained(states.layout.parameters))
        if count != self.record["parameters"]:
            raise ValueError(f"has {count} parameters per model, zoo.json says {self.record['parameters']}")

    # Single models

    def _folder(self, model: int | str) -> Path:
        return self.path / "models" / f"{self._id(model):06}"

    def _id(self, model: int | str) -> int:
        """An id, given as a number or as the name of a model's folder."""
        digits = isinstance(model, str) and model.isascii() and model.isdecimal()
        if digits or (isinstance(model, (int, np.integer)) and not isinstance(model, bool)):
            return int(model)
        raise MissingError(f"{self.name} has no model {escaped(str(model))} that can be read: ids are whole numbers")

    def params(self, model: int | str) -> files.Json:
        """A model's `params.json`."""
        path = self._folder(model) / files.PARAMS
        params = files.read_object(path, files.LIMITS[files.PARAMS])
        try:
            files.to_json(params)
        except ValueError:
            raise ZooError(f"{path}: contains a number that is not finite") from None
        return params

    def results(self, model: int | str) -> list[files.Json]:
        """A model's `result.json`: one object per kept state."""
        path = self._folder(model) / files.RESULT
        lines: list[files.Json] = []
        for number, text in enumerate(files.read_limited(path, files.LIMITS[files.RESULT]).split(b"\n"), 1):
            if not text.strip():
                continue
            try:
                line = files.parse_object(text)
                epoch = line.get("training_iteration")
                if not isinstance(epoch, int) or isinstance(epoch, bool) or not 0 <= epoch < 1 << 31:
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
        """A model's trajectory: every parameter as a read-only array (states, ...), mapped from the file."""
        return self._file(model).map()

    def parameters(self, model: int | str | None = None) -> list[Parameter]:
        """Names, shapes and positions of a model's parameters in a vector; by default of the zoo's first model.

        Shapes and places are those of the whole zoo; names differ between `cnn-s` with and without dropout.
        """
        if model is None and not self._states:
            raise ZooError(f"{self.path}: has no model that can be read")
        return list(self._file(self.ids[0] if model is None else model).layout.parameters)

    @cached_property
    def index_dict(self) -> dict[str, list[Any]]:
        """The position of each layer in a vector, as the published collection's `index_dict.json` describes it.

        A `ZooError` for networks that are more than layers with weights and biases, such as `resnet18`.
        """
        try:
            return architectures.index_dict(self.parameters())
        except ValueError as error:
            raise ZooError(f"{self.path}: {error}: no index_dict.json can describe it") from error

    def model(self, model: int | str, epoch: int | None = None) -> torch.nn.Module:
        """A model at an epoch, the last one by default, as a PyTorch module in evaluation mode."""
        from . import network

        states = self._file(model)
        epoch = states.epochs[-1] if epoch is None else epoch
        if epoch not in states.epochs:
            there = _ranges(states.epochs)
            raise MissingError(f"model {self._id(model):06} has no state of epoch {epoch}; it has {there}")
        place = states.epochs.index(epoch)
        return network.load(self.params(model), {name: tensor[place] for name, tensor in states.map().items()})

    def _file(self, model: int | str) -> StatesFile:
        try:
            return self._states[self._id(model)]
        except KeyError as error:
            if isinstance(error, MissingError):
                raise
            raise MissingError(f"{self.name} has no model {escaped(str(model))} that can be read") from None

    # Many states

    def select(self, split: Split | None = None, epochs: Epochs = None, diverged: bool = True) -> pd.DataFrame:
        """Rows of the index: of one split, of some epochs (or every model's last), with or without diverged states.

        Every epoch asked for must be kept by some model of the split; models that lack it are left out.
        """
        if split is None and epochs is None and diverged:
            return self.index.copy()
        chosen = pd.Series(True, self.index.index)
        if split is not None:
            if split not in ("train", "val", "test"):
                raise ArgumentError(f"split is {split!r}, expected train, val or test")
            chosen &= self.index["split"] == split
        if isinstance(epochs, str):
            if epochs != "last":
                raise ArgumentError(f"epochs is {epochs!r}, expected numbers or 'last'")
            chosen &= ~self.index.duplicated("id", keep="last")
        elif epochs is not None:
            wanted = _epochs(epochs)
            there = self.index["epoch"][chosen] if chosen.any() else self.index["epoch"]
            lost = sorted(wanted - set(there.tolist()))
            if lost:
                models = f"{self.name}, split {split}," if split and chosen.any() else self.name
                kept = _ranges(there)
                raise ArgumentError(f"no model of {models} has a state of epoch {_ranges(lost)}; kept are {kept}")
            chosen &= self.index["epoch"].isin(wanted)
        if not diverged:
            chosen &= ~self.index["diverged"].astype(bool)
        return self.index[chosen]

    def _rows_like(self, rows: pd.DataFrame) -> tuple[pd.DataFrame, NDArray[np.int64]]:
        """A caller's rows, completed by the index's columns, and their positions in the index.

        Rows are identified by `id` and `epoch`, whatever their order and labels; other values must equal the index's,
        so that rows of another zoo are detected. The caller's own columns are kept, including a `split`.
        """
        if not isinstance(rows, pd.DataFrame):
            raise ArgumentError(f"rows is a {type(rows).__name__}, expected rows of this zoo's index, a DataFrame")
        if missing := [key for key in ("id", "epoch") if key not in rows]:
            raise ArgumentError(f"rows have no column `{missing[0]}`: they must be rows of this zoo's index")
        if not rows.columns.is_unique:
            raise ArgumentError("rows have a duplicate column")
        places = self._rows_of(rows)
        if (places < 0).any():
            model, epoch = rows[["id", "epoch"]].iloc[int(np.argmax(places < 0))]
            raise ArgumentError(f"rows are not of {self.name}: it has no model {model} with a state of epoch {epoch}")
        found = self.index.loc[places].set_axis(rows.index)
        for name in rows.columns:
            if name in ("id", "epoch", "split") or not (name in found or _is_of_twins(name)):
                continue
            own = found[name] if name in found else pd.Series(None, rows.index, object)
            differs = _differs(rows[name], own)
            if differs.any():
                row = int(np.argmax(differs))
                model, epoch = found[["id", "epoch"]].iloc[row]
                raise ArgumentError(
                    f"rows are not of {self.name}: `{name}` of model {model:06} at epoch {epoch} is "
                    f"{rows[name].iloc[row]} in them, {own.iloc[row]} in the index"
                )
        for name in rows.columns:
            if name not in found or name == "split":
                found[name] = rows[name].array
        return found, places

    def _rows_of(self, rows: pd.DataFrame) -> NDArray[np.int64]:
        """Positions of rows in the index as opened, by `id` and `epoch`; -1 for rows that are not in it."""
        columns = [pd.to_numeric(rows[key], errors="coerce") for key in ("id", "epoch")]
        numbers = [column.to_numpy(np.float64, na_value=-1) for column in columns]
        sound = np.all([(n >= 0) & (n < 1 << 31) & (n == np.floor(n)) for n in numbers], axis=0)
        model, epoch = (np.where(sound, n, 0).astype(np.int64) for n in numbers)
        wanted = model << 31 | epoch
        places = np.searchsorted(self._keys, wanted)
        sound &= np.append(self._keys, -1)[places] == wanted
        return np.where(sound, places, -1)

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

        `split`, `epochs` and `diverged` choose as `select` does; `rows`, any rows of `index`, in their place: sorted,
        filtered, repeated, relabelled or with columns added, but not another zoo's.
        As "vector" the weights are one array (rows, parameters), laid out as `parameters` and `index_dict` say;
        as "layers" a dict of arrays (rows, ...), under the first model's parameter names. With `out`, a vector
        array is written to that `.npy` file and mapped from it, so that it need not fit into memory.
        """
        if layout not in ("vector", "layers") or backend not in ("numpy", "torch"):
            raise ArgumentError("layout must be vector or layers, backend numpy or torch")
        if out is not None and layout == "layers":
            raise ArgumentError("out requires layout='vector'")
        if rows is None:
            rows = self.select(split, epochs, diverged)
            places = self._rows_of(rows)
        elif split is not None or epochs is not None or not diverged:
            raise ArgumentError("rows cannot be combined with split, epochs or diverged")
        else:
            rows, places = self._rows_like(rows)
        shapes = [(p.name, p.shape, slice(p.start, p.stop)) for p in self.parameters()]
        size, count = shapes[-1][2].stop, len(rows)
        values: Any
        if layout == "layers":
            values = {name: np.empty((count, *shape), np.float32) for name, shape, _ in shapes}
            self._fill([values[name].reshape(count, -1) for name, _, _ in shapes], places)
        elif out is None:
            values = np.empty((count, size), np.float32)
            self._fill([values[:, columns] for _, _, columns in shapes], places)
        else:
            path = Path(out)
            temporary = path.with_name(f".{path.name}.tmp")
            try:
                mapped = _open_memmap(temporary, "w+", np.float32, (count, size))
                self._fill([mapped[:, columns] for _, _, columns in shapes], places)
                mapped.flush()
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            values = np.load(path, mmap_mode="c")
        if backend == "torch":
            import torch

            as_tensor = torch.from_numpy
            values = {k: as_tensor(v) for k, v in values.items()} if layout == "layers" else as_tensor(values)
        return values, rows

    def _fill(self, targets: Sequence[Array], rows: NDArray[np.int64]) -> None:
        """Copies the states of these index rows to (rows, scalars) arrays, one per parameter in forward order."""
        ids = self._keys[rows] >> 31
        places = self._places[rows]
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
        properties: str | Sequence[str] = ("test_acc",),
        layout: Literal["vector", "layers"] = "vector",
        *,
        rows: pd.DataFrame | None = None,
        diverged: bool = False,
        transform: Callable[[Any], Any] | None = None,
    ) -> ZooDataset:
        """States as a `torch.utils.data.Dataset` of (weights, properties).

        `properties` are columns of the index or of `rows`, or "ggap" (train_acc - test_acc). An item is the state's
        vector (or dict of layers) and a float32 tensor of its properties; a column of words counts as its categories'
        numbers, which the dataset's `categories` translate. Diverged states are left out unless asked for, by
        `diverged` or in `rows`.
        """
        from .dataset import ZooDataset

        if rows is None:
            rows = self.select(split, epochs, diverged)
        elif split is not None or epochs is not None:
            raise ArgumentError("rows cannot be combined with split or epochs")
        else:
            rows, _ = self._rows_like(rows)
        properties = [properties] if isinstance(properties, str) else list(properties)
        for name in properties:
            if name != "ggap" and name not in rows:
                raise MissingError(
                    f"{name!r} is not a column of the index; available are ggap, {', '.join(rows.columns)}"
                )
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
                faults.append(Fault(files.CHECKSUMS, f"lists {path}, which does not belong to a zoo"))
                continue
            try:
                if files.sha256_file(self.path / path) != expected:
                    faults.append(Fault(path, "does not have the SHA-256 listed in SHA256SUMS"))
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
    if len(shares) != 3 or not (min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-9):
        raise ArgumentError(f"shares are {shares!r}, expected three that add up to 1")
    ranked = sorted((int(i) for i in ids), key=lambda i: hashlib.sha256(f"{seed}/{i:06}".encode()).digest())
    first = round(shares[0] * len(ranked))
    second = first + round(shares[1] * len(ranked))
    bounds: list[tuple[Split, int, int]] = [("train", 0, first), ("val", first, second), ("test", second, len(ranked))]
    return {model: split for split, start, stop in bounds for model in ranked[start:stop]}


def _epochs(epochs: int | np.integer[Any] | Collection[int]) -> set[int]:
    """The requested epochs, one or several."""
    try:
        listed = list(epochs) if isinstance(epochs, Iterable) else [epochs]
        wanted = {int(epoch) for epoch in listed}
        if wanted != set(listed) or any(isinstance(epoch, (bool, np.bool_)) for epoch in listed):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ArgumentError(f"epochs is {epochs!r}, expected whole numbers or 'last'") from None
    return wanted


def _ranges(epochs: Collection[int]) -> str:
    """Epochs in short form: 0 to 25, 30."""
    numbers = np.unique(np.asarray(list(epochs)))
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1) if len(numbers) else []
    named = [", ".join(map(str, run)) if len(run) < 3 else f"{run[0]} to {run[-1]}" for run in runs]
    return ", ".join(named[:10]) + (", ..." if len(named) > 10 else "") or "none"


def _is_of_twins(name: object) -> bool:
    """Whether a column occurs only in the indices of twins."""
    return isinstance(name, str) and (name.startswith("sparsify::") or name in ("parent_zoo", *TWIN_METRICS))


def _differs(given: pd.Series[Any], own: pd.Series[Any]) -> NDArray[np.bool_]:
    """Where two columns have different values; a float may have lost its last digits through a text file."""
    null = given.isna().to_numpy(), own.isna().to_numpy()
    kinds = pd.api.types
    if all(kinds.is_numeric_dtype(c) and not kinds.is_bool_dtype(c) for c in (given, own)) and (
        kinds.is_float_dtype(given) or kinds.is_float_dtype(own)
    ):
        left, right = (column.to_numpy(np.float64, na_value=np.nan) for column in (given, own))
        same = np.isclose(left, right, rtol=1e-9, atol=0)
    else:
        left, right = (column.astype(object).to_numpy() for column in (given, own))
        known = ~(null[0] | null[1])
        same = np.zeros(len(left), bool)
        same[known] = [bool(a == b) for a, b in zip(left[known], right[known], strict=True)]
    differs: NDArray[np.bool_] = ~(null[0] & null[1]) & (null[0] | null[1] | ~same)
    return differs


def _frame(rows: list[files.Json]) -> pd.DataFrame:
    """Rows as a DataFrame with the types of `index.parquet`."""
    kinds = {"id": "int32", "epoch": "int32", "diverged": "bool"}
    if not rows:
        return pd.DataFrame({"id": [], "epoch": [], "diverged": []}).astype(kinds)
    names = dict.fromkeys(name for row in rows for name in row)
    # Metrics come last, after keys that only later models have.
    last = [name for name in (*METRICS, *TWIN_METRICS, "diverged") if name in names]
    ordered = [name for name in names if name not in last] + last
    frame = pd.DataFrame({name: _column([row.get(name) for row in rows]) for name in ordered})
    kinds |= {key: "float64" for key in (*METRICS, *TWIN_METRICS) if key in frame}
    kinds |= {key: "float64" for key in _FRACTIONS if key in frame and pd.api.types.is_integer_dtype(frame[key])}
    return frame.astype(kinds)


def _column(values: list[Any]) -> pd.Series[Any]:
    """Values as written, including nulls, in the narrowest type that fits them all."""
    known = [value for value in values if value is not None]
    kinds, nulls = {type(value) for value in known}, len(known) < len(values)
    if kinds == {bool}:
        return pd.Series(values, dtype="boolean" if nulls else "bool")
    if kinds == {int}:
        if min(known) >= -(1 << 63) and max(known) < 1 << 63:
            return pd.Series(values, dtype="Int64" if nulls else "int64")
        if min(known) >= 0 and max(known) < 1 << 64:
            return pd.Series(values, dtype="UInt64" if nulls else "uint64")
    if kinds and kinds <= {int, float} and all(isinstance(v, float) or float(v) == v for v in known):
        return pd.Series(values, dtype="float64")
    return pd.Series(values) if kinds == {str} else pd.Series(values, dtype="object")


def _dumped(value: list[Any]) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _plain(value: Any) -> Any:
    """A NumPy scalar as Python's own."""
    return value.item() if isinstance(value, np.generic) else value
