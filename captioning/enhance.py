"""Rewrite captions with a language model: python -m captioning.enhance META

Reads `text`, or with `--prompt merge` the captions of `windows`, and writes `text`; no clip is opened. The model lies
in a folder (any causal language model of transformers with a chat template), or behind an OpenAI-compatible server:
`--api_base URL --model NAME`. `--keep_as first` keeps the earlier captions as `text_first`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from captioning import prompts
from captioning.captioner import TRUNCATED, Answer, judged, parse_windows
from captioning.chat_client import Limits, Server, base_option, model_option
from captioning.local import (
    Loaded,
    chat,
    dtype_option,
    files,
    lacking,
    load_model,
    padded_left,
)
from captioning.local import model_option as folder_option
from clipsheet.cli import main_scorer
from clipsheet.config import option
from clipsheet.errors import ConfigError, MediaError
from clipsheet.scorer import Column, Frames, Home, Row, Scorer
from clipsheet.weights.pretrained import load_tokenizer
from clipsheet.weights.table import place_of

HOW = frozenset(
    [
        "pretrained_model_name_or_path",
        "api_base",
        "concurrency",
        "retries",
        "request_seconds",
        "requests_per_minute",
    ]
)


@dataclass(frozen=True)
class Enhance(Scorer):
    """Captions rewritten or merged by a language model."""

    name: ClassVar[str] = "enhance"
    on_gpu: ClassVar[bool] = True

    pretrained_model_name_or_path: str = folder_option("Qwen2.5-7B-Instruct")
    dtype: str = dtype_option()
    api_base: str = base_option()
    model: str = model_option()
    question: str = option("", "what is asked, in place of a named prompt; {text} is the caption")
    prompt: str = option(
        "rewrite", "prompt of captioning/prompts.yaml or --prompt_file; merge reads `windows`"
    )
    prompt_file: str = option("", "YAML with prompts of your own: name: text")
    max_new_tokens: int = option(400, "tokens of a caption at most", ge=1)
    temperature: float = option(
        0.0, "of a server; 0: the likeliest answer; some models take 1 only", ge=0, le=2
    )
    concurrency: int = option(16, "requests under way at once", ge=1, le=1024)
    retries: int = option(8, "times that a request is put again", ge=0)
    request_seconds: float = option(120.0, "to wait for an answer", gt=0)
    requests_per_minute: float = option(0.0, "by each process at most; 0: no limit", ge=0)

    def __post_init__(self) -> None:
        if self.question and self.prompt != "rewrite":
            raise ConfigError("--question and --prompt are two ways to ask: keep one")
        if "text" not in prompts.fields(self.asked):
            raise ConfigError(f"the prompt {self.asked!r} does not speak of {{text}}, the caption")

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
        unsaid = {"question", "prompt", "prompt_file", *HOW, *served}
        said = [f for f in dataclasses.fields(self) if f.name not in unsaid]
        shown = [f"{f.name}={getattr(self, f.name)!r}" for f in said]
        return f"Enhance({', '.join(shown)}, reads={self.source!r}, question={self.asked!r})"

    @property
    def in_flight(self) -> int:
        return self.concurrency if self.api_base else 0

    def weights(self, models: Path) -> Mapping[str, Path]:
        return {} if self.api_base else files(place_of(self.pretrained_model_name_or_path, models))

    def missing(self, models: Path) -> list[str]:
        if self.api_base:
            return [] if self.model else ["no model: --model NAME"]
        return lacking(place_of(self.pretrained_model_name_or_path, models), ())

    def prepare(self, row: Row, frames: Frames) -> str:
        text = row[self.source].strip()
        if not text:
            raise MediaError("bad_value", f"`{self.source}` is empty: there is nothing to rewrite")
        if self.source == "windows":
            text = listed(text)
        return prompts.fill(self.asked, {**row, "text": text})

    def load(self, home: Home) -> Loaded | Server:
        if self.api_base:
            limits = Limits(self.retries, self.request_seconds, self.requests_per_minute)
            return Server(self.api_base, self.model, self.concurrency, limits)
        import transformers

        folder = place_of(self.pretrained_model_name_or_path, home.models)
        words = padded_left(load_tokenizer(folder))
        kind = transformers.AutoModelForCausalLM
        network = load_model(kind, folder, self.dtype, home, {})
        return Loaded(network, words, words, folder, home.device)

    def score(self, model: Loaded | Server, items: Sequence[str]) -> list[Any]:
        answers: list[Answer]
        if isinstance(model, Server):
            asked = [[{"role": "user", "content": item}] for item in items]
            answers = [model.ask(messages, self.max_new_tokens, self.temperature) for messages in asked]
        else:
            texts = [chat(model.words, item, model.folder) for item in items]
            inputs = model.words(texts, padding=True, return_tensors="pt", add_special_tokens=False)
            inputs.pop("token_type_ids", None)
            answers = model.generate(inputs, self.max_new_tokens)
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
