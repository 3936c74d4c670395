"""Reading and writing a table against pandas' default engine: python -m benchmarks.tables

A million rows of 20 columns (paths, captions with quotes, commas and line breaks, floats, integers,
empty cells) are read and written by `clipsheet.tables`, and by `pandas.read_csv` and `to_csv`. What
`clipsheet.tables` wrote is then compared with what it read, cell by cell, by Python's csv module.
Target: at least 3 times as fast. The memory is told beside it.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from itertools import zip_longest
from pathlib import Path

import pandas as pd

from benchmarks import _tables
from benchmarks._measure import MIB, flags, growth, machine, race, verdict
from clipsheet import tables


def ours(table: Path, output: Path) -> None:
    """Read and write by clipsheet.tables."""
    tables.write(tables.read(table), output)


def peer(table: Path, output: Path) -> None:
    """Read and write by pandas, as its user would."""
    pd.read_csv(table).to_csv(output, index=False)


def check_equal(table: Path, output: Path) -> None:
    """Raise AssertionError unless both tables hold the same cells."""
    with open(table, encoding="utf-8", newline="") as one, open(output, encoding="utf-8", newline="") as two:
        pairs = zip_longest(csv.reader(one, strict=True), csv.reader(two, strict=True))
        for number, (read, written) in enumerate(pairs):
            assert read == written, f"record {number}: {read} became {written}"


def measure(given: argparse.Namespace, folder: Path) -> None:
    """Run both ways, check ours, and print times and memory."""
    table = _tables.write(folder / "table.csv", given.rows, given.columns)
    output, other = folder / "ours.csv", folder / "pandas.csv"
    print(f"tables: {given.rows} rows, {given.columns} columns, {table.stat().st_size / MIB:.0f} MiB")
    seconds = race(
        given.repeat,
        {
            "clipsheet.tables read + write": lambda: ours(table, output),
            "pandas read_csv + to_csv": lambda: peer(table, other),
        },
    )
    check_equal(table, output)
    ours_seconds, peer_seconds = seconds.values()
    verdict("times as fast as pandas", peer_seconds / ours_seconds, least=3)
    few = [_tables.write(folder / "few.csv", 100, given.columns), folder / "out.csv"]
    mine, theirs = growth(ours, table, output, first=few), growth(peer, table, other, first=few)
    print(f"memory: at most {mine / MIB:.0f} MiB; pandas {theirs / MIB:.0f} MiB ({mine / theirs:.2f} of it)")


def main() -> None:
    """The program."""
    given = flags(__doc__ or "", rows=1_000_000, columns=20)
    with tempfile.TemporaryDirectory() as folder:
        measure(given, Path(folder))
    machine()


if __name__ == "__main__":
    main()
