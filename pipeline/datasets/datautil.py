"""Filter, sort, join and split tables, and clean captions: python -m pipeline.datasets.datautil META... [verbs]

Verbs are carried out in a fixed order, whatever the order of the flags: tables are joined, compared
with others, measured, captions are cleaned, rows are filtered, sorted, cut to size. What a filter drops
stands with its reason in `<output>_dropped`; kept and dropped rows together are always all rows.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from clipsheet import tables
from clipsheet.cli import Parser, run_main
from clipsheet.config import option
from clipsheet.engine import launch
from clipsheet.engine.join import join
from clipsheet.engine.run import compute
from clipsheet.errors import CallError, ConfigError, MediaError, MetaError, one_line
from clipsheet.options import RunOptions
from clipsheet.outcome import Status, recording
from clipsheet.store.folder import Store
from clipsheet.store.locks import working_on
from pipeline.datasets import captions, filetypes
from pipeline.datasets.caption_files import caption_beside
from pipeline.datasets.expression import Expression
from scoring.info.scorer import Info

NSFW_LIMIT = 0.2
TRAIN_COLUMNS = "path text num_frames fps height width aspect_ratio resolution text_len".split()
PRE_TRAIN_COLUMNS = [*TRAIN_COLUMNS, "aes", "flow", "pred_score"]
MIB = 1 << 20
CAPTION_VERBS = (
    "load_caption remove_url text_filter_substr lang remove_empty_caption filter_too_verbose filter_human "
    "merge_cmotion refine_llm_caption text_image2video text_refine_sentences append_text score_to_text "
    "text_undo_score2text clean_caption update_text"
).split()


@dataclass(frozen=True)
class Filter:
    """A verb that keeps rows whose number in a column is on the right side of a bound.

    Attributes:
        column: what is compared; `secondsmin` and `secondsmax` compute theirs.
        keep: ">=" or "<=".
        scorer: whose failures explain an empty cell.
        spares_pictures: pictures have no such value, and pass.
        suffix: of the output's name.
    """

    column: str
    keep: str
    scorer: str
    suffix: str
    spares_pictures: bool = False


#: In the order in which they are carried out. A new scorer adds its line here.
FILTERS: dict[str, Filter] = {
    "fsmin": Filter("filesize", ">=", "", "fsmin"),
    "fsmax": Filter("filesize", "<=", "", "fsmax"),
    "fmin": Filter("num_frames", ">=", "info", "fmin"),
    "fmax": Filter("num_frames", "<=", "info", "fmax"),
    "fpsmax": Filter("fps", "<=", "info", "fpsmax", spares_pictures=True),
    "hwmax": Filter("resolution", "<=", "info", "hwmax"),
    "ocr_box_max": Filter("num_boxes", "<=", "ocr", "ocrboxmax"),
    "ocr_single_max": Filter("max_single_percentage", "<=", "ocr", "ocrsinglemax"),
    "ocr_total_max": Filter("total_text_percentage", "<=", "ocr", "ocrtotalmax"),
    "aesmin": Filter("aes", ">=", "aes", "aesmin"),
    "matchmin": Filter("match", ">=", "match", "matchmin"),
    "flowmin": Filter("flow", ">=", "motion", "flowmin"),
    "motionmin": Filter("motion", ">=", "motion", "motionmin"),
    "motionmax": Filter("motion", "<=", "motion", "motionmax"),
    "sharpnessmin": Filter("sharpness", ">=", "quality", "sharpnessmin"),
    "noisemax": Filter("noise", "<=", "quality", "noisemax"),
    "blockinessmax": Filter("blockiness", "<=", "quality", "blockinessmax"),
    "brightnessmin": Filter("brightness", ">=", "quality", "brightnessmin"),
    "brightnessmax": Filter("brightness", "<=", "quality", "brightnessmax"),
    "contrastmin": Filter("contrast", ">=", "quality", "contrastmin"),
    "clippedmax": Filter("clipped", "<=", "quality", "clippedmax"),
    "bordersmax": Filter("black_borders", "<=", "quality", "bordersmax"),
    "frozenmax": Filter("frozen", "<=", "quality", "frozenmax"),
    "foreignmax": Filter("foreign_frames", "<=", "audit", "foreignmax"),
    "transitionsmax": Filter("inner_transitions", "<=", "audit", "transitionsmax"),
    "prefmin": Filter("pred_score", ">=", "", "prefmin"),
    "facemin": Filter("face_area_ratio", ">=", "", "facemin"),
    "lpipsmin": Filter("lpips", ">=", "lpips", "lpipsmin"),
    "safety_check": Filter("nsfw", "<=", "nsfw", "safe"),
    "nsfwmax": Filter("nsfw", "<=", "nsfw", "nsfwmax"),
    "secondsmax": Filter("seconds", "<=", "info", "secondsmax", spares_pictures=True),
    "secondsmin": Filter("seconds", ">=", "info", "secondsmin", spares_pictures=True),
}

#: The names of v1.3 for the same verbs.
ALIASES = {
    "path_subtract": "difference",
    "path_intersect": "intersection",
    "path_keep_substr": "path_subset",
    "path_filter_empty": "remove_empty_path",
    "path_dedup": "remove_path_duplication",
    "chunk": "shard",
    "text_filter_empty": "remove_empty_caption",
    "text_filter_url": "remove_url",
    "text_dedup": "remove_text_duplication",
    "text_remove_prefix": "refine_llm_caption",
    "text_refine_t5": "clean_caption",
    "text_append": "append_text",
    "text_score2text": "score_to_text",
}


def _bound(verb: str, text: str, **limits: Any) -> Any:
    filter = FILTERS[verb]
    return option(None, f"{text}: keep {filter.column} {filter.keep} this", **limits)


@dataclass(frozen=True)
class Verbs:
    """Everything datautil can be asked to do, under the names of v1.2."""

    difference: str | None = option(None, "drop rows whose path is in this table")
    intersection: str | None = option(None, "keep rows whose path is in this table, and add its columns")
    info: bool = option(False, "measure every file: num_frames, height, width, fps, duration, ...")
    video_info: bool = option(False, "the same")
    ext: bool = option(False, "keep rows whose file exists")
    remove_empty_path: bool = option(False, "keep rows with a path")
    remove_path_duplication: bool = option(False, "keep the first row of each path")
    path_subset: str | None = option(None, "keep rows whose path matches this regular expression")
    path_filter_substr: str | None = option(None, "drop rows whose path holds this text")
    relpath: str | None = option(None, "make paths relative to this folder")
    abspath: str | None = option(None, "put this folder in front of paths")
    path_to_id: bool = option(False, "set `id` to the file's name without its ending")
    load_caption: str | None = option(
        None,
        "set `text` to what stands beside the file: `caption` of its .json, or its .txt",
        choices=("json", "txt"),
    )
    remove_url: bool = option(False, "drop captions with a URL")
    text_filter_substr: str | None = option(None, "drop captions that hold this text")
    lang: str | None = option(None, "keep captions in this language (ISO 639-1, as en), by lingua")
    remove_empty_caption: bool = option(False, "keep rows with a caption, before and after it is changed")
    filter_too_verbose: bool = option(False, "drop captions of which two sentences say what is not there")
    filter_human: bool = option(False, "keep captions whose first sentence names a person")
    merge_cmotion: bool = option(False, "append the camera motion in `cmotion`")
    refine_llm_caption: bool = option(False, "take off `The video shows` and its like")
    text_image2video: bool = option(False, "call an image a video")
    text_refine_sentences: bool = option(False, "take out sentences that say what is not there")
    append_text: str | None = option(None, "append this to every caption")
    score_to_text: bool = option(False, "append the scores in `aes` and `flow`")
    text_undo_score2text: bool = option(False, "take such scores off")
    clean_caption: bool = option(False, "lower case, without markup, URLs, file names, CJK and special signs")
    update_text: str | None = option(None, "take `text` from this table, by path")
    remove_text_duplication: bool = option(False, "keep the first row of each caption")
    count_num_token: str | None = option(None, "add `text_len`, tokens by this tokenizer's folder")
    filesize: bool = option(False, "add `filesize` in MiB")
    sort: str | None = option(None, "sort by this column, largest first")
    sort_ascending: str | None = option(None, "sort by this column, smallest first")
    filter: tuple[str, ...] = option((), "keep rows for which each expression holds: 'aes > 4 and fps < 60'")
    fsmin: float | None = _bound("fsmin", "MiB", ge=0)
    fsmax: float | None = _bound("fsmax", "MiB", ge=0)
    fmin: int | None = _bound("fmin", "frames", ge=0)
    fmax: int | None = _bound("fmax", "frames", ge=0)
    fpsmax: float | None = _bound("fpsmax", "frames per second", ge=0)
    hwmax: int | None = _bound("hwmax", "pixels", ge=0)
    ocr_box_max: float | None = _bound("ocr_box_max", "text boxes", ge=0)
    ocr_single_max: float | None = _bound("ocr_single_max", "0-1", ge=0, le=1)
    ocr_total_max: float | None = _bound("ocr_total_max", "0-1", ge=0, le=1)
    aesmin: float | None = _bound("aesmin", "about 1-10")
    matchmin: float | None = _bound("matchmin", "0-100")
    flowmin: float | None = _bound("flowmin", "diagonals per frame")
    motionmin: float | None = _bound("motionmin", "grey levels")
    motionmax: float | None = _bound("motionmax", "grey levels")
    sharpnessmin: float | None = _bound("sharpnessmin", "variance of the Laplacian")
    noisemax: float | None = _bound("noisemax", "grey levels")
    blockinessmax: float | None = _bound("blockinessmax", "1 is none")
    brightnessmin: float | None = _bound("brightnessmin", "0-1", ge=0, le=1)
    brightnessmax: float | None = _bound("brightnessmax", "0-1", ge=0, le=1)
    contrastmin: float | None = _bound("contrastmin", "0-1", ge=0, le=1)
    clippedmax: float | None = _bound("clippedmax", "0-1", ge=0, le=1)
    bordersmax: float | None = _bound("bordersmax", "0-1", ge=0, le=1)
    frozenmax: float | None = _bound("frozenmax", "0-1", ge=0, le=1)
    foreignmax: int | None = _bound("foreignmax", "frames", ge=0)
    transitionsmax: int | None = _bound("transitionsmax", "transitions", ge=0)
    prefmin: float | None = _bound("prefmin", "preference score")
    facemin: float | None = _bound("facemin", "0-1", ge=0, le=1)
    lpipsmin: float | None = _bound("lpipsmin", "LPIPS distance")
    safety_check: bool = option(False, f"keep nsfw <= {NSFW_LIMIT}")
    nsfwmax: float | None = _bound("nsfwmax", "0-1", ge=0, le=1)
    secondsmax: float | None = _bound("secondsmax", "seconds", ge=0)
    secondsmin: float | None = _bound("secondsmin", "seconds", ge=0)
    filter_dyn_fps: bool = option(False, "keep num_frames >= keep_frames x ceil(fps / max_fps)")
    dyn_fps_max_fps: float = option(16.0, "max_fps of --filter_dyn_fps", gt=0)
    dyn_fps_keep_frames: int = option(32, "keep_frames of --filter_dyn_fps", ge=1)
    img_only: bool = option(
        False, "keep pictures, by the ending of the name, or the first bytes where that leaves it open"
    )
    vid_only: bool = option(False, "keep videos, in the same way")
    h_le_w: bool = option(False, "keep height <= width")
    keep_best: tuple[str, ...] = option(
        (), "keep that share of rows, highest first", names=("PERCENT", "COLUMN")
    )
    shuffle: bool = option(False, "shuffle the rows, by --seed")
    head: int | None = option(None, "keep the first rows", ge=0)
    sample: int | None = option(None, "keep so many rows, drawn by --seed, in their order", ge=0)
    train_column: bool = option(False, f"keep only the columns {' '.join(TRAIN_COLUMNS)}")
    pre_train_column: bool = option(False, f"keep only the columns {' '.join(PRE_TRAIN_COLUMNS)}")
    shard: int | None = option(None, "write so many tables <output>_0, _1, ... of equal length", ge=1)
    seed: int = option(42, "of --shuffle and --sample", ge=0)
    missing: str = option(
        "drop", "what a filter does with a row that has no value", choices=("drop", "keep", "stop")
    )
    strict: bool = option(False, "stop at a cell that should hold a number and does not")

    def __post_init__(self) -> None:
        for verb in ("fs", "f", "motion", "brightness", "seconds"):
            least, most = getattr(self, f"{verb}min"), getattr(self, f"{verb}max")
            if least is not None and most is not None and least > most:
                raise ConfigError(
                    f"{verb}min {least:g} is more than {verb}max {most:g}: no row could be kept"
                )


@dataclass(frozen=True)
class UtilOptions:
    """How datautil is run."""

    output: str = option("", "table to write instead of <first table>_<verbs>")
    format: str | None = option(None, "ending of the output's automatic name", choices=("csv", "parquet"))
    num_workers: int = option(0, "processes of --info; 0: one per core", ge=0)
    disable_parallel: bool = option(False, "one process")
    root: str = option("", "refuse files outside this folder (--info)")


class Sieve:
    """A table on its way through the verbs, and what has been dropped from it."""

    def __init__(self, frame: pd.DataFrame, missing: str, strict: bool) -> None:
        self.frame = frame
        self._missing, self._strict = missing, strict
        self._dropped: list[pd.DataFrame] = []
        self.reasons: Counter[str] = Counter()
        self.failures: list[pd.DataFrame] = []

    def drop(self, rows: np.ndarray, reasons: Sequence[str] | np.ndarray | str, told: str) -> None:
        """Drop the rows that [N] bool marks.

        Args:
            reasons: of each row of the table, or one for all.
            told: the reason without its value, for the summary.
        """
        if not rows.any():
            return
        gone = self.frame[rows].copy()
        texts = reasons if isinstance(reasons, str) else np.asarray(reasons, object)[rows]
        gone["reason"] = tables.text_column([texts] * len(gone) if isinstance(texts, str) else texts, gone)
        self._dropped.append(gone)
        self.reasons[told] += len(gone)
        self.frame = self.frame[~rows].reset_index(drop=True)

    def failed(self) -> pd.DataFrame:
        """The rows that could not be measured, and those whose captions could not be read, with the reasons."""
        return tables.concatenate(self.failures) if self.failures else self.frame.iloc[:0]

    def dropped(self) -> pd.DataFrame:
        """All dropped rows with their column `reason`."""
        if not self._dropped:
            return self.frame.iloc[:0]
        return tables.concatenate(self._dropped)

    def bound(
        self, filter: Filter, bound: float | np.ndarray, values: np.ndarray, bad: np.ndarray, told: str = ""
    ) -> None:
        """Keep rows on the right side of a bound.

        Args:
            bound: one for all, or [N] float64.
            values: [N] float64, NaN where there is no value.
            bad: [N] bool, where a cell is filled with something else.
            told: the bound in the summary, where it is not one number.
        """
        name = filter.column
        beyond = values < bound if filter.keep == ">=" else values > bound
        sign = "<" if filter.keep == ">=" else ">"
        pairs = zip(values, np.broadcast_to(bound, values.shape), strict=True)
        reasons = [f"{name} {tables.number_text(v)} {sign} {tables.number_text(b)}" for v, b in pairs]
        if name == "lpips":
            single = "lpips -1: fewer than two frames"
            reasons = [single if v == -1 else r for v, r in zip(values, reasons, strict=True)]
        empty = np.isnan(values)
        if filter.spares_pictures:
            empty &= ~_is_picture(self.frame)
        why = self._why_empty(filter, empty | bad, bad)
        for stops, rows, flag in (
            (self._strict, bad, "--strict"),
            (self._missing == "stop", empty, "--missing stop"),
        ):
            if stops and rows.any():
                row = int(np.flatnonzero(rows)[0])
                raise MetaError(f"row {row + 1}: {why[row]}; {flag} stops there")
        if self._missing == "keep":
            empty = bad
        told = told or tables.number_text(float(bound))
        self.drop(beyond | empty, np.where(empty, why, reasons), f"{name} {sign} {told}")

    def _why_empty(self, filter: Filter, empty: np.ndarray, bad: np.ndarray) -> np.ndarray:
        why = np.full(len(self.frame), "", object)
        errors = tables.text(self.frame, "error").to_numpy() if "error" in self.frame.columns else None
        cells, spoilt = None, np.zeros(len(self.frame), bool)
        if filter.column in self.frame.columns:  # else it is computed of others
            cells, (_, spoilt) = (
                tables.text(self.frame, filter.column),
                tables.numbers(self.frame, filter.column),
            )
        for row in np.flatnonzero(empty):
            code = tables.parse_errors(errors[row]).get(filter.scorer) if errors is not None else None
            if bad[row]:
                code = f"bad_value {cells.iat[row]!r}" if cells is not None and spoilt[row] else "bad_value"
            why[row] = f"{filter.column}: {code or 'not run'}"
        return why

    def column(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Values and bad cells of a column; of `seconds` the length of each clip."""
        if name != "seconds":
            tables.require(self.frame, name, "the table")
            return tables.numbers(self.frame, name)
        if "duration" in self.frame.columns:
            return tables.numbers(self.frame, "duration")
        frames, bad_frames = self.column("num_frames")
        fps, bad_fps = self.column("fps")
        with np.errstate(divide="ignore", invalid="ignore"):
            seconds = np.where(fps > 0, frames / fps, np.nan)
        return seconds, bad_frames | bad_fps


def _is_picture(frame: pd.DataFrame) -> np.ndarray:
    """[N] bool: rows measured as one frame without a rate."""
    if not {"num_frames", "fps"} <= set(frame.columns):
        return np.zeros(len(frame), bool)
    frames, _ = tables.numbers(frame, "num_frames")
    fps, bad = tables.numbers(frame, "fps")
    return (frames == 1) & np.isnan(fps) & ~bad


# --- the verbs ---------------------------------------------------------------------------------


def _difference(sieve: Sieve, table: str) -> None:
    other = set(tables.text(tables.read([table]), "path"))
    rows = tables.text(sieve.frame, "path").isin(other).to_numpy(bool)
    sieve.drop(rows, f"path: in {table}", "path in another table")


def _intersection(sieve: Sieve, table: str) -> None:
    other = tables.read([table])
    paths = tables.text(other, "path")
    other = other[~paths.duplicated()].set_index(paths[~paths.duplicated()])
    mine = tables.text(sieve.frame, "path")
    rows = ~mine.isin(other.index).to_numpy(bool)
    sieve.drop(rows, f"path: not in {table}", "path not in another table")
    new = [c for c in other.columns if c not in sieve.frame.columns]
    added = other.loc[tables.text(sieve.frame, "path"), new].reset_index(drop=True)
    sieve.frame = pd.concat([sieve.frame, added], axis=1)


def _paths(sieve: Sieve, verbs: Verbs) -> None:
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


def _captions(sieve: Sieve, verbs: Verbs, status: Status) -> None:
    """The verbs that look at `text`, and those that change it."""
    if not any(getattr(verbs, verb) for verb in CAPTION_VERBS):
        return
    if verbs.load_caption:
        _load_captions(sieve, verbs.load_caption, status)
    if "text" not in sieve.frame.columns and verbs.update_text:
        sieve.frame["text"] = tables.text_column([""] * len(sieve.frame), sieve.frame)
    tables.require(sieve.frame, "text", "the table")
    if verbs.update_text:
        other = tables.read([verbs.update_text], ("path", "text"))
        new = dict(zip(tables.text(other, "path"), tables.text(other, "text"), strict=True))
        pairs = zip(tables.text(sieve.frame, "path"), tables.text(sieve.frame, "text"), strict=True)
        _change_texts(sieve, [new.get(path, text) for path, text in pairs])
    language = verbs.lang or ""
    if verbs.lang and language not in captions.languages():
        raise CallError(f"--lang {language}: one of {' '.join(captions.languages())}")
    for wanted, keeps, reason in (
        (verbs.remove_url, lambda text: not captions.URL.search(text), "text: holds a URL"),
        (
            verbs.text_filter_substr,
            lambda text: str(verbs.text_filter_substr) not in text,
            "text: holds a text",
        ),
        (verbs.lang, lambda text: captions.is_language(text, language), f"text: not {language}"),
        (verbs.remove_empty_caption, _is_filled, "text: empty"),
        (verbs.filter_too_verbose, lambda text: not captions.is_too_verbose(text), "text: too verbose"),
        (verbs.filter_human, captions.is_about_people, "text: no person"),
    ):
        if wanted:
            _keep_texts(sieve, keeps, reason)
    for wanted, change in (
        (verbs.refine_llm_caption, captions.without_prefix),
        (verbs.text_image2video, captions.image_to_video),
        (verbs.text_refine_sentences, captions.without_negations),
        (verbs.append_text, lambda text: f"{text}{verbs.append_text}" if text else text),
        (verbs.text_undo_score2text, captions.without_scores),
        (verbs.clean_caption, captions.clean),
    ):
        if wanted:
            _change_texts(sieve, [change(text) for text in tables.text(sieve.frame, "text")])
    if verbs.merge_cmotion:
        tables.require(sieve.frame, "cmotion", "--merge_cmotion")
        motions = [label.replace("_", " ").strip() for label in tables.text(sieve.frame, "cmotion")]
        pairs = zip(tables.text(sieve.frame, "text"), motions, strict=True)
        _change_texts(
            sieve, [f"{text} Camera motion: {m}." if m and text.strip() else text for text, m in pairs]
        )
    if verbs.score_to_text:
        known = [sieve.column(c)[0] if c in sieve.frame.columns else np.full(len(sieve.frame), np.nan)
                 for c in ("aes", "flow")]  # fmt: skip
        rows = zip(tables.text(sieve.frame, "text"), *known, strict=True)
        _change_texts(
            sieve,
            [captions.with_scores(t, *(None if np.isnan(v) else float(v) for v in s)) for t, *s in rows],
        )
    if verbs.remove_empty_caption:
        _keep_texts(sieve, _is_filled, "text: empty")


def _is_filled(text: str) -> bool:
    return bool(text.strip())


def _keep_texts(sieve: Sieve, keeps: Callable[[str], object], reason: str) -> None:
    dropped = np.array([not keeps(text) for text in tables.text(sieve.frame, "text")], bool)
    reasons = np.full(len(dropped), reason, object)
    if "error" in sieve.frame.columns:
        errors = tables.text(sieve.frame, "error")
        for row in np.flatnonzero(dropped):
            code = tables.parse_errors(errors.iat[row]).get("caption")
            reasons[row] = f"text: {code}" if code else reason
    sieve.drop(dropped, reasons, reason)


def _change_texts(sieve: Sieve, texts: list[str]) -> None:
    sieve.frame["text"] = tables.text_column(texts, sieve.frame)


def _load_captions(sieve: Sieve, ending: str, status: Status) -> None:
    """Set `text` to the captions beside the files; a caption that cannot be read is a failure of its row."""
    paths = tables.text(sieve.frame, "path")
    texts, codes, details = [""] * len(paths), [""] * len(paths), [""] * len(paths)
    for row, path in enumerate(paths):
        try:
            texts[row] = caption_beside(path, ending)
        except MediaError as error:
            codes[row], details[row] = error.code, error.detail
    sieve.frame["text"] = tables.text_column(texts, sieve.frame)
    failed = np.array(codes, object) != ""
    if not failed.any() and "error" not in sieve.frame.columns:
        return
    tables.set_errors(sieve.frame, {"caption": np.array(codes, object)})
    entries = {"scorer": "caption", "code": np.array(codes)[failed], "detail": np.array(details)[failed]}
    sieve.failures.append(sieve.frame[failed].assign(**entries))
    counted = [
        bool(status.failed) and "info" in tables.parse_errors(e)
        for e in tables.text(sieve.frame, "error")[failed]
    ]
    status.failed_rows += len(counted) - sum(counted)  # those that --info has counted are no further rows
    for code, count in Counter(code for code in codes if code).items():
        status.failed[f"caption: {code}"] = count


def _after_filters(sieve: Sieve, verbs: Verbs) -> None:
    """The verbs that look at the captions of what is left."""
    if verbs.remove_text_duplication:
        tables.require(sieve.frame, "text", "the table")
        texts = tables.text(sieve.frame, "text")
        again = (texts.duplicated() & (texts.str.strip() != "")).to_numpy(bool)
        sieve.drop(again, "text: listed before", "text listed before")
    if verbs.count_num_token:
        tables.require(sieve.frame, "text", "the table")
        try:
            count = captions.token_counter(verbs.count_num_token)
        except (OSError, ValueError) as error:
            raise CallError(f"--count_num_token {verbs.count_num_token}: {one_line(str(error))}") from error
        lengths = [str(count(text)) if text else "0" for text in tables.text(sieve.frame, "text")]
        sieve.frame["text_len"] = tables.text_column(lengths, sieve.frame)


def _rename(sieve: Sieve, verbs: Verbs) -> None:
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


def _sort(sieve: Sieve, verbs: Verbs) -> None:
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


def _filesize(sieve: Sieve) -> None:
    def mebibytes(path: str) -> str:
        try:
            return tables.cell(os.path.getsize(path) / MIB)
        except OSError:
            return ""

    cells = [mebibytes(p) for p in tables.text(sieve.frame, "path")]
    sieve.frame["filesize"] = tables.text_column(cells, sieve.frame)


def _expressions(sieve: Sieve, verbs: Verbs) -> None:
    for text in verbs.filter:
        keep = Expression(text).keep(sieve.frame)
        sieve.drop(~keep, f"filter: not {text}", f"not ({text})")


def _bounds(sieve: Sieve, verbs: Verbs) -> None:
    for verb, filter in FILTERS.items():
        bound = getattr(verbs, verb)
        if bound is None or bound is False:
            continue
        values, bad = sieve.column(filter.column)
        sieve.bound(filter, NSFW_LIMIT if bound is True else float(bound), values, bad)


def _shapes(sieve: Sieve, verbs: Verbs) -> None:
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


def _selection(sieve: Sieve, verbs: Verbs) -> None:
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


def _columns(sieve: Sieve, verbs: Verbs) -> None:
    for wanted, names in ((verbs.train_column, TRAIN_COLUMNS), (verbs.pre_train_column, PRE_TRAIN_COLUMNS)):
        if wanted:
            sieve.frame = sieve.frame[[c for c in names if c in sieve.frame.columns]]


def suffix_of(verbs: Verbs) -> str:
    """What the verbs add to the output's name, in the ancestors' words and order."""
    flags = {
        "sort": "sort", "sort_ascending": "sort", "info": "info", "video_info": "vinfo", "ext": "ext",
        "relpath": "relpath", "abspath": "abspath", "remove_empty_path": "noemptypath",
        "remove_path_duplication": "noduppath", "path_subset": "subset",
        "path_filter_substr": "pathfiltersubstr", "filesize": "filesize",
        "filter": f"filter-{tables.digest(json.dumps(verbs.filter), 6)}",
        "filter_dyn_fps": "dynfps", "h_le_w": "h-le-w", "img_only": "img", "vid_only": "vid",
        "intersection": "intersection", "load_caption": f"load{verbs.load_caption}",
        "remove_empty_caption": "noempty", "remove_url": "nourl", "text_filter_substr": "textfiltersubstr",
        "lang": f"{verbs.lang}", "filter_too_verbose": "noverbose", "filter_human": "human",
        "remove_text_duplication": "noduptext", "refine_llm_caption": "llm", "clean_caption": "clean",
        "text_image2video": "image2video", "text_refine_sentences": "sentences", "merge_cmotion": "cmotion",
        "append_text": "appendtext", "score_to_text": "score2text", "text_undo_score2text": "undoscore2text",
        "update_text": "update", "count_num_token": "ntoken",
    }  # fmt: skip
    parts = [word for verb, word in flags.items() if getattr(verbs, verb)]
    for verb, filter in FILTERS.items():
        bound = getattr(verbs, verb)
        if bound is True:
            parts.append(filter.suffix)
        elif bound is not None and bound is not False:
            parts.append(filter.suffix + tables.number_text(bound))
    if verbs.keep_best:
        parts.append("best" + "".join(verbs.keep_best))
    if verbs.shuffle:
        parts.append(f"shuffled_seed{verbs.seed}")
    if verbs.head is not None:
        parts.append(f"first_{verbs.head}_data")
    if verbs.sample is not None:
        parts.append(f"sample-{verbs.sample}")
    if verbs.difference:
        parts.append(f"-{Path(verbs.difference).stem}")
    return "_".join(parts)


def datautil(
    inputs: Sequence[str],
    verbs: Verbs,
    options: UtilOptions = UtilOptions(),
    *,
    run: RunOptions | None = None,
) -> Status:
    """Carry out the verbs on one or more tables joined one after another.

    Args:
        run: how --info measures; its `output` is not used, and what `options` says goes before it.

    Raises:
        MetaError: a table or a column is missing, or a cell stops it.
        StorageError: the output cannot be written.
    """
    paths = tables.expand(inputs)
    output = _output(paths, verbs, options)
    parts = [output] if verbs.shard is None else _shards(output, verbs.shard, options)
    compared = [Path(t) for t in (verbs.difference, verbs.intersection, verbs.update_text) if t]
    for path in (output, *parts):
        tables.check_output([*paths, *compared], path)
    frame = tables.read(inputs)
    with working_on(output), recording(Status("datautil", output, rows_in=len(frame))) as status:
        sieve = Sieve(frame, verbs.missing, verbs.strict)
        if verbs.difference:
            _difference(sieve, verbs.difference)
        if verbs.intersection:
            _intersection(sieve, verbs.intersection)
        if verbs.info or verbs.video_info:
            _measure(sieve, output, _how_to_measure(options, run or RunOptions()), status)
        _paths(sieve, verbs)
        _captions(sieve, verbs, status)
        if verbs.filesize or verbs.fsmin is not None or verbs.fsmax is not None:
            _filesize(sieve)
        _expressions(sieve, verbs)
        _bounds(sieve, verbs)
        _shapes(sieve, verbs)
        _after_filters(sieve, verbs)
        _rename(sieve, verbs)
        _sort(sieve, verbs)
        _selection(sieve, verbs)
        _columns(sieve, verbs)
        tables.write_parts(sieve.frame, parts)
        tables.write_sidecar(sieve.dropped(), output, "dropped")
        if verbs.info or verbs.video_info or verbs.load_caption:
            tables.write_sidecar(sieve.failed(), output, "failed")
        status.rows_out = len(sieve.frame)
        status.scored = len(sieve.frame)
        status.dropped = dict(sieve.reasons)
    return status


def _output(paths: list[Path], verbs: Verbs, options: UtilOptions) -> Path:
    first = paths[0].with_suffix(f".{options.format}") if options.format else paths[0]
    suffix = suffix_of(verbs) or ("merged" if len(paths) > 1 else "")
    if not suffix and not options.output and verbs.shard is None:
        if first == paths[0]:
            raise MetaError("no verb given: nothing to do (see --help)")
        suffix = "converted"
    return tables.output_path(first, suffix or "shard", options.output)


def _shards(output: Path, count: int, options: UtilOptions) -> list[Path]:
    """Tables of equal length: `<stem>_0`, `<stem>_1`, ..."""
    stem = output.stem if options.output else output.stem.removesuffix("_shard")
    return [output.with_name(f"{stem}_{number}{output.suffix}") for number in range(count)]


def _how_to_measure(options: UtilOptions, run: RunOptions) -> RunOptions:
    workers = 1 if options.disable_parallel else options.num_workers or run.num_workers
    return dataclasses.replace(run, num_workers=workers, root=options.root or run.root)


def _measure(sieve: Sieve, output: Path, run: RunOptions, status: Status) -> None:
    """The columns of --info, from the store where they are known."""
    store = Store(output.parent, run.reader, run.models)
    compute(sieve.frame, [Info()], run, store, launch.Rank(), "info")
    joined = join(sieve.frame, [Info()], run, store)
    sieve.frame = joined.frame
    if len(joined.failed):
        sieve.failures.append(joined.failed)
    status.failed, status.failed_rows = joined.status_counts, joined.failed_rows
    status.pending = joined.pending_rows
    status.judge(max_failed=1.0)  # failures are what a filter is for
    store.cells(Info()).compact()


def main() -> None:
    """The program."""
    parser = Parser(__doc__ or "")
    parser.add_argument("meta", nargs="+", help="table(s): .csv or .parquet; patterns are expanded")
    parser.add_fields(Verbs, "verbs")
    parser.add_fields(UtilOptions, "options")
    fields = {f.name: f for f in dataclasses.fields(Verbs)}
    for alias, name in ALIASES.items():
        kind = {"shard": int}.get(name, str)
        if fields[name].default is False:
            parser.add_argument(
                f"--{alias}", dest=name, action="store_true", default=None, help=f"= --{name}"
            )
        else:
            parser.add_argument(f"--{alias}", dest=name, type=kind, default=None, help=f"= --{name}")
    given = parser.parse_args()
    run_main(lambda: datautil(given.meta, parser.take(Verbs, given), parser.take(UtilOptions, given)))


if __name__ == "__main__":
    main()
