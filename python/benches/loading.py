"""How fast `Zoo.weights` loads all states, compared with reading the same files from the page cache.

    python benches/loading.py ZOO [--repeat 5]       # a zoo
    python benches/loading.py --make 500 FOLDER      # one of 500 cnn-s models of noise, 51 states each, for this

Three rates, each the best of the repetitions: "read" reads every file into one reused buffer, with one
thread, as cat does; "read, kept" reads them all into one new array, as loading must, with the same number of
threads as loading; "weights" is `Zoo.weights`. Every file is read once beforehand.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import modelzoo
from modelzoo import architectures, files
from modelzoo.states import to_bytes
from modelzoo.zoo import _THREADS


def make(folder: Path, models: int, epochs: int = 50) -> None:
    """A zoo of noise."""
    params = {"model::type": "cnn-s", "model::nlin": "tanh", "model::init_type": "normal", "model::dropout": 0.0}
    params |= {"optim::optimizer": "adam", "optim::lr": 1e-3, "optim::wd": 0.0, "optim::momentum": 0.0}
    params |= {"training::batchsize": 10, "training::epochs_train": epochs, "seed": 0}
    params |= {"model::channels_in": 1, "model::i_dim": 28, "model::o_dim": 10}
    parameters = architectures.parameters(params)
    rng = np.random.default_rng(0)
    for model in range(models):
        place = folder / "models" / f"{model:06}"
        place.mkdir(parents=True)
        (place / files.PARAMS).write_bytes(files.to_json({"zoo::id": f"{model:06}"} | params))
        lines = [{"training_iteration": e, "test_acc": 0.5, "test_loss": 1.0} for e in range(epochs + 1)]
        (place / files.RESULT).write_bytes(files.to_json_lines(lines))
        states = [{p.name: rng.standard_normal(p.shape, np.float32) for p in parameters} for _ in range(epochs + 1)]
        (place / files.STATES).write_bytes(to_bytes(parameters, range(epochs + 1), states))
    counts = {"models": models, "states": models * (epochs + 1), "parameters": parameters[-1].stop}
    record = {"format_version": 1, "name": "noise", "dataset": {"name": "none"}} | counts
    (folder / files.ZOO).write_text(json.dumps(record))


def best(repeat: int, action: Callable[[], None]) -> float:
    """Seconds of the fastest of some runs."""
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure(folder: Path, repeat: int) -> None:
    """Prints the rates."""
    start = time.perf_counter()
    zoo = modelzoo.open(folder)
    opened = time.perf_counter() - start
    paths = [folder / "models" / f"{model:06}" / files.STATES for model in zoo.ids]
    sizes = [path.stat().st_size for path in paths]
    total = sum(sizes)

    def read(i: int, memory: memoryview) -> None:
        with open(paths[i], "rb", buffering=0) as file:
            assert file.readinto(memory) == sizes[i]

    def into_buffer() -> None:
        buffer = memoryview(bytearray(max(sizes)))
        for i, size in enumerate(sizes):
            read(i, buffer[:size])

    starts = np.cumsum([0, *sizes])

    def into_array() -> None:
        array = memoryview(np.empty(total, np.uint8))  # type: ignore[arg-type]

        def part(thread: int) -> None:
            for i in range(thread, len(sizes), _THREADS):
                read(i, array[starts[i] : starts[i + 1]])

        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(part, range(_THREADS)))

    def weights() -> None:
        values, _ = zoo.weights()
        assert values.nbytes > 0

    into_buffer()
    rates = {
        name: total / best(repeat, f) / 1e9
        for name, f in (("read", into_buffer), ("read, kept", into_array), ("weights", weights))
    }
    print(f"{zoo!r}, {total / 1e6:.0f} MB, {_THREADS} threads of {os.cpu_count()}; opened in {opened:.2f} s")
    for name, rate in rates.items():
        print(f"{name:12} {rate:6.2f} GB/s   {rate / rates['read']:.2f} of the page cache's rate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--make", type=int, metavar="MODELS")
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    if args.make:
        make(args.zoo, args.make)
    else:
        measure(args.zoo, args.repeat)


if __name__ == "__main__":
    main()
