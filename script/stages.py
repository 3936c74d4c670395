"""A stage of a plan: a scorer or a step with its parameters, ready to run, and how stages are made from a config."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captioning.captioner import Captioner, caption
from clipsheet import tables
from clipsheet.config import build, check_keys, option
from clipsheet.engine import ranks, run, steps
from clipsheet.errors import ConfigError
from clipsheet.options import RunOptions
from clipsheet.outcome import Status
from clipsheet.scorer import Scorer, parameters
from clipsheet.step import Step
from clipsheet.store.receipts import Receipt
from pipeline.datasets.datautil import Datautil
from pipeline.datasets.verbs import Verbs

Given = dict[str, Any]  # the keys of a stage, from a config


@dataclass(frozen=True)
class Paths:
    """The three folders of a run."""

    video: str
    clips: str
    meta: Path

    @property
    def final(self) -> Path:
        """The table that a whole run ends with."""
        return self.meta / "meta.csv"


@dataclass(frozen=True)
class Stage:
    """One stage of a plan, ready to run.

    Attributes:
        name: as in the config.
        does: what it does to its table.
        fixed_output: the table it writes, where that does not depend on its input.
        suffix: of the table it writes, where it is not that of `does`.
        needs: columns that it reads, where they are more than `does` says.
        how: execution options of its own.
        apart: it costs so much for each row that it has a pass of its own, after all filters before it.
        first_input: a table given in the config, for a run that begins here.
        processes: how many at most.
    """

    name: str
    does: Scorer | Step
    fixed_output: Path | None = None
    suffix: str = ""
    needs: tuple[str, ...] = ()
    how: Mapping[str, Any] = field(default_factory=dict)
    apart: bool = False
    first_input: str = ""
    processes: int | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """What it was asked for, for run.json."""
        if not isinstance(self.does, Datautil):
            return parameters(self.does)
        given = parameters(self.does.verbs)
        return {k: v for k, v in given.items() if v != getattr(Verbs, k) or k == "missing"}

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns that must be there."""
        return self.needs or (self.does.reads if isinstance(self.does, Scorer) else self.does.needs)

    @property
    def gives(self) -> tuple[str, ...]:
        """Columns that are there afterwards."""
        made = tuple(column.name for scorer in self.scorers for column in scorer.columns)
        return made if isinstance(self.does, Scorer | Datautil) else self.does.gives

    @property
    def scorers(self) -> tuple[Scorer, ...]:
        """What it scores, so that neighbours can share one decode of every file."""
        return (self.does,) if isinstance(self.does, Scorer) else self.does.scorers

    @property
    def starts(self) -> bool:
        """Whether it reads no table."""
        return isinstance(self.does, Step) and self.does.starts

    @property
    def new_files(self) -> bool:
        """Whether its rows are other files than those it reads, so that nothing can be shared across it."""
        return self.starts or (isinstance(self.does, Step) and self.does.writes_files)

    def output(self, source: Path, folder: Path) -> Path:
        """The table that it writes, from the one that it reads and the folder of the run's tables."""
        if self.fixed_output is not None:
            return self.fixed_output
        return folder / tables.output_path(source, self.suffix or self.does.suffix).name

    def receipt(self, source: Path, output: Path, options: RunOptions) -> Receipt | None:
        """What its table would be made of; None where only running it can tell whether there is something to do."""
        if self.starts or not source.is_file():
            return None
        if (
            isinstance(self.does, Captioner) and self.does.window_seconds
        ):  # writes a table of its own beside it
            return None
        how = self._options(output, options)
        if isinstance(self.does, Step):
            return steps.receipt_of([source], self.does, how, output)
        return run.receipt_of([source], [self.does], how, output)

    def repeated(self, output: Path, facts: Mapping[str, Any], options: RunOptions) -> Status:
        """Its status when its table needs no work."""
        allowed = steps.max_failed(self.does, options) if isinstance(self.does, Step) else options.max_failed
        tool = self.does.name if isinstance(self.does, Step) else self.does.suffix
        return ranks.repeated(Status(tool, output), facts, allowed)

    def _options(self, output: Path, options: RunOptions) -> RunOptions:
        return dataclasses.replace(options, output=str(output), **self.how)

    def run(self, source: Path, output: Path, options: RunOptions) -> Status:
        """Carry it out."""
        options = self._options(output, options)
        inputs = [] if self.starts else [str(source)]
        if isinstance(self.does, Step):
            return steps.run_step(inputs, self.does, options)
        if isinstance(self.does, Captioner):
            return caption(inputs, [self.does], options)
        return run.run_scorers(inputs, [self.does], options)


Maker = Callable[[str, Given, Paths, str], Stage]


# --- makers: from the name of a stage, its keys, the folders and its place in the config ------------


def scoring(cls: type[Scorer], *, apart: bool = False) -> Maker:
    """A stage that scores.

    Args:
        apart: its model takes seconds for each row.
    """

    def make(name: str, given: Given, paths: Paths, where: str) -> Stage:
        if isinstance(given.get("lengths"), str):
            given["lengths"] = [given["lengths"]]
        how, rest, processes = split_run_keys(given, where)
        first = str(rest.pop("input_meta_csv", None) or "")
        return Stage(
            name, build(cls, rest, where), how=how, apart=apart, first_input=first, processes=processes
        )

    return make


def step(cls: type[Step], output: str = "", renamed: Sequence[str] = (), **places: str) -> Maker:
    """A stage that carries out a step.

    Args:
        output: name of its table, where that does not depend on its input; the key `output_meta_csv` gives another.
        renamed: keys of the ancestors that say nothing here.
        places: fields of the step that are folders of the run: `save_dir="clips"`.
    """

    def make(name: str, given: Given, paths: Paths, where: str) -> Stage:
        for key in renamed:
            given.pop(key, None)
        how, rest, _ = split_run_keys(given, where)
        fixed = {name: str(getattr(paths, folder)) for name, folder in places.items()}
        known = [f.name for f in dataclasses.fields(cls) if f.name not in fixed or f.name == "save_dir"]  # type: ignore[arg-type]
        if cls.starts:
            check_keys(given, [*known, "output_meta_csv", "num_workers"], where)
        first = str(rest.pop("input_meta_csv", None) or "")
        table: Path | None = None
        if output:
            table = Path(rest.pop("output_meta_csv", None) or paths.meta / output)
            if table.resolve() == paths.final.resolve():  # the ancestors' name, here the last table's
                table = table.with_name(output)
        check_keys(rest, known, where)
        return Stage(name, build(cls, rest | fixed, where), table, how=how, first_input=first)

    return make


def verbs_of_datautil(name: str, given: Given, paths: Paths, where: str, **always: Any) -> Stage:
    """A stage of datautil's verbs."""
    first = str(given.pop("input_meta_csv", None) or "")
    if isinstance(given.get("filter"), str):
        given["filter"] = [given["filter"]]
    does = Datautil(build(Verbs, {**always, **given}, where))
    if not does.suffix:
        raise ConfigError(f"{where}: nothing to do; give it a threshold or set run: false")
    return Stage(name, does, first_input=first)


def filtering(*verbs: str) -> Maker:
    """A stage that may use these verbs only."""

    def make(name: str, given: Given, paths: Paths, where: str) -> Stage:
        check_keys(given, (*verbs, "missing", "strict"), where)
        return verbs_of_datautil(name, given, paths, where)

    return make


def split_run_keys(given: Mapping[str, Any], where: str) -> tuple[Given, Given, int | None]:
    """The ancestors' and our keys about how to run, apart from those about what is computed; and how many
    processes at most."""
    names = RunKeys.__dataclass_fields__
    keys = build(RunKeys, {name: value for name, value in given.items() if name in names}, where)
    how: Given = {}
    bs = keys.batch_size if keys.bs is None else keys.bs
    for name, value in (("bs", bs), ("keep_as", keys.keep_as), ("num_workers", keys.num_workers)):
        if value is not None:
            how[name] = value
    if keys.use_cpu is not None or keys.use_ascend is not None:
        how["use_cpu"] = not keys.use_ascend if keys.use_cpu is None else keys.use_cpu
    return how, {name: value for name, value in given.items() if name not in names}, keys.worker_num


@dataclass(frozen=True)
class RunKeys:
    """Keys of a stage that say how it is run."""

    bs: int | None = option(None, "samples scored at once", ge=1)
    batch_size: int | None = option(None, "the ancestors' name of it", ge=1)
    use_cpu: bool | None = option(None, "use no GPU")
    use_ascend: bool | None = option(None, "the ancestors' opposite of it")
    keep_as: str | None = option(None, "before overwriting a column, copy it to <column>_<this>")
    num_workers: int | None = option(None, "worker processes; 0: one per core", ge=0)
    worker_num: int | None = option(None, "processes at most, on as many GPUs", ge=1)


def groups(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Stages in runs that look at the same files, and so can share one decode of each."""
    found: list[list[Stage]] = []
    for stage in stages:
        alone = stage.new_files or stage.apart
        if alone or not found or found[-1][-1].new_files or found[-1][-1].apart:
            found.append([])
        found[-1].append(stage)
    return found
