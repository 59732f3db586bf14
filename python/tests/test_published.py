"""The published collection's layout: out, in, and faults in untrusted input."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import binary, noise, params_of, write_noise

import modelzoo
from modelzoo import ZooError, cli, files, published
from modelzoo.architectures import parameters

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'modelzoo[torch]'")

from modelzoo import checkpoint  # noqa: E402
from modelzoo.exporting import export_zoo  # noqa: E402
from modelzoo.importing import Options, Outcome, import_zoo  # noqa: E402


def exported(zoo: Path, target: Path) -> Path:
    export_zoo(modelzoo.open(zoo), target)
    return target


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def write_published(folder: Path, models: int = 3, **config: object) -> Path:
    """A zoo as the collection's own programs write it, of the MNIST seed zoo's kind."""
    for model in range(models):
        home = folder / f"NN_tune_trainable_a06ca_{model:05}_{model}_seed={model + 1}_2021-08-26_09-11-22"
        params = {k: v for k, v in params_of(0).items() if k not in ("zoo::id", "model::i_dim")}
        params |= {"model::type": "CNN", "model::o_dim": 4, "seed": model + 1, "optim::momentum": 0.9}
        params |= {"cuda": False, "dataset::dump": "/data/dataset.pt", "training::start_epoch": 1} | config
        home.mkdir(parents=True)
        (home / "params.json").write_text(json.dumps(params))
        lines = []
        for epoch, state in enumerate(noise(params_of(0), 3, model)):
            line: dict[str, object] = {"train_loss": 2.0 - epoch, "train_acc": 0.25 * epoch}
            line |= {"test_loss": 2.5, "test_acc": 0.125 * epoch}
            line |= {"training_iteration": epoch, "config": params, "pid": 1, "hostname": "h", "date": "2021-08-26"}
            lines.append(json.dumps(line) + "\n")
            place = home / f"checkpoint_{epoch:06}"
            place.mkdir()
            torch.save(OrderedDict((k, torch.from_numpy(v)) for k, v in state.items()), place / "checkpoints")
            torch.save({"state": {}, "param_groups": []}, place / "optimizer")
        (home / "result.json").write_text("".join(lines))
    (folder / "config.json").write_text("{}")
    (folder / "readme.md").touch()
    return folder


def model_folder(zoo: Path, model: int = 1) -> Path:
    return sorted(p for p in zoo.iterdir() if p.is_dir())[model]


def zipped(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, Path(folder.name) / path.relative_to(folder))
    return target


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command `modelzoo`."""
    command = [sys.executable, "-m", "modelzoo.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def imported(source: Path, target: Path, **options: Any) -> Outcome:
    return import_zoo(source, target, Options(**options))


# There and back


def test_a_real_zoo_comes_back_to_the_byte(real: Path, tmp_path: Path) -> None:
    for name in ("small", "small-magnitude-80"):
        there = exported(real / "zoos" / name, tmp_path / "published" / name)
        outcome = imported(there, tmp_path / "zoos" / name)
        assert not outcome.faults
        before, after = modelzoo.open(real / "zoos" / name), modelzoo.open(tmp_path / "zoos" / name)
        assert np.array_equal(before.weights()[0], after.weights()[0])
        assert before.index.equals(after.index)
        ours, theirs = content(before.path), content(after.path)
        assert ours.keys() == theirs.keys()
        assert all(ours[path] == theirs[path] for path in ours if path.endswith(("states.safetensors", "zoo.json")))
        subprocess.run([binary("zoo-verify"), after.path, "-q"], check=True)
    data = real / "data/small.safetensors"
    command = [binary("zoo-verify"), str(tmp_path / "zoos/small"), "--replay", "4", "--retrain", "1"]
    subprocess.run([*command, "--data", str(data), "-q"], check=True)


ARCHITECTURES: dict[str, dict[str, object]] = {
    "cnn-s": {"model::channels_in": 3},
    "cnn-m": {"model::channels_in": 3, "model::i_dim": 32},
    "mlp": {"model::hidden": [16, 12], "model::i_dim": 8, "optim::optimizer": "sgd", "optim::momentum": 0.9},
    "resnet18": {"model::channels_in": 3, "model::i_dim": 32, "training::augment": {"flip": True}},
}


@pytest.mark.parametrize(
    ("architecture", "listed"), [*((name, True) for name in ARCHITECTURES), ("cnn-s", False), ("mlp", False)]
)
def test_zoos_of_every_architecture_come_back(tmp_path: Path, architecture: str, listed: bool) -> None:
    changed = {"model::type": architecture, "own::key": "kept", "own::number": 0.5, **ARCHITECTURES[architecture]}
    zoo = write_noise(tmp_path / "noise", 2, (1, 3), **changed)
    if not listed:  # As other programs may make zoos.
        (zoo / "SHA256SUMS").unlink()
    assert cli.main(["export", str(zoo), str(tmp_path / "there")]) == 0
    assert cli.main(["import", str(tmp_path / "there"), str(tmp_path / "back"), "--strict"]) == 0
    before, after = content(zoo), content(tmp_path / "back")
    for path in before.keys() - {"SHA256SUMS"}:
        if path.endswith(".json"):
            assert [json.loads(line) for line in lines_of(before[path])] == [
                json.loads(line) for line in lines_of(after[path])
            ], path
        else:
            assert before[path] == after[path], path
    assert before.keys() | {"SHA256SUMS"} == after.keys()
    assert (tmp_path / "there/index_dict.json").exists() == (architecture != "resnet18")
    subprocess.run([binary("zoo-verify"), tmp_path / "back", "-q"], check=True)


def lines_of(data: bytes) -> list[bytes]:
    """The JSON objects of a file: one, or one per line."""
    return data.splitlines() if data.startswith(b'{"') else [data]


def test_the_network_of_an_exported_resnet_loads_its_checkpoints(tmp_path: Path) -> None:
    changed = {"model::type": "resnet18", **ARCHITECTURES["resnet18"]}
    zoo = modelzoo.open(write_noise(tmp_path / "noise", 1, (2,), **changed))
    export_zoo(zoo, tmp_path / "there")
    state = torch.load(model_folder(tmp_path / "there", 0) / "checkpoint_000002/checkpoints")
    network = zoo.model(0)
    network.load_state_dict(state)  # PyTorch counts batches from 0 where a checkpoint does not.
    torch.save(network.state_dict(), model_folder(tmp_path / "there", 0) / "checkpoint_000002/checkpoints")
    assert not imported(tmp_path / "there", tmp_path / "back").faults
    with pytest.raises(ZooError, match="no index_dict"):
        _ = zoo.index_dict


def test_a_zoo_of_an_architecture_of_ones_own_comes_back(tmp_path: Path) -> None:
    zoo = write_noise(tmp_path / "noise", 2)
    for path in zoo.glob("models/*/params.json"):
        path.write_text(path.read_text().replace('"cnn-s"', '"mine"'))
    there = exported(zoo, tmp_path / "there")
    assert not imported(there, tmp_path / "back").faults
    assert modelzoo.open(tmp_path / "back").index.equals(modelzoo.open(zoo).index)
    assert np.array_equal(modelzoo.open(tmp_path / "back").weights()[0], modelzoo.open(zoo).weights()[0])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"model::o_dim": 10', '"model::o_dim": 9', "`model::o_dim` of 9"),
        ('"model::nlin": "tanh"', '"model::nlin": null', "no `model::nlin`"),
        ('"model::i_dim": 28', '"model::i_dim": "x"', "`model::i_dim` is 'x'"),
        ('"optim::lr": 0.001', '"optim::lr": 1e999', "not JSON compliant"),
        ('"optim::lr": 0.001', '"epoch": 1', "has a key `epoch`"),
    ],
)
def test_an_export_that_was_changed_is_no_way_round_the_checks(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    there = exported(write_noise(tmp_path / "noise", 2), tmp_path / "there")
    change_json("params.json", old, new)(model_folder(there))
    outcome = imported(there, tmp_path / "back")
    assert outcome.models == 1 and message in outcome.faults[0].message
    assert "imported" in modelzoo.open(tmp_path / "back", strict=True).record


@pytest.mark.parametrize("change", [{"format_version": None}, {"name": "../x"}, {"parameters": 7}, {"dataset": 1}])
def test_the_record_of_an_export_is_taken_over_only_if_it_is_one(tmp_path: Path, change: dict[str, Any]) -> None:
    there = exported(write_noise(tmp_path / "noise", 2), tmp_path / "there")
    record = json.loads((there / "zoo.json").read_text())
    (there / "zoo.json").write_text(json.dumps(record | change))
    imported(there, tmp_path / "back")
    assert "imported" in modelzoo.open(tmp_path / "back", strict=True).record


def test_large_seeds_and_keys_of_ones_own_come_back(tmp_path: Path) -> None:
    zoo = write_noise(tmp_path / "noise", 3)
    for model, seed in enumerate((2**63 - 1, 2**63, 2**64 - 1)):
        path = zoo / f"models/{model:06}/params.json"
        path.write_text(path.read_text().replace(f'"seed": {model},', f'"seed": {seed}, "own::{model}": true,'))
    there = exported(zoo, tmp_path / "there")
    (there / "zoo.json").unlink()  # As a published zoo is imported, with the seed out of its configuration.
    for params in there.glob("*/params.json"):
        config = json.loads(params.read_text())
        del config["zoo::params"]
        params.write_text(json.dumps(config))
    assert not imported(there, tmp_path / "back").faults
    for place in (zoo, tmp_path / "back"):
        index = modelzoo.open(place).index
        assert index["seed"].drop_duplicates().tolist() == [2**63 - 1, 2**63, 2**64 - 1]
    subprocess.run([binary("zoo-verify"), tmp_path / "back", "-q"], check=True)


def read_as_the_dataset_class_does(
    zoo: Path, epoch: int, first: int
) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Checkpoint and properties by folder, found as the published ModelDatasetBase (`first` -1) finds them.

    It computes the gap in line EPOCH - 1, or in line EPOCH if that line is for another epoch; a later class (`first`
    0) takes them the other way round.
    """
    found = {}
    for folder in (f for f in zoo.iterdir() if f.is_dir()):
        place = folder / f"checkpoint_{epoch:06d}" / "checkpoints"
        lines = [json.loads(line) for line in (folder / "result.json").open()]
        for number in (epoch + first, epoch - 1 - first):
            line = lines[number]
            line["ggap"] = line["train_acc"] - line["test_acc"]
            if line["training_iteration"] == epoch:
                break
        assert line["training_iteration"] == epoch
        found[folder.name] = (torch.load(place, map_location="cpu"), line)
    return found


@pytest.mark.parametrize("first", [-1, 0])
@pytest.mark.parametrize("epochs", [(0, 1, 2), (1, 2, 3), (0, 2, 4), (3, 5), (0,), (1,), (25,)])
def test_the_published_dataset_classes_find_everything(tmp_path: Path, epochs: tuple[int, ...], first: int) -> None:
    zoo = modelzoo.open(write_noise(tmp_path / "noise", 2, epochs))
    export_zoo(zoo, tmp_path / "published")
    for place, epoch in enumerate(epochs):
        found = read_as_the_dataset_class_does(tmp_path / "published", epoch, first)
        assert sorted(found) == ["NN_tune_trainable_000000", "NN_tune_trainable_000001"]
        for model, (state, line) in enumerate(found[name] for name in sorted(found)):
            assert list(state) == list(zoo.states(model))
            assert all(np.array_equal(t.numpy(), zoo.states(model)[name][place]) for name, t in state.items())
            assert line["test_loss"] == 1.5 + model and line["ggap"] == 0.25
            config = line["config"]
            assert config["model::type"] == "CNN" and config["model::dropout"] == 0.5 * model
    described = json.loads((tmp_path / "published/index_dict.json").read_text())
    assert described == zoo.index_dict


def test_the_dataset_classes_can_compute_where_metrics_are_not_known(tmp_path: Path) -> None:
    zoo = write_noise(tmp_path / "noise", 1, (0, 3))
    path = zoo / "models/000000/result.json"
    path.write_text(path.read_text().replace('"test_loss":1.5,"test_acc":0.5', '"test_loss":null,"test_acc":null'))
    there = exported(zoo, tmp_path / "there")
    for line in (model_folder(there, 0) / "result.json").open():
        metrics = json.loads(line)
        assert all(
            isinstance(metrics[f"{part}_{what}"], float)
            for part in ("train", "val", "test")
            for what in ("loss", "acc")
        )
    for first in (-1, 0):
        for epoch in (0, 3):
            read_as_the_dataset_class_does(there, epoch, first)
    assert not imported(there, tmp_path / "back").faults
    assert modelzoo.open(tmp_path / "back").index.equals(modelzoo.open(zoo).index)


def test_a_published_zoo_is_imported_packed_and_verified(tmp_path: Path) -> None:
    source = write_published(tmp_path / "tune_zoo")
    zoos = [tmp_path / "zoos/a", tmp_path / "zoos/b"]
    for place, target in zip((source, zipped(source, tmp_path / "tune_zoo.zip")), zoos, strict=True):
        outcome = imported(place, target, name="mnist-seed", dataset="mnist")
        assert (outcome.models, outcome.states, outcome.faults) == (3, 9, [])
    assert [p.name for p in zoos[0].iterdir() if p.name.startswith(".")] == []
    zoo = modelzoo.open(zoos[0])
    for model in range(3):
        for position, state in enumerate(noise(params_of(0), 3, model)):
            assert all(np.array_equal(zoo.states(model)[name][position], t) for name, t in state.items())
    assert zoo.index["train_loss"].tolist() == [2.0, 1.0, 0.0] * 3
    assert zoo.index["val_acc"].isna().all()
    params = zoo.params(2)
    assert params["model::o_dim"] == 10 and params["imported::params"]["model::o_dim"] == 4
    assert params["optim::momentum"] == 0.0 and params["seed"] == 3
    assert zoo.record["engine"] is None and zoo.record["dataset"]["sha256"] == ""
    assert "order of the training data" in zoo.record["imported"]["unknown"]
    assert zoo.record["manifest"]["grid"]["learning-rate"] == [1e-3]
    ours, theirs = content(zoos[0]), content(zoos[1])
    assert {k: v for k, v in ours.items() if "models" in k} == {k: v for k, v in theirs.items() if "models" in k}
    subprocess.run([binary("zoo-pack"), zoos[0], "-o", tmp_path / "a.tar.gz", "-q"], check=True)
    subprocess.run([binary("zoo-verify"), tmp_path / "a.tar.gz", "-q"], check=True)
    with tarfile.open(tmp_path / "a.tar.gz") as tar:
        card = tar.extractfile("mnist-seed/README.md")
        assert card is not None and b"not recorded" in card.read()


def test_facts_about_the_images_come_from_a_prepared_dataset(real: Path, tmp_path: Path) -> None:
    source = write_published(tmp_path / "tune_zoo", 1)
    imported(source, tmp_path / "zoo", data=real / "data/small.safetensors")
    dataset = modelzoo.open(tmp_path / "zoo").record["dataset"]
    assert dataset == modelzoo.open(real / "zoos/small").record["dataset"]


def test_interrupted_an_import_goes_on(tmp_path: Path) -> None:
    source = write_published(tmp_path / "tune_zoo")

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_zoo(source, tmp_path / "zoo", Options(), stop)
    assert not (tmp_path / "zoo/zoo.json").exists()
    kept = (tmp_path / "zoo/models/000001/states.safetensors").stat().st_ino
    with pytest.raises(ZooError, match="not an interrupted import of the same source"):
        imported(source, tmp_path / "zoo", dataset="other")
    assert imported(source, tmp_path / "zoo").models == 3
    assert (tmp_path / "zoo/models/000001/states.safetensors").stat().st_ino == kept
    imported(source, tmp_path / "whole", name="zoo")
    assert content(tmp_path / "zoo") == content(tmp_path / "whole")
    with pytest.raises(ZooError, match="is a finished zoo"):
        imported(source, tmp_path / "zoo")


def test_diverged_models_are_marked(tmp_path: Path) -> None:
    source = write_published(tmp_path / "tune_zoo", 4)
    place = model_folder(source, 0) / "checkpoint_000002/checkpoints"
    state = torch.load(place)
    state["module_list.0.bias"][0] = float("nan")
    torch.save(state, place)
    for model, word in ((1, "null"), (2, "NaN"), (3, "inf")):
        result = model_folder(source, model) / "result.json"
        result.write_text(result.read_text().replace('"train_loss": 0.0', f'"train_loss": {word}'))
    assert imported(source, tmp_path / "zoo").diverged == 4
    assert modelzoo.open(tmp_path / "zoo").index["diverged"].tolist() == [False, False, True] * 4
    subprocess.run([binary("zoo-verify"), tmp_path / "zoo", "-q"], check=True)


# Faults


class Evil:
    """Runs a program when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


def evil_zip(target: Path, name: str = "data.pkl", protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"archive/{name}", pickle.dumps(Evil(target), protocol))
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def evil_save(target: Path, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save({"module_list.0.weight": Evil(target)}, buffer, **options)
    return buffer.getvalue()


def tar_of(target: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(Evil(target))
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "make",
    [
        lambda target: pickle.dumps(Evil(target)),
        lambda target: evil_zip(target),
        lambda target: evil_zip(target, protocol=4),
        lambda target: evil_zip(target, protocol=0),
        lambda target: evil_save(target),
        lambda target: evil_save(target, _use_new_zipfile_serialization=False),
        tar_of,
    ],
)
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, make: Callable[[Path], bytes]) -> None:
    trap = tmp_path / "trap"
    source = write_published(tmp_path / "tune_zoo")
    (model_folder(source) / "checkpoint_000001/checkpoints").write_bytes(make(trap))
    outcome = imported(source, tmp_path / "zoo")
    assert not trap.exists()
    assert (outcome.models, outcome.states) == (3, 8)
    assert len(outcome.faults) == 1 and "checkpoint_000001" in outcome.faults[0].place
    assert any(word in outcome.faults[0].message for word in ("not loaded", "not read"))


def test_a_script_is_not_a_state_dict(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    with pytest.raises(ValueError, match=r"program|compressed"):
        checkpoint.load(buffer.getvalue())


@pytest.mark.parametrize(
    "error", [OverflowError("far"), RecursionError(), struct.error("4"), AssertionError(), KeyError(1)]
)
def test_whatever_a_parser_raises_is_a_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    zipped(write_published(tmp_path / "zoo", 1), tmp_path / "zoo.zip")
    for parser in ("zipfile.ZipFile", "zipfile.ZipFile.read", "pickletools.genops", "torch.load"):
        with monkeypatch.context() as patch, pytest.raises(ValueError, match=r"is damaged|malformed|cannot be loaded"):
            patch.setattr(parser, raising(error))
            checkpoint.load(checkpoint.dump({"a": np.zeros(1, np.float32)}))
    for parser in ("zipfile.ZipFile", "zipfile.ZipFile.open"):
        with monkeypatch.context() as patch, pytest.raises(ZooError, match="damaged"):
            patch.setattr(parser, raising(error))
            imported(tmp_path / "zoo.zip", tmp_path / "there")


def test_a_checkpoint_that_declares_more_data_than_it_has_is_refused() -> None:
    state = torch.zeros(1).expand(1 << 40)
    buffer = io.BytesIO()
    torch.save(OrderedDict([("module_list.0.weight", state)]), buffer)
    with pytest.raises(ValueError, match="expected float32"):
        checkpoint.to_state(checkpoint.load(buffer.getvalue()), parameters(params_of(0)))
    content = bytearray(checkpoint.dump(noise(params_of(0), 1, 0)[0]))
    for cut in (10, 100, len(content) // 2, len(content) - 1):
        with pytest.raises(ValueError):
            checkpoint.load(bytes(content[:cut]))


def change_json(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


def resave(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for place in folder.glob("checkpoint_*/checkpoints"):
            state = torch.load(place)
            change(state)
            torch.save(state, place)

    return damage


@pytest.mark.parametrize(
    ("damage", "message", "models", "states"),
    [
        (lambda f: shutil.rmtree(f / "checkpoint_000001"), "no checkpoint, of epoch 1", 3, 8),
        (lambda f: (f / "checkpoint_000002/checkpoints").write_bytes(b"PK\x03\x04"), "is damaged", 3, 8),
        (lambda f: (f / "result.json").unlink(), "has no metrics of epoch 0", 3, 9),
        (change_json("result.json", '"test_acc": 0.125', '"test_acc": 12.5'), "between 0 and 1", 2, 6),
        (change_json("result.json", '"training_iteration": 1', '"training_iteration": -1'), "training_iteration", 2, 6),
        (change_json("params.json", '"CNN"', '"Resnet18"'), "CNN3, cnn-m, cnn-s can be imported", 2, 6),
        (change_json("params.json", '"tanh"', '"swish"'), "model::nlin", 2, 6),
        (change_json("params.json", 'channels_in": 1', 'channels_in": 3'), "module_list.0.weight", 2, 6),
        (change_json("params.json", '"optim::lr": 0.001', '"optim::lr": NaN'), "optim::lr", 2, 6),
        (change_json("params.json", '"seed": 2', '"seed_": 2'), "--set 'seed=VALUE'", 2, 6),
        (lambda f: (f / "params.json").write_text("[" * 10**5), "is not JSON", 2, 6),
        (resave(lambda s: s.pop("module_list.3.bias")), "no tensor `module_list.3.bias`", 2, 6),
        (resave(lambda s: s.update(extra=torch.zeros(1))), "has a tensor `extra`", 2, 6),
        (resave(lambda s: s.update({"module_list.0.bias": torch.zeros(8).double()})), "float64", 2, 6),
    ],
)
def test_a_faulty_model_is_skipped_and_named(
    tmp_path: Path, damage: Callable[[Path], object], message: str, models: int, states: int
) -> None:
    source = write_published(tmp_path / "tune_zoo")
    damage(model_folder(source))
    with pytest.raises(ZooError, match="tune_zoo"):
        imported(source, tmp_path / "strict", strict=True)
    outcome = imported(source, tmp_path / "zoo")
    assert any(message in str(fault) for fault in outcome.faults), outcome.faults
    assert all("_00001_1_" in fault.place for fault in outcome.faults)
    assert (outcome.models, outcome.states) == (models, states)
    record = modelzoo.open(tmp_path / "zoo").record
    assert record["imported"]["faults"] == len(outcome.faults) and "_00001_1_" in record["imported"]["skipped"][0][0]
    subprocess.run([binary("zoo-verify"), tmp_path / "zoo", "-q"], check=True)


def test_what_configurations_lack_can_be_given(tmp_path: Path) -> None:
    source = write_published(tmp_path / "tune_zoo", 2)
    change_json("params.json", '"seed": 2', '"seed_": 2')(model_folder(source))
    assert not imported(source, tmp_path / "zoo", missing={"seed": 7}).faults
    zoo = modelzoo.open(tmp_path / "zoo")
    assert zoo.index["seed"].tolist() == [1] * 3 + [7] * 3 and zoo.record["imported"]["given"] == {"seed": 7}


@pytest.mark.parametrize("lack", [dict.pop, lambda config, key: config.update({key: None})])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model::type", "CNN"), ("model::nlin", "tanh"), ("model::init_type", "uniform"), ("model::dropout", 0),
        ("optim::optimizer", "sgd"), ("optim::lr", 0.1), ("optim::wd", 0), ("training::batchsize", 8),
        ("training::epochs_train", 50), ("seed", 2**64 - 1), ("model::channels_in", 1),
    ],
)  # fmt: skip
def test_what_a_configuration_lacks_or_holds_as_null_can_be_given(
    tmp_path: Path, key: str, value: object, lack: Callable[[dict[str, object], str], object]
) -> None:
    source = write_published(tmp_path / "tune_zoo", 2)
    for path in source.glob("*/params.json"):
        config = json.loads(path.read_text())
        lack(config, key)
        path.write_text(json.dumps(config))
    with pytest.raises(ZooError, match=re.escape(f"--set '{key}=VALUE'")):
        imported(source, tmp_path / "zoo")
    assert not imported(source, tmp_path / "zoo", missing={key: value}).faults
    params = modelzoo.open(tmp_path / "zoo").params(1)
    assert params[key] == {"model::type": "cnn-s"}.get(key, value)


def test_all_that_a_configuration_lacks_is_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"has no `optim::lr`, `seed`: .*--set 'optim::lr=VALUE' --set 'seed=VALUE'"):
        published.to_params({k: v for k, v in params_of(0).items() if k not in ("optim::lr", "seed")}, {})


def write_sparse(folder: Path, kind: str = "CNN_ARD") -> dict[str, np.ndarray]:
    """Twins by variational dropout, as the published code writes them; the last state that the first one evaluates."""
    write_published(folder, 2, **{"model::type": kind})
    expected: dict[str, np.ndarray] = {}
    rng = np.random.default_rng(0)
    for place in sorted(folder.glob("*/checkpoint_*/checkpoints"), reverse=True):
        state = OrderedDict()
        for name, tensor in torch.load(place).items():
            state[name] = tensor
            is_linear = name.startswith(("module_list.9", "module_list.11"))
            if name.endswith("bias") and is_linear:
                expected[name] = tensor.numpy()
                continue
            log_alpha = rng.choice([-6.0, 2.99, 3.01, 9.0], tensor.shape).astype(np.float32)
            log_sigma2 = torch.from_numpy(log_alpha) + 2 * torch.log(tensor.abs() + 1e-15)
            layer, _, what = name.rpartition(".")
            state[f"{layer}.log_sigma2" + ("_bias" if what == "bias" else "")] = log_sigma2
            expected[name] = np.where(log_alpha < 3, tensor.numpy(), np.float32(0))
        torch.save(state, place)
    return expected


@pytest.mark.parametrize("kind", ["CNN_ARD", "CNN"])
def test_sparse_twins_are_imported_as_they_are_evaluated(tmp_path: Path, kind: str) -> None:
    expected = write_sparse(tmp_path / "twins", kind)
    assert not imported(tmp_path / "twins", tmp_path / "zoo").faults
    zoo = modelzoo.open(tmp_path / "zoo")
    assert all(np.array_equal(zoo.states(0)[name][0], values) for name, values in expected.items())
    weights = [values for name, values in expected.items() if name.endswith("weight")]
    share = sum((w == 0).sum() for w in weights) / sum(w.size for w in weights)
    assert zoo.results(0)[0]["sparsity_ratio"] == pytest.approx(share) and 0.4 < share < 0.6
    assert zoo.params(0).get("sparsify::method") == {"CNN_ARD": "variational-dropout"}.get(kind)
    assert zoo.params(0)["imported::params"]["model::type"] == kind
    subprocess.run([binary("zoo-pack"), zoo.path, "-o", tmp_path / "a.tar.gz", "-q"], check=True)
    subprocess.run([binary("zoo-verify"), tmp_path / "a.tar.gz", "-q"], check=True)
    there = exported(zoo.path, tmp_path / "there")
    assert not imported(there, tmp_path / "back").faults
    assert content(tmp_path / "back").keys() == content(zoo.path).keys()
    assert modelzoo.open(tmp_path / "back").results(1) == zoo.results(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.update({"module_list.0.log_sigma2": torch.zeros(8)}),
            "does not belong to a `module_list.0.weight`",
        ),
        (
            lambda s: s.update({"module_list.1.log_sigma2": torch.zeros(8)}),
            "does not belong to a `module_list.1.weight`",
        ),
        (lambda s: s.update({"module_list.3.log_sigma2_bias": torch.zeros(5)}), "`module_list.3.bias` of its shape"),
        (lambda s: s.update({"log_sigma2": torch.zeros(5)}), "has a tensor `log_sigma2`"),
    ],
)
def test_noise_that_belongs_to_no_weight_is_a_fault(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    write_sparse(tmp_path / "twins")
    resave(change)(model_folder(tmp_path / "twins"))
    outcome = imported(tmp_path / "twins", tmp_path / "zoo")
    assert outcome.models == 1 and any(message in str(fault) for fault in outcome.faults), outcome.faults


@pytest.mark.parametrize(
    ("damage", "known", "reported"),
    [
        (lambda c: c[:-40], [2.0, 1.0, None], ["line 3 is truncated"]),
        (lambda c: c + c[:40], [2.0, 1.0, 0.0], ["line 4 is truncated"]),
        (lambda c: c[:-40] + bytes(4096), [2.0, 1.0, None], ["line 3 is truncated"]),
        (lambda c: c[:40] + c, [2.0, 1.0, 0.0], ["line 1 begins with one that is truncated"]),
        (lambda c: c[:40] + bytes(4096) + c, [2.0, 1.0, 0.0], ["line 1 is not JSON"]),
        (lambda c: c.replace(b"\n", bytes(4096)), [2.0, 1.0, 0.0], []),
        (lambda c: c[: c.index(b"}") + 1] + b"\n" + c, [2.0, 1.0, 0.0], ["line 1 is not JSON"]),
        (lambda c: c + bytes(4096), [2.0, 1.0, 0.0], []),
        (lambda c: bytes(512) + c, [2.0, 1.0, 0.0], []),
        (lambda c: c.replace(b"\n", b"\n\0\0\0"), [2.0, 1.0, 0.0], []),
        (lambda c: c.replace(b"}\n", b"}\0\0\0\n"), [2.0, 1.0, 0.0], []),
        (lambda c: c.replace(b'"train_loss": 1.0', b'"train_loss\0\0\0\0'), [2.0, None, 0.0], ["line 2 is not JSON"]),
        (lambda c: b"\xef\xbb\xbf" + c, [2.0, 1.0, 0.0], []),
        (lambda c: c.replace(b"\n", b"\n\xef\xbb\xbf"), [2.0, 1.0, 0.0], []),
        (lambda c: c.decode().encode("utf-16"), [2.0, 1.0, 0.0], []),
        (lambda c: c.replace(b"\n", b"\r\n") + b"\n \n", [2.0, 1.0, 0.0], []),
        (lambda c: c.replace(b"\n", b"\n\n").rstrip(b"\n"), [2.0, 1.0, 0.0], []),
        (lambda c: c.replace(b'"pid": 1', b'"pid": ' + b"1" * 5000), [2.0, 1.0, 0.0], []),
        (lambda c: c[:-3] + b"\xff\xfe", [2.0, 1.0, None], ["line 3 is truncated"]),
        (lambda c: b"", [None, None, None], []),
        (lambda c: b"\0" * 100, [None, None, None], []),
    ],
)
def test_a_result_file_that_was_cut_keeps_its_sound_lines(
    tmp_path: Path, damage: Callable[[bytes], bytes], known: list[float | None], reported: list[str]
) -> None:
    source = write_published(tmp_path / "tune_zoo", 2)
    path = model_folder(source) / "result.json"
    path.write_bytes(damage(path.read_bytes()))
    outcome = imported(source, tmp_path / "zoo")
    assert (outcome.models, outcome.states) == (2, 6)
    found = [str(fault) for fault in outcome.faults if "result.json" in fault.place]
    assert len(found) == len(reported) and all(part in text for part, text in zip(reported, found, strict=True)), found
    assert len(outcome.faults) == len(reported) + known.count(None)
    assert [line["train_loss"] for line in modelzoo.open(tmp_path / "zoo").results(1)] == known
    subprocess.run([binary("zoo-verify"), tmp_path / "zoo", "-q"], check=True)


@pytest.mark.parametrize("value", ["1e999", "1" * 400, "true", '"x"', "[]"])
def test_a_number_that_is_none_is_a_fault(tmp_path: Path, value: str) -> None:
    source = write_published(tmp_path / "tune_zoo", 2)
    change_json("params.json", '"optim::lr": 0.001', f'"optim::lr": {value}')(model_folder(source))
    outcome = imported(source, tmp_path / "zoo")
    assert outcome.models == 1 and "`optim::lr` is" in outcome.faults[0].message


# What failed before, what others leave


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "none of its 2 models"),
        ({"strict": True}, "seed"),
        ({"data": Path("nothing.safetensors")}, "nothing.safetensors"),
    ],
)
def test_a_failed_import_leaves_nothing_and_blocks_none(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    source = write_published(tmp_path / "tune_zoo", 2)
    for model in range(2):
        change_json("params.json", '"seed"', '"seed_"')(model_folder(source, model))
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo/.DS_Store").touch()
    with pytest.raises(ZooError, match=message):
        imported(source, tmp_path / "zoo", **options)
    assert [p.name for p in (tmp_path / "zoo").iterdir()] == [".DS_Store"]
    assert imported(source, tmp_path / "zoo", missing={"seed": 7}).models == 2


def test_a_mended_model_is_read_again_by_the_import_that_goes_on(tmp_path: Path) -> None:
    source = write_published(tmp_path / "tune_zoo")
    path = model_folder(source, 0) / "params.json"
    sound = path.read_text()
    path.write_text("{")

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_zoo(source, tmp_path / "zoo", Options(), stop)
    path.write_text(sound)
    outcome = imported(source, tmp_path / "zoo")
    assert (outcome.models, outcome.faults) == (3, [])


def test_a_failed_export_leaves_nothing_and_blocks_none(tmp_path: Path) -> None:
    zoo = modelzoo.open(write_noise(tmp_path / "noise", 2))
    result = zoo.path / "models/000001/result.json"
    sound = result.read_text()
    result.write_text(sound.replace('"training_iteration":4', '"training_iteration":2000000000'))
    with pytest.raises(ZooError, match="one line per epoch"):
        export_zoo(zoo, tmp_path / "there")
    assert not (tmp_path / "there").exists()
    result.write_text(sound)
    export_zoo(zoo, tmp_path / "there")
    assert not (tmp_path / "there/.export").exists()


def test_two_imports_into_one_place_do_not_meet(tmp_path: Path) -> None:
    source = write_published(tmp_path / "tune_zoo")

    def second(done: int, total: int) -> None:
        with pytest.raises(ZooError, match="in use by another process"):
            imported(source, tmp_path / "zoo")

    assert import_zoo(source, tmp_path / "zoo", Options(), second).models == 3


def clutter(folder: Path) -> None:
    """What macOS, Windows, NAS boxes and NFS leave in a folder."""
    for name in (".DS_Store", "._params.json", "Thumbs.db", "desktop.ini", "Icon\r", ".nfs0001", ".fuse_hidden01"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    for name in (".AppleDouble", "__MACOSX", "@eaDir", "lost+found"):
        (folder / name / "x").mkdir(parents=True)
        for file in ("params.json", "result.json", "x/params.json"):
            (folder / name / file).write_bytes(b"\0\5\x16\7")


@pytest.mark.parametrize("packed", [False, True])
def test_what_file_managers_leave_is_passed_over(tmp_path: Path, packed: bool) -> None:
    source = write_published(tmp_path / "sources/tune_zoo", 2)
    for folder in (tmp_path / "sources", source, model_folder(source), model_folder(source) / "checkpoint_000001"):
        clutter(folder)
    place = zipped(source, tmp_path / "tune_zoo.zip") if packed else tmp_path / "sources"
    (tmp_path / "zoo").mkdir()
    clutter(tmp_path / "zoo")
    outcome = imported(place, tmp_path / "zoo")
    assert (outcome.models, outcome.states, outcome.faults) == (2, 6, [])
    zoo = modelzoo.open(tmp_path / "zoo", strict=True)
    clutter(zoo.path / "models")
    clutter(zoo.path / "models/000001")
    assert modelzoo.open(zoo.path, strict=True).ids == [0, 1] and zoo.check() == []
    (tmp_path / "there").mkdir()
    clutter(tmp_path / "there")
    export_zoo(zoo, tmp_path / "there")


def test_names_that_are_not_utf_8_are_imported_and_printed(tmp_path: Path) -> None:
    source = write_published(tmp_path / "tune_zoo", 3).rename(tmp_path / os.fsdecode(b"tune_\xff"))
    for number, name in enumerate((b"model_\xe9", b"model_\xff\xfe")):
        os.rename(model_folder(source, number), source / os.fsdecode(name))
    faulty = sorted(p for p in source.iterdir() if p.is_dir())[2]
    (faulty / "params.json").write_text("{")
    done = run("import", source, tmp_path / "zoo", "--json")
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert json.loads(done.stdout)["faults"] == 1
    assert [p["imported::directory"].isascii() for p in map(modelzoo.open(tmp_path / "zoo").params, (0, 1))] == [
        True
    ] * 2
    subprocess.run([binary("zoo-verify"), tmp_path / "zoo", "-q"], check=True)
    target = tmp_path / os.fsdecode(b"back_\xff")
    for json_flag in ([], ["--json"]):
        done = run("export", tmp_path / "zoo", target, *json_flag)
        assert "Traceback" not in done.stderr
        assert done.returncode == (1 if json_flag else 0)
    assert "is already an exported zoo" in json.loads(done.stdout)["error"]


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a\\evil", "C:/evil", "tune_zoo//x", "a\x00b"])
def test_a_zip_with_path_tricks_is_refused(tmp_path: Path, name: str) -> None:
    archive = zipped(write_published(tmp_path / "tune_zoo", 1), tmp_path / "tune_zoo.zip")
    with zipfile.ZipFile(archive, "a") as file:
        info = zipfile.ZipInfo("placeholder")
        info.filename = info.orig_filename = name
        file.writestr(info, "x")
    with pytest.raises(ZooError, match="leaves its folder"):
        imported(archive, tmp_path / "zoo")
    assert not (tmp_path.parent / "evil").exists() and not (tmp_path / "zoo").exists()


def test_links_and_bombs_are_not_followed(tmp_path: Path) -> None:
    source = write_published(tmp_path / "tune_zoo")
    place = model_folder(source) / "checkpoint_000001/checkpoints"
    secret = place.rename(tmp_path / "secret")
    place.symlink_to(secret)
    outcome = imported(source, tmp_path / "zoo")
    assert outcome.states == 8 and "no checkpoint, of epoch 1" in outcome.faults[0].message
    place.unlink()
    place.write_bytes(bytes(65 << 20))
    archive = zipped(source, tmp_path / "bomb.zip")
    outcome = imported(archive, tmp_path / "zoo2")
    assert outcome.states == 8 and "declares" in outcome.faults[0].message


def test_what_is_no_published_zoo_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.zip").write_bytes(b"PK nonsense")
    two = tmp_path / "two"
    write_published(two / "a", 1)
    write_published(two / "b", 1)
    for source, message in (
        ("none", "does not exist"), ("empty", "not a published zoo"), ("x.zip", "not a zip"), ("two", "2 zoos"),
    ):  # fmt: skip
        with pytest.raises(ZooError, match=message):
            imported(tmp_path / source, tmp_path / "zoo")


def test_the_command(tmp_path: Path) -> None:
    source = write_published(tmp_path / "tune_zoo", 2)
    change_json("params.json", '"seed": 2', '"seed_": 2')(model_folder(source))
    done = run("import", source, tmp_path / "zoo", "--set", "seed=5", "--json")
    assert json.loads(done.stdout) == {
        "zoo": str(tmp_path / "zoo"), "models": 2, "states": 6, "diverged": 0, "faults": 0,
    }  # fmt: skip
    done = run("import", source, tmp_path / "zoo")
    assert done.returncode == 1 and done.stderr.startswith("modelzoo: ") and "Traceback" not in done.stderr
    assert run("export", tmp_path / "zoo", tmp_path / "back").returncode == 0
    assert run("export", tmp_path / "nothing", tmp_path / "x").returncode == 1
    assert run("import", source).returncode == 2
    for wrong in ("seed", "=5", "sed=5", "seed =5"):
        assert run("import", source, tmp_path / "other", "--set", wrong).returncode == 2, wrong


def test_nothing_is_made_inside_of_its_source(tmp_path: Path) -> None:
    zoo = write_noise(tmp_path / "noise")
    published_zoo = exported(zoo, tmp_path / "there")
    before = content(zoo), content(published_zoo)
    with pytest.raises(ZooError, match="its own source"):
        exported(zoo, zoo / "a/there")
    with pytest.raises(ZooError, match="its own source"):
        imported(published_zoo, published_zoo / "zoo")
    assert (content(zoo), content(published_zoo)) == before


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*arguments: object) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(28, "No space left on device", "/x/y"), 1, "/x/y: No space left on device"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (PermissionError(13, "Permission denied", b"/x/\xff"), 1, "/x/\\udcff: Permission denied"),
        (MemoryError(), 1, "memory"),
        (RecursionError("too deep"), 1, "RecursionError: too deep"),
        (ZooError("a\nb"), 1, "a\\nb"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
@pytest.mark.parametrize("command", ["import", "export"])
def test_every_failure_is_one_sentence(
    noise_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    command: str, error: BaseException, code: int, message: str,
) -> None:  # fmt: skip
    source = write_published(tmp_path / "tune_zoo", 1) if command == "import" else noise_zoo
    monkeypatch.setattr(files, "write_atomic", raising(error))
    assert cli.main([command, str(source), str(tmp_path / "made"), "--json"]) == code
    printed = capsys.readouterr()
    assert printed.err.startswith("modelzoo: ") and message in printed.err and printed.err.count("\n") == 1
    assert json.loads(printed.out).keys() == {"error"}
    monkeypatch.undo()
    assert cli.main([command, str(source), str(tmp_path / "made"), "-q"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "none", "made"], "none: does not exist"),
        (["import", "file", "made"], "file: is not a zip"),
        (["import", "zoo", "made"], "zoo: is already a zoo directory"),
        (["import", "tune_zoo", "zoo"], "is a finished zoo"),
        (["import", "tune_zoo", "full"], "full: is not empty"),
        (["import", "tune_zoo", "file"], "file: Not a directory"),
        (["import", "tune_zoo", "made", "--name", "a b"], "not a valid zoo name"),
        (["import", "tune_zoo", "made", "--data", "file"], "file: is not a prepared dataset"),
        (["import", "tune_zoo", "made", "--data", "zoo"], "zoo: "),
        (["export", "none", "made"], "none: does not exist"),
        (["export", "file", "made"], "file: is damaged"),
        (["export", "full", "made"], "full: has no zoo.json"),
        (["export", "zoo", "full"], "full: is not empty"),
        (["export", "zoo", "file/made"], "Not a directory"),
        (["export", "unreadable", "made"], "has no model that can be read"),
    ],
)
def test_what_cannot_be_done_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write_noise(Path("zoo"), 1)
    shutil.rmtree(write_noise(Path("unreadable"), 1) / "models")
    write_published(Path("tune_zoo"), 1)
    Path("file").write_text("words")
    Path("full").mkdir()
    Path("full/mine").touch()
    before = content(tmp_path)
    assert cli.main([*arguments]) == 1
    printed = capsys.readouterr().err.splitlines()
    assert printed[-1].startswith("modelzoo: ") and message in printed[-1]
    assert content(tmp_path) == before and not Path("made").exists()


def test_ray_tunes_bookkeeping_is_left_out() -> None:
    lines = published.to_lines(b'{"training_iteration": 1, "pid": 3, "test_acc": 0.5, "test_loss": 1, "own": "x"}\n')
    assert lines[1]["own"] == "x" and "pid" not in lines[1] and lines[1]["test_loss"] == 1.0
