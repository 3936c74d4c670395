"""Which frames of a clip are shown to a model: how many, where, and together with which others."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from captioning.models.language_model import View
from clipsheet.errors import MediaError
from clipsheet.media import MediaInfo
from clipsheet.scorer import Frame, Frames, frame_positions

MOST_BYTES = 1 << 30  # of the pictures of a clip, in all its windows
#: Pixels of a side: a patch of the models' image encoders (CLIP ViT-L/14, Qwen2-VL). A smaller picture is a blur to
#: them, and one of 1 or 3 rows is taken for three colours by the processors of transformers.
LEAST_SIDE = 14


class Look(Protocol):
    """A rule by which frames are chosen. Implementations are frozen dataclasses."""

    def indices(self, first: int, stop: int, info: MediaInfo) -> np.ndarray:
        """[N] int: which of the frames [first, stop) of a video are shown, in order; at least one."""
        ...


@dataclass(frozen=True)
class AtPositions:
    """So many frames: in the middle, at the quarters, at 10/50/90 %, or evenly."""

    number: int

    def indices(self, first: int, stop: int, info: MediaInfo) -> np.ndarray:
        """[N] int, without repetition where there are fewer frames."""
        at = first + np.floor(np.array(frame_positions(self.number)) * (stop - first))
        return np.unique(at.astype(int).clip(first, stop - 1))


@dataclass(frozen=True)
class PerSecond:
    """So many frames per second, evenly spaced from the first to the last: smart_nframes of qwen-vl-utils
    (vision_process.py).

    Attributes:
        fps: frames per second.
        least: frames, where there are so many.
        most: frames.
        multiple: of which their number is one, except for a single frame.
    """

    fps: float
    least: int
    most: int
    multiple: int

    def indices(self, first: int, stop: int, info: MediaInfo) -> np.ndarray:
        """[N] int."""
        count = stop - first
        wanted = count / info.fps * self.fps if info.fps else count
        number = min(max(wanted, self.least), self.most, count)
        number = max(1, math.floor(number / self.multiple) * self.multiple)
        return np.linspace(first, stop - 1, number).round().astype(int)


@dataclass(frozen=True)
class Segments:
    """One frame of each of so many equal segments, as in PLLaVA's reference implementation (tasks/eval of
    magic-research/PLLaVA)."""

    number: int

    def indices(self, first: int, stop: int, info: MediaInfo) -> np.ndarray:
        """[number] int, with repetition where there are fewer frames."""
        step = (stop - first - 1) / self.number
        return np.array([first + int(step / 2) + round(step * k) for k in range(self.number)])


@dataclass(frozen=True)
class Viewing:
    """The views of a clip.

    Attributes:
        look: which frames of each window are shown.
        window_seconds: a view for every so many seconds; None: one of the whole clip.
    """

    look: Look
    window_seconds: float | None = None

    def times(self, info: MediaInfo) -> list[float]:
        """Seconds of the clip at which frames are needed."""
        return sorted({seconds for span in self._spans(info) for seconds in self._shown(span, info)})

    def views(self, frames: Frames, picture: Callable[[Frame, int], Any]) -> list[View]:
        """One view for each window, in order.

        Args:
            frames: what times() asked for.
            picture: makes a small picture, an array or a text, of one of so many frames that are shown together.

        Raises:
            MediaError: too_small, or too_long where the pictures take more than 1 GiB.
        """
        info = frames.info
        info.check_size(LEAST_SIDE)
        spans = self._spans(info)
        chosen = [self._shown(span, info) for span in spans]
        count = max(map(len, chosen))
        pictures: dict[int, Any] = {}
        size = 0
        for frame in frames:
            pictures[frame.index] = made = picture(frame, count)
            size += made.nbytes if isinstance(made, np.ndarray) else len(made)
            if size > MOST_BYTES:
                raise MediaError(
                    "too_long", "its pictures take more than 1 GiB: cut it, or look at fewer or smaller ones"
                )
        return [
            View(
                [pictures[info.index_at(seconds)] for seconds in shown],
                [min(max(seconds - start, 0.0), end - start) for seconds in shown],
                start,
                end,
            )
            for (start, end), shown in zip(spans, chosen, strict=True)
        ]

    def _spans(self, info: MediaInfo) -> list[tuple[float, float]]:
        if info.is_image or not self.window_seconds:
            return [(0.0, info.duration)]
        return windows(info.duration, self.window_seconds)

    def _shown(self, span: tuple[float, float], info: MediaInfo) -> Sequence[float]:
        """When the frames begin that are shown: of those that a player shows in the span."""
        first = info.index_at(span[0])
        stop = int(np.searchsorted(info.frame_seconds, span[1] - 1e-6))
        if span[1] >= info.duration:
            stop = len(info.frame_seconds)
        chosen = self.look.indices(first, max(first + 1, stop), info)
        return [float(info.frame_seconds[k]) for k in chosen]


def windows(duration: float, seconds: float) -> list[tuple[float, float]]:
    """A clip as windows of so many seconds; a rest of at least half is one of its own, less is part of the last
    (the rule of cosmos-curate's windowing_utils.py, in seconds)."""
    count = max(1, math.floor(duration / seconds + 1e-6))
    rest = duration - count * seconds
    if rest >= seconds / 2 - 1e-6 and duration > seconds:
        count += 1
    starts = [k * seconds for k in range(count)]
    return list(itertools.pairwise([*starts, duration]))
