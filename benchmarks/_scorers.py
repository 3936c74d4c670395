"""Scorers that cost what real ones cost before their model: their frames, and what is sent of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from clipsheet.scorer import Column, Frames, MediaInfo, Row, Scorer

SIDE = 224  # pixels, what CLIP looks at


@dataclass(frozen=True)
class _Mean(Scorer):
    """The mean of the pixels that a model would be given."""

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column(self.name, "float", "0-255", "mean of the pixels looked at"),)

    def prepare(self, row: Row, frames: Frames) -> np.ndarray:
        return np.stack([frame.rgb(SIDE, SIDE) for frame in frames])  # [N, 224, 224, 3] uint8 RGB

    def score(self, model: Any, items: Sequence[np.ndarray]) -> list[tuple[float]]:
        return [(float(item.mean()),) for item in items]


@dataclass(frozen=True)
class Three(_Mean):
    """Three frames at 10, 50 and 90 %, as the aesthetics score takes them."""

    name: ClassVar[str] = "three"


@dataclass(frozen=True)
class EverySecond(_Mean):
    """A frame a second."""

    name: ClassVar[str] = "every_second"

    def times(self, info: MediaInfo) -> Sequence[float]:
        return info.every(1.0)


@dataclass(frozen=True)
class Middle(_Mean):
    """The middle frame, in full size."""

    name: ClassVar[str] = "middle"

    def times(self, info: MediaInfo) -> Sequence[float]:
        return info.at(0.5)

    def prepare(self, row: Row, frames: Frames) -> np.ndarray:
        return np.stack([frame.rgb() for frame in frames])  # [1, H, W, 3] uint8 RGB


@dataclass(frozen=True)
class TextLength(Scorer):
    """Characters of `text`; no file is opened."""

    name: ClassVar[str] = "text_length"
    reads: ClassVar[tuple[str, ...]] = ("text",)

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column(self.name, "int", "characters", "length of the text"),)

    def prepare(self, row: Row, frames: Frames) -> int:
        return len(row["text"])

    def score(self, model: Any, items: Sequence[int]) -> list[tuple[int]]:
        return [(item,) for item in items]


@dataclass(frozen=True)
class FileBytes(Scorer):
    """Bytes of the file; no frame is decoded."""

    name: ClassVar[str] = "file_bytes"

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column(self.name, "int", "bytes", "size of the file"),)

    def times(self, info: MediaInfo) -> Sequence[float]:
        return []

    def prepare(self, row: Row, frames: Frames) -> int:
        return frames.info.size_bytes

    def score(self, model: Any, items: Sequence[int]) -> list[tuple[int]]:
        return [(item,) for item in items]
