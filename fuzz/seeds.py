"""Makes the fuzz targets' seeds, except for inputs that once failed: python seeds.py PROGRAM (the built `zoo`).

Needs numpy, safetensors, pillow and torch.
"""

import gzip
import hashlib
import io
import json
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save

HERE = Path(__file__).resolve().parent
SEEDS = HERE / "seeds"
PUBLISHED = HERE.parent / "zoo-data/tests/data/published"

MANIFEST = """\
[zoo]
name = "tiny"
[data]
dataset = "digits"
train = 40
val = 8
transform = { resize = 4 }
[model]
architecture = "mlp"
hidden = [1]
[grid]
activation = "tanh"
init = "kaiming_uniform"
optimizer = "sgd"
learning-rate = 0.01
seed = 1
[train]
epochs = 1
[[sparsify]]
method = "magnitude"
sparsity = 0.5
epochs = 1
"""


def seed(target: str, name: str, content: bytes) -> None:
    """Writes a seed."""
    place = SEEDS / target / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)


def zoos(program: str) -> None:
    """A zoo of one model and its twin: archives, their tar streams, their files."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        (root / "tiny.toml").write_text(MANIFEST)
        subprocess.run([program, "run", "-q", "tiny.toml"], cwd=root, check=True)
        for archive in sorted((root / "archives").glob("*.tar.gz")):
            name = archive.name.removesuffix(".tar.gz")
            stream = gzip.decompress(archive.read_bytes())
            seed("archive", f"{name}.tar.gz", archive.read_bytes())
            seed("archive", f"{name}.tar", stream)
            seed("verify", f"{name}.tar", stream)
            seed("readers-archive", archive.name, archive.read_bytes())
            files = root / name
            shutil.unpack_archive(archive, root)
            model = files / "models/000000"
            for file in (files / "zoo.json", files / "SHA256SUMS", *sorted(model.iterdir())):
                seed("files", f"{name}-{file.name}", file.read_bytes())
            lines = (model / "params.json").read_text(), (model / "result.json").read_text()
            seed("index", name, "\0".join(lines).encode())
            parts = ["zoo.json", "SHA256SUMS", "index.parquet"]
            parts += [f"models/000000/{file}" for file in ("params.json", "result.json", "states.safetensors")]
            for number, part in enumerate(parts):
                seed("readers-zoo", f"{name}-{Path(part).name}", bytes([number]) + (files / part).read_bytes())
        prepared = root / "data/tiny.safetensors"
        seed("readers-prepared", "tiny", prepared.read_bytes())
    seed("manifest", "tiny.toml", MANIFEST.encode())
    for manifest in ("quickstart.toml", "fashion-mnist-small.toml", "paper/cifar10-resnet18-seed.toml"):
        place = HERE.parent / "configs" / manifest
        if place.exists():
            seed("manifest", place.name, place.read_bytes())


def checkpoints() -> None:
    """A cohort of two models after its first epoch, and within the second one."""
    line = {"training_iteration": 0} | {f"{s}_{m}": 0.5 for s in ("train", "test", "val") for m in ("loss", "acc")}
    vectors = np.ones((2, 3), "<f8")
    moments = {"adam": ("mean", "mean_square"), "sgd": ("momentum",)}
    for name, optimizer in (("adam", "adam"), ("sgd", "sgd"), ("variational", "adam"), ("part", "sgd")):
        # Of each model, the first state is in its own file within an epoch, and here between two.
        is_part = name == "part"
        progress = {"fingerprint": "fuzz", "ids": ["000000", "000001"], "epoch": 1, "optimizer": optimizer}
        progress |= {"steps": [3, 3], "lines": [[line], [line]], "steps_of_epoch": 2 * is_part}
        progress |= {"tallies": [{"loss": 0, "hits": 1, "samples": 2}] * 2 * is_part}
        progress |= {"is_masked": [False, True] * is_part}
        progress |= {"written": [[int(is_part), hashlib.sha256().hexdigest()]] * 2}
        tensors = {"progress": np.frombuffer(json.dumps(progress).encode(), "u1"), "parameters": vectors}
        tensors |= {"states": np.ones((2 - 2 * is_part, 3), "<f4")}
        tensors |= {f"moments.{moment}": vectors for moment in moments[optimizer]}
        if is_part:
            tensors |= {"masks": np.ones((2, 3), "u1"), "parameters": vectors.astype("<f4")}
        if name == "variational":
            tensors |= {"noise.log_sigma2": vectors}
            tensors |= {f"noise.moments.{moment}": vectors for moment in moments[optimizer]}
        seed("checkpoint", name, save(tensors))


def pictures() -> None:
    """Pictures of each kind, of few pixels."""
    y, x = np.mgrid[0:9, 0:11]
    picture = Image.fromarray(np.stack([x * 20, y * 25, x * y], -1).astype(np.uint8))
    kinds = {
        "rgb.png": (picture, {}),
        "palette.png": (picture.quantize(4), {}),
        "grey.png": (picture.convert("L"), {}),
        "grey16.png": (Image.fromarray(np.arange(99, dtype=np.uint16).reshape(9, 11) * 600), {}),
        "baseline.jpg": (picture, {"quality": 80}),
        "progressive.jpg": (picture, {"progressive": True}),
        "cmyk.jpg": (picture.convert("CMYK"), {}),
        "restart.jpg": (picture, {"restart_marker_blocks": 1}),
        "rgb.bmp": (picture, {}),
        "rgb.tif": (picture, {"compression": "tiff_lzw"}),
        "rgb.webp": (picture, {"lossless": True}),
        "lossy.webp": (picture, {}),
        "rgb.gif": (picture, {}),
        "rgb.ppm": (picture, {}),
    }
    for name, (image, options) in kinds.items():
        content = io.BytesIO()
        image.save(content, {"jpg": "jpeg", "tif": "tiff"}.get(name[-3:], name.rpartition(".")[2]), **options)
        seed("picture", name, content.getvalue())


def datasets() -> None:
    """The published files of each dataset, and of each format."""
    idx = struct.pack(">HBB3I", 0, 8, 3, 2, 3, 3) + bytes(range(18))
    seed("idx", "plain", idx)
    seed("idx", "members", gzip.compress(idx[:9], 1, mtime=0) + gzip.compress(idx[9:], 1, mtime=0))
    seed("libsvm", "plain", b"1 1:0.5 2:-1 4:1e-3\n10 3:1\n")
    for file in sorted((PUBLISHED / "svhn").iterdir()):
        seed("mat", file.name, file.read_bytes())
    labels = struct.pack(">HBBI", 0, 8, 1, 2) + bytes([1, 2])
    published = {
        "mnist": [gzip.compress(part, mtime=0) for part in (idx, labels, idx, labels)],
        "svhn": [(PUBLISHED / "svhn" / name).read_bytes() for name in ("train_32x32.mat", "test_32x32.mat")],
        "usps": [(PUBLISHED / "usps" / name).read_bytes() for name in ("usps.bz2", "usps.t.bz2")],
    }
    for number, name in enumerate(("cifar10", "cifar100", "stl10", "tiny-imagenet", "eurosat"), 3):
        (file,) = (PUBLISHED / name).iterdir()
        published[name] = [file.read_bytes()]
        assert list(published)[number] == name
    for number, (name, files) in enumerate(published.items()):
        longest = max(map(len, files))
        seed("published", name, bytes([number]) + b"".join(file.ljust(longest, b"\0") for file in files))


def collection() -> None:
    """Checkpoints, and a zip in the published collection's layout."""
    shapes = {
        **{"module_list.0": (8, 1, 5, 5), "module_list.3": (6, 8, 5, 5), "module_list.6": (4, 6, 2, 2)},
        **{"module_list.9": (20, 36), "module_list.11": (10, 20)},
    }
    state = {}
    for name, shape in shapes.items():
        state |= {f"{name}.weight": torch.zeros(shape), f"{name}.bias": torch.zeros(shape[0])}
    checkpoint = io.BytesIO()
    torch.save(OrderedDict(list(state.items())[-1:]), checkpoint)
    seed("readers-checkpoint", "bias", checkpoint.getvalue())
    checkpoint = io.BytesIO()
    torch.save(OrderedDict(state), checkpoint)
    params = {"model::type": "CNN", "model::channels_in": 1, "model::nlin": "tanh", "model::dropout": 0.0}
    params |= {"model::init_type": "uniform", "optim::optimizer": "adam", "optim::lr": 1e-3, "optim::wd": 0.0}
    params |= {"seed": 1, "training::batchsize": 8, "training::epochs_train": 1}
    line = {"training_iteration": 0} | {f"{s}_{m}": 0.5 for s in ("train", "test") for m in ("loss", "acc")}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("zoo/NN_tune_a/params.json", json.dumps(params))
        archive.writestr("zoo/NN_tune_a/result.json", json.dumps(line) + "\n")
        archive.writestr("zoo/NN_tune_a/checkpoint_000000/checkpoints", checkpoint.getvalue())
    seed("readers-published", "zip", content.getvalue())


if __name__ == "__main__":
    zoos(str(Path(sys.argv[1]).resolve()))
    checkpoints()
    pictures()
    datasets()
    collection()
