"""A rerun that has nothing to score against pandas reading and writing the table: python -m benchmarks.rerun

The table has 100,000 rows and 10 columns, each row a file of its own (a hard link to one of a few
hundred pictures). Every row has its verdict already: once of a scorer that reads `text`, once of one
that reads the file at `path`. Peer: `pandas.read_csv` and `to_csv` of the same table. Targets: at
most 3 times its time, and at most 3 times the memory of the table as pandas reads it; here it is held as
text, which takes more. What code and libraries take once is not counted: a small table is done before.

Then a stage that has nothing to do at all, over a table of 300,000 rows and 20 columns: the same scorers, and a filter.
Peer: parsing that table once. Target: at most 1.5 times its time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks import _tables
from benchmarks._measure import MIB, flags, growth, machine, race, verdict
from benchmarks._scorers import FileBytes, TextLength
from clipsheet import tables
from clipsheet.engine.run import run_scorers
from clipsheet.options import RunOptions
from clipsheet.scorer import Scorer
from clipsheet.store.cells import COMPACT_FILES
from clipsheet.store.folder import Store
from clipsheet.store.locks import FOLDER
from clipsheet.store.rows import Rows
from pipeline.datasets.datautil import datautil
from pipeline.datasets.verbs import Verbs

COLUMNS = 10
SCORERS = (TextLength(), FileBytes())
PEER = "pandas read_csv + to_csv"
LARGE_COLUMNS = 20
PARSE = "one parse of the table"


def make_table(folder: Path, rows: int, files: int, columns: int = COLUMNS) -> Path:
    """A table whose paths are there: hard links to a few pictures."""
    pictures = folder / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for number in range(files):
        picture = rng.integers(0, 256, (16, 16 + number, 3), np.uint8)
        Image.fromarray(picture).save(pictures / f"{number}.png")
    header, *cells = _tables.rows(rows, columns)
    for number, row in enumerate(cells):
        row[0] = str(pictures / f"of_row_{number:06}.png")
        os.link(pictures / f"{number % files}.png", row[0])
    table = folder / "table.csv"
    tables.write(pd.DataFrame(cells, columns=header, dtype=tables.TEXT), table)
    return table


def fill_store(table: Path, scorer: Scorer) -> None:
    """Give every row its verdict, as so many runs would leave it that their files are put together."""
    keys = enumerate(Rows(tables.read(table)).keys(scorer.reads).to_pylist())
    for part in np.array_split(np.array([*keys], object), COMPACT_FILES):
        with Store(table.parent).cells(scorer).journal() as journal:
            for number, key in part:
                journal.scored(key, [str(number)])


def rerun(table: Path, scorer: Scorer) -> None:
    """Score a table that has all its verdicts, and was never written."""
    shutil.rmtree(table.parent / FOLDER / "receipts", ignore_errors=True)
    nothing_to_do(table, scorer)


def nothing_to_do(table: Path, scorer: Scorer) -> None:
    """Score a table that is as its last run left it."""
    status = run_scorers([str(table)], [scorer], RunOptions())
    assert status.exit_code == 0 and status.scored == status.rows_in, status


def peer(table: Path, output: Path) -> None:
    """Read and write by pandas, as its user would."""
    pd.read_csv(table).to_csv(output, index=False)


def prepare(folder: Path, rows: int, files: int) -> Path:
    """A table that all scorers are done with."""
    folder.mkdir()
    table = make_table(folder, rows, files)
    for scorer in SCORERS:
        fill_store(table, scorer)
        rerun(table, scorer)  # which puts the verdicts together, as every run does at its end
    return table


def measure(given: argparse.Namespace, folder: Path) -> None:
    """Run all ways and print time and memory over the peer's."""
    table = prepare(folder / "all", given.rows, given.files)
    few = prepare(folder / "few", COMPACT_FILES, given.files)
    out = folder / "pandas.csv"
    names = {f"rerun, scorer reads {scorer.reads[0]}": scorer for scorer in SCORERS}
    ways = {name: lambda scorer=scorer: rerun(table, scorer) for name, scorer in names.items()}
    seconds = race(given.repeat, {**ways, PEER: lambda: peer(table, out)})
    held = int(tables.read(table).memory_usage(deep=True).sum())
    by_pandas = int(pd.read_csv(table).memory_usage(deep=True).sum())
    passing = growth(peer, table, out, first=(few, out))
    print(
        f"  the table in memory: {held / MIB:.0f} MiB as text, {by_pandas / MIB:.0f} MiB as pandas reads it, "
        f"{passing / MIB:.0f} MiB while pandas reads and writes it"
    )
    for name, scorer in names.items():
        verdict(f"of pandas' time ({name})", seconds[name] / seconds[PEER], most=3)
        grown = growth(rerun, table, scorer, first=(few, scorer))
        verdict(f"of the table's memory ({name})", grown / by_pandas, most=3)
        print(f"{grown / held:.2f} of it as text, {grown / passing:.2f} of what pandas takes")


def measure_nothing(given: argparse.Namespace, folder: Path) -> None:
    """Run stages with nothing to do, and print their time over that of one parse of their table."""
    folder.mkdir()
    table = make_table(folder, given.large, given.files, LARGE_COLUMNS)
    for scorer in SCORERS:
        fill_store(table, scorer)
        rerun(table, scorer)
    verbs = Verbs(filter=("path != ''",))
    datautil([str(table)], verbs)
    ways: dict[str, Callable[[], object]] = {
        f"nothing to do, scorer reads {s.reads[0]}": partial(nothing_to_do, table, s) for s in SCORERS
    }
    ways["nothing to do, filter"] = partial(datautil, [str(table)], verbs)
    seconds = race(given.repeat, {**ways, PARSE: lambda: tables.read(table)})
    for name in ways:
        verdict(f"of one parse ({name})", seconds[name] / seconds[PARSE], most=1.5)


def main() -> None:
    """The program."""
    given = flags(__doc__ or "", rows=100_000, files=300, large=300_000)
    print(f"rerun: {given.rows} rows, {COLUMNS} columns, all scored")
    with tempfile.TemporaryDirectory() as folder:
        measure(given, Path(folder))
    print(f"rerun: {given.large} rows, {LARGE_COLUMNS} columns, nothing to do")
    with tempfile.TemporaryDirectory() as folder:
        measure_nothing(given, Path(folder) / "all")
    machine()


if __name__ == "__main__":
    main()
