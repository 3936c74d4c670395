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

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from captioning.captioner import Captioner
from clipsheet import tables
from clipsheet.cli import Parser, run_main
from clipsheet.engine.pool import Pool
from clipsheet.engine.watchdog import Watchdog
from clipsheet.errors import STORAGE_ERRNOS, CallError, MediaError, storing
from clipsheet.log import Progress
from clipsheet.options import GIB, RunOptions
from clipsheet.outcome import Status, recording
from clipsheet.scorer import Scorer
from clipsheet.store.cells import Cells
from clipsheet.store.folder import Store
from clipsheet.store.keys import row_keys
from clipsheet.store.locks import working_on
from pipeline.splitting import encoding
from pipeline.splitting.clip_names import claiming
from pipeline.splitting.clip_plan import ClipPlan, Drop, plan_again, plan_shots
from pipeline.splitting.cutter import Clip, CutJob, Cutting, Dropped, Made
from scoring.inference import SCORERS
from scoring.shots.audit import Audit
from scoring.shots.detection import SceneDetect, format_scenes

log = logging.getLogger(__name__)

CLIPS_PER_TASK = 32  # at most; a kill costs those of a task
FIRST_TASKS, LAST_TASKS = 4, 16  # per worker, if all were as long as the first, as the last

_Verdict = Made | Dropped | MediaError  # what becomes of a clip, kept in the store


AUDITED = ("path", "source_path", "clip_start", "foreign_frames", "inner_transitions", "clean_shots")


def cut(inputs: Sequence[str], cutting: Cutting, options: RunOptions) -> Status:
    """Cut the shots of a table into clips and write the table of the clips.

    Raises:
        CallError: no such encoder, table or `timestamp`.
        StorageError: the clips or the table cannot be written.
    """

    return _carry_out(inputs, cutting, options, "clips", ("path", "timestamp"), plan_shots)


def recut(inputs: Sequence[str], cutting: Cutting, options: RunOptions) -> Status:
    """Cut the clips of an audited table again that hold more than one shot.

    Raises:
        CallError: no such encoder or table, or a column of AUDITED is not there.
        StorageError: the clips or the table cannot be written.
    """
    return _carry_out(inputs, cutting, options, "recut", AUDITED, plan_again)


def _carry_out(
    inputs: Sequence[str],
    cutting: Cutting,
    options: RunOptions,
    suffix: str,
    columns: Sequence[str],
    make_plan: Callable[[pd.DataFrame, Cutting, dict[str, str]], ClipPlan],
) -> Status:
    if not cutting.save_dir:
        raise CallError("--save_dir is missing: the folder of the clips")
    encoder = "libx264" if cutting.encoder == "smart" else cutting.encoder
    if encoder not in ("copy", *encoding.encoders()):
        have = ", ".join(encoding.encoders()) or "none"
        raise CallError(f"--encoder {cutting.encoder}: the FFmpeg inside PyAV has {have}")
    paths = tables.expand(inputs)
    output = tables.output_path(paths, suffix, options.output)
    frame = tables.read(inputs, columns)
    with working_on(output), recording(Status(suffix, output, rows_in=len(frame))) as status:
        with storing(cutting.save_dir):
            os.makedirs(cutting.save_dir, exist_ok=True)
        with claiming(cutting.save_dir) as claims:
            plan = make_plan(frame, cutting, claims)
        sources = frame.assign(path=frame["source_path"]) if "source_path" in columns else frame
        cells = Store(output.parent).verdicts_of("cut", cutting.meaning, ("made",))
        results = _cut_all(sources, plan, cutting, options, cells)
        _write(frame, sources, plan, results, cutting, status)
        status.judge(options.max_failed)
        cells.compact()
    notes = Counter(result.note for result in results if isinstance(result, Made) and result.note)
    for note, count in notes.most_common():
        log.warning("%d of %d clips: %s", count, len(results), note)
    return status


def _cut_all(
    frame: pd.DataFrame, plan: ClipPlan, cutting: Cutting, options: RunOptions, cells: Cells
) -> list[_Verdict]:
    """One result per planned clip: from the store where the clip is still there, else newly cut."""
    sources = row_keys(frame, ("path",)).to_pylist()
    keys = [
        hashlib.blake2b(repr((sources[row], clip)).encode(), digest_size=12).hexdigest()
        for row, clip in zip(plan.rows, plan.clips, strict=True)
    ]
    results, tries = _known(cells, keys, plan.clips, options.retry_failed)
    todo: dict[str, int] = {}
    for number, key in enumerate(keys):
        if results[number] is None:
            todo.setdefault(key, number)
    if not todo:
        return results  # type: ignore[return-value]
    with cells.journal() as journal, Progress(len(todo), "cut", "clips") as progress:
        for numbers, made in _cut_in_workers(frame, plan, list(todo.values()), cutting, options):
            for number, result in zip(numbers, made, strict=True):
                if isinstance(result, OSError):
                    if result.errno in STORAGE_ERRNOS:
                        with storing(plan.clips[number].target):
                            raise result
                    result = MediaError("partial", str(result))
                key = keys[number]
                if isinstance(result, MediaError):
                    journal.failed(key, result, tries.get(key, 0) + 1)
                else:
                    journal.scored(key, [json.dumps(vars(result))])
                results[number] = result
            progress.step(len(numbers))
    by_key = {key: results[number] for key, number in todo.items()}
    return [r if r is not None else by_key[k] for r, k in zip(results, keys, strict=True)]  # type: ignore[misc]


def _known(
    cells: Cells, keys: list[str], clips: list[Clip], retry_failed: bool
) -> tuple[list[_Verdict | None], dict[str, int]]:
    verdicts = cells.load()
    at = verdicts.find(keys)
    final = verdicts.final(at, retry_failed=retry_failed)
    results: list[_Verdict | None] = [None] * len(keys)
    tries = {keys[i]: int(verdicts.tries[at[i]]) for i in np.flatnonzero((at >= 0) & ~final)}
    for number in np.flatnonzero(final):
        place = int(at[number])
        if code := verdicts.error[place].as_py():
            results[number] = MediaError(code, verdicts.detail[place].as_py())
            continue
        said = json.loads(verdicts.columns["made"][place].as_py())
        if "crop_ratio" in said:
            results[number] = Dropped(**said)
            continue
        made = Made(**said)
        try:
            status = os.stat(clips[number].target)
        except OSError:
            continue
        if (status.st_size, status.st_mtime_ns) == (made.size, made.mtime_ns):
            results[number] = made
    return results, tries


def _cut_in_workers(
    frame: pd.DataFrame, plan: ClipPlan, numbers: list[int], cutting: Cutting, options: RunOptions
) -> Iterator[tuple[list[int], list[Any]]]:
    """Cut some of the planned clips, those of one source together."""
    by_row: dict[int, list[int]] = {}
    for number in numbers:
        by_row.setdefault(plan.rows[number], []).append(number)
    workers = options.num_workers or os.cpu_count() or 1
    groups = _groups(list(by_row.values()), plan.clips, workers)
    paths = tables.text(frame, "path")
    tasks = ((tuple(some), (paths.iat[plan.rows[some[0]]], [plan.clips[n] for n in some])) for some in groups)
    with Watchdog(options.stall) as watchdog:
        pool = Pool(
            CutJob(cutting, options.root),
            max(1, min(len(groups), workers)),
            seconds=options.timeout,
            memory_bytes=int(options.worker_memory * GIB),
            heartbeat=watchdog.alive,
            lookahead=1,
        )
        for some, made in pool.map(tasks):
            yield list(some), [made] * len(some) if isinstance(made, MediaError) else made


def _groups(sources: Sequence[list[int]], clips: Sequence[Clip], workers: int) -> list[list[int]]:
    """The clips of each source in groups, each for one worker.

    So that no worker is at work for long when nothing is left for the others, groups get shorter and shorter
    (guided self-scheduling: Polychronopoulos and Kuck, IEEE Trans. Computers C-36, 1987), and of the shortest, at
    the end, the longest is taken next (Graham, SIAM J. Appl. Math. 17, 1969). Before them, the groups of a source
    follow each other, which each read all of it.
    """
    lengths = [clip.end - clip.start for clip in clips]
    left = sum(lengths[n] for some in sources for n in some)
    shortest, longest = (left / (workers * tasks) for tasks in (LAST_TASKS, FIRST_TASKS))
    groups: list[list[int]] = []
    last: list[list[int]] = []
    for some in sources:
        group: list[int] = []
        taken = room = 0.0  # seconds
        for n in some:
            if not group or taken + lengths[n] / 2 > room or len(group) == CLIPS_PER_TASK:
                room, taken, group = min(longest, max(shortest, left / (2 * workers))), 0.0, []
                (groups if room > shortest else last).append(group)
            group.append(n)
            taken += lengths[n]
            left -= lengths[n]
    return groups + sorted(last, key=lambda group: -sum(lengths[n] for n in group))


def _write(
    frame: pd.DataFrame,
    sources: pd.DataFrame,
    plan: ClipPlan,
    results: list[_Verdict],
    cutting: Cutting,
    status: Status,
) -> None:
    good = [n for n, result in enumerate(results) if isinstance(result, Made)]
    order = sorted([*((plan.rows[n], n) for n in good), *((row, -1) for row in plan.pictures)])
    clips = sources.iloc[[row for row, _ in order]].reset_index(drop=True)
    made = [(plan.clips[n], results[n]) if n >= 0 else None for _, n in order]
    _describe(clips, tables.text(clips, "path").tolist(), made, cutting)
    if plan.as_they_are:
        rows = [*(row for row, _ in order), *plan.as_they_are]
        clips = tables.concatenate([clips, frame.iloc[plan.as_they_are]])
        clips = clips.iloc[np.argsort(rows, kind="stable")].reset_index(drop=True)
    tables.write(clips, status.output)
    drops = _drops(plan, results, cutting)
    dropped = frame.iloc[[row for row, *_ in drops]].reset_index(drop=True)
    _add_known(dropped, "clip_start", [s for _, s, _, _ in drops])
    _add_known(dropped, "clip_end", [e for _, _, e, _ in drops])
    _add(dropped, "reason", [r for *_, r in drops])
    tables.write_sidecar(dropped, status.output, "dropped")
    bad = [(plan.rows[n], plan.clips[n], r) for n, r in enumerate(results) if isinstance(r, MediaError)]
    failures = [*((row, None, error) for row, error in plan.failed), *bad]
    failed = frame.iloc[[row for row, *_ in failures]].reset_index(drop=True)
    _add_known(failed, "clip_start", [c and c.start for _, c, _ in failures])
    _add_known(failed, "clip_end", [c and c.end for _, c, _ in failures])
    _add(failed, "scorer", ["cut"] * len(failures))
    _add(failed, "code", [error.code for *_, error in failures])
    _add(failed, "detail", [error.detail for *_, error in failures])
    tables.write_sidecar(failed, status.output, "failed")
    status.rows_out = status.scored = len(clips)
    status.failed_rows = len(failures)
    status.failed = dict(Counter(f"cut: {e.code}" for *_, e in failures).most_common())
    told = (r.split(" ")[0] + " < " + r.split("< ")[1] if "< " in r else r for *_, r in drops)
    status.dropped = dict(Counter(told).most_common())


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
    scorers: tuple[type[Scorer], ...] = (*SCORERS.values(), SceneDetect, Audit, Captioner)
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
    parser.add_fields(Cutting, "clips")
    without = ("bs", "use_cpu", "skip_if_existing", "pretrained_models", "reader")
    parser.add_fields(RunOptions, "how it is run", without=without)
    given = parser.parse_args()
    program = recut if given.recut else cut
    run_main(lambda: program(given.meta, parser.take(Cutting, given), parser.take(RunOptions, given)))


if __name__ == "__main__":  # run as the module that it is: workers know its classes by that name
    from pipeline.splitting.cut import main as program

    program()
