"""Rows: a table in memory with the keys of its rows, which are made once and handed on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from clipsheet import tables
from clipsheet.store.keys import file_marks, row_keys


class Rows:
    """A table and what identifies its rows. A file is looked at (stat) once, whoever asks for its keys.

    Attributes:
        frame: not to be changed: its keys would be those of other cells.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame
        self._marks: pa.Array | None = None
        self._keys: dict[tuple[str, ...], pa.Array] = {}

    def __len__(self) -> int:
        return len(self.frame)

    def keys(self, reads: Sequence[str]) -> pa.Array:
        """[N] text: of what a scorer that reads these columns depends on; see row_keys()."""
        columns = tuple(reads)
        if columns not in self._keys:
            marks = self.marks() if "path" in columns else None
            self._keys[columns] = row_keys(self.frame, columns, marks)
        return self._keys[columns]

    def marks(self) -> pa.Array:
        """[N] size and modification time of each file, as text; `-` where there is none."""
        if self._marks is None:
            self._marks = file_marks(pa.array(tables.text(self.frame, "path")))
        return self._marks

    def look_again(self, places: np.ndarray) -> None:
        """Find out which of the files of these rows have changed since."""
        if not len(places):
            return
        paths = pa.array(tables.text(self.frame, "path"))
        now = file_marks(paths.take(pa.array(places)))
        if not now.equals(self.marks().take(pa.array(places))):
            self._marks = file_marks(paths)
            self._keys.clear()

    def part(self, places: np.ndarray) -> Rows:
        """Those at [M] int places."""
        return Rows(self.frame.iloc[places].reset_index(drop=True))
