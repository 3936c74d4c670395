"""What a step is: a frozen value that changes which rows a table has, or writes files for them.

To write one, subclass Step as a frozen dataclass whose fields are exactly the parameters that change the result, and
give it `name`, `reads` and `carry_out`. The command, its flags, the stage of a config, ranks, resuming, the tables of
kept, dropped and failed rows and the status come with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import pandas as pd

from clipsheet import tables
from clipsheet.errors import MediaError
from clipsheet.options import RunOptions
from clipsheet.scorer import Scorer
from clipsheet.store.cells import Verdicts
from clipsheet.store.rows import Rows
from clipsheet.target import Maker, Target, Written


class Measured(NamedTuple):
    """A table with the columns of a scorer.

    Attributes:
        failed: its rows without a score, with `scorer`, `code` and `detail`.
    """

    frame: pd.DataFrame
    failed: pd.DataFrame


class Desk(Protocol):
    """What a step has at hand beside its table. Scores and files are made here, each once, and kept."""

    @property
    def options(self) -> RunOptions:
        """How the step is run."""
        ...

    @property
    def output(self) -> Path:
        """The table that is being made."""
        ...

    def score(self, rows: Rows, scorer: Scorer) -> Verdicts:
        """Score what has no verdict yet; then all verdicts, to be found by `rows.keys(scorer.reads)`."""
        ...

    def measure(self, rows: Rows, scorer: Scorer) -> Measured:
        """The table with the columns of a scorer, which is run where a row has no verdict."""
        ...

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
        """Write a file for each job, in worker processes, those of one source together; what is there stays.

        Args:
            rows: their column `path` is what each file is made from.
            jobs: the row of each file, and what it is to be.
            make: what makes them; clipsheet.engine.writing.WriteEach turns a function that writes one file into it.
            meaning: everything beside source and target that a file depends on, in one line.
            kind: what is made, if that is not the step's name: names the verdicts and the progress.
            results: the frozen dataclasses that `make` returns.

        Returns:
            [N] one of `results`, a MediaError, or None for a file that another process has not made yet.

        Raises:
            StorageError: the disk is full, read-only or gone.
        """
        ...


@dataclass
class Outcome:
    """What a step made of a table.

    Attributes:
        kept: the table to write.
        dropped: the rows that are not in it, with their column `reason`.
        failed: rows that could not be done, with the columns `scorer`, `code` and `detail`.
        dropped_for: how many rows were dropped by reason, without the values of each row, for the summary.
        failed_rows: how many rows failed, where that is not the length of `failed`.
        done: how many rows were done, where that is not the length of `kept`.
        notes: for the log.
    """

    kept: pd.DataFrame
    dropped: pd.DataFrame | None = None
    failed: pd.DataFrame | None = None
    dropped_for: Mapping[str, int] = field(default_factory=dict)
    failed_rows: int | None = None
    done: int | None = None
    notes: Sequence[str] = ()

    @classmethod
    def dropping(cls, frame: pd.DataFrame, rows: np.ndarray, reasons: str | Sequence[str]) -> Outcome:
        """A table without the rows that [N] bool marks.

        Args:
            reasons: [N], one for each row of the table, or one for all.
        """
        gone = frame[rows].copy()
        told = (
            [reasons] * len(gone) if isinstance(reasons, str) else np.asarray(reasons, object)[rows].tolist()
        )
        gone["reason"] = tables.text_column(told, gone)
        return cls(frame[~rows].reset_index(drop=True), gone, dropped_for=dict(Counter(told).most_common()))


class Step:
    """Base of all steps. Subclasses are frozen dataclasses.

    Attributes:
        name: short name: first word of the summary, and by default the suffix of the output table.
        reads: columns that must be there.
        gives: columns that the kept rows have and the table may not have had.
        starts: it reads no table, but makes one out of something else.
        writes_files: carry_out() writes files by `desk.map_files()`, a work that ranks share.
        version: raise it when the table changes for the same parameters.
        forgives: failed rows are what the step is for, and never make the exit code 3.
        without: execution options that mean nothing to it.
    """

    name: ClassVar[str]
    reads: ClassVar[tuple[str, ...]] = ("path",)
    gives: ClassVar[tuple[str, ...]] = ()
    starts: ClassVar[bool] = False
    writes_files: ClassVar[bool] = False
    version: ClassVar[int] = 1
    forgives: ClassVar[bool] = False
    without: ClassVar[tuple[str, ...]] = ("bs", "use_cpu", "skip_if_existing", "pretrained_models")

    @property
    def suffix(self) -> str:
        """Of the table that it writes: `<table>_<suffix>.csv`."""
        return self.name

    @property
    def rowwise(self) -> bool:
        """Whether what becomes of a row depends on no other row: a table of parts is then done part by part."""
        return False

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns that must be there with these parameters."""
        return self.reads

    @property
    def scorers(self) -> tuple[Scorer, ...]:
        """What it measures by `desk.score()`; ranks share that work."""
        return ()

    @property
    def compared(self) -> tuple[Path, ...]:
        """Tables that it reads beside its input."""
        return ()

    @property
    def looks_at_files(self) -> bool:
        """Whether its table depends on the files of `path`, or on whether they are there."""
        return "path" in self.reads

    @property
    def repeatable(self) -> bool:
        """Whether it makes the same of the same tables and files; else it is carried out in every run."""
        return True

    def check(self) -> None:
        """Raise a CallError for what can be known to be wrong before a table is read."""

    def output(self, inputs: Sequence[Path], given: str) -> Path:
        """Where it writes."""
        return tables.output_path(inputs, self.suffix, given)

    def outputs(self, output: Path, given: str) -> list[Path]:
        """The tables of equal length that the kept rows are written to: usually one."""
        return [output]

    def carry_out(self, rows: Rows, desk: Desk) -> Outcome:
        """Do it.

        Raises:
            ClipsheetError: it cannot be done.
        """
        raise NotImplementedError


def in_turn(steps: Sequence[Step], rows: Rows, desk: Desk) -> Outcome:
    """Several steps, each over the rows that the one before kept, as one."""
    dropped, failed = list[pd.DataFrame](), list[pd.DataFrame]()
    dropped_for: Counter[str] = Counter()
    failed_rows, notes = 0, list[str]()
    for step in steps:
        made = step.carry_out(rows, desk)
        rows = Rows(made.kept)
        dropped += [made.dropped] if made.dropped is not None and len(made.dropped) else []
        dropped_for.update(made.dropped_for)
        if made.failed is not None and len(made.failed):
            failed.append(made.failed)
            failed_rows += len(made.failed) if made.failed_rows is None else made.failed_rows
        notes += made.notes
    return Outcome(
        rows.frame,
        tables.concatenate(dropped) if dropped else None,
        tables.concatenate(failed) if failed else None,
        dropped_for, failed_rows, notes=notes,
    )  # fmt: skip


def failures(frame: pd.DataFrame, name: str, errors: Mapping[int, MediaError]) -> pd.DataFrame:
    """The rows that failed with `scorer`, `code` and `detail`; errors by row."""
    places = sorted(errors)
    return frame.iloc[places].assign(
        scorer=name, code=[errors[p].code for p in places], detail=[errors[p].detail for p in places]
    )
