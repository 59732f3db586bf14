"""What can be wrong with a zoo."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


class ZooError(Exception):
    """A file is not what it should be. The message names the file, the fault and the remedy."""


class ArgumentError(ZooError, ValueError):
    """An argument has an invalid value, or contradicts another one."""


class MissingError(ZooError, KeyError):
    """A requested model, epoch or column does not exist in the zoo."""

    __str__ = Exception.__str__  # A KeyError's message is its representation.


class FaultWarning(UserWarning):
    """A part of a zoo was skipped, and the rest was read."""


@dataclass(frozen=True)
class Fault:
    """Something that was skipped, and why."""

    place: str
    """The file or model, relative to the zoo."""
    message: str
    """What is wrong with it."""

    def __str__(self) -> str:
        return escaped(f"{self.place}: {self.message}")


@contextlib.contextmanager
def parsed(fault: str) -> Iterator[None]:
    """Turns whatever another library's parser raises on untrusted bytes into a ValueError that begins with `fault`.

    Their documentation does not bound it: besides their own errors it may be an OverflowError or RecursionError.
    Errors of the operating system, which have a number, pass.
    """
    try:
        yield
    except (ZooError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        message = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{fault}: {message}") from error


def escaped(text: str) -> str:
    """`text` with its control characters escaped: untrusted text must not control a terminal or forge a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def summary(faults: Sequence[Fault], shown: int = 5) -> str:
    """The first faults, and the number of further ones."""
    lines = [f"  {fault}" for fault in faults[:shown]]
    if len(faults) > shown:
        lines.append(f"  and {len(faults) - shown} more")
    return "\n".join(lines)
