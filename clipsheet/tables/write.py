"""Tables written exactly, and replaced in one step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipsheet import places
from clipsheet.errors import MetaError
from clipsheet.tables.cells import TEXT, TEXT_COLUMNS, as_text
from clipsheet.tables.names import sidecar

ROWS_PER_WRITE = 1 << 14
NO_TYPES: Mapping[str, pa.DataType] = MappingProxyType({})


def write(frame: pd.DataFrame, path: Path, types: Mapping[str, pa.DataType] = NO_TYPES) -> None:
    """Write a table in place of `path`, all of it or nothing.

    Args:
        types: of some columns in a Parquet file; that of others follows from their cells.

    Raises:
        StorageError: the disk is full, read-only or gone; what stood at `path` is untouched.
    """
    write_parts(frame, [path], types)


def write_parts(
    frame: pd.DataFrame, paths: Sequence[Path], types: Mapping[str, pa.DataType] = NO_TYPES
) -> None:
    """Write a table as parts of equal length, in which a column has one and the same type.

    Args:
        types: see write().

    Raises:
        StorageError: as for write().
    """
    table = _typed(frame, types) if paths[0].suffix == ".parquet" else None
    start = 0
    for path, rows in zip(paths, np.array_split(np.arange(len(frame)), len(paths)), strict=True):
        with places.replacing(path, keep_same=True) as file:
            if table is not None:
                pq.write_table(table.slice(start, len(rows)), file)
            else:
                for piece in csv_bytes(frame.iloc[start : start + len(rows)]):
                    file.write(piece)
        start += len(rows)


def write_sidecar(frame: pd.DataFrame, output: Path, kind: str) -> None:
    """Write `<output stem>_<kind>`, or remove an old one when there is nothing to say."""
    path = sidecar(output, kind)
    if places.is_folder(path):
        raise MetaError(f"{path}: a folder, where the {kind} rows are to be written; move it away")
    if len(frame):
        write(frame, path)
    else:
        places.remove(path)


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


def _typed(frame: pd.DataFrame, types: Mapping[str, pa.DataType]) -> pa.Table:
    """Columns for Parquet: text becomes integers or floats where every cell is exactly that number."""
    columns = {}
    for name in frame.columns:
        column = pa.array(frame[name])
        if frame[name].dtype == TEXT:
            column = pc.if_else(pc.equal(column, ""), None, column)
            if name in types:
                column = _cast(column, types[name])
            elif name not in TEXT_COLUMNS:
                column = _exact_numbers(column)
        columns[name] = column
    return pa.table(columns)


def _cast(column: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """Text as another type; as it is where a cell does not hold such a value."""
    try:
        return pc.cast(column, kind)
    except pa.ArrowInvalid:
        return column


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
