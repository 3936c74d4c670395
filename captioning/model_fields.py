"""How a scorer names its language model: groups of fields, and what follows from them for every such scorer.

Each class here is a part of a scorer, to be named before Captioner or Scorer among its bases.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from captioning.models.chat_client import ChatClient, Limits
from captioning.models.folder import DTYPES
from captioning.models.language_model import LanguageModel
from clipsheet.config import option
from clipsheet.scorer import Home
from clipsheet.weights.table import place_of


class AsksModel:
    """A scorer that asks a language model: its files, loading and waiting are the model's.

    Attributes:
        how: names of fields that change no answer.
    """

    how: ClassVar[frozenset[str]] = frozenset()

    @property
    def language_model(self) -> LanguageModel:
        """The model, by the fields of the scorer."""
        raise NotImplementedError

    @property
    def in_flight(self) -> int:
        """As in Scorer."""
        return self.language_model.in_flight

    def weights(self, models: Path) -> Mapping[str, Path]:
        """As in Scorer."""
        return self.language_model.weights(models)

    def missing(self, models: Path) -> list[str]:
        """As in Scorer."""
        return self.language_model.missing(models)

    def load(self, home: Home) -> Any:
        """As in Scorer."""
        return self.language_model.load(home)


def folder_option(default: str) -> Any:
    """The field `pretrained_model_name_or_path`."""
    return option(default, "the model: a folder in pretrained_models, or a path to one")


def resize_option() -> Any:
    """The field `resize` of a model that prepares pictures itself."""
    return option(672, "pixels of the short side at most, before the model's own preparation", ge=14)


@dataclass(frozen=True)
class FolderFields:
    """The fields of a scorer whose model lies in a folder."""

    how: ClassVar[frozenset[str]] = frozenset(["pretrained_model_name_or_path"])  # its files say which it is

    pretrained_model_name_or_path: str = folder_option("")
    dtype: str = option(
        "auto", "numbers that the model computes with; auto: bfloat16 on a GPU", choices=DTYPES
    )

    def placed(self, models: Path) -> Self:
        """A copy with the absolute path of its model, to be pickled to workers."""
        folder = place_of(self.pretrained_model_name_or_path, models)
        return dataclasses.replace(self, pretrained_model_name_or_path=str(folder.absolute()))


@dataclass(frozen=True)
class ServerFields:
    """The fields of a scorer whose model is behind an OpenAI-compatible server."""

    how: ClassVar[frozenset[str]] = frozenset(
        ["api_base", "concurrency", "retries", "request_seconds", "requests_per_minute"]
    )

    api_base: str = option("", "address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1")
    model: str = option("", "name of the model, as the server knows it")
    concurrency: int = option(16, "requests under way at once", ge=1, le=1024)
    retries: int = option(8, "times that a request is put again", ge=0)
    request_seconds: float = option(120.0, "to wait for an answer", gt=0)
    requests_per_minute: float = option(0.0, "by each process at most; 0: no limit", ge=0)

    def chat_client(self, **given: Any) -> ChatClient:
        """The model behind the server.

        Args:
            given: the other fields of ChatClient.
        """
        limits = Limits(self.concurrency, self.retries, self.request_seconds, self.requests_per_minute)
        return ChatClient(self.api_base, self.model, limits=limits, **given)


def temperature_option(of: str = "") -> Any:
    """The field `temperature` of a model behind a server; a part of what a caption is known by."""
    return option(0.0, f"{of}0: the likeliest answer; some models take 1 only", ge=0, le=2)


def said_fields(scorer: Any, unsaid: Collection[str]) -> str:
    """The fields of a scorer and their values as its provenance gives them, without some.

    Args:
        scorer: a frozen dataclass.
        unsaid: names of fields that change no answer, or that are said in another way.
    """
    said = (field.name for field in dataclasses.fields(scorer) if field.name not in unsaid)
    return ", ".join(f"{name}={getattr(scorer, name)!r}" for name in said)
