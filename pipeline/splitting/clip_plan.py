"""Which clips a table asks for, and which rows are dropped or fail before anything is cut."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from clipsheet import tables
from clipsheet.errors import MediaError
from pipeline.splitting.clip_names import claim, clip_stems
from pipeline.splitting.cutter import Clip, Cutting

MAX_SECONDS = 1e6  # of a source, eleven days
MAX_CLIPS_PER_SOURCE = 100_000  # two days in clips of two seconds; more is a mistake
Drop = tuple[int, float | None, float | None, str]  # row, start and end in seconds, reason


_TIME = re.compile(r"(\d{1,4}):([0-5]?\d):([0-5]?\d(?:\.\d{1,9})?)", re.ASCII)


def parse_timestamp(cell: str) -> list[tuple[float, float]]:
    """The spans of a `timestamp` cell in seconds.

    Raises:
        MediaError: bad_value, where it is no JSON list of [start, end] with start < end.
    """
    try:
        spans = json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise MediaError("bad_value", f"timestamp is not JSON: {cell}") from error
    if not isinstance(spans, list):
        raise MediaError("bad_value", f"timestamp is no list: {cell}")
    parsed = []
    for pair in spans:
        if not (isinstance(pair, list) and len(pair) == 2):
            raise MediaError("bad_value", f"timestamp holds {pair!r}, which is no [start, end]")
        start, end = (_seconds(part) for part in pair)
        if not start < end:
            raise MediaError("bad_value", f"timestamp holds {pair!r}, which ends before it begins")
        parsed.append((start, end))
    return parsed


def _seconds(part: object) -> float:
    match = _TIME.fullmatch(part) if isinstance(part, str) else None
    if match is None:
        raise MediaError("bad_value", f"timestamp holds {part!r}, which is no HH:MM:SS.mmm")
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])


@dataclass
class ClipPlan:
    """All clips of a table, and what is not going to be one."""

    rows: list[int]  # of each clip, its source's row
    clips: list[Clip]
    dropped: list[Drop]
    failed: list[tuple[int, MediaError]]
    pictures: list[int]
    as_they_are: list[int]


def plan_shots(frame: pd.DataFrame, cutting: Cutting, claims: dict[str, str]) -> ClipPlan:
    plan = ClipPlan([], [], [], [], [], [])
    paths = tables.text(frame, "path").to_numpy()
    cells = tables.text(frame, "timestamp").to_numpy()
    errors = tables.text(frame, "error").to_numpy() if "error" in frame.columns else None
    stems = clip_stems(frame, cutting)
    scenes: Counter[str] = Counter()  # of each stem, in the rows so far
    first: dict[tuple[str, str], int] = {}  # by stem and cell: equal rows share their clips
    for row, cell in enumerate(cells):
        try:
            if not cell.strip():
                code = tables.parse_errors(errors[row]).get("timestamp") if errors is not None else None
                plan.dropped.append((row, None, None, f"timestamp: {code or 'not run'}"))
                continue
            spans = parse_timestamp(cell)
            _check_number(spans, cutting)
            stem = stems[row]
            if isinstance(stem, MediaError):
                raise stem
        except MediaError as error:
            plan.failed.append((row, error))
            continue
        if not spans:
            plan.pictures.append(row)
            continue
        stem = claim(claims, stem, paths[row], cutting.save_dir)
        if (stem, cell) not in first:
            first[stem, cell] = scenes[stem]
            scenes[stem] += len(spans)
        for number, scene in enumerate(spans, first[stem, cell]):
            _plan_scene(plan, row, f"{stem}_scene-{number}", scene, cutting)
    return plan


def plan_again(frame: pd.DataFrame, cutting: Cutting, claims: dict[str, str]) -> ClipPlan:
    """The clean shots of clips that hold more than one, by the audit."""
    plan = ClipPlan([], [], [], [], [], [])
    flaws = sum(
        np.nan_to_num(tables.numbers(frame, column)[0]) for column in ("foreign_frames", "inner_transitions")
    )
    begins, _ = tables.numbers(frame, "clip_start")
    paths, cells, sources = (
        tables.text(frame, column).to_numpy() for column in ("path", "clean_shots", "source_path")
    )
    # The frames of another rate lie up to half of one beside those of the source that they show.
    slack = 0.5 / cutting.target_fps if cutting.target_fps else 0.0
    shots: Counter[str] = Counter()  # of each stem, in the rows so far
    first: dict[tuple[str, float, str], int] = {}  # equal rows share their clips
    for row, stem in enumerate(clip_stems(frame, cutting)):
        if not flaws[row]:
            plan.as_they_are.append(row)
            continue
        try:
            spans = parse_timestamp(cells[row])
            _check_number(spans, cutting)
            if not (sources[row].strip() and 0 <= begins[row] < MAX_SECONDS):
                raise MediaError("bad_value", "without `source_path` and `clip_start` it cannot be cut again")
            if isinstance(stem, MediaError):
                raise stem
        except MediaError as error:
            plan.failed.append((row, error))
            continue
        if not spans:
            plan.dropped.append((row, None, None, "clean_shots: none"))
        stem = claim(claims, f"{stem}_shot", paths[row], cutting.save_dir)
        key = stem, float(begins[row]), cells[row]
        if key not in first:
            first[key] = shots[stem]
            shots[stem] += len(spans)
        for number, (start, end) in enumerate(spans, first[key]):
            scene = begins[row] + start + (slack if start else 0.0), begins[row] + end - slack
            _plan_scene(plan, row, f"{stem}-{number}", scene, cutting)
    return plan


def _check_number(spans: Sequence[tuple[float, float]], cutting: Cutting) -> None:
    pieces = [(end - start) / (cutting.max_seconds or math.inf) for start, end in spans]
    clips = sum(max(1, math.ceil(count)) for count in pieces)
    if clips > MAX_CLIPS_PER_SOURCE:
        raise MediaError("bad_value", f"timestamp asks for {clips} clips")


def _plan_scene(plan: ClipPlan, row: int, name: str, scene: tuple[float, float], cutting: Cutting) -> None:
    pieces = [scene]
    if cutting.max_seconds is not None and scene[1] - scene[0] > cutting.max_seconds + 1e-6:
        count = math.ceil((scene[1] - scene[0]) / cutting.max_seconds - 1e-6)
        edges = np.linspace(*scene, count + 1).round(6).tolist()
        pieces = list(itertools.pairwise(edges))
    for part, (start, end) in enumerate(pieces):
        seconds = end - start
        if cutting.min_seconds is not None and seconds < cutting.min_seconds - 1e-6:
            reason = f"seconds {tables.cell(round(seconds, 3))} < {tables.number_text(cutting.min_seconds)}"
            plan.dropped.append((row, start, end, reason))
            continue
        plan.rows.append(row)
        suffix = f"-{part}" if len(pieces) > 1 else ""
        plan.clips.append(Clip(f"{name}{suffix}.mp4", start, end))
