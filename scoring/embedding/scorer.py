"""CLIP embeddings of frames, for search and for whatever else starts from them.

No column of the table: the vectors go to a Parquet file beside it, `<table>_embedding_vectors.parquet`
with `path`, `positions` (0 to 1), `vectors` (one per frame, as CLIP projects them) and `mean` (the mean
of the unit vectors, itself of length 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from clipsheet.scorer import Column, Feature, Featured, Scorer
from scoring.clip.files import clip_option, dtype_option, frames_option
from scoring.clip.images import ClipImages


@dataclass(frozen=True)
class Embedding(Scorer):
    """CLIP embeddings of some frames, as a Parquet file."""

    name: ClassVar[str] = "embedding"

    num_frames: int = frames_option()
    clip: str = clip_option()
    dtype: str = dtype_option()

    @property
    def columns(self) -> tuple[Column, ...]:
        return ()

    @property
    def feature(self) -> Feature:
        return ClipImages(self.clip, self.dtype)

    def score(self, model: Any, items: Sequence[Featured]) -> list[tuple[()]]:
        return [() for _ in items]
