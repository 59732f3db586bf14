"""Files as all stages of a zoo read and write them: bounded, and complete or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import ZooError, escaped

ZOO = "zoo.json"
CHECKSUMS = "SHA256SUMS"
INDEX = "index.parquet"
CARD = "README.md"
VOLUMES = "volumes.json"
PARAMS = "params.json"
RESULT = "result.json"
STATES = "states.safetensors"
MODEL_FILES = (PARAMS, RESULT, STATES)

#: Most bytes that are read of a file, by its name.
LIMITS = {ZOO: 16 << 20, CHECKSUMS: 64 << 20, INDEX: 4 << 30, CARD: 16 << 20, VOLUMES: 16 << 20}
LIMITS |= {PARAMS: 1 << 20, RESULT: 16 << 20}

FORMAT_VERSION = 1

_MODEL_FILE = re.compile(r"models/(\d{6})/(?:params\.json|result\.json|states\.safetensors)", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}", re.ASCII)
_CHECKSUM_LINE = re.compile(r"([0-9a-f]{64})  (.+)", re.ASCII)

Json = dict[str, Any]


def model_of(path: str) -> int | None:
    """The model that a file like `models/000017/params.json` belongs to."""
    match = _MODEL_FILE.fullmatch(path)
    return int(match[1]) if match else None


def is_zoo_file(path: str) -> bool:
    """Whether a zoo may hold a file of this path."""
    return path in (ZOO, CHECKSUMS, INDEX, CARD, VOLUMES) or model_of(path) is not None


def check_zoo_name(name: object) -> str:
    """A zoo's name, which becomes the name of a folder."""
    if isinstance(name, str) and _NAME.fullmatch(name) and name not in (".", ".."):
        return name
    raise ZooError(f"`{escaped(str(name))[:200]}` is no name for a zoo: take 1 to 100 letters, digits, `.`, `_`, `-`")


def read_limited(path: Path, limit: int) -> bytes:
    """A regular file's bytes, of which there may be `limit` at most."""
    try:
        with open(path, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ZooError(f"{path}: is not a regular file")
            content = file.read(limit + 1)
    except OSError as error:
        raise ZooError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > limit:
        raise ZooError(f"{path}: is larger than the {limit} bytes that such a file may have")
    return content


def parse_object(content: bytes | str) -> Json:
    """A JSON object.

    Raises ValueError with what is wrong with it.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value


def read_object(path: Path, limit: int) -> Json:
    """A file that holds one JSON object."""
    try:
        return parse_object(read_limited(path, limit))
    except ValueError as error:
        raise ZooError(f"{path}: {error}") from error


def read_record(path: Path) -> Json:
    """A `zoo.json`, its required keys checked."""
    record = read_object(path, LIMITS[ZOO])
    version = record.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise ZooError(f"{path}: `format_version` is {version!r}, expected {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        raise ZooError(f"{path}: `format_version` {version} is newer than this program's: use a newer release")
    check_zoo_name(record.get("name"))
    for key in ("models", "states", "parameters"):
        if not isinstance(record.get(key), int) or record[key] < 0:
            raise ZooError(f"{path}: `{key}` is {record.get(key)!r}, expected a count")
    if not isinstance(record.get("dataset"), dict):
        raise ZooError(f"{path}: has no `dataset`")
    return record


def parse_checksums(content: bytes) -> dict[str, str]:
    """The lines of a `SHA256SUMS`: path to checksum.

    Raises ValueError with the line that is wrong.
    """
    sums: dict[str, str] = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        match = _CHECKSUM_LINE.fullmatch(line)
        if not match:
            raise ValueError(f"line {number}: is not `<64 hexadecimal digits>  <path>`")
        if match[2] in sums:
            raise ValueError(f"line {number}: lists {escaped(match[2])} twice")
        sums[match[2]] = match[1]
    return sums


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write_atomic(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name, syncs it and renames it: it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def to_json(value: Mapping[str, Any]) -> bytes:
    """Indented JSON, ending in a newline. NaN has no place in JSON and is an error."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def to_json_lines(lines: list[Json]) -> bytes:
    """One JSON object a line."""
    dumped = (json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n" for line in lines)
    return "".join(dumped).encode()


def model_folders(zoo: Path) -> Iterator[tuple[int | None, str]]:
    """Ids and names of what lies in `models`, sorted; hidden files are passed over."""
    try:
        names = sorted(os.listdir(zoo / "models"))
    except FileNotFoundError:
        return
    for name in names:
        if not name.startswith("."):
            yield (int(name) if re.fullmatch(r"\d{6}", name, re.ASCII) else None), name
