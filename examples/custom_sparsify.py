"""Replaces zoo-sparsify: any program that writes this layout can be a stage of the pipeline.

    python custom_sparsify.py zoos/small -o zoos/small-magnitude-80 --sparsity 0.8

Prunes each model's last state by random choice, weighted by magnitude, and keeps that one state.
Needs numpy and safetensors. docs/format.md describes the files.
"""

import argparse
import hashlib
import json
import os
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file


def prune(weights: dict, sparsity: float, seed: int) -> dict:
    """Zeroes a fraction of each weight tensor; small weights are more likely to be removed. Biases are kept."""
    rng = np.random.default_rng(seed)
    pruned = {}
    for name, tensor in weights.items():
        pruned[name] = tensor.copy()
        if name.endswith(".weight"):
            chance = 1 / (np.abs(np.nan_to_num(tensor)).ravel() + 1e-6)
            gone = rng.choice(tensor.size, round(sparsity * tensor.size), replace=False, p=chance / chance.sum())
            pruned[name].ravel()[gone] = 0
    return pruned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--sparsity", type=float, default=0.8)
    args = parser.parse_args()

    record = json.loads((args.zoo / "zoo.json").read_text())
    parent = {"name": record["name"], "fingerprint": record.get("fingerprint", "")}
    (args.output / "zoo.json").unlink(missing_ok=True)  # not finished until it is there again
    (args.output / "SHA256SUMS").unlink(missing_ok=True)
    diverged = 0
    for model in sorted((args.zoo / "models").iterdir()):
        params = json.loads((model / "params.json").read_text())
        with safe_open(model / "states.safetensors", "np") as states:
            last = {name: states.get_slice(name)[-1] for name in states.keys() if name != "epochs"}
        pruned = prune(last, args.sparsity, seed=int(params["zoo::id"]))
        weights = [tensor for name, tensor in pruned.items() if name.endswith(".weight")]
        finite = all(np.isfinite(tensor).all() for tensor in pruned.values())
        diverged += not finite
        line = {
            "training_iteration": 0,
            # Not evaluated: a loss and its accuracy may both be null.
            **{f"{split}_{metric}": None for split in ("train", "test", "val") for metric in ("loss", "acc")},
            "diverged": not finite,
            "sparsity_ratio": sum(int((w == 0).sum()) for w in weights) / sum(w.size for w in weights),
        }
        params["zoo::parent"] = {
            "zoo": record["name"],
            "id": params["zoo::id"],
            "states_sha256": hashlib.sha256((model / "states.safetensors").read_bytes()).hexdigest(),
        }
        params["sparsify::method"] = "random-by-magnitude"
        params["sparsify::sparsity"] = args.sparsity

        output = args.output / "models" / model.name
        output.mkdir(parents=True, exist_ok=True)
        (output / "params.json").write_text(json.dumps(params, indent=2) + "\n")
        (output / "result.json").write_text(json.dumps(line) + "\n")
        stacked = {name: np.ascontiguousarray(tensor[None]) for name, tensor in pruned.items()}
        save_file(stacked | {"epochs": np.array([0])}, output / "states.safetensors")

    record |= {
        "name": args.output.name,
        "description": f"Twins of {parent['name']}, pruned by weighted chance.",
        "parent": parent,
        "engine": None,
        "states": record["models"],
        "diverged": diverged,
        "fingerprint": "",
    }
    temporary = args.output / "zoo.json.tmp"
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(temporary, args.output / "zoo.json")


main()
