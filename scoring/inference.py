"""Several scorers over one table, each sample decoded once: python -m scoring.inference META --scorers a b

Flags of a scorer are given as `--<scorer>.<field>`, for example `--ocr.num_frames 3`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from clipsheet.cli import Parser, run_main
from clipsheet.config import build
from clipsheet.engine.run import run_scorers
from clipsheet.errors import CallError
from clipsheet.options import RankOptions, RunOptions
from scoring.catalog import SCORERS


def main() -> None:
    """The program."""
    parser = Parser(__doc__ or "")
    parser.add_argument("meta", nargs="+", help="table(s) with a column `path`: .csv or .parquet")
    parser.add_argument(
        "--scorers", nargs="+", action="extend", required=True, choices=SCORERS,
        help="what to score: one or more names, after META",
    )  # fmt: skip
    for name, scorer in SCORERS.items():
        parser.add_fields(scorer, f"{name}: {(scorer.__doc__ or '').splitlines()[0]}", prefix=f"{name}.")
    parser.add_fields(RunOptions, "how it is run; changes no result")
    parser.add_fields(RankOptions, "many processes")
    given = parser.parse_args()
    flags = vars(given)

    def program() -> Any:
        scorers = []
        for name in dict.fromkeys(given.scorers):
            cls = SCORERS[name]
            named = {f.name: flags[f"{name}.{f.name}"] for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
            scorers.append(build(cls, named, name))
        unused = [
            flag for flag, value in flags.items()
            if "." in flag and value is not None and flag.split(".")[0] not in given.scorers
        ]  # fmt: skip
        if unused:
            raise CallError(f"--{unused[0]}: its scorer is not among --scorers {' '.join(given.scorers)}")
        return run_scorers(given.meta, scorers, parser.take(RunOptions, given), share=parser.share(given))

    run_main(program)


if __name__ == "__main__":
    main()
