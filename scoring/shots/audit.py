"""Look for clips that hold more than one shot: python -m pipeline.splitting.audit CLIPS

Each clip is searched as `scene_detect --detector auto` searches a video. What lies near an end is what a
boundary in the wrong place leaves: the first or last frames of the clip belong to its neighbour, or are part
of a transition. Whatever lies further in divides the clip. `clean_shots` are the parts without any of it, as
`timestamp` has them: drop clips by `datautil --foreignmax --transitionsmax`, or put `clean_shots` in the place
of `timestamp` and cut them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from clipsheet.config import option
from clipsheet.media import MediaInfo
from clipsheet.scorer import Column, Frames, Home, Row, Scorer, at_most
from scoring.shots.detection import SceneDetect, Seen, format_scenes
from scoring.shots.transnet import TransNet

_DETECTION = SceneDetect("auto")


@dataclass(frozen=True)
class Audit(Scorer):
    """Frames of a clip that belong to another shot, and transitions inside it."""

    name: ClassVar[str] = "audit"
    on_gpu: ClassVar[bool] = True
    largest_batch: ClassVar[int] = 1

    edge: float = option(
        0.5, "seconds; a transition so near to an end is a boundary in the wrong place", ge=0
    )

    @property
    def columns(self) -> tuple[Column, ...]:
        return (
            Column(
                "foreign_frames",
                "int",
                "frames",
                "at both ends, beyond a transition or part of it",
                "lower",
                bounds=at_most("foreignmax", 0, whole=True),
            ),
            Column(
                "inner_transitions",
                "int",
                "",
                "further in",
                "lower",
                bounds=at_most("transitionsmax", 0, whole=True),
            ),
            Column("clean_shots", "json", "", "what is whole: [[start, end], ...] as HH:MM:SS.mmm"),
        )

    def weights(self, models: Path) -> Mapping[str, Path]:
        return _DETECTION.weights(models)

    def missing(self, models: Path) -> list[str]:
        return _DETECTION.missing(models)

    def times(self, info: MediaInfo) -> Sequence[float] | object:
        return _DETECTION.times(info)

    def prepare(self, row: Row, frames: Frames) -> Seen:
        return _DETECTION.prepare(row, frames)

    def load(self, home: Home) -> TransNet | None:
        return _DETECTION.load(home)

    def score(self, model: TransNet | None, items: Sequence[Seen]) -> list[tuple[Any, ...]]:
        return [self._cells(model, seen) for seen in items]

    def _cells(self, model: TransNet | None, seen: Seen) -> tuple[int, int, str]:
        if not len(seen.seconds):  # a picture
            return 0, 0, "[]"
        seconds, count = seen.seconds, len(seen.seconds) - 1
        found = _DETECTION.transitions(model, seen.found)
        early = [t for t in found if t.start == 0 or seconds[t.end] <= self.edge]
        late = [t for t in found if t.end == count or seconds[count] - seconds[t.start] <= self.edge]
        head = max((t.end for t in early), default=0)
        tail = min((t.start for t in late), default=count)
        if head >= tail:  # nothing but transitions
            return count, 0, "[]"
        inner = [t for t in found if t not in early and t not in late]
        starts = [head, *(t.end for t in inner)]
        ends = [*(t.start for t in inner), tail]
        shots = [(float(seconds[a]), float(seconds[b])) for a, b in zip(starts, ends, strict=True) if a < b]
        return head + count - tail, len(inner), format_scenes(shots)
