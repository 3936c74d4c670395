"""Time stamps of packets on one rising clock: joined where the file's clock jumps, mended where one is wrong."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np

#: In an array of time stamps: there is none (AV_NOPTS_VALUE).
NONE: Final = int(np.iinfo(np.int64).min)
#: A clock that falls behind by more than this has been set anew; less is jitter (ffmpeg.c, ts_discontinuity_process).
BACK_SECONDS: Final = 0.1
#: In a container whose clock may jump, a gap of more than this is a jump (ffmpeg's -dts_delta_threshold).
AHEAD_SECONDS: Final = 10.0
#: Without decoding times, presentation times of reordered frames step back too, by less than this.
REORDER_SECONDS: Final = 1.0
#: Packets that show whether a clock goes on after a jump, or whether it was one wrong stamp.
FOLLOWING: Final = 8
#: So few packets with stamps far from those around them are wrong; more are a clock of their own.
FEW: Final = 3


@dataclass(frozen=True)
class Stretch:
    """A run of a file with one clock.

    Attributes:
        first: number of its first packet, in the order of the file.
        position: of that packet in the file, in bytes; None where the demuxer does not say.
        offset: ticks to add to its stamps, so that it goes on where the stretch before it ended.
    """

    first: int
    position: int | None
    offset: int


def stretches(
    decoding: np.ndarray,
    durations: np.ndarray,
    positions: np.ndarray,
    tick: Fraction,
    *,
    jumps: bool,
    reorders: bool,
) -> tuple[list[Stretch], np.ndarray]:
    """Where the clock of a file is set anew, and which single packets have a stamp far from those around them.

    Args:
        decoding: [N] int64 decoding times in the order of the file (presentation times where a packet
            has no other), or NONE.
        durations: [N] int64 ticks, 0 where unknown.
        positions: [N] int64 bytes, or NONE.
        jumps: the container's format lets its clock jump ahead as well (AVFMT_TS_DISCONT).
        reorders: the times are not decoding times, and step back where frames are reordered.

    Returns:
        The stretches, and [N] bool: stamps to be ignored.
    """
    found = [Stretch(0, _known(positions[0]), 0)]
    wrong = np.zeros(len(decoding), bool)
    known = np.flatnonzero(decoding != NONE)
    if len(known) < 2:
        return found, wrong
    back = (REORDER_SECONDS if reorders else BACK_SECONDS) / float(tick)
    ahead = AHEAD_SECONDS / float(tick) if jumps else np.inf
    clock = decoding[known]
    steps = np.diff(clock)
    begun = 0  # among `known`: where the stretch at hand begins
    for at in (np.flatnonzero((steps < -back) | (steps > ahead)) + 1).tolist():
        before, following = int(clock[at - 1]), clock[at : at + FOLLOWING]
        off = (following < before - back) | (following > before + ahead)
        if not off[0]:  # back from a wrong stamp
            continue
        if off.sum() * 2 <= len(following) or len(following) == 1:
            away = np.flatnonzero(off) + at
            wrong[known[away]] = True
            clock[away] = before
            continue
        recent = max(begun, at - FOLLOWING)
        ahead_of = np.flatnonzero(clock[recent:at] > clock[at]) + recent
        if 0 < len(ahead_of) <= FEW and ahead_of[0] > begun:  # those before it were wrong
            wrong[known[ahead_of]] = True
            clock[ahead_of] = clock[ahead_of[0] - 1]
            continue
        packet = int(known[at])
        end = int(clock[max(begun, at - FOLLOWING) : at].max())
        length = int(durations[known[at - 1]]) or _usual(steps)
        offset = found[-1].offset + end + length - int(clock[at])
        found.append(Stretch(packet, _known(positions[packet]), offset))
        begun = at
    return found, wrong


def _known(position: np.int64) -> int | None:
    return None if position == NONE else int(position)


def _usual(steps: np.ndarray) -> int:
    """The usual distance of two stamps, in ticks: the median of those that rise."""
    rising = steps[steps > 0]
    return int(np.median(rising)) if len(rising) else 1


def in_order(stamps: np.ndarray) -> tuple[np.ndarray, int]:
    """Strictly rising stamps of frames in the order in which they are shown.

    Those that fit are kept: the longest strictly rising subsequence (Schensted, "Longest increasing and
    decreasing subsequences", Canad. J. Math. 13, 1961). The others are spread evenly between their neighbours.

    Args:
        stamps: [N] int64, or NONE.

    Returns:
        [N] int64 in a finer unit, and how many of it are one of the old: 1 where there is room for all.
    """
    kept = _longest_rise(stamps)
    if len(kept) == len(stamps):
        return stamps, 1
    if not len(kept):
        return np.arange(len(stamps)), 1
    usual = _usual(np.diff(stamps[kept]) // np.maximum(1, np.diff(kept)))
    at, values = kept.tolist(), stamps[kept].tolist()
    if at[0] > 0:
        at, values = [0, *at], [values[0] - usual * at[0], *values]
    if at[-1] < len(stamps) - 1:
        values = [*values, values[-1] + usual * (len(stamps) - 1 - at[-1])]
        at = [*at, len(stamps) - 1]
    gaps, lengths = np.diff(values), np.diff(at)
    finer = int(max(1, (-(-lengths // np.maximum(1, gaps))).max(initial=1)))
    exact = np.interp(np.arange(len(stamps)), at, np.array(values, np.float64) - values[0])
    made = np.floor(exact * finer + 1e-6).astype(np.int64) + values[0] * finer
    made[at] = np.array(values, np.int64) * finer
    return made, finer


def _longest_rise(stamps: np.ndarray) -> np.ndarray:
    """Indices of the longest strictly rising subsequence of those that are there."""
    there = np.flatnonzero(stamps != NONE)
    values = stamps[there]
    if (np.diff(values) > 0).all():
        return there
    ends: list[int] = []  # the smallest last value of a rise of each length
    which: list[int] = []  # its index
    before = np.full(len(values), -1)
    for i, value in enumerate(values.tolist()):
        place = bisect_left(ends, value)
        if place < len(ends) and ends[place] == value:  # of two equal ones the first is kept
            continue
        if place == len(ends):
            ends.append(value)
            which.append(i)
        else:
            ends[place], which[place] = value, i
        before[i] = which[place - 1] if place else -1
    rise = []
    i = which[-1] if which else -1
    while i >= 0:
        rise.append(i)
        i = int(before[i])
    return there[rise[::-1]]


def filled(stamps: np.ndarray, decoding: np.ndarray) -> tuple[np.ndarray, int]:
    """Sorted, strictly rising stamps of frames that are shown in another order than they are stored in.

    Which frame has which stamp is for the decoder to say. A stamp that is missing, or that a frame before
    it has too, is placed in the widest gap near the time at which its packet is decoded.

    Args:
        stamps: [N] int64 presentation times in the order of the file, or NONE.
        decoding: [N] int64 decoding times, or NONE.

    Returns:
        As in_order().
    """
    _, first = np.unique(stamps, return_index=True)
    good = np.zeros(len(stamps), bool)
    good[first] = True
    good &= stamps != NONE
    times = np.sort(stamps[good])
    if not len(times):
        return np.arange(len(stamps)), 1
    delay = np.median((stamps - decoding)[good & (decoding != NONE)]) if (decoding != NONE).any() else 0
    extra = np.zeros(len(times), int)  # by the stamp that they follow
    for i in np.flatnonzero(~good).tolist():
        guess = decoding[i] + delay if decoding[i] != NONE else _beside(stamps, good, i)
        at = int(np.searchsorted(times, guess))
        near = np.arange(max(0, at - 3), min(len(times) - 1, at + 3))
        widths = (times[near + 1] - times[near]) / (extra[near] + 1)
        extra[near[widths.argmax()] if len(near) else len(times) - 1] += 1
    spread = np.full(len(stamps), NONE)
    spread[np.arange(len(times)) + np.cumsum(extra) - extra] = times
    return in_order(spread)


def delayed(decoding: np.ndarray, delay: int) -> tuple[np.ndarray, int]:
    """Stamps of frames as they come out of the decoder, of a container that only says when packets are decoded.

    A frame is shown when the packet `delay` packets later is decoded, as FFmpeg guesses (best_effort_timestamp).

    Args:
        decoding: [N] int64 decoding times in the order of the file.
        delay: packets that a decoder holds back (AVCodecContext.has_b_frames).

    Returns:
        As in_order().
    """
    delay = min(delay, len(decoding) - 1)
    return in_order(np.append(decoding[delay:], np.full(delay, NONE)))


def _beside(stamps: np.ndarray, good: np.ndarray, index: int) -> float:
    """The mean stamp of the packets around one."""
    near = slice(max(0, index - 2), index + 3)
    return float(stamps[near][good[near]].mean()) if good[near].any() else float(stamps[good].max())
