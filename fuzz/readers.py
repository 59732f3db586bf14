"""Fuzz targets of the Python package's readers, for atheris: python readers.py TARGET [libFuzzer's options and corpora].

Whatever the bytes, a reader may only raise a `ZooError`, or the `ValueError` that its documentation names.
"""

import contextlib
import gzip
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["modelzoo"]):
    import modelzoo
    from modelzoo import archive, checkpoint, importing, source

SEEDS = Path(__file__).resolve().parent / "seeds"
ZOO_FILES = ("zoo.json", "SHA256SUMS", "index.parquet")
MODEL_FILES = ("params.json", "result.json", "states.safetensors")


def read_archive(content: bytes, folder: Path) -> None:
    """The tar stream of an archive, or an archive."""
    place = folder / "zoo.tar.gz"
    place.write_bytes(content if content.startswith(b"\x1f\x8b") else gzip.compress(content, 1))
    archive.unpacked(place, folder / "cache", limit=1 << 24)


def read_zoo(content: bytes, folder: Path) -> None:
    """One file of a zoo, which the first byte chooses."""
    archive.unpacked(SEEDS / "archive/tiny.tar.gz", folder)
    (place,) = folder.glob("*/tiny")
    parts = [place / name for name in ZOO_FILES] + [place / "models/000000" / name for name in MODEL_FILES]
    parts[content[0] % len(parts) if content else 0].write_bytes(content[1:])
    zoo = modelzoo.open(place)
    for model in zoo.ids:
        zoo.params(model)
        zoo.results(model)
        zoo.states(model)
    if zoo.ids:
        zoo.weights(epochs="last")


def read_prepared(content: bytes, folder: Path) -> None:
    """A prepared dataset."""
    place = folder / "data.safetensors"
    place.write_bytes(content)
    modelzoo.Prepared(place)


def read_published(content: bytes, folder: Path) -> None:
    """A zip of the published collection."""
    place = folder / "zoo.zip"
    place.write_bytes(content)
    found = source.open_source(place)
    for model in found.models():
        for name in found.files(model):
            with contextlib.suppress(ValueError):
                found.read(f"{model}/{name}", 1 << 20)
    importing.import_zoo(place, folder / "imported", importing.Options(dataset="mnist"))


def read_checkpoint(content: bytes, _: Path) -> None:
    """A checkpoint of the published collection."""
    checkpoint.load(content)


TARGETS = {f.__name__.removeprefix("read_"): f for f in (read_archive, read_zoo, read_prepared, read_published, read_checkpoint)}


def main() -> None:
    """Fuzzes the target that the command line names."""
    read = TARGETS[sys.argv.pop(1)]
    warnings.simplefilter("ignore")

    def once(content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            try:
                read(content, Path(folder))
            except modelzoo.ZooError:
                pass
            except ValueError:
                if read is not read_checkpoint:
                    raise

    atheris.Setup(sys.argv, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
