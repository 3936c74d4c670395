"""Files of a CLIP model: which there are, their architecture, and heads that fit it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from clipsheet.config import option
from clipsheet.weights.converted import CLIP_SUFFIX, HEAD_SUFFIXES, converted
from clipsheet.weights.load import read_json
from clipsheet.weights.table import absent, place_of, place_of_converted, refused

DEFAULT = "clip-vit-large-patch14"
#: The same weights as OpenAI published them, for tools.convert.
OPENAI = {
    "clip-vit-large-patch14": "ViT-L-14.pt",
    "clip-vit-base-patch32": "ViT-B-32.pt",
    "clip-vit-base-patch16": "ViT-B-16.pt",
}
NAMES = {
    "clip-vit-large-patch14": "ViT-L/14",
    "clip-vit-base-patch32": "ViT-B/32",
    "clip-vit-base-patch16": "ViT-B/16",
}
JOINT_DIMENSIONS = 512  # where a config does not say
DTYPES = ("float32", "bfloat16", "float16")


def clip_option() -> Any:
    """The field `clip` of a scorer."""
    return option(DEFAULT, "model: a folder in pretrained_models, or a path to one")


def dtype_option() -> Any:
    """The field `dtype` of a scorer."""
    return option("float32", "numbers that the model computes with; 16 bits for GPUs", choices=DTYPES)


def frames_option() -> Any:
    """The field `num_frames` of a scorer."""
    return option(3, "frames looked at; 3: at 10, 50 and 90 %, 1: the middle", ge=1)


def place(clip: str, models: Path) -> Path:
    """The folder of a model.

    OpenAI's `X.pt` stands for the folder that tools.convert makes of it. The folder of OpenAI's file of the
    same model is taken where a model that is known by its name is not there.
    """
    if clip.endswith(CLIP_SUFFIX):
        return place_of_converted(clip, models).parent
    path = place_of(clip, models)
    if not path.exists() and clip in OPENAI:
        original = models / OPENAI[clip]
        folder = converted(original).parent
        if original.exists() or folder.exists():
            return folder
    return path


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what a file of unexpected contents leads to into a CallError that names it."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise refused(path, f"not what a CLIP model has there: {type(error).__name__}: {error}") from error


def image_files(clip: str, models: Path) -> dict[str, Path]:
    """The files that decide about an image's vector."""
    path = place(clip, models)
    files = {"config": path / "config.json", **_model_files(path)}
    return files | {file.stem: file for file in preprocessor_files(path)[:1]}


def preprocessor_files(path: Path) -> list[Path]:
    """Where a folder says how pictures are prepared: in the older file, else in the newer one."""
    names = ("preprocessor_config.json", "processor_config.json")
    return [path / name for name in names if (path / name).exists()]


#: Of a tokenizer beside tokenizer.json; any of them may change the tokens.
TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def text_files(clip: str, models: Path) -> dict[str, Path]:
    """The files that decide about a text's vector."""
    path = place(clip, models)
    more = {name: path / name for name in TOKENIZER_FILES if (path / name).exists()}
    return {
        "config": path / "config.json", "tokenizer": path / "tokenizer.json", **more, **_model_files(path)
    }  # fmt: skip


def _model_files(folder: Path) -> dict[str, Path]:
    """The weights of a folder: one file, or the parts that its index names."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return {"model": folder / "model.safetensors"}
    with reading(index):
        parts = sorted(set(read_json(index)["weight_map"].values()))
        return {f"model{number}": folder / part for number, part in enumerate(parts)}


def missing_files(files: Mapping[str, Path], clip: str) -> list[str]:
    """What of some files is not there, and the command that brings it."""
    lacking = [path for path in files.values() if not path.is_file()]
    return [f"{absent(lacking[0], clip)}; or --clip another"] if lacking else []


class Architecture(NamedTuple):
    """What a model is, by its config.

    Attributes:
        kind: "clip" or "siglip".
        image_size, patch_size: pixels of a side.
        width: hidden size of the image encoder.
        dimensions: of a vector.
    """

    kind: str
    image_size: int
    patch_size: int
    width: int
    dimensions: int

    @property
    def name(self) -> str:
        """As OpenAI calls it; empty for others."""
        names = {(1024, 14): "ViT-L/14", (768, 32): "ViT-B/32", (768, 16): "ViT-B/16"}
        return names.get((self.width, self.patch_size), "") if self.kind == "clip" else ""


def architecture(clip: str, models: Path) -> Architecture:
    """What a model is.

    Raises:
        CallError: a model of another family.
    """
    return architecture_of_version(place(clip, models))


def architecture_of_version(path: Path) -> Architecture:
    file = path / "config.json"
    if not file.is_file():
        raise refused(file, "is not there")
    status = file.stat()
    return _architecture_of(path, status.st_size, status.st_mtime_ns)


@cache
def _architecture_of(path: Path, size: int, mtime_ns: int) -> Architecture:
    """What the model at a path is, looked up once per version of it."""
    config = read_json(path / "config.json")
    kind = str(config.get("model_type", ""))
    if kind not in ("clip", "siglip"):
        raise refused(path / "config.json", f"a model of type {kind!r}; CLIP and SigLIP are known")
    defaults = {"image_size": 224, "patch_size": 32 if kind == "clip" else 16, "hidden_size": 768}
    with reading(path / "config.json"):
        vision = defaults | config.get("vision_config", {})
        joint = config.get("projection_dim", JOINT_DIMENSIONS) if kind == "clip" else vision["hidden_size"]
        return _architecture(kind, vision, joint)


def _architecture(kind: str, vision: Mapping[str, int], dimensions: int) -> Architecture:
    sides = (vision["image_size"], vision["patch_size"], vision["hidden_size"], dimensions)
    return Architecture(kind, *map(int, sides))


def model_name(clip: str, models: Path) -> str:
    """OpenAI's name of a model's architecture; empty for others, and where the model is not there."""
    if clip in NAMES:
        return NAMES[clip]
    return "" if missing_files(image_files(clip, models), clip) else architecture(clip, models).name


def head_file(head: str, heads: Mapping[str, tuple[str, str]], clip: str, models: Path) -> dict[str, Path]:
    """The file of a head for a model, by the name of its download.

    Args:
        head: a file, in place of the one that `heads` has for the model; one in a foreign format stands for
            what tools.convert makes of it.
    """
    if head:
        return {"head": (place_of_converted if head.endswith(HEAD_SUFFIXES) else place_of)(head, models)}
    download, file = heads.get(model_name(clip, models), ("", ""))
    return {download: models / file} if file else {}


def check_head(path: Path, takes: int, clip: str, models: Path) -> None:
    """Raise a CallError unless a head takes vectors of so many numbers as a model makes."""
    made = architecture(clip, models).dimensions
    if takes != made:
        raise refused(path, f"takes vectors of {takes} numbers, and {place(clip, models)} makes {made}")


def missing_head(head: str, heads: Mapping[str, object], clip: str, models: Path) -> list[str]:
    """What to do where no head is known for a model that is there."""
    if head or model_name(clip, models) in heads or missing_files(image_files(clip, models), clip):
        return []
    return [f"no head is known for {place(clip, models)}, only for {', '.join(heads)}: give one by --head"]
