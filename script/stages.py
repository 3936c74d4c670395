"""The stages that a config can name: what each reads, writes and is called, in the order they run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioning.caption_api import CaptionApi
from captioning.caption_llava import CaptionLlava
from captioning.caption_pllava import CaptionPllava
from captioning.caption_qwen2vl import CaptionQwen2vl
from captioning.captioner import Captioner, caption
from captioning.enhance import Enhance
from clipsheet import tables
from clipsheet.config import build, check_keys, option
from clipsheet.engine.run import run_scorers
from clipsheet.errors import ConfigError
from clipsheet.options import RunOptions
from clipsheet.outcome import Status
from clipsheet.scorer import Scorer
from pipeline.datasets.convert import ConvertOptions, convert
from pipeline.datasets.datautil import datautil
from pipeline.datasets.deduplication import Deduplication, Hashes, deduplicate
from pipeline.datasets.expression import Expression
from pipeline.datasets.verbs import CAPTION_VERBS, FILTERS, UtilOptions, Verbs, suffix_of
from pipeline.splitting.cut import AUDITED, cut, recut
from pipeline.splitting.cutter import Cutting
from scoring.aesthetic.scorer import Aesthetic
from scoring.info.scorer import Info
from scoring.lpips.scorer import Lpips
from scoring.matching.scorer import Matching, OptionMatching, column_of
from scoring.motion.scorer import Motion
from scoring.nsfw.scorer import Nsfw
from scoring.ocr.scorer import Ocr
from scoring.quality.scorer import Quality
from scoring.shots.audit import Audit
from scoring.shots.detection import SceneDetect


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
        parameters: what it was asked for, for run.json.
        needs, gives: columns that it reads, and that it writes.
        output: from its input's path to its output's.
        run: carries it out: input, output, options.
        scorers: what it scores, so that neighbours can share one decode of every file.
        new_files: it makes files of its own, so that nothing can be shared across it.
        apart: it costs so much for each row that it has a pass of its own, after all filters before it.
        first_input: a table given in the config, for a run that begins here.
    """

    name: str
    parameters: Mapping[str, Any]
    needs: tuple[str, ...]
    gives: tuple[str, ...]
    output: Callable[[Path], Path]
    run: Callable[[Path, Path, RunOptions], Status]
    scorers: tuple[Scorer, ...] = ()
    new_files: bool = False
    apart: bool = False
    first_input: str = ""
    processes: int | None = None
    bs: int | None = None


FAIR_MATCH = 20.0  # 100 x cosine
Maker = Callable[[str, dict[str, Any], Paths, str], Stage]


# --- makers ------------------------------------------------------------------------------------


def _convert(name: str, given: dict[str, Any], paths: Paths, where: str) -> Stage:
    output = Path(given.pop("output_meta_csv", None) or paths.meta / "meta_videos.csv")
    if output.resolve() == paths.final.resolve():  # the ancestors' name, here the last table's
        output = output.with_name("meta_videos.csv")
    options = build(ConvertOptions, given, where)
    return Stage(
        name, {"root": paths.video, **_fields(options)}, (), ("path", "id", "relpath"),
        lambda _: output,
        lambda _, out, run: convert("video", paths.video, out, options),
        new_files=True,
    )  # fmt: skip


def _scorer(cls: type[Scorer]) -> Maker:
    def make(name: str, given: dict[str, Any], paths: Paths, where: str) -> Stage:
        run_keys, rest, processes = _split_run_keys(given, where)
        first = str(rest.pop("input_meta_csv", None) or "")
        scorer = build(cls, rest, where)
        carry_out: Callable[..., Status] = caption if isinstance(scorer, Captioner) else run_scorers
        return Stage(
            name, _fields(scorer), scorer.reads, tuple(c.name for c in scorer.columns),
            lambda table: tables.output_path(table, scorer.suffix),
            lambda table, out, run: carry_out(
                [str(table)], [scorer], dataclasses.replace(run, output=str(out), **run_keys)
            ),
            scorers=(scorer,), first_input=first,
            processes=processes, bs=run_keys.get("bs"),
        )  # fmt: skip

    return make


def _datautil(name: str, given: dict[str, Any], paths: Paths, where: str, **always: Any) -> Stage:
    first = str(given.pop("input_meta_csv", None) or "")
    if isinstance(given.get("filter"), str):
        given["filter"] = [given["filter"]]
    verbs = build(Verbs, {**always, **given}, where)
    suffix = suffix_of(verbs)
    if not suffix:
        raise ConfigError(f"{where}: nothing to do; give it a threshold or set run: false")
    return Stage(
        name, {k: v for k, v in _fields(verbs).items() if v != getattr(Verbs, k) or k == "missing"},
        _columns_needed(verbs), tuple(c.name for c in Info().columns) if verbs.info else (),
        lambda table: tables.output_path(table, suffix),
        lambda table, out, run: datautil(
            [str(table)], verbs, UtilOptions(str(out)), run=run
        ),
        scorers=(Info(),) if verbs.info else (), first_input=first,
    )  # fmt: skip


def _broken(name: str, given: dict[str, Any], paths: Paths, where: str) -> Stage:
    given.setdefault("fmin", 1)
    check_keys(given, ("fmin", "input_meta_csv"), where)
    return _datautil(name, given, paths, where, info=True)


def _captioner(cls: type[Captioner] | type[Enhance]) -> Maker:
    """A stage whose model takes seconds for each row."""

    def make(name: str, given: dict[str, Any], paths: Paths, where: str) -> Stage:
        if isinstance(given.get("lengths"), str):
            given["lengths"] = [given["lengths"]]
        return dataclasses.replace(_scorer(cls)(name, given, paths, where), apart=True)

    return make


def _clean(name: str, given: dict[str, Any], paths: Paths, where: str) -> Stage:
    """Captions as training wants them: all that the ancestors' stage does, unless it is told not to."""
    usual = ("clean_caption", "refine_llm_caption", "remove_empty_caption")
    verbs = tuple(verb for verb in CAPTION_VERBS if verb in Verbs.__dataclass_fields__)
    check_keys(given, (*verbs, "missing"), where)
    stage = _datautil(name, given, paths, where, **dict.fromkeys(usual, True))
    return dataclasses.replace(
        stage, needs=("text",), output=lambda table: tables.output_path(table, "cleaned")
    )


def _filtering(*verbs: str) -> Maker:
    """A stage that may use these verbs only."""

    def make(name: str, given: dict[str, Any], paths: Paths, where: str) -> Stage:
        check_keys(given, (*verbs, "missing", "strict"), where)
        return _datautil(name, given, paths, where)

    return make


def _option(name: str, given: dict[str, Any], paths: Paths, where: str) -> Stage:
    """Matching with words, of which the ancestors have one."""
    return _scorer(OptionMatching)(name, given | {"option": _words(given)}, paths, where)


def _option_filtering(name: str, given: dict[str, Any], paths: Paths, where: str) -> Stage:
    """Keep what one of the words fits well enough."""
    check_keys(given, ("option", "matchmin", "missing", "strict"), where)
    words = build(OptionMatching, {"option": _words(given)}, where).option
    least = build(Verbs, {"matchmin": given.get("matchmin")}, where).matchmin
    if not words:
        raise ConfigError(f"{where}.option: missing; the words that were matched")
    least = FAIR_MATCH if least is None else least
    kept = " or ".join(f"{column_of(word)} >= {tables.number_text(least)}" for word in words)
    rest: dict[str, Any] = {key: given[key] for key in ("missing", "strict") if key in given}
    return _datautil(name, rest | {"filter": kept}, paths, where)


def _words(given: Mapping[str, Any]) -> list[Any]:
    words = given.get("option")
    return words if isinstance(words, list) else [] if words is None else [words]


def _nsfw_filtering(name: str, given: dict[str, Any], paths: Paths, where: str) -> Stage:
    """Keep what is safe: by the usual limit or another."""
    check_keys(given, ("nsfwmax", "safety_check", "missing", "strict"), where)
    if given.get("nsfwmax") is None:
        given = given | {"safety_check": True}
    return _datautil(name, given, paths, where)


def _dedup(name: str, given: dict[str, Any], paths: Paths, where: str) -> Stage:
    run_keys, rest, _ = _split_run_keys(given, where)
    first = str(rest.pop("input_meta_csv", None) or "")
    how = build(Deduplication, rest, where)
    return Stage(
        name, _fields(how), ("path",), (),
        lambda table: tables.output_path(table, "dedup"),
        lambda table, out, run: deduplicate(
            [str(table)], how, dataclasses.replace(run, output=str(out), **run_keys)
        ),
        scorers=(Hashes(how.hash),), first_input=first,
    )  # fmt: skip


def _cut(name: str, given: dict[str, Any], paths: Paths, where: str) -> Stage:
    given.pop("drop_invalid_timestamps", None)  # the ancestor's: here invalid ones always stand aside
    clips_table = given.pop("output_meta_csv", None)
    cutting = dataclasses.replace(build(Cutting, given, where), save_dir=paths.clips)
    output = Path(clips_table or paths.meta / "meta_clips.csv")
    return Stage(
        name, _fields(cutting), ("path", "timestamp"), ("path", "source_path", "clip_start", "clip_end"),
        lambda _: output,
        lambda table, out, run: cut([str(table)], cutting, dataclasses.replace(run, output=str(out))),
        new_files=True,
    )  # fmt: skip


def _recut(name: str, given: dict[str, Any], paths: Paths, where: str) -> Stage:
    cutting = dataclasses.replace(build(Cutting, given, where), save_dir=paths.clips)
    return Stage(
        name, _fields(cutting), AUDITED, (),
        lambda table: paths.meta / tables.output_path(table, "recut").name,
        lambda table, out, run: recut([str(table)], cutting, dataclasses.replace(run, output=str(out))),
        new_files=True,
    )  # fmt: skip


def _fields(value: Any) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}


def _columns_needed(verbs: Verbs) -> tuple[str, ...]:
    needed = []
    for verb, filter in FILTERS.items():
        if getattr(verbs, verb) not in (None, False):
            needed += ["num_frames", "fps"] if filter.column == "seconds" else [filter.column]
    for text in verbs.filter:
        needed += Expression(text).columns
    known = {c.name for c in Info().columns} if verbs.info else set()
    return tuple(c for c in dict.fromkeys(needed) if c not in known | {"filesize"})


def _split_run_keys(
    given: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], dict[str, Any], int | None]:
    """The ancestors' and our keys about how to run, apart from those about what is computed; and how many
    processes at most."""
    names = RunKeys.__dataclass_fields__
    keys = build(RunKeys, {name: value for name, value in given.items() if name in names}, where)
    run: dict[str, Any] = {}
    bs = keys.batch_size if keys.bs is None else keys.bs
    if bs is not None:
        run["bs"] = bs
    if keys.keep_as is not None:
        run["keep_as"] = keys.keep_as
    if keys.use_cpu is not None or keys.use_ascend is not None:
        run["use_cpu"] = not keys.use_ascend if keys.use_cpu is None else keys.use_cpu
    return run, {name: value for name, value in given.items() if name not in names}, keys.worker_num


@dataclass(frozen=True)
class RunKeys:
    """Keys of a stage that say how it is run."""

    bs: int | None = option(None, "samples scored at once", ge=1)
    batch_size: int | None = option(None, "the ancestors' name of it", ge=1)
    use_cpu: bool | None = option(None, "use no GPU")
    use_ascend: bool | None = option(None, "the ancestors' opposite of it")
    keep_as: str | None = option(None, "before overwriting a column, copy it to <column>_<this>")
    worker_num: int | None = option(None, "processes at most, on as many GPUs", ge=1)


# --- the stages --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A stage that a config can name.

    Attributes:
        section: where its key stands in the ancestors' nested form.
        make: from its parameters to the stage.
        after: the stages without any of which it does not run in the nested form, as a filter without scores.
    """

    section: str
    make: Maker
    after: tuple[str, ...] = ()


#: Of which only one can write `text`.
CAPTIONERS = ("qwen2vl_caption", "llava_caption", "pllava_caption", "api_caption")

#: In the order in which the nested form runs them. A new scorer adds its lines here.
STEPS: dict[str, Step] = {
    "convert_dataset": Step("meta_steps", _convert),
    "remove_broken_videos": Step("meta_steps", _broken),
    "scene_detection": Step("meta_steps.split_video", _scorer(SceneDetect)),
    "cut_videos": Step("meta_steps.split_video", _cut),
    "boundary_audit": Step("meta_steps.split_video", _scorer(Audit)),
    "audit_filtering": Step(
        "meta_steps.split_video", _filtering("foreignmax", "transitionsmax"), after=("boundary_audit",)
    ),
    "recut_clips": Step("meta_steps.split_video", _recut, after=("boundary_audit",)),
    "remove_broken_clips": Step("meta_steps.split_video", _broken),
    "deduplication": Step("pipeline_steps", _dedup),
    "option_matching": Step("pipeline_steps.scoring_filtering", _option),
    "option_filtering": Step(
        "pipeline_steps.scoring_filtering", _option_filtering, after=("option_matching",)
    ),
    "ocr_scoring": Step("pipeline_steps.scoring_filtering", _scorer(Ocr)),
    "ocr_filtering": Step(
        "pipeline_steps.scoring_filtering",
        _filtering("ocr_box_max", "ocr_single_max", "ocr_total_max"),
        after=("ocr_scoring",),
    ),
    "motion_scoring": Step("pipeline_steps.scoring_filtering", _scorer(Motion)),
    "motion_filtering": Step(
        "pipeline_steps.scoring_filtering",
        _filtering("motionmin", "motionmax", "flowmin"),
        after=("motion_scoring",),
    ),
    "quality_scoring": Step("pipeline_steps.scoring_filtering", _scorer(Quality)),
    "quality_filtering": Step(
        "pipeline_steps.scoring_filtering",
        _filtering(
            "sharpnessmin",
            "noisemax",
            "blockinessmax",
            "brightnessmin",
            "brightnessmax",
            "contrastmin",
            "clippedmax",
            "bordersmax",
            "frozenmax",
        ),
        after=("quality_scoring",),
    ),
    "lpips_scoring": Step("pipeline_steps.scoring_filtering", _scorer(Lpips)),
    "lpips_filtering": Step(
        "pipeline_steps.scoring_filtering", _filtering("lpipsmin"), after=("lpips_scoring",)
    ),
    "aesthetic_scoring": Step("pipeline_steps.scoring_filtering", _scorer(Aesthetic)),
    "aesthetic_filtering": Step(
        "pipeline_steps.scoring_filtering", _filtering("aesmin"), after=("aesthetic_scoring",)
    ),
    "nsfw_scoring": Step("pipeline_steps.scoring_filtering", _scorer(Nsfw)),
    "nsfw_filtering": Step("pipeline_steps.scoring_filtering", _nsfw_filtering, after=("nsfw_scoring",)),
    "filtering": Step("pipeline_steps.scoring_filtering", _datautil),
    "qwen2vl_caption": Step("pipeline_steps.captioning", _captioner(CaptionQwen2vl)),
    "llava_caption": Step("pipeline_steps.captioning", _captioner(CaptionLlava)),
    "pllava_caption": Step("pipeline_steps.captioning", _captioner(CaptionPllava)),
    "api_caption": Step("pipeline_steps.captioning", _captioner(CaptionApi)),
    "enhance_caption": Step("pipeline_steps.captioning", _captioner(Enhance), after=CAPTIONERS),
    "clean_caption": Step("pipeline_steps.captioning", _clean, after=CAPTIONERS),
    "matching_with_captions": Step("pipeline_steps.captioning", _scorer(Matching)),
    "caption_filtering": Step(
        "pipeline_steps.captioning", _filtering("matchmin"), after=("matching_with_captions",)
    ),
}


def groups(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Stages in runs that look at the same files, and so can share one decode of each."""
    found: list[list[Stage]] = []
    for stage in stages:
        alone = stage.new_files or stage.apart
        if alone or not found or found[-1][-1].new_files or found[-1][-1].apart:
            found.append([])
        found[-1].append(stage)
    return found
