"""What can go wrong, as exceptions: one tree, one closed list of row failures, one exit code each.

    ClipsheetError
    +- CallError        exit 2: a wrong call, config, table or weight file; one sentence that says how to mend it
    |  +- MetaError     ... in a table
    |  +- ConfigError   ... in a config file
    +- TooManyFailed    exit 3: every row has its verdict, but more failed than is allowed
    +- Incomplete       exit 4: stopped early; the same command again does the rest
    +- StorageError     exit 5: a disk that is full, read-only or gone
    Stopped             exit 4: a signal; no `except Exception` on the way can swallow it
    MediaError          never leaves the run: it becomes one row's failure, `<scorer>: <code>`

Anything else is a bug: it ends the program with its traceback and exit code 1.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OK, BUG, WRONG_CALL, TOO_MANY_FAILED, INCOMPLETE, STORAGE = range(6)

#: Every code that may stand in the `error` column, with its meaning.
CODES = {
    "missing": "no file at this path",
    "unreadable": "the file or its folder may not be read, or the link is a loop",
    "not_a_file": "a folder, pipe, socket or device",
    "bad_path": "the cell is empty, not UTF-8, holds a NUL or is a URL",
    "outside_root": "the path leaves the folder given by --root",
    "empty_file": "0 bytes",
    "corrupt": "no container or picture format that can be read",
    "format_not_allowed": "a playlist, script or other format that can refer to further files",
    "no_video": "no video stream (sound or cover art only)",
    "no_frames": "a video stream without a single frame",
    "decode_error": "frames are there and cannot be decoded",
    "partial": "less was written than was asked for",
    "too_large": "more pixels per frame than is allowed",
    "too_small": "fewer pixels than this measure needs",
    "too_long": "longer than is allowed",
    "timeout": "no end within the time allowed for a file of this length",
    "crashed": "the decoder died on this file, twice",
    "out_of_memory": "more memory than a worker may use",
    "gpu_oom": "more GPU memory than there is, even alone",
    "nonfinite": "the result is NaN or infinite",
    "bad_value": "a cell that this tool reads does not hold what it must",
    "bad_text": "a caption file that cannot be decoded or parsed",
    "bad_output": "the model's answer cannot be used",
    "changed": "the file changed while it was read",
    "model_error": "the model refused this sample",
}

#: Codes that another day may mend: such rows are tried again, up to MAX_TRIES times.
TRANSIENT = frozenset(["timeout", "crashed", "out_of_memory", "gpu_oom", "unreadable", "missing", "changed"])
MAX_TRIES = 3

#: Codes that speak of the machine, not of the file: many of them at once mean an unmounted disk.
ENVIRONMENTAL = frozenset(["missing", "unreadable", "model_error"])


class ClipsheetError(Exception):
    """An error that is explained in one line and has an exit code."""

    exit_code = BUG


class CallError(ClipsheetError):
    """A wrong call, config, table or weight file: says what, where and how to mend it."""

    exit_code = WRONG_CALL


class MetaError(CallError):
    """A table that cannot be used."""


class ConfigError(CallError):
    """A config that cannot be used."""


class TooManyFailed(ClipsheetError):
    """Every row has its verdict, but more rows failed than `--max_failed` allows."""

    exit_code = TOO_MANY_FAILED


class Incomplete(ClipsheetError):
    """The run ended early; the same command again finishes it."""

    exit_code = INCOMPLETE


class Stopped(BaseException):
    """A signal asked the program to end."""

    exit_code = INCOMPLETE


class StorageError(ClipsheetError):
    """A file could not be written; what stood there before is untouched."""

    exit_code = STORAGE


class MediaError(Exception):
    """One sample's failure: `code` is a key of CODES, `detail` one line for people."""

    def __init__(self, code: str, detail: str = "") -> None:
        if code not in CODES:
            raise ValueError(f"unknown failure code {code!r}; known are {', '.join(CODES)}")
        super().__init__(code, detail)
        self.code = code
        self.detail = one_line(detail)
        self.trace = ""  # of an exception that nobody foresaw, for the log


def one_line(text: str, limit: int = 200) -> str:
    """`text` on one line of at most `limit` characters, control characters shown as escapes."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


#: With which a system refuses to write.
STORAGE_ERRNOS = frozenset(
    [
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EFBIG,
        errno.EACCES,
        errno.EPERM,
        errno.EIO,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EMFILE,
        errno.ENAMETOOLONG,
    ]
)


@contextmanager
def storing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an operating system's refusal to write at `path` into a StorageError.

    Raises:
        StorageError: names the path, the reason and the free space.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in STORAGE_ERRNOS:
            raise
        raise StorageError(_storage_message(Path(path), error)) from error


def _storage_message(path: Path, error: OSError) -> str:
    try:
        nearest = next(p for p in (path, *path.parents) if p.exists())
        free = f", {shutil.disk_usage(nearest).free:,} bytes free there"
    except (OSError, StopIteration):
        free = ""
    return f"cannot write {one_line(str(path))}: {error.strerror}{free}; mend that and run the same command again"
