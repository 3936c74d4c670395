"""Which weight files there are, what they must be, and what to do when one is missing."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from clipsheet.errors import CallError, one_line
from clipsheet.weights.converted import CONVERT, converted, originals

REPOSITORY = Path(__file__).resolve().parents[2]
DOWNLOAD = "python -m tools.download_models"
SHOWN = 12  # digits of a sum that tell two files apart


@dataclass(frozen=True)
class WeightFile:
    """A published file.

    Attributes:
        model: the name that tools.download_models knows it by.
        path: inside pretrained_models/, with `/`.
        url: where it is published.
        bytes: its size; None where it is not known.
        sha256: in hex; None where it is not known.
    """

    model: str
    path: str
    url: str
    bytes: int | None
    sha256: str | None

    @property
    def description(self) -> str:
        """Size and sha256, as far as they are known, to stand behind the name in a message."""
        size = f", {self.bytes:,} bytes" if self.bytes else ""
        return size + (f", sha256 {self.sha256}" if self.sha256 else "")

    def wrong(self, path: Path) -> str:
        """What tells the file at `path` from the published one; empty when nothing does."""
        size = os.stat(path).st_size
        if self.bytes is not None and size != self.bytes:
            return f"{size:,} bytes where {self.bytes:,} are published"
        if self.sha256 is None:
            return ""
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        return "" if found == self.sha256 else f"its sha256 is {found}, published is {self.sha256}"


@dataclass(frozen=True)
class Model:
    """Files that belong together.

    Attributes:
        about: what it is.
        columns: what needs it.
        licence: of the weights.
    """

    name: str
    about: str
    columns: tuple[str, ...]
    licence: str
    files: tuple[WeightFile, ...]


def table() -> Mapping[str, Model]:
    """The known models by name: tools/weights.yaml, or the file that CLIPSHEET_WEIGHTS names (a mirror's).

    Raises:
        CallError: the file is not there or not of that form.
    """
    return _table(os.environ.get("CLIPSHEET_WEIGHTS") or os.fspath(REPOSITORY / "tools" / "weights.yaml"))


@cache
def _table(path: str) -> Mapping[str, Model]:
    try:
        entries = yaml.safe_load(Path(path).read_text("utf-8"))
        models = [_model(entry) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise CallError(
            f"{path}: not a table of weights: {one_line(repr(error))}; see tools/weights.yaml"
        ) from error
    return {model.name: model for model in models}


def _model(entry: Mapping[str, Any]) -> Model:
    name = str(entry["name"])
    files = tuple(WeightFile(name, f["path"], f["url"], f["bytes"], f["sha256"]) for f in entry["files"])
    for file in files:
        if os.path.isabs(file.path) or ".." in file.path.split("/"):
            raise ValueError(f"path {file.path!r} leaves the folder")
    columns = tuple(entry["columns"])
    return Model(name, entry["about"], columns, entry["licence"], files)


def known(path: Path) -> WeightFile | None:
    """The published file that `path` is by its name; in a folder of its own, by the folder's name too.

    Of a file that several models share, it is that of the model whose other files lie beside it.
    """
    whole = Path(os.path.abspath(path))
    found = []
    for model in table().values():
        for file in model.files:
            own = file.path.split("/")
            if whole.parts[-len(own) :] == tuple(own):
                root = whole.parents[len(own) - 1]
                beside = any((root / other.path).exists() for other in model.files if other != file)
                found.append((not beside, file))
    return min(found, key=lambda pair: pair[0])[1] if found else None


def published_original(path: Path) -> WeightFile | None:
    """The published file in a foreign format that the file at `path` is converted from, by its name."""
    return next(filter(None, map(known, originals(path))), None)


def absent(path: Path, name: str = "") -> str:
    """The line for a weight file that is not there: which, what it is, and how to get it.

    Where a foreign file that it can be converted from lies beside it, the line has the command that converts it.

    Args:
        name: of its model; used only where the table has that model and does not know the file.
    """
    file = known(path)
    if file is not None:
        return f"no {path}{file.description}: {DOWNLOAD} {file.model}"
    for original in originals(path):
        if original.is_file():
            return f"no {path}: {CONVERT} {shlex.quote(str(original))}"
    file = published_original(path)
    if file is not None:
        source = file.path.rpartition("/")[2]
        return f"no {path}, converted from {source}{file.description}: {DOWNLOAD} {file.model}"
    folder = Path(os.path.abspath(path)).parent.name  # of what is made out of a model's files
    models = [model for model in (folder, name) if model in table()]
    return f"no {path}: {DOWNLOAD} {models[0]}" if models else f"no {path}: put it there"


def unlike(path: Path, sha256: str) -> str:
    """The line for a file of that sum that is not the published one of its name; empty when it is."""
    return _unlike(f"{path} is not the published file", known(path), sha256)


def unlike_original(path: Path, sha256: str) -> str:
    """The line for a converted file whose original of that sum is not the published one; empty when it is."""
    return _unlike(f"{path} was not converted from the published file", published_original(path), sha256)


def _unlike(what: str, file: WeightFile | None, sha256: str) -> str:
    if file is None or file.sha256 is None or file.sha256 == sha256:
        return ""
    return f"{what} (sha256 {sha256[:SHOWN]}..., published {file.sha256[:SHOWN]}...): {DOWNLOAD} {file.model}"


def refused(path: Path, why: str) -> CallError:
    """The error for a weight file that cannot be used: which, why, and how to get the right one."""
    file = known(path)
    if file is None:
        return CallError(f"{path}: {one_line(why)}; get it again from where it came")
    expected = f"; its sha256 should be {file.sha256}" if file.sha256 else ""
    return CallError(f"{path}: {one_line(why)}{expected}; {DOWNLOAD} {file.model}")


def place_of(name: str, models: Path) -> Path:
    """Where a file or folder is that was named: by its path, or inside the folder of the weights."""
    given = Path(name)
    return given if given.is_absolute() or given.exists() else models / name


def place_of_converted(name: str, models: Path) -> Path:
    """Where the converted file of a foreign one is that was named as for place_of().

    The foreign file may have been deleted after its conversion.
    """
    source = place_of(name, models)
    return converted(source) if source.exists() else place_of(os.fspath(converted(Path(name))), models)
