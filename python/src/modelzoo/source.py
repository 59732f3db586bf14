"""A published zoo's files, in a folder or a zip. Nothing is ever unpacked."""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Protocol

from . import files
from .errors import ZooError, escaped, parsed


class Source(Protocol):
    """The source from which a published zoo is read. Paths are relative, with slashes."""

    def models(self) -> list[str]:
        """The folders that contain a `params.json`, sorted."""

    def files(self, folder: str) -> list[str]:
        """The files below a model's folder, relative to it. Raises ValueError if it cannot be read."""

    def read(self, path: str, limit: int) -> bytes | None:
        """A file's bytes, or None if there is none. Raises ValueError if it cannot be read or has more than `limit`."""

    def root(self) -> str:
        """The folder of the zoo."""


def open_source(path: Path) -> Source:
    """A folder or a zip."""
    if (path / files.ZOO).is_file() and (path / "models").is_dir():
        raise ZooError(f"{path}: is already a zoo directory: there is nothing to import")
    if path.is_dir():
        return _Folder(path)
    if path.is_file():
        return _Zip(path)
    raise ZooError(f"{path}: does not exist")


def _one_root(where: Path, models: list[str]) -> str:
    roots = sorted({model.rpartition("/")[0] for model in models})
    if not roots:
        raise ZooError(f"{where}: has no folder with a params.json: it is not a published zoo")
    if len(roots) > 1:
        listed = escaped(", ".join(roots[:5]))
        raise ZooError(f"{where}: contains {len(roots)} zoos ({listed}): unpack it and import them one by one")
    return roots[0]


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path
        nested = ["", *(f"{name}/" for name in _folders(path))]
        found = (f"{base}{name}" for base in nested for name in _folders(path / base))
        self._models = sorted(model for model in found if _may_be_file(path / model / files.PARAMS))
        self._root = _one_root(path, self._models)

    def models(self) -> list[str]:
        return self._models

    def root(self) -> str:
        return self._root

    def files(self, folder: str) -> list[str]:
        place = self._path / folder
        try:
            found = [entry.name for entry in os.scandir(place) if entry.is_file(follow_symlinks=False)]
            for name in _folders(place):
                found += (f"{name}/{e.name}" for e in os.scandir(place / name) if e.is_file(follow_symlinks=False))
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from error
        return sorted(found)

    def read(self, path: str, limit: int) -> bytes | None:
        place = self._path / path
        try:
            if not stat.S_ISREG(place.lstat().st_mode):
                raise ValueError("is not a regular file")
            return files.read_limited(place, limit)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from error
        except ZooError as error:
            raise ValueError(str(error).removeprefix(f"{place}: ")) from error


def _folders(path: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without those of file managers."""
    try:
        entries = [e.name for e in os.scandir(path) if e.is_dir(follow_symlinks=False)]
    except PermissionError:
        return []
    return sorted(name for name in entries if not files.is_system_file(name))


def _may_be_file(path: Path) -> bool:
    """Whether the file exists, or its existence cannot be determined."""
    try:
        return path.is_file()
    except PermissionError:
        return True


class _Zip:
    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with parsed("is not a zip archive, or damaged"):
                self._archive = zipfile.ZipFile(path)
        except OSError as error:
            raise ZooError(f"{path}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ZooError(f"{path}: {error}") from error
        self._entries: dict[str, zipfile.ZipInfo] = {}
        self._below: dict[str, list[str]] = defaultdict(list)
        for entry in self._archive.infolist():
            self._add(entry)
        self._models = sorted(name.rpartition("/")[0] for name in self._entries if name.endswith("/" + files.PARAMS))
        self._root = _one_root(path, self._models)
        for name in self._entries:
            pieces = name.removeprefix(f"{self._root}/" if self._root else "").split("/", 1)
            if len(pieces) == 2:
                self._below[f"{self._root}/{pieces[0]}" if self._root else pieces[0]].append(pieces[1])

    def _add(self, entry: zipfile.ZipInfo) -> None:
        # `orig_filename` is the name as it stands in the file: `filename` ends at a NUL.
        name = entry.orig_filename
        if files.is_in_system_folder(name):
            return
        pieces = name.removesuffix("/").split("/")
        if re.search(r"[\\\0-\x1f]|^[A-Za-z]:", name) or any(piece in ("", ".", "..") for piece in pieces):
            raise ZooError(f"{self._path}: its entry {name!r} leaves its folder: the archive is not read")
        if entry.is_dir() or stat.S_ISLNK(entry.external_attr >> 16):
            return
        if name in self._entries:
            raise ZooError(f"{self._path}: its entry {name!r} occurs twice: the archive is not read")
        self._entries[name] = entry

    def models(self) -> list[str]:
        return self._models

    def root(self) -> str:
        return self._root

    def files(self, folder: str) -> list[str]:
        return sorted(self._below[folder])

    def read(self, path: str, limit: int) -> bytes | None:
        entry = self._entries.get(path)
        if entry is None:
            return None
        if entry.file_size > limit:
            raise ValueError(f"declares {entry.file_size} bytes, more than the {limit} allowed for such a file")
        try:
            with parsed("is damaged"), self._archive.open(entry) as file:
                content = file.read(limit + 1)
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from error
        if len(content) != entry.file_size:
            raise ValueError(f"has {len(content)} bytes, the archive says {entry.file_size}")
        return content
