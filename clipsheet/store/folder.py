"""The folder `.clipsheet` beside the tables: which scorer and feature keeps its results where."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from clipsheet import tables
from clipsheet.media import READERS, VERSION
from clipsheet.scorer import MODELS, Feature, Scorer, provenance
from clipsheet.store.cells import Cells
from clipsheet.store.locks import FOLDER
from clipsheet.store.vectors import VectorFolder


def store_of(output: Path) -> Path:
    """The folder in which the store of a table lies: the one it is in; each part of a table has its own beside it."""
    if tables.is_part(output):
        return output.parent.parent / FOLDER / "parts" / output.stem
    return output.parent


class Store:
    """The `.clipsheet` folder beside a table.

    Args:
        reader: what decodes; part of every fingerprint.
        models: the folder of the weight files, whose hashes are part of every fingerprint.
    """

    def __init__(self, folder: Path, reader: str = READERS[0], models: Path = MODELS) -> None:
        self.folder = folder / FOLDER
        self._models = models
        self._by = f" frames v{VERSION}" + ("" if reader == READERS[0] else f" read by {reader}")

    def cells(self, scorer: Scorer) -> Cells:
        """The verdicts of a scorer with its parameters."""
        names = tuple(column.name for column in scorer.columns)
        by = self._by if "path" in scorer.reads else ""
        return self.verdicts_of(scorer.name, provenance(scorer, self._models) + by, names)

    def vectors(self, feature: Feature) -> VectorFolder:
        """The vectors of a feature with its parameters."""
        meaning = provenance(feature, self._models) + self._by
        return VectorFolder(self.folder / "features" / f"{feature.name}-{_fingerprint(meaning)}", meaning)

    def verdicts_of(self, name: str, meaning: str, columns: Sequence[str]) -> Cells:
        """The verdicts of whatever `meaning` describes in full; equal words, equal verdicts."""
        return Cells(self.folder / "cells" / f"{name}-{_fingerprint(meaning)}", meaning, tuple(columns))


def _fingerprint(meaning: str) -> str:
    return hashlib.blake2b(meaning.encode(), digest_size=6).hexdigest()
