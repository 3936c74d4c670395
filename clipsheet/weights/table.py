"""Weight files: which are known, and what is in one, without running anything that it holds.

Weights come as safetensors, as pickles of tensors, or as OpenAI's TorchScript archives. A pickle is a
program: only those that build plain tensors are read here, everything else is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import pickle
import pickletools
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

from clipsheet.errors import CallError, one_line

if TYPE_CHECKING:
    import torch

REPOSITORY = Path(__file__).resolve().parents[2]
DOWNLOAD = "python -m tools.download_models"
SHOWN = 12  # digits of a sum that tell two files apart

#: What readers raise on bytes that are no weights, beside what they raise on a broken disk.
BROKEN = (
    OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError, AssertionError,
    ArithmeticError, NotImplementedError, MemoryError, SyntaxError, pickle.UnpicklingError, struct.error,
    zipfile.BadZipFile,
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
    """The published file that `path` is by its name; in a folder of its own, by the folder's name too.

    Of a file that several models share, it is that of the model whose other files lie beside it.
    """
    whole = Path(os.path.abspath(path))
    found = []
    for model in table().values():
        for file in model.files:
            own = file.path.split("/")
            if whole.parts[-len(own) :] == tuple(own):
                root = whole.parents[len(own) - 1]
                beside = any((root / other.path).exists() for other in model.files if other != file)
                found.append((not beside, file))
    return min(found, key=lambda pair: pair[0])[1] if found else None


def absent(path: Path, name: str = "") -> str:
    """The line for a weight file that is not there: which, what it is, and how to get it.

    Args:
        name: of its model; used only where the table has that model and does not know the file.
    """
    file = known(path)
    if file is not None:
        size = f", {file.bytes:,} bytes" if file.bytes else ""
        expected = f", sha256 {file.sha256}" if file.sha256 else ""
        return f"no {path}{size}{expected}: {DOWNLOAD} {file.model}"
    folder = Path(os.path.abspath(path)).parent.name  # of what is made out of a model's files
    models = [model for model in (folder, name) if model in table()]
    return f"no {path}: {DOWNLOAD} {models[0]}" if models else f"no {path}: put it there"


def unlike(path: Path, sha256: str) -> str:
    """The line for a file of that sum that is not the published one of its name; empty when it is."""
    file = known(path)
    if file is None or file.sha256 is None or file.sha256 == sha256:
        return ""
    sums = f"sha256 {sha256[:SHOWN]}..., published {file.sha256[:SHOWN]}..."
    return f"{path} is not the published file ({sums}): {DOWNLOAD} {file.model}"


def refused(path: Path, why: str) -> CallError:
    """The error for a weight file that cannot be used: which, why, and how to get the right one."""
    file = known(path)
    if file is None:
        return CallError(f"{path}: {one_line(why)}; get it again from where it came")
    expected = f"; its sha256 should be {file.sha256}" if file.sha256 else ""
    return CallError(f"{path}: {one_line(why)}{expected}; {DOWNLOAD} {file.model}")


def place_of(name: str, models: Path) -> Path:
    """Where a file or folder is that was named: by its path, or inside the folder of the weights."""
    given = Path(name)
    return given if given.is_absolute() or given.exists() else models / name


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
    if _is_torchscript(path):
        raise refused(path, "a TorchScript archive, where plain tensors are needed")
    try:
        _check_plain(path)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)  # it refuses them next
            state = torch.load(path, map_location="cpu", weights_only=True)
    except _NoWeights as error:
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


def _check_plain(path: Path) -> None:
    """Raise _NoWeights for a zip whose members have more bytes than the file: tensors are never packed."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        left = os.stat(path).st_size
        for entry in archive.infolist():
            left -= entry.file_size
            if entry.compress_type != zipfile.ZIP_STORED or left < 0:
                raise _NoWeights(f"{entry.filename} is packed, tensors lie as they are")


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
            return _Archive(archive, os.stat(path).st_size).state()
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


#: Many times what those of ViT-L/14 come to.
PICKLE_BYTES = 8 << 20
CODE_BYTES = 8 << 20
MODULES = 100_000


class _NoWeights(pickle.UnpicklingError):
    """What an archive holds or asks for that weights do not."""


class _Held:
    """An object of a TorchScript class: what it is called, and its attributes."""

    qualified = ""
    attributes: Any = None

    def __setstate__(self, attributes: Any) -> None:
        self.attributes = attributes


class _Archive:
    """The modules of an open TorchScript archive of so many bytes."""

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self._archive = archive
        self._top = next(n for n in archive.namelist() if n.endswith("/constants.pkl")).rsplit("/", 1)[0]
        self._unread = size  # bytes of storages that the file can still hold
        self._storages: dict[str, bytearray] = {}
        self._code_left = CODE_BYTES
        self._declared: dict[str, dict[str, frozenset[str]]] = {}
        self._modules_left = MODULES

    def state(self) -> dict[str, torch.Tensor]:
        order = f"{self._top}/byteorder"
        written: str = sys.byteorder
        if order in self._archive.namelist():
            written = read_member(self._archive, order, len("little")).decode()
        if written != sys.byteorder:
            raise _NoWeights(f"its numbers are not {sys.byteorder}-endian")
        data = read_member(self._archive, f"{self._top}/data.pkl", PICKLE_BYTES)
        _check_memo(data)
        root = _TensorsOnly(io.BytesIO(data), self._bytes).load()
        found: dict[str, torch.Tensor] = {}
        self._collect(root, "", found)
        if not found:
            raise _NoWeights("a TorchScript archive without parameters")
        return found

    def _bytes(self, key: str, count: int) -> bytearray:
        """The `count` bytes of a tensor's storage."""
        entry = self._archive.getinfo(f"{self._top}/data/{key}")
        if entry.file_size != count:
            raise _NoWeights(f"tensor {key} has {entry.file_size:,} bytes where {count:,} are needed")
        if key not in self._storages:
            self._unread -= count
            if entry.compress_type != zipfile.ZIP_STORED or self._unread < 0:
                raise _NoWeights(f"tensor {key} is packed, tensors lie as they are")
            self._storages[key] = bytearray(self._archive.read(entry))
        return self._storages[key]

    def _collect(self, held: Any, prefix: str, found: dict[str, torch.Tensor]) -> None:
        import torch

        self._modules_left -= 1
        if self._modules_left < 0:  # a few that hold each other twice make a tree without end
            raise _NoWeights(f"a TorchScript archive of more than {MODULES:,} modules")
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
        module, _, name = qualified.rpartition(".")
        if module not in self._declared:
            self._declared[module] = self._read_declared(module)
        return self._declared[module].get(name, frozenset())

    def _read_declared(self, module: str) -> dict[str, frozenset[str]]:
        """The parameters and buffers of each class in a file of code."""
        file = f"{self._top}/code/{module.replace('.', '/')}.py"
        code = read_member(self._archive, file, self._code_left)
        self._code_left -= len(code)
        declared = {}
        for name, body in re.findall(r"^class (\w+)\(.*\n((?:[ \t].*\n|\n)*)", code.decode(), re.MULTILINE):
            names: set[str] = set()
            for listed in re.findall(r"^  __(?:parameters|buffers)__ = (.*)$", body, re.MULTILINE):
                if not re.fullmatch(r'\[(?:"[^"\\]*",? ?)*\]', listed):
                    raise SyntaxError(f"class {name} lists its tensors as {listed[:40]}")
                names |= set(re.findall(r'"([^"]*)"', listed))
            declared[name] = frozenset(names)
        return declared


def _check_memo(data: bytes) -> None:
    """Raise for a pickle that numbers what it remembers with gaps: the reader makes room for all between."""
    for count, (code, argument, _) in enumerate(pickletools.genops(data)):
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument is not None and argument > count:
            raise _NoWeights(f"its pickle remembers its object {count} as number {argument:,}")


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
