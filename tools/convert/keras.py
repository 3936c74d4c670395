"""LAION's safety head out of the files it is published in: a TensorFlow SavedModel or Keras' HDF5.

Neither TensorFlow nor Keras is needed: a SavedModel keeps its variables in two files, an index (a
table of LevelDB's form, https://github.com/google/leveldb/blob/main/doc/table_format.md, whose values
are the protobufs of tensorflow/core/protobuf/tensor_bundle.proto) and the bare numbers.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipsheet.errors import CallError
from clipsheet.weights.load import BROKEN
from clipsheet.weights.table import refused
from scoring.nsfw.head import checked_head
from tools.convert.torchscript import read_member

if TYPE_CHECKING:
    import torch

LEVELDB_MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES = 48
TRAILER_BYTES = 5  # after each block: how it is packed, and its checksum
VARINT_BYTES = 10  # of 64 bits, 7 to a byte
#: Of the head's variables, and of the table that names them; those published have 1 MB and 2 kB.
MOST_BYTES = 64 << 20
INDEX_BYTES = 1 << 20
#: Of tensorflow/core/framework/types.proto; other types are no weights.
DTYPES = {1: "<f4", 2: "<f8", 9: "<i8", 19: "<f2"}


def safety_head(path: Path) -> dict[str, torch.Tensor]:
    """LAION's safety head out of the published `.zip` or a Keras `.h5`.

    Returns:
        float32, as scoring.nsfw.head.read_head() has it.

    Raises:
        CallError: broken, or not such a head.
    """
    import torch

    arrays = (_of_saved_model if path.suffix == ".zip" else _of_hdf5)(path)
    state = {name: torch.from_numpy(np.array(a, np.float32, order="C")) for name, a in arrays.items()}
    return checked_head(path, state)


def _head(
    mean: np.ndarray, variance: np.ndarray, dense: Sequence[tuple[np.ndarray, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Keras' layers, kernels [in, out], by torch's names."""
    state = {"mean": mean, "variance": variance}
    for number, (kernel, bias) in enumerate(dense):
        state |= {f"{2 * number}.weight": kernel.T, f"{2 * number}.bias": bias}
    return state


# --- SavedModel --------------------------------------------------------------------------------


def _of_saved_model(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            [index] = [n for n in archive.namelist() if n.endswith("variables/variables.index")]
            data = read_member(archive, index.removesuffix("index") + "data-00000-of-00001", MOST_BYTES)
            variables = read_bundle(read_member(archive, index, INDEX_BYTES), data)
        layers: dict[int, dict[str, np.ndarray]] = {}
        for name, array in variables.items():
            if found := re.fullmatch(r"layer_with_weights-(\d+)/(\w+)/\.ATTRIBUTES/VARIABLE_VALUE", name):
                layers.setdefault(int(found[1]), {})[found[2]] = array
        ordered = [layers[number] for number in sorted(layers)]
        [normalization] = [layer for layer in ordered if "mean" in layer]
        dense = [(layer["kernel"], layer["bias"]) for layer in ordered if "kernel" in layer]
        return _head(normalization["mean"], normalization["variance"], dense)
    except BROKEN as error:
        raise refused(path, f"no SavedModel of LAION's safety head, or cut off ({error})") from error


def read_bundle(index: bytes, data: bytes) -> dict[str, np.ndarray]:
    """The numeric variables of a tensor bundle of one shard, by name.

    Args:
        index: `variables.index`.
        data: `variables.data-00000-of-00001`.

    Raises:
        ValueError: not of that form.
    """
    if len(index) < FOOTER_BYTES or int.from_bytes(index[-8:], "little") != LEVELDB_MAGIC:
        raise ValueError("no table of variables")
    footer = index[-FOOTER_BYTES:]
    at = 0
    for _ in range(2):  # the place of a block that is not needed
        _, at = _varint(footer, at)
    variables = {}
    for _, place in _block(index, footer, at):
        for key, value in _block(index, place, 0):
            entry = dict(_fields(value))
            if key and int(entry.get(1, 0)) in DTYPES:
                variables[key.decode()] = _variable(entry, value, data)
    return variables


def _variable(entry: dict[int, Any], value: bytes, data: bytes) -> np.ndarray:
    """A BundleEntryProto's array: 1 dtype, 2 shape, 3 shard, 4 offset, 5 size."""
    sides = [dict(_fields(dim)).get(1, 0) for f, dim in _fields(entry.get(2, b"")) if f == 2]
    offset, size = entry.get(4, 0), entry.get(5, 0)
    if entry.get(3, 0) or offset + size > len(data):
        raise ValueError("the data of a variable is not there")
    return np.frombuffer(memoryview(data)[offset : offset + size], DTYPES[entry[1]]).reshape(sides)


def _block(table: bytes, place: bytes, at: int) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a table's block; `place[at:]` begins with its offset and size."""
    offset, at = _varint(place, at)
    size, _ = _varint(place, at)
    block = table[offset : offset + size]
    if len(table) < offset + size + TRAILER_BYTES or table[offset + size]:
        raise ValueError("a block is missing, or packed in a way that is not known")
    restarts = int.from_bytes(block[-4:], "little")
    at, end, key = 0, len(block) - 4 - 4 * restarts, b""
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + own]
        at += own
        yield key, block[at : at + length]
        at += length


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values of a protobuf message: int, or bytes of what is nested."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
        elif tag & 7 == 2:
            length, at = _varint(message, at)
            yield tag >> 3, message[at : at + length]
            at += length
        elif tag & 7 in (1, 5):
            at += 8 if tag & 7 == 1 else 4
        else:
            raise ValueError("no protobuf message")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * VARINT_BYTES, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number without an end")


# --- HDF5 --------------------------------------------------------------------------------------


def _of_hdf5(path: Path) -> dict[str, np.ndarray]:
    try:
        import h5py
    except ImportError as error:
        raise CallError(f"{path}: HDF5 is read by h5py; pip install h5py") from error
    try:
        with h5py.File(path, "r") as file:
            layers = (
                _keras3_layers(file) if "layers" in file else _keras2_layers(file.get("model_weights", file))
            )
        dense = [(arrays[0], arrays[1]) for arrays in layers if arrays[0].ndim == 2]
        [normalization] = [arrays for arrays in layers if arrays[0].ndim == 1]
        return _head(normalization[0], normalization[1], dense)
    except BROKEN as error:
        raise refused(path, f"no HDF5 of LAION's safety head, or cut off ({error})") from error


def _keras2_layers(group: Any) -> list[list[np.ndarray]]:
    """The arrays of each layer that has some, in the order that the file's attributes give."""
    layers = [group[name] for name in _names(group.attrs["layer_names"])]
    arrays = [[_array(layer[name]) for name in _names(layer.attrs["weight_names"])] for layer in layers]
    return [a for a in arrays if a and a[0].dtype.kind == "f"]


def _keras3_layers(file: Any) -> list[list[np.ndarray]]:
    """The arrays of each layer that has some: `layers/dense_1/vars/0`."""
    groups = [file["layers"][name] for name in sorted(file["layers"], key=_natural)]
    filled = [group["vars"] for group in groups if "vars" in group and len(group["vars"])]
    arrays = [[_array(group[name]) for name in sorted(group, key=_natural)] for group in filled]
    return [a for a in arrays if a[0].dtype.kind == "f"]


def _array(dataset: Any) -> np.ndarray:
    if dataset.nbytes > MOST_BYTES:  # which need not be in the file: it may be packed, or a fill value
        raise ValueError(f"{dataset.name} has {dataset.nbytes:,} bytes, at most {MOST_BYTES:,} are read")
    return np.asarray(dataset)


def _names(attribute: Any) -> list[str]:
    return [name.decode() if isinstance(name, bytes) else str(name) for name in attribute]


def _natural(name: str) -> list[tuple[int, str]]:
    """`dense` before `dense_2` before `dense_10`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
