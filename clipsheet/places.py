"""Where bytes are: what opens, lists, looks at and replaces files for tables, the store and media.

All places are local paths. Locks and files that a process appends to (`store/locks.py`) are local by their nature; a
lock saves work, and decides nothing.
"""

from __future__ import annotations

import errno
import filecmp
import glob
import os
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from clipsheet.errors import MetaError, storing

Name = str | os.PathLike[str]
Stamp = tuple[int, int, int]


def stamp(path: Name) -> Stamp:
    """What tells a file from the one that stood there before.

    Raises:
        OSError: there is none.
    """
    return _stamp(os.stat(path))


def stamp_of(file: IO[bytes]) -> Stamp:
    """The stamp of an open file."""
    return _stamp(os.fstat(file.fileno()))


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_ino, status.st_size, status.st_mtime_ns


def mark(path: Name) -> str:
    """Size and modification time of a file as text, which are a part of its rows' keys; `-` where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return "-"
    return mark_of(status.st_size, status.st_mtime_ns)


def mark_of(size: int, mtime_ns: int) -> str:
    """The mark of a file of that size in bytes and that modification time."""
    return f"{size} {mtime_ns}"


def status(path: Name | int) -> os.stat_result:
    """What the file system says of a file, or of the one that a descriptor reads.

    Raises:
        OSError: there is none.
    """
    return os.stat(path)


def exists(path: Name) -> bool:
    """Whether there is a file or folder."""
    return os.path.exists(path)


def is_file(path: Name) -> bool:
    """Whether there is a file."""
    return os.path.isfile(path)


def is_folder(path: Name) -> bool:
    """Whether there is a folder."""
    return os.path.isdir(path)


def matching(pattern: str) -> list[str]:
    """The names that a glob pattern fits, sorted."""
    return sorted(glob.glob(pattern, recursive=True))


def entries(folder: Path, pattern: str = "*") -> list[Path]:
    """What lies in a folder and fits a pattern, sorted; nothing where there is no folder."""
    return sorted(folder.glob(pattern))


def reader(path: Name) -> IO[bytes]:
    """A file to read, without a buffer.

    Raises:
        OSError: it cannot be opened.
    """
    return open(path, "rb", buffering=0)


def descriptor(path: Name) -> int:
    """A descriptor to read a file by, which the caller closes; a pipe or device does not hold it up.

    Raises:
        OSError: it cannot be opened.
    """
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def read(path: Name) -> bytes:
    """All of a file.

    Raises:
        OSError: it cannot be read.
    """
    with reader(path) as file:
        return file.read()


def write(path: Path, data: bytes) -> None:
    """Write a small file of which a half does no harm.

    Raises:
        OSError: the disk is full, read-only or gone.
    """
    path.write_bytes(data)


def make_folder(path: Path) -> None:
    """Make a folder and those that it is in, where they are not there.

    Raises:
        OSError: the disk is full, read-only or gone.
    """
    path.mkdir(parents=True, exist_ok=True)


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    path.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path, *, keep_same: bool = False) -> Iterator[IO[bytes]]:
    """A file to write, which takes the place of `path` when it is complete and on the disk.

    A link is followed and its target replaced; the mode of a replaced file is kept.

    Args:
        keep_same: leave what stands there alone if it has the same bytes, so that its time says when it changed.

    Raises:
        StorageError: as for write().
    """
    with storing(path):
        target = Path(os.path.realpath(path))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:  # as a file
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        if target.exists() and not target.is_file():
            raise MetaError(f"{path}: not a regular file; give another --output")
        _remove_stale(target)
        tag = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        partial = target.parent / f".{_beginning(target)}.{tag}.tmp"
        try:
            with open(partial, "xb") as file:
                yield file
                file.flush()
                if keep_same and target.exists() and filecmp.cmp(partial, target, shallow=False):
                    return
                os.fsync(file.fileno())
            if target.exists():
                os.chmod(partial, stat.S_IMODE(target.stat().st_mode))
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
        _sync_folder(target.parent)


def _beginning(target: Path) -> str:
    """So much of a file's name as leaves room for more: a name has at most 255 bytes."""
    return os.fsencode(target.name)[:120].decode("utf-8", "ignore")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some shared file systems refuse it for folders; the file itself is synced
        return
    finally:
        os.close(descriptor)


def _remove_stale(target: Path) -> None:
    """Remove what killed writers of this host left beside `target`."""
    host = socket.gethostname()
    for partial in target.parent.glob(f".{glob.escape(_beginning(target))}.*.tmp"):
        *_, tag, _ = partial.name.rsplit(".", 2)
        name, _, rest = tag.partition(f"{host}-")
        pid = rest.split("-")[0]
        if not name and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            partial.unlink(missing_ok=True)
