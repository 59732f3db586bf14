"""Files as all stages of a zoo read and write them: bounded, and complete or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import posixpath
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

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
# What coreutils' `sha256sum -c` takes: its own lines, text or binary, and those of BSD (`--tag`) and OpenSSL.
# A backslash in front says that backslashes and line ends in the path are escaped.
_CHECKSUM_LINE = re.compile(r"[ \t]*(\\?)([0-9A-Fa-f]{64})[ \t][ *]?(.+)", re.ASCII)
_TAGGED_LINE = re.compile(r"[ \t]*(\\?)SHA256 ?\((.+)\)[ \t]*=[ \t]*([0-9A-Fa-f]{64})[ \t]*", re.ASCII)
_ESCAPES = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}

#: What file managers and file systems leave in any folder, besides names with the prefixes below.
_SYSTEM_FILES = {
    *(".AppleDouble", ".DS_Store", ".Spotlight-V100", ".TemporaryItems", ".Trashes", ".directory", ".fseventsd"),
    *(".localized", "@eaDir", "Icon\r", "__MACOSX", "desktop.ini", "ehthumbs.db", "lost+found"),
}
_SYSTEM_PREFIXES = ("._", ".nfs", ".fuse_hidden")

Json = dict[str, Any]


def model_of(path: str) -> int | None:
    """The model that a file like `models/000017/params.json` belongs to."""
    match = _MODEL_FILE.fullmatch(path)
    return int(match[1]) if match else None


def is_zoo_file(path: str) -> bool:
    """Whether a zoo may contain a file with this path."""
    return path in (ZOO, CHECKSUMS, INDEX, CARD, VOLUMES) or model_of(path) is not None


def is_system_file(name: str) -> bool:
    """Whether a file or folder with this name was left by a file manager or file system."""
    return name in _SYSTEM_FILES or name.lower() == "thumbs.db" or name.startswith(_SYSTEM_PREFIXES)


def is_in_system_folder(path: str) -> bool:
    """Whether a file manager or file system left the file with this path, or one of its folders."""
    return any(is_system_file(piece) for piece in path.split("/"))


def _is_vacant(folder: Path, work: str) -> bool:
    """Whether a folder does not exist yet, or contains only `work` and what a file manager left."""
    return not folder.exists() or all(name == work or is_system_file(name) for name in os.listdir(folder))


def check_zoo_name(name: object) -> str:
    """A valid zoo name, which becomes the name of a folder."""
    if isinstance(name, str) and _NAME.fullmatch(name) and name not in (".", ".."):
        return name
    raise ZooError(f"`{escaped(str(name))[:200]}` is not a valid zoo name: use 1 to 100 letters, digits, `.`, `_`, `-`")


def check_outside(target: Path, source: Path) -> None:
    """Refuses to create `target` inside the `source` that it is made from."""
    if source.resolve() in target.resolve().parents:
        raise ZooError(f"{target}: lies in its own source {source}: choose another folder")


def read_limited(path: Path, limit: int) -> bytes:
    """The bytes of a regular file, at most `limit`."""
    try:
        with open(path, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ZooError(f"{path}: is not a regular file")
            content = file.read(limit + 1)
    except OSError as error:
        raise ZooError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > limit:
        raise ZooError(f"{path}: is larger than the {limit} bytes allowed for such a file")
    return content


def _number(digits: str) -> int | float:
    """An integer; as a float if it exceeds all integers that are meaningful here."""
    return int(digits) if len(digits) < 40 else float(digits)


def parse_object(content: bytes | str) -> Json:
    """A JSON object.

    Raises ValueError with what is wrong with it.
    """
    try:
        value = json.loads(content, parse_int=_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value


def read_object(path: Path, limit: int) -> Json:
    """A file with one JSON object."""
    try:
        return parse_object(read_limited(path, limit))
    except ValueError as error:
        raise ZooError(f"{path}: {error}") from error


def read_record(path: Path) -> Json:
    """A `zoo.json`, its required keys checked."""
    record = read_object(path, LIMITS[ZOO])
    try:
        check_record(record)
    except ValueError as error:
        raise ZooError(f"{path}: {error}") from error
    return record


def check_record(record: Json) -> None:
    """Raises ValueError naming the first invalid required key of a `zoo.json`."""
    version = record.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise ValueError(f"`format_version` is {version!r}, expected {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        raise ValueError(f"`format_version` {version} is newer than this program's: use a newer release")
    check_zoo_name(record.get("name"))
    for key in ("models", "states", "parameters"):
        if not isinstance(record.get(key), int) or record[key] < 0:
            raise ValueError(f"`{key}` is {record.get(key)!r}, expected a count")
    if not isinstance(record.get("dataset"), dict):
        raise ValueError("has no `dataset`")


def parse_checksums(content: bytes) -> dict[str, str]:
    """A checksum file in any form that `sha256sum -c` accepts: path, without `./`, to checksum in lower case.

    Raises ValueError with the line that is wrong.
    """
    sums: dict[str, str] = {}
    for number, text in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        line = text.removesuffix(b"\r").decode("utf-8", "surrogateescape")
        if not line.strip() or line.startswith("#"):
            continue
        if plain := _CHECKSUM_LINE.fullmatch(line):
            escape, checksum, path = plain.groups()
        elif tagged := _TAGGED_LINE.fullmatch(line):
            escape, path, checksum = tagged.groups()
        else:
            raise ValueError(f"line {number}: is not `<64 hexadecimal digits>  <path>`")
        if escape:
            path = re.sub(r"\\.", lambda match: _ESCAPES.get(match[0], match[0]), path)
        path, checksum = posixpath.normpath(path), checksum.lower()
        if sums.setdefault(path, checksum) != checksum:
            raise ValueError(f"line {number}: lists {escaped(path)} twice, with different checksums")
    return sums


def to_checksums(sums: Mapping[str, str]) -> bytes:
    """A `SHA256SUMS` as the zoo's own stages write it."""
    return "".join(f"{checksum}  {path}\n" for path, checksum in sums.items()).encode()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[bool | None]:
    """Marks a folder as in use by this process, however it ends: True, or False if another process uses it.

    None where the file system has no locks, so that it is unknown.
    """
    if fcntl is None:
        yield None
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        ours: bool | None = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            ours = False
        except OSError:
            ours = None
        yield ours
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A temporary folder that is removed at the end; leftovers of killed processes are removed at the start."""
    for name in os.listdir(parent):
        if name.startswith(prefix):
            with contextlib.suppress(OSError), owned(parent / name) as abandoned:
                if abandoned:
                    shutil.rmtree(parent / name, ignore_errors=True)
    with contextlib.ExitStack() as stack:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            # Until it is marked as ours, another process may consider it abandoned.
            with contextlib.suppress(FileNotFoundError):
                if stack.enter_context(owned(folder)) is not False and folder.exists():
                    break
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


@contextlib.contextmanager
def resumable(target: Path, name: str, claim: bytes, what: str, outputs: Sequence[str]) -> Iterator[Path]:
    """The work folder `name` in `target`, removed when the work is done.

    After an interruption it stays, and the next call with the same `claim` resumes there. After a `ZooError`, which the
    same call would meet again, the work folder and the `outputs` (patterns of names in `target`) are removed.
    """
    work = target / name
    if not (work / "claim").exists() and not _is_vacant(target, name):
        raise ZooError(f"{target}: is not empty, and not an interrupted {what}: remove it")
    work.mkdir(parents=True, exist_ok=True)
    with owned(work) as ours:
        if ours is False:
            raise ZooError(f"{target}: is in use by another process")
        if (work / "claim").exists() and (work / "claim").read_bytes() != claim:
            raise ZooError(f"{target}: is not empty, and not an interrupted {what}: remove it")
        write_atomic(work / "claim", claim)
        try:
            yield work
        except ZooError:
            for pattern in (name, *outputs):
                for path in target.glob(pattern):
                    path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):
                target.rmdir()
            raise
        shutil.rmtree(work, ignore_errors=True)


def write_atomic(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name, syncs it and renames it: it exists completely or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def to_json(value: Mapping[str, Any]) -> bytes:
    """Indented JSON, ending in a newline. NaN is not valid JSON and is an error."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "replace")


def to_json_lines(lines: list[Json]) -> bytes:
    """One JSON object per line."""
    dumped = (json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n" for line in lines)
    return "".join(dumped).encode("utf-8", "replace")


def model_folders(zoo: Path) -> Iterator[tuple[int | None, str]]:
    """Ids and names of what lies in `models`, sorted; hidden files and files left by file managers are ignored."""
    try:
        names = sorted(os.listdir(zoo / "models"))
    except FileNotFoundError:
        return
    for name in names:
        if not name.startswith(".") and not is_system_file(name):
            yield (int(name) if re.fullmatch(r"\d{6}", name, re.ASCII) else None), name
