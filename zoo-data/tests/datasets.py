"""Small files in the published format of every dataset, made and read by the programs that define the formats.

    python datasets.py make FOLDER [SEED]    # FOLDER/DATASET/..., and their contents: FOLDER/expected.safetensors.gz
    python datasets.py check ZOO_DATA        # makes others, and compares what the program ZOO_DATA reads

Needs numpy, scipy, scikit-learn, Pillow and safetensors. If torchvision is installed, its datasets read the files
too and must agree. `data/published` was made by `make data/published 0`.
"""

import bz2
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import safetensors.numpy
import scipy.io
from PIL import Image
from sklearn.datasets import load_svmlight_file

try:
    import torchvision
except ImportError:
    torchvision = None

EUROSAT = ["AnnualCrop", "Forest", "SeaLake"]
BIRDS = ["wren", "crane", "owl"]


def picture(rng, side, channels=3, filter=Image.BICUBIC):
    """A smooth picture, (H, W) or (H, W, 3)."""
    shape = (5, 5) if channels == 1 else (5, 5, channels)
    coarse = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
    return np.asarray(coarse.resize(side if isinstance(side, tuple) else (side, side), filter))


def pictures(rng, n, side):
    """Pictures of few colours, which compress well, (N, 3, H, W)."""
    return np.stack([picture(rng, side, filter=Image.NEAREST).transpose(2, 0, 1) for _ in range(n)])


def jpeg(array, **options):
    out = io.BytesIO()
    Image.fromarray(array).save(out, "JPEG", **options)
    return out.getvalue()


def add(tar, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def tar_of(path, files):
    # No time in the gzip header: the same bytes for the same seed.
    with gzip.GzipFile(path, "wb", mtime=0) as out, tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            add(tar, name, content)


def zip_of(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in files.items():
            out.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


# Each function writes a dataset's files to `folder` and returns what the reference readers find in them:
# train images and labels, test images and labels.


def svhn(folder, rng):
    parts = []
    for part, n in [("train", 12), ("test", 6)]:
        images, labels = pictures(rng, n, 32), np.resize([10, 1, 2, 3, 4, 5, 6, 7, 8, 9], n).astype(np.uint8)
        path = folder / f"{part}_32x32.mat"
        content = {"X": images.transpose(2, 3, 1, 0), "y": labels[:, None]}
        scipy.io.savemat(path, content, do_compression=True)
        # The only part of the file that tells when it was made.
        path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(116) + path.read_bytes()[116:])
        read = scipy.io.loadmat(path)
        parts += [read["X"].transpose(3, 2, 0, 1), read["y"][:, 0] % 10]
    return parts


def usps(folder, rng):
    parts = []
    for name, n in [("usps.bz2", 12), ("usps.t.bz2", 6)]:
        lines = []
        for i in range(n):
            values = picture(rng, 16, 1).astype(float).ravel() / 127.5 - 1
            lines.append(f"{i % 10 + 1} " + " ".join(f"{j}:{v:.6g}" for j, v in enumerate(values, 1)) + " \n")
        (folder / name).write_bytes(bz2.compress("".join(lines).encode()))
        values, labels = load_svmlight_file(str(folder / name), n_features=256, dtype=np.float32)
        pixels = ((values.toarray() + 1) / 2 * 255).astype(np.uint8)
        parts += [pixels.reshape(-1, 1, 16, 16), labels.astype(int) - 1]
    return parts


def cifar10(folder, rng):
    batches = [(pictures(rng, 4, 32), rng.integers(0, 10, 4, dtype=np.uint8)) for _ in range(6)]
    record = lambda batch: np.concatenate([batch[1][:, None], batch[0].reshape(4, -1)], 1).tobytes()
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    files = {f"cifar-10-batches-bin/{name}": record(batch) for name, batch in zip(names, batches)}
    order = [0, 5, 2, 3, 1, 4]
    files = dict([*files.items()][i] for i in order)
    tar_of(folder / "cifar-10-binary.tar.gz", {"cifar-10-batches-bin/readme.html": b"<html>", **files})
    train = [np.concatenate(arrays) for arrays in zip(*batches[:5])]
    return [*train, *batches[5]]


def cifar100(folder, rng):
    parts, files = [], {}
    for part, n in [("train", 6), ("test", 4)]:
        images, fine = pictures(rng, n, 32), rng.integers(0, 100, n, dtype=np.uint8)
        coarse = fine // 5
        files[f"cifar-100-binary/{part}.bin"] = np.concatenate(
            [coarse[:, None], fine[:, None], images.reshape(n, -1)], 1
        ).tobytes()
        parts += [images, fine]
    files["cifar-100-binary/fine_label_names.txt"] = "".join(f"class_{i}\n" for i in range(100)).encode()
    tar_of(folder / "cifar-100-binary.tar.gz", files)
    return parts


def stl10(folder, rng):
    parts, files = [], {}
    for part, n in [("test", 2), ("train", 3)]:
        images, labels = pictures(rng, n, 96), rng.integers(0, 10, n, dtype=np.uint8)
        files[f"stl10_binary/{part}_X.bin"] = images.transpose(0, 1, 3, 2).tobytes()
        files[f"stl10_binary/{part}_y.bin"] = (labels + 1).tobytes()
        parts = [images, labels] + parts
    files["stl10_binary/unlabeled_X.bin"] = bytes(27648)
    tar_of(folder / "stl10_binary.tar.gz", files)
    return parts


def tiny_imagenet(folder, rng):
    wnids = [f"n{7 * i:08}" for i in rng.permutation(200)]
    files = {"wnids.txt": "\n".join(wnids).encode()}
    parts = [[], [], [], []]

    def add_picture(name, i, images, labels, label):
        grey = i % 3 == 2
        content = jpeg(picture(rng, 64, 1 if grey else 3), quality=75)
        files[name] = content
        images.append(np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).transpose(2, 0, 1))
        labels.append(label)

    used = [(i, sorted(wnids)[i]) for i in (0, 8, 199)]
    for label, wnid in used:
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b"boxes"
        for i in [0, 1, 10] if label == 0 else [2]:
            add_picture(f"train/{wnid}/images/{wnid}_{i}.JPEG", i, parts[0], parts[1], label)
    lines = []
    for i in range(6):
        label, wnid = used[i % 3]
        lines.append(f"val_{i}.JPEG\t{wnid}\t0\t0\t63\t63\n")
        add_picture(f"val/images/val_{i}.JPEG", i, parts[2], parts[3], label)
    files["val/val_annotations.txt"] = "".join(lines).encode()
    files["test/images/test_0.JPEG"] = b""
    zip_of(folder / "tiny-imagenet-200.zip", {f"tiny-imagenet-200/{name}": content for name, content in files.items()})
    return [np.stack(parts[0]), np.array(parts[1]), np.stack(parts[2]), np.array(parts[3])]


def by_fifths(pairs):
    """(class, name, image): every fifth of a class, sorted by name, is for testing."""
    parts = [[], [], [], []]
    for label in sorted({label for label, _, _ in pairs}):
        for i, (_, _, image) in enumerate(sorted((p for p in pairs if p[0] == label), key=lambda p: p[1]), 1):
            test = 2 if i % 5 == 0 else 0
            parts[test].append(image)
            parts[test + 1].append(label)
    return [np.stack(parts[0]), np.array(parts[1]), np.stack(parts[2]), np.array(parts[3])]


def eurosat(folder, rng):
    pairs, files = [], {}
    for name, n in zip(EUROSAT, [5, 1, 2]):
        label = {"AnnualCrop": 0, "Forest": 1, "SeaLake": 9}[name]
        for i in range(1, n + 1):
            content = jpeg(picture(rng, 64), quality=90, subsampling=0)
            files[f"2750/{name}/{name}_{i}.jpg"] = content
            image = np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1)
            pairs.append((label, f"{name}_{i}.jpg", image))
    zip_of(folder / "EuroSAT.zip", files)
    return by_fifths(pairs)


def image_folder(folder, rng):
    """PNG of every kind and JPEG, of any size; resized to 24 pixels."""
    pairs = []
    modes = ["RGB", "L", "P", "RGBA", "LA", "1", "JPEG"]
    for label, name in enumerate(BIRDS):
        (folder / name).mkdir()
        for i, mode in enumerate(modes):
            image = Image.fromarray(picture(rng, (20 + 7 * i, 18 + 5 * label)))
            if mode == "RGBA":
                image.putalpha(Image.fromarray(picture(rng, image.size, 1)))
            elif mode != "JPEG":
                image = image.convert(mode)
            path = folder / name / (f"{i}.jpeg" if mode == "JPEG" else f"{i}.PNG")
            image.save(path, "JPEG" if mode == "JPEG" else "PNG")
            read = Image.open(path).convert("RGB").resize((24, 24), Image.BILINEAR)
            pairs.append((label, path.name, np.asarray(read).transpose(2, 0, 1)))
        (folder / name / "notes.txt").write_text("not a picture")
    return by_fifths(pairs)


DATASETS = {
    "svhn": svhn,
    "usps": usps,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "stl10": stl10,
    "tiny-imagenet": tiny_imagenet,
    "eurosat": eurosat,
    "image-folder": image_folder,
}
TENSORS = ["train_images", "train_labels", "test_images", "test_labels"]
# JPEG decoders may differ by a few levels: in the cosine transform, and in what is between subsampled colours.
WITH_JPEG = ["tiny-imagenet", "eurosat", "image-folder"]


def make(folder, seed):
    """Expected arrays by dataset, and by name of the tensor."""
    arrays = {}
    for name, write in DATASETS.items():
        (folder / name).mkdir(parents=True)
        parts = write(folder / name, np.random.default_rng([seed, *name.encode()]))
        arrays[name] = {k: np.ascontiguousarray(a, dtype=np.uint8) for k, a in zip(TENSORS, parts)}
        if torchvision:
            compare_with_torchvision(name, folder / name, arrays[name])
    return arrays


def compare_with_torchvision(name, folder, expected):
    datasets = torchvision.datasets
    # The checksums are those of the real files.
    unchecked = {"_check_integrity": lambda self: True}
    if name == "svhn":
        found = [type("SVHN", (datasets.SVHN,), unchecked)(folder, split) for split in ("train", "test")]
        found = [a for d in found for a in (d.data, d.labels)]
    elif name == "usps":
        found = [datasets.USPS(folder, train) for train in (True, False)]
        found = [a for d in found for a in (d.data[:, None], d.targets)]
    elif name == "stl10":
        with tempfile.TemporaryDirectory() as unpacked:
            tarfile.open(folder / "stl10_binary.tar.gz").extractall(unpacked)
            found = [type("STL10", (datasets.STL10,), unchecked)(unpacked, split) for split in ("train", "test")]
        found = [a for d in found for a in (d.data, d.labels)]
    elif name == "tiny-imagenet":
        with tempfile.TemporaryDirectory() as unpacked:
            zipfile.ZipFile(folder / "tiny-imagenet-200.zip").extractall(unpacked)
            train = datasets.ImageFolder(f"{unpacked}/tiny-imagenet-200/train")
            found = [np.stack([np.asarray(image).transpose(2, 0, 1) for image, _ in train])]
    else:
        return
    for key, array in zip(TENSORS, found):
        assert np.array_equal(array, expected[key]), f"torchvision reads {name}'s {key} otherwise"
    print(f"{name}: torchvision {torchvision.__version__} agrees")


def encoded(image, format, **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def pictures_of_every_format(rng):
    """Name and content; but for the JPEG files, Pillow's pixels must be found bit by bit."""
    image = Image.fromarray(picture(rng, (23, 17)))
    clear = image.copy()
    clear.putalpha(Image.fromarray(picture(rng, (23, 17), 1)))
    several = {"save_all": True, "append_images": [Image.fromarray(picture(rng, (23, 17)))]}
    grey, palette, bilevel = image.convert("L"), image.quantize(16), image.convert("1")
    for suffix, format, images in [
        ("png", "PNG", [image, grey, palette, bilevel, clear, clear.convert("LA")]),
        ("bmp", "BMP", [image, grey, palette, bilevel, clear]),
        ("ppm", "PPM", [image]),
        ("pgm", "PPM", [grey]),
        ("tif", "TIFF", [image, grey, bilevel, clear, image.convert("CMYK")]),
    ]:
        for i, each in enumerate(images):
            yield f"{i}.{suffix}", encoded(each, format)
    for compression in ["tiff_lzw", "tiff_deflate", "packbits"]:
        yield f"{compression}.TIFF", encoded(image, "TIFF", compression=compression)
    yield "pages.tiff", encoded(image, "TIFF", **several)
    yield "frames.webp", encoded(image, "WEBP", lossless=True, **several)
    for i, each in enumerate([image, grey, clear]):
        yield f"lossless-{i}.webp", encoded(each, "WEBP", lossless=True)
        yield f"lossy-{i}.webp", encoded(each, "WEBP", quality=70)
    # Told by their content.
    yield "gif.png", encoded(palette, "GIF")
    yield "frames.jpg", encoded(palette, "GIF", **several)
    for i, each in enumerate([image, grey, image.convert("CMYK")]):
        for name, options in [("baseline", {}), ("progressive", {"progressive": True})]:
            yield f"{name}-{i}.JPG", encoded(each, "JPEG", quality=95, **options)
    for name, options in [("restarts", {"restart_marker_blocks": 2}), ("full", {"subsampling": 0})]:
        yield f"{name}.jpeg", encoded(image, "JPEG", quality=95, **options)


def own_pictures(zoo_data, folder, **contents):
    """What the program ZOO_DATA makes of pictures in a class's folder: its images, or None and its message."""
    shutil.rmtree(folder / "own", ignore_errors=True)
    for path, content in {"a/only/0.png": encoded(Image.new("L", (23, 17)), "PNG"), **contents}.items():
        path = folder / "own" / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    n = len(contents) + 1
    text = f'[data]\ndataset = "image-folder"\nfolder = "own"\nclasses = ["a"]\ntrain = {n - n // 5}\n'
    (folder / "m.toml").write_text(f"{text}test = {n // 5}\ntransform = {{ resize = 16 }}\n")
    command = [zoo_data, folder / "m.toml", "--root", folder, "-o", folder / "own.safetensors", "-q"]
    run = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if run.returncode == 0:
        return safetensors.numpy.load_file(folder / "own.safetensors"), ""
    assert run.returncode == 1 and run.stderr.count("\n") == 1, run.stderr
    return None, run.stderr


def pillow(content):
    """What Pillow finds in a picture, as `own_pictures` asks for it; none if it refuses it."""
    try:
        image = Image.open(io.BytesIO(content)).convert("RGB")
    except Exception:
        return None
    return np.asarray(image.resize((16, 16), Image.BILINEAR)).transpose(2, 0, 1)


def check_own_pictures(zoo_data, folder, rng):
    """Pictures of every format in nested folders, in torchvision's order; then each cut short."""
    contents = dict(pictures_of_every_format(rng))
    folders = ["a", "a/b", "a/b-c", "a/b/c"]
    paths = {f"{folders[i % 4]}/{name}": content for i, (name, content) in enumerate(contents.items())}
    arrays, message = own_pictures(zoo_data, folder, **paths)
    assert arrays is not None, message
    walk = [(root, name) for root, _, names in sorted(os.walk(folder / "own/a")) for name in sorted(names)]
    parts = [[pair for i, pair in enumerate(walk, 1) if (i % 5 == 0) == test] for test in (False, True)]
    for part, images in zip(parts, [arrays["train_images"], arrays["test_images"]]):
        for (root, name), image in zip(part, images, strict=True):
            difference = np.abs(image.astype(int) - pillow((Path(root) / name).read_bytes())).max()
            allowed = 8 if name.endswith(("JPG", "jpeg")) else 0
            assert difference <= allowed, f"{root}/{name} differs by {difference}"
    print(f"{len(contents)} pictures of every format: as Pillow reads them, in the order of os.walk")
    taken = cuts = 0
    for name, content in contents.items():
        for length in sorted({*range(0, len(content), len(content) // 20 + 1), len(content) - 2, len(content) - 1}):
            arrays, _ = own_pictures(zoo_data, folder, **{f"a/{name}": content[:length]})
            cuts += 1
            if arrays is not None:
                taken += 1
                assert pillow(content[:length]) is not None, f"{name} cut at {length} of {len(content)} is taken"
    print(f"{cuts} cuts: {taken} are taken, all by Pillow too")


def manifest(name, arrays):
    lines = ["[data]", f'dataset = "{name}"', f"train = {len(arrays['train_labels'])}"]
    if name == "image-folder":
        lines += ['folder = "image-folder"', f"classes = {json.dumps(BIRDS)}", f"test = {len(arrays['test_labels'])}"]
        return "\n".join([*lines, "transform = { resize = 24 }", ""])
    return "\n".join([*lines, "transform = {}", ""])


def check(zoo_data):
    seed = int.from_bytes(np.random.bytes(4), "little")
    print(f"seed {seed}")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name, arrays in make(folder, seed).items():
            (folder / "m.toml").write_text(manifest(name, arrays))
            output = folder / f"{name}.safetensors"
            command = [zoo_data, folder / "m.toml", "--root", folder, "-o", output, "-q"]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            found = safetensors.numpy.load_file(output)
            apart = "bit by bit"
            for key, expected in arrays.items():
                assert found[key].shape == expected.shape, f"{name}'s {key}: {found[key].shape}, not {expected.shape}"
                difference = np.abs(found[key].astype(int) - expected.astype(int))
                if name in WITH_JPEG and key.endswith("images"):
                    apart = f"within {difference.max()}, on average {difference.mean():.2f}"
                    assert difference.max() <= 8 and difference.mean() < 1, f"{name}'s {key}: {apart}"
                else:
                    assert not difference.any(), f"{name}'s {key} differs by {difference.max()}"
            print(f"{name}: as the reference reads it, {apart}")
        check_own_pictures(zoo_data, folder, np.random.default_rng(seed))


def main(command, *arguments):
    if command == "make":
        folder, seed = Path(arguments[0]), int(*arguments[1:] or "0")
        arrays = {f"{name}.{key}": a for name, parts in make(folder, seed).items() for key, a in parts.items()}
        with gzip.GzipFile(folder / "expected.safetensors.gz", "wb", mtime=0) as out:
            out.write(safetensors.numpy.save(arrays))
    else:
        check(arguments[0])


main(*sys.argv[1:])
