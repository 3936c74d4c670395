"""Weight files read without executing anything, whole or not at all."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipsheet.errors import CallError, one_line
from clipsheet.weights.converted import CONVERT
from clipsheet.weights.table import refused, unlike_original

if TYPE_CHECKING:
    import torch


#: What readers raise on bytes that are no weights, beside what they raise on a broken disk.
BROKEN = (
    OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError, AssertionError,
    ArithmeticError, NotImplementedError, MemoryError, SyntaxError, pickle.UnpicklingError, struct.error,
    zipfile.BadZipFile,
)  # fmt: skip


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a model.

    Raises:
        CallError: it is none.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise refused(path, f"not a JSON file: {error}") from error
    if not isinstance(found, dict):
        raise refused(path, "not a JSON object")
    return found


def load_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.safetensors`, or of a pickle (`.pth`, `.pt`, `.bin`, `.ckpt`), on the CPU.

    A pickle is read with `weights_only`: what would run code is refused.

    Raises:
        CallError: not there, cut off, pickled code, or no dict of tensors.
    """
    import torch

    if path.suffix == ".safetensors":
        return _safetensors(path)
    if is_torchscript(path):
        raise CallError(f"{path}: a TorchScript archive; convert it: {CONVERT} {shlex.quote(str(path))}")
    try:
        _check_plain(path)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)  # it refuses them next
            state = torch.load(path, map_location="cpu", weights_only=True)
    except NoWeights as error:
        raise refused(path, str(error)) from error
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        code = (
            f"its pickle asks for {asked[1]}, weights are tensors only"
            if asked
            else "not a pickle of tensors"
        )
        raise refused(path, code) from error
    except BROKEN as error:
        raise refused(path, reason(error)) from error
    while isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state:
        raise refused(path, f"holds a {type(state).__name__}, where a dict of tensors is needed")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise refused(path, f"holds {name!r}: {type(value).__name__}, where only tensors are needed")
    return {name: value.detach() for name, value in state.items()}


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    import safetensors
    import safetensors.torch

    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, *BROKEN) as error:
        raise refused(path, reason(error)) from error


#: Keys of the metadata of a converted file: the name of its original, and the original's sha256 in hex.
ORIGINAL, ORIGINAL_SHA256 = "original", "original_sha256"


def read_metadata(path: Path) -> Mapping[str, str]:
    """The metadata of a `.safetensors`.

    Raises:
        CallError: not there or cut off.
    """
    import safetensors

    try:
        with safetensors.safe_open(path, "numpy") as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, *BROKEN) as error:
        raise refused(path, reason(error)) from error


def wrong_original(path: Path) -> str:
    """The line for a converted file that was made of something else than the published file of its name.

    Empty for all other files, and for those that do not say what they were made of.
    """
    if path.suffix != ".safetensors":
        return ""
    try:
        sha256 = read_metadata(path).get(ORIGINAL_SHA256)
    except CallError as error:
        return str(error)
    return unlike_original(path, sha256) if sha256 else ""


def misfit(needed: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """What keeps some tensors from being the weights of a model, the first thing found; empty if nothing.

    Args:
        needed: the model's own tensors, by name.
    """
    for name, tensor in needed.items():
        if name not in given:
            return f"no {name}"
        if given[name].shape != tensor.shape:
            return f"{name} is {tuple(given[name].shape)} and not {tuple(tensor.shape)}"
    return next((f"{name} has no place in it" for name in given if name not in needed), "")


def _check_plain(path: Path) -> None:
    """Raise NoWeights for a zip whose members have more bytes than the file: tensors are never packed."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        left = os.stat(path).st_size
        for entry in archive.infolist():
            left -= entry.file_size
            if entry.compress_type != zipfile.ZIP_STORED or left < 0:
                raise NoWeights(f"{entry.filename} is packed, tensors lie as they are")


def reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"broken or cut off ({one_line(str(error) or repr(error), 80)})"


class NoWeights(pickle.UnpicklingError):
    """What an archive holds or asks for that weights do not."""


def is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):  # which is False for a file that is not there
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except BROKEN:
        return False
