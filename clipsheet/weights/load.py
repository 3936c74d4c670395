"""Weight files read without executing anything, whole or not at all."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipsheet.errors import one_line
from clipsheet.weights.table import refused

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
        raise refused(path, "a TorchScript archive, where plain tensors are needed")
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


def read_member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """A member of a zip, of at most `most` bytes.

    Raises:
        ValueError: it has more, or is packed by other means than deflation, which cannot be bounded.
    """
    entry = archive.getinfo(name)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is packed by method {entry.compress_type}, only 8 is read")
    if entry.file_size > most:
        raise ValueError(f"{name} unpacks to {entry.file_size:,} bytes, at most {most:,} are read")
    with archive.open(entry) as file:
        return file.read(entry.file_size)  # which may be a lie, so never all that is there


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
