"""A zoo to the published collection's layout."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from . import checkpoint, files, published
from .errors import ZooError
from .zoo import METRICS, Zoo

_WORK = ".export"


def export_zoo(zoo: Zoo, target: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Writes a zoo as the published collection lays zoos out, for its dataset class.

    `zoo.json` and `SHA256SUMS` go along, so that an import finds everything again. Interrupted, the same call goes on
    where it stopped.
    """
    claim = files.to_json({"zoo": str(zoo.path.resolve()), "fingerprint": zoo.record.get("fingerprint", "")})
    work = target / _WORK
    if (target / published.CONFIG).exists():
        raise ZooError(f"{target}: is an exported zoo already: remove it, or export to another place")
    ours = (work / "zoo.json").exists() and (work / "zoo.json").read_bytes() == claim
    if target.exists() and any(target.iterdir()) and not ours:
        raise ZooError(f"{target}: is not empty, and not an interrupted export of the same zoo: remove it")
    work.mkdir(parents=True, exist_ok=True)
    files.write_atomic(work / "zoo.json", claim)
    for done, model in enumerate(zoo.ids):
        progress(done, len(zoo.ids))
        folder = target / f"{published.MODEL_PREFIX}{model:06}"
        if not folder.exists():
            shutil.rmtree(work / "staging", ignore_errors=True)
            _write_model(zoo, model, work / "staging")
            os.replace(work / "staging", folder)
    progress(len(zoo.ids), len(zoo.ids))
    for name in (files.ZOO, files.CHECKSUMS):
        if (zoo.path / name).exists():
            files.write_atomic(target / name, files.read_limited(zoo.path / name, files.LIMITS[name]))
    files.write_atomic(target / published.INDEX_DICT, files.to_json(zoo.index_dict))
    config = published.to_config(zoo.params(zoo.ids[0]))
    shared = {key: config[key] for key in config if key not in ("zoo::id", "seed")}
    shutil.rmtree(work)
    files.write_atomic(target / published.CONFIG, files.to_json(shared))


def _write_model(zoo: Zoo, model: int, folder: Path) -> None:
    params = zoo.params(model)
    config = published.to_config(params)
    rows = zoo.index[zoo.index["id"] == model]
    folder.mkdir(parents=True)
    files.write_atomic(folder / files.PARAMS, files.to_json(config | {published.OWN_PARAMS: params}))
    lines = {line["training_iteration"]: line for line in zoo.results(model)}
    # The dataset class finds an epoch's line by its number, so epochs that were not kept have lines without metrics.
    first = min(1, min(lines))
    nothing = dict.fromkeys(METRICS)
    text = "".join(
        published.dump_line(lines.get(epoch, {"training_iteration": epoch} | nothing) | {"config": config})
        for epoch in range(first, max(lines) + 1)
    )
    files.write_atomic(folder / files.RESULT, text.encode())
    tensors, epochs = zoo.states(model), zoo._file(model).epochs
    for epoch in rows["epoch"].tolist():
        place = epochs.index(epoch)
        home = folder / f"checkpoint_{epoch:06}"
        home.mkdir()
        state = {name: tensor[place] for name, tensor in tensors.items()}
        (home / "checkpoints").write_bytes(checkpoint.dump(state))
