"""The vectors of one feature with one set of parameters on disk, found by key and position."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipsheet import places
from clipsheet.errors import StorageError, storing
from clipsheet.store.cells import COMPACT_FILES
from clipsheet.store.keys import KEY_BYTES
from clipsheet.store.locks import ProcessFile, ended_among

POSITION_STEPS = 10**6
SPAN_STEP = 0xFFFFFFFF  # of the record of a span
MERGE_FILES = 50


@dataclass(frozen=True)
class VectorFolder:
    """The vectors of one feature with one set of parameters on disk.

        feature.txt                     what the fingerprint stands for
        <utc>-<host>-<pid>.<D>.vectors  vectors of one process: D floats each
        <utc>-<host>-<pid>.<D>.keys     whose they are, in the same order: key, position, checksum

    A vector is that of the picture at a position (0 to 1) of the file that a key stands for, or of a span of its
    frames, from one position to another. Both files hold records of one length and are only ever appended to, the
    vector first: a kill costs at most the last one. Keys are read whole, vectors only where they are used.
    """

    folder: Path
    meaning: str

    def load(self) -> Vectors:
        """Those that are there, to be looked up."""
        while True:
            try:
                return Vectors([(path, *_records(path)) for path in self._files()])
            except FileNotFoundError:  # put together meanwhile, by another process
                continue

    def writer(self) -> VectorWriter:
        """For this process's vectors."""
        with storing(self.folder):
            places.make_folder(self.folder)
            places.write(self.folder / "feature.txt", f"{self.meaning}\n".encode())
        return VectorWriter(self.folder)

    def merge(self) -> None:
        """Put the files of ended processes into one where they are many."""
        files = self._files()
        if len(files) < MERGE_FILES:
            return
        with ended_among(files[:COMPACT_FILES], self.folder) as ended:
            if not ended:
                return
            merged = ended[0].with_name(f"merged-{ended[0].name}")
            parts = [_records(path) for path in ended]
            for number, path in enumerate((_keys_of(merged), merged)[::-1]):
                with places.replacing(path) as file:
                    for keys, vectors in parts:
                        file.write((vectors if number == 0 else keys).tobytes())
            for path in ended:
                places.remove(_keys_of(path))
                places.remove(path)

    def _files(self) -> list[Path]:
        return [path.with_suffix(".vectors") for path in places.entries(self.folder, "*.keys")]


#: Where in a file: the picture at a position, or the frames from one position to another; 0 to 1.
At = float | tuple[float, float]

_KEY = np.dtype([("key", f"S{KEY_BYTES}"), ("step", ">u4"), ("crc", "<u4")])


def _keys_of(path: Path) -> Path:
    return path.with_suffix(".keys")


def _records(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The keys [N] of a file of vectors, and its vectors [N, D], not in memory before they are used."""
    dimensions = int(path.name.split(".")[-2])
    keys = np.frombuffer(_whole(places.read(_keys_of(path)), _KEY.itemsize), _KEY)
    count = min(len(keys), places.status(path).st_size // (4 * dimensions))
    if not count:
        return keys[:0], np.empty((0, dimensions), "<f4")
    return keys[:count], np.memmap(path, "<f4", "r", shape=(count, dimensions))


def _whole(data: bytes, length: int) -> bytes:
    return data[: len(data) // length * length]


def _names(keys: np.ndarray, steps: np.ndarray | int) -> pa.Array:
    """[N] bytes, which tell a picture from all others."""
    both = np.empty(len(keys), [("key", f"S{KEY_BYTES}"), ("step", ">u4")])
    both["key"], both["step"] = keys, steps
    fixed = pa.binary(both.dtype.itemsize)
    return pa.Array.from_buffers(fixed, len(both), [None, pa.py_buffer(both.tobytes())])


def _step(position: float) -> int:
    return round(position * POSITION_STEPS)


def _named(keys: np.ndarray, at: At) -> tuple[np.ndarray, int]:
    """[N] key and the step by which the records of N files at one place are known.

    A span has a key of its own, made of the file's and of both ends, and a step that no position has.
    """
    if not isinstance(at, tuple):
        return keys, _step(at)
    ends = f" {_step(at[0])} {_step(at[1])}".encode()
    spans = [hashlib.blake2b(key + ends, digest_size=KEY_BYTES // 2).hexdigest() for key in keys.tolist()]
    return np.array(spans, f"S{KEY_BYTES}"), SPAN_STEP


class Vectors:
    """The vectors that were on disk at one moment."""

    def __init__(self, files: Sequence[tuple[Path, np.ndarray, np.ndarray]]) -> None:
        self._files = [file for file in files if len(file[1])]
        self._starts = np.cumsum([0, *(len(keys) for _, keys, _ in self._files)])
        parts = [_names(keys["key"], keys["step"]) for _, keys, _ in self._files]
        self._names = pa.concat_arrays(parts) if parts else None

    def find(self, keys: pa.Array, positions: Sequence[At]) -> np.ndarray:
        """[N, P] int64: where the vectors of N files at P positions or spans are, -1 where there is none."""
        if self._names is None or not positions:
            return np.full((len(keys), len(positions)), -1)
        wanted = np.array(keys.to_pylist(), f"S{KEY_BYTES}")
        names = pa.concat_arrays([_names(*_named(wanted, position)) for position in positions])
        places = pc.fill_null(pc.index_in(names, value_set=self._names), -1).to_numpy()
        return places.astype(np.int64).reshape(len(positions), len(keys)).T

    def matrix(self) -> np.ndarray:
        """[V, D] float32: all vectors, whose rows are the places that find() gives.

        Not in memory before they are used where they are in one file, as VectorFolder.merge() leaves them; their
        checksums are not looked at.
        """
        vectors = [vectors for _, _, vectors in self._files]
        if not vectors:
            return np.empty((0, 0), np.float32)
        return vectors[0] if len(vectors) == 1 else np.concatenate(vectors)

    def read(self, places: Sequence[int]) -> np.ndarray:
        """[P, D] float32: the vectors at places that find() gave.

        Raises:
            StorageError: a record is damaged.
        """
        found = []
        for place in places:
            number = int(np.searchsorted(self._starts, place, side="right")) - 1
            path, keys, vectors = self._files[number]
            row = place - self._starts[number]
            vector = np.array(vectors[row], np.float32)
            if _checksum(keys[row], vector) != keys[row]["crc"]:
                raise StorageError(
                    f"{path}: damaged; delete it and {_keys_of(path).name} to have its pictures embedded again"
                )
            found.append(vector)
        return np.stack(found)


def _checksum(key: np.void, vector: np.ndarray) -> int:
    return zlib.crc32(vector.astype("<f4").tobytes(), zlib.crc32(key.tobytes()[:-4]))


class VectorWriter:
    """The vectors of one process, on the disk's way before a score that is made of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[ProcessFile] = []

    def append(self, key: str, positions: Sequence[At], vectors: np.ndarray) -> None:
        """Keep the vectors [P, D] of the pictures at P positions, or of P spans, of a file.

        Raises:
            StorageError: the disk is full or gone.
        """
        keys = np.zeros(len(positions), _KEY)
        file = np.array([key], f"S{KEY_BYTES}")
        for number, at in enumerate(positions):
            keys[number]["key"], keys[number]["step"] = (named := _named(file, at))[0][0], named[1]
        for record, vector in zip(keys, vectors, strict=True):
            record["crc"] = _checksum(record, vector)
        if not self._files:
            new = ProcessFile.new(self._folder, f"{vectors.shape[1]}.vectors")
            self._files = [new, ProcessFile(_keys_of(new.path))]
        for part, data in zip(self._files, (vectors.astype("<f4"), keys), strict=True):
            part.append(data.tobytes())

    def close(self) -> None:
        """There are no more."""
        for file in self._files:
            file.close()
        self._files = []
