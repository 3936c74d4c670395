"""CSV files parsed strictly: by Arrow where possible, else by the standard library, which names the line."""

from __future__ import annotations

import contextlib
import csv
import itertools
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from clipsheet import places
from clipsheet.errors import MetaError, one_line
from clipsheet.tables.names import check_names

BLOCK_BYTES = 1 << 20
PARSERS = 2
RELEASE_EVERY = 4
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
csv.field_size_limit(sys.maxsize)


def read_csv(path: Path) -> pd.DataFrame:
    """A CSV file as a frame of text columns.

    UTF-8 with or without a byte order mark, comma separated, LF or CRLF; blank lines are skipped.
    The file is read block by block, so that no more than the table itself stays in memory.

    Raises:
        MetaError: with record and line, for everything that a lenient reader would guess at.
    """
    with _opened(path) as file:
        table = _read_csv(file, path)
    release_memory()
    return table.to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)


def read_header(path: Path) -> list[str]:
    """The names of the columns of a CSV file.

    Raises:
        MetaError: as read_csv() does, as far as that can be known from the beginning of the file.
    """
    with _opened(path) as file:
        return _checked_header(file, path)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A CSV file while it is read; what goes wrong meanwhile is a MetaError."""
    try:
        with places.reader(path) as file:
            yield file
    except FileNotFoundError:
        raise MetaError(f"{path}: no such table") from None
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error
    except OSError as error:
        raise MetaError(f"{path}: cannot be read: {error.strerror}") from error


def _read_csv(file: IO[bytes], path: Path) -> pa.Table:
    before = places.stamp_of(file)
    names = _checked_header(file, path)
    table = _parse_fast(file, names, path)
    if table is None:  # only the strict parser can tell what is meant
        table = _parse_strictly(file, names, path)
    if pc.any(pc.equal(table.column(0), names[0])).as_py():
        _refuse_repeated_header(table, names, file, path)
    if places.stamp(path) != before:  # read from its beginning more than once
        raise MetaError(f"{path}: changed while it was read; run this again")
    return table


def release_memory() -> None:
    """Give the system back what reading and joining tables took for a moment."""
    pa.default_memory_pool().release_unused()


def _checked_blocks(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """The bytes of a text file in blocks; raises a MetaError where it is none."""
    file.seek(0)
    line, start, blank = 1, 0, True
    while block := file.read(BLOCK_BYTES):
        if not start and block[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise MetaError(f"{path}: byte 0: UTF-16 text; save the table as UTF-8")
        nul = block.find(b"\0")
        if nul >= 0:
            line += block.count(b"\n", 0, nul)
            raise MetaError(f"{path}: line {line}, byte {start + nul}: a NUL byte; this is not a text table")
        text = block if start else block.removeprefix(BYTE_ORDER_MARK)
        blank = blank and not text.strip()
        line += block.count(b"\n")
        start += len(block)
        yield text
    if blank:
        raise MetaError(f"{path}: empty; a table begins with a header line that names its columns")


def _checked_header(file: IO[bytes], path: Path) -> list[str]:
    """The names of the columns; raises a MetaError where the file does not begin like a text table."""
    next((block for block in _checked_blocks(file, path) if block.strip()), None)
    try:
        names = next(row for row in _strict_reader(file) if row)
    except csv.Error as error:
        raise MetaError(f"{path}: line 1: {error}; this is no header of column names") from error
    if len(names) == 1 and any(c in names[0] for c in ";\t"):
        raise MetaError(
            f"{path}: the header has one column `{one_line(names[0])}`; the separator must be a comma"
        )
    check_names(names, path)
    return names


def _strict_reader(file: IO[bytes]) -> Any:
    """The records of a CSV file, from its beginning, by the parser of the standard library."""
    file.seek(0)
    return csv.reader(open(file.fileno(), encoding="utf-8-sig", newline="", closefd=False), strict=True)


def _not_utf8(path: Path) -> MetaError:
    data = places.read(path)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return MetaError(f"{path}: line {line}, byte {error.start}: not UTF-8; save the table as UTF-8")
    return MetaError(f"{path}: changed while it was read; run this again")


def _parse_fast(file: IO[bytes], names: list[str], path: Path) -> pa.Table | None:
    """The table by Arrow's parser, or None where only the strict one can tell what is meant.

    Arrow gets whole records: left to itself it reads ahead, and where one of its blocks ends between
    CR and LF it loses the LF, even in a quoted cell.
    """
    kinds = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.large_string()), strings_can_be_null=False
    )

    def parse(text: bytes) -> pa.Table:
        reading = pa.csv.ReadOptions(block_size=len(text) + 2, column_names=names, use_threads=False)
        parsing = pa.csv.ParseOptions(newlines_in_values=b'"' in text)
        whole = b"\n" + text  # what looks like a byte order mark is none
        return pa.csv.read_csv(pa.py_buffer(whole), reading, parsing, kinds)

    tables: list[pa.Table] = []
    with ThreadPoolExecutor(PARSERS) as threads:
        begun: deque[Future[pa.Table]] = deque()
        try:
            for text in _whole_records(_checked_blocks(file, path)):
                if text is None:
                    return None
                if text.strip(b"\r\n"):
                    begun.append(threads.submit(parse, text))
                if len(begun) > PARSERS:
                    tables.append(begun.popleft().result())
                    if len(tables) % RELEASE_EVERY == 0:
                        release_memory()
            tables += [future.result() for future in begun]
        except pa.ArrowInvalid:
            return None
    return pa.concat_tables(tables).slice(1)


def _whole_records(blocks: Iterable[bytes]) -> Iterator[bytes | None]:
    """A CSV text cut after ends of records; None where its quotes are not regular.

    Regular: every quote opens a cell, closes one, or is one of a doubled pair inside one. In such a
    text the quotes take turns: each even one stands at the start of a cell or right after its twin,
    each odd one at the end of a cell or right before its twin.
    """
    text, least = b"", 0
    for block in itertools.chain(blocks, [b""]):
        text += block
        if block and len(text) < least:
            continue
        quotes = np.flatnonzero(np.frombuffer(text, np.uint8) == ord('"'))
        stop = text.rfind(b"\n") + 1 if block else len(text)
        while block and stop:
            before = int(np.searchsorted(quotes, stop))
            if before % 2 == 0:
                break
            stop = text.rfind(b"\n", 0, quotes[before - 1]) + 1  # before the cell that goes on there
        quotes = quotes[: np.searchsorted(quotes, stop)]
        framed = np.frombuffer(b"\n" + text[:stop] + b"\n", np.uint8)
        outside = np.concatenate([framed[quotes[0::2]], framed[quotes[1::2] + 2]])
        yield text[:stop] if len(quotes) % 2 == 0 and _MAY_MEET_QUOTES[outside].all() else None
        text = text[stop:]
        least = 2 * len(text)  # a cell of many blocks is not looked through for each of them


_MAY_MEET_QUOTES = np.isin(np.arange(256), [*b',\n\r"'])


def _parse_strictly(file: IO[bytes], names: list[str], path: Path) -> pa.Table:
    """The table by the strict parser of the standard library, which can say where it is wrong."""
    columns: list[list[str]] = [[] for _ in names]
    reader = _strict_reader(file)
    record, line = 0, 1
    try:
        for row in reader:
            if row:
                if len(row) != len(names):
                    raise MetaError(
                        f"{path}: record {record} (line {line}) has {len(row)} cells, "
                        f"the header has {len(names)}"
                    )
                for column, cell in zip(columns, row, strict=True):
                    column.append(cell)
                record += 1
            line = reader.line_num + 1
    except csv.Error as error:
        raise MetaError(
            f"{path}: record {record}, which begins in line {line}: {error}; is a quote not closed?"
        ) from error
    arrays = [pa.array(column[1:], pa.large_string()) for column in columns]
    return pa.table(arrays, names=names)


def _refuse_repeated_header(table: pa.Table, names: list[str], file: IO[bytes], path: Path) -> None:
    same = pa.chunked_array([pa.array(np.ones(table.num_rows, bool))])
    for index, name in enumerate(names):
        same = pc.and_(same, pc.equal(table.column(index), name))
    at = pc.index(same, True).as_py()
    if at >= 0:
        reader = _strict_reader(file)
        line = next(itertools.islice((reader.line_num for row in reader if row), at + 1, None))
        raise MetaError(
            f"{path}: record {at + 1} (line {line}) is the header again; were two files joined? "
            "Delete that line"
        )
