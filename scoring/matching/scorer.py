"""How well pictures and words fit, by CLIP: captions, or words that are given.

`match` is 100 times the cosine of the embeddings of a caption and a frame, the highest of some
frames; 20 and more is fair. `match_truncated` says that the caption was longer than the model reads
(77 tokens). `--option WORD` measures the same against a word, in a column `match_<word>` of its own.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from clipsheet import tables
from clipsheet.config import option
from clipsheet.errors import CallError, MediaError
from clipsheet.scorer import Column, Feature, Featured, Frames, Home, Row, Scorer, at_least
from scoring.clip.files import clip_option, dtype_option, frames_option, missing_files, text_files
from scoring.clip.images import ClipImages
from scoring.clip.texts import ClipTexts, unit

#: Ends of sentences, also of scripts that put no space after them.
SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])\s*|\n+")


@dataclass(frozen=True)
class Matching(Scorer):
    """CLIP similarity of clip and caption."""

    name: ClassVar[str] = "match"
    reads: ClassVar[tuple[str, ...]] = ("path", "text")
    on_gpu: ClassVar[bool] = True

    num_frames: int = frames_option()
    clip: str = clip_option()
    dtype: str = dtype_option()
    sentences: str = option(
        "", "score each sentence of a caption, and take this", choices=("", "mean", "min")
    )

    @property
    def columns(self) -> tuple[Column, ...]:
        return (
            Column(
                "match",
                "float",
                "100 x cosine",
                "fit of caption and picture, max over frames",
                "higher",
                bounds=at_least("matchmin"),
            ),
            Column(
                "match_truncated", "bool", "", "whether the caption is longer than CLIP reads", remark=True
            ),
        )

    @property
    def feature(self) -> Feature:
        return ClipImages(self.clip, self.dtype)

    def weights(self, models: Path) -> Mapping[str, Path]:
        return text_files(self.clip, models)

    def missing(self, models: Path) -> list[str]:
        return missing_files(self.weights(models), self.clip)

    def prepare(self, row: Row, frames: Frames) -> list[str]:
        text = row["text"].strip()
        if not text:
            raise MediaError("bad_value", "`text` is empty: there is no caption to match")
        if not self.sentences:
            return [text]
        return [part.strip() for part in SENTENCE_ENDS.split(text) if part.strip()]

    def load(self, home: Home) -> ClipTexts:
        return ClipTexts(self.clip, self.dtype, home)

    def score(self, model: Any, items: Sequence[Featured]) -> list[tuple[Any, ...]]:
        texts, truncated = model([text for item in items for text in item.item])
        results, start = [], 0
        for item in items:
            stop = start + len(item.item)
            fits = similarity(item.vectors, texts[start:stop]).max(axis=0)  # of each sentence
            fit = fits.min() if self.sentences == "min" else fits.mean()
            results.append((round(float(fit), 4), any(truncated[start:stop])))
            start = stop
        return results


@dataclass(frozen=True)
class OptionMatching(Scorer):
    """CLIP similarity of clip and given words, one column each."""

    name: ClassVar[str] = "option"
    on_gpu: ClassVar[bool] = True

    option: tuple[str, ...] = option((), "word or phrase to match; give it once for each column")
    num_frames: int = frames_option()
    clip: str = clip_option()
    dtype: str = dtype_option()

    def __post_init__(self) -> None:
        names = [column_of(word) for word in self.option]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise CallError(f"--option: two words for the column `{twice[0]}`; leave one out")

    @property
    def suffix(self) -> str:
        return "-".join(["match", *(column_of(word).removeprefix("match_") for word in self.option)])

    @property
    def columns(self) -> tuple[Column, ...]:
        return tuple(
            Column(column_of(word), "float", "100 x cosine", f"fit of picture and `{word}`, max over frames")
            for word in self.option
        )

    @classmethod
    def writes(cls, column: str) -> bool:
        return column.startswith("match_")

    @property
    def feature(self) -> Feature:
        return ClipImages(self.clip, self.dtype)

    def weights(self, models: Path) -> Mapping[str, Path]:
        return text_files(self.clip, models)

    def missing(self, models: Path) -> list[str]:
        if not self.option:
            return ["no word given: --option WORD (--option.option in scoring.inference)"]
        return missing_files(self.weights(models), self.clip)

    def load(self, home: Home) -> np.ndarray:  # [W, D]
        return ClipTexts(self.clip, self.dtype, home)(self.option)[0]

    def score(self, model: Any, items: Sequence[Featured]) -> list[tuple[Any, ...]]:
        fits = [similarity(item.vectors, model).max(axis=0) for item in items]
        return [tuple(round(float(value), 4) for value in fit) for fit in fits]


def column_of(word: str) -> str:
    """`match_red_car` for "red car"; what is lost of a word is told by four letters behind it.

    Raises:
        CallError: there is nothing in it to name a column after.
    """
    usual = unicodedata.normalize("NFKC", word).casefold().strip()
    plain = "".join(c if f"a{c}".isidentifier() else "_" for c in re.sub(r"[\W_]+", "_", usual)).strip("_")
    if not plain:
        raise CallError(f"--option: {word!r} has no letter or digit to name a column after")
    lost = not re.fullmatch(r"[\w\s-]+", usual) or plain == "truncated"  # match_truncated is a caption's
    return f"match_{plain}_{tables.digest(usual, 4)}" if lost else f"match_{plain}"


def similarity(vectors: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """[P, T] 100 x cosine of [P, D] image embeddings and [T, D] unit text embeddings."""
    return np.asarray(100 * unit(vectors) @ texts.T)
