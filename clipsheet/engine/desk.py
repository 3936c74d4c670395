"""The desk of a step: scores and files that it asks for are made here, by this process's share, and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipsheet import places, tables
from clipsheet.engine import files, run
from clipsheet.engine.join import join
from clipsheet.engine.ranks import Share
from clipsheet.options import RunOptions
from clipsheet.scorer import Scorer
from clipsheet.step import Measured
from clipsheet.store.cells import Cells, Verdicts
from clipsheet.store.folder import Store, store_of
from clipsheet.store.rows import Rows
from clipsheet.target import Maker, Target, Written


@dataclass
class WorkDesk:
    """What a step works with: see clipsheet.step.Desk.

    Attributes:
        share: what this process does; where it computes nothing, missing results are only counted.
        pending: rows and files that have no verdict.
        files: the marks of those that map_files() made or found, and of what they are made from.
    """

    name: str
    output: Path
    options: RunOptions
    share: Share
    pending: int = 0
    files: dict[str, str] = field(default_factory=dict)
    _used: list[Cells] = field(default_factory=list)

    @property
    def store(self) -> Store:
        """The folder `.clipsheet` beside the output."""
        return Store(store_of(self.output), self.options.reader, self.options.models)

    def score(self, rows: Rows, scorer: Scorer) -> Verdicts:
        verdicts = self._compute(rows, scorer).load()
        self.pending += int((verdicts.find(rows.keys(scorer.reads)) < 0).sum())
        return verdicts

    def _compute(self, rows: Rows, scorer: Scorer) -> Cells:
        if self.share.computes:
            done = run.compute(rows, [scorer], self.options, self.store, self.share.rank, self.name)
            if self.share.rank.world == 1:
                rows.look_again(done)
        cells = self.store.cells(scorer)
        self._used.append(cells)
        return cells

    def measure(self, rows: Rows, scorer: Scorer) -> Measured:
        self._compute(rows, scorer)
        joined = join(rows, [scorer], self.options, self.store)
        self.pending += joined.pending_rows
        return Measured(joined.frame, joined.failed)

    def map_files(
        self,
        rows: Rows,
        jobs: Sequence[tuple[int, Target]],
        make: Maker,
        meaning: str,
        *,
        kind: str = "",
        results: Sequence[type] = (Written,),
    ) -> list[Any]:
        cells = self.store.verdicts_of(kind or self.name, meaning, ("made",))
        self._used.append(cells)
        work = files.Work(kind or self.name, make, tuple(results), cells, self.options, self.share)
        made = files.map_files(rows, jobs, work)
        self.pending += sum(one is None for one in made)
        paths, marks = tables.text(rows.frame, "path"), rows.marks()
        for (row, target), one in zip(jobs, made, strict=True):
            self.files[paths.iat[row]] = marks[row].as_py()
            if hasattr(one, "mtime_ns"):
                self.files[target.target] = places.mark_of(one.size, one.mtime_ns)
        return made

    def tidied(self) -> list[Cells]:
        """The verdicts that were used, those of ended processes put together."""
        for cells in self._used:
            cells.compact()
        return self._used
