"""What all captioners have in common: prompts, lengths, windows, and what an answer must be to be a caption.

A captioner is a Scorer: `text` is its column, one cell per clip. Several questions about a clip, or several
windows of it, share one decode.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np
import pandas as pd

from captioning import prompts
from clipsheet import tables
from clipsheet.cli import describe, run_main, scorer_parser
from clipsheet.config import option
from clipsheet.engine.ranks import Share
from clipsheet.engine.run import run_scorers
from clipsheet.errors import ConfigError, MediaError
from clipsheet.media import MediaInfo
from clipsheet.options import RunOptions
from clipsheet.outcome import Status
from clipsheet.scorer import Column, Frame, Frames, Row, Scorer

log = logging.getLogger(__name__)

LENGTHS = ("short", "medium", "long")
#: Letters of a phrase, and how often the end of an answer repeats it where the model goes round in circles.
CIRCLES = ((1, 1, 30), (2, 3, 16), (4, 9, 8), (10, 39, 5), (40, 300, 3))
#: Found in a text that is read from its end.
_CIRCLE = re.compile(
    "|".join(
        rf".{{0,40}}?(.{{{least},{most}}}?)\{k}{{{times - 1}}}"
        for k, (least, most, times) in enumerate(CIRCLES, 1)
    ),
    re.DOTALL,
)
_THOUGHTS = re.compile(r"^.*?</think>", re.DOTALL)
ECHOED_WORDS = 4  # of a question that a model may repeat; fewer may be the begin of an answer
MOST_BYTES = 1 << 30  # of the pictures of a clip, in all its windows
#: Pixels of a side: a patch of the models' image encoders (CLIP ViT-L/14, Qwen2-VL). A smaller picture is a blur to
#: them, and one of 1 or 3 rows is taken for three colours by the processors of transformers.
LEAST_SIDE = 14

TRUNCATED = Column(
    "text_truncated", "bool", "", "whether a caption was cut off at max_new_tokens", "lower", remark=True
)


@dataclass(frozen=True)
class Ask:
    """One question about some pictures of a clip.

    Attributes:
        question: what is asked.
        pictures: in order of time, as the captioner prepared them.
        seconds: of each, since the window began.
        length: of the window in seconds; 0 for a picture file.
    """

    question: str
    pictures: Sequence[Any]
    seconds: Sequence[float]
    length: float

    @property
    def still(self) -> bool:
        """Whether it is about a picture, not about a video."""
        return not self.length


@dataclass(frozen=True)
class Asks:
    """All that is asked about a clip: every question about its first window, then about the next.

    Attributes:
        spans: of the windows, in seconds.
    """

    asks: Sequence[Ask]
    spans: Sequence[tuple[float, float]]


class Answer(NamedTuple):
    """What a model said, and whether it had more to say."""

    text: str
    truncated: bool


@dataclass(frozen=True)
class Captioner(Scorer):
    """Captions of clips.

    Subclasses say where they look (`indices`), what becomes of a frame (`picture`), and answer (`answers`).

    Attributes:
        how: names of fields that change no caption.
    """

    on_gpu: ClassVar[bool] = True
    how: ClassVar[frozenset[str]] = frozenset()

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
        return column in {"text", *(f"text_{length}" for length in LENGTHS), "windows", TRUNCATED.name}

    @property
    def columns(self) -> tuple[Column, ...]:
        names = [f"text_{length}" for length in self.lengths] or ["text"]
        columns = [Column(name, "text", "", "caption") for name in names]
        if self.window_seconds:
            columns.append(
                Column("windows", "json", "s", 'captions of parts: [{"start", "end", "text"}, ...]')
            )
        return (*columns, TRUNCATED)

    @property
    def meaning(self) -> str:
        """The prompts themselves, whatever they are called and wherever they stand."""
        unsaid = {"question", "prompt", "prompt_file", *self.how}
        said = [f for f in dataclasses.fields(self) if f.name not in unsaid]
        shown = [f"{f.name}={getattr(self, f.name)!r}" for f in said]
        return f"{type(self).__name__}({', '.join(shown)}, questions={self.questions!r})"

    # --- in the worker

    def indices(self, first: int, stop: int, info: MediaInfo) -> np.ndarray:
        """Which of the frames [first, stop) of a video are looked at, in order."""
        raise NotImplementedError

    def picture(self, frame: Frame, count: int) -> Any:
        """What becomes of one of `count` frames that are shown together."""
        raise NotImplementedError

    def times(self, info: MediaInfo) -> Sequence[float]:
        return sorted({seconds for span in self._spans(info) for seconds in self._looked_at(span, info)})

    def prepare(self, row: Row, frames: Frames) -> Asks:
        info = frames.info
        info.check_size(LEAST_SIDE)
        questions = [prompts.fill(question, row) for question in self.questions]
        spans = self._spans(info)
        chosen = [self._looked_at(span, info) for span in spans]
        count = max(map(len, chosen))
        pictures: dict[int, Any] = {}
        size = 0
        for frame in frames:
            pictures[frame.index] = picture = self.picture(frame, count)
            size += picture.nbytes if isinstance(picture, np.ndarray) else len(picture)
            if size > MOST_BYTES:
                raise MediaError(
                    "too_long", "its pictures take more than 1 GiB: cut it, or look at fewer or smaller ones"
                )
        return Asks(
            [
                Ask(
                    question,
                    [pictures[info.index_at(seconds)] for seconds in shown],
                    [min(max(seconds - start, 0.0), end - start) for seconds in shown],
                    0.0 if info.is_image else end - start,
                )
                for (start, end), shown in zip(spans, chosen, strict=True)
                for question in questions
            ],
            spans,
        )

    def _spans(self, info: MediaInfo) -> list[tuple[float, float]]:
        if info.is_image or not self.window_seconds:
            return [(0.0, info.duration)]
        return windows(info.duration, self.window_seconds)

    def _looked_at(self, span: tuple[float, float], info: MediaInfo) -> list[float]:
        """When the frames begin that are looked at: of those that a player shows in the span."""
        first = info.index_at(span[0])
        stop = int(np.searchsorted(info.frame_seconds, span[1] - 1e-6))
        if span[1] >= info.duration:
            stop = len(info.frame_seconds)
        return [float(info.frame_seconds[k]) for k in self.indices(first, max(first + 1, stop), info)]

    # --- where the model is

    def answers(self, model: Any, asks: Sequence[Ask]) -> list[Answer | MediaError]:
        """What the model says to each; how many are asked at once never changes an answer."""
        raise NotImplementedError

    def score(self, model: Any, items: Sequence[Asks]) -> list[Any]:
        asks = [ask for item in items for ask in item.asks]
        said: list[Answer | MediaError] = []
        for k in range(0, len(asks), len(items)):  # no more at once than samples were given
            few = asks[k : k + len(items)]
            given = self.answers(model, few)
            said += [judged(answer, ask.question) for answer, ask in zip(given, few, strict=True)]
        answers = iter(said)
        return [self._cells(item, list(itertools.islice(answers, len(item.asks)))) for item in items]

    def _cells(self, item: Asks, said: Sequence[Answer | MediaError]) -> tuple[Any, ...] | MediaError:
        answers = []
        for answer in said:
            if isinstance(answer, MediaError):
                return answer
            answers.append(answer)
        truncated = any(answer.truncated for answer in answers)
        texts = [answer.text for answer in answers]
        if not self.window_seconds:
            return *texts, truncated
        parts = [
            {"start": round(start, 3), "end": round(end, 3), "text": text}
            for (start, end), text in zip(item.spans, texts, strict=True)
        ]
        return " ".join(texts), json.dumps(parts, ensure_ascii=False), truncated


def windows(duration: float, seconds: float) -> list[tuple[float, float]]:
    """A clip as windows of so many seconds; a rest of at least half is one of its own, less is part of the last
    (the rule of cosmos-curate's windowing_utils.py, in seconds)."""
    count = max(1, math.floor(duration / seconds + 1e-6))
    rest = duration - count * seconds
    if rest >= seconds / 2 - 1e-6 and duration > seconds:
        count += 1
    starts = [k * seconds for k in range(count)]
    return list(itertools.pairwise([*starts, duration]))


def judged(answer: Answer | MediaError, question: str = "") -> Answer | MediaError:
    """An answer as a caption: without thoughts and the question itself; bad_output where nothing of use is left."""
    if isinstance(answer, MediaError):
        return answer
    text = _THOUGHTS.sub("", answer.text).replace("\0", "").strip()
    text = text.encode("utf-8", "replace").decode()  # halves of a character are none
    if len(question.split()) >= ECHOED_WORDS:
        text = text.removeprefix(question.strip()).strip()
    if text.startswith("<think>"):
        return MediaError("bad_output", "the model was still thinking at max_new_tokens")
    if not any(map(str.isalnum, text)):
        return MediaError("bad_output", f"the model said nothing: {text}")
    if found := _CIRCLE.match(text[::-1]):
        phrase = next(filter(None, found.groups()))[::-1]
        return MediaError("bad_output", f"the model repeats itself: {phrase.strip()}")
    return Answer(text, answer.truncated)


def parse_windows(cell: str) -> list[dict[str, Any]]:
    """The `start`, `end` and `text` of each window of a cell.

    Raises:
        MediaError: bad_value, where it holds something else.
    """
    try:
        return [
            {"start": float(part["start"]), "end": float(part["end"]), "text": str(part["text"])}
            for part in json.loads(cell)
        ]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MediaError("bad_value", f"windows is no list of start, end and text: {cell}") from error


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
