"""run_scorers: one pass over a table, for one scorer or many, in one process or many."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd

from clipsheet import tables
from clipsheet.engine import launch
from clipsheet.engine.batches import Pass
from clipsheet.engine.join import Joined, join, with_earlier_kept
from clipsheet.engine.pool import Pool
from clipsheet.engine.presence import Presence
from clipsheet.engine.sample import SampleJob, Task
from clipsheet.engine.todo import Embedding, Work, plan
from clipsheet.engine.watchdog import Watchdog
from clipsheet.errors import CallError
from clipsheet.log import Progress
from clipsheet.options import GIB, RunOptions
from clipsheet.outcome import Status, recording
from clipsheet.scorer import Scorer, all_columns, missing
from clipsheet.store.folder import Store
from clipsheet.store.locks import working_on

log = logging.getLogger(__name__)
MOST_THREADS = 4  # that decode one file: each takes memory
POLL_SECONDS = 0.5


def compute(
    frame: pd.DataFrame,
    scorers: Sequence[Scorer],
    options: RunOptions,
    store: Store,
    rank: launch.Rank,
    what: str,
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Score what has no verdict yet, and keep the verdicts in the store.

    Args:
        beat: called every few seconds, for whoever watches from outside.

    Raises:
        TooManyFailed: the files seem not to be there at all.
        StorageError: a verdict could not be kept.
    """
    if importlib.util.find_spec(options.reader.replace("pyav", "av")) is None:
        raise CallError(f"--reader {options.reader}: pip install {options.reader}")
    work = plan(frame, scorers, options, store, rank)
    rows = np.flatnonzero(np.logical_or.reduce([w.todo for w in work]))
    if not len(rows):
        return
    embeddings = list({id(w.embedding): w.embedding for w in work if w.embedding is not None}.values())
    tasks = _tasks(frame, rows.tolist(), work, embeddings)
    with Watchdog(options.stall) as watchdog, Progress(len(rows), what) as progress:

        def heartbeat() -> None:
            watchdog.alive()
            beat()

        preparations = tuple(e.feature.preparation(options.models) for e in embeddings)
        cores = max(1, (os.cpu_count() or 1) // rank.world)
        processes = min(len(rows), options.num_workers or cores)
        spare = 1 if options.num_workers else min(MOST_THREADS, max(1, cores // processes))
        placed = tuple(scorer.placed(options.models) for scorer in scorers)
        job = SampleJob(placed, preparations, spare, options.root, options.reader)
        passing = Pass(work, embeddings, options, rank, heartbeat)
        with contextlib.ExitStack() as stack:
            stack.callback(passing.close)
            passing.begin()
            if _opens_files(work, embeddings):
                pool = Pool(
                    job, processes, seconds=options.timeout,
                    memory_bytes=int(options.worker_memory * GIB), heartbeat=heartbeat,
                )  # fmt: skip
                stack.callback(pool.close)
                results = pool.map(tasks)
            else:  # there is nothing to be killed for
                results = ((row, job(task, _any_time)) for row, task in tasks)
            for row, result in results:
                passing.take(row, result)
                progress.step()
            passing.finish()


def _tasks(
    frame: pd.DataFrame, rows: Sequence[int], work: Sequence[Work], embeddings: Sequence[Embedding]
) -> Iterator[tuple[int, Task]]:
    """What is to be made of each row."""
    columns = {name: tables.text(frame, name) for w in work for name in w.scorer.reads}
    for row in rows:
        cells = {name: column.iat[row] for name, column in columns.items()}
        pictures = tuple((i, e.lacks(row)) for i, e in enumerate(embeddings) if e.owners[row])
        yield row, Task(cells, tuple(i for i, w in enumerate(work) if w.todo[row]), pictures)


def _opens_files(work: Sequence[Work], embeddings: Sequence[Embedding]) -> bool:
    """Whether anything is to be done that needs more than the vectors that are there."""
    looking = any(w.embedding is None and w.todo.any() for w in work)
    return looking or any(e.owners.any() for e in embeddings)


def _any_time(seconds: float) -> None:
    """Nobody waits with a clock."""


def run_scorers(
    inputs: Sequence[str], scorers: Sequence[Scorer], options: RunOptions, suffix: str = ""
) -> Status:
    """Score a table and write it with the new columns.

    Args:
        inputs: names and patterns of one or more tables, joined one after another.
        suffix: of the output's name; by default the scorer's name, or `scores` for several.

    Returns:
        What happened to the rows. Under a launcher only the main process writes; the others
        return when their rows are done.

    Raises:
        CallError: a table, a column or a weight file is missing or wrong.
        Incomplete: another process makes the same table.
        StorageError: the results cannot be written; what stood there is untouched.
    """
    all_columns(scorers)
    needs = dict.fromkeys(name for scorer in scorers for name in scorer.reads)
    paths = tables.expand(inputs)
    suffix = suffix or (scorers[0].suffix if len(scorers) == 1 else "scores")
    output = tables.output_path(paths, suffix, options.output)
    for scorer in scorers:
        if what := missing(scorer, options.models):
            raise CallError(f"{scorer.name}: " + "; ".join(what))
    before = [tables.stamp(path.stat()) for path in paths]
    frame = tables.read(inputs, needs)
    if options.keep_as:  # refuse now what would be refused later
        with_earlier_kept(frame, all_columns(scorers), options.keep_as)
    rank = launch.current()
    store = Store(output.parent, options.reader, options.models)
    status = Status(suffix, output, rows_in=len(frame))
    presence = Presence(output.parent, rank) if rank.world > 1 else None
    beat = presence.beat if presence is not None else lambda: None
    if not rank.is_main:
        compute(frame, scorers, options, store, rank, suffix, beat)
        if presence is not None:
            presence.over()
        return status
    with working_on(output), recording(status):
        compute(frame, scorers, options, store, rank, suffix, beat)
        tables.release_memory()
        if presence is not None:
            _wait_for_others(presence, rank.world, options.stall)
        changed = [tables.stamp(path.stat()) for path in paths] != before
        if changed:
            frame = tables.read(inputs, needs)
        _finish(join(frame, scorers, options, store), status, options)
        if status.pending and changed:
            status.message = f"{paths[0]} changed meanwhile; {status.message}"
        for scorer in scorers:
            store.cells(scorer).compact()
    return status


def _finish(joined: Joined, status: Status, options: RunOptions) -> None:
    """Write the table and its failed rows, and find the exit code."""
    tables.write(joined.frame, status.output)
    tables.write_sidecar(joined.failed, status.output, "failed")
    status.rows_in = status.rows_out = len(joined.frame)
    status.failed, status.failed_rows = joined.status_counts, joined.failed_rows
    status.scored, status.pending = joined.scored_rows, joined.pending_rows
    status.judge(options.max_failed)


def _wait_for_others(presence: Presence, world: int, stall: float) -> None:
    """Wait until all other processes of the launch are over, or silent for `stall` seconds."""
    started = time.time()
    while not presence.ended(world):
        if time.time() - max(started, presence.last_beat()) > stall:
            log.warning("another process of this launch is silent for %g s; going on without", stall)
            return
        time.sleep(POLL_SECONDS)
    presence.remove()
