"""Files of running processes: locks, and files that one process appends to."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from clipsheet import places
from clipsheet.errors import Incomplete, storing

log = logging.getLogger(__name__)

FOLDER = ".clipsheet"
SYNC_SECONDS = 1.0


class ProcessFile:
    """A file that one process appends to, locked until it ends; one that stays empty is removed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._synced = time.monotonic()
        with storing(path):
            self._file: IO[bytes] = open(path, "xb", buffering=0)
            self._locked = try_lock(self._file)

    @classmethod
    def new(cls, folder: Path, ending: str) -> ProcessFile:
        """A new one in `folder`, named after the moment, the host and the process."""
        while True:
            moment = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{time.time_ns() % 10**9:09d}"
            file = cls(folder / f"{moment}-{socket.gethostname()}-{os.getpid()}.{ending}")
            if file._is_ours():
                return file

    def _is_ours(self) -> bool:
        """Whether nobody took the new file for one of an ended process before it was locked."""
        with contextlib.suppress(FileNotFoundError):
            same = os.path.samestat(os.fstat(self._file.fileno()), places.status(self.path))
            if same and self._locked is not False:
                return True
        self._file.close()
        return False

    def append(self, data: bytes) -> None:
        """Put all of it at the end, on the disk within a second or two.

        Raises:
            StorageError: the disk is full or gone.
        """
        with storing(self.path):
            written = self._file.write(data)
            if written != len(data):  # a disk that fills up takes a part of it
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            now = time.monotonic()
            if now - self._synced > SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = now

    def close(self) -> None:
        """It is complete."""
        empty = self._file.tell() == 0
        with storing(self.path):
            os.fsync(self._file.fileno())
            if empty:
                places.remove(self.path)
            self._file.close()


@contextlib.contextmanager
def ended_among(paths: Iterable[Path], folder: Path) -> Iterator[list[Path]]:
    """Those files of processes whose process has ended, kept from others meanwhile.

    None, while another process does the same in `folder`.
    """
    with contextlib.ExitStack() as stack, storing(folder):
        if try_lock(stack.enter_context(open(folder / "lock", "ab"))):
            yield [path for path in paths if try_lock(stack.enter_context(open(path, "ab")))]
        else:
            yield []


def try_lock(file: IO[bytes]) -> bool | None:
    """Take an exclusive lock that the kernel frees when the process ends.

    Returns:
        False if another has it, None where the file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            raise
        log.warning("%s: this file system has no locks; run one tool at a time per folder", file.name)
        return None
    return True


@contextlib.contextmanager
def working_on(output: Path) -> Iterator[None]:
    """Hold the lock of a table while it is made.

    Raises:
        Incomplete: another process is making it; says which.
        StorageError: the folder cannot be written.
    """
    path = output.parent / FOLDER / "locks" / f"{output.name}.lock"
    with storing(path):
        places.make_folder(path.parent)
        file = open(path, "a+b")
    with file:
        if try_lock(file) is False:
            file.seek(0)
            holder = file.read(1000).decode("utf-8", "replace").strip() or "another process"
            raise Incomplete(f"{output}: {holder} is making it; wait for that and run this again")
        with storing(path):
            file.truncate(0)
            started = time.strftime("%Y-%m-%d %H:%M:%S")
            command = " ".join(sys.argv)[:200]
            file.write(
                f"pid {os.getpid()} on host {socket.gethostname()}, started {started} ({command})".encode()
            )
            file.flush()
        yield
