"""Prepared datasets: the images that a zoo's models were trained and tested on."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from .errors import ZooError, parsed
from .files import sha256_file

Split = Literal["train", "val", "test"]


class Prepared:
    """A prepared dataset file (docs/format.md)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Checks the header, and the data against its checksum if the header has one."""
        self.path = Path(path)
        try:
            with parsed("is not a prepared dataset"):
                with safe_open(self.path, "np") as file:
                    self._read_header(file)
                expected = self._metadata.get("data_sha256")
                if expected is not None and self._data_sha256() != expected:
                    raise ValueError("its data do not match the SHA-256 in its header: it is damaged")
        except OSError as error:
            raise ZooError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            raise ZooError(f"{self.path}: {error}") from error

    def _read_header(self, file: Any) -> None:
        self._metadata: dict[str, str] = file.metadata() or {}
        self.name = self._metadata["dataset"]
        """Name of the dataset."""
        self.class_names: list[str] = json.loads(self._metadata["class_names"])
        """One name per class."""
        self.sources: dict[str, str] = json.loads(self._metadata.get("sources", "{}"))
        """The files it was made from: SHA-256 by file name."""
        self.mean = np.asarray(json.loads(self._metadata["mean"]), np.float64)
        """Per channel, of pixel / 255."""
        self.std = np.asarray(json.loads(self._metadata["std"]), np.float64)
        """Per channel, of pixel / 255."""
        self.sizes: dict[str, int] = {}
        """Samples per split."""
        self.shape: tuple[int, int, int] = (0, 0, 0)
        """(channels, height, width)."""
        for split in ("train", "val", "test"):
            images, labels = (file.get_slice(f"{split}_{what}").get_shape() for what in ("images", "labels"))
            if len(images) != 4 or labels != images[:1]:
                raise ValueError(f"{split}_images and {split}_labels do not match")
            self.sizes[split] = images[0]
            self.shape = (images[1], images[2], images[3])
        if not self.mean.shape == self.std.shape == self.shape[:1] or not (self.std > 0).all():
            raise ValueError("mean and std must have one number per channel, std above 0")

    def _data_sha256(self) -> str:
        digest = hashlib.sha256()
        with open(self.path, "rb") as file:
            file.seek(8 + int.from_bytes(file.read(8), "little"))
            while piece := file.read(1 << 20):
                digest.update(piece)
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """The `dataset` object of a `zoo.json`."""
        head = {"name": self.name, "sha256": sha256_file(self.path), "shape": list(self.shape)}
        classes = {"classes": len(self.class_names), "class_names": self.class_names}
        numbers = {"mean": self.mean.tolist(), "std": self.std.tolist()}
        return head | classes | self.sizes | numbers | ({"sources": self.sources} if self.sources else {})

    def images(self, split: Split) -> NDArray[np.uint8]:
        """Pixels (N, C, H, W)."""
        return self._tensor(f"{split}_images").astype(np.uint8, copy=False)

    def labels(self, split: Split) -> NDArray[np.int64]:
        """Classes (N)."""
        return self._tensor(f"{split}_labels").astype(np.int64, copy=False)

    def inputs(self, split: Split) -> NDArray[np.float32]:
        """What a network takes, (N, C, H, W): (pixel / 255 - mean) / std."""
        # With a table in double precision, as the zoo's own stages compute it.
        tables = (np.arange(256) / 255 - self.mean[:, None]) / self.std[:, None]
        images = self.images(split)
        inputs = [table.astype(np.float32)[images[:, channel]] for channel, table in enumerate(tables)]
        return np.stack(inputs, axis=1)

    def _tensor(self, name: str) -> NDArray[Any]:
        with safe_open(self.path, "np") as file:
            return np.asarray(file.get_tensor(name))

    def __repr__(self) -> str:
        return f"<Prepared {self.name}: {math.prod(self.shape)} pixels, {self.sizes}>"
