"""Conversion of a zoo to the published collection's layout."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from . import checkpoint, files, published
from .errors import ZooError, escaped
from .zoo import Zoo

_WORK = ".export"
_OUTPUTS = (f"{published.MODEL_PREFIX}[0-9]*", files.ZOO, files.CHECKSUMS, published.INDEX_DICT)
_MOST_LINES = 1_000_000


def export_zoo(zoo: Zoo, target: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Writes a zoo in the layout of the published collection, for its dataset class.

    `zoo.json` and `SHA256SUMS` are included, so that an import restores everything. After an interruption, the same
    call resumes.
    """
    if (target / published.CONFIG).exists():
        shutil.rmtree(target / _WORK, ignore_errors=True)
        raise ZooError(f"{target}: is already an exported zoo: remove it, or export to another folder")
    files.check_outside(target, zoo.path)
    if not zoo.ids:
        raise ZooError(f"{zoo.path}: has no model that can be read")
    claim = {"zoo": escaped(str(zoo.path.resolve())), "fingerprint": zoo.record.get("fingerprint", "")}
    with files.resumable(target, _WORK, files.to_json(claim), "export of the same zoo", _OUTPUTS) as work:
        _export(zoo, target, work, progress)


def _export(zoo: Zoo, target: Path, work: Path, progress: Callable[[int, int], None]) -> None:
    for done, model in enumerate(zoo.ids):
        progress(done, len(zoo.ids))
        folder = target / f"{published.MODEL_PREFIX}{model:06}"
        if not folder.exists():
            shutil.rmtree(work / "staging", ignore_errors=True)
            _write_model(zoo, model, work / "staging")
            os.replace(work / "staging", folder)
    progress(len(zoo.ids), len(zoo.ids))
    record = files.read_limited(zoo.path / files.ZOO, files.LIMITS[files.ZOO])
    files.write_atomic(target / files.ZOO, record)
    files.write_atomic(target / files.CHECKSUMS, _checksums(zoo))
    # There is none for networks that are not just weights and biases, layer by layer.
    with contextlib.suppress(ZooError):
        files.write_atomic(target / published.INDEX_DICT, files.to_json(zoo.index_dict))
    config = published.to_config(zoo.params(zoo.ids[0]))
    shared = {key: config[key] for key in config if key not in ("zoo::id", "seed")}
    files.write_atomic(target / published.CONFIG, files.to_json(shared))


def _checksums(zoo: Zoo) -> bytes:
    """The zoo's `SHA256SUMS`, or one of its states if it has none: an import compares them."""
    path = zoo.path / files.CHECKSUMS
    if path.exists():
        return files.read_limited(path, files.LIMITS[files.CHECKSUMS])
    states = [f"models/{model:06}/{files.STATES}" for model in zoo.ids]
    return files.to_checksums({name: files.sha256_file(zoo.path / name) for name in states})


def _write_model(zoo: Zoo, model: int, folder: Path) -> None:
    params = zoo.params(model)
    config = published.to_config(params)
    rows = zoo.index[zoo.index["id"] == model]
    folder.mkdir(parents=True)
    files.write_atomic(folder / files.PARAMS, files.to_json(config | {published.OWN_PARAMS: params}))
    lines = {line["training_iteration"]: line for line in zoo.results(model)}
    last = max(lines, default=0)
    if last > _MOST_LINES:
        raise ZooError(f"{zoo.path}: model {model:06} has a state of epoch {last}, too large for one line per epoch")
    # The dataset classes look for an epoch in line EPOCH - 1 or EPOCH, in either order, and compute with the metrics
    # before they look at `training_iteration`. So every epoch has the line of its number.
    text = "".join(
        published.dump_line(lines.get(epoch, {"training_iteration": epoch}) | {"config": config})
        for epoch in range(last + 1)
    )
    files.write_atomic(folder / files.RESULT, text.encode())
    tensors, epochs = zoo.states(model), zoo._file(model).epochs
    for epoch in rows["epoch"].tolist():
        place = epochs.index(epoch)
        home = folder / f"checkpoint_{epoch:06}"
        home.mkdir()
        state = {name: tensor[place] for name, tensor in tensors.items()}
        files.write_atomic(home / "checkpoints", checkpoint.dump(state))
