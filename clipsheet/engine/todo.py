"""What is to be done in a pass: rows without a result, pictures without a vector."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from clipsheet import tables
from clipsheet.engine.background_calls import Flight
from clipsheet.errors import MediaError
from clipsheet.options import RunOptions
from clipsheet.scorer import Feature, Scorer
from clipsheet.store.cells import Cells, Journal
from clipsheet.store.folder import Store
from clipsheet.store.rows import Rows
from clipsheet.store.vectors import VectorFolder, Vectors, VectorWriter


@dataclass
class Sample:
    """A file whose pictures are being embedded, and the rows that wait for its vectors.

    Attributes:
        rows: of this file, that are still to come.
        vectors, errors: by position.
    """

    rows: int
    vectors: dict[float, np.ndarray] = field(default_factory=dict)
    errors: dict[float, MediaError] = field(default_factory=dict)
    done: bool = False
    waiting: list[tuple[Work, str, Any]] = field(default_factory=list)


@dataclass
class Embedding:
    """One feature's part of a pass.

    Attributes:
        positions: of all pictures that its scorers start from.
        keys: [N] text: of the files.
        places: [N, P] where their vectors are, -1 for those to be made.
        lacking: [N] bool: rows to be scored whose vectors are not all there.
        owners: [N] bool: those of them at which the file is looked at: the first of each file.
        shared: how many of them a file has, where it has more than one.
    """

    feature: Feature
    positions: tuple[float, ...]
    folder: VectorFolder
    vectors: Vectors
    keys: pa.Array
    places: np.ndarray
    lacking: np.ndarray
    owners: np.ndarray
    shared: Mapping[str, int]
    samples: dict[str, Sample] = field(default_factory=dict)
    writer: VectorWriter | None = None
    model: Any = None
    loaded: bool = False
    most: int = 0  # pictures at once, once there were too many; 0: no limit yet
    batch: list[tuple[str, list[tuple[tuple[float, ...], np.ndarray]]]] = field(default_factory=list)

    def lacks(self, row: int) -> tuple[float, ...]:
        """Positions (0 to 1) in a row's file that have no vector yet."""
        places = self.places[row].tolist()
        return tuple(p for p, place in zip(self.positions, places, strict=True) if place < 0)

    def on_disk(self, row: int, positions: Sequence[float]) -> np.ndarray:
        """[P, D] vectors of a row's file that were there before."""
        return self.vectors.read([self.places[row, self.positions.index(p)] for p in positions])

    def sample(self, row: int) -> Sample:
        """The file of a row that lacks vectors."""
        key = self.keys[row].as_py()
        if key not in self.samples:
            there = [p for p in self.positions if p not in self.lacks(row)]
            vectors = dict(zip(there, self.on_disk(row, there), strict=True)) if there else {}
            self.samples[key] = Sample(self.shared.get(key, 1), vectors)
        return self.samples[key]

    def forget(self, key: str) -> None:
        """Keep nothing of a file whose rows have all come."""
        sample = self.samples[key]
        if sample.done and not sample.rows:
            del self.samples[key]


@dataclass
class Work:
    """One scorer's part of a pass."""

    scorer: Scorer
    cells: Cells
    keys: pa.Array  # [N] text
    todo: np.ndarray  # [N] bool: rows that this process scores
    tries: dict[str, int]
    began: Mapping[str, int]
    embedding: Embedding | None = None
    journal: Journal | None = None
    model: Any = None
    loaded: bool = False
    most: int = 0  # items at once, once there were too many; 0: no limit yet
    batch: list[tuple[str, Any]] = field(default_factory=list)
    marked: set[str] = field(default_factory=set)  # keys whose beginning the journal has
    flight: Flight | None = None  # of single items
    background: Flight | None = None  # of batches, one at a time


def plan(rows: Rows, scorers: Sequence[Scorer], options: RunOptions, store: Store) -> list[Work]:
    """What each scorer has to do in a pass over some rows."""
    work = []
    for scorer in scorers:
        own = rows.keys(scorer.reads)
        cells = store.cells(scorer)
        verdicts = cells.load()
        at = verdicts.find(own)
        todo = ~verdicts.final(at, retry_failed=options.retry_failed)
        if options.skip_if_existing:
            todo &= ~filled(rows.frame, scorer)
        if scorer.feature is not None and not scorer.columns:  # its vectors are all that it gives
            places = store.vectors(scorer.feature).load().find(rows.keys(("path",)), scorer.positions)
            todo |= (places < 0).any(axis=1) & verdicts.scored(at)
        if todo.any():
            todo &= _first_of_each(own)
        began = verdicts.began
        if options.retry_failed:  # one more try, but alone
            began = {key: min(count, 2) for key, count in began.items()}
        tries = {own[i].as_py(): int(verdicts.tries[at[i]]) for i in np.flatnonzero(todo & (at >= 0))}
        work.append(Work(scorer, cells, own, todo, tries, began))
    for feature in dict.fromkeys(s.feature for s in scorers if s.feature is not None):
        _plan_feature(feature, [w for w in work if w.scorer.feature == feature], rows.keys(("path",)), store)
    return work


def _plan_feature(feature: Feature, work: Sequence[Work], keys: pa.Array, store: Store) -> None:
    """Give these scorers the feature that they all start from."""
    todo = np.logical_or.reduce([w.todo for w in work])
    if not todo.any():
        return
    folder = store.vectors(feature)
    vectors = folder.load()
    positions = tuple(sorted({p for w in work if w.todo.any() for p in w.scorer.positions}))
    places = vectors.find(keys, positions)
    lacking = todo & (places < 0).any(axis=1)
    lacking_keys = keys.filter(pa.array(lacking))
    first = _first_of_each(lacking_keys)
    owners = np.zeros(len(keys), bool)
    owners[np.flatnonzero(lacking)[first]] = True
    again = set(lacking_keys.filter(pa.array(~first)).to_pylist())
    shared = Counter(key for key in lacking_keys.to_pylist() if key in again) if again else Counter()
    embedding = Embedding(feature, positions, folder, vectors, keys, places, lacking, owners, shared)
    for one in work:
        one.embedding = embedding


def _first_of_each(keys: pa.Array) -> np.ndarray:
    """[N] bool: rows whose key no earlier row has."""
    return pc.index_in(keys, value_set=keys).to_numpy() == np.arange(len(keys))


def filled(frame: pd.DataFrame, scorer: Scorer) -> np.ndarray:
    """[N] bool: rows where all columns of the scorer hold a value; those marked `remark` may be empty."""
    filled = np.full(len(frame), bool(scorer.columns))
    for column in scorer.columns:
        if not column.remark:
            filled &= holds_value(frame, column.name)
    return filled


def holds_value(frame: pd.DataFrame, column: str) -> np.ndarray:
    """[N] bool: rows whose cell is not empty."""
    if column not in frame.columns:
        return np.zeros(len(frame), bool)
    return (tables.text(frame, column) != "").to_numpy(bool)
