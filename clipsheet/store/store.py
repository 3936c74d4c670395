"""Finished cells on disk: what makes every run resumable, and every edit of a table harmless.

Beside the tables stands a folder `.clipsheet`, safe to delete (the work is then done again):

    features/<name>-<fingerprint>/  the vectors of one feature, see class VectorFolder
    cells/<scorer>-<fingerprint>/   every verdict of one scorer with one set of parameters
        scorer.txt                  what the fingerprint stands for
        <utc>-<host>-<pid>.jsonl    verdicts as they come, one line each, of one process
        cells.parquet               those of ended processes, put together
    ranks/, locks/                  who is at work

A verdict is found by the key of its row, never by a row number: the cells that the scorer reads and
the size and modification time of the file. So sorted, split, merged and edited tables keep theirs.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import socket
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet as pq

from clipsheet import tables
from clipsheet.engine.launch import Rank
from clipsheet.errors import MAX_TRIES, TRANSIENT, Incomplete, MediaError, StorageError, storing
from clipsheet.media import READERS, VERSION
from clipsheet.scorer import MODELS, Feature, Scorer, provenance

log = logging.getLogger(__name__)

FOLDER = ".clipsheet"
KEY_BYTES = 24
SYNC_SECONDS = 1.0
COMPACT_BYTES = 1 << 20
COMPACT_FILES = 200
OVER = b"over"
START_SLACK_SECONDS = 600.0  # by which the processes of a launch may begin one after another
ROWS_PER_PART = 4_000  # of keys, and of verdicts in a file, that are handled at a time
STAT_THREADS = 16
STAT_CHUNK = 500
SLOW_CHUNK_SECONDS = 0.02  # a local disk takes 1 ms; threads would only be in each other's way
_EXTRA = ("_key", "_error", "_detail", "_tries", "_began")


# --- keys --------------------------------------------------------------------------------------


def row_keys(frame: pd.DataFrame, reads: Sequence[str]) -> pa.Array:
    """[N] text: for every row 24 hex digits of what a scorer that reads these columns depends on.

    With `path` among them, the size and modification time of the file count too.
    """
    columns = [tables.text(frame, name) for name in reads]
    keys = np.empty(len(frame), f"S{KEY_BYTES}")
    for start in range(0, len(frame), ROWS_PER_PART):
        cells = [column.iloc[start : start + ROWS_PER_PART].tolist() for column in columns]
        if "path" in reads:
            cells.append(_file_marks(cells[list(reads).index("path")]))
        keys[start : start + ROWS_PER_PART] = [_digest(row) for row in zip(*cells, strict=True)]
    ends = np.arange(len(keys) + 1, dtype=np.int64) * KEY_BYTES
    return pa.Array.from_buffers(pa.large_string(), len(keys), [None, pa.py_buffer(ends), pa.py_buffer(keys)])


def _digest(cells: Iterable[str]) -> str:
    text = "\x1f".join(cells).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=KEY_BYTES // 2).hexdigest()


def _file_marks(paths: Sequence[str]) -> list[str]:
    """Size and modification time of each file; where the disk lets us wait, many at a time."""
    marks: list[str] = []
    waited = 0.0
    while len(marks) < len(paths) and waited < SLOW_CHUNK_SECONDS:
        started = time.monotonic()
        marks += map(_file_mark, paths[len(marks) : len(marks) + STAT_CHUNK])
        waited = time.monotonic() - started
    rest = range(len(marks), len(paths), STAT_CHUNK)
    if rest:
        with ThreadPoolExecutor(STAT_THREADS) as threads:
            for more in threads.map(lambda at: [*map(_file_mark, paths[at : at + STAT_CHUNK])], rest):
                marks += more
    return marks


def _file_mark(path: str) -> str:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return "-"
    return f"{status.st_size} {status.st_mtime_ns}"


# --- verdicts ----------------------------------------------------------------------------------


class Store:
    """The `.clipsheet` folder beside a table.

    Args:
        reader: what decodes; verdicts by another are others.
        models: the folder of the weight files, whose hashes are part of every fingerprint.
    """

    def __init__(self, folder: Path, reader: str = READERS[0], models: Path = MODELS) -> None:
        self.folder = folder / FOLDER
        self._models = models
        self._by = f" frames v{VERSION}" + ("" if reader == READERS[0] else f" read by {reader}")

    def cells(self, scorer: Scorer) -> Cells:
        """The verdicts of a scorer with its parameters."""
        names = tuple(column.name for column in scorer.columns)
        by = self._by if "path" in scorer.reads else ""
        return self.verdicts_of(scorer.name, provenance(scorer, self._models) + by, names)

    def vectors(self, feature: Feature) -> VectorFolder:
        """The vectors of a feature with its parameters."""
        meaning = provenance(feature, self._models) + self._by
        return VectorFolder(self.folder / "features" / f"{feature.name}-{_fingerprint(meaning)}", meaning)

    def verdicts_of(self, name: str, meaning: str, columns: Sequence[str]) -> Cells:
        """The verdicts of whatever `meaning` describes in full; equal words, equal verdicts."""
        return Cells(self.folder / "cells" / f"{name}-{_fingerprint(meaning)}", meaning, tuple(columns))


def _fingerprint(meaning: str) -> str:
    return hashlib.blake2b(meaning.encode(), digest_size=6).hexdigest()


class Verdicts:
    """All verdicts of one scorer, to be looked up by key.

    Attributes:
        columns: [V] text of every cell, by column name.
        error, detail: [V] text, empty where the row is scored.
        tries: [V] int.
        began: how often scoring of a key began and never ended, which kills the process.
    """

    def __init__(self, table: pa.Table, names: Sequence[str], began: Mapping[str, int]) -> None:
        self._keys = _in_one(table.column("_key"))
        self.columns = {n: pc.fill_null(_in_one(table.column(n)), "") for n in names}
        self.error = pc.fill_null(_in_one(table.column("_error")), "")
        self.detail = pc.fill_null(_in_one(table.column("_detail")), "")
        self.tries = pc.fill_null(_in_one(table.column("_tries")), 1).to_numpy()
        self.began = began

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, keys: Sequence[str] | pa.Array) -> np.ndarray:
        """[N] int64 position of each key, -1 where there is no verdict."""
        wanted = keys if isinstance(keys, pa.Array) else pa.array(keys, pa.large_string())
        found = pc.fill_null(pc.index_in(wanted, value_set=self._keys), -1).to_numpy().astype(np.int64)
        tables.release_memory()  # of the index of the keys
        return found

    def scored(self, at: np.ndarray) -> np.ndarray:
        """[N] bool: whether there is a score at these positions, not a failure or nothing."""
        if not len(self):
            return at >= 0
        return (at >= 0) & (self.error.to_numpy(zero_copy_only=False) == "")[at]

    def final(self, at: np.ndarray, *, retry_failed: bool = False) -> np.ndarray:
        """[N] bool: whether the verdicts at these positions stand, or are to be tried (again)."""
        found = at >= 0
        if not len(self):
            return found
        codes = self.error.to_numpy(zero_copy_only=False)
        failed = codes != ""
        again = np.isin(codes, list(TRANSIENT)) & (self.tries < MAX_TRIES) | (self.tries == 0)
        again = failed if retry_failed else again
        return found & ~again[at]


@dataclass(frozen=True)
class Cells:
    """Verdicts of one kind on disk."""

    folder: Path
    meaning: str
    columns: tuple[str, ...]

    def load(self) -> Verdicts:
        """Everything that is known, the newest verdict of each key."""
        parts = self._journal_parts()
        began: dict[str, int] = {}
        for part in parts:
            for key in part.column("_began").drop_null().to_pylist():
                began[key] = began.get(key, 0) + 1
        parts = [p.filter(pc.is_null(p.column("_began"))) for p in parts if p.num_rows]
        table = pa.concat_tables([*self._compacted(), *parts] or [self._schema().empty_table()])
        verdicts = Verdicts(_newest(table) if parts else table, self.columns, began)
        del parts, table
        tables.release_memory()
        for key, at in zip(began, verdicts.find(list(began)), strict=True) if began else ():
            if at >= 0 and verdicts.error[at].as_py() != "crashed":  # the process lived to tell
                began[key] = 0
        return verdicts

    def _journal_parts(self) -> list[pa.Table]:
        """The journals; read before cells.parquet, which has every line that leaves one."""
        while True:
            try:
                return [_read_journal(path, self._schema()) for path in sorted(self._journals())]
            except FileNotFoundError:  # put together meanwhile, by another process
                continue

    def journal(self) -> Journal:
        """A new file for this process's verdicts."""
        with storing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "scorer.txt").write_text(self.meaning + "\n")
        return Journal(ProcessFile.new(self.folder, "jsonl"), self.columns)

    def compact(self) -> None:
        """Move the verdicts of ended processes from their journals into one Parquet file."""
        journals = sorted(self._journals())
        if len(journals) < COMPACT_FILES and sum(p.stat().st_size for p in journals) < COMPACT_BYTES:
            return
        with ended_among(journals[:COMPACT_FILES], self.folder) as ended:  # as many open files as allowed
            if not ended:
                return
            parts = [_read_journal(path, self._schema()) for path in ended]
            parts = [p.filter(pc.is_null(p.column("_began"))) for p in parts]
            table = _newest(pa.concat_tables([*self._compacted(), *parts]))
            with tables.replacing(self.folder / "cells.parquet") as file:
                pq.write_table(table, file, row_group_size=ROWS_PER_PART, use_dictionary=False)
            for path in ended:
                path.unlink()

    def _schema(self) -> pa.Schema:
        text = [pa.field(name, pa.large_string()) for name in self.columns]
        extra = [pa.field(n, pa.int64() if n == "_tries" else pa.large_string()) for n in _EXTRA]
        return pa.schema([*extra, *text])

    def _journals(self) -> Iterator[Path]:
        return self.folder.glob("*.jsonl")

    def _compacted(self) -> list[pa.Table]:
        path = self.folder / "cells.parquet"
        if not path.exists():
            return []
        try:
            with pq.ParquetFile(path, pre_buffer=False) as file:  # a column at a time takes less memory
                names = self._schema().names
                columns = [_in_one(file.read([name], use_threads=False).column(name)) for name in names]
            return [pa.table(columns, self._schema())]
        except (pa.ArrowException, OSError) as error:
            raise StorageError(f"{path}: damaged ({error}); delete it to do that work again") from error


def _in_one(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array, which is not copied where it is one."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _newest(table: pa.Table) -> pa.Table:
    """One row per key: a score before a failure, a later failure before an earlier one."""
    keys = table.column("_key")
    if len(pc.unique(keys)) == len(keys):
        return table.combine_chunks()
    rank = pa.table(
        {
            "_key": keys,
            "failed": pc.is_valid(table.column("_error")),
            "tries": pc.fill_null(table.column("_tries"), 1),
            "row": pa.array(np.arange(table.num_rows)),
        }
    )
    order = [("_key", "ascending"), ("failed", "ascending"), ("tries", "descending"), ("row", "descending")]
    rank = rank.sort_by(order)
    sorted_keys = rank.column("_key").to_numpy()
    first = np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]])
    return table.take(pa.array(np.sort(rank.column("row").to_numpy()[first]))).combine_chunks()


def _read_journal(path: Path, schema: pa.Schema) -> pa.Table:
    """The whole lines of a journal; a last one that was cut off by a kill is not there."""
    data = path.read_bytes()
    data = data[: data.rfind(b"\n") + 1]
    if not data:
        return schema.empty_table()
    try:
        table = pa.json.read_json(
            pa.py_buffer(data),
            read_options=pa.json.ReadOptions(block_size=min(max(len(data), 1 << 20), 1 << 28)),
            parse_options=pa.json.ParseOptions(schema, unexpected_field_behavior="error"),
        )
        if table.num_rows == data.count(b"\n"):
            return table
    except pa.ArrowInvalid:
        pass
    raise _bad_line(path, data, schema)


def _bad_line(path: Path, data: bytes, schema: pa.Schema) -> StorageError:
    number = 0
    for line in data.splitlines():
        number += 1
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or not entry.keys() <= set(schema.names):
            break
    return StorageError(
        f"{path}: line {number} is damaged; delete the line (its rows are done again) or the file"
    )


class ProcessFile:
    """A file that one process appends to, locked until it ends; one that stays empty is removed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._synced = time.monotonic()
        with storing(path):
            self._file: IO[bytes] = open(path, "xb", buffering=0)
            self._locked = _try_lock(self._file)

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
            same = os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path))
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
                self.path.unlink()
            self._file.close()


@contextlib.contextmanager
def ended_among(paths: Iterable[Path], folder: Path) -> Iterator[list[Path]]:
    """Those files of processes whose process has ended, kept from others meanwhile.

    None, while another process does the same in `folder`.
    """
    with contextlib.ExitStack() as stack, storing(folder):
        if _try_lock(stack.enter_context(open(folder / "lock", "ab"))):
            yield [path for path in paths if _try_lock(stack.enter_context(open(path, "ab")))]
        else:
            yield []


class Journal:
    """The verdicts of one process, each on the disk's way before the next is asked for."""

    def __init__(self, file: ProcessFile, names: Sequence[str]) -> None:
        self._file = file
        self._names = names

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def scored(self, key: str, values: Sequence[str]) -> None:
        """Keep a row's cells, one text per column."""
        self._write({"_key": key, **dict(zip(self._names, values, strict=True))})

    def failed(self, key: str, error: MediaError, tries: int) -> None:
        """Keep a row's failure and how often it has been tried; 0 for a failure that does not count."""
        self._write({"_key": key, "_error": error.code, "_detail": error.detail, "_tries": tries})

    def began(self, key: str) -> None:
        """Keep that the model is about to see this row, in case it kills the process."""
        self._write({"_began": key})

    def _write(self, entry: Mapping[str, object]) -> None:
        line = json.dumps(entry, ensure_ascii=False) + "\n"
        self._file.append(line.encode("utf-8", "backslashreplace"))


# --- feature vectors ---------------------------------------------------------------------------

POSITION_STEPS = 10**6
MERGE_FILES = 50


@dataclass(frozen=True)
class VectorFolder:
    """The vectors of one feature with one set of parameters on disk.

        feature.txt                     what the fingerprint stands for
        <utc>-<host>-<pid>.<D>.vectors  vectors of one process: D floats each
        <utc>-<host>-<pid>.<D>.keys     whose they are, in the same order: key, position, checksum

    A vector is that of the picture at a position (0 to 1) of the file that a key stands for. Both files
    hold records of one length and are only ever appended to, the vector first: a kill costs at most the
    last one. Keys are read whole, vectors only where they are used.
    """

    folder: Path
    meaning: str

    def load(self) -> Vectors:
        """Those that are there, to be looked up."""
        while True:
            try:
                return Vectors([(path, *_records(path)) for path in self._files()])
            except FileNotFoundError:  # put together meanwhile, by another process
                continue

    def writer(self) -> VectorWriter:
        """For this process's vectors."""
        with storing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "feature.txt").write_text(self.meaning + "\n")
        return VectorWriter(self.folder)

    def merge(self) -> None:
        """Put the files of ended processes into one where they are many."""
        files = self._files()
        if len(files) < MERGE_FILES:
            return
        with ended_among(files[:COMPACT_FILES], self.folder) as ended:
            if not ended:
                return
            merged = ended[0].with_name(f"merged-{ended[0].name}")
            parts = [_records(path) for path in ended]
            for number, path in enumerate((_keys_of(merged), merged)[::-1]):
                with tables.replacing(path) as file:
                    for keys, vectors in parts:
                        file.write((vectors if number == 0 else keys).tobytes())
            for path in ended:
                _keys_of(path).unlink()
                path.unlink()

    def _files(self) -> list[Path]:
        return sorted(path.with_suffix(".vectors") for path in self.folder.glob("*.keys"))


_KEY = np.dtype([("key", f"S{KEY_BYTES}"), ("step", ">u4"), ("crc", "<u4")])


def _keys_of(path: Path) -> Path:
    return path.with_suffix(".keys")


def _records(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The keys [N] of a file of vectors, and its vectors [N, D], not in memory before they are used."""
    dimensions = int(path.name.split(".")[-2])
    keys = np.frombuffer(_whole(_keys_of(path).read_bytes(), _KEY.itemsize), _KEY)
    count = min(len(keys), path.stat().st_size // (4 * dimensions))
    if not count:
        return keys[:0], np.empty((0, dimensions), "<f4")
    return keys[:count], np.memmap(path, "<f4", "r", shape=(count, dimensions))


def _whole(data: bytes, length: int) -> bytes:
    return data[: len(data) // length * length]


def _names(keys: np.ndarray, steps: np.ndarray | int) -> pa.Array:
    """[N] bytes, which tell a picture from all others."""
    both = np.empty(len(keys), [("key", f"S{KEY_BYTES}"), ("step", ">u4")])
    both["key"], both["step"] = keys, steps
    fixed = pa.binary(both.dtype.itemsize)
    return pa.Array.from_buffers(fixed, len(both), [None, pa.py_buffer(both.tobytes())])


def _step(position: float) -> int:
    return round(position * POSITION_STEPS)


class Vectors:
    """The vectors that were on disk at one moment."""

    def __init__(self, files: Sequence[tuple[Path, np.ndarray, np.ndarray]]) -> None:
        self._files = [file for file in files if len(file[1])]
        self._starts = np.cumsum([0, *(len(keys) for _, keys, _ in self._files)])
        parts = [_names(keys["key"], keys["step"]) for _, keys, _ in self._files]
        self._names = pa.concat_arrays(parts) if parts else None

    def find(self, keys: pa.Array, positions: Sequence[float]) -> np.ndarray:
        """[N, P] int64: where the vectors of N files at P positions are, -1 where there is none."""
        if self._names is None or not positions:
            return np.full((len(keys), len(positions)), -1)
        wanted = np.array(keys.to_pylist(), f"S{KEY_BYTES}")
        names = pa.concat_arrays([_names(wanted, _step(position)) for position in positions])
        places = pc.fill_null(pc.index_in(names, value_set=self._names), -1).to_numpy()
        return places.astype(np.int64).reshape(len(positions), len(keys)).T

    def read(self, places: Sequence[int]) -> np.ndarray:
        """[P, D] float32: the vectors at places that find() gave.

        Raises:
            StorageError: a record is damaged.
        """
        found = []
        for place in places:
            number = int(np.searchsorted(self._starts, place, side="right")) - 1
            path, keys, vectors = self._files[number]
            row = place - self._starts[number]
            vector = np.array(vectors[row], np.float32)
            if _checksum(keys[row], vector) != keys[row]["crc"]:
                raise StorageError(
                    f"{path}: damaged; delete it and {_keys_of(path).name} to have its pictures embedded again"
                )
            found.append(vector)
        return np.stack(found)


def _checksum(key: np.void, vector: np.ndarray) -> int:
    return zlib.crc32(vector.astype("<f4").tobytes(), zlib.crc32(key.tobytes()[:-4]))


class VectorWriter:
    """The vectors of one process, on the disk's way before a score that is made of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[ProcessFile] = []

    def append(self, key: str, positions: Sequence[float], vectors: np.ndarray) -> None:
        """Keep the vectors [P, D] of the pictures at P positions of a file.

        Raises:
            StorageError: the disk is full or gone.
        """
        keys = np.zeros(len(positions), _KEY)
        keys["key"], keys["step"] = key.encode(), [_step(p) for p in positions]
        for record, vector in zip(keys, vectors, strict=True):
            record["crc"] = _checksum(record, vector)
        if not self._files:
            file = ProcessFile.new(self._folder, f"{vectors.shape[1]}.vectors")
            self._files = [file, ProcessFile(_keys_of(file.path))]
        for file, data in zip(self._files, (vectors.astype("<f4"), keys), strict=True):
            file.append(data.tobytes())

    def close(self) -> None:
        """There are no more."""
        for file in self._files:
            file.close()
        self._files = []


# --- who is at work ----------------------------------------------------------------------------


def _try_lock(file: IO[bytes]) -> bool | None:
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
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+b")
    with file:
        if _try_lock(file) is False:
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


class Presence:
    """Marks a process of a launch as at work until it ends, for the one that waits for the others."""

    def __init__(self, folder: Path, rank: Rank) -> None:
        self._ranks = folder / FOLDER / "ranks" / rank.launch
        path = self._ranks / str(rank.index)
        with storing(path):
            self._ranks.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "w+b", buffering=0)  # stays open, and locked, until the process ends
        while _try_lock(self._file) is False:  # someone is looking whether we have ended
            time.sleep(0.05)
        self._began = time.time()

    def beat(self) -> None:
        """This process is alive."""
        os.utime(self._file.fileno())

    def over(self) -> None:
        """This process has done its rows; for file systems that cannot tell by its lock."""
        self._file.write(OVER)

    def last_beat(self) -> float:
        """When the last sign of life of any process of the launch was, in seconds since 1970."""
        return max((path.stat().st_mtime for path in self._ranks.glob("*")), default=0.0)

    def ended(self, world: int) -> bool:
        """Whether all processes but number 0 have begun and are over."""
        for rank in range(1, world):
            try:
                with open(self._ranks / str(rank), "r+b") as file:
                    stale = os.fstat(file.fileno()).st_mtime < self._began - START_SLACK_SECONDS
                    locked = _try_lock(file)
                    if stale or locked is False or (locked is None and file.read() != OVER):
                        return False
            except FileNotFoundError:
                return False
        return True

    def remove(self) -> None:
        """All are over: leave nothing behind."""
        for path in self._ranks.glob("*"):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._ranks.rmdir()
