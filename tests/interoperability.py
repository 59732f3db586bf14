"""Reads archives as other programs do: sha256sum, gunzip, GNU tar, Python's tarfile, pandas, safetensors.

    python tests/interoperability.py FOLDER    # with NAME.tar.gz and NAME.tar.gz.sha256 in it
"""

import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import safe_open


def main(folder: Path) -> None:
    archives = sorted(folder.glob("*.tar.gz"))
    assert archives, f"no archive in {folder}"
    for archive in archives:
        subprocess.run(["sha256sum", "-c", "--quiet", f"{archive.name}.sha256"], cwd=folder, check=True)
        subprocess.run(["gunzip", "-t", archive], check=True)
        with tempfile.TemporaryDirectory() as unpacked:
            subprocess.run(["tar", "xzf", archive, "-C", unpacked], check=True)
            (zoo,) = Path(unpacked).iterdir()
            subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=zoo, check=True)
            with tarfile.open(archive) as tar:
                members = tar.getmembers()
            assert all(m.isreg() and m.mtime == members[0].mtime and m.uid == 0 for m in members)
            assert members[0].name == f"{zoo.name}/SHA256SUMS"
            assert len(members) == sum(1 for f in zoo.rglob("*") if f.is_file())

            record = json.loads((zoo / "zoo.json").read_text())
            index = pd.read_parquet(zoo / "index.parquet")
            assert index.id.nunique() == record["models"] and len(index) == record["states"]
            for model, rows in index.groupby("id"):
                folder_of = zoo / f"models/{model:06}"
                lines = pd.DataFrame(map(json.loads, (folder_of / "result.json").read_text().splitlines()))
                assert (lines.training_iteration.to_numpy() == rows.epoch.to_numpy()).all()
                assert np.array_equal(lines.test_acc.astype(float), rows.test_acc.astype(float), equal_nan=True)
                with safe_open(folder_of / "states.safetensors", "np") as states:
                    assert (states.get_tensor("epochs") == rows.epoch.to_numpy()).all()
                    tensors = [states.get_tensor(name) for name in states.keys() if name != "epochs"]
                assert sum(t[0].size for t in tensors) == record["parameters"]
                assert all(t.dtype == np.float32 and len(t) == len(rows) for t in tensors)
        print(f"{archive.name}: {len(members)} entries, {len(index)} states: read by all")


main(Path(sys.argv[1]))
