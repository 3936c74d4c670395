"""What this process does of a run that several share, and who writes the table in the end.

No process waits for another. Each does its share and keeps its verdicts in a file of its own; the last process of a
launch (torchrun, accelerate, srun), or `--join`, puts them together by key. So it does not matter in which order
processes run, whether one is started again, or whether two do the same share.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clipsheet import places
from clipsheet.engine import launch
from clipsheet.errors import TRANSIENT, Incomplete
from clipsheet.options import RankOptions
from clipsheet.outcome import FACTS, Status, recording
from clipsheet.store.locks import FOLDER, working_on


@dataclass(frozen=True)
class Share:
    """What one process does.

    Attributes:
        computes: the work on its rows.
        joins: whether it then writes the table: always, never, or if all others of its launch are over.
    """

    rank: launch.Rank = launch.ALONE
    computes: bool = True
    joins: Literal["always", "never", "last"] = "always"

    @classmethod
    def of(cls, given: RankOptions) -> Share:
        """What flags or a launcher ask of this process; flags go first."""
        if given.join:
            return cls(computes=False)
        if given.rank is not None and given.world is not None:
            return cls(launch.Rank(given.rank, given.world, local=given.rank), joins="never")
        rank = launch.current()
        return cls(rank, joins="always" if rank.world == 1 else "last")


def carry_through(
    status: Status, share: Share, compute: Callable[[], None], finish: Callable[[Status], None]
) -> Status:
    """Do this process's share of making a table.

    Args:
        compute: does the work on the rows of this process, and keeps the verdicts.
        finish: writes the table out of what is kept, and counts into the status that it is given.

    Returns:
        What happened to the table, or to this process's share of it.

    Raises:
        Incomplete: another process makes the same table, or does the same share.
    """
    if share.joins == "always":
        return _make(status, finish, compute if share.computes else None)
    turnout = _Turnout(status.output, share.rank) if share.joins == "last" else None
    part = dataclasses.replace(status, share=(share.rank.index, share.rank.world))
    if places.exists(status.path):  # it may say that an earlier run succeeded
        status.write("running")
    number = f"{share.rank.index}-of-{share.rank.world}"
    with working_on(status.output.with_name(f"{status.output.name}.{number}")), recording(part):
        compute()
    if turnout is None or not turnout.over():
        return part
    with contextlib.suppress(Incomplete):  # two ended at once, and the other writes the same table
        part = _make(status, finish, None)
    turnout.remove()
    return part


def repeated(status: Status, facts: Mapping[str, Any], max_failed: float) -> Status:
    """The status of a table that needs no work: the counts of the run that wrote it."""
    with recording(status):
        for name in FACTS:
            setattr(status, name, facts[name])
        status.judge(max_failed)
    return status


def is_lasting(status: Status) -> bool:
    """Whether another run would count the same: all rows have a verdict, and none is to be tried again."""
    codes = {failure.rpartition(": ")[2] for failure in status.failed}
    return not status.pending and not codes & TRANSIENT


def _make(status: Status, finish: Callable[[Status], None], compute: Callable[[], None] | None) -> Status:
    with working_on(status.output), recording(status):
        if compute is not None:
            compute()
        finish(status)
        if status.pending and compute is None:
            status.message = f"{status.pending} rows have no verdict yet: join again when all ranks are over"
    return status


class _Turnout:
    """Which processes of a launch have done their share of a table: a file for each, in a folder of their own."""

    def __init__(self, output: Path, rank: launch.Rank) -> None:
        self._folder = output.parent / FOLDER / "ranks" / f"{rank.launch}.{output.name}"
        self._rank = rank
        self._mark(rank.index).unlink(missing_ok=True)  # of an earlier launch of the same name

    def over(self) -> bool:
        """This process has done its share. Returns whether all others have, too."""
        with places.replacing(self._mark(self._rank.index)):
            pass
        return all(self._mark(index).exists() for index in range(self._rank.world))

    def remove(self) -> None:
        """All are over: leave nothing behind."""
        for index in range(self._rank.world):
            self._mark(index).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something else is in it
            self._folder.rmdir()

    def _mark(self, index: int) -> Path:
        return self._folder / f"{index}.over"
