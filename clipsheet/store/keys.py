"""Keys: what identifies a row for a scorer, and a file for a feature."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow as pa

from clipsheet import places, tables

KEY_BYTES = 24
ROWS_PER_PART = 4_000  # of keys, and of verdicts in a file, that are handled at a time
STAT_THREADS = 16
STAT_CHUNK = 500
SLOW_CHUNK_SECONDS = 0.02  # a local disk takes 1 ms; threads would only be in each other's way


def row_keys(frame: pd.DataFrame, reads: Sequence[str], marks: pa.Array | None = None) -> pa.Array:
    """[N] text: for every row 24 hex digits of what a scorer that reads these columns depends on.

    Args:
        marks: [N] what file_marks() gave for `path`, where that is among the columns.
    """
    columns = [tables.text(frame, name) for name in reads]
    keys = np.empty(len(frame), f"S{KEY_BYTES}")
    for start in range(0, len(frame), ROWS_PER_PART):
        cells = [column.iloc[start : start + ROWS_PER_PART].tolist() for column in columns]
        if marks is not None:
            cells.append(marks.slice(start, ROWS_PER_PART).to_pylist())
        keys[start : start + ROWS_PER_PART] = [_digest(row) for row in zip(*cells, strict=True)]
    ends = np.arange(len(keys) + 1, dtype=np.int64) * KEY_BYTES
    return pa.Array.from_buffers(pa.large_string(), len(keys), [None, pa.py_buffer(ends), pa.py_buffer(keys)])


def _digest(cells: Iterable[str]) -> str:
    text = "\x1f".join(cells).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=KEY_BYTES // 2).hexdigest()


def file_marks(paths: pa.Array | pa.ChunkedArray) -> pa.Array:
    """[N] text: size and modification time of each file; where the disk lets us wait, many are asked for at a time."""
    marks: list[pa.Array] = []
    done, waited = 0, 0.0

    def some(at: int) -> pa.Array:
        return pa.array(map(places.mark, paths.slice(at, STAT_CHUNK).to_pylist()), pa.large_string())

    while done < len(paths) and waited < SLOW_CHUNK_SECONDS:
        started = time.monotonic()
        marks.append(some(done))
        done += STAT_CHUNK
        waited = time.monotonic() - started
    rest = range(done, len(paths), STAT_CHUNK)
    if rest:
        with ThreadPoolExecutor(STAT_THREADS) as threads:
            marks += threads.map(some, rest)
    return pa.concat_arrays(marks) if marks else pa.array([], pa.large_string())
