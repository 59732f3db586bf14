"""Directories: index, weights, splits, faults."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import noise, params_of, write_noise
from hypothesis import given
from hypothesis import strategies as st

import modelzoo
from modelzoo import Fault, FaultWarning, ZooError
from modelzoo.states import StatesFile
from modelzoo.zoo import split_models

STATES = "models/000001/states.safetensors"


def opened(path: Path) -> tuple[modelzoo.Zoo, list[Fault]]:
    with pytest.warns(FaultWarning):
        zoo = modelzoo.open(path)
    return zoo, zoo.faults


def test_the_index_has_a_row_per_state(noise_zoo: Path) -> None:
    index = modelzoo.open(noise_zoo).index
    assert len(index) == 15
    assert index["epoch"].tolist() == [0, 2, 4] * 5
    assert index["model::dropout"].tolist() == [0.0] * 3 + [0.5] * 3 + [0.0] * 3 + [0.5] * 3 + [0.0] * 3
    assert index["test_loss"].tolist() == [1.5 + model for model in range(5) for _ in range(3)]
    assert index["val_loss"].isna().all() and not index["diverged"].any()
    assert index["split"].cat.categories.tolist() == ["train", "val", "test"]
    assert (index.groupby("id")["split"].nunique() == 1).all()


def test_weights_are_those_that_were_written(noise_zoo: Path) -> None:
    zoo = modelzoo.open(noise_zoo)
    vectors, rows = zoo.weights()
    layers, _ = zoo.weights(layout="layers")
    pd.testing.assert_frame_equal(rows, zoo.index)
    for model in range(5):
        mapped = zoo.states(model)
        for place, state in enumerate(noise(params_of(model), 3, model)):
            row = 3 * model + place
            assert np.array_equal(vectors[row], np.concatenate([t.ravel() for t in state.values()]))
            for parameter, (name, tensor) in zip(zoo.parameters(), state.items(), strict=True):
                assert np.array_equal(layers[parameter.name][row], tensor)
                assert np.array_equal(mapped[name][place], tensor)
                assert not mapped[name].flags.writeable


def test_weights_of_chosen_states_come_with_their_rows(noise_zoo: Path, tmp_path: Path) -> None:
    zoo = modelzoo.open(noise_zoo)
    every, _ = zoo.weights()
    choices: tuple[dict[str, Any], ...] = (
        {"split": "train"}, {"epochs": "last"}, {"epochs": 2}, {"epochs": [0, 4]}, {"split": "test", "epochs": [0]},
        {"rows": zoo.index.sample(frac=0.5, random_state=0)}, {"rows": zoo.index.iloc[::-1]}, {"epochs": []},
    )  # fmt: skip
    for options in choices:
        weights, rows = zoo.weights(**options)
        assert np.array_equal(weights, every[rows.index]), options
    assert zoo.select("train", "last")["epoch"].unique().tolist() == [4]
    mapped, _ = zoo.weights(epochs=2, out=tmp_path / "weights.npy")
    assert isinstance(mapped, np.memmap) and np.array_equal(mapped, every[1::3])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["noise", "weights.npy"]


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.sort_values("test_loss", ascending=False),
        lambda rows: rows.query("epoch > 0 and id != 2"),
        lambda rows: rows.iloc[3:].reset_index(drop=True),
        lambda rows: pd.concat([rows.iloc[4:6], rows.iloc[[5, 0, 5]]]),
        lambda rows: rows.assign(group="a", split="train", id=rows["id"].astype(float)),
        lambda rows: rows[["epoch", "id"]].set_index(rows["model::nlin"]),
        lambda rows: rows.merge(pd.DataFrame({"id": [1, 4], "mine": [0.5, 2.0]})),
        lambda rows: pd.read_csv(io.StringIO(rows.to_csv(index=False))),
        lambda rows: rows.iloc[:0],
    ],
)
def test_rows_are_known_by_what_they_say(noise_zoo: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    zoo = modelzoo.open(noise_zoo)
    every, _ = zoo.weights()
    given = change(zoo.index)
    weights, rows = zoo.weights(rows=given)
    assert np.array_equal(weights, every[(3 * rows["id"] + rows["epoch"] // 2).to_numpy(int)])
    assert rows.index.equals(given.index)
    assert rows["id"].tolist() == given["id"].tolist() and rows["epoch"].tolist() == given["epoch"].tolist()
    assert set(zoo.index.columns) | set(given.columns) == set(rows.columns)
    for name in given.columns.difference(zoo.index.columns):
        assert rows[name].tolist() == given[name].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows.assign(test_acc=rows["test_acc"].where(rows["id"] != 3, 0.25)),
            "`test_acc` of model 000003",
        ),
        (lambda rows: rows.assign(val_acc=0.5), "`val_acc` of model 000000 at epoch 0 is 0.5 in them, nan"),
        (lambda rows: rows.assign(test_loss=np.nan), "`test_loss`"),
        (lambda rows: rows.assign(seed=rows["seed"] + 1), "`seed` of model 000000 at epoch 0 is 1 in them, 0"),
        (lambda rows: rows.assign(**{"model::nlin": "relu"}), "`model::nlin`"),
        (lambda rows: rows.assign(diverged=True), "`diverged`"),
        (lambda rows: rows.assign(sparsity_ratio=0.5), "`sparsity_ratio`"),
        (lambda rows: rows.assign(parent_zoo="noise"), "`parent_zoo`"),
        (lambda rows: rows.assign(**{"sparsify::method": "magnitude"}), "`sparsify::method`"),
        (lambda rows: rows.assign(epoch=rows["epoch"] + 1), "no model 0 with a state of epoch 1"),
        (lambda rows: rows.assign(id=rows["id"] + 5), "no model 5 with a state of epoch 0"),
        (lambda rows: rows.assign(id="x"), "no model x"),
        (lambda rows: rows.assign(id=rows["id"] + 0.5), "no model 0.5"),
        (lambda rows: rows.drop(columns="epoch"), "no column `epoch`"),
        (lambda rows: rows["id"], "a Series"),
        (lambda rows: [0, 1], "a list"),
        (lambda rows: rows["id"] == 3, "a Series"),
        (lambda rows: pd.concat([rows, rows], axis=1), "duplicate column"),
    ],
)
def test_rows_of_another_zoo_are_refused(noise_zoo: Path, change: Callable[[Any], Any], message: str) -> None:
    zoo = modelzoo.open(noise_zoo)
    for call in (zoo.weights, zoo.dataset):
        if call == zoo.dataset:
            pytest.importorskip("torch", reason="needs PyTorch: pip install 'modelzoo[torch]'")
        with pytest.raises(ZooError, match=message):
            call(rows=change(zoo.index))


def test_rows_of_a_real_twin_are_refused(real: Path) -> None:
    whole, twin = (modelzoo.open(real / "zoos" / name) for name in ("small", "small-magnitude-80"))
    for zoo, other in ((whole, twin), (twin, whole)):
        rows = other.index[other.index["epoch"] < 2]
        with pytest.raises(ZooError, match=f"rows are not of {zoo.name}"):
            zoo.weights(rows=rows)
        assert len(other.weights(rows=rows)[0]) == len(rows)


def test_an_index_that_was_sorted_still_names_its_states(noise_zoo: Path) -> None:
    zoo = modelzoo.open(noise_zoo)
    every, rows = zoo.weights()
    zoo.index = zoo.index.sort_values(["epoch", "id"])
    for options in ({}, {"epochs": 2}, {"rows": zoo.index.head(4)}):
        weights, chosen = zoo.weights(**options)
        assert np.array_equal(weights, every[chosen.index])
        assert chosen["test_loss"].equals(rows["test_loss"].loc[chosen.index])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 99}, "no model of noise has a state of epoch 99; kept are 0, 2, 4"),
        ({"epochs": [2, 3]}, "epoch 3;"),
        ({"epochs": range(5)}, "epoch 1, 3;"),
        ({"epochs": np.array([4, 6])}, "epoch 6;"),
        ({"epochs": -1}, "epoch -1;"),
        ({"epochs": 5, "split": "train"}, "split train"),
        ({"epochs": 2.5}, "whole numbers"),
        ({"epochs": ["2"]}, "whole numbers"),
        ({"epochs": [[2]]}, "whole numbers"),
        ({"epochs": True}, "whole numbers"),
        ({"epochs": float("nan")}, "whole numbers"),
        ({"epochs": "first"}, "'first'"),
        ({"split": "validation"}, "'validation'"),
        ({"layout": "matrix"}, "layout must be"),
        ({"rows": pd.DataFrame({"id": [0], "epoch": [0]}), "epochs": 0}, "cannot be combined with"),
        ({"rows": pd.DataFrame({"id": [0], "epoch": [0]}), "split": "train"}, "cannot be combined with"),
    ],
)
def test_a_choice_that_no_state_meets_is_an_error(noise_zoo: Path, options: dict[str, Any], message: str) -> None:
    zoo = modelzoo.open(noise_zoo)
    with pytest.raises(ZooError, match=message):
        zoo.weights(**options)
    if "layout" not in options:
        pytest.importorskip("torch", reason="needs PyTorch: pip install 'modelzoo[torch]'")
        with pytest.raises(ZooError, match=message):
            zoo.dataset(**options)


def test_models_that_lack_an_epoch_are_left_out_of_it(noise_zoo: Path) -> None:
    result = noise_zoo / "models/000002/result.json"
    result.write_text("".join(result.read_text().splitlines(keepends=True)[:2]))
    zoo, _ = opened(noise_zoo)
    assert zoo.weights(epochs=[2, 4])[1].groupby("epoch")["id"].apply(list).to_dict() == {
        2: [0, 1, 2, 3, 4], 4: [0, 1, 3, 4],
    }  # fmt: skip
    assert len(zoo.weights(epochs=np.int64(4))[0]) == 4 and len(zoo.weights(epochs={2})[0]) == 5


@pytest.mark.parametrize("model", [77, "77", "x", "\u0661", 1.0, True, None, -1])
def test_a_model_that_is_not_there_is_an_error(noise_zoo: Path, model: Any) -> None:
    zoo = modelzoo.open(noise_zoo)
    for call in (zoo.states, zoo.params, zoo.results, zoo.parameters if model is not None else zoo.states):
        with pytest.raises(ZooError):
            call(model)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.5, 0.6, -0.1), (1, 1, 1), (float("nan"), 0.5, 0.5)])
def test_shares_that_are_none_are_refused(noise_zoo: Path, shares: tuple[float, ...]) -> None:
    with pytest.raises(ZooError, match="add up to 1"):
        modelzoo.open(noise_zoo, shares=shares)


VALUES: dict[str, list[Any]] = {
    "own::integer": [1, None, 2**53 + 1, 4, -5],
    "own::large": [2**64 - 1, None, 2**63, 0, 1],
    "own::unsigned": [2**63, 2**63 + 1, 3, 4, 5],
    "own::mixed": [1, 0.5, None, 2, 3],
    "own::truth": [True, None, False, True, True],
    "own::all": [True, False, True, False, True],
    "own::word": [None, "a", "ü", None, "b"],
    "own::late": [None, None, None, None, 7],
    "own::list": [[1, "ü"], None, [], [0.5], None],
    "optim::wd": [0, 0, 0, 0, 1],
    "split": ["a", "b", None, "c", "d"],
}


def write_values(zoo: Path, values: dict[str, list[Any]]) -> None:
    for model in range(5):
        path = zoo / f"models/{model:06}/params.json"
        given = {key: column[model] for key, column in values.items() if column[model] is not None}
        path.write_text(json.dumps(json.loads(path.read_text()) | given))


def check_values(index: pd.DataFrame) -> None:
    rows = index[index["epoch"] == 0]
    for key, column in VALUES.items():
        found = rows["params::split" if key == "split" else key]
        texts = [json.dumps(v, separators=(",", ":"), ensure_ascii=False) if isinstance(v, list) else v for v in column]
        assert [None if pd.isna(value) else value for value in found] == texts, key
    kinds = {"own::integer": "Int64", "own::large": "UInt64", "own::unsigned": "uint64", "own::mixed": "float64"}
    kinds |= {"own::truth": "boolean", "own::all": "bool", "optim::wd": "float64", "id": "int32"}
    assert {key: str(index[key].dtype) for key in kinds} == kinds


def test_hyperparameters_are_as_they_are_written(noise_zoo: Path, tmp_path: Path) -> None:
    write_values(noise_zoo, VALUES)
    zoo = modelzoo.open(noise_zoo, strict=True)
    check_values(zoo.index)
    assert np.array_equal(zoo.weights(rows=zoo.index.iloc[::-1])[0], zoo.weights()[0][::-1])
    frame = zoo.index.drop(columns="split").rename(columns={"params::split": "split"})
    frame.to_parquet(noise_zoo / "index.parquet")
    indexed = modelzoo.open(noise_zoo, strict=True)
    check_values(indexed.index)
    assert np.array_equal(indexed.weights(rows=zoo.index)[0], zoo.weights()[0])


@pytest.mark.parametrize("key", ["id", "epoch", "diverged", "test_acc", "sparsity_ratio", "parent_zoo"])
def test_a_key_with_the_name_of_a_column_is_a_fault(noise_zoo: Path, key: str) -> None:
    write_values(noise_zoo, {key: [None, 1, None, None, None]})
    zoo, faults = opened(noise_zoo)
    assert zoo.ids == [0, 2, 3, 4] and len(faults) == 1 and f"`{key}`" in str(faults[0])


@pytest.mark.parametrize("blank", ["\n", "\n\n\n", " \n", "\r\n"])
def test_blank_lines_of_results_do_not_count(noise_zoo: Path, blank: str) -> None:
    path = noise_zoo / "models/000001/result.json"
    text = path.read_text()
    path.write_text(blank + text.replace("\n", "\n" + blank))
    assert len(modelzoo.open(noise_zoo, strict=True)) == 15


def test_states_of_more_models_than_descriptors_stay_mapped(tmp_path: Path) -> None:
    write_noise(tmp_path / "many", 100, (0, 1))
    program = (
        "import resource, sys, modelzoo\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "zoo = modelzoo.open(sys.argv[1])\n"
        "states = [zoo.states(model) for model in zoo.ids]\n"
        "vectors, _ = zoo.weights(epochs=1)\n"
        "assert all((s['module_list.0.weight'][1].ravel() == v[:200]).all() for s, v in zip(states, vectors))\n"
        "print(len(states))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "many"], capture_output=True, text=True)
    assert done.stdout == "100\n", done.stderr


def test_few_states_of_many_are_read_from_the_mapped_file(tmp_path: Path) -> None:
    zoo = modelzoo.open(write_noise(tmp_path / "long", 2, tuple(range(30))))
    every, _ = zoo.weights()
    assert np.array_equal(zoo.weights(epochs=[3, 17])[0], every[[3, 17, 33, 47]])


def test_the_index_dict_is_the_published_one(noise_zoo: Path) -> None:
    assert modelzoo.open(noise_zoo).index_dict == {
        "layer": [[0, "conv2d"], [3, "conv2d"], [6, "conv2d"], [9, "fc"], [11, "fc"]],
        "idx_start": [0, 208, 1414, 1514, 2254],
        "idx_length": [208, 1206, 100, 740, 210],
        "kernel_no": [8, 6, 4, 20, 10],
        "kernel_size": [25, 25, 4, 1, 1],
        "channels_in": [1, 8, 6, 36, 20],
    }


@given(st.sets(st.integers(0, 10**6 - 1), max_size=200), st.integers(0, 5))
def test_splits_have_their_shares(ids: set[int], seed: int) -> None:
    splits = split_models(ids, (0.7, 0.15, 0.15), seed)
    assert splits.keys() == ids
    counts = [list(splits.values()).count(s) for s in ("train", "val", "test")]
    assert np.abs(np.array(counts) - len(ids) * np.array([0.7, 0.15, 0.15])).max() <= 1


def test_splits_stay_what_they_are() -> None:
    assert [split_models(range(10), (0.7, 0.15, 0.15), 42)[i] for i in range(10)] == PINNED


PINNED: list[str] = ["test", "train", "train", "train", "train", "train", "val", "train", "val", "train"]


def test_an_architecture_of_ones_own(noise_zoo: Path) -> None:
    for path in noise_zoo.glob("models/*/params.json"):
        path.write_text(path.read_text().replace('"cnn-s"', '"mine"'))
    zoo = modelzoo.open(noise_zoo)
    assert [p.name for p in zoo.parameters()][:2] == ["module_list.0.weight", "module_list.0.bias"]
    assert [p.start for p in zoo.parameters()][::2] == [0, 208, 1414, 1514, 2254]

    @modelzoo.architecture("mine")
    def mine(params: modelzoo.architectures.Params) -> list[modelzoo.architectures.Module]:
        return [modelzoo.architectures.Linear(3, 2)]

    try:
        _, faults = opened(noise_zoo)
    finally:
        del modelzoo.architectures._RECIPES["mine"]
    assert len(faults) == 5 and "expected [3, 2, 3]" in faults[0].message


# Faults


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def header(claim: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(claim + path.read_bytes()[8:])


def entry(old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = path.read_bytes()
        assert old in content and len(old) == len(new)
        path.write_bytes(content.replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (STATES, Path.unlink, "cannot be read: No such file"),
        (STATES, cut, "truncated or damaged"),
        (STATES, lambda p: p.write_bytes(b""), "truncated or damaged"),
        (STATES, header(b"\xff" * 8), "truncated or damaged"),
        (STATES, header((1 << 40).to_bytes(8, "little")), "truncated or damaged"),
        (STATES, entry(b'"shape":[3,8,1,5,5]', b'"shape":[3,8,1,5,6]'), "malformed safetensors header"),
        (STATES, entry(b'"shape":[3,8,1,5,5]', b'"shape":[3,8,5,1,5]'), "expected [3, 8, 1, 5, 5]"),
        (STATES, entry(b'"data_offsets":[0,2400]', b'"data_offsets":[4,2404]'), "do not tile"),
        (STATES, entry(b"module_list.4.weight", b"module_list.5.weight"), "module_list.4.weight"),
        (STATES, lambda p: (p.unlink(), p.mkdir()), "Is a directory"),
        ("models/000001/params.json", Path.unlink, "No such file"),
        ("models/000001/params.json", lambda p: p.write_text("[" * 100_000), "is not JSON"),
        ("models/000001/params.json", lambda p: p.write_text(" " * (2 << 20)), "larger than"),
        ("models/000001/params.json", entry(b"0.001", b"1e999"), "not finite"),
        ("models/000001/params.json", entry(b'"optim::wd": 0.0', b'"optim::wd": NaN'), "not finite"),
        ("models/000001/result.json", lambda p: p.write_text('{"training_iteration": "x"}'), "training_iteration"),
        ("models/000001/result.json", lambda p: p.write_text(p.read_text() * 2), "does not ascend"),
    ],
)
def test_a_faulty_model_is_reported_and_skipped(
    noise_zoo: Path, file: str, damage: Callable[[Path], object], message: str
) -> None:
    damage(noise_zoo / file)
    zoo, faults = opened(noise_zoo)
    assert len(faults) == 1 and message in str(faults[0]) and "000001" in faults[0].place
    assert zoo.ids == [0, 2, 3, 4]
    assert len(zoo.weights()[0]) == 12
    with pytest.raises(KeyError, match=r"no model 1"):
        zoo.states(1)
    with pytest.raises(ZooError, match="1 faults"):
        modelzoo.open(noise_zoo, strict=True)


def test_a_missing_state_costs_that_state_alone(noise_zoo: Path) -> None:
    path = noise_zoo / "models/000002/result.json"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[2])
    path = noise_zoo / "models/000003/result.json"
    path.write_text(path.read_text().replace('"training_iteration":2', '"training_iteration":3'))
    zoo, faults = opened(noise_zoo)
    assert [f.message.split(",")[0] for f in faults] == [
        *("has a state of epoch 2", "has no state of epoch 3", "has a state of epoch 2")
    ]
    assert len(zoo) == 15 - 1 - 1
    vectors, rows = zoo.weights(rows=zoo.index.query("id == 3"))
    assert rows["epoch"].tolist() == [0, 4]
    assert vectors[1, 0] == zoo.states(3)["module_list.0.weight"][2].flat[0]


def test_missing_and_stray_models_are_reported(noise_zoo: Path) -> None:
    (noise_zoo / "models/000003").rename(noise_zoo / "models/xyz")
    (noise_zoo / "models/.DS_Store").touch()
    _, faults = opened(noise_zoo)
    assert [str(f) for f in faults] == ["models/xyz: is not a model"]
    (noise_zoo / "models/xyz").rename(noise_zoo / "gone")
    _, faults = opened(noise_zoo)
    assert [str(f) for f in faults] == ["zoo.json: records 5 models, found 4"]


def test_nan_models_are_marked_left_out_of_datasets_and_found_when_unmarked(noise_zoo: Path) -> None:
    states = noise_zoo / STATES
    content = bytearray(states.read_bytes())
    content[-28:-24] = np.float32(np.nan).tobytes()
    states.write_bytes(content)
    found = [str(f) for f in modelzoo.open(noise_zoo).check()]
    assert len(found) == 2 and "SHA-256" in found[0] and "epoch 4 is not finite" in found[1]
    result = noise_zoo / "models/000001/result.json"
    lines = [json.loads(line) for line in result.read_text().splitlines()]
    lines[2] |= {"diverged": True, "test_loss": None}
    result.write_text("".join(json.dumps(line) + "\n" for line in lines))
    zoo = modelzoo.open(noise_zoo)
    assert zoo.index["diverged"].sum() == 1 and len(zoo.check()) == 2
    assert np.isnan(zoo.weights()[0]).any() and np.isfinite(zoo.weights(diverged=False)[0]).all()


def test_what_is_no_zoo_is_refused(noise_zoo: Path, tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none", "does not exist"), (tmp_path, "has no zoo.json")):
        with pytest.raises(ZooError, match=message):
            modelzoo.open(path)
    record = json.loads((noise_zoo / "zoo.json").read_text())
    for change, message in (
        ({"format_version": 2}, "newer"),
        ({"name": "../x"}, "valid zoo name"),
        ({"states": -1}, "count"),
    ):
        (noise_zoo / "zoo.json").write_text(json.dumps(record | change))
        with pytest.raises(ZooError, match=message):
            modelzoo.open(noise_zoo)


def test_a_states_file_that_shrinks_is_noticed(noise_zoo: Path) -> None:
    zoo = modelzoo.open(noise_zoo)
    os.truncate(noise_zoo / STATES, 1000)
    with pytest.raises(ZooError, match="truncated"):
        zoo.weights()
    with pytest.raises(ZooError, match="truncated"):
        zoo.states(1)


def test_words_of_strangers_steer_no_terminal() -> None:
    assert str(Fault("a\x1b[2J", "b\nc\x9b")) == "a\\x1b[2J: b\\nc\\x9b"


@given(st.binary(max_size=300))
def test_no_bytes_break_the_header_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "states.safetensors"
    for data in (content, len(content).to_bytes(8, "little") + content):
        path.write_bytes(data)
        with pytest.raises(ZooError):
            StatesFile.open(path)
