"""Archives, unpacked as untrusted input.

Only files that a zoo has, of the paths that it has, are written, into a fresh folder; each must be listed in
`SHA256SUMS`, once, and have its checksum. The folder gets its name when everything was checked.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import tarfile
from pathlib import Path
from typing import IO, Any, cast

from . import files
from .errors import ZooError, escaped, parsed

_LEAST_LIMIT = 1 << 30
_RATIO_LIMIT = 20
_VOLUME = re.compile(r"[A-Za-z0-9._-]{1,150}\.tar\.gz", re.ASCII)


class _Budget:
    """The number of bytes that may still be unpacked."""

    def __init__(self, archive: Path, limit: int | None) -> None:
        self.archive = archive
        self.limit = limit if limit is not None else max(_LEAST_LIMIT, _RATIO_LIMIT * archive.stat().st_size)
        self.left = self.limit

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise ZooError(
                f"{self.archive}: unpacks to more than {self.limit} bytes: if you trust it, raise the limit with limit="
            )


class _Stream:
    """A gzip stream that stops at a decompression bomb."""

    def __init__(self, stream: IO[bytes], budget: _Budget) -> None:
        self._stream = stream
        self._budget = budget

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self._budget.spend(len(content))
        return content


class _Entry(tarfile.TarInfo):
    """A header; anything but a regular file, including extended headers of any size, ends the reading."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Entry:
        entry = super().frombuf(buf, encoding, errors)
        if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise ZooError(f"its entry {entry.name!r} does not belong to a zoo")
        return entry


def unpacked(archive: Path, cache: str | os.PathLike[str] | None = None, limit: int | None = None) -> Path:
    """The folder of the zoo in `archive`, unpacked now or earlier."""
    folder = Path(cache) if cache is not None else _cache()
    status = archive.stat()
    identity = f"{archive.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    home = folder / hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    if not home.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with files.scratch_folder(folder, ".unpacking-") as scratch:
            _unpack_all(archive, scratch / "zoo", limit)
            try:
                os.replace(scratch / "zoo", home)
            except OSError:
                if not home.exists():  # else another process was faster
                    raise
    zoos = [place for place in home.iterdir() if not files.is_system_file(place.name)]
    if len(zoos) != 1:
        raise ZooError(f"{home}: no longer contains the unpacked zoo alone: remove it")
    return zoos[0]


def volumes_of(archive: Path) -> list[Path]:
    """The volumes next to where the archive `NAME.tar.gz` would be, sorted by number."""
    stem = archive.name.removesuffix(".tar.gz")
    found: list[tuple[int, int, Path]] = []
    for place in archive.parent.iterdir() if archive.parent.is_dir() else ():
        numbers = re.fullmatch(re.escape(stem) + r"\.(\d{1,6})-of-(\d{1,6})\.tar\.gz", place.name, re.ASCII)
        if numbers and place.is_file():
            found.append((int(numbers[2]), int(numbers[1]), place))
    return [place for _, _, place in sorted(found)]


def _cache() -> Path:
    chosen = os.environ.get("MODELZOO_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelzoo"


def _unpack_all(archive: Path, target: Path, limit: int | None) -> None:
    """An archive, and the other volumes if it is one of several, as `target/NAME`."""
    zoo = _unpack(archive, target, limit)
    listed = zoo / files.VOLUMES
    if not listed.exists():
        return
    volumes = files.read_object(listed, files.LIMITS[files.VOLUMES]).get("volumes")
    names = [volume.get("file") for volume in volumes] if isinstance(volumes, list) else []
    if archive.name not in names or not all(isinstance(n, str) and _VOLUME.fullmatch(n) for n in names):
        raise ZooError(f"{archive}: its volumes.json does not list it under its own name")
    for name in cast("list[str]", names):
        if name != archive.name:
            other = archive.with_name(name)
            if not other.is_file():
                raise ZooError(f"{archive}: is one of {len(names)} volumes; {name} is not next to it")
            _unpack(other, target, limit)


def _unpack(archive: Path, target: Path, limit: int | None) -> Path:
    _check_sum_beside(archive)
    budget = _Budget(archive, limit)
    try:
        with parsed("is damaged, or not a zoo archive"), gzip.open(archive) as stream:
            guarded = cast("IO[bytes]", _Stream(cast("IO[bytes]", stream), budget))
            with tarfile.open(fileobj=guarded, mode="r|", tarinfo=_Entry, errorlevel=2) as tar:
                return _entries(tar, target)
    except ZooError as error:
        message = str(error)
        raise ZooError(message if message.startswith(f"{archive}: ") else f"{archive}: {escaped(message)}") from error
    except ValueError as error:
        raise ZooError(f"{archive}: {escaped(str(error))}") from error


def _check_sum_beside(archive: Path) -> None:
    """Checks the archive against the `.sha256` file next to it, if there is one."""
    name = re.sub(r"\.\d+-of-\d+(?=\.tar\.gz$)", "", archive.name)
    beside = archive.with_name(f"{name}.sha256")
    if not beside.exists():
        return
    try:
        listed = files.parse_checksums(files.read_limited(beside, 1 << 20))
    except ValueError as error:
        raise ZooError(f"{beside}: {error}") from error
    # It may have been written when the archive was in another folder.
    expected = {path.rpartition("/")[2]: checksum for path, checksum in listed.items()}.get(archive.name)
    if expected is None:
        raise ZooError(f"{beside}: does not list {archive.name}")
    if files.sha256_file(archive) != expected:
        raise ZooError(f"{archive}: does not have the SHA-256 recorded in {beside.name}: download it again")


def _entries(tar: tarfile.TarFile, target: Path) -> Path:
    zoo: Path | None = None
    sums: dict[str, str] = {}
    seen: set[str] = set()

    for entry in tar:
        if files.is_in_system_folder(entry.name):
            continue
        name, _, path = entry.name.partition("/")
        if not files.is_zoo_file(path):
            raise ZooError(f"its entry {entry.name!r} does not belong to a zoo")
        if zoo is None:
            zoo = target / files.check_zoo_name(name)
        if name != zoo.name:
            raise ZooError(f"its entry {entry.name!r} lies outside {zoo.name}")
        if path in seen:
            raise ZooError(f"its entry {entry.name!r} occurs twice")
        if not seen and path != files.CHECKSUMS:
            raise ZooError("its first entry is not SHA256SUMS")
        if path != files.CHECKSUMS and path not in sums:
            raise ZooError(f"its entry {entry.name!r} is not listed in SHA256SUMS")
        kind = path.rpartition("/")[2]
        if entry.size > files.LIMITS.get(kind, entry.size):
            raise ZooError(f"its entry {entry.name!r} declares {entry.size} bytes, more than allowed for such a file")
        if entry.size > shutil.disk_usage(target.parent).free:
            raise ZooError(f"the disk is too full for its entry {entry.name!r}: choose another folder with cache=")
        seen.add(path)
        found = _write(zoo / path, tar.extractfile(entry), entry.size)
        if path == files.CHECKSUMS:
            sums = files.parse_checksums((zoo / path).read_bytes())
        elif found != sums[path]:
            raise ZooError(f"its entry {entry.name!r} does not match its SHA-256: download it again")
    if zoo is None:
        raise ZooError("is empty")
    volumes = files.VOLUMES in seen
    missing = [p for p in sums if p not in seen and not (volumes and files.model_of(p) is not None)]
    if missing:
        raise ZooError(f"{missing[0]!r} and {len(missing) - 1} others are listed in SHA256SUMS, but missing")
    return zoo


def _write(path: Path, content: Any, size: int) -> str:
    """Writes an entry; its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, written = hashlib.sha256(), 0
    with open(path, "wb") as file:
        while piece := content.read(1 << 20):
            digest.update(piece)
            file.write(piece)
            written += len(piece)
    if written != size:
        raise tarfile.ReadError(f"{path.name} is truncated: {written} of {size} bytes")
    return digest.hexdigest()
