"""Recognise the format of a weight file, and write its tensors as the run time reads them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clipsheet.errors import CallError
from clipsheet.places import replacing
from clipsheet.scorer import file_sha256
from clipsheet.weights.converted import CLIP_SUFFIX, CONVERT, HEAD_SUFFIXES, MODEL, converted
from clipsheet.weights.load import ORIGINAL, ORIGINAL_SHA256, wrong_original
from clipsheet.weights.table import absent, unlike
from tools.convert.keras import safety_head
from tools.convert.layout import write_aligned
from tools.convert.openai_clip import (
    SETTINGS,
    VOCABULARY,
    hugging_face_settings,
    hugging_face_state,
    is_openai_clip,
)
from tools.convert.torchscript import openai_clip_state

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Weights:
    """A weight file of any format.

    Attributes:
        path: where it is.
        sha256: of the file, in hex.
        state: its tensors by their names in the file (of LAION's safety head, as scoring.nsfw.head has them), in
            the types that they are stored in.
    """

    path: Path
    sha256: str
    state: Mapping[str, torch.Tensor]


def read(source: Path) -> Weights:
    """Read a weight file: a TorchScript archive, a SavedModel in a `.zip`, a Keras `.h5`, or a pickle of tensors.

    Raises:
        CallError: not there, damaged, of an unknown format, or not the published file of its name.
    """
    sha256 = _published_sha256(source)
    state = (safety_head if source.suffix in HEAD_SUFFIXES else openai_clip_state)(source)
    return Weights(source, sha256, state)


def _published_sha256(path: Path) -> str:
    """The sha256 of a file; empty where there is none, which its reader refuses.

    Raises:
        CallError: it is not the published file of its name.
    """
    if not path.is_file():
        return ""
    sha256 = file_sha256(path)
    if why := unlike(path, sha256):
        raise CallError(why)
    return sha256


def write(weights: Weights, target: Path, state: Mapping[str, torch.Tensor] | None = None) -> str:
    """Write a `.safetensors` whose metadata names the original file and its sha256.

    Args:
        state: tensors to be written in the place of those of `weights`.

    Returns:
        One line for the user: the file, its tensors and its size.

    Raises:
        CallError: `target` is not called `.safetensors`, or is the original itself.
        StorageError: it cannot be written; what stood there is untouched.
    """
    if target.suffix != ".safetensors":
        raise CallError(f"{target}: not called .safetensors; give another name")
    if os.path.realpath(weights.path) == os.path.realpath(target):
        raise CallError(f"{target}: the input itself; give another name")
    tensors = weights.state if state is None else state
    # transformers asks for the word "pt"
    metadata = {"format": "pt", ORIGINAL: weights.path.name, ORIGINAL_SHA256: weights.sha256}
    try:
        with replacing(target) as file:
            write_aligned(tensors, metadata, file)
    except ValueError as error:
        raise CallError(f"{weights.path}: {error}") from error
    return f"{target}: {len(tensors)} tensors, {target.stat().st_size:,} bytes"


def convert(source: Path, output: Path | None = None) -> str:
    """Write what the run time reads in place of a foreign weight file.

    OpenAI's CLIP becomes a Hugging Face folder; everything else one `.safetensors` with the same tensors.

    Args:
        output: the folder, or the `.safetensors`; by default beside `source` and named after it, where scorers
            look for it.

    Returns:
        One line for the user.

    Raises:
        CallError: `source` cannot be used, or `output` is of the wrong kind.
        StorageError: the disk is full or may not be written.
    """
    weights = read(source)
    if is_openai_clip(weights.state):
        return _convert_clip(weights, output or converted(source.with_suffix(CLIP_SUFFIX)).parent)
    if source.suffix == CLIP_SUFFIX:
        return write(weights, output or source.with_suffix(".safetensors"))
    return write(weights, output or converted(source))


def _convert_clip(weights: Weights, folder: Path) -> str:
    """Write the folder of a CLIP model, its weights last: where they are, everything is."""
    if folder.is_file() or folder.suffix == ".safetensors":
        raise CallError(
            f"{folder}: a CLIP model becomes a folder; give the name of one, or take the tensors alone by "
            f"python -m tools.pth_to_safetensors"
        )
    vocabulary = weights.path.with_name(VOCABULARY)
    if not vocabulary.is_file():
        raise CallError(f"{absent(vocabulary)}; then {CONVERT} {shlex.quote(str(weights.path))}")
    _published_sha256(vocabulary)
    state = hugging_face_state(weights.state, weights.path)
    for name, data in hugging_face_settings(weights.state, weights.path, vocabulary).items():
        with replacing(folder / name) as file:
            file.write(data)
    return write(weights, folder / MODEL, state)


def is_converted(source: Path) -> bool:
    """Whether everything that convert() makes of a published file is there, and made of that file."""
    target = converted(source)
    files = [target, *(target.with_name(name) for name in SETTINGS if source.suffix == CLIP_SUFFIX)]
    return all(file.is_file() for file in files) and not wrong_original(target)
