"""Tables to measure on: the columns that such tables have, in the shapes that make them hard."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

CAPTIONS = (
    "a ferry leaves the harbour at dusk",
    'a sign that reads "open", above a door',
    "two people, a dog and a ball on a beach",
    "first line\nsecond line of one caption",
    "une rue sous la pluie, à Genève",
)
PATHS = "/data/clips/part_{:03}/video_{:06}_{:03}.mp4"


def rows(count: int, columns: int, seed: int = 0) -> Iterator[list[str]]:
    """A header and `count` rows: path, text, and then numbers, captions and empty cells in turn."""
    rng = np.random.default_rng(seed)
    kinds = ("float", "int", "empty", "float", "caption")
    yield ["path", "text", *(f"{kinds[n % 5]}_{n}" for n in range(columns - 2))]
    floats = sum(kinds[n % 5] == "float" for n in range(columns - 2))
    for number in range(count):
        values = iter(rng.random(floats).tolist())
        row = [PATHS.format(number % 997, number, number % 13), f"{CAPTIONS[number % 5]} {number}"]
        for n in range(columns - 2):
            kind = kinds[n % 5]
            if kind == "float":
                row.append(repr(next(values)))
            elif kind == "int":
                row.append(str(number * (n + 1)))
            else:
                row.append("" if kind == "empty" else CAPTIONS[(number + n) % 5])
        yield row


def write(path: Path, count: int, columns: int) -> Path:
    """Write such a table with Python's csv module."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows(count, columns))
    return path
