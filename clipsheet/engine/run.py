"""run_scorers: one pass over a table, for one scorer or many, in one process or many."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from clipsheet import places, tables
from clipsheet.engine import launch
from clipsheet.engine.batches import Pass
from clipsheet.engine.join import join, with_earlier_kept
from clipsheet.engine.parts import goes_by_parts, over_parts, types_in
from clipsheet.engine.pool import Pool
from clipsheet.engine.ranks import Share, carry_through, is_lasting, repeated
from clipsheet.engine.sample import SampleJob, Task
from clipsheet.engine.todo import Embedding, Work, plan
from clipsheet.engine.watchdog import Watchdog
from clipsheet.errors import CallError
from clipsheet.log import Progress
from clipsheet.options import GIB, RankOptions, RunOptions
from clipsheet.outcome import Status
from clipsheet.scorer import Scorer, all_columns, missing
from clipsheet.store.folder import Store, store_of
from clipsheet.store.receipts import Receipt, files_from, files_of
from clipsheet.store.rows import Rows

MOST_THREADS = 4  # that decode one file: each takes memory


def compute(
    rows: Rows,
    scorers: Sequence[Scorer],
    options: RunOptions,
    store: Store,
    rank: launch.Rank,
    what: str,
) -> np.ndarray:
    """Score what has no verdict yet of a process's rows, and keep the verdicts in the store.

    Returns:
        [M] int: the rows that were worked at.

    Raises:
        TooManyFailed: the files seem not to be there at all.
        StorageError: a verdict could not be kept.
    """
    if importlib.util.find_spec(options.reader.replace("pyav", "av")) is None:
        raise CallError(f"--reader {options.reader}: pip install {options.reader}")
    if rank.world > 1:
        mine = np.flatnonzero(rank.owned(len(rows)))
        alone = dataclasses.replace(rank, world=1)
        return mine[compute(rows.part(mine), scorers, options, store, alone, what)]
    work = plan(rows, scorers, options, store)
    places = np.flatnonzero(np.logical_or.reduce([w.todo for w in work]))
    if not len(places):
        return places
    embeddings = list({id(w.embedding): w.embedding for w in work if w.embedding is not None}.values())
    tasks = _tasks(rows, places.tolist(), work, embeddings)
    with Watchdog(options.stall) as watchdog, Progress(len(places), what) as progress:
        preparations = tuple(e.feature.preparation(options.models) for e in embeddings)
        cores = max(1, (os.cpu_count() or 1) // rank.local_world)
        processes = min(len(places), options.num_workers or cores)
        spare = 1 if options.num_workers else min(MOST_THREADS, max(1, cores // processes))
        placed = tuple(scorer.placed(options.models) for scorer in scorers)
        job = SampleJob(placed, preparations, spare, options.root, options.reader)
        passing = Pass(work, embeddings, options, rank, watchdog.alive)
        with contextlib.ExitStack() as stack:
            stack.callback(passing.close)
            passing.begin()
            if _opens_files(work, embeddings):
                pool = Pool(
                    job, processes, seconds=options.timeout,
                    memory_bytes=int(options.worker_memory * GIB), heartbeat=watchdog.alive,
                )  # fmt: skip
                stack.callback(pool.close)
                results = pool.map(tasks)
            else:  # there is nothing to be killed for
                results = ((row, job(task, _any_time)) for row, task in tasks)
            for row, result in results:
                passing.take(row, result)
                progress.step()
            passing.finish()
    return places


def _tasks(
    rows: Rows, places: Sequence[int], work: Sequence[Work], embeddings: Sequence[Embedding]
) -> Iterator[tuple[int, Task]]:
    """What is to be made of each row."""
    columns = {name: tables.text(rows.frame, name) for w in work for name in w.scorer.reads}
    for row in places:
        cells = {name: column.iat[row] for name, column in columns.items()}
        pictures = tuple((i, e.lacks(row)) for i, e in enumerate(embeddings) if e.owners[row])
        yield row, Task(cells, tuple(i for i, w in enumerate(work) if w.todo[row]), pictures)


def _opens_files(work: Sequence[Work], embeddings: Sequence[Embedding]) -> bool:
    """Whether anything is to be done that needs more than the vectors that are there."""
    looking = any(w.embedding is None and w.todo.any() for w in work)
    return looking or any(e.owners.any() for e in embeddings)


def _any_time(seconds: float) -> None:
    """No time limit: the job runs in this process, which cannot kill it."""


def run_scorers(
    inputs: Sequence[str],
    scorers: Sequence[Scorer],
    options: RunOptions,
    suffix: str = "",
    *,
    share: Share | None = None,
) -> Status:
    """Score a table and write it with the new columns.

    Args:
        inputs: names and patterns of one or more tables, joined one after another.
        suffix: of the output's name; by default the scorer's name, or `scores` for several.
        share: what this process does of it; by default what its launcher says, if there is one.

    Returns:
        What happened to the rows.

    Raises:
        CallError: a table, a column or a weight file is missing or wrong.
        Incomplete: another process makes the same table.
        StorageError: the results cannot be written; what stood there is untouched.
    """
    share = share or Share.of(RankOptions())
    all_columns(scorers)
    suffix = suffix or (scorers[0].suffix if len(scorers) == 1 else "scores")
    paths = tables.expand(inputs)
    output = tables.output_path(paths, suffix, options.output)
    for scorer in scorers:
        if what := missing(scorer, options.models):
            raise CallError(f"{scorer.name}: " + "; ".join(what))
    if goes_by_parts(paths, output):
        return over_parts(paths[0], Status(suffix, output), share, _ScorersOnPart(scorers, options, suffix))
    receipt = receipt_of(paths, scorers, options, output)
    if receipt is not None and share.joins == "always" and (facts := receipt.recall()):
        return repeated(Status(suffix, output), facts, options.max_failed)
    run = _Run(paths, scorers, options, Store(store_of(output), options.reader, options.models), suffix)
    status = Status(suffix, output, rows_in=len(run.rows))
    ended = carry_through(status, share, lambda: run.compute(share.rank), run.finish)
    if receipt is not None and share.computes and share.joins == "always" and is_lasting(ended):
        run.keep(receipt, ended)
    return ended


def receipt_of(
    paths: Sequence[Path], scorers: Sequence[Scorer], options: RunOptions, output: Path
) -> Receipt | None:
    """What a scored table would be made of; None where only a run can tell whether there is something to do."""
    if options.retry_failed or not all(scorer.columns for scorer in scorers):
        return None
    store = Store(store_of(output), options.reader, options.models)
    how = f"keep_as={options.keep_as!r} skip_if_existing={options.skip_if_existing}"
    return Receipt(
        "\n".join([how, *(store.cells(scorer).meaning for scorer in scorers)]), tables.files(paths), output
    )


@dataclasses.dataclass(frozen=True)
class _ScorersOnPart:
    """run_scorers() on a part of a table."""

    scorers: Sequence[Scorer]
    options: RunOptions
    suffix: str

    def __call__(self, part: Path, output: Path, share: Share) -> Status:
        options = dataclasses.replace(self.options, output=os.fspath(output))
        return run_scorers([os.fspath(part)], self.scorers, options, self.suffix, share=share)

    def judge(self, status: Status) -> None:
        status.judge(self.options.max_failed)


class _Run:
    """A table on its way through some scorers."""

    def __init__(
        self, paths: Sequence[Path], scorers: Sequence[Scorer], options: RunOptions, store: Store, what: str
    ) -> None:
        self._paths, self._scorers, self._options, self._store = paths, scorers, options, store
        self._what = what
        self._stamps: list[tuple[int, int, int]] = []
        self.rows = self._read()
        if options.keep_as:  # refuse now what would be refused later
            with_earlier_kept(self.rows.frame, all_columns(scorers), options.keep_as)

    def _read(self) -> Rows:
        self._stamps = [places.stamp(path) for path in tables.files(self._paths)]
        return Rows(tables.read(self._paths, dict.fromkeys(n for s in self._scorers for n in s.reads)))

    def compute(self, rank: launch.Rank) -> None:
        done = compute(self.rows, self._scorers, self._options, self._store, rank, self._what)
        if rank.world == 1:
            self.rows.look_again(done)
        tables.release_memory()

    def finish(self, status: Status) -> None:
        """Write the table as it is by now and its failed rows, and find the exit code."""
        changed = [places.stamp(path) for path in tables.files(self._paths)] != self._stamps
        if changed:
            self.rows = self._read()
        joined = join(self.rows, self._scorers, self._options, self._store)
        status.hours_in = status.hours_out = tables.hours(joined.frame)
        tables.write(joined.frame, status.output, types_in(status.output, self._scorers))
        tables.write_sidecar(joined.failed, status.output, "failed")
        status.rows_in = status.rows_out = len(joined.frame)
        status.failed, status.failed_rows = joined.status_counts, joined.failed_rows
        status.scored, status.pending = joined.scored_rows, joined.pending_rows
        status.judge(self._options.max_failed)
        if status.pending and changed:
            status.message = f"{self._paths[0]} changed meanwhile; {status.message}"
        for scorer in self._scorers:
            self._store.cells(scorer).compact()

    def keep(self, receipt: Receipt, status: Status) -> None:
        """Remember what the table was made of."""
        looked = any("path" in scorer.reads for scorer in self._scorers)
        paths = pa.array(tables.text(self.rows.frame, "path")) if looked else None
        files = files_from({}) if paths is None else files_of(paths, self.rows.marks())
        receipt.keep(status.facts, files, [self._store.cells(s) for s in self._scorers], self._stamps)
