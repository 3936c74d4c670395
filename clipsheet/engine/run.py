"""run_scorers: the one pass over a table, for one scorer or many, in one process or many.

Each sample is opened and decoded once, in a worker process; every scorer prepares its item there;
batches are scored here; each verdict is on disk before the next batch; at the end the verdicts are
joined to the table by key. Processes never talk to each other: each does the rows whose key falls
to it, and the main one waits until the others are over.
"""

from __future__ import annotations

import contextlib
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
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from clipsheet import tables
from clipsheet.config import option
from clipsheet.engine import launch
from clipsheet.engine.background_calls import Flight
from clipsheet.engine.pool import Pool, out_of_memory, unexpected
from clipsheet.engine.watchdog import Watchdog
from clipsheet.errors import (
    ENVIRONMENTAL,
    CallError,
    ClipsheetError,
    MediaError,
    TooManyFailed,
)
from clipsheet.log import Progress
from clipsheet.media import EVERY_FRAME, MAX_BAD_RATIO, READERS, Frame, Media, MediaInfo
from clipsheet.outcome import Status, recording
from clipsheet.scorer import (
    MODELS,
    Feature,
    Featured,
    Frames,
    Home,
    Row,
    Scorer,
    all_columns,
    missing,
)
from clipsheet.store.cells import Cells, Journal
from clipsheet.store.folder import Store
from clipsheet.store.keys import row_keys
from clipsheet.store.locks import Presence, working_on
from clipsheet.store.vectors import VectorFolder, Vectors, VectorWriter

log = logging.getLogger(__name__)

FRAMES_IN_FLIGHT = 4  # between the decoder and a scorer that shares it
HELD_PIXELS = 20 << 20  # of frames that wait for one scorer after another, some 6 bytes each
REALTIME_FACTOR = 4.0  # a file may take so many times its own length
MOST_THREADS = 4  # that decode one file: each takes memory
EARLY_ROWS = 200
POLL_SECONDS = 0.5
LAST_BATCH_SECONDS = 60.0  # for what is being scored in the background when the run is told to stop
GIB = 1 << 30


@dataclass(frozen=True)
class RunOptions:
    """How a run is done; nothing here changes a result, but for the reader, if another is wished for."""

    bs: int = option(16, "samples scored at once", ge=1)
    num_workers: int = option(0, "decoding processes; 0: one per core, shared by all ranks", ge=0)
    use_cpu: bool = option(False, "use no GPU")
    skip_if_existing: bool = option(False, "leave cells alone that hold a value, whatever made it")
    keep_as: str = option("", "keep what stood in a column that is written as <column>_<this>")
    output: str = option("", "table to write instead of <table>_<suffix>.csv")
    pretrained_models: str = option(os.fspath(MODELS), "folder of the weight files")
    root: str = option("", "refuse files outside this folder")
    reader: str = option(READERS[0], "what decodes videos; decord: pip install decord", choices=READERS)
    timeout: float = option(60.0, "seconds a sample may take, or 4 times its length", gt=0)
    worker_memory: float = option(4.0, "GiB of address space per decoding process", gt=0)
    max_failed: float = option(0.2, "share of rows that may fail before the exit code is 3", ge=0, le=1)
    retry_failed: bool = option(False, "try every failed row again")
    compile: bool = option(False, "compile CLIP's image half by torch.compile: slow to start, fast on GPUs")
    stall: float = option(900.0, "seconds without progress after which a process gives up", gt=0)

    @property
    def models(self) -> Path:
        """The folder of the weight files."""
        return Path(self.pretrained_models)


# --- in the worker -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What is to be made of a sample.

    Attributes:
        row: the cells that somebody reads.
        wanted: the scorers that look at it, by number.
        pictures: for each feature, by number, the positions of the pictures that it lacks.
    """

    row: Row
    wanted: tuple[int, ...]
    pictures: tuple[tuple[int, tuple[float, ...]], ...] = ()


@dataclass(frozen=True)
class SampleJob:
    """Opens a sample once and prepares it for some scorers and features; runs in a worker process."""

    scorers: tuple[Scorer, ...]
    preparations: tuple[Callable[[Frame], np.ndarray], ...] = ()
    threads: int = 1  # to decode with, where a scorer lets them
    root: str = ""
    reader: str = READERS[0]

    def __call__(self, task: Task, allow: Any) -> list[Any]:
        """One item or MediaError for each wanted scorer, then for each feature."""
        scorers = [self.scorers[i] for i in task.wanted]
        looking = [scorer for scorer in scorers if "path" in scorer.reads and scorer.feature is None]
        looking += [Pictures(positions, self.preparations[i]) for i, positions in task.pictures]
        seen: dict[Scorer, Any] = {}
        if looking:
            media = Media(task.row["path"], root=self.root or None, reader=self.reader)
            allow(REALTIME_FACTOR * media.info.duration)
            items = prepare_together(media, [(scorer, task.row) for scorer in looking], self.threads)
            media.check_unchanged()
            seen = dict(zip(looking, items, strict=True))
        pictures = looking[len(looking) - len(task.pictures) :]
        return [
            seen[scorer] if scorer in seen else _prepared(scorer, task.row, NoFrames())
            for scorer in (*scorers, *pictures)
        ]


@dataclass(frozen=True)
class Pictures(Scorer):
    """The pictures of a sample that a feature lacks, each with the positions that it stands at."""

    name: ClassVar[str] = "pictures"

    taken_at: tuple[float, ...]
    preparation: Callable[[Frame], np.ndarray]

    def times(self, info: MediaInfo) -> Sequence[float]:
        return info.at(*self.taken_at)

    def prepare(self, row: Row, frames: Frames) -> list[tuple[tuple[float, ...], np.ndarray | MediaError]]:
        shown: dict[int, tuple[float, ...]] = {}
        for position, seconds in zip(self.taken_at, frames.info.at(*self.taken_at), strict=True):
            index = frames.info.index_at(seconds)
            shown[index] = (*shown.get(index, ()), position)
        found: list[tuple[tuple[float, ...], np.ndarray | MediaError]] = []
        try:
            for frame in frames:
                found.append((shown.pop(frame.index), self.preparation(frame)))
        except MediaError as error:  # of the others, for which not everybody asked
            found += [(positions, error) for positions in shown.values()]
        return found


class OrderedFrames:
    """The frames that one scorer asked for, counted: what is missing fails the sample.

    Args:
        info: of the file.
        frames: what was asked for.
        wanted: indices of the frames that were asked for, None for all.
        media: where they can be decoded in several threads, if nobody else wants them.
        threads: how many.
    """

    def __init__(
        self,
        info: MediaInfo,
        frames: Iterable[Frame],
        wanted: set[int] | None,
        media: Media | None = None,
        threads: int = 1,
    ) -> None:
        self.info = info
        self._frames = frames
        self._wanted = wanted
        self._media = media
        self._threads = threads

    def __iter__(self) -> Iterator[Frame]:
        asked = len(self.info.frame_seconds) if self._wanted is None else len(self._wanted)
        count = 0
        for frame in self._frames:
            count += 1
            yield frame
        self._judge(asked, count)

    def shrunk(
        self,
        shrink: Callable[[Frame], np.ndarray],
        needed: np.ndarray | None = None,
        wanted: Iterable[int] | None = None,
    ) -> Iterator[tuple[int, np.ndarray]]:
        total = len(self.info.frame_seconds)
        asked = np.zeros(total, bool)
        asked[np.arange(total) if wanted is None else np.fromiter(wanted, np.int64)] = True
        pairs: Iterator[tuple[int, np.ndarray]]
        if self._media is None:  # others look at the file too: everything is decoded anyway
            pairs = ((frame.index, shrink(frame)) for frame in self._frames if asked[frame.index])
        else:
            pairs = self._media.shrunk(shrink, self._threads, needed, np.flatnonzero(asked))
        awaited = asked if needed is None else asked & needed
        count = 0
        for index, made in pairs:
            count += awaited[index]
            yield index, made
        if wanted is None:
            self._judge(int(awaited.sum()), count)

    def _judge(self, asked: int, count: int) -> None:
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

    def shrunk(
        self,
        shrink: Callable[[Frame], np.ndarray],
        needed: np.ndarray | None = None,
        wanted: Iterable[int] | None = None,
    ) -> Iterator[tuple[int, np.ndarray]]:
        return iter(())


def prepare_together(media: Media, work: Sequence[tuple[Scorer, Row]], threads: int = 1) -> list[Any]:
    """Decode a sample once and let every scorer go through its frames.

    Each scorer gets the frames that it would get alone, whoever else looks at the sample.

    Args:
        threads: to decode with, for a scorer that is alone and has the frames made small.

    Returns:
        For each of `work` what prepare() returned, or a MediaError.
    """
    wanted = [_wanted(scorer, media.info) for scorer, _ in work]
    if len(work) == 1:
        frames = OrderedFrames(media.info, media.frames(wanted[0]), wanted[0], media, threads)
        return [_prepared(*work[0], frames)]
    few = set[int]().union(*(indices for indices in wanted if indices is not None))
    if None not in wanted and len(few) * media.info.height * media.info.width <= HELD_PIXELS:
        return _in_turn(media, work, wanted, few)
    queues = [queue.Queue[Any](FRAMES_IN_FLIGHT) for _ in work]
    results: list[Any] = [None] * len(work)

    def consume(place: int) -> None:
        arriving = _Arriving(queues[place])
        frames = OrderedFrames(media.info, arriving, wanted[place])
        results[place] = _prepared(*work[place], frames)
        arriving.drain()

    consumers = [threading.Thread(target=consume, args=(place,)) for place in range(len(work))]
    for thread in consumers:
        thread.start()
    end: Any = None
    try:
        for frame in media.frames(None if None in wanted else few):
            for waiting, indices in zip(queues, wanted, strict=True):
                if indices is None or frame.index in indices:
                    waiting.put(frame)
    except MediaError as error:
        end = error
    finally:
        for waiting in queues:
            waiting.put(end)
        for thread in consumers:
            thread.join()
    return results


def _in_turn(
    media: Media, work: Sequence[tuple[Scorer, Row]], wanted: Sequence[set[int] | None], few: set[int]
) -> list[Any]:
    """Decode some frames and keep them, for one scorer after another."""
    held: list[Frame] = []
    end: MediaError | None = None
    try:
        for frame in media.frames(few):
            held.append(frame)  # what came before an error is kept
    except MediaError as error:
        end = error

    def frames(indices: set[int]) -> Iterator[Frame]:
        yield from (frame for frame in held if frame.index in indices)
        if end is not None:
            raise end

    return [
        _prepared(scorer, row, OrderedFrames(media.info, frames(indices or set()), indices))
        for (scorer, row), indices in zip(work, wanted, strict=True)
    ]


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
class _Sample:
    """A file whose vectors are being made, and the rows that wait for them.

    Attributes:
        rows: of this file, that are still to come.
        vectors, errors: by position.
    """

    rows: int
    vectors: dict[float, np.ndarray] = field(default_factory=dict)
    errors: dict[float, MediaError] = field(default_factory=dict)
    done: bool = False
    waiting: list[tuple[_Work, str, Any]] = field(default_factory=list)


@dataclass
class _Embedding:
    """One feature's part of a pass.

    Attributes:
        positions: of all pictures that its scorers start from.
        keys: [N] text: of the files.
        places: [N, P] where their vectors are, -1 for those to be made.
        lacking: [N] bool: rows to be scored whose vectors are not all there.
        owners: [N] bool: those of them at which the file is looked at: the first of each file.
        shared: how many of them a file has, where it has more than one.
    """

    feature: Feature
    positions: tuple[float, ...]
    folder: VectorFolder
    vectors: Vectors
    keys: pa.Array
    places: np.ndarray
    lacking: np.ndarray
    owners: np.ndarray
    shared: Mapping[str, int]
    samples: dict[str, _Sample] = field(default_factory=dict)
    writer: VectorWriter | None = None
    model: Any = None
    loaded: bool = False
    most: int = 0  # pictures at once, once there were too many; 0: no limit yet
    batch: list[tuple[str, list[tuple[tuple[float, ...], np.ndarray]]]] = field(default_factory=list)

    def lacks(self, row: int) -> tuple[float, ...]:
        """Positions of a row's file whose vectors are to be made."""
        places = self.places[row].tolist()
        return tuple(p for p, place in zip(self.positions, places, strict=True) if place < 0)

    def on_disk(self, row: int, positions: Sequence[float]) -> np.ndarray:
        """[P, D] vectors of a row's file that were there before."""
        return self.vectors.read([self.places[row, self.positions.index(p)] for p in positions])

    def sample(self, row: int) -> _Sample:
        """The file of a row that lacks vectors."""
        key = self.keys[row].as_py()
        if key not in self.samples:
            there = [p for p in self.positions if p not in self.lacks(row)]
            vectors = dict(zip(there, self.on_disk(row, there), strict=True)) if there else {}
            self.samples[key] = _Sample(self.shared.get(key, 1), vectors)
        return self.samples[key]

    def forget(self, key: str) -> None:
        """Keep nothing of a file whose rows have all come."""
        sample = self.samples[key]
        if sample.done and not sample.rows:
            del self.samples[key]


@dataclass
class _Work:
    """One scorer's part of a pass."""

    scorer: Scorer
    cells: Cells
    keys: pa.Array  # [N] text
    todo: np.ndarray  # [N] bool: rows that this process scores
    tries: dict[str, int]
    began: Mapping[str, int]
    embedding: _Embedding | None = None
    journal: Journal | None = None
    model: Any = None
    loaded: bool = False
    most: int = 0  # items at once, once there were too many; 0: no limit yet
    batch: list[tuple[str, Any]] = field(default_factory=list)
    marked: set[str] = field(default_factory=set)  # keys whose beginning the journal has
    flight: Flight | None = None  # of single items
    background: Flight | None = None  # of batches, one at a time


def _plan(
    frame: pd.DataFrame, scorers: Sequence[Scorer], options: RunOptions, store: Store, rank: launch.Rank
) -> list[_Work]:
    files = {("path",)} if rank.world > 1 or any(s.feature is not None for s in scorers) else set()
    keys = {reads: row_keys(frame, reads) for reads in {*files, *(s.reads for s in scorers)}}
    mine = np.ones(len(frame), bool)
    if rank.world > 1:
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
        if scorer.feature is not None and not scorer.columns:  # its vectors are all that it gives
            places = store.vectors(scorer.feature).load().find(keys["path",], scorer.positions)
            todo |= (places < 0).any(axis=1) & verdicts.scored(at)
        if todo.any():
            todo &= _first_of_each(own)
        began = verdicts.began
        if options.retry_failed:  # one more try, but alone
            began = {key: min(count, 2) for key, count in began.items()}
        tries = {own[i].as_py(): int(verdicts.tries[at[i]]) for i in np.flatnonzero(todo & (at >= 0))}
        work.append(_Work(scorer, cells, own, todo & mine, tries, began))
    for feature in dict.fromkeys(s.feature for s in scorers if s.feature is not None):
        _plan_feature(feature, [w for w in work if w.scorer.feature == feature], keys["path",], store)
    return work


def _plan_feature(feature: Feature, work: Sequence[_Work], keys: pa.Array, store: Store) -> None:
    """Give these scorers the feature that they all start from."""
    todo = np.logical_or.reduce([w.todo for w in work])
    if not todo.any():
        return
    folder = store.vectors(feature)
    vectors = folder.load()
    positions = tuple(sorted({p for w in work if w.todo.any() for p in w.scorer.positions}))
    places = vectors.find(keys, positions)
    lacking = todo & (places < 0).any(axis=1)
    lacking_keys = keys.filter(pa.array(lacking))
    first = _first_of_each(lacking_keys)
    owners = np.zeros(len(keys), bool)
    owners[np.flatnonzero(lacking)[first]] = True
    again = set(lacking_keys.filter(pa.array(~first)).to_pylist())
    shared = Counter(key for key in lacking_keys.to_pylist() if key in again) if again else Counter()
    embedding = _Embedding(feature, positions, folder, vectors, keys, places, lacking, owners, shared)
    for one in work:
        one.embedding = embedding


def _first_of_each(keys: pa.Array) -> np.ndarray:
    """[N] bool: rows whose key no earlier row has."""
    return pc.index_in(keys, value_set=keys).to_numpy() == np.arange(len(keys))


def _filled(frame: pd.DataFrame, scorer: Scorer) -> np.ndarray:
    """[N] bool: rows where every column of the scorer holds a value but for remarks, and it has columns."""
    filled = np.full(len(frame), bool(scorer.columns))
    for column in scorer.columns:
        if not column.remark:
            filled &= _holds_value(frame, column.name)
    return filled


def _holds_value(frame: pd.DataFrame, column: str) -> np.ndarray:
    """[N] bool: rows whose cell is not empty."""
    if column not in frame.columns:
        return np.zeros(len(frame), bool)
    return (tables.text(frame, column) != "").to_numpy(bool)


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
        passing = _Pass(work, embeddings, options, rank, heartbeat)
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
    frame: pd.DataFrame, rows: Sequence[int], work: Sequence[_Work], embeddings: Sequence[_Embedding]
) -> Iterator[tuple[int, Task]]:
    """What is to be made of each row."""
    columns = {name: tables.text(frame, name) for w in work for name in w.scorer.reads}
    for row in rows:
        cells = {name: column.iat[row] for name, column in columns.items()}
        pictures = tuple((i, e.lacks(row)) for i, e in enumerate(embeddings) if e.owners[row])
        yield row, Task(cells, tuple(i for i, w in enumerate(work) if w.todo[row]), pictures)


def _opens_files(work: Sequence[_Work], embeddings: Sequence[_Embedding]) -> bool:
    """Whether anything is to be done that needs more than the vectors that are there."""
    looking = any(w.embedding is None and w.todo.any() for w in work)
    return looking or any(e.owners.any() for e in embeddings)


def _any_time(seconds: float) -> None:
    """Nobody waits with a clock."""


class _Pass:
    """Collects prepared items into batches, scores them and keeps the verdicts."""

    def __init__(
        self,
        work: list[_Work],
        embeddings: list[_Embedding],
        options: RunOptions,
        rank: launch.Rank,
        heartbeat: Callable[[], None],
    ) -> None:
        self._work, self._embeddings, self._options, self._rank = work, embeddings, options, rank
        self._heartbeat = heartbeat
        self._seen = 0
        self._codes: Counter[str] = Counter()
        self._told: set[str] = set()
        # Failures that speak of the machine, kept back until it is clear that they do not.
        self._held: list[tuple[_Work, str, MediaError]] | None = []

    def begin(self) -> None:
        """Find out whether those answer for whom there is to be waited."""
        for work in self._work:
            if work.scorer.in_flight and work.todo.any():
                model, scorer = self._model(work), work.scorer
                work.flight = Flight(
                    lambda item, scorer=scorer, model=model: scorer.score(model, [item])[0],  # type: ignore[misc]
                    scorer.in_flight,
                    self._heartbeat,
                )
            elif work.scorer.in_background:
                work.background = Flight(
                    lambda batch, work=work: self._scored(work, batch),  # type: ignore[misc]
                    1,
                )

    def take(self, row: int, result: Any) -> None:
        """What a worker made of a row: an item per wanted scorer and feature, or a MediaError for all."""
        self._heartbeat()
        wanted = [w for w in self._work if w.todo[row]]
        asked = [e for e in self._embeddings if e.owners[row]]
        count = len(wanted) + len(asked)
        results = [result] * count if isinstance(result, MediaError) else result
        for work, item in zip(wanted, results[: len(wanted)], strict=True):
            key = work.keys[row].as_py()
            if isinstance(item, MediaError):
                self._fail(work, key, item)
            elif work.embedding is not None:
                self._featured(work, work.embedding, row, key, item)
            else:
                self._queue(work, key, item)
        for embedding, found in zip(asked, results[len(wanted) :], strict=True):
            self._take_pictures(embedding, row, found)
        for embedding in self._embeddings:
            if embedding.lacking[row]:
                embedding.sample(row).rows -= 1
                embedding.forget(embedding.keys[row].as_py())
        self._seen += 1
        if self._seen == EARLY_ROWS:
            self._check_environment()
            self._release()

    def finish(self) -> None:
        """Score what is left."""
        for embedding in self._embeddings:
            self._encode(embedding)
        for work in self._work:
            self._flush(work)
            self._land_batch(work)
            if work.flight is not None:
                for key, output in work.flight.land():
                    self._landed(work, key, output)
        self._release()

    def close(self) -> None:
        for embedding in self._embeddings:
            if embedding.writer is not None:
                embedding.writer.close()
                embedding.folder.merge()
        for work in self._work:
            if work.flight is not None:
                for key, output in work.flight.close():
                    if not isinstance(output, BaseException):
                        self._keep(work, key, output)
            if work.background is not None:
                for keys, outputs in work.background.close(LAST_BATCH_SECONDS):
                    if not isinstance(outputs, BaseException):
                        self._batch_over(work, keys, outputs)
            if work.journal is not None:
                work.journal.__exit__(None, None, None)
                work.journal = None

    def _queue(self, work: _Work, key: str, item: Any) -> None:
        """An item is ready to be scored."""
        if work.flight is not None:
            for ended, output in work.flight.send(key, item):
                self._landed(work, ended, output)
            return
        if work.began.get(key, 0) >= 2:
            self._score_suspect(work, key, item)
            return
        work.batch.append((key, item))
        if len(work.batch) >= min(self._options.bs, work.scorer.largest_batch or self._options.bs):
            self._flush(work)

    # --- features

    def _featured(self, work: _Work, embedding: _Embedding, row: int, key: str, item: Any) -> None:
        """A scorer's own half of a row: score it where the vectors are there, else let it wait."""
        if not embedding.lacking[row]:
            self._queue(work, key, Featured(embedding.on_disk(row, work.scorer.positions), item))
            return
        sample = embedding.sample(row)
        sample.waiting.append((work, key, item))
        if sample.done:
            self._deliver(sample)

    def _take_pictures(self, embedding: _Embedding, row: int, found: Any) -> None:
        """The pictures of a file that its vectors are to be made of."""
        key, sample = embedding.keys[row].as_py(), embedding.sample(row)
        if isinstance(found, MediaError):
            found = [(embedding.lacks(row), found)]
        for positions, picture in found:
            if isinstance(picture, MediaError):
                sample.errors |= dict.fromkeys(positions, picture)
        found = [(positions, p) for positions, p in found if not isinstance(p, MediaError)]
        if not found:
            self._done(sample)
            return
        deaths = max((w.began.get(k, 0) for w, k, _ in sample.waiting), default=0)
        if deaths >= 3:
            error = MediaError("crashed", "the process died each time it was scored")
            sample.errors |= dict.fromkeys(embedding.lacks(row), error)
            self._done(sample)
            return
        if deaths == 2:  # alone
            self._encode(embedding)
        embedding.batch.append((key, found))
        if deaths == 2 or len(embedding.batch) >= self._options.bs:
            self._encode(embedding)

    def _encode(self, embedding: _Embedding) -> None:
        """Make, keep and hand on the vectors of the pictures that were collected."""
        batch, embedding.batch = embedding.batch, []
        if not batch:
            return
        if not embedding.loaded:
            embedding.model = embedding.feature.load(self._home(on_gpu=True))
            embedding.loaded = True
        if embedding.writer is None:
            embedding.writer = embedding.folder.writer()
        for key, _ in batch:
            for work, own_key, _ in embedding.samples[key].waiting:
                self._journal(work).began(own_key)
                work.marked.add(own_key)
        pictures = [picture for _, found in batch for _, picture in found]

        def encode(pictures: Sequence[np.ndarray]) -> list[Any]:
            vectors = embedding.feature.encode(embedding.model, pictures)
            whole = np.isfinite(vectors).all(axis=1)
            failed = MediaError("nonfinite", f"the vector of {embedding.feature.name}")
            return [vector if fine else failed for vector, fine in zip(vectors, whole, strict=True)]

        outputs = iter(_in_parts(encode, pictures, embedding))
        for key, found in batch:
            sample = embedding.samples[key]
            made = {
                p: vector for (positions, _), vector in zip(found, outputs, strict=False) for p in positions
            }
            sample.errors |= {p: vector for p, vector in made.items() if isinstance(vector, MediaError)}
            vectors = {p: vector for p, vector in made.items() if p not in sample.errors}
            if vectors:
                embedding.writer.append(key, list(vectors), np.stack(list(vectors.values())))
                sample.vectors |= vectors
            self._done(sample)
            embedding.forget(key)
        self._heartbeat()

    def _done(self, sample: _Sample) -> None:
        sample.done = True
        self._deliver(sample)

    def _deliver(self, sample: _Sample) -> None:
        """Hand a file's vectors, or its failure, to those that wait for them."""
        waiting, sample.waiting = sample.waiting, []
        for work, key, item in waiting:
            errors = [sample.errors[p] for p in work.scorer.positions if p in sample.errors]
            if errors:
                self._fail(work, key, errors[0])
            else:
                vectors = np.stack([sample.vectors[p] for p in work.scorer.positions])
                self._queue(work, key, Featured(vectors, item))

    # --- verdicts

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
        self._land_batch(work)
        if model is not None:
            for key, _ in batch:
                if key not in work.marked:
                    self._journal(work).began(key)
        work.marked.difference_update(key for key, _ in batch)
        if work.background is not None:
            for keys, outputs in work.background.send([key for key, _ in batch], batch):
                self._batch_over(work, keys, outputs)
        else:
            self._batch_over(work, [key for key, _ in batch], self._scored(work, batch))

    def _scored(self, work: _Work, batch: Sequence[tuple[str, Any]]) -> list[Any]:
        return _in_parts(
            lambda items: work.scorer.score(work.model, items), [item for _, item in batch], work
        )

    def _land_batch(self, work: _Work) -> None:
        """Wait for the batch that is being scored in the background."""
        if work.background is not None:
            for keys, outputs in work.background.land():
                self._batch_over(work, keys, outputs)

    def _batch_over(self, work: _Work, keys: Sequence[str], outputs: Any) -> None:
        if isinstance(outputs, BaseException):
            raise outputs
        for key, output in zip(keys, outputs, strict=True):
            self._keep(work, key, output)
        self._heartbeat()

    def _landed(self, work: _Work, key: str, output: Any) -> None:
        """The result of a call that was waited for, or what it raised."""
        if isinstance(output, BaseException) and not isinstance(output, MediaError):
            if isinstance(output, ClipsheetError) or not isinstance(output, Exception):
                raise output
            output = unexpected(output)
        self._keep(work, key, output)
        self._heartbeat()

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
            work.model, work.loaded = work.scorer.load(self._home(work.scorer.on_gpu)), True
        return work.model

    def _home(self, on_gpu: bool) -> Home:
        device = launch.device(self._options.use_cpu, self._rank) if on_gpu else "cpu"
        return Home(self._options.models, device, self._options.compile)

    def _keep(self, work: _Work, key: str, output: Any) -> None:
        if isinstance(output, MediaError):
            self._fail(work, key, output)
        elif any(isinstance(v, float | np.floating) and not math.isfinite(v) for v in output):
            self._fail(work, key, MediaError("nonfinite", f"{output}"))
        else:
            self._journal(work).scored(key, [tables.cell(value) for value in output])


def _in_parts(
    function: Callable[[Sequence[Any]], Sequence[Any]], items: Sequence[Any], owner: _Work | _Embedding
) -> list[Any]:
    """One output of `function` per item, or a MediaError: in smaller parts where the device's memory
    does not do for all, and from then on; each alone where it raises."""
    if owner.most and len(items) > owner.most:
        parts = [items[i : i + owner.most] for i in range(0, len(items), owner.most)]
        return [output for part in parts for output in _in_parts(function, part, owner)]
    failure = MediaError("model_error", "another number of results than of samples")
    try:
        outputs = list(function(items))
        if len(outputs) == len(items):
            return outputs
    except MediaError as error:
        failure = error
    except ClipsheetError:  # speaks of the run, not of these items
        raise
    except Exception as error:
        failure = out_of_memory(error) or unexpected(error)
    if len(items) == 1:
        return [failure]
    if failure.code in ("gpu_oom", "out_of_memory"):
        launch.free_memory()
        owner.most = len(items) // 2
        log.warning("out of memory with %d at once; going on with %d", len(items), owner.most)
        return _in_parts(function, items, owner)
    return [output for item in items for output in _in_parts(function, [item], owner)]


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
    frame = _with_earlier_kept(frame, all_columns(scorers), options.keep_as)
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
            held = _holds_value(frame, column.name) if options.skip_if_existing else kept
            if held.any():
                texts = pc.if_else(pa.array(held), pa.array(tables.text(frame, column.name)), texts)
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
    tables.set_errors(frame, codes)
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


def _with_earlier_kept(frame: pd.DataFrame, columns: Sequence[str], name: str) -> pd.DataFrame:
    """A copy, in which what stands in some columns stands in `<column>_<name>` too.

    Raises:
        CallError: there is such a column already.
    """
    frame = frame.copy()
    for column in columns if name else ():
        if column in frame.columns:
            kept = f"{column}_{name}"
            if kept in frame.columns:
                raise CallError(f"--keep_as {name}: there is a column `{kept}` already; take another name")
            frame.insert(list(frame.columns).index(column), kept, frame[column])
    return frame


def _take(texts: pa.Array, at: np.ndarray) -> pa.Array:
    """[N] texts at some positions, empty where the position is -1."""
    return pc.fill_null(texts.take(pa.array(at, mask=at < 0)), "")


def _place(frame: pd.DataFrame, name: str, texts: pa.Array) -> None:
    """Set a column: where it stands, or else at the end but before a last `error`."""
    column = tables.text_column(texts, frame)
    if name in frame.columns:
        frame[name] = column
    else:
        last = len(frame.columns)
        before_error = last > 0 and frame.columns[-1] == "error"
        frame.insert(last - 1 if before_error else last, name, column)


# --- the tool ----------------------------------------------------------------------------------


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
        _with_earlier_kept(frame, all_columns(scorers), options.keep_as)
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


def _finish(joined: _Joined, status: Status, options: RunOptions) -> None:
    """Write the table and its failed rows, and find the exit code."""
    tables.write(joined.frame, status.output)
    write_sidecar(joined.failed, status.output, "failed")
    status.rows_in = status.rows_out = len(joined.frame)
    status.failed, status.failed_rows = joined.status_counts, joined.failed_rows
    status.scored, status.pending = joined.scored_rows, joined.pending_rows
    status.judge(options.max_failed)


def write_sidecar(frame: pd.DataFrame, output: Path, kind: str) -> None:
    """Write `<output stem>_<kind>`, or remove an old one when there is nothing to say."""
    path = tables.sidecar(output, kind)
    if len(frame):
        tables.write(frame, path)
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
