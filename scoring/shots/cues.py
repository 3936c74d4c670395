"""What tiny frames tell about transitions, cheaply: clean cuts, fades, and where a closer look is needed.

Frames of 48x27 pixels are enough to see a picture replaced by another one between two frames, or sink into
black or white and come back. A picture that is another one after two thirds of a second, with no such event
in between, may have been dissolved into it, or the camera has moved: that is for a network to say.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

HEIGHT, WIDTH = 27, 48
#: Mean difference of the channels, in grey levels, from which a step between two frames may be a cut.
CUT_STEP = 12.0
#: How far it must stand out from the steps within `CUT_REACH` frames.
CUT_RATIO = 3.0
CUT_REACH = 3
#: A flash goes back to what was before: this share of a cut must still be there two frames later.
CUT_STAYS = 0.5
#: A step that is smaller, or stands out less, or goes back, may still be one.
UNSURE_STEP, UNSURE_RATIO = 6.0, 1.8
#: Frames to either side of one, for changes that take longer.
LAGS = (8, 24)
LAG_STEP = 14.0  # grey levels between the two
LAG_COLOURS = 0.08  # of 1, between their colour histograms
LAG_RATIO = 2.2  # to the change a little before or after: a camera that goes on moving is none
SEEN = 16  # level of the brightest channel from which a pixel is picture and not border
LEAST_SEEN = 0.1  # share of pixels, so that a few stars in the sky do not count as a whole picture
FLAT_STD = 2.0  # grey levels; below, a frame is one colour
PICTURE_STD = 5.0  # a fade comes from or goes to a picture of that at least; else it is fog that thickens
RAMP, LEAST_RAMP = 1.015, 0.2  # a fade changes the contrast by so much, and so many grey levels, a frame
LONGEST_RAMP = 120  # frames
BLOCK = 512
CONTEXT = 16  # frames to either side that a network is shown with those in question
OVERLAP = 128  # of blocks: for the lags, what is a little before and after them, and the context

Kind = Literal["cut", "dissolve", "fade"]


@dataclass(frozen=True)
class Transition:
    """From one shot to the next, or from or to nothing at the ends of a video.

    Attributes:
        start, end: the frames [start, end) are part of neither shot; none are at a cut, where both are the
            first frame of the new shot.
        kind: "cut", "dissolve" (whatever mixes or wipes) or "fade" (through black or white).
        score: from 0 to 1, how sure it is.
    """

    start: int
    end: int
    kind: Kind
    score: float


@dataclass(frozen=True)
class Stretch:
    """Frames that need a closer look.

    Attributes:
        start, end: the frames in question, [start, end).
        first: index of the first frame of `frames`, which begin earlier and end later than they.
        frames: [T, 27, 48, 3] uint8 RGB.
    """

    start: int
    end: int
    first: int
    frames: np.ndarray


@dataclass(frozen=True)
class Cues:
    """What was seen in one video: transitions that are certain, and stretches that are not."""

    count: int
    transitions: list[Transition]
    stretches: list[Stretch]


def find_cues(pictures: Iterable[np.ndarray]) -> Cues:
    """Go once through the frames of a video, [27, 48, 3] uint8 RGB each; memory does not grow with it
    but for the stretches."""
    steps, contrasts, suspects, cuts = [], [], [], []
    kept: dict[int, np.ndarray] = {}
    count = 0
    for first, begin, end, block in _blocks(pictures):
        inner = slice(begin - first, end - first)
        step = _steps(block)
        found = list(_clean_cuts(block, step))
        cuts += [first + t for t in found if begin <= first + t < end]
        contrast = _contrasts(block)
        suspect = _suspects(block, step, found, _fades(contrast, step))
        steps.append(step[inner])
        contrasts.append(contrast[inner])
        suspects.append(suspect[inner])
        for t in np.flatnonzero(_widened(suspect, CONTEXT)):
            kept.setdefault(first + int(t), block[t].copy())  # or it would keep the whole block
        count = end
    if not count:
        return Cues(0, [], [])
    step, contrast = np.concatenate(steps), np.concatenate(contrasts)
    fades = _fades(contrast, step)
    clean = [
        Transition(t, t, "cut", float(_sureness(step, t)))
        for t in cuts
        if not any(f.start - 1 <= t <= f.end + 1 for f in fades)
    ]
    unsure = np.concatenate(suspects)
    stretches = [
        Stretch(a, b, lo, np.stack([kept[t] for t in range(lo, hi)]))
        for a, b in runs(unsure)
        for lo, hi in [(max(0, a - CONTEXT), min(count, b + CONTEXT))]
    ]
    return Cues(count, sorted([*clean, *fades], key=lambda t: t.start), stretches)


def _blocks(pictures: Iterable[np.ndarray]) -> Iterator[tuple[int, int, int, np.ndarray]]:
    """(index of its first frame, inner begin, inner end, frames) of blocks that overlap by OVERLAP."""
    held: list[np.ndarray] = []
    first = begin = 0
    for picture in pictures:
        held.append(picture)
        if len(held) == begin - first + BLOCK + OVERLAP:
            end = begin + BLOCK
            yield first, begin, end, np.stack(held)
            held = held[end - OVERLAP - first :]
            first, begin = end - OVERLAP, end
    if len(held) > begin - first:
        yield first, begin, first + len(held), np.stack(held)


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(np.int16) - b).mean(axis=(1, 2, 3))


def _steps(block: np.ndarray) -> np.ndarray:
    """[T] grey levels by which each frame differs from the one before; 0 for the first."""
    return np.concatenate([[0.0], _difference(block[1:], block[:-1])])


def _clean_cuts(block: np.ndarray, step: np.ndarray) -> Iterator[int]:
    for t in np.flatnonzero(step >= CUT_STEP).tolist():
        if step[t] < CUT_RATIO * _near(step, t):
            continue
        later = block[min(t + 2, len(block) - 1)]
        if _difference(block[None, t - 1], later[None])[0] >= CUT_STAYS * step[t]:
            yield t


def _sureness(step: np.ndarray, t: int) -> float:
    """From 0 to 1 by how far a cut stands out from its neighbourhood."""
    return round(1 - _near(step, t) / float(step[t]), 3)


def _near(step: np.ndarray, t: int) -> float:
    """The largest step of the neighbourhood; 1 at least."""
    near = np.concatenate([step[max(1, t - CUT_REACH) : t], step[t + 1 : t + 1 + CUT_REACH]])
    return float(near.max(initial=1.0))


def _suspects(block: np.ndarray, step: np.ndarray, cuts: list[int], fades: list[Transition]) -> np.ndarray:
    """[T] bool: frames around which one picture may have become another, but by no clean cut or fade."""
    count = len(block)
    seen = block.max(axis=3) >= SEEN  # [T, H, W]
    colours = _colours(block, seen)
    edges = np.unique([0, *cuts, *(f.start for f in fades), *(f.end for f in fades), count])
    shot = np.searchsorted(edges, np.arange(count), side="right")
    begin, end = edges[shot - 1], edges[shot] - 1
    suspects = np.zeros(count, bool)
    for lag in LAGS:
        before = np.maximum(np.arange(count) - lag, begin)
        after = np.minimum(np.arange(count) + lag, end)
        share = np.maximum((seen[before] | seen[after]).mean(axis=(1, 2)), LEAST_SEEN)
        changed = _difference(block[after], block[before]) / share
        apart = 2 * lag + 2
        usual = np.minimum(
            changed[np.maximum(np.arange(count) - apart, begin)],
            changed[np.minimum(np.arange(count) + apart, end)],
        )
        stands_out = changed >= np.maximum(LAG_STEP, LAG_RATIO * usual)
        other = 1 - (colours[before] * colours[after]).sum(axis=1) >= LAG_COLOURS
        seeds = stands_out & other & ~_widened(suspects, 2 * lag)  # unless the shorter lag has seen it
        suspects |= _widened(seeds, LAGS[0])
    near = np.array([_near(step, t) for t in range(count)])
    ratio = np.where(step < CUT_STEP, CUT_RATIO, UNSURE_RATIO)
    unsure = (step >= UNSURE_STEP) & (step >= ratio * near)
    unsure[cuts] = False
    suspects |= _widened(unsure, 2)
    for fade in fades:
        suspects[fade.start : fade.end] = False
    return suspects


def _colours(block: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """[T, 512] colour histograms of length 1, of what is not black."""
    count = len(block)
    coarse = (block >> 5).astype(np.int32)
    bins = (coarse[..., 0] << 6) + (coarse[..., 1] << 3) + coarse[..., 2]
    at = bins + 512 * np.arange(count)[:, None, None]
    histogram = np.bincount(at[seen], minlength=512 * count).reshape(count, 512).astype(np.float32)
    return histogram / np.maximum(np.linalg.norm(histogram, axis=1, keepdims=True), 1e-9)


def _contrasts(block: np.ndarray) -> np.ndarray:
    """[T] standard deviation of the grey levels, leaving out what is black for a while: borders."""
    count = len(block)
    brightest = block.max(axis=3).reshape(count, -1)
    lately = cv2.dilate(brightest, np.ones((2 * LAGS[0] * 2 + 1, 1), np.uint8))  # over frames, not pixels
    picture = lately >= SEEN
    picture[picture.mean(axis=1) < LEAST_SEEN] = True
    grey = block.mean(axis=3).reshape(count, -1)
    share = picture.mean(axis=1)
    mean = (grey * picture).mean(axis=1) / share
    square = (np.square(grey - mean[:, None]) * picture).mean(axis=1) / share
    return np.sqrt(square)


def _fades(contrast: np.ndarray, step: np.ndarray) -> list[Transition]:
    """Stretches of black, white or another colour with the ramps into and out of them.

    A stretch that begins and ends all at once is a shot, if a dull one.
    """
    flat = contrast < FLAT_STD
    another = np.flatnonzero(flat[1:] & flat[:-1] & (step[1:] >= CUT_STEP)) + 1  # another colour begins
    pieces = [
        piece
        for a, b in runs(flat)
        for piece in itertools.pairwise([a, *another[(another > a) & (another < b)].tolist(), b])
    ]
    fading = np.zeros(len(contrast), bool)
    for a, b in pieces:
        start, end = _ramp(contrast, a, -1), _ramp(contrast, b - 1, 1) + 1
        whole = contrast[[max(start - 1, 0), min(end, len(contrast) - 1)]].max()
        if (start, end) != (a, b) and whole >= PICTURE_STD:
            fading[start:end] = True
    return [Transition(a, b, "fade", 1.0) for a, b in runs(fading)]


def _ramp(contrast: np.ndarray, at: int, towards: int) -> int:
    """The last frame, going on from a flat one, whose picture is not wholly there."""
    for steps in range(LONGEST_RAMP):
        following = at + towards
        if not 0 <= following < len(contrast):
            break
        beyond = following + towards
        if (
            not 0 <= beyond < len(contrast)
        ):  # the first or last frame of all: part of it, if it goes on so far
            return following if steps >= 2 else at
        if contrast[beyond] < max(
            RAMP * contrast[following], contrast[following] + LEAST_RAMP
        ):  # it is whole
            break
        at = following
    return at


def _widened(mask: np.ndarray, frames: int) -> np.ndarray:
    """True within so many frames of a true value."""
    return np.convolve(mask, np.ones(2 * frames + 1))[frames : frames + len(mask)] > 0


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """[start, end) of every run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
