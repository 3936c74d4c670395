"""Receipts: what a finished table was made of, so that a run with nothing to do reads no table to find that out.

    .clipsheet/receipts/<output>.json   input and output tables, tool, version, parameters, and the counts of the run
    .clipsheet/receipts/<output>.files  the files that its rows name, with size and modification time

A receipt holds as long as everything in it is as it was: the tables that were read and those that were written, the
files of the rows, and the verdicts. Whatever differs is no error: the table is made in the usual way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather

from clipsheet import places, tables
from clipsheet.errors import storing
from clipsheet.store.cells import Cells
from clipsheet.store.keys import file_marks
from clipsheet.store.locks import FOLDER


@dataclass(frozen=True)
class Receipt:
    """What a table would be made of.

    Attributes:
        made_by: tool, version and parameters, in one line.
        inputs: the tables that are read.
        output: the table that is written; the dropped and failed rows stand beside it.
        others: further tables that are written.
    """

    made_by: str
    inputs: Sequence[Path]
    output: Path
    others: Sequence[Path] = ()

    @property
    def _path(self) -> Path:
        return self.output.parent / FOLDER / "receipts" / f"{self.output.name}.json"

    @property
    def _files(self) -> Path:
        return self._path.with_suffix(".files")

    def recall(self) -> dict[str, Any] | None:
        """How the run ended that made the table, if it would come out the same again; else None."""
        try:
            kept = json.loads(places.read(self._path))
            if kept["made_by"] != self.made_by or kept["tables"] != self._tables():
                return None
            if not all(_stamp(Path(path)) == stamp for path, stamp in kept["verdicts"]):
                return None
            files = feather.read_table(self._files) if kept["files"] else None
        except (OSError, ValueError, TypeError, KeyError, pa.ArrowException):
            return None
        if files is not None and not files.column(1).equals(pa.chunked_array([file_marks(files.column(0))])):
            return None
        return dict(kept["status"])

    def keep(
        self,
        status: Mapping[str, Any],
        files: pa.Table,
        verdicts: Sequence[Cells],
        read: Sequence[places.Stamp],
    ) -> None:
        """The table was made so: remember it.

        Args:
            status: the counts, which the next run repeats.
            files: `path` and `mark` (see places.mark) of those that it was made from, and of those that were made.
            verdicts: where the results are kept that went into it.
            read: the stamps of the inputs when they were read; if they have changed since, nothing is kept.
        """
        if [places.stamp(path) for path in self.inputs] != list(read):
            return
        with storing(self._path):
            places.make_folder(self._path.parent)
        entry = {
            "made_by": self.made_by,
            "tables": self._tables(),
            "verdicts": [[os.fspath(p), _stamp(p)] for cells in verdicts for p in cells.files()],
            "files": self._keep_files(files),
            "status": dict(status),
        }
        with places.replacing(self._path) as file:
            file.write(json.dumps(entry).encode())

    def _tables(self) -> list[list[Any]]:
        beside = [tables.sidecar(self.output, kind) for kind in ("failed", "dropped")]
        written = dict.fromkeys([self.output, *self.others, *beside])
        return [[os.fspath(path), _stamp(path)] for path in (*self.inputs, *written)]

    def _keep_files(self, files: pa.Table) -> bool:
        """Keep the list of files; returns whether there is one."""
        if not len(files):
            places.remove(self._files)
            return False
        with places.replacing(self._files) as file:
            feather.write_feather(files, file, compression="lz4")
        return True


def _stamp(path: Path) -> list[int] | None:
    try:
        return list(places.stamp(path))
    except OSError:
        return None


def files_of(paths: pa.Array | pa.ChunkedArray, marks: pa.Array) -> pa.Table:
    """Each path once, with its mark."""
    paths = paths.combine_chunks() if isinstance(paths, pa.ChunkedArray) else paths
    first = pc.equal(pc.index_in(paths, value_set=paths), pa.array(np.arange(len(paths)), pa.int32()))
    return pa.table({"path": paths, "mark": marks}).filter(first)


def files_from(marks: Mapping[str, str]) -> pa.Table:
    """Files from the mark of each."""
    text = pa.large_string()
    return pa.table({"path": pa.array(list(marks), text), "mark": pa.array(list(marks.values()), text)})
