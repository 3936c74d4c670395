"""Files that are made from sources: what a target is, and how one gets its name only when it is whole.

Imports little, since every worker that writes files pays for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Allow = Callable[[float], None]
#: Makes the files of one source in a worker: (path, [target, ...]) and allow(seconds), which moves its deadline, to
#: one result for each target: a frozen dataclass, a MediaError or an OSError.
Maker = Callable[[tuple[str, Sequence[Any]], Allow], list[Any]]


class Target(Protocol):
    """A file that is to be made, as a frozen dataclass: its fields, which say all about it, are part of its key."""

    @property
    def target(self) -> str:
        """Path of the file."""
        ...

    @property
    def seconds(self) -> float:
        """Of the source that go into it, about: how much work it is."""
        ...


@dataclass(frozen=True)
class File:
    """A target that is known by its path."""

    target: str
    seconds: float = 1.0


@dataclass(frozen=True)
class Written:
    """A file that was written: its size in bytes and its modification time, by which it is known again."""

    size: int
    mtime_ns: int


@contextlib.contextmanager
def aside(target: Path) -> Iterator[Path]:
    """Where a file is written before it is whole, in the folder of its target; nothing is left there afterwards."""
    digest = hashlib.blake2b(os.fsencode(target), digest_size=4).hexdigest()
    partial = target.with_name(f".{digest}.{socket.gethostname()}.{os.getpid()}.part")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def give_name(partial: Path, target: Path) -> Written:
    """Put a file that is whole in its place.

    Raises:
        OSError: the disk is full or refuses.
    """
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, target)
    status = target.stat()
    return Written(status.st_size, status.st_mtime_ns)
