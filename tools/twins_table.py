#!/usr/bin/env python3
"""A table of a zoo and its twins: test accuracy and sparsity of the last states.

    tools/twins_table.py zoos/twins
"""
import json
import pathlib
import statistics
import sys


def row(zoo: pathlib.Path, name: str) -> str:
    lines = [json.loads(p.read_text().splitlines()[-1]) for p in sorted(zoo.glob("models/*/result.json"))]

    def spread(key: str) -> str:
        values = [100 * line[key] for line in lines if line.get(key) is not None]
        return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}" if values else ""

    columns = [name, str(len(lines)), spread("sparsity_ratio"), spread("test_acc"), spread("test_agreement")]
    return "| " + " | ".join(columns) + " |"


parent = pathlib.Path(sys.argv[1])
print("| zoo | models | sparsity % | test accuracy % | agreement with the parent % |")
print("| --- | --- | --- | --- | --- |")
print(row(parent, parent.name))
for twin in sorted(parent.parent.glob(parent.name + "-*")):
    if (twin / "zoo.json").exists():
        print(row(twin, twin.name.removeprefix(parent.name + "-")))
