"""Tables of Parquet parts at growing sizes: python -m benchmarks.parts --rows 10000000

A table of 20 columns in parts of 100,000 rows is filtered by a bound (`datautil --aesmin`), and scored by a scorer
whose cells are all kept already, each in a fresh process, at a fourth, a half and all of the rows. Targets: under
2 GiB of memory, and a time that grows with the rows: seconds per row at the largest size at most 1.3 times those at
the smallest.
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks._measure import MIB, flags, machine, memory, verdict
from benchmarks._scorers import TextLength
from clipsheet import tables
from clipsheet.engine.run import run_scorers
from clipsheet.options import RunOptions
from clipsheet.outcome import Status
from clipsheet.store.folder import Store, store_of
from clipsheet.store.rows import Rows
from pipeline.datasets.datautil import datautil
from pipeline.datasets.verbs import Verbs

PART_ROWS = 100_000
COLUMNS = 20
GIB = 1 << 30


def make_part(path: Path, first: int, rows: int) -> None:
    """A part with `path`, `text`, `aes` and numbers."""
    rng = np.random.default_rng(first)
    numbers = range(first, first + rows)
    columns: dict[str, object] = {
        "path": [f"/data/clips/part_{n % 997:03}/video_{n:08}.mp4" for n in numbers],
        "text": [f"a ferry leaves the harbour at dusk {n}" for n in numbers],
        "aes": rng.uniform(3, 7, rows),
    }
    columns |= {f"number_{n}": rng.random(rows) for n in range(COLUMNS - len(columns))}
    pq.write_table(pa.table(columns), path)


def keep_cells(part: Path, output: Path) -> None:
    """The verdict of every row of a part, as a run that has ended long ago leaves it."""
    scorer = TextLength()
    keys = Rows(tables.read(part)).keys(scorer.reads)
    cells = Store(store_of(output)).cells(scorer)
    cells.folder.mkdir(parents=True)
    text, whole = pa.large_string(), pa.int64()
    none = pa.nulls(len(keys), text)
    lengths = pa.array(["37"] * len(keys), text)
    columns = {
        "_key": keys,
        "_error": none,
        "_detail": none,
        "_tries": pa.nulls(len(keys), whole),
        "_began": none,
    }
    pq.write_table(pa.table({**columns, scorer.columns[0].name: lengths}), cells.folder / "cells.parquet")


def make_table(folder: Path, rows: int) -> Path:
    """The table, and what is kept of its scores."""
    table, scored = folder / "meta.parquet", folder / f"meta_{TextLength().suffix}.parquet"
    table.mkdir(parents=True)
    for number, first in enumerate(range(0, rows, PART_ROWS)):
        part = table / f"part-{number:05}.parquet"
        make_part(part, first, min(PART_ROWS, rows - first))
        keep_cells(part, scored / part.name)
    return table


def filter_table(table: Path) -> Status:
    """A filter step."""
    return datautil([str(table)], Verbs(aesmin=4.5))


def score_table(table: Path) -> Status:
    """A scorer that has nothing to score, but a table to write."""
    status = run_scorers([str(table)], [TextLength()], RunOptions())
    assert status.scored == status.rows_in, status
    return status


def _measured(work: Callable[[Path], Status], table: Path) -> tuple[float, int]:
    began = time.perf_counter()
    work(table)
    return time.perf_counter() - began, memory("VmHWM")


def main() -> None:
    """The program."""
    given = flags(__doc__ or "", rows=10_000_000)
    sizes = [given.rows // 4, given.rows // 2, given.rows]
    works: dict[str, Callable[[Path], Status]] = {"filter": filter_table, "score": score_table}
    paces: dict[str, list[float]] = {name: [] for name in works}
    for rows in sizes:
        folder = Path(tempfile.mkdtemp(prefix="parts-"))
        try:
            table = make_table(folder, rows)
            for name, work in works.items():
                with multiprocessing.get_context("spawn").Pool(1) as fresh:
                    seconds, peak = fresh.apply(_measured, (work, table))
                paces[name].append(seconds / rows)
                print(f"  {name:8}{rows:12} rows {seconds:8.1f} s {peak / MIB:8.0f} MiB")
                if rows == sizes[-1]:
                    verdict(f"GiB of memory ({name})", peak / GIB, most=2)
        finally:
            shutil.rmtree(folder)
    for name, pace in paces.items():
        verdict(f"times the seconds per row of the smallest size ({name})", pace[-1] / pace[0], most=1.3)
    machine()


if __name__ == "__main__":
    main()
