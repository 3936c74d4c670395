"""A captioner: a Scorer that puts questions about a clip to a language model, and writes the answers as captions.

It has two parts: the model (`captioning/models/`) and what is asked of it (`questions.py`, `viewing.py`). `text` is its
column, one cell per clip. Several questions about a clip, or several windows of it, share one decode.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import pandas as pd

from captioning import prompts
from captioning.answers import judged
from captioning.model_fields import AsksModel, said_fields
from captioning.models.language_model import Answer, Ask, VisionModel
from captioning.questions import TRUNCATED, WINDOWS, CaptionQuestions, parse_windows
from captioning.viewing import Look, Viewing
from clipsheet import tables
from clipsheet.cli import describe, run_main, scorer_parser
from clipsheet.config import option
from clipsheet.engine.ranks import Share
from clipsheet.engine.run import run_scorers
from clipsheet.errors import ConfigError, MediaError
from clipsheet.media import MediaInfo
from clipsheet.options import RunOptions
from clipsheet.outcome import Status
from clipsheet.scorer import Column, Frames, Row, Scorer

log = logging.getLogger(__name__)

LENGTHS = ("short", "medium", "long")


@dataclass(frozen=True)
class Captioner(AsksModel, Scorer):
    """Captions of clips.

    Subclasses say by their fields which model is asked (`language_model`) and which frames it is shown (`look`).
    """

    on_gpu: ClassVar[bool] = True
    in_background: ClassVar[bool] = True

    question: str = option("", "what is asked, in place of a named prompt; {column} is the row's cell")
    prompt: str = option("default", "prompt of captioning/prompts.yaml or --prompt_file")
    prompt_file: str = option("", "YAML with prompts of your own: name: text")
    lengths: tuple[str, ...] = option(
        (), "captions by these prompts, into text_<length> instead of text",
        choices=LENGTHS,
    )  # fmt: skip
    window_seconds: float | None = option(
        None, "caption every so many seconds apart, too; a rest of less than half is part of the last", gt=0
    )
    max_new_tokens: int = option(200, "tokens of a caption at most", ge=1)

    def __post_init__(self) -> None:
        given = [f"--{name}" for name in ("question", "lengths") if getattr(self, name)]
        given += ["--prompt"] if self.prompt != "default" else []
        if len(given) > 1:
            raise ConfigError(f"{given[0]} and {given[1]} are two ways to ask: keep one")
        if self.lengths and self.window_seconds:
            raise ConfigError("--lengths and --window_seconds: one or the other")
        for question in self.questions:
            prompts.fields(question)

    @property
    def language_model(self) -> VisionModel:
        raise NotImplementedError

    @property
    def look(self) -> Look:
        """Which frames of a clip, or of a window, the model is shown."""
        raise NotImplementedError

    @property
    def asking(self) -> CaptionQuestions:
        """What the model is asked."""
        names = tuple(f"text_{length}" for length in self.lengths) or ("text",)
        viewing = Viewing(self.look, self.window_seconds)
        return CaptionQuestions(names, self.questions, viewing, self.max_new_tokens)

    @property
    def questions(self) -> tuple[str, ...]:
        """What is asked about each window, before the cells of a row are filled in."""
        if self.question:
            return (self.question,)
        return tuple(prompts.named(name, self.prompt_file) for name in self.lengths or (self.prompt,))

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        spoken_of = (name for question in self.questions for name in prompts.fields(question))
        return tuple(dict.fromkeys(("path", *spoken_of)))

    @classmethod
    def writes(cls, column: str) -> bool:
        return column in {"text", *(f"text_{length}" for length in LENGTHS), WINDOWS.name, TRUNCATED.name}

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.asking.columns

    @property
    def meaning(self) -> str:
        """The prompts themselves, whatever they are called and wherever they stand."""
        said = said_fields(self, {"question", "prompt", "prompt_file", *self.how})
        return f"{type(self).__name__}({said}, questions={self.questions!r})"

    def times(self, info: MediaInfo) -> Sequence[float]:
        return self.asking.viewing.times(info)

    def prepare(self, row: Row, frames: Frames) -> list[Ask]:
        return self.asking.asks(row, frames, self.language_model)

    def score(self, model: Any, items: Sequence[Sequence[Ask]]) -> list[Any]:
        asks = [ask for item in items for ask in item]
        said: list[Answer | MediaError] = []
        for k in range(0, len(asks), len(items)):  # no more at once than samples were given
            few = asks[k : k + len(items)]
            given = self.language_model.answers(model, few)
            said += [judged(answer, ask.question) for answer, ask in zip(given, few, strict=True)]
        answers, asking = iter(said), self.asking
        return [asking.cells(item, list(itertools.islice(answers, len(item)))) for item in items]


def caption(
    inputs: Sequence[str], captioners: Sequence[Captioner], options: RunOptions, share: Share | None = None
) -> Status:
    """Caption a table, and write the captions of windows as a table of their own, `<output>_windows`.

    Raises:
        CallError, Incomplete, StorageError: as run_scorers() does.
    """
    status = run_scorers(inputs, captioners, options, share=share)
    if any(captioner.window_seconds for captioner in captioners) and status.share is None:
        tables.write_sidecar(
            windows_table(tables.read([str(status.output)], ("windows",))), status.output, "windows"
        )
    return status


def windows_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each window of a table with a column `windows`: path, window, start, end, text."""
    rows = []
    for path, cell in zip(tables.text(frame, "path"), tables.text(frame, "windows"), strict=True):
        try:
            parts = parse_windows(cell) if cell else []
        except MediaError as error:  # from somewhere else, and kept
            log.warning("%s: %s", path, error.detail)
            continue
        rows += [{"path": path, "window": number, **part} for number, part in enumerate(parts)]
    return pd.DataFrame(rows, columns=["path", "window", "start", "end", "text"])


def main_captioner(captioner: type[Captioner]) -> NoReturn:
    """The program `python -m captioning.<x> META [flags]`."""
    parser = scorer_parser(captioner, describe(captioner))
    given = parser.parse_args()

    def program() -> Status:
        options = parser.take(RunOptions, given)
        return caption(given.meta, [parser.take(captioner, given)], options, parser.share(given))

    run_main(program)
