"""The published collection's layout: out, in, and what is wrong with what strangers send."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
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
from modelzoo import ZooError, published
from modelzoo.architectures import parameters

torch = pytest.importorskip("torch")

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


def read_as_the_dataset_class_does(zoo: Path, epoch: int) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Checkpoint and properties by folder, found as the published ModelDatasetBase finds them."""
    found = {}
    for folder in (f for f in zoo.iterdir() if f.is_dir()):
        place = folder / f"checkpoint_{epoch:06d}" / "checkpoints"
        lines = [json.loads(line) for line in (folder / "result.json").open()]
        # It tries the line before the epoch's number first, and takes the other if that is another epoch's.
        line = lines[epoch - 1] if lines[epoch - 1]["training_iteration"] == epoch else lines[epoch]
        assert line["training_iteration"] == epoch
        found[folder.name] = (torch.load(place, map_location="cpu"), line)
    return found


@pytest.mark.parametrize("epochs", [(0, 1, 2), (1, 2, 3), (0, 2, 4), (3, 5)])
def test_the_published_dataset_class_finds_everything(tmp_path: Path, epochs: tuple[int, ...]) -> None:
    zoo = modelzoo.open(write_noise(tmp_path / "noise", 2, epochs))
    export_zoo(zoo, tmp_path / "published")
    for place, epoch in enumerate(epochs):
        found = read_as_the_dataset_class_does(tmp_path / "published", epoch)
        assert sorted(found) == ["NN_tune_trainable_000000", "NN_tune_trainable_000001"]
        for model, (state, line) in enumerate(found[name] for name in sorted(found)):
            assert list(state) == list(zoo.states(model))
            assert all(np.array_equal(t.numpy(), zoo.states(model)[name][place]) for name, t in state.items())
            assert line["test_loss"] == 1.5 + model and line["train_acc"] - line["test_acc"] == 0.25
            config = line["config"]
            assert config["model::type"] == "CNN" and config["model::dropout"] == 0.5 * model
    described = json.loads((tmp_path / "published/index_dict.json").read_text())
    assert described == zoo.index_dict


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


def test_a_checkpoint_that_claims_what_it_has_not_is_refused() -> None:
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
    assert outcome.states == 8 and "claims" in outcome.faults[0].message


def test_what_is_no_published_zoo_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.zip").write_bytes(b"PK nonsense")
    two = tmp_path / "two"
    write_published(two / "a", 1)
    write_published(two / "b", 1)
    for source, message in (
        ("none", "does not exist"), ("empty", "not a published zoo"), ("x.zip", "not a zip"), ("two", "holds 2 zoos"),
    ):  # fmt: skip
        with pytest.raises(ZooError, match=message):
            imported(tmp_path / source, tmp_path / "zoo")


def test_the_command(tmp_path: Path) -> None:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "modelzoo.cli", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

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


def test_ray_tunes_bookkeeping_is_left_out() -> None:
    lines = published.to_lines(b'{"training_iteration": 1, "pid": 3, "test_acc": 0.5, "test_loss": 1, "own": "x"}\n')
    assert lines[1]["own"] == "x" and "pid" not in lines[1] and lines[1]["test_loss"] == 1.0
