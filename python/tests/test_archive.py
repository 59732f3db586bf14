"""Archives: real ones, and forged ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import binary, write_noise

import modelzoo
from modelzoo import ZooError, files

Entry = tuple[tarfile.TarInfo, bytes]


def entries_of(zoo: Path) -> list[Entry]:
    """The entries of a valid archive."""
    sums = zoo / "SHA256SUMS"
    paths = [sums, *sorted(p for p in zoo.rglob("*") if p.is_file() and p != sums)]
    return [file_entry(f"noise/{p.relative_to(zoo)}", p.read_bytes()) for p in paths]


def file_entry(name: str, content: bytes) -> Entry:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def write(path: Path, entries: list[Entry]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    return path


def replaced(entries: list[Entry], name: str, new: list[Entry]) -> list[Entry]:
    place = next(i for i, (info, _) in enumerate(entries) if info.name == name)
    return entries[:place] + new + entries[place + 1 :]


def test_an_archive_is_the_zoo(noise_zoo: Path, tmp_path: Path) -> None:
    archive = write(tmp_path / "noise.tar.gz", entries_of(noise_zoo))
    zoo, packed = modelzoo.open(noise_zoo), modelzoo.open(archive, cache=tmp_path / "cache")
    pd.testing.assert_frame_equal(zoo.index, packed.index)
    assert np.array_equal(zoo.weights()[0], packed.weights()[0])
    assert modelzoo.open(archive, cache=tmp_path / "cache").path == packed.path
    assert len(list((tmp_path / "cache").iterdir())) == 1


ZOO = "noise/zoo.json"
STATES = "noise/models/000001/states.safetensors"


def special(kind: bytes, name: str = STATES) -> Callable[[list[Entry]], list[Entry]]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return lambda entries: replaced(entries, STATES, [(info, b"")])


def added(name: str) -> Callable[[list[Entry]], list[Entry]]:
    return lambda entries: [*entries, file_entry(name, b"x")]


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (added("../evil"), "does not belong to a zoo"),
        (added("/tmp/evil"), "does not belong to a zoo"),
        (added("noise/../../evil"), "does not belong to a zoo"),
        (added("noise/models/../../../evil/params.json"), "does not belong to a zoo"),
        (added("noise/models/000009/params.json"), "not listed"),
        (added("noise/models/\u0661\u0661\u0661\u0661\u0661\u0661/params.json"), "does not belong to a zoo"),
        (added("other/zoo.json"), "lies outside"),
        (added("noise/zoo.json"), "occurs twice"),
        (special(tarfile.SYMTYPE), "does not belong to a zoo"),
        (special(tarfile.LNKTYPE), "does not belong to a zoo"),
        (special(tarfile.CHRTYPE), "does not belong to a zoo"),
        (special(tarfile.DIRTYPE, "noise/models"), "does not belong to a zoo"),
        (lambda entries: entries[:-1], "missing"),
        (lambda entries: entries[1:], "first entry"),
        (lambda entries: replaced(entries, STATES, [file_entry(STATES, b"other")]), "does not match its SHA-256"),
        (lambda entries: [file_entry("noise/SHA256SUMS", b"nonsense\n"), *entries[1:]], "line 1"),
        (lambda entries: [file_entry("no ise/SHA256SUMS", b""), *entries[1:]], "not a valid zoo name"),
        (lambda entries: [], "is empty"),
        (
            lambda entries: replaced(entries, "noise/zoo.json", [file_entry("noise/zoo.json", bytes(17 << 20))]),
            "declares",
        ),
    ],
)
def test_a_forged_archive_is_refused_and_leaves_nothing(
    noise_zoo: Path, tmp_path: Path, forge: Callable[[list[Entry]], list[Entry]], message: str
) -> None:
    archive = write(tmp_path / "noise.tar.gz", forge(entries_of(noise_zoo)))
    before = {p for p in tmp_path.rglob("*")}
    with pytest.raises(ZooError, match=message):
        modelzoo.open(archive, cache=tmp_path / "cache")
    assert {p for p in tmp_path.rglob("*")} == before | {tmp_path / "cache"}


def test_a_name_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    with gzip.open(tmp_path / "noise.tar.gz", "wb") as archive:
        archive.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))
    with pytest.raises(ZooError, match="does not belong to a zoo"):
        modelzoo.open(tmp_path / "noise.tar.gz", cache=tmp_path / "cache")


def test_an_index_of_billions_of_rows_is_not_read(noise_zoo: Path) -> None:
    rows = 10**7
    columns = {"id": np.zeros(rows, np.int32), "epoch": np.zeros(rows, np.int32)}
    pd.DataFrame(columns).to_parquet(noise_zoo / "index.parquet")
    assert (noise_zoo / "index.parquet").stat().st_size < 100_000
    record = noise_zoo / "zoo.json"
    record.write_text(record.read_text().replace('"states": 15', f'"states": {rows}'))
    with pytest.warns(modelzoo.FaultWarning, match="more than the states files contain"):
        assert len(modelzoo.open(noise_zoo)) == 15


def test_a_bomb_is_stopped(noise_zoo: Path, tmp_path: Path) -> None:
    archive = write(tmp_path / "noise.tar.gz", entries_of(noise_zoo))
    with pytest.raises(ZooError, match="limit="):
        modelzoo.open(archive, cache=tmp_path / "cache", limit=100_000)
    with gzip.open(tmp_path / "bomb.tar.gz", "wb") as bomb:
        bomb.write(bytes(10 << 20))
    with pytest.raises(ZooError, match=r"is empty|damaged|limit="):
        modelzoo.open(tmp_path / "bomb.tar.gz", cache=tmp_path / "cache", limit=1 << 20)


def test_damage_is_refused(noise_zoo: Path, tmp_path: Path) -> None:
    content = write(tmp_path / "noise.tar.gz", entries_of(noise_zoo)).read_bytes()
    flipped = content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]
    for damaged in (content[:-2000], flipped, b"", b"nonsense", content[: len(content) // 2]):
        (tmp_path / "damaged.tar.gz").write_bytes(damaged)
        with pytest.raises(ZooError, match=r"damaged|empty|SHA-256"):
            modelzoo.open(tmp_path / "damaged.tar.gz", cache=tmp_path / "cache")


def test_the_checksum_beside_an_archive_counts(noise_zoo: Path, tmp_path: Path) -> None:
    archive = write(tmp_path / "noise.tar.gz", entries_of(noise_zoo))
    beside = tmp_path / "noise.tar.gz.sha256"
    beside.write_text(f"{hashlib.sha256(archive.read_bytes()).hexdigest()}  noise.tar.gz\n")
    assert len(modelzoo.open(archive, cache=tmp_path / "cache")) == 15
    for content, message in ((f"{'0' * 64}  noise.tar.gz\n", "does not have the SHA-256"), ("x", "line 1")):
        beside.write_text(content)
        with pytest.raises(ZooError, match=message):
            modelzoo.open(archive, cache=tmp_path / "other")


FORMS: dict[str, Callable[[str, str], str]] = {
    "text": lambda sum, path: f"{sum}  {path}\n",
    "binary": lambda sum, path: f"{sum} *{path}\n",
    "one space": lambda sum, path: f"{sum} {path}\n",
    "upper case": lambda sum, path: f"{sum.upper()}  {path}\n",
    "BSD": lambda sum, path: f"SHA256 ({path}) = {sum}\n",
    "OpenSSL": lambda sum, path: f"SHA256({path})= {sum.upper()}\n",
    "below a dot": lambda sum, path: f"{sum}  ./{path}\n",
    "binary below dots": lambda sum, path: f"{sum} *././/{path}\n",
    "comments": lambda sum, path: f"# made by hand\n{sum}  {path}\n",
    "blank lines": lambda sum, path: f"\n{sum}  {path}\n \n\n",
    "CRLF": lambda sum, path: f"{sum}  {path}\r\n",
    "CRLF and blank": lambda sum, path: f"\r\nSHA256 (./{path}) = {sum}\r\n\r\n",
    "indented": lambda sum, path: f" \t{sum}  {path}\n",
    "twice": lambda sum, path: f"{sum}  {path}\n{sum} *./{path}\n",
    "escaped": lambda sum, path: f"\\{sum}  {path}\n",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("last", ["\n", ""])
def test_every_form_of_checksum_files_is_read(noise_zoo: Path, tmp_path: Path, form: str, last: str) -> None:
    sums = noise_zoo / "SHA256SUMS"
    lines = [line.split("  ") for line in sums.read_text().splitlines()]
    sums.write_bytes("".join(FORMS[form](*line) for line in lines).rstrip("\n").encode() + last.encode())
    assert modelzoo.open(noise_zoo, strict=True).check() == []
    archive = write(tmp_path / "noise.tar.gz", entries_of(noise_zoo))
    line = FORMS[form](hashlib.sha256(archive.read_bytes()).hexdigest(), archive.name)
    (tmp_path / "noise.tar.gz.sha256").write_bytes(line.rstrip("\n").encode() + last.encode())
    assert len(modelzoo.open(archive, cache=tmp_path / "cache")) == 15
    target = noise_zoo / "models/000001/params.json"
    target.write_bytes(target.read_bytes() + b" ")
    assert [fault.place for fault in modelzoo.open(noise_zoo).check()] == ["models/000001/params.json"]
    with pytest.raises(ZooError, match="SHA-256"):
        modelzoo.open(write(tmp_path / "noise.tar.gz", entries_of(noise_zoo)), cache=tmp_path / "cache")


def test_names_are_unescaped_as_sha256sum_escapes_them(tmp_path: Path) -> None:
    names = ["back\\slash", "new\nline", "carriage\rreturn", "plain", " space", "a  b"]
    for name in names:
        (tmp_path / name).write_bytes(b"abc")
    for mode in ("--binary", "--text", "--tag"):
        done = subprocess.run(["sha256sum", mode, *names], cwd=tmp_path, capture_output=True, check=True)
        assert set(files.parse_checksums(done.stdout)) == set(names)


@pytest.mark.parametrize(
    "line",
    ["x", "0" * 63 + "  a", "0" * 64 + "a", "g" * 64 + "  a", "MD5 (a) = " + "0" * 32, f"{'0' * 64}  a\n{'1' * 64}  a"],
)
def test_what_sha256sum_would_not_check_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"line [12]"):
        files.parse_checksums(line.encode())


def test_a_checksum_file_that_was_made_elsewhere_names_the_archive(noise_zoo: Path, tmp_path: Path) -> None:
    archive = write(tmp_path / "noise.tar.gz", entries_of(noise_zoo))
    for line, good in ((f"{hashlib.sha256(archive.read_bytes()).hexdigest()}", True), ("0" * 64, False)):
        (tmp_path / "noise.tar.gz.sha256").write_text(f"{line}  /data/archives/noise.tar.gz\n")
        if good:
            modelzoo.open(archive, cache=tmp_path / "cache")
        else:
            with pytest.raises(ZooError, match="download it again"):
                modelzoo.open(archive, cache=tmp_path / "other")


def test_what_file_managers_leave_in_an_archive_is_passed_over(noise_zoo: Path, tmp_path: Path) -> None:
    entries = entries_of(noise_zoo)
    left = ["._noise", "noise/._SHA256SUMS", "noise/.DS_Store", "noise/models/000001/._params.json", "__MACOSX/x"]
    clutter = [file_entry(name, b"\0\5\x16\7") for name in left]
    archive = write(tmp_path / "noise.tar.gz", [*clutter[:2], *entries, *clutter[2:]])
    zoo = modelzoo.open(archive, cache=tmp_path / "cache", strict=True)
    assert not [path for path in zoo.path.rglob("*") if files.is_system_file(path.name)]
    (zoo.path.parent / ".DS_Store").touch()
    assert modelzoo.open(archive, cache=tmp_path / "cache").path == zoo.path
    shutil.rmtree(zoo.path)
    with pytest.raises(ZooError, match="remove it"):
        modelzoo.open(archive, cache=tmp_path / "cache")


def test_what_a_killed_process_left_is_cleared_and_what_a_living_one_has_is_not(
    noise_zoo: Path, tmp_path: Path
) -> None:
    archive = write(tmp_path / "noise.tar.gz", entries_of(noise_zoo))
    cache = tmp_path / "cache"
    program = (
        "import os, sys, pathlib, modelzoo.files\n"
        "with modelzoo.files.scratch_folder(pathlib.Path(sys.argv[1]), '.unpacking-') as folder:\n"
        "    (folder / 'zoo').mkdir()\n"
        "    print(folder.name, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    cache.mkdir()
    command = [sys.executable, "-c", program, str(cache)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        zoo = modelzoo.open(archive, cache=cache)
        assert (cache / name / "zoo").exists()
        process.kill()
    assert (cache / name / "zoo").exists()
    shutil.rmtree(zoo.path.parent)
    modelzoo.open(archive, cache=cache)
    assert [place.name for place in cache.iterdir()] == [zoo.path.parent.name]


def test_packed_by_zoo_pack_whole_and_in_volumes(tmp_path: Path) -> None:
    zoo = write_noise(tmp_path / "noise", models=60)
    subprocess.run([binary("zoo-pack"), zoo, "-o", tmp_path / "noise.tar.gz", "-q"], check=True)
    expected, _ = modelzoo.open(zoo).weights()
    packed = modelzoo.open(tmp_path / "noise.tar.gz", cache=tmp_path / "cache")
    assert (packed.path / "index.parquet").exists()
    pd.testing.assert_frame_equal(packed.index.dropna(axis=1), modelzoo.open(zoo).index.dropna(axis=1))
    assert np.array_equal(packed.weights()[0], expected)

    command = [binary("zoo-pack"), str(zoo), "-o", str(tmp_path / "v/noise.tar.gz"), "-q", "--volume-size", "1MiB"]
    (tmp_path / "v").mkdir()
    subprocess.run(command, check=True)
    volumes = sorted((tmp_path / "v").glob("*.tar.gz"))
    assert len(volumes) > 1
    assert np.array_equal(modelzoo.open(volumes[1], cache=tmp_path / "cache").weights()[0], expected)
    base = tmp_path / "v/noise.tar.gz"
    by_base = modelzoo.open(base, cache=tmp_path / "cache")
    assert np.array_equal(by_base.weights()[0], expected)
    unpacked = tmp_path / "unpacked"
    for volume in volumes:
        with tarfile.open(volume) as tar:
            tar.extractall(unpacked, filter="data") if hasattr(tarfile, "data_filter") else tar.extractall(unpacked)
    together = modelzoo.open(unpacked / "noise", strict=True)
    assert np.array_equal(together.weights()[0], expected) and together.check() == []
    pd.testing.assert_frame_equal(together.index, by_base.index)
    with pytest.raises(ZooError, match="does not exist"):
        modelzoo.open(tmp_path / "v/nois.tar.gz")
    volumes[0].unlink()
    with pytest.raises(ZooError, match="is not next to it"):
        modelzoo.open(base, cache=tmp_path / "fresh")
    with pytest.raises(ZooError, match="is not next to it"):
        modelzoo.open(volumes[1], cache=tmp_path / "fresh")


def test_a_damaged_index_is_reported_and_done_without(real: Path, tmp_path: Path) -> None:
    zoo = modelzoo.open(real / "archives/small.tar.gz", cache=tmp_path)
    path = zoo.path / "index.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(modelzoo.FaultWarning, match=r"index\.parquet"):
        pd.testing.assert_frame_equal(modelzoo.open(zoo.path).index, zoo.index)
