"""From a config to a list of stages; everything that can be checked beforehand is checked here."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsheet import config, tables
from clipsheet.config import check_keys, option
from clipsheet.errors import ConfigError
from clipsheet.options import RunOptions
from clipsheet.scorer import missing
from pipeline.datasets.verbs import NSFW_LIMIT
from pipeline.splitting.cutter import Cutting
from script.stages import CAPTIONERS, STEPS, Paths, Stage

SECTIONS = (
    "meta_steps",
    "meta_steps.split_video",
    "pipeline_steps",
    "pipeline_steps.scoring_filtering",
    "pipeline_steps.captioning",
)
#: Keys of the ancestors' sections that are no stages.
OTHER_KEYS = {
    "": ("paths", "options", "stages", "meta_steps", "pipeline_steps", "captioning"),
    "meta_steps": ("run", "split_video"),
    "meta_steps.split_video": ("run", "create_clips_meta"),
    "pipeline_steps": ("run", "input_meta_csv", "scoring_filtering", "captioning"),
    "pipeline_steps.scoring_filtering": ("run",),
    "pipeline_steps.captioning": ("run",),
}


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
        if first.name == "convert_dataset":
            listed = first.parameters["from_json"] or first.parameters["download"]
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
    check_keys(given, OTHER_KEYS[""], source)
    paths = _paths(given)
    options = config.build(PipelineOptions, _section(given, "options"), "options")
    if "stages" in given:
        clash = [key for key in ("meta_steps", "pipeline_steps", "captioning") if key in given]
        if clash:
            raise ConfigError(f"`stages` and `{clash[0]}` are two ways to say one thing: keep one")
        stages, skipped = _ordered(given["stages"], paths), list[str]()
    else:
        stages, skipped = _nested(given, paths)
    if not stages:
        raise ConfigError(f"{source}: no stage is enabled")
    captioners = [stage.name for stage in stages if stage.name in CAPTIONERS]
    if len(captioners) > 1:
        raise ConfigError(
            f"{captioners[0]} and {captioners[1]} would both write captions: set run: false for one of them"
        )
    inputs, outputs = _tables(stages, given, paths)
    _check_columns(stages, inputs[0])
    _check_folders(stages, paths)
    return Plan(paths, options, stages, inputs, outputs, skipped)


def _paths(given: Mapping[str, Any]) -> Paths:
    section = _section(given, "paths")
    check_keys(section, ("ROOT_VIDEO", "ROOT_CLIPS", "ROOT_META", "PYTHONPATH"), "paths")
    for key in ("ROOT_VIDEO", "ROOT_CLIPS", "ROOT_META"):
        if not isinstance(section.get(key), str) or not section[key]:
            raise ConfigError(f"paths.{key}: missing; give a folder")
    return Paths(section["ROOT_VIDEO"], section["ROOT_CLIPS"], Path(section["ROOT_META"]))


def _section(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A section by its dotted name; what is not there is empty."""
    value: Any = given
    for part in where.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: {value!r} is no mapping of keys to values")
    return dict(value)


def _nested(given: Mapping[str, Any], paths: Paths) -> tuple[list[Stage], list[str]]:
    """The ancestors' form: sections of stages, each with `run`, in a fixed order."""
    given = dict(given)
    if "captioning" in given:  # at the top, as a section of its own
        given["pipeline_steps"] = {**_section(given, "pipeline_steps"), "captioning": given["captioning"]}
    places = {name: step.section for name, step in STEPS.items()}
    for section in SECTIONS:
        known = [name for name, place in places.items() if place == section]
        check_keys(_section(given, section), (*OTHER_KEYS[section], *known), section)
    stages: list[Stage] = []
    skipped: list[str] = []
    enabled = {name for name, step in STEPS.items() if _runs(given, step.section, name)}
    for name, step in STEPS.items():
        if name not in enabled:
            continue
        if step.after and not enabled.intersection(step.after):
            skipped.append(f"{name}: {' or '.join(step.after)} does not run")
            continue
        keys = _section(given, f"{step.section}.{name}")
        keys.pop("run", None)
        if name in _FROM_NEIGHBOURS:
            keys = {**_FROM_NEIGHBOURS[name](given), **keys}
        if name == "nsfw_scoring":
            _nsfw_limit(given)  # which is its filter's, and may be wrong all the same
            keys.pop("threshold", None)
        stages.append(step.make(name, keys, paths, f"{step.section}.{name}"))
    return stages, skipped


def _clips_table(given: Mapping[str, Any]) -> dict[str, Any]:
    """The ancestors name the table of the clips in a stage of its own; here cut writes it."""
    where = "meta_steps.split_video.create_clips_meta"
    section = _section(given, where)
    check_keys(section, ("run", "output_meta_csv"), where)
    return {"output_meta_csv": section["output_meta_csv"]} if "output_meta_csv" in section else {}


def _words_matched(given: Mapping[str, Any]) -> dict[str, Any]:
    """The ancestors name the words where they are matched, and mean them where they filter."""
    section = _section(given, "pipeline_steps.scoring_filtering.option_matching")
    return {"option": section["option"]} if "option" in section else {}


def _nsfw_limit(given: Mapping[str, Any]) -> dict[str, Any]:
    """The ancestors' scorer has the limit, and their filter goes by it."""
    where = "pipeline_steps.scoring_filtering.nsfw_scoring"
    limit = config.build(_Limit, {"threshold": _section(given, where).get("threshold")}, where).threshold
    return {"nsfwmax": limit} if limit not in (None, NSFW_LIMIT) else {}


@dataclass(frozen=True)
class _Limit:
    threshold: float | None = option(None, "probability 0-1", ge=0, le=1)


def _like_the_first_cut(given: Mapping[str, Any]) -> dict[str, Any]:
    """Clips are cut again as they were cut."""
    return _how_clips_are_cut(_section(given, "meta_steps.split_video.cut_videos"))


def _how_clips_are_cut(keys: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if key in Cutting.__dataclass_fields__}


#: What a stage of the nested form takes from the section of another.
_FROM_NEIGHBOURS = {
    "cut_videos": _clips_table,
    "recut_clips": _like_the_first_cut,
    "option_filtering": _words_matched,
    "nsfw_filtering": _nsfw_limit,
}


def _runs(given: Mapping[str, Any], section: str, name: str) -> bool:
    """Whether a stage and all sections around it say `run: true`, or say nothing and are there."""
    parts = section.split(".")
    for depth in range(1, len(parts) + 1):
        where = ".".join(parts[:depth])
        if not _switch(_section(given, where), where):
            return False
    if name not in _section(given, section):
        return False
    where = f"{section}.{name}"
    return _switch(_section(given, where), where)


def _switch(section: Mapping[str, Any], where: str) -> bool:
    value = section.get("run", True)
    if not isinstance(value, bool):
        raise ConfigError(f"{where}.run: {value!r}: true or false is needed")
    return value


def _ordered(entries: Any, paths: Paths) -> list[Stage]:
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
        [(name, keys)] = pair.items()
        check_keys(pair, STEPS, where)
        keys = _section(pair, name)
        if _switch(keys, f"{where}.{name}"):
            keys.pop("run", None)
            if name == "cut_videos":
                cutting = _how_clips_are_cut(keys)
            if name == "recut_clips":
                keys = cutting | keys
            stages.append(STEPS[name].make(name, keys, paths, f"{where}.{name}"))
    return stages


def _tables(stages: Sequence[Stage], given: Mapping[str, Any], paths: Paths) -> tuple[list[Path], list[Path]]:
    """What each stage reads and writes."""
    first = stages[0].first_input
    if not first and stages[0].name != "convert_dataset":
        first = _section(given, "pipeline_steps").get("input_meta_csv") or ""
        if not first:
            raise ConfigError(f"{stages[0].name}: no stage before it; give it an input_meta_csv")
    inputs, outputs = [], []
    table = Path(first)
    seen = {table.resolve(), paths.final.resolve()}
    for stage in stages:
        inputs.append(table)
        table = stage.output(table)
        if stage.name != "convert_dataset" and not stage.new_files:
            table = paths.meta / table.name
        if table.resolve() in seen:
            raise ConfigError(f"{stage.name}: writes {table}, which is another stage's table or the last one")
        seen.add(table.resolve())
        outputs.append(table)
    return inputs, outputs


def _check_columns(stages: Sequence[Stage], first: Path) -> None:
    """Refuse a stage that reads a column which neither the input has nor a stage before it writes."""
    columns = set(tables.read(first, ()).columns) if first.is_file() else set()
    known = first.is_file() or stages[0].name == "convert_dataset"
    for stage in stages:
        for column in stage.needs:
            if known and column not in columns:
                raise ConfigError(
                    f"{stage.name} reads the column `{column}`, which no enabled stage before it writes"
                )
        columns |= set(stage.gives) | {"error"}


def _check_folders(stages: Sequence[Stage], paths: Paths) -> None:
    video, clips = (os.path.realpath(p) for p in (paths.video, paths.clips))
    cuts = any(stage.name == "cut_videos" for stage in stages)
    lists = any(stage.name == "convert_dataset" for stage in stages)
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
