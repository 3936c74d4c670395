"""The results of one scorer with one set of parameters on disk, found by key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet as pq

from clipsheet import places, tables
from clipsheet.errors import MAX_TRIES, TRANSIENT, MediaError, StorageError, storing
from clipsheet.store.keys import ROWS_PER_PART
from clipsheet.store.locks import ProcessFile, ended_among

COMPACT_BYTES = 1 << 20
COMPACT_FILES = 200
_EXTRA = ("_key", "_error", "_detail", "_tries", "_began")


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
                return [_read_journal(path, self._schema()) for path in self._journals()]
            except FileNotFoundError:  # put together meanwhile, by another process
                continue

    def journal(self) -> Journal:
        """A new file for this process's verdicts."""
        with storing(self.folder):
            places.make_folder(self.folder)
            places.write(self.folder / "scorer.txt", f"{self.meaning}\n".encode())
        return Journal(ProcessFile.new(self.folder, "jsonl"), self.columns)

    def compact(self) -> None:
        """Move the verdicts of ended processes from their journals into one Parquet file."""
        journals = self._journals()
        if len(journals) < COMPACT_FILES and sum(places.status(p).st_size for p in journals) < COMPACT_BYTES:
            return
        with ended_among(journals[:COMPACT_FILES], self.folder) as ended:  # as many open files as allowed
            if not ended:
                return
            parts = [_read_journal(path, self._schema()) for path in ended]
            parts = [p.filter(pc.is_null(p.column("_began"))) for p in parts]
            table = _newest(pa.concat_tables([*self._compacted(), *parts]))
            with places.replacing(self.folder / "cells.parquet") as file:
                pq.write_table(table, file, row_group_size=ROWS_PER_PART, use_dictionary=False)
            for path in ended:
                places.remove(path)

    def files(self) -> list[Path]:
        """Where the verdicts are at this moment."""
        return [*self._journals(), *places.entries(self.folder, "cells.parquet")]

    def _schema(self) -> pa.Schema:
        text = [pa.field(name, pa.large_string()) for name in self.columns]
        extra = [pa.field(n, pa.int64() if n == "_tries" else pa.large_string()) for n in _EXTRA]
        return pa.schema([*extra, *text])

    def _journals(self) -> list[Path]:
        return places.entries(self.folder, "*.jsonl")

    def _compacted(self) -> list[pa.Table]:
        path = self.folder / "cells.parquet"
        if not places.exists(path):
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
    data = places.read(path)
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
