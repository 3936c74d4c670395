"""OpenAI's TorchScript archives of CLIP, read as tensors without running their code.

A TorchScript archive is a zip: `NAME/data.pkl` pickles the modules as objects with a dict of attributes,
`NAME/data/<key>` are the tensors' bytes, `NAME/code/**.py` says which attributes are parameters and buffers.
torch.jit.load would compile that code; here it is only searched for names.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import re
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipsheet.weights.load import BROKEN, NoWeights, is_torchscript, load_state, reason
from clipsheet.weights.table import refused

if TYPE_CHECKING:
    import torch


def openai_clip_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of one of OpenAI's `ViT-*.pt` by OpenAI's names, in the types they are stored in.

    Nothing in the archive is executed. Any other file goes to load_state().

    Raises:
        CallError: as for load_state().
    """
    if not is_torchscript(path):
        return load_state(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _Archive(archive, os.stat(path).st_size).state()
    except BROKEN as error:
        raise refused(path, str(error) if isinstance(error, NoWeights) else reason(error)) from error


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


_STORAGES = {
    "HalfStorage": "float16", "BFloat16Storage": "bfloat16", "FloatStorage": "float32",
    "DoubleStorage": "float64", "CharStorage": "int8", "ByteStorage": "uint8", "ShortStorage": "int16",
    "IntStorage": "int32", "LongStorage": "int64", "BoolStorage": "bool",
}  # fmt: skip


#: Many times what those of ViT-L/14 come to.
PICKLE_BYTES = 8 << 20
CODE_BYTES = 8 << 20
MODULES = 100_000


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
            raise NoWeights(f"its numbers are not {sys.byteorder}-endian")
        data = read_member(self._archive, f"{self._top}/data.pkl", PICKLE_BYTES)
        _check_memo(data)
        root = _TensorsOnly(io.BytesIO(data), self._bytes).load()
        found: dict[str, torch.Tensor] = {}
        self._collect(root, "", found)
        if not found:
            raise NoWeights("a TorchScript archive without parameters")
        return found

    def _bytes(self, key: str, count: int) -> bytearray:
        """The `count` bytes of a tensor's storage."""
        entry = self._archive.getinfo(f"{self._top}/data/{key}")
        if entry.file_size != count:
            raise NoWeights(f"tensor {key} has {entry.file_size:,} bytes where {count:,} are needed")
        if key not in self._storages:
            self._unread -= count
            if entry.compress_type != zipfile.ZIP_STORED or self._unread < 0:
                raise NoWeights(f"tensor {key} is packed, tensors lie as they are")
            self._storages[key] = bytearray(self._archive.read(entry))
        return self._storages[key]

    def _collect(self, held: Any, prefix: str, found: dict[str, torch.Tensor]) -> None:
        import torch

        self._modules_left -= 1
        if self._modules_left < 0:  # a few that hold each other twice make a tree without end
            raise NoWeights(f"a TorchScript archive of more than {MODULES:,} modules")
        if not isinstance(held, _Held) or not isinstance(held.attributes, dict):
            raise NoWeights("a TorchScript archive without a module")
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
            raise NoWeights(f"its pickle remembers its object {count} as number {argument:,}")


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
        raise NoWeights(f"its pickle asks for {module}.{name}, weights are tensors only")

    def persistent_load(self, pid: Any) -> Any:
        """[numel] tensor of ("storage", dtype, key, device, numel)."""
        import torch

        _, dtype, key, _, numel = pid
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str) or not isinstance(numel, int):
            raise NoWeights("its pickle names a storage in a form that is not known")
        data = self._read(key, numel * dtype.itemsize)
        return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)

    def _tensor(
        self, storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
    ) -> torch.Tensor:
        if math.prod(size) > storage.numel():  # strides of 0 would make a huge tensor of a single number
            raise NoWeights(f"a tensor {list(size)} of {storage.numel()} numbers")
        return storage.as_strided(size, stride, offset)  # which refuses to reach beyond the storage

    def _first(self, value: Any, *_: Any) -> Any:
        return value
