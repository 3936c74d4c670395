"""The vectors of one feature with one set of parameters on disk, found by key and position."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipsheet import tables
from clipsheet.errors import StorageError, storing
from clipsheet.store.cells import COMPACT_FILES
from clipsheet.store.keys import KEY_BYTES
from clipsheet.store.locks import ProcessFile, ended_among

POSITION_STEPS = 10**6
MERGE_FILES = 50


@dataclass(frozen=True)
class VectorFolder:
    """The vectors of one feature with one set of parameters on disk.

        feature.txt                     what the fingerprint stands for
        <utc>-<host>-<pid>.<D>.vectors  vectors of one process: D floats each
        <utc>-<host>-<pid>.<D>.keys     whose they are, in the same order: key, position, checksum

    A vector is that of the picture at a position (0 to 1) of the file that a key stands for. Both files
    hold records of one length and are only ever appended to, the vector first: a kill costs at most the
    last one. Keys are read whole, vectors only where they are used.
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
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "feature.txt").write_text(self.meaning + "\n")
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
                with tables.replacing(path) as file:
                    for keys, vectors in parts:
                        file.write((vectors if number == 0 else keys).tobytes())
            for path in ended:
                _keys_of(path).unlink()
                path.unlink()

    def _files(self) -> list[Path]:
        return sorted(path.with_suffix(".vectors") for path in self.folder.glob("*.keys"))


_KEY = np.dtype([("key", f"S{KEY_BYTES}"), ("step", ">u4"), ("crc", "<u4")])


def _keys_of(path: Path) -> Path:
    return path.with_suffix(".keys")


def _records(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The keys [N] of a file of vectors, and its vectors [N, D], not in memory before they are used."""
    dimensions = int(path.name.split(".")[-2])
    keys = np.frombuffer(_whole(_keys_of(path).read_bytes(), _KEY.itemsize), _KEY)
    count = min(len(keys), path.stat().st_size // (4 * dimensions))
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


class Vectors:
    """The vectors that were on disk at one moment."""

    def __init__(self, files: Sequence[tuple[Path, np.ndarray, np.ndarray]]) -> None:
        self._files = [file for file in files if len(file[1])]
        self._starts = np.cumsum([0, *(len(keys) for _, keys, _ in self._files)])
        parts = [_names(keys["key"], keys["step"]) for _, keys, _ in self._files]
        self._names = pa.concat_arrays(parts) if parts else None

    def find(self, keys: pa.Array, positions: Sequence[float]) -> np.ndarray:
        """[N, P] int64: where the vectors of N files at P positions are, -1 where there is none."""
        if self._names is None or not positions:
            return np.full((len(keys), len(positions)), -1)
        wanted = np.array(keys.to_pylist(), f"S{KEY_BYTES}")
        names = pa.concat_arrays([_names(wanted, _step(position)) for position in positions])
        places = pc.fill_null(pc.index_in(names, value_set=self._names), -1).to_numpy()
        return places.astype(np.int64).reshape(len(positions), len(keys)).T

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

    def append(self, key: str, positions: Sequence[float], vectors: np.ndarray) -> None:
        """Keep the vectors [P, D] of the pictures at P positions of a file.

        Raises:
            StorageError: the disk is full or gone.
        """
        keys = np.zeros(len(positions), _KEY)
        keys["key"], keys["step"] = key.encode(), [_step(p) for p in positions]
        for record, vector in zip(keys, vectors, strict=True):
            record["crc"] = _checksum(record, vector)
        if not self._files:
            file = ProcessFile.new(self._folder, f"{vectors.shape[1]}.vectors")
            self._files = [file, ProcessFile(_keys_of(file.path))]
        for file, data in zip(self._files, (vectors.astype("<f4"), keys), strict=True):
            file.append(data.tobytes())

    def close(self) -> None:
        """There are no more."""
        for file in self._files:
            file.close()
        self._files = []
