"""Rewrite captions with a language model: python -m captioning.enhance META

Reads `text`, or with `--prompt merge` the captions of `windows`, and writes `text`; no clip is opened. The model lies
in a folder (any causal language model of transformers with a chat template), or behind an OpenAI-compatible server:
`--api_base URL --model NAME`. `--keep_as first` keeps the earlier captions as `text_first`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from captioning import prompts
from captioning.answers import judged
from captioning.model_fields import (
    AsksModel,
    FolderFields,
    ServerFields,
    folder_option,
    said_fields,
    temperature_option,
)
from captioning.models.causal_lm import CausalLm
from captioning.models.chat_client import ChatClient
from captioning.models.language_model import Ask
from captioning.questions import TRUNCATED, parse_windows
from clipsheet.cli import main_scorer
from clipsheet.config import option
from clipsheet.errors import ConfigError, MediaError
from clipsheet.scorer import Column, Frames, Row, Scorer


@dataclass(frozen=True)
class Enhance(ServerFields, FolderFields, AsksModel, Scorer):
    """Captions rewritten or merged by a language model."""

    name: ClassVar[str] = "enhance"
    on_gpu: ClassVar[bool] = True
    how: ClassVar[frozenset[str]] = FolderFields.how | ServerFields.how

    pretrained_model_name_or_path: str = folder_option("Qwen2.5-7B-Instruct")
    question: str = option("", "what is asked, in place of a named prompt; {text} is the caption")
    prompt: str = option(
        "rewrite", "prompt of captioning/prompts.yaml or --prompt_file; merge reads `windows`"
    )
    prompt_file: str = option("", "YAML with prompts of your own: name: text")
    max_new_tokens: int = option(400, "tokens of a caption at most", ge=1)
    temperature: float = temperature_option("of a server; ")

    def __post_init__(self) -> None:
        if self.question and self.prompt != "rewrite":
            raise ConfigError("--question and --prompt are two ways to ask: keep one")
        if "text" not in prompts.fields(self.asked):
            raise ConfigError(f"the prompt {self.asked!r} does not speak of {{text}}, the caption")

    @property
    def language_model(self) -> CausalLm | ChatClient:
        if self.api_base:
            return self.chat_client(temperature=self.temperature)
        return CausalLm(self.pretrained_model_name_or_path, self.dtype)

    @property
    def asked(self) -> str:
        """What is asked, before the cells of a row are filled in."""
        return self.question or prompts.named(self.prompt, self.prompt_file)

    @property
    def source(self) -> str:
        """The column that `{text}` stands for."""
        return "windows" if self.prompt == "merge" and not self.question else "text"

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        others = (name for name in prompts.fields(self.asked) if name != "text")
        return tuple(dict.fromkeys((self.source, *others)))

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column("text", "text", "", "caption"), TRUNCATED)

    @property
    def meaning(self) -> str:
        served = ("dtype",) if self.api_base else ("model", "temperature")
        said = said_fields(self, {"question", "prompt", "prompt_file", *self.how, *served})
        return f"Enhance({said}, reads={self.source!r}, question={self.asked!r})"

    def prepare(self, row: Row, frames: Frames) -> Ask:
        text = row[self.source].strip()
        if not text:
            raise MediaError("bad_value", f"`{self.source}` is empty: there is nothing to rewrite")
        if self.source == "windows":
            text = listed(text)
        return Ask(prompts.fill(self.asked, {**row, "text": text}), self.max_new_tokens)

    def score(self, model: Any, items: Sequence[Ask]) -> list[Any]:
        answers = self.language_model.answers(model, items)
        verdicts = [judged(answer) for answer in answers]
        return [verdict if isinstance(verdict, MediaError) else tuple(verdict) for verdict in verdicts]


def listed(cell: str) -> str:
    """The captions of a `windows` cell, each with its time."""
    parts = parse_windows(cell)
    return "\n\n".join(f"{part['start']:g} to {part['end']:g} s: {part['text']}" for part in parts)


def main() -> None:
    """The program."""
    main_scorer(Enhance)


if __name__ == "__main__":  # run as the module that it is: workers know its classes by that name
    from captioning.enhance import main as program

    program()
