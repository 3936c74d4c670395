"""Tables written exactly, and replaced in one step."""

from __future__ import annotations

import errno
import filecmp
import glob
import os
import secrets
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipsheet.errors import MetaError, storing
from clipsheet.tables.cells import TEXT, TEXT_COLUMNS, as_text
from clipsheet.tables.names import sidecar

ROWS_PER_WRITE = 1 << 14


def write(frame: pd.DataFrame, path: Path) -> None:
    """Write a table in place of `path`, all of it or nothing.

    Raises:
        StorageError: the disk is full, read-only or gone; what stood at `path` is untouched.
    """
    write_parts(frame, [path])


def write_parts(frame: pd.DataFrame, paths: Sequence[Path]) -> None:
    """Write a table as parts of equal length, in which a column has one and the same type.

    Raises:
        StorageError: as for write().
    """
    table = _typed(frame) if paths[0].suffix == ".parquet" else None
    start = 0
    for path, rows in zip(paths, np.array_split(np.arange(len(frame)), len(paths)), strict=True):
        with replacing(path, keep_same=True) as file:
            if table is not None:
                pq.write_table(table.slice(start, len(rows)), file)
            else:
                for piece in csv_bytes(frame.iloc[start : start + len(rows)]):
                    file.write(piece)
        start += len(rows)


def write_sidecar(frame: pd.DataFrame, output: Path, kind: str) -> None:
    """Write `<output stem>_<kind>`, or remove an old one when there is nothing to say."""
    path = sidecar(output, kind)
    if len(frame):
        write(frame, path)
    else:
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


def csv_bytes(frame: pd.DataFrame) -> Iterator[bytes | memoryview]:
    """The CSV text of a table in pieces: UTF-8, LF, quotes only where a reader needs them."""
    names = _quoted(pa.array(list(frame.columns), pa.large_string()))
    yield (",".join(names.to_pylist()) or '""').encode() + b"\n"
    columns = [pa.array(frame[c]) for c in frame.columns]
    for start in range(0, len(frame), ROWS_PER_WRITE):
        cells = [_quoted(as_text(c.slice(start, ROWS_PER_WRITE))) for c in columns]
        if len(cells) == 1:  # an empty line would be skipped by every reader
            cells = [pc.if_else(pc.equal(cells[0], ""), '""', cells[0])]
        cells[-1] = _join(cells[-1], "", separator="\n")
        lines = _join(*cells, separator=",")
        for chunk in lines.chunks if isinstance(lines, pa.ChunkedArray) else [lines]:
            yield _values(chunk)


def _quoted(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    if not _has_special(column):
        return column
    special = pc.match_substring_regex(column, '[",\n\r]')
    doubled = pc.replace_substring(column, '"', '""')
    return pc.if_else(special, _join('"', doubled, '"', separator=""), column)


def _has_special(column: pa.Array | pa.ChunkedArray) -> bool:
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    texts = (bytes(_values(chunk)) for chunk in chunks)
    return any(special in text for text in texts for special in (b",", b'"', b"\n", b"\r"))


def _values(array: pa.Array) -> memoryview:
    """The characters of a text array, one cell after another."""
    _, offsets, values = array.buffers()
    ends = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return memoryview(values)[ends[0] : ends[-1]] if len(array) and values else memoryview(b"")


def _join(*parts: pa.Array | pa.ChunkedArray | str, separator: str) -> pa.Array | pa.ChunkedArray:
    large = [pa.scalar(p, pa.large_string()) if isinstance(p, str) else p for p in parts]
    return pc.binary_join_element_wise(*large, pa.scalar(separator, pa.large_string()))


def _typed(frame: pd.DataFrame) -> pa.Table:
    """Columns for Parquet: text becomes integers or floats where every cell is exactly that number."""
    columns = {}
    for name in frame.columns:
        column = pa.array(frame[name])
        if frame[name].dtype == TEXT:
            column = pc.if_else(pc.equal(column, ""), None, column)
            column = column if name in TEXT_COLUMNS else _exact_numbers(column)
        columns[name] = column
    return pa.table(columns)


#: How Python writes a number, and a plain decimal; not `007`, `+1` or `1e5`.
_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?(e[+-][0-9]+)?$"


def _exact_numbers(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    if column.null_count == len(column) or not pc.all(pc.match_substring_regex(column, _NUMBER)).as_py():
        return column
    for kind in (pa.int64(), pa.float64()):
        try:
            converted = pc.cast(column, kind)
        except pa.ArrowInvalid:
            continue
        if not pc.all(pc.is_finite(converted)).as_py():
            continue
        other = pc.not_equal(as_text(converted), pc.fill_null(column, ""))
        if all(_same_number(text, kind) for text in pc.filter(column, other).to_pylist()):
            return converted
    return column


def _same_number(text: str, kind: pa.DataType) -> bool:
    """Whether a cell that is not the shortest text of its float still is that number, in plain digits."""
    return pa.types.is_floating(kind) and "e" not in text and Decimal(text) == Decimal(repr(float(text)))
