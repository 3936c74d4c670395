"""Every stage that a config can name. Those of scorers and of their bounds follow from `scoring/catalog.py`.

A new step adds its line here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from captioning.catalog import CAPTIONERS
from clipsheet import tables
from clipsheet.config import build, check_keys
from clipsheet.errors import ConfigError
from pipeline.datasets.bounds import bounds_of
from pipeline.datasets.caption_verbs import Captions
from pipeline.datasets.convert import Convert
from pipeline.datasets.deduplication import Deduplication
from pipeline.datasets.verbs import Verbs
from pipeline.splitting.cut import Cut, Recut
from scoring.catalog import SCORERS
from scoring.matching.scorer import OptionMatching, column_of
from script.stages import Given, Maker, Paths, Stage, filtering, scoring, step, verbs_of_datautil

FAIR_MATCH = 20.0  # 100 x cosine
#: The ancestors' names of stages, where they are not `<scorer>_scoring` and `<scorer>_filtering`.
SCORING_NAMES = {
    "scene_detect": "scene_detection", "audit": "boundary_audit", "option": "option_matching",
    "matching": "matching_with_captions",
}  # fmt: skip
FILTERING_NAMES = {"matching": "caption_filtering"}


def _broken(name: str, given: Given, paths: Paths, where: str) -> Stage:
    """Drop what has no frames."""
    given.setdefault("fmin", 1)
    check_keys(given, ("fmin", "input_meta_csv"), where)
    return verbs_of_datautil(name, given, paths, where, info=True)


def _clean(name: str, given: Given, paths: Paths, where: str) -> Stage:
    """Captions as training wants them: all that the ancestors' stage does, unless it is told not to."""
    usual = ("clean_caption", "refine_llm_caption", "remove_empty_caption")
    check_keys(given, (*Captions.__dataclass_fields__, "missing"), where)
    made = verbs_of_datautil(name, given, paths, where, **dict.fromkeys(usual, True))
    return Stage(name, made.does, suffix="cleaned", needs=("text",))


def _option(name: str, given: Given, paths: Paths, where: str) -> Stage:
    """Matching with words, of which the ancestors have one."""
    return scoring(OptionMatching)(name, given | {"option": _words(given)}, paths, where)


def _option_filtering(name: str, given: Given, paths: Paths, where: str) -> Stage:
    """Keep what one of the words fits well enough."""
    check_keys(given, ("option", "matchmin", "missing", "strict"), where)
    words = build(OptionMatching, {"option": _words(given)}, where).option
    least = build(Verbs, {"matchmin": given.get("matchmin")}, where).matchmin
    if not words:
        raise ConfigError(f"{where}.option: missing; the words that were matched")
    least = FAIR_MATCH if least is None else least
    kept = " or ".join(f"{column_of(word)} >= {tables.number_text(least)}" for word in words)
    rest: Given = {key: given[key] for key in ("missing", "strict") if key in given}
    return verbs_of_datautil(name, rest | {"filter": kept}, paths, where)


def _words(given: Mapping[str, Any]) -> list[Any]:
    words = given.get("option")
    return words if isinstance(words, list) else [] if words is None else [words]


def _nsfw_filtering(name: str, given: Given, paths: Paths, where: str) -> Stage:
    """Keep what is safe: by the usual limit or another."""
    check_keys(given, ("nsfwmax", "safety_check", "missing", "strict"), where)
    if given.get("nsfwmax") is None:
        given = given | {"safety_check": True}
    return verbs_of_datautil(name, given, paths, where)


#: Steps, and verbs of datautil under names of their own.
STEPS: dict[str, Maker] = {
    "convert_dataset": step(Convert, "meta_videos.csv", root="video"),
    "remove_broken_videos": _broken,
    "cut_videos": step(Cut, "meta_clips.csv", ("drop_invalid_timestamps",), save_dir="clips"),
    "recut_clips": step(Recut, save_dir="clips"),
    "remove_broken_clips": _broken,
    "deduplication": step(Deduplication),
    "filtering": verbs_of_datautil,
    "option_filtering": _option_filtering,
    "nsfw_filtering": _nsfw_filtering,
    "clean_caption": _clean,
}


def _of_scorers() -> Iterator[tuple[str, Maker]]:
    for name, scorer in SCORERS.items():
        yield SCORING_NAMES.get(name, f"{name}_scoring"), scoring(scorer)
        if bounds := bounds_of(scorer):
            yield FILTERING_NAMES.get(name, f"{name}_filtering"), filtering(*bounds)
    for name, captioner in CAPTIONERS.items():
        yield name, scoring(captioner, apart=True)


#: By the name of the stage.
STAGES: dict[str, Maker] = {**dict(_of_scorers()), **STEPS, "option_matching": _option}
