"""run_scorers: the one pass over a table, for one scorer or many, in one process or many.

Each sample is opened and decoded once, in a worker process; every scorer prepares its item there;
batches are scored here; each verdict is on disk before the next batch; at the end the verdicts are
joined to the table by key. Processes never talk to each other: each does the rows whose key falls
to it, and the main one waits until the others are over.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import launch, meta
from pipeline.config import option
from pipeline.errors import (
    ENVIRONMENTAL,
    CallError,
    MediaError,
    TooManyFailed,
)
from pipeline.log import Progress
from pipeline.media import EVERY_FRAME, MAX_BAD_RATIO, READERS, Frame, Media, MediaInfo
from pipeline.scorer import Frames, Row, Scorer, all_columns
from pipeline.status import Status, recording
from pipeline.store import Cells, Journal, Presence, Store, row_keys, working_on
from pipeline.watchdog import Watchdog
from pipeline.workers import Pool, unexpected

log = logging.getLogger(__name__)

FRAMES_IN_FLIGHT = 4  # between the decoder and a scorer that shares it
REALTIME_FACTOR = 4.0  # a file may take so many times its own length
EARLY_ROWS = 200
POLL_SECONDS = 0.5
GIB = 1 << 30


@dataclass(frozen=True)
class RunOptions:
    """How a run is done; nothing here changes a result, but for the reader, if another is wished for."""

    bs: int = option(16, "samples scored at once", ge=1)
    num_workers: int = option(0, "decoding processes; 0: one per core, shared by all ranks", ge=0)
    use_cpu: bool = option(False, "use no GPU")
    skip_if_existing: bool = option(False, "leave cells alone that hold a value, whatever made it")
    output: str = option("", "table to write instead of <table>_<suffix>.csv")
    pretrained_models: str = option("pretrained_models", "folder of the weight files")
    root: str = option("", "refuse files outside this folder")
    reader: str = option(READERS[0], "what decodes videos; decord: pip install decord", choices=READERS)
    timeout: float = option(60.0, "seconds a sample may take, or 4 times its length", gt=0)
    worker_memory: float = option(4.0, "GiB of address space per decoding process", gt=0)
    max_failed: float = option(0.2, "share of rows that may fail before the exit code is 3", ge=0, le=1)
    retry_failed: bool = option(False, "try every failed row again")
    stall: float = option(900.0, "seconds without progress after which a process gives up", gt=0)


# --- in the worker -----------------------------------------------------------------------------


@dataclass(frozen=True)
class SampleJob:
    """Opens a sample once and prepares it for some scorers; runs in a worker process."""

    scorers: tuple[Scorer, ...]
    root: str = ""
    reader: str = READERS[0]

    def __call__(self, task: tuple[Row, tuple[int, ...]], allow: Any) -> list[Any]:
        """One item or MediaError for each wanted scorer."""
        row, wanted = task
        scorers = [self.scorers[i] for i in wanted]
        if not any("path" in scorer.reads for scorer in scorers):
            return [_prepared(scorer, row, NoFrames()) for scorer in scorers]
        media = Media(row["path"], root=self.root or None, reader=self.reader)
        allow(REALTIME_FACTOR * media.info.duration)
        items = prepare_together(media, [(scorer, row) for scorer in scorers])
        media.check_unchanged()
        return items


class OrderedFrames:
    """The frames that one scorer asked for, counted: what is missing fails the sample."""

    def __init__(self, info: MediaInfo, frames: Iterable[Frame], wanted: set[int] | None) -> None:
        self.info = info
        self._frames = frames
        self._wanted = wanted

    def __iter__(self) -> Iterator[Frame]:
        count = 0
        for frame in self._frames:
            count += 1
            yield frame
        asked = len(self.info.frame_seconds) if self._wanted is None else len(self._wanted)
        least = asked if self._wanted is not None else math.ceil(asked * (1 - MAX_BAD_RATIO))
        if count < least:
            raise MediaError("decode_error", f"{asked - count} of {asked} frames do not decode")


class NoFrames:
    """In place of frames for a scorer that reads no file."""

    @property
    def info(self) -> MediaInfo:
        raise ValueError("a scorer that does not read `path` has no file to be informed of")

    def __iter__(self) -> Iterator[Frame]:
        return iter(())


def prepare_together(media: Media, work: Sequence[tuple[Scorer, Row]]) -> list[Any]:
    """Decode a sample once and let every scorer go through its frames.

    Each scorer gets the frames that it would get alone, whoever else looks at the sample.

    Returns:
        For each of `work` what prepare() returned, or a MediaError.
    """
    wanted = [_wanted(scorer, media.info) for scorer, _ in work]
    if len(work) == 1:
        frames = OrderedFrames(media.info, media.frames(wanted[0]), wanted[0])
        return [_prepared(*work[0], frames)]
    queues = [queue.Queue[Any](FRAMES_IN_FLIGHT) for _ in work]
    results: list[Any] = [None] * len(work)

    def consume(place: int) -> None:
        arriving = _Arriving(queues[place])
        frames = OrderedFrames(media.info, arriving, wanted[place])
        results[place] = _prepared(*work[place], frames)
        arriving.drain()

    threads = [threading.Thread(target=consume, args=(place,)) for place in range(len(work))]
    for thread in threads:
        thread.start()
    end: Any = None
    try:
        sets = [w for w in wanted if w is not None]
        for frame in media.frames(set().union(*sets) if len(sets) == len(work) else None):
            for waiting, indices in zip(queues, wanted, strict=True):
                if indices is None or frame.index in indices:
                    waiting.put(frame)
    except MediaError as error:
        end = error
    finally:
        for waiting in queues:
            waiting.put(end)
        for thread in threads:
            thread.join()
    return results


def _wanted(scorer: Scorer, info: MediaInfo) -> set[int] | None:
    """Indices of the frames it asks for, None for all."""
    times = scorer.times(info)
    if times is EVERY_FRAME:
        return None
    assert isinstance(times, Sequence)
    return {info.index_at(seconds) for seconds in times}


class _Arriving:
    """Frames from the decoding thread, up to the end or the error that it sends."""

    def __init__(self, waiting: queue.Queue[Any]) -> None:
        self._waiting = waiting
        self._over = False

    def __iter__(self) -> Iterator[Frame]:
        while not self._over:
            frame = self._waiting.get()
            if isinstance(frame, Frame):
                yield frame
                continue
            self._over = True
            if frame is not None:
                raise frame

    def drain(self) -> None:
        """Take what the scorer did not, so that the decoder is not held up."""
        while not self._over:
            self._over = not isinstance(self._waiting.get(), Frame)


def _prepared(scorer: Scorer, row: Row, frames: Frames) -> Any:
    try:
        return scorer.prepare(row, frames)
    except MediaError as error:
        return error
    except MemoryError as error:
        return MediaError("out_of_memory", str(error))
    except Exception as error:
        return unexpected(error)


# --- what is to be done ------------------------------------------------------------------------


@dataclass
class _Work:
    """One scorer's part of a pass."""

    scorer: Scorer
    cells: Cells
    keys: pa.Array  # [N] text
    todo: np.ndarray  # [N] bool: rows that this process scores
    tries: dict[str, int]
    began: Mapping[str, int]
    journal: Journal | None = None
    model: Any = None
    loaded: bool = False
    batch: list[tuple[str, Any]] = field(default_factory=list)


def _plan(
    frame: pd.DataFrame, scorers: Sequence[Scorer], options: RunOptions, store: Store, rank: launch.Rank
) -> list[_Work]:
    shared = {("path",)} if rank.world > 1 else set()
    keys = {reads: row_keys(frame, reads) for reads in {*shared, *(s.reads for s in scorers)}}
    mine = np.ones(len(frame), bool)
    if shared:
        mine[:] = [int(key[:15], 16) % rank.world == rank.index for key in keys["path",].to_pylist()]
    work = []
    for scorer in scorers:
        own = keys[scorer.reads]
        cells = store.cells(scorer)
        verdicts = cells.load()
        at = verdicts.find(own)
        todo = ~verdicts.final(at, retry_failed=options.retry_failed)
        if options.skip_if_existing:
            todo &= ~_filled(frame, scorer)
        todo &= pc.index_in(own, value_set=own).to_numpy() == np.arange(len(own))  # once per key
        began = verdicts.began
        if options.retry_failed:  # one more try, but alone
            began = {key: min(count, 2) for key, count in began.items()}
        tries = {own[i].as_py(): int(verdicts.tries[at[i]]) for i in np.flatnonzero(todo & (at >= 0))}
        work.append(_Work(scorer, cells, own, todo & mine, tries, began))
    return work


def _filled(frame: pd.DataFrame, scorer: Scorer) -> np.ndarray:
    """[N] bool: rows where every column of the scorer holds a value."""
    filled = np.ones(len(frame), bool)
    for column in scorer.columns:
        there = column.name in frame.columns
        filled &= (meta.text(frame, column.name) != "").to_numpy(bool) if there else False
    return filled


# --- the pass ----------------------------------------------------------------------------------


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
    work = _plan(frame, scorers, options, store, rank)
    rows = np.flatnonzero(np.logical_or.reduce([w.todo for w in work]))
    if not len(rows):
        return
    columns = {name: meta.text(frame, name) for s in scorers for name in s.reads}

    def tasks() -> Iterator[tuple[int, tuple[Row, tuple[int, ...]]]]:
        for row in rows:
            cells = {name: column.iat[row] for name, column in columns.items()}
            yield int(row), (cells, tuple(i for i, w in enumerate(work) if w.todo[row]))

    with Watchdog(options.stall) as watchdog, Progress(len(rows), what) as progress:

        def heartbeat() -> None:
            watchdog.alive()
            beat()

        passing = _Pass(work, options, rank, heartbeat)
        pool = Pool(
            SampleJob(tuple(scorers), options.root, options.reader),
            min(len(rows), options.num_workers or max(1, (os.cpu_count() or 1) // rank.world)),
            seconds=options.timeout,
            memory_bytes=int(options.worker_memory * GIB),
            heartbeat=heartbeat,
        )
        try:
            for row, result in pool.map(tasks()):
                passing.take(row, result)
                progress.step()
            passing.finish()
        finally:
            pool.close()
            passing.close()


class _Pass:
    """Collects prepared items into batches, scores them and keeps the verdicts."""

    def __init__(
        self,
        work: list[_Work],
        options: RunOptions,
        rank: launch.Rank,
        heartbeat: Callable[[], None],
    ) -> None:
        self._work, self._options, self._rank = work, options, rank
        self._heartbeat = heartbeat
        self._seen = 0
        self._codes: Counter[str] = Counter()
        self._told: set[str] = set()
        # Failures that speak of the machine, kept back until it is clear that they do not.
        self._held: list[tuple[_Work, str, MediaError]] | None = []

    def take(self, row: int, result: Any) -> None:
        """What a worker made of a row: one item per wanted scorer, or a MediaError for all."""
        self._heartbeat()
        wanted = [w for w in self._work if w.todo[row]]
        results = [result] * len(wanted) if isinstance(result, MediaError) else result
        for work, item in zip(wanted, results, strict=True):
            key = work.keys[row].as_py()
            if isinstance(item, MediaError):
                self._fail(work, key, item)
            elif work.began.get(key, 0) >= 2:
                self._score_suspect(work, key, item)
            else:
                work.batch.append((key, item))
                if len(work.batch) >= self._options.bs:
                    self._flush(work)
        self._seen += 1
        if self._seen == EARLY_ROWS:
            self._check_environment()
            self._release()

    def finish(self) -> None:
        """Score what is left."""
        for work in self._work:
            self._flush(work)
        self._release()

    def close(self) -> None:
        for work in self._work:
            if work.journal is not None:
                work.journal.__exit__(None, None, None)
                work.journal = None

    def _journal(self, work: _Work) -> Journal:
        if work.journal is None:
            work.journal = work.cells.journal()
        return work.journal

    def _fail(self, work: _Work, key: str, error: MediaError) -> None:
        if error.trace and error.detail not in self._told:
            self._told.add(error.detail)
            log.error("%s: an exception nobody foresaw; its rows fail\n%s", work.scorer.name, error.trace)
        self._codes[error.code] += 1
        if self._held is not None and error.code in ENVIRONMENTAL:
            self._held.append((work, key, error))
        else:
            self._journal(work).failed(key, error, work.tries.get(key, 0) + 1)

    def _release(self) -> None:
        held, self._held = self._held or [], None
        for work, key, error in held:
            self._fail(work, key, error)

    def _check_environment(self) -> None:
        for code, count in self._codes.items():
            if code in ENVIRONMENTAL and count > EARLY_ROWS * len(self._work) / 2:
                for work, key, error in self._held or []:
                    self._journal(work).failed(key, error, tries=0)
                raise TooManyFailed(
                    f"{count} of the first {EARLY_ROWS * len(self._work)} results are `{code}`: is the disk "
                    "mounted? None of that counts; the same command tries them again"
                )

    def _flush(self, work: _Work) -> None:
        batch, work.batch = work.batch, []
        if not batch:
            return
        model = self._model(work)
        if model is not None:
            for key, _ in batch:
                self._journal(work).began(key)
        outputs: list[Any]
        try:
            outputs = work.scorer.score(model, [item for _, item in batch])
        except MediaError as error:
            outputs = [error]
        except Exception as error:
            outputs = [unexpected(error)]
        if len(outputs) != len(batch):
            outputs = [self._score_one(work, model, item) for _, item in batch]
        for (key, _), output in zip(batch, outputs, strict=True):
            self._keep(work, key, output)
        self._heartbeat()

    def _score_one(self, work: _Work, model: Any, item: Any) -> Any:
        """One item alone, after the batch that it was in raised."""
        try:
            return work.scorer.score(model, [item])[0]
        except MediaError as error:
            return error
        except Exception as error:
            return unexpected(error)

    def _score_suspect(self, work: _Work, key: str, item: Any) -> None:
        """A row at which the process died twice: alone, and a third time never again."""
        if work.began[key] >= 3:
            self._fail(work, key, MediaError("crashed", "the process died each time it was scored"))
            return
        self._flush(work)
        work.batch = [(key, item)]
        self._flush(work)

    def _model(self, work: _Work) -> Any:
        if not work.loaded:
            if missing := work.scorer.missing():
                raise CallError(f"{work.scorer.name}: " + "; ".join(missing))
            place = launch.device(self._options.use_cpu, self._rank) if work.scorer.on_gpu else "cpu"
            work.model, work.loaded = work.scorer.load(place), True
        return work.model

    def _keep(self, work: _Work, key: str, output: Any) -> None:
        if isinstance(output, MediaError):
            self._fail(work, key, output)
        elif any(isinstance(v, float | np.floating) and not math.isfinite(v) for v in output):
            self._fail(work, key, MediaError("nonfinite", f"{output}"))
        else:
            self._journal(work).scored(key, [meta.cell(value) for value in output])


# --- from verdicts to a table ------------------------------------------------------------------


@dataclass
class _Joined:
    frame: pd.DataFrame
    failed: pd.DataFrame
    status_counts: dict[str, int]
    failed_rows: int
    scored_rows: int
    pending_rows: int


def join(frame: pd.DataFrame, scorers: Sequence[Scorer], options: RunOptions, store: Store) -> _Joined:
    """The table with the columns of some scorers filled from the store."""
    frame = frame.copy()
    codes: dict[str, np.ndarray] = {}
    failures = []
    pending = np.zeros(len(frame), bool)
    keys = {reads: row_keys(frame, reads) for reads in {s.reads for s in scorers}}
    for scorer in scorers:
        verdicts = store.cells(scorer).load()
        at = verdicts.find(keys[scorer.reads])
        kept = _filled(frame, scorer) if options.skip_if_existing else np.zeros(len(frame), bool)
        at = np.where(kept, -1, at)
        pending |= (at < 0) & ~kept
        for column in scorer.columns:
            texts = _take(verdicts.columns[column.name], at)
            if kept.any():
                texts = pc.if_else(pa.array(kept), pa.array(meta.text(frame, column.name)), texts)
            _place(frame, column.name, texts)
        codes[scorer.name] = _take(verdicts.error, at).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(codes[scorer.name] != "")
        if len(rows):
            details = _take(verdicts.detail, at).to_numpy(zero_copy_only=False)
            failures.append(
                frame.iloc[rows].assign(
                    scorer=scorer.name, code=codes[scorer.name][rows], detail=details[rows]
                )
            )
    meta.set_errors(frame, codes)
    failed = np.logical_or.reduce([c != "" for c in codes.values()])
    counts = Counter(f"{n}: {code}" for n, c in codes.items() for code in c[c != ""])
    return _Joined(
        frame,
        pd.concat(failures, ignore_index=True) if failures else frame.iloc[:0],
        dict(counts.most_common()),
        int(failed.sum()),
        int((~failed & ~pending).sum()),
        int(pending.sum()),
    )


def _take(texts: pa.Array, at: np.ndarray) -> pa.Array:
    """[N] texts at some positions, empty where the position is -1."""
    return pc.fill_null(texts.take(pa.array(at, mask=at < 0)), "")


def _place(frame: pd.DataFrame, name: str, texts: pa.Array) -> None:
    """Set a column: where it stands, or else at the end but before a last `error`."""
    column = meta.text_column(texts, frame)
    if name in frame.columns:
        frame[name] = column
    else:
        last = len(frame.columns)
        before_error = last > 0 and frame.columns[-1] == "error"
        frame.insert(last - 1 if before_error else last, name, column)


# --- the tool ----------------------------------------------------------------------------------


def run_scorers(
    tables: Sequence[str], scorers: Sequence[Scorer], options: RunOptions, suffix: str = ""
) -> Status:
    """Score a table and write it with the new columns.

    Args:
        tables: names and patterns of one or more tables, joined one after another.
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
    paths = meta.expand(tables)
    suffix = suffix or (scorers[0].name if len(scorers) == 1 else "scores")
    output = meta.output_path(paths, suffix, options.output)
    for scorer in scorers:
        if missing := scorer.missing():
            raise CallError(f"{scorer.name}: " + "; ".join(missing))
    before = [meta.stamp(path.stat()) for path in paths]
    frame = meta.read(tables, needs)
    rank = launch.current()
    store = Store(output.parent, options.reader)
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
        meta.release_memory()
        if presence is not None:
            _wait_for_others(presence, rank.world, options.stall)
        changed = [meta.stamp(path.stat()) for path in paths] != before
        if changed:
            frame = meta.read(tables, needs)
        _finish(join(frame, scorers, options, store), status, options)
        if status.pending and changed:
            status.message = f"{paths[0]} changed meanwhile; {status.message}"
        for scorer in scorers:
            store.cells(scorer).compact()
    return status


def _finish(joined: _Joined, status: Status, options: RunOptions) -> None:
    """Write the table and its failed rows, and find the exit code."""
    meta.write(joined.frame, status.output)
    write_sidecar(joined.failed, status.output, "failed")
    status.rows_in = status.rows_out = len(joined.frame)
    status.failed, status.failed_rows = joined.status_counts, joined.failed_rows
    status.scored, status.pending = joined.scored_rows, joined.pending_rows
    status.judge(options.max_failed)


def write_sidecar(frame: pd.DataFrame, output: Path, kind: str) -> None:
    """Write `<output stem>_<kind>`, or remove an old one when there is nothing to say."""
    path = meta.sidecar(output, kind)
    if len(frame):
        meta.write(frame, path)
    else:
        path.unlink(missing_ok=True)


def _wait_for_others(presence: Presence, world: int, stall: float) -> None:
    """Wait until all other processes of the launch are over, or silent for `stall` seconds."""
    started = time.time()
    while not presence.ended(world):
        if time.time() - max(started, presence.last_beat()) > stall:
            log.warning("another process of this launch is silent for %g s; going on without", stall)
            return
        time.sleep(POLL_SECONDS)
    presence.remove()
