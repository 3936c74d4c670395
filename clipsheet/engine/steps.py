"""run_step: a step over a table, by one process or many; the protocol that all steps share."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from clipsheet import places, tables
from clipsheet.engine import run
from clipsheet.engine.desk import WorkDesk
from clipsheet.engine.parts import goes_by_parts, over_parts, types_in
from clipsheet.engine.ranks import Share, carry_through, is_lasting, repeated
from clipsheet.media import VERSION
from clipsheet.options import RankOptions, RunOptions
from clipsheet.outcome import Status
from clipsheet.step import Outcome, Step
from clipsheet.store.cells import Cells
from clipsheet.store.receipts import Receipt, files_from, files_of
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
    output = step.output(paths, options.output)
    others = step.outputs(output, options.output)
    for place in dict.fromkeys([output, *others]):
        tables.check_output([*paths, *step.compared], place)
    if goes_by_parts(paths, output) and step.rowwise:
        return over_parts(paths[0], Status(step.name, output), share, _StepOnPart(step, options))
    receipt = receipt_of(paths, step, options, output)
    if receipt is not None and share.joins == "always" and (facts := receipt.recall()):
        return repeated(Status(step.name, output), facts, max_failed(step, options))
    job = _Run(step, options, share, output, paths)
    status = Status(step.name, output, rows_in=len(job.rows))
    ended = carry_through(status, share, job.compute, job.finish)
    if receipt is not None and share.computes and share.joins == "always" and is_lasting(ended):
        job.keep(receipt, ended)
    return ended


def receipt_of(paths: Sequence[Path], step: Step, options: RunOptions, output: Path) -> Receipt | None:
    """What a step's table would be made of; None where only a run can tell whether there is something to do."""
    if options.retry_failed or step.starts or not step.repeatable:
        return None
    reader = f"frames v{VERSION} read by {options.reader}" if step.looks_at_files else ""
    how = f"keep_as={options.keep_as!r} skip_if_existing={options.skip_if_existing}"
    made_by = f"{step.name} v{step.version} {step!r} {how} {reader}"
    return Receipt(
        made_by, tables.files([*paths, *step.compared]), output, step.outputs(output, options.output)
    )


def max_failed(step: Step, options: RunOptions) -> float:
    """The share of rows that may fail."""
    return 1.0 if step.forgives else options.max_failed


@dataclass(frozen=True)
class _StepOnPart:
    """run_step() on a part of a table."""

    step: Step
    options: RunOptions

    def __call__(self, part: Path, output: Path, share: Share) -> Status:
        options = dataclasses.replace(self.options, output=os.fspath(output))
        return run_step([os.fspath(part)], self.step, options, share)

    def judge(self, status: Status) -> None:
        status.judge(max_failed(self.step, self.options))


class _Run:
    """A table on its way through a step."""

    def __init__(
        self, step: Step, options: RunOptions, share: Share, output: Path, paths: Sequence[Path]
    ) -> None:
        self._step, self._options, self._share, self._output = step, options, share, output
        self._stamps = [places.stamp(path) for path in tables.files([*paths, *step.compared])]
        self.rows = Rows(tables.read(paths, step.reads) if paths else pd.DataFrame())
        self._files: dict[str, str] = {}
        self._verdicts: list[Cells] = []

    def compute(self) -> None:
        """What ranks share of a step: scores and files. One process makes them where the step asks for them."""
        if self._share.joins == "always":
            return
        desk = WorkDesk(self._step.name, self._output, self._options, self._share)
        for scorer in self._step.scorers:
            run.compute(self.rows, [scorer], self._options, desk.store, self._share.rank, self._step.name)
        if self._step.writes_files:
            self._step.carry_out(self.rows, desk)

    def finish(self, status: Status) -> None:
        """Write what the step makes of the whole table, and count."""
        alone = Share(computes=self._share.computes and self._share.joins == "always")
        desk = WorkDesk(self._step.name, self._output, self._options, alone)
        status.hours_in = tables.hours(self.rows.frame)
        if self._step.looks_at_files:
            self.rows.marks()  # as they are before anything is made of them
        made = self._step.carry_out(self.rows, desk)
        outputs = self._step.outputs(self._output, self._options.output)
        tables.write_parts(made.kept, outputs, types_in(self._output, self._step.scorers))
        none = made.kept.iloc[:0]
        tables.write_sidecar(none if made.dropped is None else made.dropped, self._output, "dropped")
        tables.write_sidecar(none if made.failed is None else made.failed, self._output, "failed")
        self._verdicts, self._files = desk.tidied(), desk.files
        _count(made, status)
        if self._step.starts:
            status.rows_in = status.rows_out + status.failed_rows
        status.pending = desk.pending
        status.judge(max_failed(self._step, self._options))
        for note in made.notes:
            log.warning("%s", note)

    def keep(self, receipt: Receipt, status: Status) -> None:
        """Remember what the table was made of."""
        files = files_from(self._files)
        if self._step.looks_at_files:
            of_rows = files_of(pa.array(tables.text(self.rows.frame, "path")), self.rows.marks())
            files = pa.concat_tables([files, of_rows])
        receipt.keep(status.facts, files, self._verdicts, self._stamps)


def _count(made: Outcome, status: Status) -> None:
    status.rows_out, status.hours_out = len(made.kept), tables.hours(made.kept)
    status.scored = len(made.kept) if made.done is None else made.done
    status.dropped = dict(made.dropped_for)
    if made.failed is not None and len(made.failed):
        pairs = zip(tables.text(made.failed, "scorer"), tables.text(made.failed, "code"), strict=True)
        status.failed = dict(Counter(f"{scorer}: {code}" for scorer, code in pairs).most_common())
        status.failed_rows = len(made.failed) if made.failed_rows is None else made.failed_rows
