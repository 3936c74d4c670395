"""Cut the shots of videos into clips: python -m pipeline.splitting.cut META --save_dir DIR

Reads `timestamp`, writes DIR/<relpath dir>/<stem>_scene-<i>.mp4 and `<table>_clips`: one row per clip with
the columns of its source, `source_path`, `clip_start` and `clip_end` (seconds). A clip appears under its
name only when it is whole: it is written aside, its frames are counted against the plan, then renamed.
Scenes of one source in several rows are numbered on from row to row. DIR/.clipsheet/claims.json keeps which
source has which <stem>, so that no table cut into DIR overwrites clips of another source: those are
called <stem>_<hash>.
Columns that describe a file (its size, its scores) are empty in the clips' rows: a clip is another file.
What is too short, or with --crop_borders keeps too little of its picture, stands in `<table>_clips_dropped`, what
cannot be cut in `<table>_clips_failed`.

With --recut META is a table of clips that were audited, and `<table>_recut` is written: clips that hold more
than one shot are cut again, from their sources, into <clip>_shot-<i>.mp4; all others stay as they are.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from captioning.captioner import Captioner
from clipsheet import tables
from clipsheet.cli import Parser, run_main
from clipsheet.engine.steps import run_step
from clipsheet.errors import CallError, MediaError, storing
from clipsheet.options import RankOptions, RunOptions
from clipsheet.scorer import Scorer
from clipsheet.step import Desk, Outcome, Step
from clipsheet.store.rows import Rows
from pipeline.splitting import encoding
from pipeline.splitting.clip_names import claiming
from pipeline.splitting.clip_plan import ClipPlan, Drop, plan_again, plan_shots
from pipeline.splitting.cutter import Clip, CutJob, Cutting, Dropped, Made
from scoring.catalog import SCORERS
from scoring.shots.detection import format_scenes

_Verdict = Made | Dropped | MediaError | None  # what becomes of a clip; None as long as that is not known


@dataclass(frozen=True)
class Cut(Cutting, Step):
    """Clips of the shots in `timestamp`."""

    name: ClassVar[str] = "clips"
    reads: ClassVar[tuple[str, ...]] = ("path", "timestamp")
    gives: ClassVar[tuple[str, ...]] = ("source_path", "clip_start", "clip_end")
    writes_files: ClassVar[bool] = True
    without: ClassVar[tuple[str, ...]] = (*Step.without, "reader")

    def check(self) -> None:
        if not self.save_dir:
            raise CallError("--save_dir is missing: the folder of the clips")
        encoder = "libx264" if self.encoder == "smart" else self.encoder
        if encoder not in ("copy", *encoding.encoders()):
            have = ", ".join(encoding.encoders()) or "none"
            raise CallError(f"--encoder {self.encoder}: the FFmpeg inside PyAV has {have}")

    def plan(self, frame: pd.DataFrame, cutting: Cutting, claims: dict[str, str]) -> ClipPlan:
        """Which clips there are to be."""
        return plan_shots(frame, cutting, claims)

    def sources(self, rows: Rows) -> Rows:
        """The rows with the files that the clips come from as `path`."""
        return rows

    def carry_out(self, rows: Rows, desk: Desk) -> Outcome:
        cutting = Cutting(**vars(self))
        with storing(cutting.save_dir):
            os.makedirs(cutting.save_dir, exist_ok=True)
        with claiming(cutting.save_dir) as claims:
            plan = self.plan(rows.frame, cutting, claims)
        sources = self.sources(rows)
        results = desk.map_files(
            sources, list(zip(plan.rows, plan.clips, strict=True)), CutJob(cutting, desk.options.root),
            cutting.meaning, kind="cut", results=(Made, Dropped),
        )  # fmt: skip
        return _outcome(rows.frame, sources.frame, plan, results, cutting)


@dataclass(frozen=True)
class Recut(Cut):
    """Clips that hold more than one shot, cut again from their sources."""

    name: ClassVar[str] = "recut"
    reads: ClassVar[tuple[str, ...]] = (
        "path", "source_path", "clip_start", "foreign_frames", "inner_transitions", "clean_shots",
    )  # fmt: skip
    gives: ClassVar[tuple[str, ...]] = ()

    def plan(self, frame: pd.DataFrame, cutting: Cutting, claims: dict[str, str]) -> ClipPlan:
        return plan_again(frame, cutting, claims)

    def sources(self, rows: Rows) -> Rows:
        return Rows(rows.frame.assign(path=rows.frame["source_path"]))


def _outcome(
    frame: pd.DataFrame,
    sources: pd.DataFrame,
    plan: ClipPlan,
    results: Sequence[_Verdict],
    cutting: Cutting,
) -> Outcome:
    """The rows of the clips, of what was dropped and of what failed."""
    drops = _drops(plan, results, cutting)
    dropped = frame.iloc[[row for row, *_ in drops]].reset_index(drop=True)
    _add_known(dropped, "clip_start", [s for _, s, _, _ in drops])
    _add_known(dropped, "clip_end", [e for _, _, e, _ in drops])
    _add(dropped, "reason", [r for *_, r in drops])
    told = (r.split(" ")[0] + " < " + r.split("< ")[1] if "< " in r else r for *_, r in drops)
    notes = Counter(result.note for result in results if isinstance(result, Made) and result.note)
    return Outcome(
        _clips(frame, sources, plan, results, cutting),
        dropped,
        _failed(frame, plan, results),
        dict(Counter(told).most_common()),
        notes=[f"{count} of {len(results)} clips: {note}" for note, count in notes.most_common()],
    )


def _clips(
    frame: pd.DataFrame,
    sources: pd.DataFrame,
    plan: ClipPlan,
    results: Sequence[_Verdict],
    cutting: Cutting,
) -> pd.DataFrame:
    good = [n for n, result in enumerate(results) if isinstance(result, Made)]
    order = sorted([*((plan.rows[n], n) for n in good), *((row, -1) for row in plan.pictures)])
    clips = sources.iloc[[row for row, _ in order]].reset_index(drop=True)
    made = [(plan.clips[n], results[n]) if n >= 0 else None for _, n in order]
    _describe(clips, tables.text(clips, "path").tolist(), made, cutting)
    if plan.as_they_are:
        rows = [*(row for row, _ in order), *plan.as_they_are]
        clips = tables.concatenate([clips, frame.iloc[plan.as_they_are]])
        clips = clips.iloc[np.argsort(rows, kind="stable")].reset_index(drop=True)
    return clips


def _failed(frame: pd.DataFrame, plan: ClipPlan, results: Sequence[_Verdict]) -> pd.DataFrame:
    bad = [(plan.rows[n], plan.clips[n], r) for n, r in enumerate(results) if isinstance(r, MediaError)]
    failures: list[tuple[int, Clip | None, MediaError]] = [
        *((row, None, error) for row, error in plan.failed), *bad,
    ]  # fmt: skip
    failed = frame.iloc[[row for row, *_ in failures]].reset_index(drop=True)
    _add_known(failed, "clip_start", [c and c.start for _, c, _ in failures])
    _add_known(failed, "clip_end", [c and c.end for _, c, _ in failures])
    _add(failed, "scorer", ["cut"] * len(failures))
    _add(failed, "code", [error.code for *_, error in failures])
    _add(failed, "detail", [error.detail for *_, error in failures])
    return failed


def _drops(plan: ClipPlan, results: Sequence[_Verdict], cutting: Cutting) -> list[Drop]:
    """What was dropped before and while clips were cut, in the order of the table."""
    least = tables.number_text(cutting.min_crop_ratio)
    cropped = [
        (row, clip.start, clip.end, f"crop_ratio {tables.cell(result.crop_ratio)} < {least}")
        for row, clip, result in zip(plan.rows, plan.clips, results, strict=True)
        if isinstance(result, Dropped)
    ]
    return sorted([*plan.dropped, *cropped], key=lambda drop: drop[0])


def _describe(clips: pd.DataFrame, sources: list[str], made: list[Any], cutting: Cutting) -> None:
    """Turn the rows of sources into those of their clips."""
    scorers: tuple[type[Scorer], ...] = (*SCORERS.values(), Captioner)
    for column in clips.columns:
        measured = column in ("error", "filesize") or any(s.writes(column) for s in scorers)
        if measured and column != "text":  # which may be the user's own
            _add(clips, column, [""] * len(clips))
    targets = [clip.target if clip else source for clip, source in
               zip((m and m[0] for m in made), sources, strict=True)]  # fmt: skip
    relpaths = [
        os.path.relpath(t, cutting.save_dir) if m else None for t, m in zip(targets, made, strict=True)
    ]
    _add(clips, "path", targets)
    if "id" in clips.columns:
        _add(clips, "id", [Path(t).stem for t in targets])
    if "relpath" in clips.columns:
        old = tables.text(clips, "relpath").tolist()
        _add(clips, "relpath", [r if r is not None else o for r, o in zip(relpaths, old, strict=True)])
    _add(clips, "timestamp", [format_scenes([(m[1].start, m[1].end)]) if m else "[]" for m in made])
    _add(clips, "source_path", sources)
    _add(clips, "clip_start", [round(m[1].start, 6) if m else None for m in made])
    _add(clips, "clip_end", [round(m[1].end, 6) if m else None for m in made])
    if cutting.crop_borders:
        for place, column in enumerate(("crop_x", "crop_y", "crop_w", "crop_h")):
            _add(clips, column, [m[1].crop[place] if m and m[1].crop else None for m in made])


def _add(frame: pd.DataFrame, column: str, values: Sequence[object]) -> None:
    frame[column] = tables.text_column([tables.cell(value) for value in values], frame)


def _add_known(frame: pd.DataFrame, column: str, values: Sequence[object]) -> None:
    """As _add(); where there is no value, what stands in the column stays."""
    old = tables.text(frame, column).tolist() if column in frame.columns else [None] * len(frame)
    _add(frame, column, [o if v is None else v for v, o in zip(values, old, strict=True)])


def main() -> None:
    """The program."""
    parser = Parser(__doc__ or "")
    parser.add_argument("meta", nargs="+", help="table(s) with `path` and `timestamp`: .csv or .parquet")
    parser.add_argument("--recut", action="store_true", help="META is an audited table of clips: cut again what "
        "holds more than one shot")  # fmt: skip
    parser.add_fields(Cut, "clips")
    parser.add_fields(RunOptions, "how it is run", without=Cut.without)
    parser.add_fields(RankOptions, "many processes")
    given = parser.parse_args()
    step: type[Cut] = Recut if given.recut else Cut
    run_main(
        lambda: run_step(
            given.meta, parser.take(step, given), parser.take(RunOptions, given), parser.share(given)
        )
    )


if __name__ == "__main__":
    main()
