"""Four scorers in one pass against the same four one after another: python -m benchmarks.one_pass

Three frames, a frame a second, the middle frame, and the real `quality`, over clips of 3 to 4 seconds
that are one group of pictures each. Both ways start from a table without verdicts. In one pass a clip
is opened and decoded once. Target: at least 2.5 times as fast.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import _clips
from benchmarks._measure import flags, machine, race, verdict
from benchmarks._scorers import EverySecond, Middle, Three
from clipsheet.engine.run import run_scorers
from clipsheet.options import RunOptions
from clipsheet.scorer import Scorer
from scoring.quality.scorer import Quality

SCORERS = (Three(), EverySecond(), Middle(), Quality())


def score(clips: Sequence[Path], *passes: Sequence[Scorer]) -> None:
    """Score all clips from the beginning, in as many passes as are given."""
    with tempfile.TemporaryDirectory() as folder:
        table = _clips.table(Path(folder) / "clips.csv", clips)
        for scorers in passes:
            status = run_scorers([table], scorers, RunOptions())
            assert status.scored == len(clips), status


def measure(given: argparse.Namespace, clips: Sequence[Path]) -> None:
    """Run both ways and print their ratio."""
    seconds = race(
        given.repeat,
        {
            "four scorers in one pass": lambda: score(clips, SCORERS),
            "one after another": lambda: score(clips, *([scorer] for scorer in SCORERS)),
        },
    )
    together, apart = seconds.values()
    verdict("times as fast in one pass", apart / together, least=2.5)


def main() -> None:
    """The program."""
    given = flags(__doc__ or "", clips=200)
    print(f"one_pass: {len(SCORERS)} scorers, {given.clips} clips")
    with tempfile.TemporaryDirectory() as folder:
        measure(given, _clips.make(Path(folder), given.clips))
    machine()


if __name__ == "__main__":
    main()
