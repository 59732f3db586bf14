"""The layout of the published collection (ModelZooDataset), both ways.

A published raw zoo is a folder, or a zip of one, with a folder per model: `params.json` (the configuration),
`result.json` (one line with a JSON object per epoch, as Ray Tune writes it) and `checkpoint_000000/checkpoints`, ...
(PyTorch state dicts); next to them `config.json` and `index_dict.json`.
"""

from __future__ import annotations

import codecs
import contextlib
import itertools
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from . import architectures, files
from .zoo import TWIN_METRICS

#: `model::type` there, by its name here.
TYPES = {"cnn-s": "CNN", "cnn-m": "CNN3", "resnet18": "Resnet18"}
#: Side of the images of those that can be imported.
SIDES = {"cnn-s": 28, "cnn-m": 32}
#: What the `model::type` of a twin by variational dropout ends in.
_SPARSE = "_ARD"

MODEL_PREFIX = "NN_tune_trainable_"
CHECKPOINT = re.compile(r"checkpoint_0*(\d{1,9})/checkpoints", re.ASCII)
INDEX_DICT = "index_dict.json"
CONFIG = "config.json"

#: Metrics in the order in which the zoo's own stages write them.
_ORDER = ("train_loss", "train_acc", "test_loss", "test_acc", "val_loss", "val_acc")

#: Where an exported `params.json` keeps the zoo's own, whole.
OWN_PARAMS = "zoo::params"

#: What ray tune writes about itself in every line of `result.json`.
BOOKKEEPING = {
    *("config", "date", "done", "episodes_total", "experiment_id", "experiment_tag", "hostname"),
    *("iterations_since_restore", "node_ip", "pid", "should_checkpoint", "time_since_restore", "time_this_iter_s"),
    *("time_total_s", "timestamp", "timesteps_since_restore", "timesteps_total", "trial_id", "warmup_time"),
}

_HYPERPARAMETERS: dict[str, Any] = {
    "model::nlin": str,
    "model::init_type": str,
    "model::dropout": (int, float),
    "optim::optimizer": str,
    "optim::lr": (int, float),
    "optim::wd": (int, float),
    "optim::momentum": (int, float),
    "training::batchsize": int,
    "training::epochs_train": int,
    "seed": int,
    "model::channels_in": int,
}
_WORDS = {
    "model::nlin": ("tanh", "relu", "sigmoid", "gelu", "leakyrelu", "silu"),
    "model::init_type": (
        *("uniform", "normal", "kaiming_uniform", "kaiming_normal", "xavier_uniform", "xavier_normal"),
    ),
    "optim::optimizer": ("adam", "sgd"),
}
# Most places at which a line is tried for the beginning of another.
_MOST_BRACES = 100
#: What a configuration must have, or be given.
NEEDED = ("model::type", *_HYPERPARAMETERS)


def to_config(params: architectures.Params) -> files.Json:
    """A model's configuration as the collection writes it, with `cuda`, which its classes ask for."""
    config = {key: value for key, value in params.items() if not isinstance(value, (dict, list))}
    config["model::type"] = TYPES.get(str(params.get("model::type")), params.get("model::type"))
    return config | {"cuda": False}


def to_params(config: Mapping[str, Any], missing: Mapping[str, Any]) -> files.Json:
    """A model's `params.json` here, as far as the configuration states it; `missing` supplies values that it may lack.

    `zoo::id`, `model::i_dim` and `model::o_dim` are left to be found out: published configurations have no `i_dim`,
    and some an `o_dim` that is not the network's.

    Raises ValueError with the key that is wrong.
    """
    config = {**missing, **{key: value for key, value in config.items() if value is not None}}
    if config.get("optim::optimizer") == "adam":
        config.setdefault("optim::momentum", 0)
    lacking = [key for key in NEEDED if config.get(key) is None]
    if lacking:
        named, given = (" ".join(text.format(key) for key in lacking) for text in ("`{}`", "--set '{}=VALUE'"))
        raise ValueError(f"has no {named.replace(' ', ', ')}: give it with {given}")
    types = {TYPES[ours]: ours for ours in SIDES} | {ours: ours for ours in SIDES}
    kind = config["model::type"]
    sparse = isinstance(kind, str) and kind.endswith(_SPARSE)
    kind = kind.removesuffix(_SPARSE) if sparse else kind
    if not isinstance(kind, str) or kind not in types:
        known = ", ".join(sorted(types))
        raise ValueError(f"`model::type` is {config['model::type']!r}; {known} can be imported, and {_SPARSE} twins")
    params: files.Json = {"model::type": types[kind]}
    for key, wanted in _HYPERPARAMETERS.items():
        value = config[key]
        if not isinstance(value, wanted) or isinstance(value, bool) or value not in _WORDS.get(key, (value,)):
            expected = "one of " + ", ".join(_WORDS[key]) if key in _WORDS else "a number"
            raise ValueError(f"`{key}` is {value!r}, expected {expected}")
        if wanted is not str and not (math.isfinite(value) and 0 <= value < 1 << 64):
            raise ValueError(f"`{key}` is {value!r}, expected a number from 0 upwards")
        params[key] = float(value) if wanted == (int, float) else value
    if params["optim::optimizer"] == "adam":
        params["optim::momentum"] = 0.0  # Published configurations name one, which Adam does not use.
    for key, most in (("training::batchsize", 1 << 24), ("training::epochs_train", (1 << 32) - 1)):
        if not 1 <= params[key] <= most:
            raise ValueError(f"`{key}` is {params[key]}, expected 1 to {most}")
    params["model::i_dim"] = SIDES[params["model::type"]]
    return params | ({"sparsify::method": "variational-dropout"} if sparse else {})


def to_lines(content: bytes, skipped: list[str] | None = None) -> dict[int, files.Json]:
    """Metrics by epoch, as in this project's `result.json`; for an epoch that was run twice, the later ones.

    Lines that are no JSON, as a trial leaves them that is killed while it writes, are left out and added to `skipped`;
    zeros, which a crashed machine leaves, end a line.

    Raises ValueError with the first line that is impossible.
    """
    lines: dict[int, files.Json] = {}
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    texts = content.decode("utf-16" if wide else "utf-8", "replace").split("\n")
    for number, text in enumerate(texts, 1):
        found = [_object(piece.strip(" \t\r\ufeff"), number == len(texts)) for piece in text.split("\0")]
        faults = [fault for _, fault in found if fault]
        if faults and skipped is not None:
            skipped.append(f"line {number} {faults[0]}: it is left out")
        for line, _ in found:
            if line is None:
                continue
            try:
                epoch = line.get("training_iteration")
                if not isinstance(epoch, int) or isinstance(epoch, bool) or not 0 <= epoch < 1 << 31:
                    raise ValueError(f"`training_iteration` is {epoch!r}")
                lines[epoch] = _metrics(line)
            except ValueError as error:
                raise ValueError(f"line {number} {error}") from error
    return lines


def _object(text: str, is_last: bool) -> tuple[files.Json | None, str | None]:
    """The object of a line, and what is wrong with the line."""
    if not text:
        return None, None
    # Older versions of ray tune write infinities as Python prints them.
    text = re.sub(r"(?<=[:\[ ])(-?)inf(?=[,\]} ])", r"\1Infinity", text)
    try:
        return files.parse_object(text), None
    except ValueError as error:
        fault = "is truncated" if is_last else str(error)
    # A trial that was killed while writing and then resumed continues on the truncated line.
    for brace in itertools.islice(re.finditer(r"\{", text[1:]), _MOST_BRACES):
        with contextlib.suppress(ValueError):
            line = files.parse_object(text[1 + brace.start() :])
            if "training_iteration" in line:
                return line, "begins with one that is truncated"
    return None, fault


def no_metrics(epoch: int) -> files.Json:
    """The line of a state without known metrics."""
    return {"training_iteration": epoch} | dict.fromkeys(_ORDER) | {"diverged": False}


def _metrics(line: Mapping[str, Any]) -> files.Json:
    found: files.Json = {"training_iteration": line["training_iteration"]}
    found |= {key: _metric(line, key) for key in _ORDER}
    diverged = line.get("diverged") is True
    for split in ("train", "val", "test"):
        loss, accuracy = f"{split}_loss", f"{split}_acc"
        if loss not in line:
            found[accuracy] = None  # Without its loss, it cannot be distinguished from that of a diverged model.
        diverged |= found[loss] is None and found[accuracy] is not None
    found["diverged"] = diverged
    found |= {key: _metric(line, key) for key in TWIN_METRICS if key in line}
    for key, value in line.items():
        unknown = key not in found and key not in BOOKKEEPING
        if unknown and (isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))):
            found[key] = value
    return found


def _metric(line: Mapping[str, Any], key: str) -> float | None:
    """A metric; None if it is not finite."""
    value = line.get(key)
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ValueError(f"`{key}` is {value!r}, expected a number")
    if not math.isfinite(value):
        return None
    if not key.endswith("_loss") and not 0 <= value <= 1:
        raise ValueError(f"`{key}` is {value!r}, expected a fraction between 0 and 1")
    return float(value)


def dump_line(line: Mapping[str, Any]) -> str:
    """A line of a published `result.json`. An unknown metric is NaN, so that Python can compute with it."""
    numbers = {key: math.nan if line.get(key) is None else line[key] for key in _ORDER}
    return json.dumps({**line, **numbers}) + "\n"
