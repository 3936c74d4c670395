"""Run a whole pipeline: python -m script.pipeline_runner config/quickstart.yaml

Each stage reads the table that the one before it wrote, from the disk, so tables may be edited by hand
in between: a table that was edited since its stage wrote it is kept as it is, as long as the stage
would write the same as before. A finished run does no work again; a killed one goes on where it was.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
import logging
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clipsheet import config, errors, places, tables
from clipsheet.cli import Parser, guarded, run_main
from clipsheet.engine import launch, run
from clipsheet.errors import CallError, ClipsheetError, Stopped
from clipsheet.options import RunOptions
from clipsheet.outcome import Status, recording
from clipsheet.scorer import Scorer, provenance
from clipsheet.store.folder import Store
from clipsheet.store.locks import FOLDER, working_on
from clipsheet.store.rows import Rows
from script.plan import Plan, part, plan
from script.stages import Stage, groups

log = logging.getLogger(__name__)

PACKAGES = (
    "torch transformers accelerate numpy pandas pyarrow av opencv-python-headless scenedetect-headless "
    "imagededup rapidocr onnxruntime faiss-cpu"
).split()


class Record:
    """What each stage wrote from what, to tell a table that was edited from one that is out of date."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FOLDER / "stages.json"
        try:
            kept = json.loads(self._path.read_text())
        except (OSError, ValueError):
            kept = {}
        self._sums: dict[str, tuple[list[int], str]] = kept.pop("sums", {})
        self._entries: dict[str, dict[str, Any]] = kept

    def is_edited(self, made_by: str, source: Path, output: Path) -> bool:
        """Whether a user changed the output since, while `made_by` would write the same again."""
        entry = self._entries.get(str(output))
        if entry is None or entry["output"] is None or not output.is_file():
            return False
        if self._sha256(output) == entry["output"]:
            return False
        if entry["input"] == self._sha256(source) and entry["stage"] == made_by:
            return True
        aside = _aside(output)
        log.warning("%s was edited by hand and is out of date: kept as %s, made again", output, aside)
        shutil.copyfile(output, aside)
        return False

    def is_current(self, made_by: str, source: Path, output: Path) -> bool:
        """Whether `made_by` wrote the output from the source as both are."""
        entry = {"stage": made_by, "input": self._sha256(source), "output": self._sha256(output)}
        return self._entries.get(str(output)) == entry

    def begin(self, made_by: str, source: Path, output: Path) -> None:
        """The output is about to be written."""
        self._keep(made_by, source, output, None)

    def done(self, made_by: str, source: Path, output: Path) -> None:
        """The output has been written."""
        self._keep(made_by, source, output, self._sha256(output))

    def _keep(self, made_by: str, source: Path, output: Path, sha256: str | None) -> None:
        entry = {"stage": made_by, "input": self._sha256(source), "output": sha256}
        if self._entries.get(str(output)) == entry:
            return
        self._entries[str(output)] = entry
        with places.replacing(self._path) as file:
            file.write(json.dumps({**self._entries, "sums": self._sums}, indent=1).encode())

    def _sha256(self, path: Path) -> str:
        """Of a table, which is read only if it is not the file that it was."""
        if not path.is_file():
            return ""
        stamp = list(places.stamp(path))
        known = self._sums.get(str(path))
        if known is not None and known[0] == stamp:
            return known[1]
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        self._sums[str(path)] = stamp, found
        return found


def _described(stage: Stage, models: Path) -> str:
    made_by = [provenance(scorer, models) for scorer in stage.scorers]
    return json.dumps([stage.name, dict(stage.parameters), made_by], default=str, sort_keys=True)


def _aside(output: Path) -> Path:
    number = 1
    while (path := output.with_name(f"{output.stem}.edited-{number}{output.suffix}")).exists():
        number += 1
    return path


# --- running -----------------------------------------------------------------------------------


def carry_out(wanted: Plan, *, whole: bool) -> Status:
    """Run the stages of a plan.

    Args:
        whole: the plan goes to its end, so that the final table is written.

    Raises:
        CallError: weights, packages or inputs are missing.
        ClipsheetError: a stage could not be done; those after it are not begun.
    """
    if missing := wanted.missing():
        raise CallError("; ".join(missing))
    for note in wanted.skipped:
        log.info("skipped: %s", note)
    final = wanted.paths.final
    status = Status("pipeline", final)
    done: list[dict[str, Any]] = []
    with working_on(final), recording(status):
        record = Record(wanted.paths.meta)
        try:
            _run_stages(wanted, record, done, status)
        finally:
            _write_run_json(wanted, done)
            if done:
                print(funnel(done), flush=True)
        if whole and not status.exit_code:
            _write_final(wanted.outputs[-1], final, record)
    return status


def _run_stages(wanted: Plan, record: Record, done: list[dict[str, Any]], status: Status) -> None:
    """Run one stage after another, up to one that fails."""
    places = iter(zip(wanted.stages, wanted.inputs, wanted.outputs, strict=True))
    for group in groups(wanted.stages):
        ahead = list(itertools.islice(places, len(group)))
        facts = [_nothing_to_do(*place, record, wanted) for place in ahead]
        for number, (stage, source, output) in enumerate(ahead):
            if all(facts):
                pass
            elif wanted.options.share_pass:
                done += score_ahead(group if number == 0 else [], source, wanted)
            else:
                done += score_ahead([stage], source, wanted)
            try:
                done.append(
                    _run_stage(stage, source, output, record, wanted, facts[number] if all(facts) else None)
                )
            except (ClipsheetError, Stopped) as error:
                failed = Status(stage.name, output, exit_code=error.exit_code, message=str(error))
                done.append(_entry(stage, source, failed, wanted))
                raise
            _write_run_json(wanted, done)
            status.rows_in = status.rows_in or done[-1]["rows_in"]
            status.rows_out = done[-1]["rows_out"]
            if done[-1]["exit"]:
                status.exit_code, status.message = done[-1]["exit"], f"{stage.name}: {done[-1]['message']}"
                return


def _nothing_to_do(
    stage: Stage, source: Path, output: Path, record: Record, wanted: Plan
) -> dict[str, Any] | None:
    """The counts of a stage whose table needs no work; None where the stage must run."""
    receipt = stage.receipt(source, output, _run_options(wanted))
    made_by = _described(stage, wanted.options.models)
    return receipt.recall() if receipt is not None and record.is_current(made_by, source, output) else None


def _run_options(wanted: Plan) -> RunOptions:
    return RunOptions(**{f: getattr(wanted.options, f) for f in RunOptions.__dataclass_fields__})


def _write_final(last: Path, final: Path, record: Record) -> None:
    """The last table under the name that it always has, unless a user edited it since."""
    made_by = "the last table"
    if record.is_current(made_by, last, final):
        return
    if record.is_edited(made_by, last, final):
        log.info("%s was edited by hand and is kept; delete it to have it made anew", final)
        return
    record.begin(made_by, last, final)
    tables.write(tables.read([last], ()), final)
    record.done(made_by, last, final)


def _run_stage(
    stage: Stage, source: Path, output: Path, record: Record, wanted: Plan, facts: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Run a stage, or repeat what was said of it where there is nothing to do."""
    options = _run_options(wanted)
    made_by = _described(stage, wanted.options.models)
    if facts is not None:
        status = stage.repeated(output, facts, options)
        log.info("%s", status.line())
    elif record.is_edited(made_by, source, output):
        log.info("%s: %s was edited by hand and is kept; delete it to have it made anew", stage.name, output)
        status = Status(stage.name, output, message="edited by hand: kept")
        status.rows_in, status.hours_in = _rows_and_hours(source)
        status.rows_out, status.hours_out = _rows_and_hours(output)
    else:
        record.begin(made_by, source, output)
        status = stage.run(source, output, options)
        log.info("%s", status.line())
        record.done(made_by, source, output)
    return _entry(stage, source, status, wanted)


def _entry(stage: Stage, source: Path, status: Status, wanted: Plan) -> dict[str, Any]:
    """What run.json says of a stage."""
    return {
        "stage": stage.name,
        "input": str(source) if source.name else wanted.paths.video,
        "output": str(status.output),
        "rows_in": status.rows_in,
        "rows_out": None if status.exit_code and not status.rows_out else status.rows_out,
        "hours_in": status.hours_in,
        "hours_out": status.hours_out,
        "failed_rows": status.failed_rows,
        "failed": status.failed,
        "dropped": status.dropped,
        "seconds": round(status.seconds, 3),
        "parameters": dict(stage.parameters),
        "made_by": [provenance(scorer, wanted.options.models) for scorer in stage.scorers],
        "exit": status.exit_code,
        "message": status.message,
    }


def score_ahead(group: Sequence[Stage], source: Path, wanted: Plan) -> list[dict[str, Any]]:
    """Score a table for all stages of a group at once, in one process or many: every file is decoded once.

    The verdicts go to the store, from which each stage then writes its own table.

    Returns:
        What run.json says of it; nothing where the stage does as well by itself.
    """
    began = time.monotonic()
    if not source.is_file() or not group:
        return []
    columns = set(tables.header(source))
    scorers = [s for stage in group for s in stage.scorers if set(s.reads) <= columns]
    processes = _processes(group, wanted)
    if not scorers or (len(scorers) == 1 and processes == 1):
        return []
    sizes = [stage.how["bs"] for stage in group if "bs" in stage.how]
    given = {f: getattr(wanted.options, f) for f in RunOptions.__dataclass_fields__}
    options = RunOptions(**given | {"bs": min(sizes, default=wanted.options.bs)})
    folder = wanted.paths.meta
    if processes == 1:
        score_shared(source, scorers, folder, options)
    else:
        codes = launch.launch(guarded_share, source, scorers, folder, options, processes=processes)
        if any(codes):
            log.warning("shared pass: processes ended with %s; what is missing is done by each stage", codes)
    rows, hours = _rows_and_hours(source)
    names = " ".join(scorer.name for scorer in scorers)
    return [
        {
            "stage": "shared_pass", "input": str(source), "output": "", "rows_in": rows, "rows_out": rows,
            "hours_in": hours, "hours_out": hours, "failed_rows": 0, "failed": {}, "dropped": {},
            "seconds": round(time.monotonic() - began, 3), "parameters": {},
            "made_by": [provenance(scorer, wanted.options.models) for scorer in scorers], "exit": errors.OK,
            "message": f"every file decoded once for {names}",
        }
    ]  # fmt: skip


def score_shared(source: Path, scorers: list[Scorer], folder: Path, options: RunOptions) -> None:
    """One process's part of a shared pass."""
    names = " ".join(scorer.name for scorer in scorers)
    rank = launch.Rank.from_environment()
    store = Store(folder, options.reader, options.models)
    run.compute(Rows(tables.read(source, ())), scorers, options, store, rank, names)


def guarded_share(source: Path, scorers: list[Scorer], folder: Path, options: RunOptions) -> int:
    """score_shared() as a program."""
    return guarded(lambda: score_shared(source, scorers, folder, options))


def _processes(group: Sequence[Stage], wanted: Plan) -> int:
    """As many as the config says, but no more than GPUs where the number is the ancestors' worker_num."""
    if wanted.options.processes:
        return wanted.options.processes
    if wanted.options.use_cpu or not any(s.on_gpu for stage in group for s in stage.scorers):
        return 1
    import torch

    asked = max((stage.processes or 1 for stage in group), default=1)
    return max(1, min(asked, torch.accelerator.device_count()))


def _rows_and_hours(table: Path) -> tuple[int, float | None]:
    """Rows of a table, and their length where it is known."""
    frame = tables.read(table, ()) if table.is_file() else None
    return (0, None) if frame is None else (len(frame), tables.hours(frame))


def _write_run_json(wanted: Plan, done: list[dict[str, Any]]) -> None:
    folder = wanted.paths.meta
    versions = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = ""
    paths = {"video": wanted.paths.video, "clips": wanted.paths.clips, "meta": str(folder)}
    entry = {"paths": paths, "options": asdict(wanted.options), "versions": versions, "stages": done}
    with places.replacing(folder / "run.json") as file:
        file.write(json.dumps(entry, indent=2, default=str).encode() + b"\n")


# --- what is shown -----------------------------------------------------------------------------


def funnel(done: Sequence[dict[str, Any]]) -> str:
    """What became of the rows, stage by stage, as a table of text."""
    header = ("stage", "rows in", "rows out", "hours in", "hours out", "failed", "seconds", "dropped by")
    lines = [header]
    for entry in done:
        dropped = ", ".join(f"{n} {reason}" for reason, n in entry["dropped"].items())
        failed = ", ".join(f"{n} {code}" for code, n in entry["failed"].items())
        lines.append(
            (
                entry["stage"], str(entry["rows_in"]), _shown(entry["rows_out"]), _hours(entry["hours_in"]),
                _hours(entry["hours_out"]), str(entry["failed_rows"]), f"{entry['seconds']:.1f}",
                "; ".join(part for part in (dropped, failed and f"failed: {failed}", entry["message"]) if part),
            )
        )  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    right = range(1, len(header) - 1)
    rows = (
        "  ".join(
            c.rjust(w) if i in right else c.ljust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
    return "\n".join(row.rstrip() for row in rows)


def _shown(value: int | None) -> str:
    return "-" if value is None else str(value)


def _hours(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def shown_plan(wanted: Plan) -> str:
    """The plan as text, for --dry_run."""
    lines = []
    for stage, source, output in zip(wanted.stages, wanted.inputs, wanted.outputs, strict=True):
        parameters = ", ".join(
            f"{k}={v}" for k, v in stage.parameters.items() if v not in (None, False, "", ())
        )
        lines.append(f"{stage.name}: {source if source.name else wanted.paths.video} -> {output}")
        lines.append(f"    {parameters}")
    lines += [f"skipped: {note}" for note in wanted.skipped]
    lines += [f"missing: {what}" for what in wanted.missing()] or ["nothing is missing"]
    return "\n".join(lines)


def main() -> None:
    """The program."""
    parser = Parser(__doc__ or "")
    parser.add_argument("config", help=".yaml or .json")
    parser.add_argument("--dry_run", action="store_true", help="show the plan and what is missing")
    parser.add_argument("--from", dest="first", default="", metavar="STAGE", help="begin there")
    parser.add_argument("--until", dest="last", default="", metavar="STAGE", help="end after it")
    parser.add_argument("--only", default="", metavar="STAGE", help="run this one alone")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="put over the config: --set paths.ROOT_VIDEO=/data options.bs=32",
    )  # fmt: skip
    given = parser.parse_args()

    def program() -> Status | int:
        if launch.Rank.from_environment().world > 1:
            raise CallError(
                "a pipeline starts processes of its own: run it once, with --set options.processes=N"
            )
        whole = plan(config.load(given.config, given.set), given.config)
        chosen = part(whole, given.only or given.first, given.only or given.last)
        if given.dry_run:
            print(shown_plan(chosen))
            return errors.WRONG_CALL if chosen.missing() else errors.OK
        return carry_out(chosen, whole=chosen.outputs[-1] == whole.outputs[-1])

    run_main(program)


if __name__ == "__main__":  # run as the module that it is: other processes know its functions by that name
    from script.pipeline_runner import main as program

    program()
