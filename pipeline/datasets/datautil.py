"""Filter, sort, join and split tables, and clean captions: python -m pipeline.datasets.datautil META... [verbs]

Verbs are carried out in a fixed order, whatever the order of the flags: tables are joined, compared
with others, measured, captions are cleaned, rows are filtered, sorted, cut to size. What a filter drops
stands with its reason in `<output>_dropped`; kept and dropped rows together are always all rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from clipsheet import tables
from clipsheet.cli import Parser, run_main
from clipsheet.engine.ranks import Share
from clipsheet.engine.steps import run_step
from clipsheet.errors import MetaError
from clipsheet.options import RankOptions, RunOptions
from clipsheet.outcome import Status
from clipsheet.scorer import Scorer
from clipsheet.step import Desk, Outcome, Step, in_turn
from clipsheet.store.rows import Rows
from pipeline.datasets.verbs import ALIASES, UtilOptions, Verbs, groups_of, suffix_of


@dataclass(frozen=True)
class Datautil(Step):
    """Verbs, one group after another.

    Attributes:
        verbs: a pipeline.datasets.verbs.Verbs.
        format: ending of the output's automatic name; empty for that of the input.
    """

    name: ClassVar[str] = "datautil"
    forgives: ClassVar[bool] = True

    verbs: Any
    format: str = ""

    @property
    def suffix(self) -> str:
        return suffix_of(self.verbs)

    @property
    def rowwise(self) -> bool:
        return self.verbs.shard is None and all(group.rowwise for group in groups_of(self.verbs))

    @property
    def looks_at_files(self) -> bool:
        return any(group.looks_at_files for group in groups_of(self.verbs))

    @property
    def repeatable(self) -> bool:
        return all(group.repeatable for group in groups_of(self.verbs))

    @property
    def needs(self) -> tuple[str, ...]:
        groups = groups_of(self.verbs)
        made = {"filesize", *(column.name for group in groups for s in group.scorers for column in s.columns)}
        return tuple(dict.fromkeys(c for group in groups for c in group.needs if c not in made))

    @property
    def scorers(self) -> tuple[Scorer, ...]:
        return tuple(scorer for group in groups_of(self.verbs) for scorer in group.scorers)

    @property
    def compared(self) -> tuple[Path, ...]:
        verbs = self.verbs
        return tuple(
            tables.expand([t for t in (verbs.difference, verbs.intersection, verbs.update_text) if t])
        )

    def output(self, inputs: Sequence[Path], given: str) -> Path:
        first = inputs[0].with_suffix(f".{self.format}") if self.format else inputs[0]
        suffix = self.suffix or ("merged" if len(inputs) > 1 else "")
        if not suffix and not given and self.verbs.shard is None:
            if first == inputs[0]:
                raise MetaError("no verb given: nothing to do (see --help)")
            suffix = "converted"
        return tables.output_path(first, suffix or "shard", given)

    def outputs(self, output: Path, given: str) -> list[Path]:
        if self.verbs.shard is None:
            return [output]
        stem = output.stem if given else output.stem.removesuffix("_shard")
        return [output.with_name(f"{stem}_{number}{output.suffix}") for number in range(self.verbs.shard)]

    def carry_out(self, rows: Rows, desk: Desk) -> Outcome:
        return in_turn(groups_of(self.verbs), rows, desk)


def datautil(
    inputs: Sequence[str],
    verbs: Any,
    options: UtilOptions | None = None,
    *,
    run: RunOptions | None = None,
    share: Share | None = None,
) -> Status:
    """Carry out the verbs on one or more tables joined one after another.

    Args:
        run: how --info measures; its `output` is not used, and what `options` says goes before it.

    Raises:
        MetaError: a table or a column is missing, or a cell stops it.
        StorageError: the output cannot be written.
    """
    options, run = options or UtilOptions(), run or RunOptions()
    workers = 1 if options.disable_parallel else options.num_workers or run.num_workers
    how = dataclasses.replace(run, num_workers=workers, root=options.root or run.root, output=options.output)
    return run_step(inputs, Datautil(verbs, options.format or ""), how, share)


def main() -> None:
    """The program."""
    parser = Parser(__doc__ or "")
    parser.add_argument("meta", nargs="+", help="table(s): .csv or .parquet; patterns are expanded")
    parser.add_fields(Verbs, "verbs")
    parser.add_fields(UtilOptions, "options")
    fields = {f.name: f for f in dataclasses.fields(Verbs)}
    for alias, name in ALIASES.items():
        kind = {"shard": int}.get(name, str)
        if fields[name].default is False:
            parser.add_argument(
                f"--{alias}", dest=name, action="store_true", default=None, help=f"= --{name}"
            )
        else:
            parser.add_argument(f"--{alias}", dest=name, type=kind, default=None, help=f"= --{name}")
    parser.add_fields(RankOptions, "many processes")
    given = parser.parse_args()

    def program() -> Status:
        verbs, options = parser.take(Verbs, given), parser.take(UtilOptions, given)
        return datautil(given.meta, verbs, options, share=parser.share(given))

    run_main(program)


if __name__ == "__main__":
    main()
