"""Small scorers for the tests of the run: they count, fail, hang or die as their rows tell them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipeline.config import option
from pipeline.errors import MediaError
from pipeline.media import EVERY_FRAME, MediaInfo
from pipeline.scorer import Column, Frames, Row, Scorer


@dataclass(frozen=True)
class Brightness(Scorer):
    """Mean grey level of some frames, and how many there were."""

    name: ClassVar[str] = "probe"

    every: bool = option(False, "look at every frame")
    scale: float = option(1.0, "factor")

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column("grey", "float", "", "mean grey level"), Column("seen", "int", "", "frames seen"))

    def times(self, info: MediaInfo) -> Sequence[float] | object:
        return EVERY_FRAME if self.every else info.at(0.1, 0.5, 0.9)

    def prepare(self, row: Row, frames: Frames) -> Any:
        greys = [float(frame.luma().mean()) for frame in frames]
        return sum(greys) / len(greys), len(greys)

    def score(self, model: Any, items: Sequence[Any]) -> list[tuple[Any, ...]]:
        return [(round(grey * self.scale, 6), seen) for grey, seen in items]


@dataclass(frozen=True)
class Words(Scorer):
    """Reads `text` and no file; does what the text says.

    Attributes:
        log: a file that gets a line for each row that is scored.
    """

    name: ClassVar[str] = "words"
    reads: ClassVar[tuple[str, ...]] = ("text",)

    log: str = option("", "where the scored rows are written down")
    seconds: float = option(0.0, "seconds per row")

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column("words", "int", "", "number of words"), Column("shout", "text", "", "in capitals"))

    def times(self, info: MediaInfo) -> Sequence[float]:
        return []

    def prepare(self, row: Row, frames: Frames) -> str:
        if row["text"].startswith("bad"):
            raise MediaError("bad_value", "it says so")
        return row["text"]

    def load(self, device: str) -> Any:
        return "a model"

    def score(self, model: Any, items: Sequence[Any]) -> list[tuple[Any, ...]]:
        for text in items:
            if text.startswith("kill me"):
                os.kill(os.getpid(), signal.SIGKILL)
            if text.startswith("hang"):
                time.sleep(1000)
            if text.startswith("raise"):
                raise RuntimeError("a model that cannot")
            if self.log:
                with Path(self.log).open("a") as file:
                    file.write(f"{text}\n")
            time.sleep(self.seconds)
        return [(float("nan") if t.startswith("nan") else len(t.split()), t.upper()) for t in items]


def run_words(tables: list[str], log: str, seconds: float, more: dict[str, Any]) -> int:
    """run_scorers with Words, as a program: for pipeline.launch.launch() and for being killed."""
    from pipeline.cli import guarded
    from pipeline.run import RunOptions, run_scorers

    return guarded(lambda: run_scorers(tables, [Words(log, seconds)], RunOptions(**more)))


if __name__ == "__main__":
    import json
    import sys

    from tests.probe import run_words as program  # as the module that workers know it by

    sys.exit(program(*json.loads(sys.argv[1])))
