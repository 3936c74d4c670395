"""Small scorers for the tests of the run: they count, fail, hang or die as their rows tell them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from clipsheet.config import option
from clipsheet.errors import MediaError
from clipsheet.media import EVERY_FRAME, MediaInfo
from clipsheet.scorer import (
    Column,
    Feature,
    Featured,
    Frame,
    Frames,
    Home,
    Row,
    Scorer,
)


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

    def load(self, home: Home) -> Any:
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


@dataclass(frozen=True)
class Shades(Feature):
    """The mean and the spread of a picture's grey levels; says how often it was asked.

    Attributes:
        log: a file that gets a line for each call, with the number of pictures.
        room: so many pictures fit into its memory at once.
        broken: the vector of a picture of so many rows is not finite.
        deadly: a picture whose mean is above this kills the process.
    """

    name: ClassVar[str] = "shades"

    log: str = ""
    room: int = 1000
    broken: int = 0
    deadly: float = 1000.0

    def preparation(self, models: Path) -> Callable[[Frame], np.ndarray]:
        return shrunk

    def load(self, home: Home) -> Any:
        return "a model"

    def encode(self, model: Any, pictures: Sequence[np.ndarray]) -> np.ndarray:
        with Path(self.log).open("a") as file:
            file.write(f"{len(pictures)}\n")
        if len(pictures) > self.room:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        if any(picture.mean() > self.deadly for picture in pictures):
            os.kill(os.getpid(), signal.SIGKILL)
        vectors = np.array([[p.mean(), p.std(), 1] for p in pictures], np.float32)
        vectors[[p.shape[0] == self.broken for p in pictures]] = np.nan
        return vectors


class OutOfMemoryError(RuntimeError):
    """As PyTorch's is called."""


def shrunk(frame: Frame) -> np.ndarray:
    return np.asarray(frame.luma()[::8, ::8])


@dataclass(frozen=True)
class Glow(Scorer):
    """The mean of the first shade over some frames."""

    name: ClassVar[str] = "glow"

    start: Shades = field(default_factory=Shades)
    num_frames: int = option(3, "frames")

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column("glow", "float", "", "mean grey level"),)

    @property
    def feature(self) -> Feature:
        return self.start

    def score(self, model: Any, items: Sequence[Featured]) -> list[tuple[float]]:
        return [(round(float(item.vectors[:, 0].mean()), 4),) for item in items]


@dataclass(frozen=True)
class Fit(Glow):
    """The spread of the first frame times the length of a text."""

    name: ClassVar[str] = "fit"
    reads: ClassVar[tuple[str, ...]] = ("path", "text")

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column("fit", "float", "", "spread x length"),)

    def prepare(self, row: Row, frames: Frames) -> Any:
        if not row["text"]:
            raise MediaError("bad_value", "no text")
        return len(row["text"])

    def score(self, model: Any, items: Sequence[Featured]) -> list[tuple[float]]:
        return [(round(float(item.vectors[0, 1]) * item.item, 4),) for item in items]


def run_glow(tables: list[str], shades: dict[str, Any], more: dict[str, Any]) -> int:
    """run_scorers with Glow, as a program."""
    from clipsheet.cli import guarded
    from clipsheet.engine.run import run_scorers
    from clipsheet.options import RunOptions

    return guarded(lambda: run_scorers(tables, [Glow(Shades(**shades))], RunOptions(**more)))


def run_words(tables: list[str], log: str, seconds: float, more: dict[str, Any]) -> int:
    """run_scorers with Words, as a program: for clipsheet.engine.launch.launch() and for being killed."""
    from clipsheet.cli import guarded
    from clipsheet.engine.run import run_scorers
    from clipsheet.options import RunOptions

    return guarded(lambda: run_scorers(tables, [Words(log, seconds)], RunOptions(**more)))


if __name__ == "__main__":
    import json
    import sys

    from tests import probe  # as the module that workers know it by

    program = {"words": probe.run_words, "glow": probe.run_glow}[sys.argv[1]]
    sys.exit(program(*json.loads(sys.argv[2])))


@dataclass(frozen=True)
class Patient(Scorer):
    """Says how many files had come when a batch ended, for which it waits until some of the next one have."""

    name: ClassVar[str] = "patient"
    reads: ClassVar[tuple[str, ...]] = ("path", "n")
    in_background: ClassVar[bool] = True
    came: ClassVar[int] = 0
    calls: ClassVar[int] = 0
    stops: ClassVar[bool] = False  # has the process stopped while it works

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column("after", "int", "", "files that had come"),)

    def times(self, info: MediaInfo) -> Sequence[float]:
        return []

    def prepare(self, row: Row, frames: Frames) -> Coming:
        return Coming(int(row["n"]))

    def score(self, model: Any, items: Sequence[Coming]) -> list[tuple[int]]:
        if Patient.stops:
            os.kill(os.getpid(), signal.SIGALRM)
            time.sleep(1)
        deadline = time.monotonic() + 60
        while (
            not Patient.stops and Patient.came < min(6, items[-1].number + 2) and time.monotonic() < deadline
        ):
            time.sleep(0.01)
        Patient.calls += 1
        return [(Patient.came,)] * len(items)


class Coming:
    """Counts when it is unpickled in the process that scores."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__dict__.update(state)
        Patient.came += 1
