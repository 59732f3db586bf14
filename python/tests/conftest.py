"""A zoo of noise for every test, and a real one where the binaries are available."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from modelzoo import architectures, files
from modelzoo.states import Array, to_bytes

REPOSITORY = Path(__file__).resolve().parents[2]


def binary(name: str) -> str:
    """A program of the pipeline, on PATH or built in the repository."""
    built = REPOSITORY / "target" / "release" / name
    found = shutil.which(name) or (str(built) if built.exists() else None)
    if found is None:
        missing = f"{name} is not on PATH and not in target/release: cargo build --release --workspace makes it"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


def params_of(model: int, **changed: object) -> files.Json:
    params: files.Json = {"zoo::id": f"{model:06}", "model::type": "cnn-s", "model::nlin": "tanh"}
    params |= {"model::init_type": "normal", "model::dropout": 0.5 * (model % 2), "optim::optimizer": "adam"}
    params |= {"optim::lr": 1e-3, "optim::wd": 0.0, "optim::momentum": 0.0, "training::batchsize": 10}
    params |= {"training::epochs_train": 4, "seed": model, "model::channels_in": 1, "model::i_dim": 28}
    return params | {"model::o_dim": 10, **changed}


def noise(params: files.Json, epochs: int, seed: int) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    parameters = architectures.parameters(params)
    return [{p.name: rng.standard_normal(p.shape, np.float32) for p in parameters} for _ in range(epochs)]


def write_noise(folder: Path, models: int = 5, epochs: tuple[int, ...] = (0, 2, 4), **changed: object) -> Path:
    """A zoo of noise, half of its models with dropout; `changed` hyperparameters are those of all models."""
    sums = {}
    for model in range(models):
        params = params_of(model, **changed)
        lines: list[files.Json] = [
            {"training_iteration": e, "train_loss": 2.0, "train_acc": 0.75, "test_loss": 1.5 + model, "test_acc": 0.5}
            | {"val_loss": None, "val_acc": None, "diverged": False}
            for e in epochs
        ]
        states = to_bytes(architectures.parameters(params), epochs, noise(params, len(epochs), model))
        content = {files.PARAMS: files.to_json(params), files.RESULT: files.to_json_lines(lines), files.STATES: states}
        place = folder / "models" / f"{model:06}"
        place.mkdir(parents=True)
        for name, data in content.items():
            (place / name).write_bytes(data)
            sums[f"models/{model:06}/{name}"] = hashlib.sha256(data).hexdigest()
    dataset = {"name": "none", "sha256": "", "shape": [1, 28, 28], "classes": 10}
    dataset |= {"train": 0, "val": 0, "test": 0, "mean": [], "std": []}
    channels, side = params_of(0, **changed)["model::channels_in"], params_of(0, **changed)["model::i_dim"]
    dataset["shape"] = [channels, side, side]
    parameters = sum(p.size for p in architectures.trained(architectures.parameters(params_of(0, **changed))))
    counts = {"models": models, "states": models * len(epochs), "diverged": 0, "parameters": parameters}
    parent = changed.get("zoo::parent")
    twin = {"parent": {"name": parent["zoo"], "fingerprint": "p"}} if isinstance(parent, dict) else {}
    head = {"format_version": 1, "name": "noise", **twin, "dataset": dataset, "fingerprint": "f"}
    record = files.to_json(head | counts)
    sums[files.ZOO] = hashlib.sha256(record).hexdigest()
    (folder / files.ZOO).write_bytes(record)
    (folder / files.CHECKSUMS).write_text("".join(f"{sum}  {path}\n" for path, sum in sums.items()))
    return folder


@pytest.fixture
def noise_zoo(tmp_path: Path) -> Path:
    return write_noise(tmp_path / "noise")


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `zoo run` makes of small.toml: `zoos/small`, its twins, archives, data."""
    root = tmp_path_factory.mktemp("real")
    manifest = Path(__file__).with_name("small.toml")
    command = [binary("zoo"), "run", str(manifest), "--root", str(root), "-q"]
    subprocess.run(command, check=True, env=os.environ | {"RAYON_NUM_THREADS": "2"})
    return root
