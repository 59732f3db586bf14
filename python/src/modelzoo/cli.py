"""The command `modelzoo`: a bridge to the published collection, both ways."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import __version__
from .errors import FaultWarning, ZooError, escaped, summary
from .opening import open as open_zoo
from .published import NEEDED

_EXAMPLES = """\
examples:
  modelzoo import tune_zoo_mnist_uniform.zip zoos/mnist-seed --dataset mnist
  modelzoo import tune_zoo_svhn_uniform zoos/svhn-seed --data data/svhn.safetensors
  modelzoo export zoos/quickstart published/quickstart
  modelzoo export quickstart.tar.gz published/quickstart

exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted (rerun the command to resume)
"""


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("modelzoo", description=__doc__, epilog=_EXAMPLES, formatter_class=formatter)
    parser.add_argument("--version", action="version", version=f"modelzoo {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="import|export")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON summary to stdout")
    common.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    common.add_argument("--strict", action="store_true", help="fail at the first fault rather than skip it")

    bring = commands.add_parser("import", parents=[common], help="convert a published raw zoo to a zoo directory")
    bring.add_argument("source", type=Path, metavar="SRC", help="folder or zip with a folder per model")
    bring.add_argument("target", type=Path, metavar="DEST", help="zoo directory to create")
    bring.add_argument("--name", help="name of the zoo (default: DEST's)")
    bring.add_argument("--description", default="", help="one sentence for the dataset card")
    bring.add_argument("--license", default="CC-BY-4.0", help="SPDX identifier (default: the collection's, CC-BY-4.0)")
    bring.add_argument("--dataset", metavar="NAME", help="name of the image dataset")
    bring.add_argument("--data", type=Path, metavar="FILE", help="prepared dataset, for all facts about the images")
    bring.add_argument(
        *("--set", "-s"), action="append", default=[], type=_assignment, metavar="KEY=VALUE",
        help="value of a hyperparameter that a model's params.json lacks or has as null",
    )  # fmt: skip

    send = commands.add_parser("export", parents=[common], help="convert a zoo to the published collection's layout")
    send.add_argument("source", type=Path, metavar="ZOO", help="zoo directory or archive")
    send.add_argument("target", type=Path, metavar="DEST", help="folder to create")
    return parser


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    if key not in NEEDED:
        raise argparse.ArgumentTypeError(f"`{key}` is not one of {', '.join(NEEDED)}")
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = value
    return key, parsed


class _Progress:
    """A progress line on stderr, only on a terminal."""

    def __init__(self, quiet: bool) -> None:
        self.shown = sys.stderr.isatty() and not quiet
        self.last = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self.shown and (now - self.last > 0.2 or done == total):
            self.last = now
            end = "\n" if done == total else ""
            print(f"\r{done} of {total} models", end=end, file=sys.stderr, flush=True)


def _import(args: argparse.Namespace) -> dict[str, Any]:
    from .importing import Options, import_zoo

    names = [f.name for f in dataclasses.fields(Options) if f.name != "missing"]
    options = Options(**{name: getattr(args, name) for name in names}, missing=dict(args.set))
    outcome = import_zoo(args.source, args.target, options, _Progress(args.quiet))
    if outcome.faults and not args.quiet:
        print(f"{len(outcome.faults)} faults, skipped:\n{summary(outcome.faults, 20)}", file=sys.stderr)
    counts = {"models": outcome.models, "states": outcome.states, "diverged": outcome.diverged}
    return {"zoo": str(args.target), **counts, "faults": len(outcome.faults)}


def _export(args: argparse.Namespace) -> dict[str, Any]:
    from .exporting import export_zoo

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FaultWarning)
        zoo = open_zoo(args.source, strict=args.strict)
    if zoo.faults and not args.quiet:
        print(f"{len(zoo.faults)} faults, skipped:\n{summary(zoo.faults, 20)}", file=sys.stderr)
    export_zoo(zoo, args.target, _Progress(args.quiet))
    return {"published": str(args.target), "models": len(zoo.ids), "states": len(zoo), "faults": len(zoo.faults)}


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        done = _import(args) if args.command == "import" else _export(args)
    except KeyboardInterrupt:
        return _failed("interrupted; rerun the same command to resume", 130, args.json)
    except Exception as error:
        return _failed(_sentence(error), 1, args.json)
    if args.json:
        print(json.dumps(done))
    elif not args.quiet:
        print(escaped(", ".join(f"{key} {value}" for key, value in done.items())), file=sys.stderr)
    return 0


def _failed(message: str, code: int, as_json: bool) -> int:
    """Reports a failure; returns the exit code."""
    print(f"modelzoo: {escaped(message)}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": message}))
    return code


def _sentence(error: Exception) -> str:
    if isinstance(error, ZooError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name == "torch":
        return "this needs PyTorch: pip install torch"
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, OSError) and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main())
