"""run_step: a step over a table, by one process or many; the protocol that all steps share."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from clipsheet import tables
from clipsheet.engine import run
from clipsheet.engine.desk import WorkDesk
from clipsheet.engine.ranks import Share, carry_through
from clipsheet.options import RankOptions, RunOptions
from clipsheet.outcome import Status
from clipsheet.step import Outcome, Step
from clipsheet.store.rows import Rows

log = logging.getLogger(__name__)


def run_step(
    inputs: Sequence[str], step: Step, options: RunOptions | None = None, share: Share | None = None
) -> Status:
    """Carry a step out, and write its table and beside it the dropped and the failed rows.

    Args:
        inputs: names and patterns of one or more tables, joined one after another; none for a step that reads none.
        share: what this process does of it; by default what its launcher says, if there is one.

    Returns:
        What happened to the rows.

    Raises:
        CallError: a table, a column or a parameter is missing or wrong.
        Incomplete: another process makes the same table.
        StorageError: something cannot be written; the table that stood there is untouched.
    """
    share = share or Share.of(RankOptions())
    step.check()
    paths = tables.expand(inputs)
    options = options or RunOptions()
    job = _Run(step, options, share, step.output(paths, options.output))
    for place in dict.fromkeys([job.output, *step.outputs(job.output, job.options.output)]):
        tables.check_output([*paths, *step.compared], place)
    job.rows = Rows(tables.read(paths, step.reads) if paths else pd.DataFrame())
    status = Status(step.name, job.output, rows_in=len(job.rows))
    return carry_through(status, share, job.compute, job.finish)


class _Run:
    """A table on its way through a step."""

    def __init__(self, step: Step, options: RunOptions, share: Share, output: Path) -> None:
        self._step, self.options, self._share = step, options, share
        self.output = output
        self.rows = Rows(pd.DataFrame())

    def compute(self) -> None:
        """What ranks share of a step: scores and files. One process makes them where the step asks for them."""
        if self._share.joins == "always":
            return
        desk = WorkDesk(self._step.name, self.output, self.options, self._share)
        for scorer in self._step.scorers:
            run.compute(self.rows, [scorer], self.options, desk.store, self._share.rank, self._step.name)
        if self._step.writes_files:
            self._step.carry_out(self.rows, desk)

    def finish(self, status: Status) -> None:
        """Write what the step makes of the whole table, and count."""
        alone = Share(computes=self._share.computes and self._share.joins == "always")
        desk = WorkDesk(self._step.name, self.output, self.options, alone)
        made = self._step.carry_out(self.rows, desk)
        tables.write_parts(made.kept, self._step.outputs(self.output, self.options.output))
        none = made.kept.iloc[:0]
        tables.write_sidecar(none if made.dropped is None else made.dropped, self.output, "dropped")
        tables.write_sidecar(none if made.failed is None else made.failed, self.output, "failed")
        desk.tidy()
        _count(made, status)
        if self._step.starts:
            status.rows_in = status.rows_out + status.failed_rows
        status.pending = desk.pending
        status.judge(1.0 if self._step.forgives else self.options.max_failed)
        for note in made.notes:
            log.warning("%s", note)


def _count(made: Outcome, status: Status) -> None:
    status.rows_out = len(made.kept)
    status.scored = len(made.kept) if made.done is None else made.done
    status.dropped = dict(made.dropped_for)
    if made.failed is not None and len(made.failed):
        pairs = zip(tables.text(made.failed, "scorer"), tables.text(made.failed, "code"), strict=True)
        status.failed = dict(Counter(f"{scorer}: {code}" for scorer, code in pairs).most_common())
        status.failed_rows = len(made.failed) if made.failed_rows is None else made.failed_rows
