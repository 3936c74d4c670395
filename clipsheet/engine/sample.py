"""What a worker process makes of one sample: opened once, decoded once, prepared for every scorer."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from clipsheet.engine.pool import failure_of
from clipsheet.errors import MediaError
from clipsheet.media import EVERY_FRAME, MAX_BAD_RATIO, READERS, Frame, Media, MediaInfo
from clipsheet.scorer import Frames, Row, Scorer

FRAMES_IN_FLIGHT = 4  # between the decoder and a scorer that shares it
HELD_PIXELS = 20 << 20  # of frames that wait for one scorer after another, some 6 bytes each
REALTIME_FACTOR = 4.0  # a file may take so many times its own length


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
    """The pictures of a sample whose vectors a feature still needs, each with its positions (0 to 1)."""

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
    except Exception as error:
        return failure_of(error)
