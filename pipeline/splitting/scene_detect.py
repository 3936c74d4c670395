"""Find the shots of videos: python -m pipeline.splitting.scene_detect META

`timestamp` is a JSON list of [start, end] as HH:MM:SS.mmm, a shot from its first frame up to where the
next one begins; times are cut to milliseconds, never rounded up, so that a boundary never moves into the
shot after it. `adaptive` and `content` are the detectors of PySceneDetect with its parameters; `fixed`
cuts at a fixed stride.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipeline.cli import main_scorer
from pipeline.config import option
from pipeline.media import EVERY_FRAME, MediaInfo
from pipeline.scorer import Column, Frame, Frames, Row, Scorer

#: PySceneDetect shrinks pictures to about this width before it compares them.
COMPARED_WIDTH = 256


@dataclass(frozen=True)
class SceneDetect(Scorer):
    """Shot boundaries of one video."""

    name: ClassVar[str] = "timestamp"

    detector: str = option("adaptive", "how boundaries are found", choices=("adaptive", "content", "fixed"))
    threshold: float | None = option(
        None, "of adaptive: ratio to the neighbouring changes (3); of content: change (25)", gt=0
    )
    min_cutscene_len: float | None = option(
        None, "seconds; a boundary sooner after another is not one (default: 15 frames)", ge=0
    )
    max_cutscene_len: float | None = option(None, "seconds; longer shots are split evenly", gt=0)
    stride: float = option(10.0, "of fixed: seconds of each piece", gt=0)

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column("timestamp", "json", "", "shots: [[start, end], ...] as HH:MM:SS.mmm"),)

    def times(self, info: MediaInfo) -> Sequence[float] | object:
        return [] if self.detector == "fixed" or info.is_image else EVERY_FRAME

    def prepare(self, row: Row, frames: Frames) -> list[tuple[float, float]]:
        info = frames.info
        if info.is_image:
            return []
        seconds = info.frame_seconds
        if self.detector == "fixed":
            count = math.ceil(info.duration / self.stride - 1e-6)
            boundaries = [info.index_at(k * self.stride) for k in range(1, count)]
        else:
            boundaries = self._detect(frames)
        starts = sorted({0, *boundaries})
        edges = [*(float(seconds[i]) for i in starts), info.duration]
        scenes = list(itertools.pairwise(edges))
        if self.max_cutscene_len is None:
            return scenes
        return [piece for scene in scenes for piece in split_evenly(*scene, self.max_cutscene_len, seconds)]

    def _detect(self, frames: Frames) -> list[int]:
        """Indices of the frames that begin a new shot."""
        from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode

        rate = frames.info.fps or 25.0
        shortest = 15 if self.min_cutscene_len is None else max(1, round(self.min_cutscene_len * rate))
        detector: Any
        if self.detector == "adaptive":
            detector = AdaptiveDetector(adaptive_threshold=self.threshold or 3.0, min_scene_len=shortest)
        else:
            detector = ContentDetector(threshold=self.threshold or 25.0, min_scene_len=shortest)
        found: list[Any] = []
        last = None
        for frame in frames:
            last = FrameTimecode(frame.index, rate)
            found += detector.process_frame(last, compared(frame))
        if last is not None:
            found += detector.post_process(last)
        return [cut.frame_num for cut in found]

    def score(self, model: Any, items: Sequence[Any]) -> list[tuple[Any, ...]]:
        return [(format_scenes(scenes),) for scenes in items]


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


def main() -> None:
    """The program."""
    main_scorer(SceneDetect)


if __name__ == "__main__":  # run as the module that it is: workers know its classes by that name
    from pipeline.splitting.scene_detect import main as program

    program()
