"""Modules and datasets, on a real zoo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import modelzoo

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'modelzoo[torch]'")


def test_models_have_the_accuracy_that_is_recorded(real: Path) -> None:
    data = modelzoo.Prepared(real / "data/small.safetensors")
    images, labels = torch.from_numpy(data.inputs("test")), torch.from_numpy(data.labels("test"))
    for name in ("small", "small-magnitude-80"):
        zoo = modelzoo.open(real / "zoos" / name)
        assert len(zoo) == {"small": 36, "small-magnitude-80": 24}[name]
        for model, epoch, accuracy, loss in zoo.index[["id", "epoch", "test_acc", "test_loss"]].itertuples(index=False):
            with torch.no_grad():
                logits = zoo.model(model, epoch)(images)
            assert (logits.argmax(1) == labels).double().mean().item() == accuracy
            assert torch.nn.functional.cross_entropy(logits, labels).item() == pytest.approx(loss, rel=1e-5)


def test_a_model_is_ready_to_use_and_to_train(noise_zoo: Path) -> None:
    zoo = modelzoo.open(noise_zoo)
    model = zoo.model(1, 2)
    assert not model.training
    vector = torch.nn.utils.parameters_to_vector(model.parameters()).detach().numpy()
    assert np.array_equal(vector, zoo.weights(rows=zoo.index.query("id == 1 and epoch == 2"))[0][0])
    assert list(model.state_dict()) == list(zoo.states(1))
    model.train()(torch.zeros(2, 1, 28, 28)).sum().backward()
    assert zoo.model("000001").state_dict().keys() == model.state_dict().keys()
    with pytest.raises(KeyError, match="no state of epoch 1"):
        zoo.model(1, 1)
    with pytest.raises(KeyError, match="no model 77"):
        zoo.model(77)


def test_cnn_m_has_its_published_number_of_parameters() -> None:
    from modelzoo import architectures, network

    params = {"model::type": "cnn-m", "model::nlin": "gelu", "model::dropout": 0.0, "model::channels_in": 3}
    params |= {"model::i_dim": 32, "model::o_dim": 10}
    built = network.Network(architectures.modules(params))
    assert {n: tuple(t.shape) for n, t in built.state_dict().items()} == {
        p.name: p.shape for p in architectures.parameters(params)
    }
    assert sum(t.numel() for t in built.parameters()) == 10_853
    assert built(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def _noise(stream: int, count: int) -> np.ndarray:
    """The numbers that tests/reference/make_resnet.py fills a network with."""
    x = (np.arange(count, dtype=np.uint64) * 0x9E3779B1 + stream * 0x85EBCA6B) & 0xFFFFFFFF
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x ^= x >> shift
        x = x * factor & 0xFFFFFFFF
    return x / 2**32


def test_resnet18_computes_what_torchvisions_does() -> None:
    from safetensors.numpy import load_file

    from modelzoo import architectures, network

    expected = load_file(Path(__file__).parents[2] / "tests/reference/resnet18-32.safetensors")["eval_logits"]
    params = {"model::type": "resnet18", "model::nlin": "relu", "model::dropout": 0.0, "model::channels_in": 3}
    params |= {"model::i_dim": 32, "model::o_dim": 10}
    layout = architectures.parameters(params)
    assert sum(p.size for p in layout if p.is_trained) == 11_173_962
    assert (len(layout), layout[-1].name, layout[-1].stop) == (102, "layer4.1.bn2.running_var", 11_173_962 + 9600)
    state: dict[str, np.ndarray] = {}
    for stream, parameter in enumerate(sorted(layout, key=lambda p: p.name)):
        unit = _noise(stream, parameter.size)
        if len(parameter.shape) > 1:
            values = (2 * unit - 1) * np.sqrt(6 / np.prod(parameter.shape[1:]))
        elif parameter.name.endswith(("running_var", "weight")):
            values = 0.5 + unit
        else:
            values = (2 * unit - 1) / 10
        state[parameter.name] = values.astype(np.float32).reshape(parameter.shape)
    model = network.load(params, state)
    pixels = np.floor(_noise(1000, 6 * 3 * 32 * 32) * 256)
    images = torch.from_numpy((pixels / 255 - 0.5) / 0.5).view(6, 3, 32, 32).float()
    with torch.no_grad():
        logits = model(images).numpy()
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


def test_perceptrons_take_their_sizes_from_params_or_index() -> None:
    from modelzoo import architectures, network

    params = {"model::type": "mlp", "model::nlin": "relu", "model::dropout": 0.2, "model::channels_in": 1}
    params |= {"model::i_dim": 8, "model::o_dim": 10, "model::hidden": [16, 12]}
    shapes = [p.shape for p in architectures.parameters(params)]
    assert shapes == [(16, 64), (16,), (12, 16), (12,), (10, 12), (10,)]
    assert architectures.parameters(params | {"model::hidden": "[16, 12]"}) == architectures.parameters(params)
    assert network.Network(architectures.modules(params))(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(ValueError, match="model::hidden"):
        architectures.parameters(params | {"model::hidden": "[0]"})


def test_datasets_pair_weights_and_properties(real: Path) -> None:
    zoo = modelzoo.open(real / "zoos/small")
    sets = {
        split: zoo.dataset(split, "last", ("test_acc", "ggap", "model::nlin")) for split in ("train", "val", "test")
    }
    assert sum(len(s) for s in sets.values()) == 12
    assert len({tuple(s.categories["model::nlin"]) for s in sets.values()}) == 1
    for dataset in sets.values():
        weights, found = torch.utils.data.default_collate([dataset[i] for i in range(len(dataset))])
        assert weights.shape == (len(dataset), 2464) and found.dtype == torch.float32
        row = dataset.rows.iloc[0]
        expected = [row.test_acc, row.train_acc - row.test_acc, ["gelu", "relu", "tanh"].index(row["model::nlin"])]
        assert found[0].tolist() == pytest.approx(expected)
    layers = zoo.dataset(layout="layers", epochs=0, transform=lambda w: w["module_list.0.bias"])
    assert len(layers) == 12 and torch.equal(layers[3][0], torch.full((8,), 0.01))
    with pytest.raises(KeyError, match="not a column"):
        zoo.dataset(properties=("accuracy",))


def test_weights_as_tensors(noise_zoo: Path) -> None:
    zoo = modelzoo.open(noise_zoo)
    vectors, _ = zoo.weights(backend="torch")
    assert vectors.dtype == torch.float32 and np.array_equal(vectors.numpy(), zoo.weights()[0])
    layers, _ = zoo.weights(layout="layers", backend="torch")
    assert torch.equal(torch.cat([t.flatten(1) for t in layers.values()], 1), vectors)
