"""What a language model is, and what passes between it and a scorer: questions, views of a clip, answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from clipsheet.errors import MediaError
from clipsheet.media import Frame
from clipsheet.scorer import Home


@dataclass(frozen=True)
class View:
    """Frames of a clip that are shown to a model together.

    Attributes:
        pictures: in order of time, as the model's picture() prepared them.
        seconds: of each, since `start`.
        start: seconds of the clip at which it begins.
        end: seconds of the clip at which it ends; equal to `start` for a picture file.
    """

    pictures: Sequence[Any] = ()
    seconds: Sequence[float] = ()
    start: float = 0.0
    end: float = 0.0

    @property
    def length(self) -> float:
        """Seconds."""
        return self.end - self.start

    @property
    def still(self) -> bool:
        """Whether it is a picture, not a video."""
        return not self.length


NOTHING = View()


@dataclass(frozen=True)
class Ask:
    """One question to a model.

    Attributes:
        question: as the user of a chat would put it.
        max_new_tokens: tokens of the answer at most.
        view: what is shown with it; without pictures it is a question about its own text.
    """

    question: str
    max_new_tokens: int
    view: View = NOTHING


class Answer(NamedTuple):
    """What a model said, and whether it was cut off at max_new_tokens."""

    text: str
    truncated: bool


class LanguageModel(Protocol):
    """A model that answers questions. Implementations are frozen dataclasses."""

    @property
    def in_flight(self) -> int:
        """Questions that may wait for a server at once, each in a thread; 0: the model runs here, in batches."""
        ...

    def weights(self, models: Path) -> Mapping[str, Path]:
        """The files that decide about an answer, by their names; `models` is the folder of weight files."""
        ...

    def missing(self, models: Path) -> list[str]:
        """What load() needs and does not find, or why it would refuse what it finds, each with the remedy."""
        ...

    def load(self, home: Home) -> Any:
        """The model, once per process.

        Raises:
            CallError: a file is missing or damaged, or a server does not answer.
        """
        ...

    def answers(self, loaded: Any, asks: Sequence[Ask]) -> list[Answer | MediaError]:
        """One answer per question; how many are asked at once never changes an answer.

        Args:
            loaded: what load() returned.

        Raises:
            MediaError: a single question was refused, or its answer is of no use.
            CallError, Incomplete: the model cannot answer further questions either.
        """
        ...


class VisionModel(LanguageModel, Protocol):
    """A language model that can be shown pictures."""

    def picture(self, frame: Frame, count: int) -> np.ndarray | str:
        """A frame as `View.pictures` holds it; called in a worker process.

        Args:
            count: frames that are shown together, which share the pixels that the model can take.

        Raises:
            MediaError: the frame cannot be prepared.
        """
        ...
