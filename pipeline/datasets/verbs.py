"""What datautil can be asked to do: groups of verbs, in the order in which they are carried out."""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsheet import tables
from clipsheet.config import option
from pipeline.datasets.bounds import bounds_given, check_pairs
from pipeline.datasets.caption_verbs import Captions, CaptionsLeft
from pipeline.datasets.row_verbs import (
    Columns,
    Compare,
    Expressions,
    InBounds,
    Measure,
    Paths,
    Rename,
    Select,
    Shape,
    Sizes,
    Sort,
    VerbGroup,
)

#: In the order in which they are carried out.
GROUPS: tuple[type[VerbGroup], ...] = (
    Compare, Measure, Paths, Captions, Sizes, Expressions, InBounds, Shape, CaptionsLeft, Rename, Sort, Select, Columns,
)  # fmt: skip

#: The names of v1.3 for the same verbs.
ALIASES = {
    "path_subtract": "difference",
    "path_intersect": "intersection",
    "path_keep_substr": "path_subset",
    "path_filter_empty": "remove_empty_path",
    "path_dedup": "remove_path_duplication",
    "chunk": "shard",
    "text_filter_empty": "remove_empty_caption",
    "text_filter_url": "remove_url",
    "text_dedup": "remove_text_duplication",
    "text_remove_prefix": "refine_llm_caption",
    "text_refine_t5": "clean_caption",
    "text_append": "append_text",
    "text_score2text": "score_to_text",
}


@dataclass(frozen=True)
class Sharding:
    """Into how many tables the rows go."""

    shard: int | None = option(None, "write so many tables <output>_0, _1, ... of equal length", ge=1)


def _options() -> dict[str, tuple[str, Any, Any]]:
    """Name, type and default of every option of every group, each once."""
    found: dict[str, tuple[str, Any, Any]] = {}
    for group in (*GROUPS, Sharding):
        hints = typing.get_type_hints(group)
        for field in dataclasses.fields(group):
            if field.metadata:  # else it stands in another group
                given = dataclasses.field(default=field.default, metadata=field.metadata)
                found[field.name] = field.name, hints[field.name], given
    return found


#: Everything datautil can be asked to do, under the names of v1.2: a frozen dataclass.
Verbs: Any = dataclasses.make_dataclass(
    "Verbs", _options().values(), frozen=True, namespace={"__post_init__": check_pairs}
)


def groups_of(verbs: Any) -> list[VerbGroup]:
    """The groups of verbs of which something is asked."""
    groups = []
    for group in GROUPS:
        names = [f.name for f in dataclasses.fields(group)]  # type: ignore[arg-type]
        groups.append(group(**{name: getattr(verbs, name) for name in names}))
    return [group for group in groups if group.active]


@dataclass(frozen=True)
class UtilOptions:
    """How datautil is run."""

    output: str = option("", "table to write instead of <first table>_<verbs>")
    format: str | None = option(None, "ending of the output's automatic name", choices=("csv", "parquet"))
    num_workers: int = option(0, "processes of --info; 0: one per core", ge=0)
    disable_parallel: bool = option(False, "one process")
    root: str = option("", "refuse files outside this folder (--info)")


def suffix_of(verbs: Any) -> str:
    """What the verbs add to the output's name, in the ancestors' words and order."""
    flags = {
        "sort": "sort", "sort_ascending": "sort", "info": "info", "video_info": "vinfo", "ext": "ext",
        "relpath": "relpath", "abspath": "abspath", "remove_empty_path": "noemptypath",
        "remove_path_duplication": "noduppath", "path_subset": "subset",
        "path_filter_substr": "pathfiltersubstr", "filesize": "filesize",
        "filter": f"filter-{tables.digest(json.dumps(verbs.filter), 6)}",
        "filter_dyn_fps": "dynfps", "h_le_w": "h-le-w", "img_only": "img", "vid_only": "vid",
        "intersection": "intersection", "load_caption": f"load{verbs.load_caption}",
        "remove_empty_caption": "noempty", "remove_url": "nourl", "text_filter_substr": "textfiltersubstr",
        "lang": f"{verbs.lang}", "filter_too_verbose": "noverbose", "filter_human": "human",
        "remove_text_duplication": "noduptext", "refine_llm_caption": "llm", "clean_caption": "clean",
        "text_image2video": "image2video", "text_refine_sentences": "sentences", "merge_cmotion": "cmotion",
        "append_text": "appendtext", "score_to_text": "score2text", "text_undo_score2text": "undoscore2text",
        "update_text": "update", "count_num_token": "ntoken",
    }  # fmt: skip
    parts = [word for verb, word in flags.items() if getattr(verbs, verb)]
    for verb, one in bounds_given(verbs).items():
        bound = getattr(verbs, verb)
        parts.append(one.suffix if bound is True else one.suffix + tables.number_text(bound))
    if verbs.keep_best:
        parts.append("best" + "".join(verbs.keep_best))
    if verbs.shuffle:
        parts.append(f"shuffled_seed{verbs.seed}")
    if verbs.head is not None:
        parts.append(f"first_{verbs.head}_data")
    if verbs.sample is not None:
        parts.append(f"sample-{verbs.sample}")
    if verbs.difference:
        parts.append(f"-{Path(verbs.difference).stem}")
    return "_".join(parts)
