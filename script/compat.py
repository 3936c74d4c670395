"""The nested configs of the original tools: sections of stages in a fixed order, rewritten as a list of stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clipsheet import config
from clipsheet.config import check_keys, option
from clipsheet.errors import ConfigError
from pipeline.splitting.cutter import Cutting
from scoring.nsfw.scorer import NSFW_LIMIT

META, SPLIT = "meta_steps", "meta_steps.split_video"
STEPS, SCORES, CAPTIONS = "pipeline_steps", "pipeline_steps.scoring_filtering", "pipeline_steps.captioning"
_CAPTIONERS = ("qwen2vl_caption", "llava_caption", "pllava_caption", "api_caption")


@dataclass(frozen=True)
class Place:
    """Where a stage stands in the nested form.

    Attributes:
        section: with the key of the stage.
        after: the stages without any of which it does not run, as a filter without scores.
    """

    section: str
    after: tuple[str, ...] = ()


#: In the order in which the nested form runs them.
PLACES: dict[str, Place] = {
    "convert_dataset": Place(META),
    "remove_broken_videos": Place(META),
    "scene_detection": Place(SPLIT),
    "cut_videos": Place(SPLIT),
    "boundary_audit": Place(SPLIT),
    "audit_filtering": Place(SPLIT, ("boundary_audit",)),
    "recut_clips": Place(SPLIT, ("boundary_audit",)),
    "remove_broken_clips": Place(SPLIT),
    "deduplication": Place(STEPS),
    "option_matching": Place(SCORES),
    "option_filtering": Place(SCORES, ("option_matching",)),
    "ocr_scoring": Place(SCORES),
    "ocr_filtering": Place(SCORES, ("ocr_scoring",)),
    "motion_scoring": Place(SCORES),
    "motion_filtering": Place(SCORES, ("motion_scoring",)),
    "quality_scoring": Place(SCORES),
    "quality_filtering": Place(SCORES, ("quality_scoring",)),
    "lpips_scoring": Place(SCORES),
    "lpips_filtering": Place(SCORES, ("lpips_scoring",)),
    "aesthetic_scoring": Place(SCORES),
    "aesthetic_filtering": Place(SCORES, ("aesthetic_scoring",)),
    "nsfw_scoring": Place(SCORES),
    "nsfw_filtering": Place(SCORES, ("nsfw_scoring",)),
    "filtering": Place(SCORES),
    **{name: Place(CAPTIONS) for name in _CAPTIONERS},
    "enhance_caption": Place(CAPTIONS, _CAPTIONERS),
    "clean_caption": Place(CAPTIONS, _CAPTIONERS),
    "matching_with_captions": Place(CAPTIONS),
    "caption_filtering": Place(CAPTIONS, ("matching_with_captions",)),
}
#: The top-level keys of this form.
SECTIONS = ("meta_steps", "pipeline_steps", "captioning")
#: Keys of the sections that are no stages.
OTHER_KEYS = {
    META: ("run", "split_video"),
    SPLIT: ("run", "create_clips_meta"),
    STEPS: ("run", "input_meta_csv", "scoring_filtering", "captioning"),
    SCORES: ("run",),
    CAPTIONS: ("run",),
}


@dataclass(frozen=True)
class Wanted:
    """A stage that is asked for: its name, its keys, and where they stand in the config."""

    name: str
    keys: dict[str, Any]
    where: str


def nested(given: Mapping[str, Any]) -> tuple[list[Wanted], list[str]]:
    """The stages of a nested config, each with `run`, and what is left out and why.

    Raises:
        ConfigError: an unknown key, or a switch that is neither true nor false.
    """
    given = dict(given)
    if "captioning" in given:  # at the top, as a section of its own
        given["pipeline_steps"] = {**section(given, "pipeline_steps"), "captioning": given["captioning"]}
    for name, others in OTHER_KEYS.items():
        known = [stage for stage, place in PLACES.items() if place.section == name]
        check_keys(section(given, name), (*others, *known), name)
    stages: list[Wanted] = []
    skipped: list[str] = []
    enabled = {name for name, place in PLACES.items() if _runs(given, place.section, name)}
    for name, place in PLACES.items():
        if name not in enabled:
            continue
        if place.after and not enabled.intersection(place.after):
            skipped.append(f"{name}: {' or '.join(place.after)} does not run")
            continue
        keys = section(given, f"{place.section}.{name}")
        keys.pop("run", None)
        if name in _FROM_NEIGHBOURS:
            keys = {**_FROM_NEIGHBOURS[name](given), **keys}
        if name == "nsfw_scoring":
            _nsfw_limit(given)  # which is its filter's, and may be wrong all the same
            keys.pop("threshold", None)
        stages.append(Wanted(name, keys, f"{place.section}.{name}"))
    return stages, skipped


def section(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A section by its dotted name; what is not there is empty."""
    value: Any = given
    for part in where.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: {value!r} is no mapping of keys to values")
    return dict(value)


def _clips_table(given: Mapping[str, Any]) -> dict[str, Any]:
    """The ancestors name the table of the clips in a stage of its own; here cut writes it."""
    where = "meta_steps.split_video.create_clips_meta"
    keys = section(given, where)
    check_keys(keys, ("run", "output_meta_csv"), where)
    return {"output_meta_csv": keys["output_meta_csv"]} if "output_meta_csv" in keys else {}


def _words_matched(given: Mapping[str, Any]) -> dict[str, Any]:
    """The ancestors name the words where they are matched, and mean them where they filter."""
    keys = section(given, "pipeline_steps.scoring_filtering.option_matching")
    return {"option": keys["option"]} if "option" in keys else {}


def _nsfw_limit(given: Mapping[str, Any]) -> dict[str, Any]:
    """The ancestors' scorer has the limit, and their filter goes by it."""
    where = "pipeline_steps.scoring_filtering.nsfw_scoring"
    limit = config.build(_Limit, {"threshold": section(given, where).get("threshold")}, where).threshold
    return {"nsfwmax": limit} if limit not in (None, NSFW_LIMIT) else {}


@dataclass(frozen=True)
class _Limit:
    threshold: float | None = option(None, "probability 0-1", ge=0, le=1)


def _like_the_first_cut(given: Mapping[str, Any]) -> dict[str, Any]:
    """Clips are cut again as they were cut."""
    return how_clips_are_cut(section(given, "meta_steps.split_video.cut_videos"))


def how_clips_are_cut(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `cut_videos` that say what clips are like."""
    return {key: value for key, value in keys.items() if key in Cutting.__dataclass_fields__}


#: What a stage of the nested form takes from the section of another.
_FROM_NEIGHBOURS = {
    "cut_videos": _clips_table,
    "recut_clips": _like_the_first_cut,
    "option_filtering": _words_matched,
    "nsfw_filtering": _nsfw_limit,
}


def _runs(given: Mapping[str, Any], within: str, name: str) -> bool:
    """Whether a stage and all sections around it say `run: true`, or say nothing and are there."""
    parts = within.split(".")
    for depth in range(1, len(parts) + 1):
        where = ".".join(parts[:depth])
        if not switch(section(given, where), where):
            return False
    if name not in section(given, within):
        return False
    where = f"{within}.{name}"
    return switch(section(given, where), where)


def switch(keys: Mapping[str, Any], where: str) -> bool:
    """Whether a section or stage says `run: true`, or nothing."""
    value = keys.get("run", True)
    if not isinstance(value, bool):
        raise ConfigError(f"{where}.run: {value!r}: true or false is needed")
    return value
