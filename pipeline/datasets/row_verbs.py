"""Verbs on paths, numbers and the order of rows."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from clipsheet import tables
from clipsheet.errors import MetaError, one_line
from pipeline.datasets import filetypes
from pipeline.datasets.expression import Expression
from pipeline.datasets.sieve import Sieve
from pipeline.datasets.verbs import FILTERS, NSFW_LIMIT, PRE_TRAIN_COLUMNS, TRAIN_COLUMNS, Filter, Verbs

MIB = 1 << 20


def subtract(sieve: Sieve, table: str) -> None:
    other = set(tables.text(tables.read([table]), "path"))
    rows = tables.text(sieve.frame, "path").isin(other).to_numpy(bool)
    sieve.drop(rows, f"path: in {table}", "path in another table")


def intersect(sieve: Sieve, table: str) -> None:
    other = tables.read([table])
    paths = tables.text(other, "path")
    other = other[~paths.duplicated()].set_index(paths[~paths.duplicated()])
    mine = tables.text(sieve.frame, "path")
    rows = ~mine.isin(other.index).to_numpy(bool)
    sieve.drop(rows, f"path: not in {table}", "path not in another table")
    new = [c for c in other.columns if c not in sieve.frame.columns]
    added = other.loc[tables.text(sieve.frame, "path"), new].reset_index(drop=True)
    sieve.frame = pd.concat([sieve.frame, added], axis=1)


def check_paths(sieve: Sieve, verbs: Verbs) -> None:
    """The verbs that look at names alone."""
    if verbs.ext:
        there = [os.path.exists(p) for p in tables.text(sieve.frame, "path")]
        sieve.drop(~np.array(there, bool), "path: missing", "path missing")
    if verbs.remove_empty_path:
        empty = (tables.text(sieve.frame, "path").str.strip() == "").to_numpy(bool)
        sieve.drop(empty, "path: empty", "path empty")
    if verbs.remove_path_duplication:
        again = tables.text(sieve.frame, "path").duplicated().to_numpy(bool)
        sieve.drop(again, "path: listed before", "path listed before")
    if verbs.path_subset is not None:
        try:
            hit = tables.text(sieve.frame, "path").str.contains(verbs.path_subset, regex=True)
        except (re.error, pa.ArrowInvalid) as error:
            raise MetaError(f"--path_subset {verbs.path_subset}: {one_line(str(error))}") from error
        sieve.drop(~hit.to_numpy(bool), f"path: no match of {verbs.path_subset}", "path without a match")
    if verbs.path_filter_substr is not None:
        hit = tables.text(sieve.frame, "path").str.contains(verbs.path_filter_substr, regex=False)
        sieve.drop(hit.to_numpy(bool), f"path: holds {verbs.path_filter_substr}", "path with a text")
    for wanted, kind, name in (
        (verbs.img_only, filetypes.IMAGE, "picture"),
        (verbs.vid_only, filetypes.VIDEO, "video"),
    ):
        if wanted:
            other = [_kind_of(path) != kind for path in tables.text(sieve.frame, "path")]
            sieve.drop(np.array(other, bool), f"path: no {name}", f"no {name}")


def _kind_of(path: str) -> str:
    """Whether a path is that of a video or of a picture; a file is opened only where its ending leaves that open."""
    ending = os.path.splitext(path)[1].lower()
    known = ending in filetypes.CHECKED_ENDINGS and os.path.isfile(path)
    return filetypes.kind_of(path if known else None, ending)


def rename(sieve: Sieve, verbs: Verbs) -> None:
    frame = sieve.frame
    if verbs.relpath and (empty := np.flatnonzero(tables.text(frame, "path") == "")).size:
        raise MetaError(f"--relpath: row {empty[0]}: path is empty; --remove_empty_path drops such rows")
    changes: list[tuple[object, str, Callable[[str], str]]] = [
        (verbs.relpath, "path", lambda p: os.path.relpath(p, verbs.relpath)),
        (verbs.abspath, "path", lambda p: os.path.join(str(verbs.abspath), p)),
        (verbs.path_to_id, "id", lambda p: Path(p).stem),
    ]
    for wanted, column, change in changes:
        if wanted:
            frame[column] = tables.text_column([change(p) for p in tables.text(frame, "path")], frame)


def sort(sieve: Sieve, verbs: Verbs) -> None:
    if verbs.sort and verbs.sort_ascending:
        raise MetaError("--sort and --sort_ascending exclude each other")
    column = verbs.sort or verbs.sort_ascending
    if not column:
        return
    tables.require(sieve.frame, column, "--sort")
    values, bad = tables.numbers(sieve.frame, column)
    keys = pd.Series(values)
    if bad.any():
        keys = tables.text(sieve.frame, column)
        keys = keys.mask(keys == "")
    order = keys.sort_values(ascending=bool(verbs.sort_ascending), kind="stable", na_position="last")
    sieve.frame = sieve.frame.iloc[order.index].reset_index(drop=True)


def measure_size(sieve: Sieve) -> None:
    def mebibytes(path: str) -> str:
        try:
            return tables.cell(os.path.getsize(path) / MIB)
        except OSError:
            return ""

    cells = [mebibytes(p) for p in tables.text(sieve.frame, "path")]
    sieve.frame["filesize"] = tables.text_column(cells, sieve.frame)


def filter_by_expressions(sieve: Sieve, verbs: Verbs) -> None:
    for text in verbs.filter:
        keep = Expression(text).keep(sieve.frame)
        sieve.drop(~keep, f"filter: not {text}", f"not ({text})")


def filter_by_bounds(sieve: Sieve, verbs: Verbs) -> None:
    for verb, filter in FILTERS.items():
        bound = getattr(verbs, verb)
        if bound is None or bound is False:
            continue
        values, bad = sieve.column(filter.column)
        sieve.bound(filter, NSFW_LIMIT if bound is True else float(bound), values, bad)


def filter_by_shape(sieve: Sieve, verbs: Verbs) -> None:
    if verbs.filter_dyn_fps:
        fps, bad_fps = sieve.column("fps")
        frames, bad_frames = sieve.column("num_frames")
        least = verbs.dyn_fps_keep_frames * np.ceil(fps / verbs.dyn_fps_max_fps)
        frames = np.where(np.isnan(least), np.nan, frames)
        filter = Filter("num_frames", ">=", "info", "dynfps", spares_pictures=True)
        sieve.bound(filter, least, frames, bad_fps | bad_frames, "what its fps asks for")
    if verbs.h_le_w:
        height, bad_height = sieve.column("height")
        width, bad_width = sieve.column("width")
        height = np.where(np.isnan(width), np.nan, height)
        sieve.bound(Filter("height", "<=", "info", "h-le-w"), width, height, bad_height | bad_width, "width")


def select(sieve: Sieve, verbs: Verbs) -> None:
    if verbs.keep_best:
        _keep_best(sieve, verbs.keep_best)
    if verbs.shuffle:
        order = np.random.default_rng(verbs.seed).permutation(len(sieve.frame))
        sieve.frame = sieve.frame.iloc[order].reset_index(drop=True)
    if verbs.head is not None:
        sieve.drop(np.arange(len(sieve.frame)) >= verbs.head, f"head {verbs.head}", "after the head")
    if verbs.sample is not None:
        count = len(sieve.frame)
        drawn = np.random.default_rng(verbs.seed).permutation(count)[: verbs.sample]
        sieve.drop(~np.isin(np.arange(count), drawn), f"sample {verbs.sample}", "not in the sample")


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


def select_columns(sieve: Sieve, verbs: Verbs) -> None:
    for wanted, names in ((verbs.train_column, TRAIN_COLUMNS), (verbs.pre_train_column, PRE_TRAIN_COLUMNS)):
        if wanted:
            sieve.frame = sieve.frame[[c for c in names if c in sieve.frame.columns]]
