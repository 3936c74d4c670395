"""Opening and scoring of files against another version: python -m benchmarks.versions FOLDER CHECKOUT

FOLDER holds videos, CHECKOUT another version of this project. Each file is opened `--opens` times in one process of
each version, which take turns; of all openings of a file the shortest counts. Then info, motion and quality score
all files, each time from nothing. Files that one of the two versions fails on are left out. Targets: at most 1.05
times the time for both.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks._measure import machine, race, verdict

HERE = Path(__file__).resolve().parent.parent
MOST = 1.05
OPEN = """
import json, sys, time
from clipsheet.errors import MediaError
from clipsheet.media import Media
seconds = {}
for path in sys.argv[2:]:
    try:
        for _ in range(int(sys.argv[1])):
            begun = time.perf_counter()
            Media(path)
            taken = time.perf_counter() - begun
            seconds[path] = min(taken, seconds.get(path, taken))
    except MediaError:
        pass
print(json.dumps(seconds))
"""


def opened(checkout: Path, paths: list[str], opens: int) -> dict[str, float]:
    """Seconds that it takes one version to open each file; those that it fails on are left out."""
    command = [sys.executable, "-c", OPEN, str(opens), *paths]
    done = subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def score(checkout: Path, paths: list[str]) -> None:
    """Score files by one version, from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "videos.csv"
        with open(table, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["path"], *([path] for path in paths)])
        scorers = ("--scorers", "info", "motion", "quality", "--max_failed", "1")
        command = [sys.executable, "-m", "scoring.inference", str(table), *scorers]
        subprocess.run(
            command, cwd=checkout, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--opens", type=int, default=5, metavar="N", help="default 5")
    parser.add_argument("--repeat", type=int, default=4, metavar="N", help="turns of each version; default 4")
    given = parser.parse_args()
    files = sorted(str(path.resolve()) for path in given.folder.rglob("*") if path.is_file())
    versions = {"this version": HERE, "the other": given.checkout.resolve()}
    taken: dict[str, dict[str, float]] = {name: {} for name in versions}
    for turn in range(given.repeat):
        for name in list(versions)[:: -1 if turn % 2 else 1]:
            for path, seconds in opened(versions[name], files, given.opens).items():
                taken[name][path] = min(seconds, taken[name].get(path, seconds))
    this, other = taken.values()
    both = sorted(this.keys() & other.keys())
    print(f"versions: {len(both)} of {len(files)} files are opened by both")
    for path in sorted(both, key=lambda path: this[path] - other[path]):
        if this[path] > MOST * other[path]:
            ms = f"{1000 * this[path]:8.2f} ms, before {1000 * other[path]:8.2f} ms"
            print(f"  {ms}, {this[path] / other[path]:5.2f} times: {os.path.relpath(path, given.folder)}")
    whole = sum(this[path] for path in both) / sum(other[path] for path in both)
    verdict("times the time of the other version to open all files", whole, most=MOST)
    ways = {name: partial(score, checkout, both) for name, checkout in versions.items()}
    now, before = race(given.repeat, dict(ways)).values()
    verdict("times the time of the other version to score them", now / before, most=MOST)
    machine()


if __name__ == "__main__":
    main()
