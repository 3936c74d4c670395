"""Which paths of a table are opened at all."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from clipsheet import places
from clipsheet.errors import MediaError


def check_path(path: str, root: str | None = None) -> tuple[str, os.stat_result]:
    """The absolute path of a regular, readable file without links in it, and its stat.

    Args:
        root: refuse whatever lies outside this folder once all links are followed.

    Raises:
        MediaError: bad_path, missing, unreadable, not_a_file, outside_root or empty_file.
    """
    if not path.strip():
        raise MediaError("bad_path", "the cell is empty")
    try:
        os.fsencode(path).decode("utf-8")
    except UnicodeError as error:
        raise MediaError("bad_path", f"not UTF-8: {error}") from error
    if "\0" in path:
        raise MediaError("bad_path", "holds a NUL")
    try:
        real = os.path.realpath(path, strict=True)
        status = places.status(real)
    except OSError as error:
        raise _path_error(path, error) from error
    if root is not None and os.path.commonpath([os.path.realpath(root), real]) != os.path.realpath(root):
        raise MediaError("outside_root", real)
    if not stat.S_ISREG(status.st_mode):
        raise MediaError("not_a_file", stat.filemode(status.st_mode))
    if not os.access(real, os.R_OK):
        raise MediaError("unreadable", "permission denied")
    if not status.st_size:
        raise MediaError("empty_file")
    return real, status


_URL_SCHEMES: Final = (
    "http:",
    "https:",
    "ftp:",
    "rtsp:",
    "rtmp:",
    "tcp:",
    "udp:",
    "data:",
    "concat:",
    "subfile,",
    "s3:",
)


def _path_error(path: str, error: OSError) -> MediaError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        if path.lower().startswith(_URL_SCHEMES):
            return MediaError("bad_path", "a URL; only local files are read")
        return MediaError("missing", error.strerror or "")
    if error.errno == errno.ENAMETOOLONG:
        return MediaError("bad_path", error.strerror or "")
    return MediaError("unreadable", error.strerror or "")
