"""Verbs on paths, numbers and the order of rows: each group of them is a step."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from clipsheet import tables
from clipsheet.config import option
from clipsheet.errors import MetaError, one_line
from clipsheet.scorer import Bound, Scorer
from clipsheet.step import Desk, Outcome, Step
from clipsheet.store.rows import Rows
from pipeline.datasets import filetypes
from pipeline.datasets.bounds import FILESIZE, Bounds, Filter, bounds_given, columns_of
from pipeline.datasets.expression import Expression
from pipeline.datasets.sieve import Sieve
from scoring.info.scorer import Info

MIB = 1 << 20
TRAIN_COLUMNS = "path text num_frames fps height width aspect_ratio resolution text_len".split()
PRE_TRAIN_COLUMNS = [*TRAIN_COLUMNS, "aes", "flow", "pred_score"]


class VerbGroup(Step):
    """Verbs that are carried out together. Subclasses are frozen dataclasses whose fields are the verbs."""

    name = "datautil"
    modifiers: tuple[str, ...] = ("missing", "strict")  # fields that ask for nothing by themselves

    @property
    def active(self) -> bool:
        """Whether one of its verbs is asked for."""
        names = {f.name for f in dataclasses.fields(self)} - {*self.modifiers}  # type: ignore[arg-type]
        return any(is_asked(getattr(self, name)) for name in names)

    @property
    def rowwise(self) -> bool:
        return True

    @property
    def looks_at_files(self) -> bool:
        return False


def is_asked(value: object) -> bool:
    """Whether the value of a verb asks for something; 0 does."""
    return value is not None and value is not False and value != () and value != ""


def missing_option() -> Any:
    """The field `missing`."""
    choices = ("drop", "keep", "stop")
    return option("drop", "what a filter does with a row that has no value", choices=choices)


def strict_option() -> Any:
    """The field `strict`."""
    return option(False, "stop at a cell that should hold a number and does not")


@dataclass(frozen=True)
class Compare(VerbGroup):
    """A table against others, by path."""

    difference: str | None = option(None, "drop rows whose path is in this table")
    intersection: str | None = option(None, "keep rows whose path is in this table, and add its columns")

    def carry_out(self, rows: Rows, desk: Desk) -> Outcome:
        sieve = Sieve(rows.frame)
        if self.difference:
            other = set(tables.text(tables.read([self.difference]), "path"))
            both = tables.text(sieve.frame, "path").isin(other).to_numpy(bool)
            sieve.drop(both, f"path: in {self.difference}", "path in another table")
        if self.intersection:
            self._intersect(sieve, self.intersection)
        return sieve.outcome()

    def _intersect(self, sieve: Sieve, table: str) -> None:
        other = tables.read([table])
        paths = tables.text(other, "path")
        other = other[~paths.duplicated()].set_index(paths[~paths.duplicated()])
        mine = tables.text(sieve.frame, "path")
        rows = ~mine.isin(other.index).to_numpy(bool)
        sieve.drop(rows, f"path: not in {table}", "path not in another table")
        new = [c for c in other.columns if c not in sieve.frame.columns]
        added = other.loc[tables.text(sieve.frame, "path"), new].reset_index(drop=True)
        sieve.frame = pd.concat([sieve.frame, added], axis=1)


@dataclass(frozen=True)
class Measure(VerbGroup):
    """The columns of `info`, from the store where they are known."""

    info: bool = option(False, "measure every file: num_frames, height, width, fps, duration, ...")
    video_info: bool = option(False, "the same")

    @property
    def scorers(self) -> tuple[Scorer, ...]:
        return (Info(),)

    @property
    def looks_at_files(self) -> bool:
        return True

    def carry_out(self, rows: Rows, desk: Desk) -> Outcome:
        measured = desk.measure(rows, Info())
        return Outcome(measured.frame, failed=measured.failed)


@dataclass(frozen=True)
class Paths(VerbGroup):
    """The verbs that look at names alone."""

    ext: bool = option(False, "keep rows whose file exists")
    remove_empty_path: bool = option(False, "keep rows with a path")
    remove_path_duplication: bool = option(False, "keep the first row of each path")
    path_subset: str | None = option(None, "keep rows whose path matches this regular expression")
    path_filter_substr: str | None = option(None, "drop rows whose path holds this text")
    img_only: bool = option(
        False, "keep pictures, by the ending of the name, or the first bytes where that leaves it open"
    )
    vid_only: bool = option(False, "keep videos, in the same way")

    @property
    def rowwise(self) -> bool:
        return not self.remove_path_duplication

    @property
    def looks_at_files(self) -> bool:
        return True

    def carry_out(self, rows: Rows, desk: Desk) -> Outcome:
        sieve = Sieve(rows.frame)
        if self.ext:
            there = [os.path.exists(p) for p in tables.text(sieve.frame, "path")]
            sieve.drop(~np.array(there, bool), "path: missing", "path missing")
        if self.remove_empty_path:
            empty = (tables.text(sieve.frame, "path").str.strip() == "").to_numpy(bool)
            sieve.drop(empty, "path: empty", "path empty")
        if self.remove_path_duplication:
            again = tables.text(sieve.frame, "path").duplicated().to_numpy(bool)
            sieve.drop(again, "path: listed before", "path listed before")
        if self.path_subset is not None:
            try:
                hit = tables.text(sieve.frame, "path").str.contains(self.path_subset, regex=True)
            except (re.error, pa.ArrowInvalid) as error:
                raise MetaError(f"--path_subset {self.path_subset}: {one_line(str(error))}") from error
            sieve.drop(~hit.to_numpy(bool), f"path: no match of {self.path_subset}", "path without a match")
        if self.path_filter_substr is not None:
            hit = tables.text(sieve.frame, "path").str.contains(self.path_filter_substr, regex=False)
            sieve.drop(hit.to_numpy(bool), f"path: holds {self.path_filter_substr}", "path with a text")
        for wanted, kind, name in (
            (self.img_only, filetypes.IMAGE, "picture"),
            (self.vid_only, filetypes.VIDEO, "video"),
        ):
            if wanted:
                other = [_kind_of(path) != kind for path in tables.text(sieve.frame, "path")]
                sieve.drop(np.array(other, bool), f"path: no {name}", f"no {name}")
        return sieve.outcome()


def _kind_of(path: str) -> str:
    """Whether a path is that of a video or of a picture; a file is opened only where its ending leaves that open."""
    ending = os.path.splitext(path)[1].lower()
    known = ending in filetypes.CHECKED_ENDINGS and os.path.isfile(path)
    return filetypes.kind_of(path if known else None, ending)


@dataclass(frozen=True)
class Sizes(VerbGroup):
    """The size of each file, also where it is only compared."""

    filesize: bool = option(False, f"add `{FILESIZE.name}` in {FILESIZE.unit}")
    fsmin: float | None = None
    fsmax: float | None = None

    @property
    def looks_at_files(self) -> bool:
        return True

    def carry_out(self, rows: Rows, desk: Desk) -> Outcome:
        cells = [_mebibytes(p) for p in tables.text(rows.frame, "path")]
        return Outcome(rows.frame.assign(filesize=tables.text_column(cells, rows.frame)))


def _mebibytes(path: str) -> str:
    try:
        return tables.cell(os.path.getsize(path) / MIB)
    except OSError:
        return ""


@dataclass(frozen=True)
class Expressions(VerbGroup):
    """Filters in the language of --filter."""

    filter: tuple[str, ...] = option((), "keep rows for which each expression holds: 'aes > 4 and fps < 60'")

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(column for text in self.filter for column in Expression(text).columns)

    def carry_out(self, rows: Rows, desk: Desk) -> Outcome:
        sieve = Sieve(rows.frame)
        for text in self.filter:
            keep = Expression(text).keep(sieve.frame)
            sieve.drop(~keep, f"filter: not {text}", f"not ({text})")
        return sieve.outcome()


@dataclass(frozen=True)
class InBounds(Bounds, VerbGroup):
    """The bounds that columns declare."""

    missing: str = missing_option()
    strict: bool = strict_option()

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(column for one in bounds_given(self).values() for column in columns_of(one))

    def carry_out(self, rows: Rows, desk: Desk) -> Outcome:
        sieve = Sieve(rows.frame, self.missing, self.strict)
        for verb, one in bounds_given(self).items():
            values, bad = sieve.column(one.column)
            sieve.bound(one, one.limit(getattr(self, verb)), values, bad)
        return sieve.outcome()


@dataclass(frozen=True)
class Shape(VerbGroup):
    """Filters by two columns of `info`."""

    modifiers = (*VerbGroup.modifiers, "dyn_fps_max_fps", "dyn_fps_keep_frames")

    filter_dyn_fps: bool = option(False, "keep num_frames >= keep_frames x ceil(fps / max_fps)")
    dyn_fps_max_fps: float = option(16.0, "max_fps of --filter_dyn_fps", gt=0)
    dyn_fps_keep_frames: int = option(32, "keep_frames of --filter_dyn_fps", ge=1)
    h_le_w: bool = option(False, "keep height <= width")
    missing: str = missing_option()
    strict: bool = strict_option()

    def carry_out(self, rows: Rows, desk: Desk) -> Outcome:
        sieve = Sieve(rows.frame, self.missing, self.strict)
        if self.filter_dyn_fps:
            fps, bad_fps = sieve.column("fps")
            frames, bad_frames = sieve.column("num_frames")
            least = self.dyn_fps_keep_frames * np.ceil(fps / self.dyn_fps_max_fps)
            frames = np.where(np.isnan(least), np.nan, frames)
            one = Filter("num_frames", Bound("filter_dyn_fps", ">=", spares_pictures=True), "info")
            sieve.bound(one, least, frames, bad_fps | bad_frames, "what its fps asks for")
        if self.h_le_w:
            height, bad_height = sieve.column("height")
            width, bad_width = sieve.column("width")
            height = np.where(np.isnan(width), np.nan, height)
            one = Filter("height", Bound("h_le_w", "<="), "info")
            sieve.bound(one, width, height, bad_height | bad_width, "width")
        return sieve.outcome()


@dataclass(frozen=True)
class Rename(VerbGroup):
    """Other paths for the same rows."""

    relpath: str | None = option(None, "make paths relative to this folder")
    abspath: str | None = option(None, "put this folder in front of paths")
    path_to_id: bool = option(False, "set `id` to the file's name without its ending")

    def carry_out(self, rows: Rows, desk: Desk) -> Outcome:
        frame = rows.frame.copy()
        if self.relpath and (empty := np.flatnonzero(tables.text(frame, "path") == "")).size:
            raise MetaError(f"--relpath: row {empty[0]}: path is empty; --remove_empty_path drops such rows")
        changes: list[tuple[object, str, Callable[[str], str]]] = [
            (self.relpath, "path", lambda p: os.path.relpath(p, self.relpath)),
            (self.abspath, "path", lambda p: os.path.join(str(self.abspath), p)),
            (self.path_to_id, "id", lambda p: Path(p).stem),
        ]
        for wanted, column, change in changes:
            if wanted:
                frame[column] = tables.text_column([change(p) for p in tables.text(frame, "path")], frame)
        return Outcome(frame)


@dataclass(frozen=True)
class Sort(VerbGroup):
    """Another order of the rows."""

    sort: str | None = option(None, "sort by this column, largest first")
    sort_ascending: str | None = option(None, "sort by this column, smallest first")

    @property
    def rowwise(self) -> bool:
        return False

    def carry_out(self, rows: Rows, desk: Desk) -> Outcome:
        if self.sort and self.sort_ascending:
            raise MetaError("--sort and --sort_ascending exclude each other")
        column, frame = self.sort or self.sort_ascending or "", rows.frame
        tables.require(frame, column, "--sort")
        values, bad = tables.numbers(frame, column)
        keys = pd.Series(values)
        if bad.any():
            keys = tables.text(frame, column)
            keys = keys.mask(keys == "")
        order = keys.sort_values(ascending=bool(self.sort_ascending), kind="stable", na_position="last")
        return Outcome(frame.iloc[order.index].reset_index(drop=True))


@dataclass(frozen=True)
class Select(VerbGroup):
    """Some of the rows, by rank or by lot."""

    modifiers = ("seed",)

    keep_best: tuple[str, ...] = option(
        (), "keep that share of rows, highest first", names=("PERCENT", "COLUMN")
    )
    shuffle: bool = option(False, "shuffle the rows, by --seed")
    head: int | None = option(None, "keep the first rows", ge=0)
    sample: int | None = option(None, "keep so many rows, drawn by --seed, in their order", ge=0)
    seed: int = option(42, "of --shuffle and --sample", ge=0)

    @property
    def rowwise(self) -> bool:
        return False

    def carry_out(self, rows: Rows, desk: Desk) -> Outcome:
        sieve = Sieve(rows.frame)
        if self.keep_best:
            _keep_best(sieve, self.keep_best)
        if self.shuffle:
            order = np.random.default_rng(self.seed).permutation(len(sieve.frame))
            sieve.frame = sieve.frame.iloc[order].reset_index(drop=True)
        if self.head is not None:
            sieve.drop(np.arange(len(sieve.frame)) >= self.head, f"head {self.head}", "after the head")
        if self.sample is not None:
            count = len(sieve.frame)
            drawn = np.random.default_rng(self.seed).permutation(count)[: self.sample]
            sieve.drop(~np.isin(np.arange(count), drawn), f"sample {self.sample}", "not in the sample")
        return sieve.outcome()


def _keep_best(sieve: Sieve, given: tuple[str, ...]) -> None:
    try:
        percent, column = float(given[0]), given[1]
    except (ValueError, IndexError):
        percent, column = -1.0, ""
    if len(given) != 2 or not 0 <= percent <= 100:
        raise MetaError(f"--keep_best {' '.join(given)}: give a percentage and a column")
    values, bad = sieve.column(column)
    ranked = np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable")
    filled = int((~np.isnan(values)).sum())
    best = ranked[: round(filled * percent / 100)]
    keep = np.isin(np.arange(len(values)), best)
    reasons = [f"{column} {tables.cell(v)} not in the best {percent:g} %" for v in values]
    unknown = np.where(bad, f"{column}: bad_value", f"{column}: no value")
    reasons = [u if np.isnan(v) else r for v, r, u in zip(values, reasons, unknown, strict=True)]
    sieve.drop(~keep, reasons, f"not in the best {percent:g} % of {column}")


@dataclass(frozen=True)
class Columns(VerbGroup):
    """The columns that training reads."""

    train_column: bool = option(False, f"keep only the columns {' '.join(TRAIN_COLUMNS)}")
    pre_train_column: bool = option(False, f"keep only the columns {' '.join(PRE_TRAIN_COLUMNS)}")

    def carry_out(self, rows: Rows, desk: Desk) -> Outcome:
        frame = rows.frame
        for wanted, names in (
            (self.train_column, TRAIN_COLUMNS),
            (self.pre_train_column, PRE_TRAIN_COLUMNS),
        ):
            if wanted:
                frame = frame[[c for c in names if c in frame.columns]]
        return Outcome(frame)
