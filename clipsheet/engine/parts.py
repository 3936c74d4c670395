"""Tables of parts: rowwise work runs part by part, so that its memory does not grow with the table.

What is made of a part is a part of the output, with verdicts, receipt and status of its own. Rank i of N processes
the parts i, i+N, and so on, and writes them whole: joining only looks whether all are there.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from clipsheet import tables
from clipsheet.engine.ranks import Share, carry_through
from clipsheet.errors import Incomplete, MetaError, storing
from clipsheet.outcome import Status
from clipsheet.scorer import Scorer

#: Counts that those of the parts add up to.
SUMS = ("rows_in", "rows_out", "scored", "failed_rows", "pending")


class OnPart(Protocol):
    """What is to be done to each part."""

    def __call__(self, part: Path, output: Path, share: Share) -> Status:
        """Make the output's part of a part."""
        ...

    def judge(self, status: Status) -> None:
        """Find the exit code of the whole."""
        ...


def goes_by_parts(paths: Sequence[Path], output: Path) -> bool:
    """Whether the input is a table of parts, and the output is to be one."""
    return len(paths) == 1 and tables.is_folder(paths[0]) and output.suffix == ".parquet"


def types_in(output: Path, scorers: Sequence[Scorer]) -> dict[str, pa.DataType]:
    """The types of the columns of scorers in a part, which must not depend on the cells of that part."""
    kinds = {"int": pa.int64(), "float": pa.float64()}
    columns = [column for scorer in scorers for column in scorer.columns] if tables.is_part(output) else []
    return {column.name: kinds.get(column.kind, pa.large_string()) for column in columns}


def over_parts(source: Path, status: Status, share: Share, on_part: OnPart) -> Status:
    """Do this process's share of a table of parts.

    Raises:
        MetaError: a part is missing or torn, or the output is another kind of file.
    """
    parts = tables.parts(source)
    for folder in (status.output, *(tables.sidecar(status.output, kind) for kind in ("failed", "dropped"))):
        if folder.is_file():
            raise MetaError(f"{folder}: a file, where a folder of parts is to be written; move it away")
    with storing(status.output):
        status.output.mkdir(parents=True, exist_ok=True)

    alone = Share(dataclasses.replace(share.rank, index=0, world=1))  # with the device of the rank

    def compute() -> None:
        for number, part in enumerate(parts):
            if number % share.rank.world == share.rank.index:
                with contextlib.suppress(Incomplete):  # another process is at it
                    on_part(part, status.output / part.name, alone)

    def finish(whole: Status) -> None:
        how = alone if share.joins == "always" and share.computes else Share(computes=False)
        _add_up(whole, (_ended(on_part, part, status.output / part.name, how) for part in parts))
        _remove_others(status.output, {part.name for part in parts})
        on_part.judge(whole)

    return carry_through(status, share, compute if share.joins != "always" else lambda: None, finish)


def _ended(on_part: OnPart, part: Path, output: Path, share: Share) -> Status:
    """What happened to a part; its rows are pending while another process is at it."""
    try:
        return on_part(part, output, share)
    except Incomplete:
        rows = len(tables.read(part, ()))
        return Status("", output, rows_in=rows, pending=rows)


def _add_up(whole: Status, of_parts: Iterator[Status]) -> None:
    failed, dropped = Counter(whole.failed), Counter(whole.dropped)
    for status in of_parts:
        for name in SUMS:
            setattr(whole, name, getattr(whole, name) + getattr(status, name))
        failed.update(status.failed)
        dropped.update(status.dropped)
        for name in ("hours_in", "hours_out"):
            if (hours := getattr(status, name)) is not None:
                setattr(whole, name, round((getattr(whole, name) or 0.0) + hours, 6))
    whole.failed, whole.dropped = dict(failed.most_common()), dict(dropped.most_common())


def _remove_others(output: Path, names: set[str]) -> None:
    """Remove what an earlier table of more parts left, and folders of rows that none has any more."""
    for folder in (output, *(tables.sidecar(output, kind) for kind in ("failed", "dropped"))):
        if not folder.is_dir():
            continue
        for path in folder.iterdir():
            if tables.is_part(path) and path.name not in names:
                path.unlink()
        if folder != output and not any(folder.iterdir()):
            folder.rmdir()
