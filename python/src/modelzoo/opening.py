"""Opening zoos from directories and archives."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from . import archive
from .zoo import Zoo


def open(
    path: str | os.PathLike[str],
    *,
    shares: Sequence[float] = (0.7, 0.15, 0.15),
    seed: int = 42,
    strict: bool = False,
    cache: str | os.PathLike[str] | None = None,
    limit: int | None = None,
) -> Zoo:
    """Opens a zoo: its directory, or its archive (`NAME.tar.gz`, which may be split into volumes, or any volume).

    `shares` of the models are the splits train, val and test, drawn with `seed`. Faulty models and states are
    skipped with a `FaultWarning` and listed in `Zoo.faults`; with `strict` they are a `ZooError`.

    An archive is checked against its checksums and unpacked once into `cache` (by default `$MODELZOO_CACHE`, or
    `modelzoo` in `$XDG_CACHE_HOME` or `~/.cache`), to at most `limit` bytes (by default 20 times its size and at
    least 1 GiB). One that fails any check is refused.
    """
    place = Path(path)
    volumes = [place] if place.exists() else archive.volumes_of(place)
    if volumes and volumes[0].is_file():
        place = archive.unpacked(volumes[0], cache, limit)
    return Zoo(place, shares, seed, strict)
