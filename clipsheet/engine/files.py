"""Files that a step writes for the rows of a table: which ones are missing, which process writes them, and resuming.

A file has its name only when it is whole: it is written under another, then renamed. Its size and time are kept with
what else its maker says; a file that is no longer as it was written is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from clipsheet import tables
from clipsheet.engine.pool import Pool
from clipsheet.engine.ranks import Share
from clipsheet.engine.watchdog import Watchdog
from clipsheet.errors import STORAGE_ERRNOS, MediaError, storing
from clipsheet.log import Progress
from clipsheet.options import GIB, RunOptions
from clipsheet.store.cells import Cells, Journal
from clipsheet.store.rows import Rows
from clipsheet.target import Maker, Target

FILES_PER_TASK = 32  # at most; a kill costs those of a task
FIRST_TASKS, LAST_TASKS = 4, 16  # per worker, if all were as long as the first, as the last
#: How a file is called before it is whole; see clipsheet.target.aside().
PARTIAL = re.compile(r"\.[0-9a-f]{8}\.(?P<host>.+)\.(?P<pid>[0-9]+)\.part")
STALE_SECONDS = 86_400.0  # after which a half-written file of another machine is removed

Job = tuple[int, Target]  # the row that a file is made for, and what it is to be


@dataclass(frozen=True)
class Work:
    """How files are made.

    Attributes:
        kind: what is made, for the progress.
        results: the dataclasses that `make` returns.
        cells: where verdicts are kept.
    """

    kind: str
    make: Maker
    results: tuple[type, ...]
    cells: Cells
    options: RunOptions
    share: Share

    @property
    def workers(self) -> int:
        """How many processes there may be."""
        return self.options.num_workers or max(1, (os.cpu_count() or 1) // self.share.rank.local_world)


def map_files(rows: Rows, jobs: Sequence[Job], work: Work) -> list[Any]:
    """One result per job: from the store where its file is still there, else newly made; see Desk.map_files()."""
    sources = rows.keys(("path",)).to_pylist()
    keys = [
        hashlib.blake2b(repr((sources[row], target)).encode(), digest_size=12).hexdigest()
        for row, target in jobs
    ]
    results, tries = _known(keys, jobs, work)
    owned = work.share.rank.owned(len(rows)) if work.share.computes else np.zeros(len(rows), bool)
    todo: dict[str, int] = {}
    first = {
        key: number for number, key in reversed(list(enumerate(keys)))
    }  # whose row decides who makes a file
    for number, key in enumerate(keys):
        if results[number] is None and owned[jobs[first[key]][0]]:
            todo.setdefault(key, number)
    if not todo:
        return results
    _remove_stale({os.path.dirname(jobs[number][1].target) for number in todo.values()})
    with work.cells.journal() as journal, Progress(len(todo), work.kind, "files") as progress:
        for numbers, made in _in_workers(rows, jobs, list(todo.values()), work):
            for number, result in zip(numbers, made, strict=True):
                key = keys[number]
                results[number] = _kept(journal, key, jobs[number][1].target, result, tries.get(key, 0) + 1)
            progress.step(len(numbers))
    by_key = {key: results[number] for key, number in todo.items()}
    return [by_key.get(key) if one is None else one for one, key in zip(results, keys, strict=True)]


def _kept(journal: Journal, key: str, target: str, result: Any, tries: int) -> Any:
    """What a maker said of a target, after it is in the journal.

    Raises:
        StorageError: it could not be written for a reason that is not its own.
    """
    if isinstance(result, OSError):
        if result.errno in STORAGE_ERRNOS:
            with storing(target):
                raise result
        result = MediaError("partial", str(result))
    if isinstance(result, MediaError):
        journal.failed(key, result, tries)
    else:
        journal.scored(key, [json.dumps(vars(result))])
    return result


def _known(keys: list[str], jobs: Sequence[Job], work: Work) -> tuple[list[Any], dict[str, int]]:
    """What is known of each job, and how often those that are to be tried again have been."""
    verdicts = work.cells.load()
    at = verdicts.find(keys)
    # A process that makes nothing takes what there is.
    final = verdicts.final(at, retry_failed=work.options.retry_failed) if work.share.computes else at >= 0
    results: list[Any] = [None] * len(keys)
    tries = {keys[i]: int(verdicts.tries[at[i]]) for i in np.flatnonzero((at >= 0) & ~final)}
    for number in np.flatnonzero(final).tolist():
        place = int(at[number])
        if code := verdicts.error[place].as_py():
            results[number] = MediaError(code, verdicts.detail[place].as_py())
            continue
        made = _result(json.loads(verdicts.columns["made"][place].as_py()), work.results)
        if not hasattr(made, "mtime_ns") or _is_there(jobs[number][1].target, made):
            results[number] = made
    return results, tries


def _result(said: dict[str, Any], kinds: Sequence[type]) -> Any:
    kind = next(kind for kind in kinds if set(said) == {f.name for f in fields(kind)})
    return kind(**said)


def _is_there(target: str, made: Any) -> bool:
    """Whether a file is as it was written."""
    try:
        status = os.stat(target)
    except OSError:
        return False
    return bool((status.st_size, status.st_mtime_ns) == (made.size, made.mtime_ns))


def _in_workers(
    rows: Rows, jobs: Sequence[Job], numbers: list[int], work: Work
) -> Iterator[tuple[list[int], list[Any]]]:
    """Make the files of some jobs, those of one source together."""
    by_row: dict[int, list[int]] = {}
    for number in numbers:
        by_row.setdefault(jobs[number][0], []).append(number)
    options = work.options
    groups = _groups(list(by_row.values()), [target for _, target in jobs], work.workers)
    paths = tables.text(rows.frame, "path")
    tasks = ((tuple(some), (paths.iat[jobs[some[0]][0]], [jobs[n][1] for n in some])) for some in groups)
    with Watchdog(options.stall) as watchdog:
        pool = Pool(
            work.make, max(1, min(len(groups), work.workers)), seconds=options.timeout,
            memory_bytes=int(options.worker_memory * GIB), heartbeat=watchdog.alive, lookahead=1,
        )  # fmt: skip
        for some, made in pool.map(tasks):
            yield list(some), [made] * len(some) if isinstance(made, MediaError) else made


def _groups(sources: Sequence[list[int]], targets: Sequence[Target], workers: int) -> list[list[int]]:
    """The files of each source in groups, each for one worker.

    So that no worker is at work for long when nothing is left for the others, groups get shorter and shorter
    (guided self-scheduling: Polychronopoulos and Kuck, IEEE Trans. Computers C-36, 1987), and of the shortest, at
    the end, the longest is taken next (Graham, SIAM J. Appl. Math. 17, 1969). Before them, the groups of a source
    follow each other, which each read all of it.
    """
    lengths = [target.seconds for target in targets]
    left = sum(lengths[n] for some in sources for n in some)
    shortest, longest = (left / (workers * tasks) for tasks in (LAST_TASKS, FIRST_TASKS))
    groups: list[list[int]] = []
    last: list[list[int]] = []
    for some in sources:
        group: list[int] = []
        taken = room = 0.0  # seconds
        for n in some:
            if not group or taken + lengths[n] / 2 > room or len(group) == FILES_PER_TASK:
                room, taken, group = min(longest, max(shortest, left / (2 * workers))), 0.0, []
                (groups if room > shortest else last).append(group)
            group.append(n)
            taken += lengths[n]
            left -= lengths[n]
    return groups + sorted(last, key=lambda group: -sum(lengths[n] for n in group))


def _remove_stale(folders: Iterable[str]) -> None:
    """Remove what killed workers left half-written: those of this machine, and old ones of others."""
    host = socket.gethostname()
    for folder in folders:
        for partial in Path(folder or ".").glob(".*.part"):
            if not (match := PARTIAL.fullmatch(partial.name)):
                continue
            dead = match["host"] == host and not os.path.exists(f"/proc/{match['pid']}")
            with contextlib.suppress(FileNotFoundError):
                if dead or time.time() - partial.stat().st_mtime > STALE_SECONDS:
                    partial.unlink()
