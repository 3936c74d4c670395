"""Receipts: what a finished table was made of, so that a run with nothing to do reads no table to find that out.

    .clipsheet/receipts/<output>.json   what it was made of, by whom, and how the run ended
    .clipsheet/receipts/<digest>.files  the files that its rows named, with size and modification time

A receipt holds as long as everything in it is as it was: the tables that were read and those that were written, the
files of the rows, and the verdicts. Whatever differs is no error: the table is made in the usual way.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather

from clipsheet import places, tables
from clipsheet.errors import storing
from clipsheet.store.cells import Cells
from clipsheet.store.keys import file_marks
from clipsheet.store.locks import FOLDER

Files = Mapping[str, str]  # the mark of each file, by its path


@dataclass(frozen=True)
class Receipt:
    """What a table would be made of.

    Attributes:
        made_by: all that decides about it beside its inputs, in one line.
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

    def recall(self) -> dict[str, Any] | None:
        """How the run ended that made the table, if it would come out the same again; else None."""
        try:
            kept = json.loads(places.read(self._path))
            if kept["made_by"] != self.made_by or kept["tables"] != self._tables():
                return None
            if not all(_stamp(Path(path)) == stamp for path, stamp in kept["verdicts"]):
                return None
            files = (
                feather.read_table(self._path.with_name(f"{kept['files']}.files")) if kept["files"] else None
            )
        except (OSError, ValueError, TypeError, KeyError, pa.ArrowException):
            return None
        if files is not None and file_marks(files.column(0).to_pylist()) != files.column(1).to_pylist():
            return None
        return dict(kept["status"])

    def keep(
        self, status: Mapping[str, Any], files: Files, verdicts: Sequence[Cells], read: Sequence[places.Stamp]
    ) -> None:
        """The table was made so: remember it.

        Args:
            status: what is to be said of it again.
            files: those that it was made from, and those that were made.
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
            "files": self._keep_files(files) if files else "",
            "status": dict(status),
        }
        with places.replacing(self._path) as file:
            file.write(json.dumps(entry).encode())
        self._forget_unused()

    def _tables(self) -> list[list[Any]]:
        beside = [tables.sidecar(self.output, kind) for kind in ("failed", "dropped")]
        written = dict.fromkeys([self.output, *self.others, *beside])
        return [[os.fspath(path), _stamp(path)] for path in (*self.inputs, *written)]

    def _keep_files(self, files: Files) -> str:
        paths, marks = list(files), list(files.values())
        digest = hashlib.blake2b("\0".join([*paths, *marks]).encode("utf-8", "surrogatepass"), digest_size=12)
        path = self._path.with_name(f"{digest.hexdigest()}.files")
        if not places.exists(path):
            table = pa.table(
                {"path": pa.array(paths, pa.large_string()), "mark": pa.array(marks, pa.large_string())}
            )
            with places.replacing(path) as file:
                feather.write_feather(table, file, compression="lz4")
        return digest.hexdigest()

    def _forget_unused(self) -> None:
        """Remove lists of files that no receipt names any more."""
        used = set()
        for path in places.entries(self._path.parent, "*.json"):
            try:
                used.add(json.loads(places.read(path))["files"])
            except (OSError, ValueError, TypeError, KeyError):  # of another version
                places.remove(path)
        for path in places.entries(self._path.parent, "*.files"):
            if path.stem not in used:
                places.remove(path)


def _stamp(path: Path) -> list[int] | None:
    try:
        return list(places.stamp(path))
    except OSError:
        return None


def files_of(paths: Iterable[str], marks: Iterable[str]) -> Files:
    """The mark of each path; of one that comes again, the first."""
    found: dict[str, str] = {}
    for path, mark in zip(paths, marks, strict=True):
        found.setdefault(path, mark)
    return found
