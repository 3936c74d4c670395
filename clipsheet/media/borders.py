"""Black bars around a picture: letterboxes and pillarboxes, and not whatever else is dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import cv2
import numpy as np

#: Grey levels of 255 that coding adds to black: luma 18 where 16 is black is 2.3.
BLACK: Final = 2.5
#: A pixel above this is lit.
LIT: Final = 4
#: Grey levels by which a picture must stand out from its bar. The coarsest quantiser of MPEG-4 (ISO/IEC 14496-2) turns
#: a slope in the dark into steps of dc_scaler / 8 = (2 x 31 - 16) / 8 of luma, which are 6.7 of 255.
LEAST_STEP: Final = 8.0
#: A step must reach that share of the level behind it at once; a slope goes on rising.
LEAST_SHARE_OF_LEVEL: Final = 0.4
LEVEL_LINES: Final = 16  # behind an edge; their median is its level
#: Of an edge, this share must be seen, over all pieces and frames. Roofs and letters do not line up so far.
STRAIGHT: Final = 0.55
#: What is black behind an edge, too, is most likely the same dark as before it. A widescreen picture inside a 4:3 one
#: inside a widescreen one leaves 0.25 beside it.
MOST_BLACK_BEHIND: Final = 0.3
PIECES: Final = 64  # per line; their means are compared
#: Lines from an edge into its bar that coding may disturb: a macroblock, and most of it within a transform.
RINGING, NEAR_RINGING = 16, 8
SKIPPED_LINES: Final = 2  # at the very side, where codecs and converters leave marks
LEAST_LIT_SHARE: Final = 0.02  # of the pixels of a frame; a darker one says nothing about edges
#: Of height and of width: 2.39:1 inside 9:16 leaves 0.24.
LEAST_INSIDE_SHARE: Final = 0.2
FORWARD, BACKWARD = slice(None), slice(None, None, -1)


class Borders(NamedTuple):
    """Black lines at the four sides, in pixels."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    def inside(self, image: np.ndarray, height: int, width: int) -> np.ndarray:
        """The part inside the borders of a picture that was shrunk from `height` x `width`, never empty."""
        rows = _shrunk(self.top, height - self.bottom, image.shape[0] / height)
        columns = _shrunk(self.left, width - self.right, image.shape[1] / width)
        return image[rows, columns]

    def inside_area(self, height: int, width: int) -> int:
        """Pixels of a `height` x `width` picture that are not border."""
        return (height - self.top - self.bottom) * (width - self.left - self.right)


def _shrunk(start: int, stop: int, scale: float) -> slice:
    """The pixels of a shrunk picture that lie wholly in [start, stop), else the one in its middle."""
    first, end = math.ceil(start * scale), math.floor(stop * scale)
    if first >= end:
        first = math.floor((start + stop) / 2 * scale)
        end = first + 1
    return slice(first, end)


class BorderFinder:
    """Finds the bars of a clip in some of its frames.

    A bar is black from the side on, in every frame, and ends in a straight edge: along most of the side, in most
    frames, the picture stands out from it within two lines, and hardly anywhere does the black go on. Noise, a slope,
    a vignette, a wall or a skyline has no such edge, however dark it is. Text or a logo in a bar ends it where they
    begin, or leaves too little of its edge. Where the picture is too dark to show an edge, the side opposite a bar has
    the same one if it is as black: letterboxes are centred.
    """

    def __init__(self) -> None:
        self._may_have = [True] * 4  # top, bottom, left, right
        self._brightest: np.ndarray | None = None  # [H, W] uint8, of each pixel
        self._lit: np.ndarray | None = None  # [H, W] uint8: frames in which it is lit
        self._frames = 0

    def add(self, luma: np.ndarray) -> None:
        """One more frame: [H, W] uint8, 0 black to 255 white."""
        if min(luma.shape) <= 2 * SKIPPED_LINES:
            self._may_have = [False] * 4
        if not any(self._may_have):
            return
        outer = SKIPPED_LINES
        lines = (luma[outer], luma[-1 - outer], luma[:, outer], luma[:, -1 - outer])
        for side, line in enumerate(lines):
            if self._may_have[side]:
                self._may_have[side] = bool(_in_pieces(line[None]).max() <= BLACK)
        if self._brightest is None or self._lit is None:
            self._brightest, self._lit = np.zeros_like(luma), np.zeros_like(luma)
        cv2.max(self._brightest, luma, self._brightest)
        lit = cv2.threshold(luma, LIT, 1, cv2.THRESH_BINARY)[1]
        if self._frames < 255 and cv2.countNonZero(lit) >= LEAST_LIT_SHARE * luma.size:
            self._frames += 1
            cv2.add(self._lit, lit, self._lit)

    def borders(self) -> Borders:
        """The bars of all frames together."""
        if self._brightest is None or self._lit is None or not self._frames or not any(self._may_have):
            return Borders()
        height, width = self._brightest.shape
        upright = _Lines.of(self._brightest, self._lit, self._frames, self._may_have[:2])
        flipped = cv2.transpose(self._brightest), cv2.transpose(self._lit)
        across = _Lines.of(*flipped, self._frames, self._may_have[2:])
        left = right = 0
        for _ in range(2):  # the second time without what the bars at the left and right cover
            above = upright.bars(left / width, right / width)
            beside = across.bars(above[0] / height, above[1] / height)
            if beside == (left, right):
                break
            left, right = beside
        return Borders(*above, *beside)


def _in_pieces(image: np.ndarray) -> np.ndarray:
    """[N, W] to [N, PIECES] float32, the means of pieces of each line."""
    size = (min(PIECES, image.shape[1]), image.shape[0])
    return cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_AREA)


class _Lines(NamedTuple):
    """The lines between two sides of the picture, and where they may belong to a bar.

    Attributes:
        level: [N, P] grey levels of the pieces of each line.
        seen: [N, P] share of the frames in which they are lit.
        may_have: whether there may be a bar at the first line and at the last.
    """

    level: np.ndarray
    seen: np.ndarray
    may_have: Sequence[bool]

    @classmethod
    def of(cls, brightest: np.ndarray, lit: np.ndarray, frames: int, may_have: Sequence[bool]) -> _Lines:
        """Of [N, W] uint8 pixels and how many of the frames they are lit in."""
        if not any(may_have):
            return cls(np.zeros((0, 0)), np.zeros((0, 0)), may_have)
        return cls(_in_pieces(brightest), _in_pieces(lit) / frames, may_have)

    def bars(self, first: float, last: float) -> tuple[int, int]:
        """Lines of the bars at both ends, looked for without these shares of each line at its begin and end."""
        if not any(self.may_have):
            return 0, 0
        count = self.level.shape[1]
        inner = slice(round(first * count), count - round(last * count))
        ends = [_End(self.level[order, inner], self.seen[order, inner]) for order in (FORWARD, BACKWARD)]
        edges = [end.edge() if may else 0 for end, may in zip(ends, self.may_have, strict=True)]
        found = [end.clean(edge, LEAST_STEP) if edge else 0 for end, edge in zip(ends, edges, strict=True)]
        for one, other in ((0, 1), (1, 0)):
            if edges[one] and not edges[other] and self.may_have[other]:
                same = ends[other].clean(edges[one], LIT)
                found[other] = same if same >= edges[one] - NEAR_RINGING else 0
        enough = sum(found) <= (1 - LEAST_INSIDE_SHARE) * len(self.level)
        return (found[0], found[1]) if enough else (0, 0)


class _End(NamedTuple):
    """The same lines, from one of the two sides on."""

    level: np.ndarray
    seen: np.ndarray

    def edge(self) -> int:
        """Where the bar at the first line ends in a straight edge; 0 where there is none."""
        level = self._whole()
        dark = level <= BLACK
        black = np.where(dark.all(axis=0), len(level), dark.argmin(axis=0))  # lines, of each piece
        level = level[: int(black.max()) + RINGING + 3]
        lines = np.arange(len(level))[:, None]
        pairs = (level[1:] + level[:-1]) / 2
        step = np.zeros_like(level)
        step[2:-1] = pairs[2:] - pairs[:-2]  # from two lines to the next two
        step[(black <= SKIPPED_LINES) | (lines > black + RINGING)] = 0
        seen = self.seen[: len(level)].copy()
        seen[:-1] = (seen[:-1] + seen[1:]) / 2
        for first in np.flatnonzero(((step >= LEAST_STEP) * seen).mean(axis=1) >= STRAIGHT):
            behind = np.maximum(self._level_behind(int(first)), LEAST_STEP)
            stands_out = ((step[first] >= LEAST_SHARE_OF_LEVEL * behind) * seen[first]).mean() >= STRAIGHT
            if stands_out and (black > first + RINGING).mean() <= MOST_BLACK_BEHIND:
                rise = np.minimum(step[first : first + 4] / behind, 1).mean(axis=1)
                falls = np.flatnonzero(np.diff(rise, append=-1) <= 0)
                return int(first + falls[0])
        return 0

    def clean(self, edge: int, most: float) -> int:
        """Lines before an edge that hold nothing above some level but what coding spreads from the edge."""
        level = self._whole()[:edge]
        behind = cv2.dilate(
            self._level_behind(edge)[None], np.ones((1, 5))
        )  # ringing spreads to its neighbours
        allowed = np.full((edge, behind.shape[1]), most, np.float32)
        allowed[max(0, edge - RINGING) :] = np.maximum(most, behind / 3)
        allowed[max(0, edge - NEAR_RINGING) :] = np.maximum(LEAST_STEP, behind / 2)
        allowed[max(0, edge - 2) :] = np.inf  # part of the step
        spoiled = np.flatnonzero((level > allowed).any(axis=1))
        return int(spoiled[0]) if len(spoiled) else edge

    def _whole(self) -> np.ndarray:
        """The levels, with the outermost lines as the one behind them."""
        level = self.level.copy()
        level[:SKIPPED_LINES] = level[SKIPPED_LINES]
        return level

    def _level_behind(self, edge: int) -> np.ndarray:
        """[P] median of some lines from an edge on."""
        return np.median(self.level[edge : edge + LEVEL_LINES], axis=0)
