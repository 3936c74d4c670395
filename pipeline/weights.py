"""Weight files: which are known, and what is in one, without running anything that it holds.

Weights come as safetensors, as pickles of tensors, or as OpenAI's TorchScript archives. A pickle is a
program: only those that build plain tensors are read here, everything else is refused.
"""

from __future__ import annotations

import ast
import hashlib
import math
import os
import pickle
import re
import struct
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipeline.errors import CallError, one_line

if TYPE_CHECKING:
    import torch

REPOSITORY = Path(__file__).resolve().parents[1]
DOWNLOAD = "python -m tools.download_models"

#: What readers raise on bytes that are no weights, beside what they raise on a broken disk.
BROKEN = (
    OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError, AssertionError,
    ArithmeticError, NotImplementedError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


@dataclass(frozen=True)
class WeightFile:
    """A published file.

    Attributes:
        model: the name that tools.download_models knows it by.
        path: inside pretrained_models/, with `/`.
        url: where it is published.
        bytes: its size; None where it is not known.
        sha256: in hex; None where it is not known.
    """

    model: str
    path: str
    url: str
    bytes: int | None
    sha256: str | None

    def wrong(self, path: Path) -> str:
        """What tells the file at `path` from the published one; empty when nothing does."""
        size = os.stat(path).st_size
        if self.bytes is not None and size != self.bytes:
            return f"{size:,} bytes where {self.bytes:,} are published"
        if self.sha256 is None:
            return ""
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        return "" if found == self.sha256 else f"its sha256 is {found}, published is {self.sha256}"


@dataclass(frozen=True)
class Model:
    """Files that belong together.

    Attributes:
        about: what it is.
        columns: what needs it.
        licence: of the weights.
        then: the command after the download, with FOLDER for pretrained_models; empty if there is none.
    """

    name: str
    about: str
    columns: tuple[str, ...]
    licence: str
    then: str
    files: tuple[WeightFile, ...]


def table() -> Mapping[str, Model]:
    """The known models by name: tools/weights.yaml, or the file that CLIPSHEET_WEIGHTS names (a mirror's).

    Raises:
        CallError: the file is not there or not of that form.
    """
    return _table(os.environ.get("CLIPSHEET_WEIGHTS") or os.fspath(REPOSITORY / "tools" / "weights.yaml"))


@cache
def _table(path: str) -> Mapping[str, Model]:
    try:
        entries = yaml.safe_load(Path(path).read_text("utf-8"))
        models = [_model(entry) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise CallError(
            f"{path}: not a table of weights: {one_line(repr(error))}; see tools/weights.yaml"
        ) from error
    return {model.name: model for model in models}


def _model(entry: Mapping[str, Any]) -> Model:
    name = str(entry["name"])
    files = tuple(WeightFile(name, f["path"], f["url"], f["bytes"], f["sha256"]) for f in entry["files"])
    for file in files:
        if os.path.isabs(file.path) or ".." in file.path.split("/"):
            raise ValueError(f"path {file.path!r} leaves the folder")
    columns = tuple(entry["columns"])
    return Model(name, entry["about"], columns, entry["licence"], entry.get("then", ""), files)


def known(path: Path) -> WeightFile | None:
    """The published file that `path` is by its name; in a folder of its own, by the folder's name too."""
    parts = Path(os.path.abspath(path)).parts
    for model in table().values():
        for file in model.files:
            own = tuple(file.path.split("/"))
            if parts[-len(own) :] == own:
                return file
    return None


def refused(path: Path, why: str) -> CallError:
    """The error for a weight file that cannot be used: which, why, and how to get the right one."""
    file = known(path)
    if file is None:
        return CallError(f"{path}: {one_line(why)}; get it again from where it came")
    expected = f"; its sha256 should be {file.sha256}" if file.sha256 else ""
    return CallError(f"{path}: {one_line(why)}{expected}; {DOWNLOAD} {file.model}")


def load_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.safetensors`, or of a pickle (`.pth`, `.pt`, `.bin`, `.ckpt`), on the CPU.

    A pickle is read with `weights_only`: what would run code is refused.

    Raises:
        CallError: not there, cut off, pickled code, or no dict of tensors.
    """
    import torch

    if path.suffix == ".safetensors":
        return _safetensors(path)
    if _is_torchscript(path):
        raise refused(path, "a TorchScript archive, where plain tensors are needed")
    try:
        with warnings.catch_warnings(action="ignore"):  # of pickles that it may refuse, and then does
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        code = (
            f"its pickle asks for {asked[1]}, weights are tensors only"
            if asked
            else "not a pickle of tensors"
        )
        raise refused(path, code) from error
    except BROKEN as error:
        raise refused(path, _reason(error)) from error
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
        raise refused(path, _reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"broken or cut off ({one_line(str(error) or repr(error), 80)})"


# --- OpenAI's CLIP -----------------------------------------------------------------------------
#
# A TorchScript archive is a zip: `NAME/data.pkl` pickles the modules as objects with a dict of
# attributes, `NAME/data/<key>` are the tensors' bytes, `NAME/code/**.py` says which attributes are
# parameters and buffers. torch.jit.load would compile that code; here it is only looked through.


def openai_clip_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of one of OpenAI's `ViT-*.pt` by OpenAI's names, in the types they are stored in.

    Nothing in the archive is executed. Any other file goes to load_state().

    Raises:
        CallError: as for load_state().
    """
    if not _is_torchscript(path):
        return load_state(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _Archive(archive).state()
    except BROKEN as error:
        raise refused(path, str(error) if isinstance(error, _NoWeights) else _reason(error)) from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):  # which is False for a file that is not there
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except BROKEN:
        return False


_STORAGES = {
    "HalfStorage": "float16", "BFloat16Storage": "bfloat16", "FloatStorage": "float32",
    "DoubleStorage": "float64", "CharStorage": "int8", "ByteStorage": "uint8", "ShortStorage": "int16",
    "IntStorage": "int32", "LongStorage": "int64", "BoolStorage": "bool",
}  # fmt: skip


class _NoWeights(pickle.UnpicklingError):
    """What an archive holds or asks for that weights do not."""


class _Held:
    """An object of a TorchScript class: what it is called, and its attributes."""

    qualified = ""
    attributes: Any = None

    def __setstate__(self, attributes: Any) -> None:
        self.attributes = attributes


class _Archive:
    """The modules of an open TorchScript archive."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._top = next(n for n in archive.namelist() if n.endswith("/constants.pkl")).rsplit("/", 1)[0]
        self._declared: dict[str, frozenset[str]] = {}

    def state(self) -> dict[str, torch.Tensor]:
        order = f"{self._top}/byteorder"
        if order in self._archive.namelist() and self._archive.read(order).decode() != sys.byteorder:
            raise _NoWeights(f"its numbers are not {sys.byteorder}-endian")
        with self._archive.open(f"{self._top}/data.pkl") as file:
            root = _TensorsOnly(file, self._bytes).load()
        found: dict[str, torch.Tensor] = {}
        self._collect(root, "", found)
        if not found:
            raise _NoWeights("a TorchScript archive without parameters")
        return found

    def _bytes(self, key: str, count: int) -> bytearray:
        """The `count` bytes of a tensor's storage."""
        entry = self._archive.getinfo(f"{self._top}/data/{key}")
        if entry.file_size != count:  # before it is read: what is packed may be huge
            raise _NoWeights(f"tensor {key} has {entry.file_size:,} bytes where {count:,} are needed")
        return bytearray(self._archive.read(entry))

    def _collect(self, held: Any, prefix: str, found: dict[str, torch.Tensor]) -> None:
        import torch

        if not isinstance(held, _Held) or not isinstance(held.attributes, dict):
            raise _NoWeights("a TorchScript archive without a module")
        own = self._tensors_of(held.qualified)
        for name, value in held.attributes.items():
            if isinstance(value, _Held):
                self._collect(value, f"{prefix}{name}.", found)
            elif isinstance(value, torch.Tensor) and name in own:
                found[prefix + name] = value

    def _tensors_of(self, qualified: str) -> frozenset[str]:
        """The parameters and buffers of a class, which its code declares in its first lines."""
        if qualified not in self._declared:
            module, _, name = qualified.rpartition(".")
            code = self._archive.read(f"{self._top}/code/{module.replace('.', '/')}.py").decode()
            body = re.search(rf"^class {re.escape(name)}\(.*\n((?:[ \t].*\n|\n)*)", code, re.MULTILINE)
            lists = re.findall(
                r"^  __(?:parameters|buffers)__ = (\[.*\])$", body[1] if body else "", re.MULTILINE
            )
            self._declared[qualified] = frozenset(n for text in lists for n in ast.literal_eval(text))
        return self._declared[qualified]


class _TensorsOnly(pickle.Unpickler):
    """Builds modules as _Held and tensors as tensors, and nothing else."""

    def __init__(self, file: Any, read: Callable[[str, int], bytearray]) -> None:
        super().__init__(file)
        self._read = read
        self._builders: dict[tuple[str, str], Callable[..., Any]] = {
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): self._first,
            ("torch.jit._pickle", "restore_type_tag"): self._first,
            **{("torch.jit._pickle", f"build_{of}list"): list for of in ("int", "double", "bool", "tensor")},
            ("collections", "OrderedDict"): OrderedDict,
        }

    def find_class(self, module: str, name: str) -> Any:
        import torch

        if module == "__torch__" or module.startswith("__torch__."):
            return type(name, (_Held,), {"qualified": f"{module}.{name}"})
        if module == "torch" and name in _STORAGES:
            return getattr(torch, _STORAGES[name])
        if (module, name) in self._builders:
            return self._builders[module, name]
        raise _NoWeights(f"its pickle asks for {module}.{name}, weights are tensors only")

    def persistent_load(self, pid: Any) -> Any:
        """[numel] tensor of ("storage", dtype, key, device, numel)."""
        import torch

        _, dtype, key, _, numel = pid
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str) or not isinstance(numel, int):
            raise _NoWeights("its pickle names a storage in a form that is not known")
        data = self._read(key, numel * dtype.itemsize)
        return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)

    def _tensor(
        self, storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
    ) -> torch.Tensor:
        if math.prod(size) > storage.numel():  # strides of 0 would make a huge tensor of a single number
            raise _NoWeights(f"a tensor {list(size)} of {storage.numel()} numbers")
        return storage.as_strided(size, stride, offset)  # which refuses to reach beyond the storage

    def _first(self, value: Any, *_: Any) -> Any:
        return value
