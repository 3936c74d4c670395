"""From a config to a list of stages; everything that can be checked beforehand is checked here."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioning.captioner import Captioner
from clipsheet import config, tables
from clipsheet.config import check_keys, option
from clipsheet.errors import ConfigError
from clipsheet.options import RunOptions
from clipsheet.scorer import missing
from pipeline.datasets.convert import Convert
from pipeline.splitting.cut import Cut
from script.catalog import STAGES
from script.compat import SECTIONS, Wanted, how_clips_are_cut, nested, section, switch
from script.stages import Paths, Stage

#: The top-level keys of a config.
KEYS = ("paths", "options", "stages", *SECTIONS)


@dataclass(frozen=True)
class PipelineOptions(RunOptions):
    """How the whole pipeline is run."""

    processes: int = option(0, "processes that share the scoring; 0: one per GPU, or one", ge=0)
    share_pass: bool = option(True, "decode each file once for all stages that look at it")


@dataclass(frozen=True)
class Plan:
    """What a config asks for.

    Attributes:
        stages: in order, each with the table it reads and the one it writes.
    """

    paths: Paths
    options: PipelineOptions
    stages: list[Stage]
    inputs: list[Path]
    outputs: list[Path]
    skipped: list[str]

    def missing(self) -> list[str]:
        """What is not there and would be needed: weights, packages, folders."""
        found = [
            f"{stage.name}: {what}"
            for stage in self.stages
            for scorer in stage.scorers
            for what in missing(scorer, self.options.models)
        ]
        first = self.stages[0]
        if isinstance(first.does, Convert):
            listed = first.does.from_json or first.does.download
            if not listed and not os.path.isdir(self.paths.video):
                found.append(f"paths.ROOT_VIDEO: {self.paths.video}: no such folder")
        elif not self.inputs[0].is_file():
            found.append(f"{first.name}: its input {self.inputs[0]} is not there; run the stages before it")
        return found


def plan(given: Mapping[str, Any], source: str = "config") -> Plan:
    """The stages of a config.

    Raises:
        ConfigError: an unknown key, a wrong value, a stage that reads a column that none before it
            writes; names the key.
    """
    check_keys(given, KEYS, source)
    paths = _paths(given)
    options = config.build(PipelineOptions, section(given, "options"), "options")
    if "stages" in given:
        clash = [key for key in SECTIONS if key in given]
        if clash:
            raise ConfigError(f"`stages` and `{clash[0]}` are two ways to say one thing: keep one")
        wanted, skipped = _listed(given["stages"]), list[str]()
    else:
        wanted, skipped = nested(given)
    stages = [STAGES[one.name](one.name, one.keys, paths, one.where) for one in wanted]
    if not stages:
        raise ConfigError(f"{source}: no stage is enabled")
    captioners = [stage.name for stage in stages if isinstance(stage.does, Captioner)]
    if len(captioners) > 1:
        raise ConfigError(
            f"{captioners[0]} and {captioners[1]} would both write captions: set run: false for one of them"
        )
    inputs, outputs = _tables(stages, given, paths)
    _check_columns(stages, inputs[0])
    _check_folders(stages, paths)
    return Plan(paths, options, stages, inputs, outputs, skipped)


def _paths(given: Mapping[str, Any]) -> Paths:
    folders = section(given, "paths")
    check_keys(folders, ("ROOT_VIDEO", "ROOT_CLIPS", "ROOT_META", "PYTHONPATH"), "paths")
    for key in ("ROOT_VIDEO", "ROOT_CLIPS", "ROOT_META"):
        if not isinstance(folders.get(key), str) or not folders[key]:
            raise ConfigError(f"paths.{key}: missing; give a folder")
    return Paths(folders["ROOT_VIDEO"], folders["ROOT_CLIPS"], Path(folders["ROOT_META"]))


def _listed(entries: Any) -> list[Wanted]:
    """The list form: the stages one after another, in any order, any number of times."""
    if not isinstance(entries, list):
        raise ConfigError("stages: a list is needed")
    stages = []
    cutting: dict[str, Any] = {}
    for number, entry in enumerate(entries):
        where = f"stages[{number}]"
        pair = {entry: {}} if isinstance(entry, str) else entry
        if not isinstance(pair, Mapping) or len(pair) != 1:
            raise ConfigError(f"{where}: give one stage, as `name` or `name: {{...}}`")
        [name] = pair
        check_keys(pair, STAGES, where)
        keys = section(pair, name)
        if switch(keys, f"{where}.{name}"):
            keys.pop("run", None)
            if name == "cut_videos":
                cutting = how_clips_are_cut(keys)
            if name == "recut_clips":
                keys = cutting | keys
            stages.append(Wanted(name, keys, f"{where}.{name}"))
    return stages


def _tables(stages: Sequence[Stage], given: Mapping[str, Any], paths: Paths) -> tuple[list[Path], list[Path]]:
    """What each stage reads and writes."""
    first = stages[0].first_input
    if not first and not stages[0].starts:
        first = section(given, "pipeline_steps").get("input_meta_csv") or ""
        if not first:
            raise ConfigError(f"{stages[0].name}: no stage before it; give it an input_meta_csv")
    inputs, outputs = [], []
    table = Path(first)
    seen = {table.resolve(), paths.final.resolve()}
    for stage in stages:
        inputs.append(table)
        table = stage.output(table, paths.meta)
        if table.resolve() in seen:
            raise ConfigError(f"{stage.name}: writes {table}, which is another stage's table or the last one")
        seen.add(table.resolve())
        outputs.append(table)
    return inputs, outputs


def _check_columns(stages: Sequence[Stage], first: Path) -> None:
    """Refuse a stage that reads a column which neither the input has nor a stage before it writes."""
    columns = set(tables.header(first)) if first.is_file() else set()
    known = first.is_file() or stages[0].starts
    for stage in stages:
        for column in stage.reads:
            if known and column not in columns:
                raise ConfigError(
                    f"{stage.name} reads the column `{column}`, which no enabled stage before it writes"
                )
        columns |= set(stage.gives) | {"error"}


def _check_folders(stages: Sequence[Stage], paths: Paths) -> None:
    video, clips = (os.path.realpath(p) for p in (paths.video, paths.clips))
    cuts = any(isinstance(stage.does, Cut) for stage in stages)
    lists = any(stage.starts for stage in stages)
    if cuts and lists and os.path.commonpath([video, clips]) == video:
        raise ConfigError(
            f"paths.ROOT_CLIPS: {paths.clips} lies inside ROOT_VIDEO; the next run would take clips for videos"
        )


def part(whole: Plan, first: str = "", last: str = "") -> Plan:
    """The stages from one to another, both included.

    Raises:
        ConfigError: no such stage is enabled, or they are in the wrong order.
    """
    names = [stage.name for stage in whole.stages]
    check_keys(dict.fromkeys(name for name in (first, last) if name), names, "")
    start = names.index(first) if first else 0
    stop = len(names) - names[::-1].index(last) if last else len(names)
    if start >= stop:
        raise ConfigError(f"--from {first} comes after --until {last}")
    return dataclasses.replace(
        whole,
        stages=whole.stages[start:stop],
        inputs=whole.inputs[start:stop],
        outputs=whole.outputs[start:stop],
    )
