"""Write safetensors whose tensors lie at multiples of 64 bytes.

PyTorch computes on the mapped file, and the last bits of a matrix product depend on whether its operands are aligned as
PyTorch's allocator aligns them. The writer of the package safetensors aligns to 8 bytes and puts scalars first. The
format (https://huggingface.co/docs/safetensors) allows any order without gaps, and spaces behind the header.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ALIGNMENT = 64  # bytes, of PyTorch's allocator on CPUs
DTYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64",
    "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
}  # fmt: skip


def write_aligned(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], file: IO[bytes]) -> None:
    """Write tensors one after another; those that are no multiple of 64 bytes long come last.

    Raises:
        ValueError: a sparse tensor, or one of another type than DTYPES has.
    """
    kinds = {name: _kind(name, tensor) for name, tensor in tensors.items()}
    ordered = sorted(tensors, key=lambda name: (tensors[name].nbytes % ALIGNMENT != 0, name))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name in ordered:
        tensor = tensors[name]
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": kinds[name], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in ordered:
        file.write(_bytes(tensors[name]))


def _kind(name: str, tensor: torch.Tensor) -> str:
    kind, layout = (str(of).removeprefix("torch.") for of in (tensor.dtype, tensor.layout))
    if kind not in DTYPES or layout != "strided":
        raise ValueError(f"{name} is {layout} {kind}; known are strided {', '.join(DTYPES)}")
    return DTYPES[kind]


def _bytes(tensor: torch.Tensor) -> memoryview:
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
