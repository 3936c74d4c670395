"""Tables: read and written exactly as they stand, their names, and the `error` column.

A table is a `pandas.DataFrame` whose CSV columns are all text (Arrow strings): a cell is turned into
a number only where a number is needed, so what a tool does not own goes out byte for byte as it
came in. The empty string is the only missing value. A Parquet file keeps its own types.
"""

from __future__ import annotations

import csv
import errno
import glob
import hashlib
import itertools
import os
import secrets
import socket
import stat
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from clipsheet.errors import MetaError, one_line, storing

EXTENSIONS = (".csv", ".parquet")
SIDECARS = ("failed", "dropped")
#: Never numbers, whatever their cells look like: a column has one type in every table.
TEXT_COLUMNS = frozenset("path text id relpath error source_path timestamp".split())
#: Of an automatic name without its ending; leaves room for `_dropped.parquet` and more.
MAX_STEM_BYTES = 200
MAX_NAME_BYTES = 255
TEXT = pd.ArrowDtype(pa.large_string())
BLOCK_BYTES = 1 << 20
PARSERS = 2
RELEASE_EVERY = 4
# Arrow's own allocators keep what they once had; a table is large, and often the only one.
pa.set_memory_pool(pa.system_memory_pool())
ROWS_PER_WRITE = 1 << 14
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
csv.field_size_limit(sys.maxsize)


# --- reading -----------------------------------------------------------------------------------


def expand(tables: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The table files meant by names and glob patterns, patterns sorted.

    Raises:
        MetaError: a name that is no file, a pattern that fits none, or another extension.
    """
    found: list[Path] = []
    for name in [os.fspath(table) for table in tables]:
        if os.path.exists(name):
            matches = [name]
        else:
            matches = sorted(glob.glob(name, recursive=True))
        if not matches:
            raise MetaError(f"{name}: no such table")
        found += map(Path, matches)
    for path in found:
        check_ending(path)
        if not path.is_file():
            raise MetaError(f"{path}: not a file")
    return found


def read(tables: Path | Sequence[str | os.PathLike[str]], needs: Iterable[str] = ("path",)) -> pd.DataFrame:
    """One table out of one or several files, their rows one after another, columns united.

    Args:
        tables: a path, or names and glob patterns.
        needs: columns that must be there.

    Raises:
        MetaError: no such file, not a table, or a needed column is missing.
    """
    paths = [tables] if isinstance(tables, Path) else expand(tables)
    frames = [read_parquet(p) if p.suffix == ".parquet" else read_csv(p) for p in paths]
    for path, frame in zip(paths, frames, strict=True):
        for column in needs:
            require(frame, column, path)
    return frames[0] if len(frames) == 1 else concatenate(frames)


def require(frame: pd.DataFrame, column: str, path: Path | str) -> None:
    """Raise a MetaError that names what is there, unless `frame` has `column`."""
    if column not in frame.columns:
        there = ", ".join(f"`{c}`" for c in frame.columns) or "none"
        raise MetaError(f"{path}: no column `{column}`; its columns are {there}")


def read_parquet(path: Path) -> pd.DataFrame:
    """A Parquet file as a frame of Arrow types, so that integers stay integers beside nulls."""
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise MetaError(f"{path}: no such table") from None
    except (pa.ArrowException, OSError) as error:
        raise MetaError(f"{path}: not a Parquet table: {one_line(str(error))}") from error
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            plain = table.column(index).cast(field.type.value_type)
            table = table.set_column(index, field.name, plain)
    check_names(table.column_names, path)
    return table.to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)


def read_csv(path: Path) -> pd.DataFrame:
    """A CSV file as a frame of text columns.

    UTF-8 with or without a byte order mark, comma separated, LF or CRLF; blank lines are skipped.
    The file is read block by block, so that no more than the table itself stays in memory.

    Raises:
        MetaError: with record and line, for everything that a lenient reader would guess at.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            table = _read_csv(file, path)
        release_memory()
        return table.to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
    except FileNotFoundError:
        raise MetaError(f"{path}: no such table") from None
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error
    except OSError as error:
        raise MetaError(f"{path}: cannot be read: {error.strerror}") from error


def _read_csv(file: IO[bytes], path: Path) -> pa.Table:
    before = stamp(os.fstat(file.fileno()))
    next((block for block in _checked_blocks(file, path) if block.strip()), None)
    names = _header(file, path)
    table = _parse_fast(file, names, path)
    if table is None:  # only the strict parser can tell what is meant
        table = _parse_strictly(file, names, path)
    if pc.any(pc.equal(table.column(0), names[0])).as_py():
        _refuse_repeated_header(table, names, file, path)
    if stamp(os.stat(path)) != before:  # read from its beginning more than once
        raise MetaError(f"{path}: changed while it was read; run this again")
    return table


def stamp(status: os.stat_result) -> tuple[int, int, int]:
    """What tells a file from the one that stood there before."""
    return status.st_ino, status.st_size, status.st_mtime_ns


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


def _header(file: IO[bytes], path: Path) -> list[str]:
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


def check_names(names: Sequence[str], path: Path) -> None:
    """Raise a MetaError for two columns whose names differ in case or spaces at most."""
    seen: dict[str, str] = {}
    for name in names:
        plain = name.strip().casefold()
        if plain in seen:
            raise MetaError(
                f"{path}: two columns of one name: `{seen[plain]}` and `{name}`; rename or delete one"
            )
        seen[plain] = name


def _strict_reader(file: IO[bytes]) -> Any:
    """The records of a CSV file, from its beginning, by the parser of the standard library."""
    file.seek(0)
    return csv.reader(open(file.fileno(), encoding="utf-8-sig", newline="", closefd=False), strict=True)


def _not_utf8(path: Path) -> MetaError:
    data = path.read_bytes()
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


def concatenate(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Tables one after another; a column that one of them lacks is empty there."""
    types: dict[str, set[object]] = {}
    for frame in frames:
        for column in frame.columns:
            types.setdefault(column, set()).add(frame[column].dtype)
    for index, frame in enumerate(frames):
        for column, kinds in types.items():
            if column not in frame.columns:
                if TEXT in kinds or len(kinds) > 1:
                    frame[column] = pd.Series([""] * len(frame), index=frame.index, dtype=TEXT)
            elif len(kinds) > 1:
                frame[column] = text(frame, column)
        frames[index] = frame
    return pd.concat(frames, ignore_index=True)


# --- cells -------------------------------------------------------------------------------------


def cell(value: object) -> str:
    """How a value stands in a CSV cell: the shortest exact number, JSON as is, None as nothing."""
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating):
        return repr(float(value))
    if isinstance(value, int | np.integer):
        return str(int(value))
    return str(value)


def text(frame: pd.DataFrame, column: str) -> pd.Series:
    """A column as text: CSV columns as they are, typed ones as they would stand in a CSV."""
    series = frame[column]
    if series.dtype == TEXT and not series.hasnans:
        return series
    return pd.Series(_as_text(pa.array(series)), index=frame.index, dtype=TEXT)


def text_column(cells: Sequence[str] | np.ndarray | pa.Array, frame: pd.DataFrame) -> pd.Series:
    """Cells as a text column that fits `frame`."""
    if isinstance(cells, pa.Array):
        return pd.Series(pd.arrays.ArrowExtensionArray(cells), index=frame.index)
    return pd.Series(cells, index=frame.index, dtype=TEXT)


def numbers(frame: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    """A column as numbers.

    Returns:
        values: [N] float64, NaN where the cell is empty or no finite number.
        bad: [N] bool, true where the cell is filled and no finite number.
    """
    array = pa.chunked_array([pa.array(frame[column])]) if len(frame) else pa.chunked_array([[]])
    if not any(is_kind(array.type) for is_kind in _NUMERIC):
        array = pa.chunked_array([_as_text(array)])
        trimmed = pc.utf8_trim_whitespace(array)
        filled = pc.fill_null(pc.not_equal(trimmed, ""), False)
        try:
            parsed = pc.cast(pc.if_else(filled, trimmed, None), pa.float64())
            values = parsed.to_numpy(zero_copy_only=False).astype(np.float64)
        except pa.ArrowInvalid:
            values = np.array([_number(c) for c in trimmed.to_pylist()], np.float64)
        filled = filled.to_numpy(zero_copy_only=False)
    else:
        values = pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        values = values.astype(np.float64)
        filled = pc.is_valid(array).to_numpy(zero_copy_only=False)
    bad = filled.astype(bool) & ~np.isfinite(values)
    return np.where(bad, np.nan, values), bad


_NUMERIC = (
    pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean, pa.types.is_null
)  # fmt: skip


def _number(cell: str | None) -> float:
    try:
        return float(cell or "nan")
    except ValueError:
        return float("nan")


def number_text(value: float) -> str:
    """A number in a file name: the shortest exact form, so that two thresholds never collide."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


# --- the error column --------------------------------------------------------------------------


def parse_errors(cell: str) -> dict[str, str]:
    """`"aes: corrupt; ocr: timeout"` as a dict from scorer to code, in order."""
    pairs = (entry.partition(":") for entry in cell.split(";") if entry.strip())
    return {name.strip(): code.strip() for name, _, code in pairs}


def format_errors(errors: Mapping[str, str]) -> str:
    """The inverse of parse_errors."""
    return "; ".join(f"{name}: {code}" if code else name for name, code in errors.items())


def set_errors(frame: pd.DataFrame, codes: Mapping[str, np.ndarray]) -> None:
    """Write the failures of some scorers into the column `error`; those of others stay.

    Args:
        codes: for each scorer one code per row, empty where it did not fail.
    """
    old = text(frame, "error").to_numpy() if "error" in frame.columns else np.full(len(frame), "")
    touched = old != ""
    for column in codes.values():
        touched = touched | (np.asarray(column, dtype=object) != "")
    new = old.astype(object)
    for row in np.flatnonzero(touched).tolist():
        errors = parse_errors(old[row])
        for name, column in codes.items():
            errors.pop(name, None)
            if column[row]:
                errors[name] = column[row]
        new[row] = format_errors(errors)
    frame["error"] = text_column(new, frame)


# --- names -------------------------------------------------------------------------------------


def check_ending(path: Path) -> None:
    """Raise a MetaError unless a file is named like a table."""
    if path.suffix not in EXTENSIONS:
        raise MetaError(f"{path}: a table ends in .csv or .parquet, not in {path.suffix!r}")


def output_path(
    inputs: Path | Sequence[Path], suffix: str, output: str | os.PathLike[str] | None = None
) -> Path:
    """Where a tool writes: `--output`, or `<first stem>_<suffix><ext>` beside its first table.

    Args:
        inputs: every table that the tool reads, or the only one.

    Raises:
        MetaError: the output or a table beside it would be an input, or is not a table's name.
    """
    paths = [inputs] if isinstance(inputs, Path) else inputs
    if output:
        path = Path(output)
        if len(os.fsencode(sidecar(path, "dropped").name)) > MAX_NAME_BYTES:
            raise MetaError(f"{path}: the name is too long for the files beside it; give a shorter --output")
    else:
        stem = _short(f"{paths[0].stem}_{suffix}".replace("/", "_"))
        path = paths[0].with_name(stem + paths[0].suffix)
    check_ending(path)
    check_output(paths, path)
    return path


def check_output(inputs: Sequence[Path], output: Path) -> None:
    """Raise a MetaError if `output` or a table that is written beside it is among the inputs."""
    there = {path.resolve() for path in inputs}
    for path in (output, *(sidecar(output, kind) for kind in SIDECARS)):
        if path.resolve() in there:
            raise MetaError(
                f"{path}: is an input, and no tool writes over its input: "
                "name the tables one by one, or give another --output"
            )


def digest(text: str, length: int) -> str:
    """So many letters that stand for a text in a file's name."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:length]


def _short(stem: str) -> str:
    """The stem of a file's name, its middle replaced where it is too long."""
    name = os.fsencode(stem)
    if len(name) <= MAX_STEM_BYTES:
        return stem
    middle = f"-{digest(stem, 12)}-"
    half = (MAX_STEM_BYTES - len(middle)) // 2
    return name[:half].decode("utf-8", "ignore") + middle + name[-half:].decode("utf-8", "ignore")


def sidecar(output: Path, kind: str) -> Path:
    """The table beside `output` that holds its failed or dropped rows: `<stem>_<kind><ext>`."""
    return output.with_name(f"{output.stem}_{kind}{output.suffix}")


# --- writing -----------------------------------------------------------------------------------


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
        with replacing(path) as file:
            if table is not None:
                pq.write_table(table.slice(start, len(rows)), file)
            else:
                for piece in csv_bytes(frame.iloc[start : start + len(rows)]):
                    file.write(piece)
        start += len(rows)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes the place of `path` when it is complete and on the disk.

    A link is followed and its target replaced; the mode of a replaced file is kept.

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
        cells = [_quoted(_as_text(c.slice(start, ROWS_PER_WRITE))) for c in columns]
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


def _as_text(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    if pa.types.is_large_string(column.type):
        return column if not column.null_count else pc.fill_null(column, "")
    if pa.types.is_string(column.type):
        return pc.fill_null(column.cast(pa.large_string()), "")
    if pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
        return pc.fill_null(pc.cast(column, pa.large_string()), "")
    return pa.array([cell(value) for value in column.to_pylist()], pa.large_string())


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
        other = pc.not_equal(_as_text(converted), pc.fill_null(column, ""))
        if all(_same_number(text, kind) for text in pc.filter(column, other).to_pylist()):
            return converted
    return column


def _same_number(text: str, kind: pa.DataType) -> bool:
    """Whether a cell that is not the shortest text of its float still is that number, in plain digits."""
    return pa.types.is_floating(kind) and "e" not in text and Decimal(text) == Decimal(repr(float(text)))
