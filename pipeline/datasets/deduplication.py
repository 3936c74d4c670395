"""Drop near-duplicates: python -m pipeline.datasets.deduplication META

Three frames of every clip, at 10, 50 and 90 %, are hashed to 64 bits each (imagededup), inside black
borders, so that a letterboxed copy is still a copy. Two clips are duplicates when their frames differ
in at most `--threshold` bits on average. A black or flat frame says nothing and is left out, and so is
a picture of fewer than 8 pixels in a direction; where
fewer than three frames are left to compare, they must agree better: at most 3/4 of the threshold for
two, half for one, for that many pairs of unrelated frames agree by chance. Pieces of one source that
share no time look alike wherever the camera stands still, and are not copies: they are duplicates only
when hardly a bit differs (`--same_source_threshold`), as in a still picture or a loop.

Of every group of duplicates the best clip stays (`--keep`), whatever the order of the rows; the others
stand in `<output>_dropped` with `duplicate_of`, `distance` and the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa

from clipsheet import tables
from clipsheet.cli import main_step
from clipsheet.config import option
from clipsheet.media import fit
from clipsheet.media.borders import BorderFinder
from clipsheet.scorer import Column, Frames, Home, Row, Scorer
from clipsheet.step import Desk, Outcome, Step
from clipsheet.store.cells import Verdicts
from clipsheet.store.rows import Rows

FRAMES = 3
HASHED_LONG_SIDE = 512
FLAT_STD = 4.0  # grey levels; below, a frame is black, white or one colour
HASH_SIDE = 8  # pixels: the hashes shrink pictures to this size; thinner ones would all look alike
BLOCK_ROWS = 4096
SEARCHED_ROWS = 32  # at a time: one may be near to all pieces of a long still shot
#: How well the frames that two clips have in common must agree, by their number.
STRICTNESS = {1: 0.5, 2: 0.75, 3: 1.0}
_BITS = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


@dataclass(frozen=True)
class Hashes(Scorer):
    """Perceptual hashes of three frames, kept in the store so that they are computed once."""

    name: ClassVar[str] = "dedup"
    version: ClassVar[int] = 2

    hash: str = option("phash", "perceptual hash", choices=("phash", "ahash", "dhash", "whash"))

    @property
    def columns(self) -> tuple[Column, ...]:
        return (
            Column("hashes", "text", "", "16 hex digits per frame, - for one without evidence"),
            Column("pixels", "int", "pixels", "height x width"),
            Column("seconds", "float", "s", "duration"),
            Column("bytes", "int", "bytes", "size of the file"),
        )

    def prepare(self, row: Row, frames: Frames) -> tuple[list[np.ndarray | None], int, float, int]:
        finder = BorderFinder()
        pictures = []
        for frame in frames:
            size = fit(frame.height, frame.width, long=HASHED_LONG_SIDE)
            finder.add(frame.luma())
            pictures.append(frame.rgb(*size))
        info = frames.info
        borders = finder.borders()
        inner = [borders.inside(p, info.height, info.width) for p in pictures]
        kept = [None if p.mean(axis=2).std() < FLAT_STD else np.ascontiguousarray(p) for p in inner]
        high = info.height - borders.top - borders.bottom
        if min(high, info.width - borders.left - borders.right) < HASH_SIDE:
            kept = [None] * len(kept)
        if not info.is_image:  # a short clip may have fewer distinct frames: they keep their place
            kept = [kept[min(i, len(kept) - 1)] for i in range(FRAMES)] if len(kept) > 1 else kept
        return kept, info.height * info.width, info.duration, info.size_bytes

    def load(self, home: Home) -> Any:
        from imagededup.methods import AHash, DHash, PHash, WHash

        hashers = {"phash": PHash, "ahash": AHash, "dhash": DHash, "whash": WHash}
        return hashers[self.hash](verbose=False)

    def score(self, model: Any, items: Sequence[Any]) -> list[tuple[Any, ...]]:
        rows = []
        for pictures, *facts in items:
            hashes = ["-" if p is None else model.encode_image(image_array=p) for p in pictures]
            rows.append((" ".join(hashes), *facts))
        return rows


@dataclass(frozen=True)
class Deduplication(Step):
    """What counts as a duplicate, and which one stays."""

    name: ClassVar[str] = "dedup"

    hash: str = option("phash", "perceptual hash", choices=("phash", "ahash", "dhash", "whash"))
    threshold: float = option(
        15.0, "bits of 64 in which duplicates may differ, mean over frames", ge=0, le=64
    )
    same_source_threshold: float = option(
        4.0, "the same for clips with one source_path whose times do not overlap", ge=0, le=64
    )
    keep: str = option(
        "resolution", "the clip that stays: most pixels, longest (then the larger file), or first in the table",
        choices=("resolution", "duration", "first"),
    )  # fmt: skip

    @property
    def scorers(self) -> tuple[Scorer, ...]:
        return (Hashes(self.hash),)

    def carry_out(self, rows: Rows, desk: Desk) -> Outcome:
        scorer = Hashes(self.hash)
        found = _Hashed(rows, desk.score(rows, scorer))
        twins = find_twins(found.codes, found.masks, found.order(self.keep), found.spans, self)
        codes = found.failures()
        frame = rows.frame.copy()
        tables.set_errors(frame, {scorer.name: codes})
        dropped, gone = _dropped(frame, found, twins)
        bad = codes != ""
        return Outcome(
            frame[~gone],
            dropped,
            frame[bad].assign(scorer=scorer.name, code=codes[bad]),
            {"duplicate": int(gone.sum())} if gone.any() else {},
            done=len(frame) - int(bad.sum()) - found.pending(),
        )


@dataclass(frozen=True)
class Twin:
    """The survivor that a dropped clip is a copy of."""

    index: int
    distance: float  # bits of 64


@dataclass(frozen=True)
class Spans:
    """Where clips come from: those of one source that share no time are told apart more strictly.

    Attributes:
        source: [N] int, number of the source, negative where it is not known.
        start: [N] seconds, NaN where it is not known.
        end: [N] seconds.
    """

    source: np.ndarray
    start: np.ndarray
    end: np.ndarray

    def apart(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """[M] bool, for pairs: pieces of one source without a common moment."""
        same = (self.source[rows] >= 0) & (self.source[rows] == self.source[others])
        return same & ((self.end[rows] <= self.start[others]) | (self.end[others] <= self.start[rows]))


@dataclass(frozen=True)
class _Nearness:
    """How far two clips may be apart, in bits of 64."""

    threshold: float
    same_source_threshold: float
    spans: Spans
    rank: np.ndarray  # [N] int, 0 the best clip

    def limits(self, frames: np.ndarray, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """[M] bits, for pairs that have [M] frames in common."""
        strict = np.array([0, *(STRICTNESS[n] for n in (1, 2, 3))])[frames]
        apart = self.spans.apart(rows, others)
        return strict * np.where(apart, min(self.same_source_threshold, self.threshold), self.threshold)


class _Survivors:
    """Clips that stay, by which of their frames have evidence; finds the nearest one of a clip.

    Exact search by Hamming distance with faiss, over the frames that both sides have.
    """

    def __init__(self, near: _Nearness) -> None:
        self._near = near
        self._rows: dict[int, np.ndarray] = {}  # evidence mask -> indices
        self._codes: dict[int, list[np.ndarray]] = {}  # evidence mask -> [n, 3, 8] uint8
        self._indexes: dict[tuple[int, int], Any] = {}

    def add(self, mask: int, rows: np.ndarray, codes: np.ndarray) -> None:
        self._rows[mask] = np.concatenate([self._rows.get(mask, rows[:0]), rows])
        self._codes.setdefault(mask, []).append(codes)
        for (held, common), index in self._indexes.items():
            if held == mask:
                index.add(_select(codes, common))

    def nearest(self, mask: int, rows: np.ndarray, codes: np.ndarray) -> dict[int, Twin]:
        """For clips of one evidence mask the nearest survivor, where one is near enough."""
        best: dict[int, Twin] = {}
        for held in list(self._rows):
            common = held & mask
            if common:
                for start in range(0, len(rows), SEARCHED_ROWS):
                    block = slice(start, start + SEARCHED_ROWS)
                    self._search(held, common, rows[block], codes[block], best)
        return best

    def _search(
        self, held: int, common: int, rows: np.ndarray, codes: np.ndarray, best: dict[int, Twin]
    ) -> None:
        frames = common.bit_count()
        radius = int(self._near.threshold * STRICTNESS[frames] * frames) + 1  # faiss finds what is below
        ends, bits, places = self._index(held, common).range_search(_select(codes, common), radius)
        found = np.repeat(rows, np.diff(ends.astype(np.int64)))
        twins = self._rows[held][places]
        distances = bits.astype(np.float64) / frames
        near = distances <= self._near.limits(np.full(len(found), frames), found, twins)
        found, twins, distances = found[near], twins[near], distances[near]
        order = np.lexsort((self._near.rank[twins], distances, found))
        first = order[np.unique(found[order], return_index=True)[1]]
        for row, twin, distance in zip(found[first], twins[first], distances[first], strict=True):
            known = best.get(int(row))
            new = Twin(int(twin), float(distance))
            if known is None or self._preferred(new) < self._preferred(known):
                best[int(row)] = new

    def _preferred(self, twin: Twin) -> tuple[float, int]:
        return twin.distance, int(self._near.rank[twin.index])

    def _index(self, held: int, common: int) -> Any:
        if (held, common) not in self._indexes:
            import faiss

            index = faiss.IndexBinaryFlat(64 * common.bit_count())
            index.add(_select(np.concatenate(self._codes[held]), common))
            self._indexes[held, common] = index
        return self._indexes[held, common]


def _select(codes: np.ndarray, common: int) -> np.ndarray:
    frames = [f for f in range(FRAMES) if common >> f & 1]
    return np.ascontiguousarray(codes[:, frames].reshape(len(codes), -1))


def find_twins(
    codes: np.ndarray, masks: np.ndarray, order: np.ndarray, spans: Spans, how: Deduplication
) -> dict[int, Twin]:
    """The clips that have a better near-duplicate, each with the survivor nearest to it.

    Args:
        codes: [N, 3, 8] uint8, the hash of each frame.
        masks: [N] int, bit f set where frame f has evidence.
        order: [N] int, clips from the best to the worst; a clip is only ever dropped for a better one
            that stays, so chains of ever less similar clips do not form.
        spans: where the clips come from.
        how: the thresholds.
    """
    rank = np.empty(len(codes), int)
    rank[order] = np.arange(len(order))
    near = _Nearness(how.threshold, how.same_source_threshold, spans, rank)
    survivors = _Survivors(near)
    twins: dict[int, Twin] = {}
    order = order[masks[order] != 0]
    for start in range(0, len(order), BLOCK_ROWS):
        block = order[start : start + BLOCK_ROWS]
        for mask in np.unique(masks[block]):
            rows = block[masks[block] == mask]
            twins.update(survivors.nearest(int(mask), rows, codes[rows]))
        left = [int(r) for r in block if int(r) not in twins]
        twins.update(_twins_within(codes, masks, np.array(left, int), near))
        stay = np.array([r for r in left if r not in twins], int)
        for mask in np.unique(masks[stay]):
            rows = stay[masks[stay] == mask]
            survivors.add(int(mask), rows, codes[rows])
    return twins


def _twins_within(codes: np.ndarray, masks: np.ndarray, rows: np.ndarray, near: _Nearness) -> dict[int, Twin]:
    """Duplicates among clips of one block, which are in order from the best to the worst."""
    found: dict[int, Twin] = {}
    alive = np.ones(len(rows), bool)
    counts = np.array([mask.bit_count() for mask in range(8)])
    nearest = np.full(len(rows), np.inf)
    for place in range(len(rows)):
        if not alive[place]:
            continue
        later = place + 1 + np.flatnonzero(np.isinf(nearest[place + 1 :]) | ~alive[place + 1 :])
        if not len(later):
            continue
        bits = _BITS[codes[rows[later]] ^ codes[rows[place]]].sum(axis=2)  # [n, 3]
        common = masks[rows[later]] & masks[rows[place]]
        shared = (common[:, None] >> np.arange(FRAMES)) & 1
        frames = counts[common]
        with np.errstate(invalid="ignore", divide="ignore"):
            distance = (bits * shared).sum(axis=1) / frames
        limits = near.limits(frames, rows[later], np.full(len(later), rows[place]))
        twins = (frames > 0) & (distance <= limits) & (distance < nearest[later])
        for at, value in zip(later[twins], distance[twins], strict=True):
            alive[at] = False
            nearest[at] = value
            found[int(rows[at])] = Twin(int(rows[place]), float(value))
    return found


class _Hashed:
    """The hashes of a table's files: rows with one path are one file and share its fate."""

    def __init__(self, rows: Rows, verdicts: Verdicts) -> None:
        self._verdicts = verdicts
        frame, keys = rows.frame, rows.keys(("path",))
        self._at = verdicts.find(keys)
        self.file_of_row, self.first_row = _files(keys)
        self.paths = tables.text(frame, "path").to_numpy()[self.first_row]
        self.spans = _spans(frame.iloc[self.first_row])
        texts = self._cells("hashes")
        split = [text.split() for text in texts]
        self.masks = np.array(
            [sum(1 << f for f, h in enumerate(hashes[:FRAMES]) if h != "-") for hashes in split], int
        )
        self.codes = np.zeros((len(split), FRAMES, 8), np.uint8)
        for file, hashes in enumerate(split):
            for place, text in enumerate(hashes[:FRAMES]):
                if text != "-":
                    self.codes[file, place] = np.frombuffer(bytes.fromhex(text), np.uint8)

    def _cells(self, column: str) -> np.ndarray:
        texts = np.append(self._verdicts.columns[column].to_numpy(zero_copy_only=False), "")
        return texts[self._at[self.first_row]]

    def order(self, keep: str) -> np.ndarray:
        """Files from the best to the worst; ties by path, so that the order of rows does not count."""
        if keep == "first":
            return np.arange(len(self.paths))
        facts = {n: np.array([float(c or 0) for c in self._cells(n)]) for n in ("pixels", "seconds", "bytes")}
        main = facts["pixels" if keep == "resolution" else "seconds"]
        return np.lexsort((self.paths.astype(str), -facts["bytes"], -facts["pixels"], -main))

    def failures(self) -> np.ndarray:
        """[N] failure code of every row, empty where it was hashed."""
        return np.append(self._verdicts.error.to_numpy(zero_copy_only=False), "")[self._at]

    def pending(self) -> int:
        """Rows whose file changed meanwhile: they are kept, but were compared with nothing."""
        return int((self._at < 0).sum())

    @cached_property
    def rows_of_file(self) -> list[np.ndarray]:
        order = np.argsort(self.file_of_row, kind="stable")
        return np.split(order, np.cumsum(np.bincount(self.file_of_row))[:-1])


def _spans(frame: pd.DataFrame) -> Spans:
    if not {"source_path", "clip_start", "clip_end"} <= set(frame.columns):
        unknown = np.full(len(frame), np.nan)
        return Spans(np.full(len(frame), -1), unknown, unknown)
    names = tables.text(frame, "source_path").to_numpy()
    source = np.where(names == "", -1, pd.factorize(names)[0])
    return Spans(source, tables.numbers(frame, "clip_start")[0], tables.numbers(frame, "clip_end")[0])


def _files(keys: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """For every row the number of its file, and for every file its first row."""
    codes, unique = pd.factorize(keys.to_numpy(zero_copy_only=False))
    first = np.full(len(unique), -1)
    for row in range(len(codes) - 1, -1, -1):
        first[codes[row]] = row
    return codes, first


def _dropped(frame: pd.DataFrame, found: _Hashed, twins: dict[int, Twin]) -> tuple[pd.DataFrame, np.ndarray]:
    rows = np.zeros(len(frame), bool)
    notes: dict[int, tuple[str, str]] = {}
    for file, twin in twins.items():
        for row in found.rows_of_file[file]:
            rows[row] = True
            notes[int(row)] = (str(found.paths[twin.index]), tables.cell(round(twin.distance, 2)))
    dropped = frame[rows].copy()
    told = [notes[int(row)] for row in np.flatnonzero(rows)]
    for name, cells in {
        "duplicate_of": [path for path, _ in told],
        "distance": [distance for _, distance in told],
        "reason": [f"duplicate of {path}, {distance} bits" for path, distance in told],
    }.items():
        dropped[name] = tables.text_column(cells, dropped)
    return dropped, rows


def main() -> None:
    """The program."""
    main_step(Deduplication, "what is a duplicate")


if __name__ == "__main__":  # run as the module that it is: workers know its classes by that name
    from pipeline.datasets.deduplication import main as program

    program()
