"""Conversion of a published raw zoo to a zoo directory."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import architectures, checkpoint, files, published
from .errors import Fault, ZooError, escaped
from .prepared import Prepared
from .source import Source, open_source
from .states import to_bytes
from .zoo import METRICS, RESERVED

#: Facts that no published zoo states; recorded in `zoo.json`.
UNKNOWN = ("order of the training data", "dropout masks", "version of the trainer")
_WORK = ".import"
_SHOWN_FAULTS = 1000


@dataclass(frozen=True)
class Options:
    """Facts that a published zoo does not record."""

    name: str | None = None
    """Name of the zoo; by default that of its folder."""
    description: str = ""
    license: str = "CC-BY-4.0"
    """By default the license of the published collection."""
    dataset: str | None = None
    """Name of the image dataset."""
    data: Path | None = None
    """The prepared dataset, if available: the source of all facts about the images."""
    missing: Mapping[str, Any] = field(default_factory=dict)
    """Hyperparameters for models whose configuration lacks them."""
    strict: bool = False
    """Refuse a zoo with faults instead of skipping the faulty parts."""


@dataclass
class Outcome:
    """What was imported."""

    models: int = 0
    states: int = 0
    diverged: int = 0
    faults: list[Fault] = field(default_factory=list)


def import_zoo(
    source: Path, target: Path, options: Options, progress: Callable[[int, int], None] = lambda done, total: None
) -> Outcome:
    """Imports the published zoo in `source`, a folder or zip, as the zoo directory `target`.

    Faulty models and states are skipped and returned. After an interruption, the same call resumes.
    """
    if (target / files.ZOO).exists():
        shutil.rmtree(target / _WORK, ignore_errors=True)
        raise ZooError(f"{target}: is a finished zoo: remove it, or import to another folder")
    files.check_outside(target, source)
    name = files.check_zoo_name(options.name or target.resolve().name)
    reader = open_source(source)
    status = source.stat()
    stamp = {"source": escaped(str(source.resolve())), "size": status.st_size, "mtime": status.st_mtime_ns}
    claim = files.to_json({**stamp, "options": escaped(repr(options))})
    outputs = ("models", files.CHECKSUMS)
    with files.resumable(target, _WORK, claim, "import of the same source", outputs) as work:
        importer = _Importer(reader, target, work, options)
        return importer.all(name, source, progress)


class _Importer:
    def __init__(self, source: Source, target: Path, work: Path, options: Options) -> None:
        self.source = source
        self.target = target
        self.work = work
        self.options = options
        self.prepared = Prepared(options.data) if options.data else None
        self.own = self._own_record()
        self.first: files.Json | None = None
        self.grid: dict[str, set[Any]] = {}
        self.sums: dict[str, str] = {}

    def all(self, name: str, source: Path, progress: Callable[[int, int], None]) -> Outcome:
        """Imports every model and the zoo's own files."""
        folders = self.source.models()
        if len(folders) > 1_000_000:
            raise ZooError(f"{source}: has {len(folders)} models; a zoo has a million at most")
        outcome = Outcome()
        for done, (model, folder) in enumerate(self.numbered(folders)):
            progress(done, len(folders))
            self.model(model, folder, outcome)
            if outcome.faults and self.options.strict:
                raise ZooError(f"{source}: {outcome.faults[0]}")
        progress(len(folders), len(folders))
        if outcome.models == 0:
            first = f"; the first: {outcome.faults[0]}" if outcome.faults else ""
            raise ZooError(f"{source}: none of its {len(folders)} models can be imported{first}")
        self.finish(name, source, outcome)
        return outcome

    def _own_record(self) -> files.Json | None:
        """The `zoo.json` and checksums of a zoo that was exported from here."""
        base = f"{self.source.root()}/" if self.source.root() else ""
        try:
            record = self.source.read(base + files.ZOO, files.LIMITS[files.ZOO])
            sums = self.source.read(base + files.CHECKSUMS, files.LIMITS[files.CHECKSUMS])
            if record is None:
                return None
            own = files.parse_object(record)
            files.check_record(own)
            files.to_json(own)  # Which raises ValueError for numbers that are not finite.
            return own | {"_sums": files.parse_checksums(sums or b"")}
        except (ValueError, ZooError):
            return None

    def numbered(self, folders: Sequence[str]) -> list[tuple[int, str]]:
        """Ids: those of the zoo if it was exported from here, otherwise the position among the sorted folder names."""
        own = [re.search(rf"(?:^|/){published.MODEL_PREFIX}(\d{{6}})$", f, re.ASCII) for f in folders]
        if self.own is not None and all(own):
            return [(int(match[1]), folder) for match, folder in zip(own, folders, strict=True) if match]
        return list(enumerate(folders))

    def model(self, model: int, folder: str, outcome: Outcome) -> None:
        """Imports a model, or keeps what an earlier run imported, and counts it."""
        kept = self.work / f"{model:06}.json"
        if kept.exists():
            notes = files.parse_object(kept.read_bytes())
        else:
            faults: list[Fault] = []
            try:
                notes = self._import(model, folder, faults)
            except ValueError as error:
                notes = {"states": 0}
                faults.append(Fault(folder, str(error)))
            outcome.faults += faults
            if not faults:  # Faults may be repaired before an interrupted import is resumed.
                files.write_atomic(kept, files.to_json(notes))
        if notes["states"] == 0:
            return
        outcome.models += 1
        outcome.states += notes["states"]
        outcome.diverged += notes["diverged"]
        self.sums |= notes["sums"]
        params = files.read_object(self._place(model) / files.PARAMS, files.LIMITS[files.PARAMS])
        self.first = self.first or params
        for key, value in params.items():
            if not isinstance(value, (dict, list)):
                self.grid.setdefault(key, set()).add(value)

    def _place(self, model: int) -> Path:
        return self.target / "models" / f"{model:06}"

    def _json(self, folder: str, name: str) -> files.Json:
        content = self.source.read(f"{folder}/{name}", files.LIMITS[name])
        if content is None:
            raise ValueError(f"has no {name}")
        try:
            return files.parse_object(content)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from error

    def _import(self, model: int, folder: str, faults: list[Fault]) -> files.Json:
        """Writes the files of a model; how many states it has, how many diverged, and the files' checksums.

        Raises ValueError if nothing of it can be used.
        """
        config = self._json(folder, files.PARAMS)
        own = config.get(published.OWN_PARAMS)
        if self.own is not None and isinstance(own, dict):
            files.to_json(own)  # Which raises ValueError for numbers that are not finite.
            if taken := sorted(own.keys() & RESERVED):
                raise ValueError(f"has a key `{taken[0]}`, the name of another column of the index")
            params = {**own, "zoo::id": f"{model:06}"}
        else:
            own = None
            params = {"zoo::id": f"{model:06}", **published.to_params(config, self.options.missing)}
        states, network, sparse = self._states(folder, params, faults)
        if not states:
            raise ValueError("has no state that can be read")
        if own is None:
            params["model::o_dim"] = architectures.trained(network)[-1].size
            params |= {"imported::directory": escaped(folder.rpartition("/")[2]), "imported::params": config}
        elif architectures.is_known(params.get("model::type")) and architectures.parameters(params) != network:
            raise ValueError(f"has a `model::o_dim` of {params.get('model::o_dim')!r}, unlike its network")
        self._check_alike(params, network)
        lines = self._lines(folder, states, faults)
        if sparse:
            weights = [p.name for p in network if p.name.endswith(".weight")]
            for line, state in zip(lines, states.values(), strict=True):
                zeros = sum(int((state[name] == 0).sum()) for name in weights)
                line["sparsity_ratio"] = zeros / sum(state[name].size for name in weights)
        content = {
            files.PARAMS: _params_json(params),
            files.RESULT: files.to_json_lines(lines),
            files.STATES: to_bytes(network, list(states), list(states.values())),
        }
        self._write(model, content)
        sums = {f"models/{model:06}/{name}": hashlib.sha256(data).hexdigest() for name, data in content.items()}
        return {"states": len(states), "diverged": int(any(line["diverged"] for line in lines)), "sums": sums}

    def _states(
        self, folder: str, params: files.Json, faults: list[Fault]
    ) -> tuple[dict[int, dict[str, Any]], list[architectures.Parameter], bool]:
        """The states by epoch, ascending, the network's parameters, and whether variational dropout trained it."""
        paths: dict[int, str] = {}
        for name in self.source.files(folder):
            match = published.CHECKPOINT.fullmatch(name)
            if match:
                paths.setdefault(int(match[1]), name)
        states: dict[int, dict[str, Any]] = {}
        network: list[architectures.Parameter] = []
        sparse = False
        for epoch, name in sorted(paths.items()):
            try:
                content = self.source.read(f"{folder}/{name}", checkpoint.LIMIT)
                tensors, noisy = checkpoint.without_noise(checkpoint.load(content or b""))
                sparse |= noisy
                if not network:
                    network = _network(params, tensors)
                states[epoch] = checkpoint.to_state(tensors, network)
            except ValueError as error:
                faults.append(Fault(f"{folder}/{name}", str(error)))
        return states, network, sparse

    def _check_alike(self, params: files.Json, network: Sequence[architectures.Parameter]) -> None:
        """All models of a zoo must take the same images and have the same number of parameters."""
        shape = {key: params.get(key) for key in ("model::channels_in", "model::i_dim", "model::o_dim")}
        for key, value in shape.items():
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"`{key}` is {value!r}, expected a number")
        shape["parameters"] = sum(parameter.size for parameter in architectures.trained(network))
        kept = self.work / "shape.json"
        if self.prepared is not None:
            images = [params["model::channels_in"], params["model::i_dim"], params["model::i_dim"]]
            if images != list(self.prepared.shape):
                raise ValueError(f"takes images of shape {images}, --data has {list(self.prepared.shape)}")
        if not kept.exists():
            files.write_atomic(kept, files.to_json(shape))
        first = files.parse_object(kept.read_bytes())
        if shape != first:
            raise ValueError(f"has a different network from the first model: {shape}, not {first}")

    def _lines(self, folder: str, epochs: Mapping[int, Mapping[str, Any]], faults: list[Fault]) -> list[files.Json]:
        """A line per state."""
        content = self.source.read(f"{folder}/{files.RESULT}", 1 << 30)
        skipped: list[str] = []
        try:
            lines = published.to_lines(content or b"", skipped)
        except ValueError as error:
            raise ValueError(f"{files.RESULT} {error}") from error
        faults += (Fault(f"{folder}/{files.RESULT}", message) for message in skipped)
        reported = {fault.place for fault in faults}
        lost = [e for e, line in lines.items() if e not in epochs and any(line[key] is not None for key in METRICS)]
        lost = [e for e in lost if not any(p.startswith(f"{folder}/checkpoint_{e:06}/") for p in reported)]
        if lost:
            listed = ", ".join(map(str, lost[:10])) + (f" and {len(lost) - 10} more" if len(lost) > 10 else "")
            faults.append(Fault(folder, f"has metrics, but no checkpoint, of epoch {listed}"))
        found = []
        for epoch, state in epochs.items():
            if epoch not in lines:
                faults.append(Fault(folder, f"has no metrics of epoch {epoch}: its state is kept without"))
            line = lines.get(epoch, published.no_metrics(epoch))
            finite = all(np.isfinite(tensor).all() for tensor in state.values())
            found.append(line | {"diverged": line["diverged"] or not finite})
        return found

    def _write(self, model: int, content: Mapping[str, bytes]) -> None:
        """A model's folder, renamed into place when it is complete."""
        staging = self.work / "staging"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        for name, data in content.items():
            files.write_atomic(staging / name, data)
        place = self._place(model)
        place.parent.mkdir(exist_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        os.replace(staging, place)

    def finish(self, name: str, source: Path, outcome: Outcome) -> None:
        """`SHA256SUMS`, then `zoo.json`, the last to appear."""
        assert self.first is not None
        shape = files.parse_object((self.work / "shape.json").read_bytes())
        counts = {"models": outcome.models, "states": outcome.states, "diverged": outcome.diverged}
        own = self._restored({**counts, "parameters": shape["parameters"]})
        record = own or self._record(name, source, shape, counts, outcome.faults)
        content = files.to_json(record)
        sums = dict(sorted(self.sums.items())) | {files.ZOO: hashlib.sha256(content).hexdigest()}
        files.write_atomic(self.target / files.CHECKSUMS, files.to_checksums(sums))
        files.write_atomic(self.target / files.ZOO, content)

    def _restored(self, counts: Mapping[str, int]) -> files.Json | None:
        """The original record of an exported zoo, if all its states are byte-identical."""
        if self.own is None or self.options.name is not None or self.options.data is not None:
            return None
        own = dict(self.own)
        listed: dict[str, str] = own.pop("_sums")

        def of_states(sums: Mapping[str, str]) -> dict[str, str]:
            return {path: checksum for path, checksum in sums.items() if path.endswith(files.STATES)}

        same = of_states(listed) == of_states(self.sums) and all(own.get(key) == n for key, n in counts.items())
        return own if same else None

    def _record(
        self, name: str, source: Path, shape: files.Json, counts: Mapping[str, int], faults: Sequence[Fault]
    ) -> files.Json:
        """The record of a zoo that another program trained."""
        side = shape["model::i_dim"]
        dataset: files.Json = {"name": "unknown", "sha256": "", "shape": [shape["model::channels_in"], side, side]}
        dataset |= {"classes": shape["model::o_dim"], "train": 0, "val": 0, "test": 0, "mean": [], "std": []}
        if self.prepared is not None:
            dataset = self.prepared.record()
        if self.options.dataset is not None:
            dataset["name"] = self.options.dataset
        skipped = [[escaped(f.place), escaped(f.message)] for f in faults[:_SHOWN_FAULTS]]
        where = escaped(source.resolve().name)
        imported: files.Json = {"layout": "ModelZooDataset", "source": where, "unknown": list(UNKNOWN)}
        imported |= {"given": dict(self.options.missing), "faults": len(faults), "skipped": skipped}
        record: files.Json = {"format_version": files.FORMAT_VERSION, "name": name}
        record |= {"description": self.options.description, "license": self.options.license}
        record |= self._parent()
        record |= {"manifest": self._manifest(), "dataset": dataset, "engine": None, **counts}
        return record | {"parameters": shape["parameters"], "fingerprint": "", "imported": imported}

    def _parent(self) -> files.Json:
        parent = (self.first or {}).get("zoo::parent")
        if not isinstance(parent, dict):
            return {}
        own = (self.own or {}).get("parent")
        return {"parent": own if isinstance(own, dict) else {"name": parent.get("zoo"), "fingerprint": ""}}

    def _manifest(self) -> files.Json:
        """The models' configurations in the terms of a manifest."""
        grid = {
            "activation": "model::nlin",
            "init": "model::init_type",
            "dropout": "model::dropout",
            "optimizer": "optim::optimizer",
            "learning-rate": "optim::lr",
            "weight-decay": "optim::wd",
        }
        train = {"epochs": "training::epochs_train", "batch-size": "training::batchsize"}

        def values(keys: Mapping[str, str]) -> files.Json:
            return {name: _sorted(self.grid[key]) for name, key in keys.items() if key in self.grid}

        types = _sorted(self.grid["model::type"])
        single = {key: found[0] if len(found) == 1 else found for key, found in values(train).items()}
        return {"model": {"architecture": types[0]}, "grid": values(grid), "train": single}


def _sorted(values: set[Any]) -> list[Any]:
    """Numbers first, then strings."""
    return sorted(values, key=lambda value: (isinstance(value, str), value if value is not None else 0))


def _network(params: files.Json, tensors: Mapping[str, Any]) -> list[architectures.Parameter]:
    """The network's parameters.

    Its last bias tells the number of classes, which some configurations get wrong. An architecture that is not known
    here they are those of the checkpoint.
    """
    if not architectures.is_known(params.get("model::type")):
        return architectures.named((name, tuple(tensor.shape)) for name, tensor in tensors.items())
    last = architectures.trained(architectures.parameters(params | {"model::o_dim": 1}))[-1].name
    bias = tensors.get(last)
    if bias is None or bias.dim() != 1 or not 1 <= len(bias) <= 65_536:
        raise ValueError(f"has no tensor `{last}` with one number per class")
    return architectures.parameters(params | {"model::o_dim": len(bias)})


def _params_json(params: files.Json) -> bytes:
    try:
        content = files.to_json(params)
    except ValueError:  # A configuration with NaN; its hyperparameters were checked, the rest is only kept.
        content = files.to_json(json.loads(json.dumps(params), parse_constant=str))
    if len(content) > files.LIMITS[files.PARAMS]:
        raise ValueError("has a configuration that is too large")
    return content
