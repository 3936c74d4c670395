"""What datautil can be asked to do: verbs, bounds of columns, and what they add to the output's name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsheet import tables
from clipsheet.config import option
from clipsheet.errors import ConfigError

NSFW_LIMIT = 0.2
TRAIN_COLUMNS = "path text num_frames fps height width aspect_ratio resolution text_len".split()
PRE_TRAIN_COLUMNS = [*TRAIN_COLUMNS, "aes", "flow", "pred_score"]
CAPTION_VERBS = (
    "load_caption remove_url text_filter_substr lang remove_empty_caption filter_too_verbose filter_human "
    "merge_cmotion refine_llm_caption text_image2video text_refine_sentences append_text score_to_text "
    "text_undo_score2text clean_caption update_text"
).split()


@dataclass(frozen=True)
class Filter:
    """A verb that keeps rows whose number in a column is on the right side of a bound.

    Attributes:
        column: what is compared; `secondsmin` and `secondsmax` compute theirs.
        keep: ">=" or "<=".
        scorer: whose failures explain an empty cell.
        spares_pictures: pictures have no such value, and pass.
        suffix: of the output's name.
    """

    column: str
    keep: str
    scorer: str
    suffix: str
    spares_pictures: bool = False


#: In the order in which they are carried out. A new scorer adds its line here.
FILTERS: dict[str, Filter] = {
    "fsmin": Filter("filesize", ">=", "", "fsmin"),
    "fsmax": Filter("filesize", "<=", "", "fsmax"),
    "fmin": Filter("num_frames", ">=", "info", "fmin"),
    "fmax": Filter("num_frames", "<=", "info", "fmax"),
    "fpsmax": Filter("fps", "<=", "info", "fpsmax", spares_pictures=True),
    "hwmax": Filter("resolution", "<=", "info", "hwmax"),
    "ocr_box_max": Filter("num_boxes", "<=", "ocr", "ocrboxmax"),
    "ocr_single_max": Filter("max_single_percentage", "<=", "ocr", "ocrsinglemax"),
    "ocr_total_max": Filter("total_text_percentage", "<=", "ocr", "ocrtotalmax"),
    "aesmin": Filter("aes", ">=", "aes", "aesmin"),
    "matchmin": Filter("match", ">=", "match", "matchmin"),
    "flowmin": Filter("flow", ">=", "motion", "flowmin"),
    "motionmin": Filter("motion", ">=", "motion", "motionmin"),
    "motionmax": Filter("motion", "<=", "motion", "motionmax"),
    "sharpnessmin": Filter("sharpness", ">=", "quality", "sharpnessmin"),
    "noisemax": Filter("noise", "<=", "quality", "noisemax"),
    "blockinessmax": Filter("blockiness", "<=", "quality", "blockinessmax"),
    "brightnessmin": Filter("brightness", ">=", "quality", "brightnessmin"),
    "brightnessmax": Filter("brightness", "<=", "quality", "brightnessmax"),
    "contrastmin": Filter("contrast", ">=", "quality", "contrastmin"),
    "clippedmax": Filter("clipped", "<=", "quality", "clippedmax"),
    "bordersmax": Filter("black_borders", "<=", "quality", "bordersmax"),
    "frozenmax": Filter("frozen", "<=", "quality", "frozenmax"),
    "foreignmax": Filter("foreign_frames", "<=", "audit", "foreignmax"),
    "transitionsmax": Filter("inner_transitions", "<=", "audit", "transitionsmax"),
    "prefmin": Filter("pred_score", ">=", "", "prefmin"),
    "facemin": Filter("face_area_ratio", ">=", "", "facemin"),
    "lpipsmin": Filter("lpips", ">=", "lpips", "lpipsmin"),
    "safety_check": Filter("nsfw", "<=", "nsfw", "safe"),
    "nsfwmax": Filter("nsfw", "<=", "nsfw", "nsfwmax"),
    "secondsmax": Filter("seconds", "<=", "info", "secondsmax", spares_pictures=True),
    "secondsmin": Filter("seconds", ">=", "info", "secondsmin", spares_pictures=True),
}

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


def _bound(verb: str, text: str, **limits: Any) -> Any:
    filter = FILTERS[verb]
    return option(None, f"{text}: keep {filter.column} {filter.keep} this", **limits)


@dataclass(frozen=True)
class Verbs:
    """Everything datautil can be asked to do, under the names of v1.2."""

    difference: str | None = option(None, "drop rows whose path is in this table")
    intersection: str | None = option(None, "keep rows whose path is in this table, and add its columns")
    info: bool = option(False, "measure every file: num_frames, height, width, fps, duration, ...")
    video_info: bool = option(False, "the same")
    ext: bool = option(False, "keep rows whose file exists")
    remove_empty_path: bool = option(False, "keep rows with a path")
    remove_path_duplication: bool = option(False, "keep the first row of each path")
    path_subset: str | None = option(None, "keep rows whose path matches this regular expression")
    path_filter_substr: str | None = option(None, "drop rows whose path holds this text")
    relpath: str | None = option(None, "make paths relative to this folder")
    abspath: str | None = option(None, "put this folder in front of paths")
    path_to_id: bool = option(False, "set `id` to the file's name without its ending")
    load_caption: str | None = option(
        None,
        "set `text` to what stands beside the file: `caption` of its .json, or its .txt",
        choices=("json", "txt"),
    )
    remove_url: bool = option(False, "drop captions with a URL")
    text_filter_substr: str | None = option(None, "drop captions that hold this text")
    lang: str | None = option(None, "keep captions in this language (ISO 639-1, as en), by lingua")
    remove_empty_caption: bool = option(False, "keep rows with a caption, before and after it is changed")
    filter_too_verbose: bool = option(False, "drop captions of which two sentences say what is not there")
    filter_human: bool = option(False, "keep captions whose first sentence names a person")
    merge_cmotion: bool = option(False, "append the camera motion in `cmotion`")
    refine_llm_caption: bool = option(False, "take off `The video shows` and its like")
    text_image2video: bool = option(False, "call an image a video")
    text_refine_sentences: bool = option(False, "take out sentences that say what is not there")
    append_text: str | None = option(None, "append this to every caption")
    score_to_text: bool = option(False, "append the scores in `aes` and `flow`")
    text_undo_score2text: bool = option(False, "take such scores off")
    clean_caption: bool = option(False, "lower case, without markup, URLs, file names, CJK and special signs")
    update_text: str | None = option(None, "take `text` from this table, by path")
    remove_text_duplication: bool = option(False, "keep the first row of each caption")
    count_num_token: str | None = option(None, "add `text_len`, tokens by this tokenizer's folder")
    filesize: bool = option(False, "add `filesize` in MiB")
    sort: str | None = option(None, "sort by this column, largest first")
    sort_ascending: str | None = option(None, "sort by this column, smallest first")
    filter: tuple[str, ...] = option((), "keep rows for which each expression holds: 'aes > 4 and fps < 60'")
    fsmin: float | None = _bound("fsmin", "MiB", ge=0)
    fsmax: float | None = _bound("fsmax", "MiB", ge=0)
    fmin: int | None = _bound("fmin", "frames", ge=0)
    fmax: int | None = _bound("fmax", "frames", ge=0)
    fpsmax: float | None = _bound("fpsmax", "frames per second", ge=0)
    hwmax: int | None = _bound("hwmax", "pixels", ge=0)
    ocr_box_max: float | None = _bound("ocr_box_max", "text boxes", ge=0)
    ocr_single_max: float | None = _bound("ocr_single_max", "0-1", ge=0, le=1)
    ocr_total_max: float | None = _bound("ocr_total_max", "0-1", ge=0, le=1)
    aesmin: float | None = _bound("aesmin", "about 1-10")
    matchmin: float | None = _bound("matchmin", "0-100")
    flowmin: float | None = _bound("flowmin", "diagonals per frame")
    motionmin: float | None = _bound("motionmin", "grey levels")
    motionmax: float | None = _bound("motionmax", "grey levels")
    sharpnessmin: float | None = _bound("sharpnessmin", "variance of the Laplacian")
    noisemax: float | None = _bound("noisemax", "grey levels")
    blockinessmax: float | None = _bound("blockinessmax", "1 is none")
    brightnessmin: float | None = _bound("brightnessmin", "0-1", ge=0, le=1)
    brightnessmax: float | None = _bound("brightnessmax", "0-1", ge=0, le=1)
    contrastmin: float | None = _bound("contrastmin", "0-1", ge=0, le=1)
    clippedmax: float | None = _bound("clippedmax", "0-1", ge=0, le=1)
    bordersmax: float | None = _bound("bordersmax", "0-1", ge=0, le=1)
    frozenmax: float | None = _bound("frozenmax", "0-1", ge=0, le=1)
    foreignmax: int | None = _bound("foreignmax", "frames", ge=0)
    transitionsmax: int | None = _bound("transitionsmax", "transitions", ge=0)
    prefmin: float | None = _bound("prefmin", "preference score")
    facemin: float | None = _bound("facemin", "0-1", ge=0, le=1)
    lpipsmin: float | None = _bound("lpipsmin", "LPIPS distance")
    safety_check: bool = option(False, f"keep nsfw <= {NSFW_LIMIT}")
    nsfwmax: float | None = _bound("nsfwmax", "0-1", ge=0, le=1)
    secondsmax: float | None = _bound("secondsmax", "seconds", ge=0)
    secondsmin: float | None = _bound("secondsmin", "seconds", ge=0)
    filter_dyn_fps: bool = option(False, "keep num_frames >= keep_frames x ceil(fps / max_fps)")
    dyn_fps_max_fps: float = option(16.0, "max_fps of --filter_dyn_fps", gt=0)
    dyn_fps_keep_frames: int = option(32, "keep_frames of --filter_dyn_fps", ge=1)
    img_only: bool = option(
        False, "keep pictures, by the ending of the name, or the first bytes where that leaves it open"
    )
    vid_only: bool = option(False, "keep videos, in the same way")
    h_le_w: bool = option(False, "keep height <= width")
    keep_best: tuple[str, ...] = option(
        (), "keep that share of rows, highest first", names=("PERCENT", "COLUMN")
    )
    shuffle: bool = option(False, "shuffle the rows, by --seed")
    head: int | None = option(None, "keep the first rows", ge=0)
    sample: int | None = option(None, "keep so many rows, drawn by --seed, in their order", ge=0)
    train_column: bool = option(False, f"keep only the columns {' '.join(TRAIN_COLUMNS)}")
    pre_train_column: bool = option(False, f"keep only the columns {' '.join(PRE_TRAIN_COLUMNS)}")
    shard: int | None = option(None, "write so many tables <output>_0, _1, ... of equal length", ge=1)
    seed: int = option(42, "of --shuffle and --sample", ge=0)
    missing: str = option(
        "drop", "what a filter does with a row that has no value", choices=("drop", "keep", "stop")
    )
    strict: bool = option(False, "stop at a cell that should hold a number and does not")

    def __post_init__(self) -> None:
        for verb in ("fs", "f", "motion", "brightness", "seconds"):
            least, most = getattr(self, f"{verb}min"), getattr(self, f"{verb}max")
            if least is not None and most is not None and least > most:
                raise ConfigError(
                    f"{verb}min {least:g} is more than {verb}max {most:g}: no row could be kept"
                )


@dataclass(frozen=True)
class UtilOptions:
    """How datautil is run."""

    output: str = option("", "table to write instead of <first table>_<verbs>")
    format: str | None = option(None, "ending of the output's automatic name", choices=("csv", "parquet"))
    num_workers: int = option(0, "processes of --info; 0: one per core", ge=0)
    disable_parallel: bool = option(False, "one process")
    root: str = option("", "refuse files outside this folder (--info)")


def suffix_of(verbs: Verbs) -> str:
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
    for verb, filter in FILTERS.items():
        bound = getattr(verbs, verb)
        if bound is True:
            parts.append(filter.suffix)
        elif bound is not None and bound is not False:
            parts.append(filter.suffix + tables.number_text(bound))
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
