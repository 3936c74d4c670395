"""Two processes against one over the same clips: python -m benchmarks.processes

The scorer `quality`, one decoding worker per process, every process started afresh by
`clipsheet.engine.launch`. The same over a single clip says how much of it the start is; the rate is that of
the rest. Two bare processes with nothing around the scorer tell the most that the machine gives.
The tables that come out are the same, byte for byte. Target: at least 1.7 times the rate.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import cv2

from benchmarks import _clips
from benchmarks._measure import flags, machine, race, verdict
from clipsheet.engine.launch import launch
from clipsheet.engine.run import run_scorers
from clipsheet.engine.sample import prepare_together
from clipsheet.media import Media
from clipsheet.options import RunOptions
from scoring.quality.scorer import Quality


def score(clips: Sequence[Path], processes: int) -> bytes:
    """Score clips from the beginning; returns the table that came out."""
    with tempfile.TemporaryDirectory() as folder:
        table = _clips.table(Path(folder) / "clips.csv", clips)
        codes = launch(run_scorers, [table], [Quality()], RunOptions(num_workers=1), processes=processes)
        assert not any(codes), codes
        return (Path(folder) / "clips_quality.csv").read_bytes()


def bare(clips: Sequence[Path]) -> float:
    """Seconds that the scorer itself takes for clips, in this process."""
    cv2.setNumThreads(1)
    started = time.perf_counter()
    for clip in clips:
        prepare_together(Media(str(clip)), [(Quality(), {})])
    return time.perf_counter() - started


def limit(clips: Sequence[Path]) -> float:
    """By how much two processes with nothing around the scorer outdo one, on this machine."""
    ratios = []
    for _ in range(3):
        with get_context("spawn").Pool(1) as pool:
            one = pool.apply(bare, (clips,))
        with get_context("spawn").Pool(2) as pool:
            two = max(pool.map(bare, [clips, clips], chunksize=1))
        ratios.append(2 * one / two)
    return statistics.median(ratios)


def measure(given: argparse.Namespace, clips: Sequence[Path]) -> None:
    """Run both ways, compare what came out, and print the ratio of their rates."""
    tables = set()
    seconds = race(
        given.repeat,
        {
            "one process": lambda: tables.add(score(clips, 1)),
            "two processes": lambda: tables.add(score(clips, 2)),
            "one process, a single clip": lambda: score(clips[:1], 1),
            "two processes, a single clip": lambda: score(clips[:1], 2),
        },
    )
    assert len(tables) == 1, "the tables differ"
    one, two, start_one, start_two = seconds.values()
    print(f"  {one / two:.2f} times as fast with the start of the programs")
    print(f"  {limit(clips[:60]):.2f} times the rate by two bare processes, the most that this machine gives")
    verdict("times the rate of one process", (one - start_one) / (two - start_two), least=1.7)


def main() -> None:
    """The program."""
    given = flags(__doc__ or "", clips=200)
    print(f"processes: quality, {given.clips} clips")
    with tempfile.TemporaryDirectory() as folder:
        measure(given, _clips.make(Path(folder), given.clips))
    machine()


if __name__ == "__main__":
    main()
