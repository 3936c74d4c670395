"""What is asked for captions of a clip, and the cells that the answers become."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from captioning import prompts
from captioning.models.language_model import Answer, Ask, VisionModel
from captioning.viewing import Viewing
from clipsheet.errors import MediaError
from clipsheet.scorer import Column, Frames, Row

TRUNCATED = Column(
    "text_truncated", "bool", "", "whether a caption was cut off at max_new_tokens", "lower", remark=True
)
WINDOWS = Column("windows", "json", "s", 'captions of parts: [{"start", "end", "text"}, ...]')


@dataclass(frozen=True)
class CaptionQuestions:
    """Every question about the first view of a clip, then about the next.

    Attributes:
        names: the columns of captions.
        questions: what is asked for each of them, before the cells of a row are filled in.
        viewing: which frames are shown; of several windows there is one question only.
        max_new_tokens: of a caption.
    """

    names: tuple[str, ...]
    questions: tuple[str, ...]
    viewing: Viewing
    max_new_tokens: int

    @property
    def columns(self) -> tuple[Column, ...]:
        """The captions, those of windows where there are some, and whether one was cut off."""
        captions = (Column(name, "text", "", "caption") for name in self.names)
        return (*captions, *((WINDOWS,) if self.viewing.window_seconds else ()), TRUNCATED)

    def asks(self, row: Row, frames: Frames, model: VisionModel) -> list[Ask]:
        """What is asked about a clip, by the cells of its row.

        Raises:
            MediaError: bad_value, where a cell that a question speaks of is empty; too_small or too_long, as
                Viewing.views() does.
        """
        filled = [prompts.fill(question, row) for question in self.questions]  # before any frame is decoded
        views = self.viewing.views(frames, model.picture)
        return [Ask(question, self.max_new_tokens, view) for view in views for question in filled]

    def cells(self, asks: Sequence[Ask], said: Sequence[Answer | MediaError]) -> tuple[Any, ...] | MediaError:
        """One value per column, or why there is none: the first answer that is no caption."""
        answers = []
        for answer in said:
            if isinstance(answer, MediaError):
                return answer
            answers.append(answer)
        truncated = any(answer.truncated for answer in answers)
        texts = [answer.text for answer in answers]
        if not self.viewing.window_seconds:
            return *texts, truncated
        parts = [
            {"start": round(ask.view.start, 3), "end": round(ask.view.end, 3), "text": text}
            for ask, text in zip(asks, texts, strict=True)
        ]
        return " ".join(texts), json.dumps(parts, ensure_ascii=False), truncated


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
