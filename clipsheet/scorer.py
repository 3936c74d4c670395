"""What a scorer is: a frozen value that turns a row and its frames into the cells of its columns.

A scorer never opens a file, never sees a CSV, a process or a GPU index. To write one, subclass
Scorer as a frozen dataclass whose fields are exactly the parameters that change the result, and
give it `name`, `columns` and `prepare`, and `load` and `score` where there is a model; everything else comes with it.

Several scorers may start from the same Feature, a vector per picture that an expensive model makes:
it is computed once per picture, kept beside the tables, and handed to each of them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np

from clipsheet.errors import CallError
from clipsheet.media import EVERY_FRAME, Frame, MediaInfo
from clipsheet.weights.load import wrong_original
from clipsheet.weights.table import absent, known, unlike

MODELS = Path("pretrained_models")
Row = Mapping[str, str]
Kind = Literal["float", "int", "text", "json", "bool"]
Better = Literal["higher", "lower", ""]


@dataclass(frozen=True)
class Bound:
    """A bound that `datautil` can put on a column: a flag, a config key and a part of the output's name.

    Attributes:
        verb: name of the flag and the key.
        keep: which side of the bound stays; the bound itself does.
        least, most: of the bound, where it has limits of its own; a share (unit "0-1") is limited to 0-1.
        whole: it is an integer.
        usual: the flag is a switch for this bound.
        suffix: of the output's name, before the bound; by default the verb without underscores.
        spares_pictures: pictures have no such value, and pass.
        order: among the bounds of its scorer, in the output's name: lower ones come first.
    """

    verb: str
    keep: Literal[">=", "<="]
    least: float | None = None
    most: float | None = None
    whole: bool = False
    usual: float | None = None
    suffix: str = ""
    spares_pictures: bool = False
    order: int = 0


def at_least(verb: str, least: float | None = None, **more: Any) -> tuple[Bound, ...]:
    """The bound that keeps what is as large or larger; `more` are other fields of Bound."""
    return (Bound(verb, ">=", least, **more),)


def at_most(verb: str, least: float | None = None, **more: Any) -> tuple[Bound, ...]:
    """The bound that keeps what is as small or smaller; `more` are other fields of Bound."""
    return (Bound(verb, "<=", least, **more),)


@dataclass(frozen=True)
class Column:
    """A column that a scorer writes.

    Attributes:
        name: as in the table's header.
        kind: `json` is compact JSON text.
        unit: for example "s", "pixels", "0-1"; empty for a bare count or text.
        meaning: one line for --help and the manual.
        better: which direction is better, where one is.
        remark: it says something about the others, and a row that has them is complete without it.
        bounds: by which rows can be filtered.
    """

    name: str
    kind: Kind
    unit: str
    meaning: str
    better: Better = ""
    remark: bool = False
    bounds: tuple[Bound, ...] = ()


class Frames(Protocol):
    """The frames a scorer asked for, in order of time; they can be gone through once."""

    @property
    def info(self) -> MediaInfo: ...

    def __iter__(self) -> Iterator[Frame]: ...

    def shrunk(
        self,
        shrink: Callable[[Frame], np.ndarray],
        needed: np.ndarray | None = None,
        wanted: Iterable[int] | None = None,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """The index of each frame and what `shrink` makes of it, called in several threads where there
        are cores to spare; for a scorer that asked for every frame.

        Args:
            needed: [N] bool, by index; the others may be left out.
            wanted: indices of those that are of interest at all. This can be asked for again and again.
        """
        ...


@dataclass(frozen=True)
class Home:
    """Where models are loaded; nothing here changes a result.

    Attributes:
        models: folder of the weight files.
        device: "cpu", "cuda:0", ...
        compile: whether torch.compile is worth its time.
    """

    models: Path
    device: str = "cpu"
    compile: bool = False


class Weighted:
    """What has weight files: a scorer or a feature."""

    name: ClassVar[str]

    def weights(self, models: Path) -> Mapping[str, Path]:
        """The files that load() reads, by the name that tools.download_models knows them by.

        Their hashes are part of the fingerprint.
        """
        return {}

    def missing(self, models: Path) -> list[str]:
        """What load() would need and is not there, each with the command that brings it."""
        return [absent(path, name) for name, path in self.weights(models).items() if not path.is_file()]


class Feature(Weighted):
    """A vector per picture, from which several scorers start. Subclasses are frozen dataclasses.

    Attributes:
        version: raise it when the vectors change for the same parameters.
    """

    version: ClassVar[int] = 1

    def preparation(self, models: Path) -> Callable[[Frame], np.ndarray]:
        """What turns a frame into what encode() takes, in a worker process; picklable."""
        raise NotImplementedError

    def load(self, home: Home) -> Any:
        """The model, once per process."""
        raise NotImplementedError

    def encode(self, model: Any, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """[N, D] float32, one vector for each of N pictures.

        How many pictures come at once never changes a vector by more than rounding.
        """
        raise NotImplementedError


class Featured(NamedTuple):
    """What score() gets of a sample when the scorer starts from a feature.

    Attributes:
        vectors: [P, D] float32, of the pictures at `positions`.
        item: what prepare() returned.
    """

    vectors: np.ndarray
    item: Any


class Scorer(Weighted):
    """Base of all scorers. Subclasses are frozen dataclasses.

    Attributes:
        name: short name: key in the `error` column, and by default the suffix of the output table.
        reads: columns that the result depends on. With `path` the sample's file is opened.
        largest_batch: items that score() is given at once at most, where they are large; 0: as many as
            the run says.
        version: raise it when the numbers change for the same parameters.
        on_gpu: whether load() can use an accelerator; else it is given "cpu".
        in_background: score() takes so long that the next batch is to be prepared meanwhile: it is called in a thread.
    """

    reads: ClassVar[tuple[str, ...]] = ("path",)
    version: ClassVar[int] = 1
    on_gpu: ClassVar[bool] = False
    in_background: ClassVar[bool] = False
    largest_batch: ClassVar[int] = 0

    @property
    def suffix(self) -> str:
        """Of the table that it writes: `<table>_<suffix>.csv`."""
        return self.name

    @property
    def meaning(self) -> str:
        """What its parameters say, in one line: scorers of one meaning and one name give the same results."""
        return repr(self)

    @property
    def in_flight(self) -> int:
        """For a scorer that waits for others, such as a server: items that may be in the making at once.

        score() is then called in so many threads, each time with one item; 0: here, with a batch.
        """
        return 0

    def placed(self, models: Path) -> Scorer:
        """The same scorer, for workers: knowing where the folder of the weights is, if prepare() needs one."""
        return self

    @classmethod
    def writes(cls, column: str) -> bool:
        """Whether a column of this name can be written by it, with any parameters."""
        return column in {c.name for c in every_column(cls)}

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns it writes, in order."""
        raise NotImplementedError

    @property
    def feature(self) -> Feature | None:
        """What it starts from instead of frames: score() then gets Featured items."""
        return None

    @property
    def positions(self) -> tuple[float, ...]:
        """Where its feature is taken, from 0 (begin of the clip) to 1 (end): by its field `num_frames`."""
        return tuple(frame_positions(getattr(self, "num_frames", 0)))

    def times(self, info: MediaInfo) -> Sequence[float] | object:
        """Seconds at which it needs frames; EVERY_FRAME for all; [] for none.

        Of a picture every scorer that asks for frames gets the one there is.
        """
        return info.at(0.1, 0.5, 0.9)

    def prepare(self, row: Row, frames: Frames) -> Any:
        """The CPU half, in a worker process: what score() needs of this sample, made small.

        Args:
            row: the cells of `reads`.
            frames: what times() asked for. Those of EVERY_FRAME are not kept: go through them.
                There are none for a scorer that starts from a feature.

        Raises:
            MediaError: this sample cannot be scored.
        """
        if self.feature is not None:  # and nothing else
            return None
        raise NotImplementedError

    def load(self, home: Home) -> Any:
        """The model, once per process; None where there is none."""
        return None

    def score(self, model: Any, items: Sequence[Any]) -> list[tuple[Any, ...]]:
        """One tuple per item, one value per column; a MediaError in its place fails that row.

        How many items come at once never changes a result. By default what prepare() returned.
        """
        return [item if isinstance(item, tuple) else (item,) for item in items]


def frame_positions(num_frames: int) -> list[float]:
    """Where `--num_frames N` looks, from 0 to 1: the middle, the quarters, 10/50/90 %, or evenly."""
    usual = {1: [0.5], 2: [0.25, 0.75], 3: [0.1, 0.5, 0.9]}
    evenly = [(k + 0.5) / num_frames for k in range(num_frames)]
    return usual.get(num_frames, evenly)


def provenance(of: Scorer | Feature, models: Path) -> str:
    """Everything but the sample that a result depends on: the name, version and parameters of a scorer
    or feature and the hashes of its weights, then those of the feature it starts from, in one line."""
    weights = "".join(f" {n}={file_sha256(p)}" for n, p in sorted(of.weights(models).items()))
    start = of.feature if isinstance(of, Scorer) else None
    after = f" from {provenance(start, models)}" if start is not None else ""
    said = of.meaning if isinstance(of, Scorer) else repr(of)
    return f"{of.name} v{of.version} {said}{weights}{after}"


def missing(scorer: Scorer, models: Path) -> list[str]:
    """What a scorer and the feature that it starts from would need and is not there, or not as published."""
    needing: list[Weighted] = [of for of in (scorer, scorer.feature) if of is not None]
    lacking = [what for of in needing for what in of.missing(models)]
    there = dict.fromkeys(p for of in needing for p in of.weights(models).values() if p.is_file())
    # Settings and vocabularies may be of another revision; weights are one thing or another.
    weights = [path for path in there if path.suffix not in (".json", ".txt") and known(path) is not None]
    wrong = [unlike(path, file_sha256(path)) for path in weights]
    return [*lacking, *filter(None, [*wrong, *map(wrong_original, there)])]


def parameters(of: Any) -> dict[str, Any]:
    """The fields of a scorer or a step and their values."""
    return {f.name: getattr(of, f.name) for f in fields(of)}


def every_column(cls: type[Scorer]) -> tuple[Column, ...]:
    """All columns that a scorer can write, with every switch of it on."""
    switches = {f.name: True for f in fields(cls) if f.default is False}  # type: ignore[arg-type]
    return cls(**switches).columns


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hex, computed once per process and version of the file."""
    status = os.stat(path)
    return _file_sha256(os.fspath(path), status.st_size, status.st_mtime_ns)


@cache
def _file_sha256(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def all_columns(scorers: Iterable[Scorer]) -> list[str]:
    """The names of the columns that some scorers write, in order.

    Raises:
        CallError: two of them write the same column.
    """
    names = [column.name for scorer in scorers for column in scorer.columns]
    if len(set(names)) < len(names):
        twice = sorted({n for n in names if names.count(n) > 1})
        raise CallError(f"two scorers write the same column: {', '.join(twice)}")
    return names


__all__ = [
    "EVERY_FRAME", "MODELS", "Better", "Bound", "Column", "Feature", "Featured", "Frame", "Frames", "Home", "Kind",
    "MediaInfo", "Row", "Scorer", "all_columns", "at_least", "at_most", "every_column", "file_sha256",
    "frame_positions", "missing", "parameters", "provenance",
]  # fmt: skip
